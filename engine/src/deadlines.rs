// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The timeouts of all stopwatches. Those whose own times go at the same pace
//! are together, by deadlines of that own time. So nothing has to be moved
//! when the VM is paused, or when the clocks go apart.

use super::clock::Clock;
use super::clock::ClockId;
use super::clock::Pace;
use super::clock::PerClock;
use super::clock::Times;
use super::device::Storage;
use super::timers::Timer;
use super::timers::Timers;

/// The deadline of a timeout that waits for its stopwatch to run.
pub(super) const NEVER: u64 = u64::MAX;

/// The longest sleep for a clock that is not the timer's, in ns: `CLOCK_BOOTTIME`
/// may have jumped over a deadline meanwhile, by a suspend of the host.
const LONGEST_SLEEP: u64 = 1_000_000_000;

/// The part of a sleep that is left out for such a clock, which may be faster:
/// 1/512. Of `CLOCK_MONOTONIC` NTP makes that 1/1000 at most.
const DRIFT_SHIFT: u32 = 9;

/// A timeout whose deadline has come.
pub(super) struct Due {
    pub(super) watch: u32,
    pub(super) deadline: u64,
    /// The own time of its stopwatch.
    pub(super) now: u64,
}

/// The timeouts of all stopwatches.
pub(super) struct Deadlines<S: Storage> {
    all: PerClock<Timers<S>>,
    skip_paused: PerClock<Timers<S>>,
    /// The earliest of some pace is another one.
    changed: bool,
}

impl<S: Storage> Deadlines<S> {
    /// Room for one timeout of each of `stopwatches`; none is armed.
    pub(super) fn new(stopwatches: usize) -> Result<Self, S::Error> {
        Ok(Self {
            all: PerClock::try_new(|| Timers::new(stopwatches))?,
            skip_paused: PerClock::try_new(|| Timers::new(stopwatches))?,
            changed: false,
        })
    }

    fn timers(&self, pace: Pace) -> &Timers<S> {
        if pace.skip_paused {
            self.skip_paused.of(pace.clock)
        } else {
            self.all.of(pace.clock)
        }
    }

    /// Does something to the timers of a pace.
    fn change<T>(&mut self, pace: Pace, change: impl FnOnce(&mut Timers<S>) -> T) -> T {
        let timers = if pace.skip_paused {
            self.skip_paused.of_mut(pace.clock)
        } else {
            self.all.of_mut(pace.clock)
        };
        let first = timers.first();
        let result = change(timers);
        self.changed |= timers.first() != first;
        result
    }

    /// Arms the timeout of a stopwatch, in place of the one that was armed.
    pub(super) fn arm(&mut self, pace: Pace, watch: u32, deadline: u64) {
        self.change(pace, |timers| timers.arm(watch, deadline));
    }

    /// Disarms the timeout of a stopwatch.
    pub(super) fn disarm(&mut self, pace: Pace, watch: u32) {
        self.change(pace, |timers| timers.disarm(watch));
    }

    /// A stopwatch that has a timeout armed, of those the one of which it is
    /// disarmed with the least work.
    pub(super) fn armed(&self) -> Option<u32> {
        Pace::ALL
            .into_iter()
            .find_map(|pace| Some(self.timers(pace).last()?.watch))
    }

    /// Takes over what is in `other`, which is smaller.
    pub(super) fn take_over(&mut self, other: &Self) {
        for pace in Pace::ALL {
            self.change(pace, |timers| timers.take_over(other.timers(pace)));
        }
        self.changed |= other.changed;
    }

    /// The deadline of a stopwatch's timeout, if one is armed; [`NEVER`] if it
    /// waits for the stopwatch to run.
    pub(super) fn deadline(&self, pace: Pace, watch: u32) -> Option<u64> {
        self.timers(pace).deadline(watch)
    }

    /// Whether [`Self::next`] may be another one than at the last call of this.
    pub(super) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// The earliest of a pace that has a deadline.
    fn first(&self, pace: Pace) -> Option<Timer> {
        self.timers(pace)
            .first()
            .filter(|timer| timer.deadline != NEVER)
    }

    /// The timeout that is most overdue. VM time is that of the last
    /// [`Times::advance`].
    pub(super) fn due(&self, times: &mut Times, clock: &impl Clock) -> Option<Due> {
        let mut worst: Option<Due> = None;
        for pace in Pace::ALL {
            let Some(timer) = self.first(pace) else {
                continue;
            };
            let now = times.own(clock, pace);
            let late = |due: &Due| due.now - due.deadline;
            if timer.deadline <= now
                && worst
                    .as_ref()
                    .is_none_or(|worst| late(worst) < now - timer.deadline)
            {
                worst = Some(Due {
                    watch: timer.watch,
                    deadline: timer.deadline,
                    now,
                });
            }
        }
        worst
    }

