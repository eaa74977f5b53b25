// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What a device keeps of each stopwatch: for a few when it is made, for more when
//! they are created. The engine does not allocate; it says when it wants more
//! ([`Device::wants_storage`](super::Device::wants_storage)), and whoever may sleep
//! gives it. It is put behind what there is, so that growth moves nothing.

use super::deadlines::Deadlines;
use super::deadlines::NEVER;
use super::device::Storage;
use super::name::Name;
use super::names::Names;
use super::stopwatch::Stopwatch;
use super::timers::Entry;
use crate::uapi;

/// As many are there at first: the numbered ones and as many to create.
const FIRST: u32 = 2 * uapi::STOPWATCH_NUMBERED;

/// When no more than so many are free, more are asked for. They serve until
/// somebody has made storage.
const RESERVE: u32 = uapi::STOPWATCH_NUMBERED / 2;

/// Each chunk after the first is for as many as there are before it.
const CHUNKS: usize = (uapi::STOPWATCH_MAX_STOPWATCHES / FIRST).ilog2() as usize;
const _: () = assert!(uapi::STOPWATCH_MAX_STOPWATCHES == FIRST << CHUNKS);

/// Where a chunk begins, after the first.
const fn start(chunk: usize) -> usize {
    (FIRST as usize) << chunk
}

/// An array in chunks: the first one when it is made, others later.
///
/// # Invariants
///
/// There are others only if the first has the length [`FIRST`]. That of number `chunk`
/// then begins at [`start`], and ends at the next one's or before it.
pub(super) struct Chunked<T: Copy, S: Storage> {
    first: S::Slice<T>,
    others: [Option<S::Slice<T>>; CHUNKS],
}

impl<T: Copy, S: Storage> Chunked<T, S> {
    pub(super) fn new(first: S::Slice<T>) -> Self {
        Self {
            first,
            others: [const { None }; CHUNKS],
        }
    }

    /// Puts a chunk behind the others, which are all full.
    pub(super) fn append(&mut self, chunk: S::Slice<T>) {
        if let Some(free) = self.others.iter_mut().find(|chunk| chunk.is_none()) {
            *free = Some(chunk);
        }
    }

    /// An entry. Those of the first chunk cost no more than in one array.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match self.first.get(index) {
            Some(entry) => Some(entry),
            None => {
                let (chunk, index) = locate(index)?;
                self.others.get(chunk)?.as_ref()?.get(index)
            }
        }
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match self.first.get_mut(index) {
            Some(entry) => Some(entry),
            None => {
                let (chunk, index) = locate(index)?;
                self.others.get_mut(chunk)?.as_mut()?.get_mut(index)
            }
        }
    }

    /// The parts of `[from, to)` that are not empty, in order, each in one piece.
    fn parts_mut(
        &mut self,
        from: usize,
        to: usize,
    ) -> impl DoubleEndedIterator<Item = &mut [T]> + '_ {
        let first: &mut [T] = &mut self.first;
        let starts: [usize; CHUNKS] = core::array::from_fn(start);
        let others = starts.into_iter().zip(self.others.iter_mut());
        let others = others.filter_map(|(start, chunk)| Some((start, &mut **chunk.as_mut()?)));
        core::iter::once((0, first))
            .chain(others)
            .filter_map(move |(start, chunk): (usize, &mut [T])| {
                let to = to.saturating_sub(start).min(chunk.len());
                chunk.get_mut(from.saturating_sub(start)..to)
            })
            .filter(|part| !part.is_empty())
    }

    /// Puts an entry before those of `[at, count)`, which move on by one. There has to
    /// be a further one.
    pub(super) fn insert(&mut self, at: usize, count: usize, mut entry: T) {
        for part in self.parts_mut(at, count + 1) {
            part.rotate_right(1);
            if let Some(first) = part.first_mut() {
                core::mem::swap(first, &mut entry);
            }
        }
    }

    /// Takes out the entry at `at`, and moves those up to `count` back by one.
    pub(super) fn remove(&mut self, at: usize, count: usize) {
        let mut entry = None;
        for part in self.parts_mut(at, count).rev() {
            part.rotate_left(1);
            if let Some(last) = part.last_mut() {
                let first = *last;
                *last = entry.unwrap_or(first);
                entry = Some(first);
            }
        }
    }
}

/// The chunk after the first that has an entry, and where in it.
#[cold]
#[inline(never)]
fn locate(index: usize) -> Option<(usize, usize)> {
    let chunk = (index / FIRST as usize).checked_ilog2()? as usize;
    Some((chunk, index - start(chunk)))
}

/// Storage for some stopwatches.
pub struct Chunk<S: Storage> {
    stopwatches: S::Slice<Stopwatch>,
    timers: S::Slice<Entry>,
    names: S::Slice<u16>,
}

impl<S: Storage> Chunk<S> {
    /// Storage for so many, none of which has a name or a timeout.
    pub fn new(stopwatches: u32) -> Result<Self, S::Error> {
        let count = stopwatches as usize;
        Ok(Self {
            stopwatches: S::filled(Stopwatch::default(), count)?,
            timers: S::filled(Entry::NONE, count)?,
            names: S::filled(0, count)?,
        })
    }

    /// For how many it is.
    pub(super) fn count(&self) -> u32 {
        self.stopwatches.len() as u32
    }
}

