//! Whom to believe: the addresses of the proxies in front of this server.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// The proxies whose word counts, for the PROXY protocol and for forwarding headers.
/// Empty: nobody's.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Trusted {
    networks: Vec<IpNet>,
    unix: bool,
}

impl Trusted {
    /// `::ffff:10.0.0.1`, as a socket for both families names its IPv4 peers, is 10.0.0.1.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// The peers of a Unix socket, who have no address.
    pub fn contains_unix(&self) -> bool {
        self.unix
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }
}

/// `10.0.0.0/8, 192.168.1.1, ::1/128, unix`
impl FromStr for Trusted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut trusted = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if part == "unix" {
                trusted.unix = true;
            } else {
                trusted.networks.push(network(part)?);
            }
        }
        Ok(trusted)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let shown = || text.chars().take(60).collect::<String>();
    let expected = || {
        format!("\"{}\": expected networks and addresses like 10.0.0.0/8, 192.168.1.1, ::1, or unix", shown())
    };
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<IpAddr>().map(|ip| ip.to_canonical().into()).map_err(|_| expected());
    };
    let address = address.parse::<IpAddr>().map_err(|_| expected())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let network = prefix
        .parse()
        .ok()
        .and_then(|prefix| IpNet::new(address, prefix).ok())
        .ok_or_else(|| format!("\"{}\": expected a prefix of 0 to {bits} after the slash", shown()))?;
    Ok(unmapped(network))
}

/// The IPv4 network that `::ffff:10.0.0.0/104` stands for: addresses are compared unmapped.
fn unmapped(network: IpNet) -> IpNet {
    let v4 = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS)),
        IpNet::V4(_) => None,
    };
    let v4 = v4.and_then(|(address, prefix): (Ipv4Addr, u8)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(network, IpNet::V4)
}

/// The prefix of `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_addresses_and_unix_are_trusted_as_listed() {
        let trusted: Trusted = "10.0.0.0/8, 192.168.1.1,::1/128 , 2001:db8::/32, unix".parse().unwrap();
        for inside in ["10.0.0.0", "10.255.1.2", "192.168.1.1", "::1", "2001:db8:1::9", "::ffff:10.1.1.1"] {
            assert!(trusted.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.0", "192.168.1.2", "::2", "2001:db9::", "::ffff:11.0.0.1", "::10.0.0.1"] {
            assert!(!trusted.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(trusted.contains_unix());
        assert!(!"10.0.0.0/8".parse::<Trusted>().unwrap().contains_unix());
    }

    #[test]
    fn nobody_is_trusted_by_an_empty_list() {
        for empty in ["", " ", " , "] {
            let trusted: Trusted = empty.parse().unwrap();
            assert!(trusted.is_empty());
            assert!(!trusted.contains("127.0.0.1".parse().unwrap()));
        }
        assert!(!"unix".parse::<Trusted>().unwrap().is_empty());
    }

    #[test]
    fn a_network_holds_everyone_of_its_family_when_its_prefix_is_0() {
        let trusted: Trusted = "0.0.0.0/0".parse().unwrap();
        assert!(trusted.contains("203.0.113.9".parse().unwrap()));
        assert!(trusted.contains("::ffff:203.0.113.9".parse().unwrap()));
        assert!(!trusted.contains("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn bits_beyond_the_prefix_do_not_count() {
        let trusted: Trusted = "10.1.2.3/8".parse().unwrap();
        assert!(trusted.contains("10.9.9.9".parse().unwrap()));
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_network_it_stands_for() {
        let trusted: Trusted = "::ffff:10.0.0.0/104, ::ffff:192.168.1.1".parse().unwrap();
        assert_eq!(trusted, "10.0.0.0/8, 192.168.1.1".parse().unwrap());
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_would_be() {
        for bad in [
            "lb.example",
            "10.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "::/129",
            "Unix",
            "1.2.3.4:80",
        ] {
            let error = bad.parse::<Trusted>().unwrap_err();
            assert!(error.starts_with(&format!("\"{bad}\": expected ")), "{error}");
        }
        assert!("10.0.0.0/8 192.168.1.1".parse::<Trusted>().is_err());
    }
}
