// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Arrays that grow by chunks. A chunk is put behind what there is, so that growth moves
//! nothing.

use super::storage::Storage;
use crate::uapi;

/// As many are there at first: the numbered ones and as many to create.
pub(super) const FIRST: u32 = 2 * uapi::STOPWATCH_NUMBERED;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
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