    /// The VM time at which to look at [`Self::due`].
    pub(super) fn next(&self, times: &Times, clock: &impl Clock) -> Option<u64> {
        let next = |pace: Pace| {
            let timer = self.first(pace)?;
            let now = times.own_at(pace, times.look(clock, pace.clock));
            let left = timer.deadline.saturating_sub(now);
            if left != 0 && times.stands(pace) {
                return None;
            }
            if pace.clock == ClockId::Monotonic {
                return Some(times.vm_time_of(pace.skip_paused, timer.deadline));
            }
            let sleep = (left - (left >> DRIFT_SHIFT)).min(LONGEST_SLEEP);
            Some(times.look(clock, ClockId::Monotonic).saturating_add(sleep))
        };
        Pace::ALL.into_iter().filter_map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::tests::Heap;
    use proptest::prelude::*;

    /// Clocks that go apart: RAW by `ppm`, BOOTTIME by `suspended` at `suspend`.
    struct Apart {
        vm_time: u64,
        ppm: i128,
        suspend: u64,
        suspended: u64,
    }

    impl Clock for Apart {
        fn now(&self, clock: ClockId) -> u64 {
            let drift = i128::from(self.vm_time) * self.ppm / 1_000_000;
            match clock {
                ClockId::Monotonic => self.vm_time,
                ClockId::MonotonicRaw => (i128::from(self.vm_time) + drift) as u64,
                ClockId::Boottime if self.vm_time >= self.suspend => self.vm_time + self.suspended,
                ClockId::Boottime => self.vm_time,
            }
        }
    }

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        /// A timer that does nothing but sleep until `next()` is late by no more
        /// than is said here, and does not look more often.
        #[test]
        fn a_timer_finds_each_deadline(
            pace in 0..Pace::ALL.len(),
            deadline in 1..100 * SECOND,
            ppm in -1000..1000i128,
            suspend in 0..100 * SECOND,
            suspended in 0..100 * SECOND,
        ) {
            let pace = Pace::ALL[pace];
            let Ok(mut deadlines) = Deadlines::<Heap>::new(4);
            let mut times = Times::default();
            let mut clock = Apart { vm_time: 0, ppm, suspend, suspended };
            deadlines.arm(pace, 1, deadline);
            prop_assert!(deadlines.take_changed());
            let mut looks = 0;
            let late = loop {
                times.advance(&clock);
                if let Some(due) = deadlines.due(&mut times, &clock) {
                    prop_assert_eq!((due.watch, due.deadline), (1, deadline));
                    break due.now - deadline;
                }
                let next = deadlines.next(&times, &clock).unwrap();
                prop_assert!(next > clock.vm_time, "it spins");
                clock.vm_time = next;
                looks += 1;
            };
            prop_assert!(looks <= 130, "{} looks", looks);
            match pace.clock {
                ClockId::Monotonic => prop_assert_eq!((late, looks), (0, 1)),
                // At the last look less than 512 ns were left.
                ClockId::MonotonicRaw => prop_assert!(late <= 1, "late by {} ns", late),
                ClockId::Boottime if deadline <= suspend => prop_assert_eq!(late, 0),
                ClockId::Boottime => {
                    let reached = deadline.saturating_sub(suspended).max(suspend);
                    prop_assert!(clock.vm_time - reached <= LONGEST_SLEEP);
                }
            }
        }
    }

    #[test]
    fn what_stands_still_is_not_waited_for() {
        let mut clock = Apart {
            vm_time: 100,
            ppm: 0,
            suspend: u64::MAX,
            suspended: 0,
        };
        for clock_id in [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime] {
            let Ok(mut deadlines) = Deadlines::<Heap>::new(4);
            let mut times = Times::default();
            let pace = Pace::new(clock_id, true);
            clock.vm_time = 100;
            deadlines.arm(pace, 0, 150);
            times.pause(&clock);
            assert_eq!(deadlines.next(&times, &clock), None);
            clock.vm_time = 1100;
            times.advance(&clock);
            assert!(deadlines.due(&mut times, &clock).is_none());
            times.resume(&clock);
            times.advance(&clock);
            assert_eq!(deadlines.next(&times, &clock), Some(1150));
            clock.vm_time = 1151;
            times.advance(&clock);
            let due = deadlines.due(&mut times, &clock).unwrap();
            assert_eq!((due.now, due.deadline), (151, 150));
            // One that is due when the VM is paused is not forgotten.
            times.pause(&clock);
            assert!(deadlines.next(&times, &clock).unwrap() <= 1151);
        }
    }

    #[test]
    fn the_most_overdue_comes_first() {
        let clock = Apart {
            vm_time: 100,
            ppm: 0,
            suspend: 0,
            suspended: 900,
        };
        let Ok(mut deadlines) = Deadlines::<Heap>::new(8);
        let mut times = Times::default();
        deadlines.arm(Pace::new(ClockId::Monotonic, false), 0, 60);
        deadlines.arm(Pace::new(ClockId::Monotonic, true), 1, 50);
        deadlines.arm(Pace::new(ClockId::Boottime, false), 2, 940);
        deadlines.arm(Pace::new(ClockId::MonotonicRaw, false), 3, 101);
        deadlines.arm(Pace::new(ClockId::MonotonicRaw, true), 4, NEVER);
        times.advance(&clock);
        for watch in [2, 1, 0] {
            let due = deadlines.due(&mut times, &clock).unwrap();
            assert_eq!(due.watch, watch);
            for pace in Pace::ALL {
                deadlines.disarm(pace, watch);
            }
        }
        assert!(deadlines.due(&mut times, &clock).is_none());
        let mut left = std::vec::Vec::new();
        while let Some(watch) = deadlines.armed() {
            left.push(watch);
            for pace in Pace::ALL {
                deadlines.disarm(pace, watch);
            }
        }
        left.sort_unstable();
        assert_eq!(left, [3, 4]);
    }
}
