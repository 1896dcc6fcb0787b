//! How many and how fast: who may connect, and how much a connection may say.
//!
//! Counting is shared by all shards, since peers don't know of shards. A rate is a bucket of
//! tokens, kept as one number: the time at which it would be full again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Limits, Rate};
use crate::id::Time;
use crate::protocol::deflate::Budget;
use crate::protocol::http::Refusal;

/// Counts the connections of a server, and those of each address.
#[derive(Default)]
pub struct Gate {
    connections: AtomicUsize,
    /// What dedicated compression keeps.
    pub windows: Arc<Budget>,
    /// Only kept when an option asks for it.
    addresses: Mutex<HashMap<IpAddr, Address>>,
}

#[derive(Default)]
struct Address {
    connections: usize,
    rate: Bucket,
}

impl Gate {
    /// One connection more, or the reason why not. Who got in must [`Gate::leave`].
    pub fn enter(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.connections.fetch_add(1, SeqCst) < limits.connections {
            return Ok(());
        }
        self.connections.fetch_sub(1, SeqCst);
        Err(Refusal::TooManyConnections)
    }

    pub fn leave(&self) {
        self.connections.fetch_sub(1, SeqCst);
    }

    /// One more from this address. True: it was counted, and must [`Gate::leave_from`] it.
    pub fn enter_from(&self, ip: IpAddr, limits: &Limits, now: Time) -> Result<bool, Refusal> {
        if limits.connections_per_ip.is_none() && limits.connection_rate_per_ip.is_none() {
            return Ok(false);
        }
        let mut addresses = self.addresses();
        if addresses.len() == addresses.capacity() {
            // Before it grows: those that are gone, and whose bucket is full again, are as new.
            addresses.retain(|_, address| address.connections > 0 || !address.rate.is_full(now));
        }
        let address = addresses.entry(ip).or_default();
        if limits.connections_per_ip.is_some_and(|most| address.connections >= most) {
            return Err(Refusal::TooManyFromAddress);
        }
        if let Some(rate) = limits.connection_rate_per_ip {
            if !address.rate.take(1, rate, now) {
                return Err(Refusal::TooFast);
            }
        }
        address.connections += 1;
        Ok(true)
    }

