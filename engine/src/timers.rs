// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The deadlines of all stopwatches, the earliest first: a binary heap that
//! knows where each stopwatch stands in it, so that a timeout is armed, moved
//! or disarmed in O(log n). Nothing is allocated after `new()`.

use super::device::Storage;

/// An armed timeout. The order is that of the deadlines; of equal ones the
/// lower number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) deadline: u64,
    pub(super) watch: u32,
}

/// The place of a stopwatch without an armed timeout.
const NOWHERE: u32 = u32::MAX;

/// # Invariants
///
/// - `heap[..armed]` is a heap: no entry is less than its parent, which is at
///   (place - 1) / 2.
/// - `places[watch]` is where that stopwatch's entry is in it, else `NOWHERE`.
pub(super) struct Timers<S: Storage> {
    heap: S::Slice<Timer>,
    places: S::Slice<u32>,
    armed: usize,
}

impl<S: Storage> Timers<S> {
    /// Room for one timeout of each of `stopwatches`; none is armed.
    pub(super) fn new(stopwatches: usize) -> Result<Self, S::Error> {
        let nothing = Timer {
            deadline: 0,
            watch: 0,
        };
        Ok(Self {
            heap: S::filled(nothing, stopwatches)?,
            places: S::filled(NOWHERE, stopwatches)?,
            armed: 0,
        })
    }

    /// Takes over what is in `other`, which is smaller.
    pub(super) fn take_over(&mut self, other: &Self) {
        for (to, from) in self.heap.iter_mut().zip(other.heap.iter()) {
            *to = *from;
        }
        for (to, from) in self.places.iter_mut().zip(other.places.iter()) {
            *to = *from;
        }
        self.armed = other.armed;
    }

    /// The entry at `place` of the heap.
    fn at(&self, place: usize) -> Option<Timer> {
        self.heap.get(..self.armed)?.get(place).copied()
    }

    /// Puts an entry to `place`.
    fn put(&mut self, place: usize, timer: Timer) {
        if let Some(entry) = self.heap.get_mut(place) {
            *entry = timer;
        }
        if let Some(entry) = self.places.get_mut(timer.watch as usize) {
            *entry = place as u32;
        }
    }

    /// Puts an entry to where it belongs, on the way from `place` to the root.
    fn put_up(&mut self, mut place: usize, timer: Timer) {
        while place > 0 {
            let parent = (place - 1) / 2;
            match self.at(parent) {
                Some(above) if timer < above => self.put(place, above),
                _ => break,
            }
            place = parent;
        }
        self.put(place, timer);
    }

    /// Puts an entry to where it belongs, on the way from `place` to the leaves.
    fn put_down(&mut self, mut place: usize, timer: Timer) {
        loop {
            let left = 2 * place + 1;
            let Some(mut below) = self.at(left) else {
                break;
            };
            let mut child = left;
            if let Some(right) = self.at(left + 1) {
                if right < below {
                    below = right;
                    child = left + 1;
                }
            }
            if timer <= below {
                break;
            }
            self.put(place, below);
            place = child;
        }
        self.put(place, timer);
    }

    /// Where a stopwatch's timeout stands.
    fn place_of(&self, watch: u32) -> Option<usize> {
        match self.places.get(watch as usize) {
            None | Some(&NOWHERE) => None,
            Some(&place) => Some(place as usize),
        }
    }

    /// Arms the timeout of a stopwatch, in place of the one that was armed.
    pub(super) fn arm(&mut self, watch: u32, deadline: u64) {
        self.disarm(watch);
        if (watch as usize) < self.places.len() {
            let place = self.armed;
            self.armed += 1;
            self.put_up(place, Timer { deadline, watch });
        }
    }

    /// Disarms the timeout of a stopwatch. Returns whether one was armed.
    pub(super) fn disarm(&mut self, watch: u32) -> bool {
        let Some(place) = self.place_of(watch) else {
            return false;
        };
        let last = self.at(self.armed - 1);
        self.armed -= 1;
        if let Some(entry) = self.places.get_mut(watch as usize) {
            *entry = NOWHERE;
        }
        // The last entry takes the place that came free, unless it was its own.
        if let Some(last) = last.filter(|last| last.watch != watch) {
            self.put_down(place, last);
            if let Some(settled) = self.place_of(last.watch) {
                self.put_up(settled, last);
            }
        }
        true
    }

    /// The deadline of a stopwatch's timeout, if one is armed.
    pub(super) fn deadline(&self, watch: u32) -> Option<u64> {
        Some(self.at(self.place_of(watch)?)?.deadline)
    }

    /// The earliest of all.
    pub(super) fn first(&self) -> Option<Timer> {
        self.at(0)
    }

    /// The one that is disarmed with the least work.
    pub(super) fn last(&self) -> Option<Timer> {
        self.at(self.armed.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::tests::Heap;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const WATCHES: u32 = 40;

    fn check(timers: &Timers<Heap>, model: &BTreeMap<u32, u64>) {
        assert_eq!(timers.armed, model.len());
        let first = model
            .iter()
            .map(|(&watch, &deadline)| Timer { deadline, watch })
            .min();
        assert_eq!(timers.first(), first);
        for watch in 0..WATCHES {
            assert_eq!(timers.deadline(watch), model.get(&watch).copied());
        }
        for place in 1..timers.armed {
            assert!(timers.at((place - 1) / 2) <= timers.at(place));
        }
    }

    proptest! {
        #[test]
        fn is_an_ordered_map(
            steps in prop::collection::vec((0..WATCHES + 2, prop::option::of(0..50u64)), 0..300),
        ) {
            let mut timers = Timers::<Heap>::new(WATCHES as usize).unwrap();
            let mut model = BTreeMap::new();
            for (watch, deadline) in steps {
                match deadline {
                    Some(deadline) => {
                        timers.arm(watch, deadline);
                        if watch < WATCHES {
                            model.insert(watch, deadline);
                        }
                    }
                    None => {
                        prop_assert_eq!(timers.disarm(watch), model.remove(&watch).is_some());
                    }
                }
                check(&timers, &model);
            }
            // What is left comes out in order.
            let mut before = None;
            while let Some(timer) = timers.first() {
                prop_assert!(before < Some(timer));
                before = Some(timer);
                timers.disarm(timer.watch);
                model.remove(&timer.watch);
                check(&timers, &model);
            }
        }
    }
}
