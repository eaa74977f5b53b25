// SPDX-License-Identifier: MIT OR Apache-2.0

//! VM time by the CPU's counter, for a program that has no driver to learn it: from its own
//! calls, published in a clock page of its own.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::thread::sleep;
use std::time::{Duration, Instant};

use stopwatch_protocol::atomic_words::AtomicWords;
use stopwatch_protocol::clock_page;
use stopwatch_protocol::guest_clock::{GuestClock, Sample};

use crate::counter::counter;
use crate::Roots;

/// The kernel's own list of clocks that are good; it leaves the counter out if it has found
/// out that it is not.
const CLOCKS: &str = "devices/system/clocksource/clocksource0/available_clocksource";

/// What is learned.
pub(super) struct Time(GuestClock);

impl Time {
    /// Finds out how fast the counter is, which takes some ms. Nothing is ever learned by one
    /// that this kernel does not take for good, or that may stand in a pause that nobody
    /// tells of: `goes_on` says that it does not.
    pub(super) fn new(roots: &Roots, goes_on: bool) -> Self {
        let clocks = fs::read_to_string(roots.sys.join(CLOCKS)).unwrap_or_default();
        let is_good = goes_on && clocks.split_whitespace().any(|clock| clock == "tsc");
        Self(GuestClock::new(if is_good { khz() } else { 0 }))
    }

    /// Learns from a call, and publishes what is known now in the clock page `page`.
    pub(super) fn learn(&mut self, sample: &Sample, page: &[AtomicU64]) {
        if sample.pauses.is_paused() {
            self.0.forget();
        } else {
            self.0.learn(sample);
        }
        clock_page::publish(&AtomicWords(page), 0, self.0.estimate().as_ref());
    }
}

/// A moment of the counter: between two of the program's clock.
#[derive(Clone, Copy)]
struct Moment {
    before: Instant,
    counter: u64,
    after: Instant,
}

impl Moment {
    /// The best known of a few.
    fn now() -> Self {
        let look = || Self {
            before: Instant::now(),
            counter: counter(),
            after: Instant::now(),
        };
        let width = |moment: &Self| moment.after - moment.before;
        (1..8).fold(look(), |best, _| {
            let next = look();
            if width(&next) < width(&best) {
                next
            } else {
                best
            }
        })
    }

    /// How fast the counter was from there to here, in kHz, if that is known to 2 %.
    fn khz_since(&self, there: &Self) -> Option<u32> {
        let ticks = self.counter.checked_sub(there.counter)?;
        let longest = (self.after - there.before).as_nanos();
        let shortest = self.before.checked_duration_since(there.after)?.as_nanos();
        if (longest - shortest) * 50 > longest {
            return None;
        }
        u32::try_from(u128::from(ticks) * 1_000_000 / ((longest + shortest) / 2)).ok()
    }
}

/// How fast the counter is; 0 if that cannot be told. What calls teach is better by far: this
/// has to be right to a few percent.
fn khz() -> u32 {
    let begin = Moment::now();
    for ms in [1, 2, 4, 8, 16, 32] {
        sleep(Duration::from_millis(ms));
        if let Some(khz) = Moment::now().khz_since(&begin) {
            return khz;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_of_the_counter_is_known_if_the_moments_are() {
        let start = Instant::now();
        let moment = |ns, counter, width| Moment {
            before: start + Duration::from_nanos(ns),
            counter,
            after: start + Duration::from_nanos(ns + width),
        };
        let begin = moment(0, 1000, 100);
        // 2,000 ticks in 1 us.
        let khz = moment(1_000_000, 2_001_000, 100).khz_since(&begin).unwrap();
        assert!(khz.abs_diff(2_000_000) < 1000, "{khz}");
        // The program was away for long in between.
        assert_eq!(moment(1_000_000, 2_001_000, 50_000).khz_since(&begin), None);
        // The counter went back.
        assert_eq!(moment(1_000_000, 999, 100).khz_since(&begin), None);
        assert_eq!(begin.khz_since(&begin), None);
    }

    #[test]
    fn a_counter_that_the_kernel_does_not_trust_teaches_nothing() {
        let roots = Roots::under("/nowhere");
        let mut time = Time::new(&roots, true);
        time.learn(
            &Sample {
                before: 1,
                after: 2,
                time_ns: 3,
                pauses: Default::default(),
            },
            &[const { AtomicU64::new(0) }; 32],
        );
        assert_eq!(time.0.estimate(), None);
    }
}
