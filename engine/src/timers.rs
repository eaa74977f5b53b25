// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The deadlines of all stopwatches, the earliest first: a binary heap that
//! knows where each stopwatch stands in it, so that a timeout is armed, moved
//! or disarmed in O(log n). Nothing is allocated here.

use super::chunked::Chunked;
use super::storage::Storage;

/// An armed timeout. The order is that of the deadlines; of equal ones the
/// lower number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) deadline: u64,
    pub(super) watch: u32,
}

/// The place of a stopwatch without an armed timeout.
const NOWHERE: u32 = u32::MAX;

/// How many heaps there are.
pub(super) const HEAPS: usize = 6;

/// What is kept at a number, for all heaps: the entry of each heap at that place, and
/// where the stopwatch of that number stands in the one that it is in.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    heaps: [Timer; HEAPS],
    place: u32,
}

impl Entry {
    /// That of a stopwatch whose timeout is not armed, and of an empty heap.
    pub(super) const NONE: Self = Self {
        heaps: [Timer {
            deadline: 0,
            watch: 0,
        }; HEAPS],
        place: NOWHERE,
    };
}

/// One of the heaps. Each stopwatch is in one of them, at the most.
///
/// # Invariants
///
/// - The entries of this heap below `armed` are one: none is less than its parent,
///   which is at (place - 1) / 2.
/// - `place` of a stopwatch is where it is in its heap, else `NOWHERE`.
#[derive(Clone, Copy)]
pub(super) struct Timers {
    heap: usize,
    armed: usize,
}

/// What all heaps are kept in.
type Entries<S> = Chunked<Entry, S>;

impl Timers {
    /// The heap of that number, in which there is none.
    pub(super) const fn new(heap: usize) -> Self {
        Self { heap, armed: 0 }
    }

    /// The entry at `place` of the heap.
    fn at<S: Storage>(&self, entries: &Entries<S>, place: usize) -> Option<Timer> {
        let entry = entries.get(place).filter(|_| place < self.armed)?;
        entry.heaps.get(self.heap).copied()
    }

    /// Puts an entry to `place`.
    fn put<S: Storage>(&self, entries: &mut Entries<S>, place: usize, timer: Timer) {
        let entry = entries.get_mut(place);
        if let Some(entry) = entry.and_then(|entry| entry.heaps.get_mut(self.heap)) {
            *entry = timer;
        }
        if let Some(entry) = entries.get_mut(timer.watch as usize) {
            entry.place = place as u32;
        }
    }

    /// Puts an entry to where it belongs, on the way from `place` to the root.
    fn put_up<S: Storage>(&self, entries: &mut Entries<S>, mut place: usize, timer: Timer) {
        while place > 0 {
            let parent = (place - 1) / 2;
            match self.at(entries, parent) {
                Some(above) if timer < above => self.put(entries, place, above),
                _ => break,
            }
            place = parent;
        }
        self.put(entries, place, timer);
    }

    /// Puts an entry to where it belongs, on the way from `place` to the leaves.
    fn put_down<S: Storage>(&self, entries: &mut Entries<S>, mut place: usize, timer: Timer) {
        loop {
            let left = 2 * place + 1;
            let Some(mut below) = self.at(entries, left) else {
                break;
            };
            let mut child = left;
            if let Some(right) = self.at(entries, left + 1) {
                if right < below {
                    below = right;
                    child = left + 1;
                }
            }
            if timer <= below {
                break;
            }
            self.put(entries, place, below);
            place = child;
        }
        self.put(entries, place, timer);
    }

    /// Where a stopwatch's timeout stands.
    fn place_of<S: Storage>(entries: &Entries<S>, watch: u32) -> Option<usize> {
        match entries.get(watch as usize)?.place {
            NOWHERE => None,
            place => Some(place as usize),
        }
    }

    /// Arms the timeout of a stopwatch, in place of the one that was armed.
    pub(super) fn arm<S: Storage>(&mut self, entries: &mut Entries<S>, watch: u32, deadline: u64) {
        self.disarm(entries, watch);
        if entries.get(watch as usize).is_some() {
            let place = self.armed;
            self.armed += 1;
            self.put_up(entries, place, Timer { deadline, watch });
        }
    }

    /// Disarms the timeout of a stopwatch. Returns whether one was armed.
    pub(super) fn disarm<S: Storage>(&mut self, entries: &mut Entries<S>, watch: u32) -> bool {
        let Some(place) = Self::place_of(entries, watch) else {
            return false;
        };
        let Some(last) = self.last(entries) else {
            return false;
        };
        self.armed -= 1;
        if let Some(entry) = entries.get_mut(watch as usize) {
            entry.place = NOWHERE;
        }
        // The last entry takes the place that came free, unless it was its own.
        if last.watch != watch {
            self.put_down(entries, place, last);
            if let Some(settled) = Self::place_of(entries, last.watch) {
                self.put_up(entries, settled, last);
            }
        }
        true
    }

    /// The deadline of a stopwatch's timeout, if one is armed.
    pub(super) fn deadline<S: Storage>(&self, entries: &Entries<S>, watch: u32) -> Option<u64> {
        let place = Self::place_of(entries, watch)?;
        Some(self.at(entries, place)?.deadline)
    }

    /// The earliest of all.
    #[inline]
    pub(super) fn first<S: Storage>(&self, entries: &Entries<S>) -> Option<Timer> {
        self.at(entries, 0)
    }

    /// The one that is disarmed with the least work.
    pub(super) fn last<S: Storage>(&self, entries: &Entries<S>) -> Option<Timer> {
        self.at(entries, self.armed.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;

    const WATCHES: u32 = 40;
    const HEAP: usize = 3;

    fn check(timers: &Timers, entries: &Entries<Heap>, model: &BTreeMap<u32, u64>) {
        assert_eq!(timers.armed, model.len());
        let first = model
            .iter()
            .map(|(&watch, &deadline)| Timer { deadline, watch })
            .min();
        assert_eq!(timers.first(entries), first);
        for watch in 0..WATCHES {
            let deadline = timers.deadline(entries, watch);
            assert_eq!(deadline, model.get(&watch).copied());
        }
        for place in 1..timers.armed {
            assert!(timers.at(entries, (place - 1) / 2) <= timers.at(entries, place));
        }
    }

    proptest! {
        #[test]
        fn is_an_ordered_map(
            steps in prop::collection::vec((0..WATCHES + 2, prop::option::of(0..50u64)), 0..300),
        ) {
            let mut timers = Timers::new(HEAP);
            let mut entries = Entries::<Heap>::new(vec![Entry::NONE; WATCHES as usize]);
            let mut model = BTreeMap::new();
            for (watch, deadline) in steps {
                match deadline {
                    Some(deadline) => {
                        timers.arm(&mut entries, watch, deadline);
                        if watch < WATCHES {
                            model.insert(watch, deadline);
                        }
                    }
                    None => {
                        let was_armed = model.remove(&watch).is_some();
                        prop_assert_eq!(timers.disarm(&mut entries, watch), was_armed);
                    }
                }
                check(&timers, &entries, &model);
            }
            // What is left comes out in order.
            let mut before = None;
            while let Some(timer) = timers.first(&entries) {
                prop_assert!(before < Some(timer));
                before = Some(timer);
                timers.disarm(&mut entries, timer.watch);
                model.remove(&timer.watch);
                check(&timers, &entries, &model);
            }
        }
    }
}
