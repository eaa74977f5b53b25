// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The rate of a VM's timeouts: a token bucket.

/// So many timeouts may be told at once, if none was for a while.
const BURST: u64 = 64;

/// How often timeouts may be told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    /// The VM time at which all tokens will be there again, less those of a burst.
    full: u64,
    /// There is no run before this VM time.
    pub(super) not_before: u64,
}

impl Rate {
    /// Takes a token, one of which comes each `interval`. Else says when there is one.
    pub(super) fn take(&mut self, now: u64, interval: u64) -> Result<(), u64> {
        // Some years at most, so that no sum gets to the end of time, where nothing
        // would be refused.
        let interval = interval.min(u64::MAX / (4 * BURST));
        let ahead = interval.saturating_mul(BURST - 1);
        if self.full > now.saturating_add(ahead) {
            return Err(self.full.saturating_sub(ahead));
        }
        self.full = self.full.max(now).saturating_add(interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a burst a rate refuses, whatever the interval is.
    #[test]
    fn no_interval_is_without_a_bound() {
        for interval in [1, 100_000, u64::MAX / 63, u64::MAX / 2, u64::MAX] {
            let mut rate = Rate::default();
            for _ in 0..BURST {
                assert_eq!(rate.take(1_000, interval), Ok(()), "{interval}");
            }
            let next = rate.take(1_000, interval).unwrap_err();
            assert!(next > 1_000, "{interval}: {next}");
        }
    }
}
