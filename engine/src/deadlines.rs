// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The timeouts of all stopwatches. Those whose own times have the same time base
//! are together, by deadlines of that own time. So nothing has to be moved
//! when the VM is paused, or when the clocks go apart.

use super::chunked::Chunked;
use super::environment::Clock;
use super::storage::Storage;
use super::timers::Entry;
use super::timers::Timer;
use super::timers::Timers;
use super::timers::HEAPS;
use super::times::Times;
use crate::protocol::clock::ClockId;
use crate::protocol::clock::TimeBase;

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
    /// That stands still now: it gets no later.
    pub(super) stands: bool,
}

// A heap for each.
const _: () = assert!(TimeBase::ALL.len() == HEAPS);

/// The timeouts of all stopwatches.
///
/// # Invariants
///
/// A stopwatch is armed in the heap of its own time base only, which it has as long
/// as it exists.
pub(super) struct Deadlines<S: Storage> {
    /// By [`TimeBase::index`].
    timers: [Timers; HEAPS],
    entries: Chunked<Entry, S>,
    /// The earliest of some time base is another one.
    changed: bool,
}

impl<S: Storage> Deadlines<S> {
    /// That of the stopwatches for which `entries` are, all [`Entry::NONE`].
    pub(super) fn new(entries: S::Slice<Entry>) -> Self {
        Self {
            timers: core::array::from_fn(Timers::new),
            entries: Chunked::new(entries),
            changed: false,
        }
    }

    /// More stopwatches are kept, for which `entries` are, all [`Entry::NONE`].
    pub(super) fn append(&mut self, entries: S::Slice<Entry>) {
        self.entries.append(entries);
    }

    /// Does something to the timers of a time base.
    fn change<T>(
        &mut self,
        base: TimeBase,
        change: impl FnOnce(&mut Timers, &mut Chunked<Entry, S>) -> T,
    ) -> Option<T> {
        let timers = self.timers.get_mut(base.index())?;
        let first = timers.first(&self.entries);
        let result = change(timers, &mut self.entries);
        self.changed |= timers.first(&self.entries) != first;
        Some(result)
    }

    /// Arms the timeout of a stopwatch, in place of the one that was armed.
    pub(super) fn arm(&mut self, base: TimeBase, watch: u32, deadline: u64) {
        self.change(base, |timers, entries| timers.arm(entries, watch, deadline));
    }

    /// Disarms the timeout of a stopwatch.
    pub(super) fn disarm(&mut self, base: TimeBase, watch: u32) {
        self.change(base, |timers, entries| timers.disarm(entries, watch));
    }

    /// A stopwatch that has a timeout armed, of those the one of which it is
    /// disarmed with the least work.
    pub(super) fn armed(&self) -> Option<u32> {
        let last = |timers: &Timers| Some(timers.last(&self.entries)?.watch);
        self.timers.iter().find_map(last)
    }

    /// The deadline of a stopwatch's timeout, if one is armed; [`NEVER`] if it
    /// waits for the stopwatch to run.
    pub(super) fn deadline(&self, base: TimeBase, watch: u32) -> Option<u64> {
        self.timers
            .get(base.index())?
            .deadline(&self.entries, watch)
    }

    /// Whether [`Self::next`] may be another one than at the last call of this.
    pub(super) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// The earliest of a time base that has a deadline.
    fn first(&self, base: TimeBase) -> Option<Timer> {
        self.timers
            .get(base.index())?
            .first(&self.entries)
            .filter(|timer| timer.deadline != NEVER)
    }

    /// The timeout that is most overdue. VM time is that of the last
    /// [`Times::advance`].
    pub(super) fn due(&self, times: &mut Times, clock: &impl Clock) -> Option<Due> {
        let mut worst: Option<Due> = None;
        for base in TimeBase::ALL {
            let Some(timer) = self.first(base) else {
                continue;
            };
            let now = times.own(clock, base);
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
                    stands: times.stands(base),
                });
            }
        }
        worst
    }

    /// The VM time at which to look at [`Self::due`].
    pub(super) fn next(&self, times: &Times, clock: &impl Clock) -> Option<u64> {
        let next = |base: TimeBase| {
            let timer = self.first(base)?;
            let now = times.own_at(base, times.look(clock, base.clock));
            let left = timer.deadline.saturating_sub(now);
            if left != 0 && times.stands(base) {
                return None;
            }
            if base.clock == ClockId::Monotonic {
                return Some(times.vm_time_of(base.skip_paused, timer.deadline));
            }
            if left == 0 {
                // As of the last look at the time, so that it is not ahead of who asks.
                return Some(times.now());
            }
            let sleep = (left - (left >> DRIFT_SHIFT)).min(LONGEST_SLEEP);
            Some(times.look(clock, ClockId::Monotonic).saturating_add(sleep))
        };
        TimeBase::ALL.into_iter().filter_map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
    use proptest::prelude::*;
    use std::vec;

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
            base in 0..TimeBase::ALL.len(),
            deadline in 1..100 * SECOND,
            ppm in -1000..1000i128,
            suspend in 0..100 * SECOND,
            suspended in 0..100 * SECOND,
        ) {
            let base = TimeBase::ALL[base];
            let mut deadlines = Deadlines::<Heap>::new(vec![Entry::NONE; 4]);
            let mut times = Times::default();
            let mut clock = Apart { vm_time: 0, ppm, suspend, suspended };
            deadlines.arm(base, 1, deadline);
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
            match base.clock {
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
            let mut deadlines = Deadlines::<Heap>::new(vec![Entry::NONE; 4]);
            let mut times = Times::default();
            let base = TimeBase::new(clock_id, true);
            clock.vm_time = 100;
            deadlines.arm(base, 0, 150);
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
        let mut deadlines = Deadlines::<Heap>::new(vec![Entry::NONE; 8]);
        let mut times = Times::default();
        let armed = [
            (TimeBase::new(ClockId::Monotonic, false), 60),
            (TimeBase::new(ClockId::Monotonic, true), 50),
            (TimeBase::new(ClockId::Boottime, false), 940),
            (TimeBase::new(ClockId::MonotonicRaw, false), 101),
            (TimeBase::new(ClockId::MonotonicRaw, true), NEVER),
        ];
        for (watch, (base, deadline)) in (0..).zip(armed) {
            deadlines.arm(base, watch, deadline);
        }
        times.advance(&clock);
        for watch in [2, 1, 0] {
            let due = deadlines.due(&mut times, &clock).unwrap();
            assert_eq!(due.watch, watch);
            deadlines.disarm(armed[watch as usize].0, watch);
        }
        assert!(deadlines.due(&mut times, &clock).is_none());
        let mut left = std::vec::Vec::new();
        while let Some(watch) = deadlines.armed() {
            left.push(watch);
            deadlines.disarm(armed[watch as usize].0, watch);
        }
        left.sort_unstable();
        assert_eq!(left, [3, 4]);
    }
}
