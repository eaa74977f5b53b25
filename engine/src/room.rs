// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The memory that a device has for stopwatches: for a few when it is made, for
//! more when they are created. The engine does not allocate; it says when it
//! wants more ([`Device::wants_room`](super::Device::wants_room)), and whoever
//! may sleep gives it.

use super::deadlines::Deadlines;
use super::deadlines::NEVER;
use super::device::Storage;
use super::name::Name;
use super::names::Names;
use super::stopwatch::Stopwatch;
use crate::uapi;

/// As many are there at first: the numbered ones and as many to create.
const FIRST: u32 = 2 * uapi::STOPWATCH_NUMBERED;

/// When no more than so many are free, more are asked for. They serve until
/// somebody has made room.
const RESERVE: u32 = uapi::STOPWATCH_NUMBERED / 2;

/// Memory for the stopwatches of the numbers from 0 on.
///
/// # Invariants
///
/// - `stopwatches`, `deadlines` and `names` are for the same count.
/// - `deadline_ns` of a stopwatch is what readings show of its deadline in
///   `deadlines`.
pub struct Room<S: Storage> {
    pub(super) stopwatches: S::Slice<Stopwatch>,
    pub(super) deadlines: Deadlines<S>,
    names: Names<S>,
}

impl<S: Storage> Room<S> {
    /// Room for so many, none of which has a name or a timeout.
    pub fn new(stopwatches: u32) -> Result<Self, S::Error> {
        let count = stopwatches as usize;
        Ok(Self {
            stopwatches: S::filled(Stopwatch::default(), count)?,
            deadlines: Deadlines::new(count)?,
            names: Names::new(count)?,
        })
    }

    /// The room of a new device that may have `stopwatches` at the most.
    pub(super) fn first(stopwatches: u32) -> Result<Self, S::Error> {
        Self::new(stopwatches.min(FIRST))
    }

    /// For how many it is.
    pub(super) fn count(&self) -> u32 {
        self.stopwatches.len() as u32
    }

    /// For how many there should be room, where `used` of at most `limit` are
    /// used, if that is more.
    pub(super) fn wanted(&self, used: u32, limit: u32) -> Option<u32> {
        let count = self.count();
        (count < limit && used + RESERVE > count).then(|| limit.min(2 * count))
    }

    /// Takes over what is in `other`, which is smaller.
    pub(super) fn take_over(&mut self, other: &Self) {
        for (to, from) in self.stopwatches.iter_mut().zip(other.stopwatches.iter()) {
            *to = *from;
        }
        self.deadlines.take_over(&other.deadlines);
        self.names.take_over(&other.names);
    }

    pub(super) fn get(&self, watch: u32) -> Option<&Stopwatch> {
        self.stopwatches.get(watch as usize)
    }

    pub(super) fn get_mut(&mut self, watch: u32) -> Option<&mut Stopwatch> {
        self.stopwatches.get_mut(watch as usize)
    }

    /// The deadline of a stopwatch's timeout, if one is armed; [`NEVER`] if it
    /// waits for the stopwatch to run.
    pub(super) fn deadline(&self, watch: u32) -> Option<u64> {
        let pace = self.get(watch)?.identity.pace;
        self.deadlines.deadline(pace, watch)
    }

    /// Arms the timeout of a stopwatch, in place of the one that was armed.
    pub(super) fn arm(&mut self, watch: u32, deadline: u64) {
        if let Some(stopwatch) = self.stopwatches.get_mut(watch as usize) {
            stopwatch.deadline_ns = if deadline == NEVER { 0 } else { deadline };
            self.deadlines.arm(stopwatch.identity.pace, watch, deadline);
        }
    }

    /// Disarms the timeout of a stopwatch, if one is armed.
    pub(super) fn disarm(&mut self, watch: u32) {
        if let Some(stopwatch) = self.stopwatches.get_mut(watch as usize) {
            stopwatch.deadline_ns = 0;
            self.deadlines.disarm(stopwatch.identity.pace, watch);
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

fn name_of(stopwatches: &[Stopwatch], watch: u32) -> Name {
    let stopwatch = stopwatches.get(watch as usize);
    stopwatch.map_or(Name::NONE, |stopwatch| stopwatch.identity.name)
}
