//! Who has which channel in a Redis Cluster.

use redis::Value;

/// A master's address, as the cluster gives it to clients.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Master {
    pub host: String,
    pub port: u16,
}

/// The masters, and which of them owns each slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotMap {
    pub masters: Vec<Master>,
    /// An index into `masters`.
    owners: Box<[u16]>,
}

/// The slot of a channel: of what stands between the first `{` and the next `}`, unless that is
/// nothing; else of the whole.
pub fn slot_of(channel: &[u8]) -> u16 {
    let tag = channel.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &channel[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then_some(&rest[..close])
    });
    crc16(tag.unwrap_or(channel)) % SLOTS
}

impl SlotMap {
    /// One server for all.
    pub fn single(master: Master) -> Self {
        Self { masters: vec![master], owners: vec![0; usize::from(SLOTS)].into() }
    }

    /// From the reply to CLUSTER SLOTS: `[first, last, [host, port, …], replicas …]` for each range.
    /// `asked` stands for a node that does not know its own address.
    pub fn from_reply(reply: &Value, asked: &str) -> Result<Self, String> {
        let ranges = reply.as_sequence().ok_or("CLUSTER SLOTS was answered by something else")?;
        let mut masters: Vec<Master> = Vec::new();
        let mut owners = vec![NOBODY; usize::from(SLOTS)];
        for range in ranges {
            let parsed = parse_range(range, asked).ok_or("CLUSTER SLOTS was answered by something else")?;
            let (first, last, master) = parsed;
            let index = masters.iter().position(|known| *known == master).unwrap_or_else(|| {
                masters.push(master);
                masters.len() - 1
            });
            if index >= MASTERS_MAX {
                return Err(format!("the cluster has more than {MASTERS_MAX} masters"));
            }
            owners[usize::from(first)..=usize::from(last)].fill(index as u16);
        }
        match owners.iter().filter(|&&owner| owner == NOBODY).count() {
            0 => Ok(Self { masters, owners: owners.into() }),
            missing => Err(format!("{missing} slots of the cluster have no master")),
        }
    }

    /// Who has a slot, as an index into `masters`.
    pub fn owner(&self, slot: u16) -> usize {
        usize::from(self.owners[usize::from(slot)])
    }
}

fn parse_range(range: &Value, asked: &str) -> Option<(u16, u16, Master)> {
    let [first, last, master, ..] = range.as_sequence()? else { return None };
    let [host, port, ..] = master.as_sequence()? else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last || last >= SLOTS {
        return None;
    }
    let host = match host {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        Value::Nil => "",
        _ => return None,
    };
    // "?" is what a node says of one whose name it was not told.
    let host = if host.is_empty() || host == "?" { asked } else { host };
    Some((first, last, Master { host: host.to_string(), port: number(port).filter(|&port| port != 0)? }))
}

/// CRC-16/XMODEM, as the cluster specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &byte| {
        let crc = crc ^ u16::from(byte) << 8;
        (0..8).fold(crc, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

pub const SLOTS: u16 = 16384;
const NOBODY: u16 = u16::MAX;
/// "Redis Cluster … up to 1000 nodes."
const MASTERS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), bulk("id"), Value::Array(vec![])]);
        let replica = Value::Array(vec![bulk("10.0.0.9"), Value::Int(1), bulk("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
    }

    #[test]
    fn channels_fall_into_the_slots_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
        assert_eq!(slot_of(b"foo{bar}{zap}"), crc16(b"bar") % SLOTS);
        assert_eq!(slot_of(b"{open"), crc16(b"{open") % SLOTS);
    }

    #[test]
    fn a_map_names_each_slots_master_and_a_node_without_a_name_is_the_one_that_was_asked() {
        let reply = Value::Array(vec![
            range(0, 99, bulk("10.0.0.1"), 7000),
            range(100, 200, Value::Nil, 7001),
            range(201, 16382, bulk("?"), 7002),
            range(16383, 16383, bulk("10.0.0.1"), 7000),
        ]);
        let map = SlotMap::from_reply(&reply, "cache.example").unwrap();
        assert_eq!(map.masters.len(), 3);
        let master = |slot| {
            let master = &map.masters[map.owner(slot)];
            (&master.host[..], master.port)
        };
        assert_eq!(master(0), ("10.0.0.1", 7000));
        assert_eq!(master(150), ("cache.example", 7001));
        assert_eq!(master(201), ("cache.example", 7002));
        assert_eq!(master(16383), ("10.0.0.1", 7000));
    }

    #[test]
    fn a_map_with_holes_or_nonsense_is_no_map() {
        let holes = Value::Array(vec![range(0, 16382, bulk("a"), 1)]);
        assert_eq!(SlotMap::from_reply(&holes, "x").unwrap_err(), "1 slots of the cluster have no master");
        for nonsense in [
            Value::Okay,
            Value::Array(vec![Value::Okay]),
            Value::Array(vec![range(5, 4, bulk("a"), 1)]),
            Value::Array(vec![range(0, 16384, bulk("a"), 1)]),
            Value::Array(vec![range(-1, 4, bulk("a"), 1)]),
            Value::Array(vec![range(0, 16383, bulk("a"), 0)]),
            Value::Array(vec![range(0, 16383, bulk("a"), 70000)]),
            Value::Array(vec![range(0, 16383, Value::Int(1), 1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(16383)])]),
        ] {
            assert!(SlotMap::from_reply(&nonsense, "x").is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_server_that_is_no_cluster_has_every_slot() {
        let master = Master { host: "one".to_string(), port: 1 };
        let map = SlotMap::single(master.clone());
        assert!((0..SLOTS).all(|slot| map.masters[map.owner(slot)] == master));
    }
}
