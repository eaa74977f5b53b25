// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What a device keeps of each stopwatch: for a few when it is made, for more when
//! they are created. The engine does not allocate; it says when it wants more
//! ([`Device::wants_storage`](super::device::Device::wants_storage)), and whoever may sleep
//! gives it. It is put behind what there is, so that growth moves nothing.

use super::chunked::Chunked;
use super::chunked::FIRST;
use super::deadlines::Deadlines;
use super::deadlines::NEVER;
use super::names::Names;
use super::stopwatch::Stopwatch;
use super::storage::Storage;
use super::timers::Entry;
use crate::protocol::name::Name;
use crate::uapi;

/// When no more than so many are free, more are asked for. They serve until
/// somebody has made storage.
const RESERVE: u32 = uapi::STOPWATCH_NUMBERED / 2;

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