    pub fn leave_from(&self, ip: IpAddr) {
        if let Some(address) = self.addresses().get_mut(&ip) {
            address.connections -= 1;
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection has said lately.
#[derive(Default)]
pub struct Spoken {
    messages: Bucket,
    bytes: Bucket,
}

impl Spoken {
    /// Was that still within the rates?
    pub fn more(&mut self, messages: u64, bytes: u64, limits: &Limits, now: Time) -> bool {
        let within = |bucket: &mut Bucket, count, rate: Option<Rate>| {
            rate.is_none_or(|rate| count == 0 || bucket.take(count, rate, now))
        };
        within(&mut self.messages, messages, limits.message_rate)
            && within(&mut self.bytes, bytes, limits.byte_rate)
    }
}

impl Limits {
    /// Does an option limit what a connection may say? Else nothing is kept for it.
    pub fn any_speech(&self) -> bool {
        self.message_rate.is_some() || self.byte_rate.is_some()
    }
}

/// A bucket of tokens: when it will be full again, in nanoseconds. Empty, that lies a whole
/// burst ahead; full, in the past.
#[derive(Default)]
struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Takes tokens if so many are there.
    fn take(&mut self, count: u64, rate: Rate, now: Time) -> bool {
        let now_ns = now.0.saturating_mul(1000);
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(rate.nanos(count));
        let is_there = full_at_ns - now_ns <= rate.nanos(rate.burst);
        if is_there {
            self.full_at_ns = full_at_ns;
        }
        is_there
    }

    fn is_full(&self, now: Time) -> bool {
        self.full_at_ns <= now.0.saturating_mul(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SECOND: u64 = 1_000_000;

    fn limits(options: &[(&str, &str)]) -> Limits {
        let mut config = Config::new();
        options.iter().for_each(|(key, value)| config.set(key, value).unwrap());
        config.settings().limits.clone()
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let rate: Rate = "10/s burst 20".parse().unwrap();
        let mut bucket = Bucket::default();
        let given = (0..100).filter(|_| bucket.take(1, rate, Time(5 * SECOND))).count();
        assert_eq!(given, 20);
        let later = (0..100).filter(|_| bucket.take(1, rate, Time(6 * SECOND))).count();
        assert_eq!(later, 10);
        assert!(!bucket.take(21, rate, Time(1000 * SECOND)), "never more than a burst at once");
        assert!(bucket.take(20, rate, Time(1000 * SECOND)));
    }

    #[test]
    fn the_gate_is_full_at_its_limit_and_opens_when_someone_leaves() {
        let limits = limits(&[("max.connections", "2")]);
        let gate = Gate::default();
        assert!(gate.enter(&limits).is_ok() && gate.enter(&limits).is_ok());
        assert_eq!(gate.enter(&limits), Err(Refusal::TooManyConnections));
        gate.leave();
        assert!(gate.enter(&limits).is_ok());
    }

    #[test]
    fn one_address_has_its_own_limit_and_takes_nothing_from_the_others() {
        let limits = limits(&[("max.connections_per_ip", "1")]);
        let gate = Gate::default();
        let [a, b] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        assert_eq!(gate.enter_from(a, &limits, Time(1)), Ok(true));
        for _ in 0..10 {
            assert_eq!(gate.enter_from(a, &limits, Time(1)), Err(Refusal::TooManyFromAddress));
        }
        assert_eq!(gate.enter_from(b, &limits, Time(1)), Ok(true));
        gate.leave_from(a);
        assert_eq!(gate.enter_from(a, &limits, Time(1)), Ok(true));
    }

    #[test]
    fn who_came_before_addresses_were_counted_does_not_count() {
        let (off, on) = (limits(&[]), limits(&[("max.connections_per_ip", "1")]));
        let gate = Gate::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(gate.enter_from(ip, &off, Time(1)), Ok(false));
        assert_eq!(gate.enter_from(ip, &on, Time(1)), Ok(true));
        assert_eq!(gate.enter_from(ip, &on, Time(1)), Err(Refusal::TooManyFromAddress));
        gate.leave_from(ip);
        assert_eq!(gate.enter_from(ip, &on, Time(1)), Ok(true));
    }

    #[test]
    fn addresses_that_are_gone_are_forgotten() {
        let limits = limits(&[("rate.connections_per_ip", "1/s")]);
        let gate = Gate::default();
        for number in 0..100_000_u32 {
            let now = Time(u64::from(number) * SECOND / 10);
            let ip = IpAddr::from(number.to_be_bytes());
            assert_eq!(gate.enter_from(ip, &limits, now), Ok(true));
            gate.leave_from(ip);
        }
        assert!(gate.addresses().len() < 100, "{} are kept", gate.addresses().len());
    }

    #[test]
    fn a_connection_that_says_too_much_is_found_out_by_messages_or_by_bytes() {
        let limits = limits(&[("rate.messages", "10/s burst 15"), ("rate.bytes", "300k/s burst 600k")]);
        let mut spoken = Spoken::default();
        assert!(spoken.more(15, 1000, &limits, Time(SECOND)));
        assert!(!spoken.more(1, 1000, &limits, Time(SECOND)));
        let mut spoken = Spoken::default();
        assert!(spoken.more(0, 600 << 10, &limits, Time(SECOND)));
        assert!(!spoken.more(0, 1, &limits, Time(SECOND)));
        assert!(spoken.more(0, 1 << 10, &limits, Time(2 * SECOND)));
        assert!(limits.any_speech() && !Config::new().settings().limits.any_speech());
    }
}
