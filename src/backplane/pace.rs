//! How long to wait before the next attempt, so that a hundred servers do not all come at once.

use std::time::Duration;

/// Doubles from 50 ms to 2 s; each wait is somewhere between half of it and all.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    pub fn new(seed: u64) -> Self {
        Self { failures: 0, random: seed | 1 }
    }

    /// After a failure.
    pub fn next_wait(&mut self) -> Duration {
        let most = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // xorshift64: nobody has to be unable to guess it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = most / 2;
        half + half.mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_50_ms_to_2_s_and_no_two_servers_wait_alike() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(seed);
            for most in [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000] {
                let wait = backoff.next_wait();
                let most = Duration::from_millis(most);
                assert!(most / 2 <= wait && wait <= most, "{wait:?} of {most:?}");
            }
            backoff.reset();
            assert!(backoff.next_wait() <= SHORTEST);
        }
        let first: std::collections::HashSet<Duration> =
            (0..100).map(|seed| Backoff::new(seed * 7919).next_wait()).collect();
        assert!(first.len() > 40, "{}", first.len());
    }

    #[test]
    fn a_hundred_thousand_failures_change_nothing_more() {
        let mut backoff = Backoff::new(1);
        for _ in 0..100_000 {
            assert!(backoff.next_wait() <= LONGEST);
        }
    }
}