/// What is kept of the stopwatches of the numbers from 0 on.
///
/// # Invariants
///
/// - `stopwatches`, `deadlines` and `names` are for `count` each.
/// - `deadline_ns` of a stopwatch is what readings show of its deadline in
///   `deadlines`.
pub(super) struct Kept<S: Storage> {
    stopwatches: Chunked<Stopwatch, S>,
    pub(super) deadlines: Deadlines<S>,
    names: Names<S>,
    count: u32,
}

impl<S: Storage> Kept<S> {
    /// That of a new device, which may have `limit` at the most.
    pub(super) fn first(limit: u32) -> Result<Self, S::Error> {
        let count = limit.min(FIRST);
        let chunk = Chunk::<S>::new(count)?;
        Ok(Self {
            stopwatches: Chunked::new(chunk.stopwatches),
            deadlines: Deadlines::new(chunk.timers),
            names: Names::new(chunk.names),
            count,
        })
    }

    /// For how many it is.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many more there should be storage for, where `used` of at most `limit` are
    /// used.
    pub(super) fn wanted(&self, used: u32, limit: u32) -> Option<u32> {
        let count = self.count();
        (count < limit && used + RESERVE > count).then(|| count.min(limit - count))
    }

    /// Takes storage, for as many as [`Self::wanted`] said.
    pub(super) fn append(&mut self, chunk: Chunk<S>) {
        self.count += chunk.count();
        self.stopwatches.append(chunk.stopwatches);
        self.deadlines.append(chunk.timers);
        self.names.append(chunk.names);
    }

    #[inline]
    pub(super) fn get(&self, watch: u32) -> Option<&Stopwatch> {
        self.stopwatches.get(watch as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, watch: u32) -> Option<&mut Stopwatch> {
        self.stopwatches.get_mut(watch as usize)
    }

    /// The deadline of a stopwatch's timeout, if one is armed; [`NEVER`] if it
    /// waits for the stopwatch to run.
    pub(super) fn deadline(&self, watch: u32) -> Option<u64> {
        let time_base = self.get(watch)?.identity.time_base;
        self.deadlines.deadline(time_base, watch)
    }

    /// Arms the timeout of a stopwatch, in place of the one that was armed.
    pub(super) fn arm(&mut self, watch: u32, deadline: u64) {
        if let Some(stopwatch) = self.stopwatches.get_mut(watch as usize) {
            stopwatch.deadline_ns = if deadline == NEVER { 0 } else { deadline };
            let time_base = stopwatch.identity.time_base;
            self.deadlines.arm(time_base, watch, deadline);
        }
    }

    /// Disarms the timeout of a stopwatch, if one is armed.
    pub(super) fn disarm(&mut self, watch: u32) {
        if let Some(stopwatch) = self.stopwatches.get_mut(watch as usize) {
            stopwatch.deadline_ns = 0;
            let time_base = stopwatch.identity.time_base;
            self.deadlines.disarm(time_base, watch);
        }
    }

    /// The name of a stopwatch.
    pub(super) fn name_of(&self, watch: u32) -> Name {
        name_of(&self.stopwatches, watch)
    }

    /// The number of the stopwatch that has a name.
    pub(super) fn find(&self, name: &Name) -> Option<u32> {
        self.names
            .find(name, |number| name_of(&self.stopwatches, number))
    }

    /// Makes the name of a stopwatch known, which nobody else has.
    pub(super) fn insert_name(&mut self, watch: u32) {
        let stopwatches = &self.stopwatches;
        let name = name_of(stopwatches, watch);
        self.names
            .insert(&name, watch, |number| name_of(stopwatches, number));
    }

    /// Forgets the name of a stopwatch, which still has it.
    pub(super) fn remove_name(&mut self, watch: u32) {
        let stopwatches = &self.stopwatches;
        let name = name_of(stopwatches, watch);
        self.names
            .remove(&name, |number| name_of(stopwatches, number));
    }
}

fn name_of<S: Storage>(stopwatches: &Chunked<Stopwatch, S>, watch: u32) -> Name {
    let stopwatch = stopwatches.get(watch as usize);
    stopwatch.map_or(Name::NONE, |stopwatch| stopwatch.identity.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::tests::Heap;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    proptest! {
        /// It does what an array does, wherever its chunks end.
        #[test]
        fn chunks_are_one_array(
            limit in 1..4096usize,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..60),
        ) {
            let first = FIRST as usize;
            let mut chunked = Chunked::<u32, Heap>::new(vec![0; limit.min(first)]);
            let mut end = first;
            while end < limit {
                chunked.append(vec![0; end.min(limit - end)]);
                end *= 2;
            }
            for index in 0..limit {
                *chunked.get_mut(index).unwrap() = index as u32;
            }
            prop_assert!(chunked.get(limit).is_none());
            prop_assert!(chunked.get_mut(limit).is_none());
            // All but one are used, so that both can be done.
            let mut model: Vec<u32> = (0..limit as u32 - 1).collect();
            for (number, (insert, index)) in (10_000..).zip(steps) {
                if insert && model.len() < limit {
                    let at = index.index(model.len() + 1);
                    chunked.insert(at, model.len(), number);
                    model.insert(at, number);
                } else if !model.is_empty() {
                    let at = index.index(model.len());
                    chunked.remove(at, model.len());
                    model.remove(at);
                }
                for (index, entry) in model.iter().enumerate() {
                    prop_assert_eq!(chunked.get(index), Some(entry));
                }
            }
        }
    }
}
