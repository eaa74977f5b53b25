// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! All stopwatches of a device: which there are, what is done with one, and what is shown of
//! them. Who asks for what is not here.

use super::budget::Budget;
use super::environment::Environment;
use super::kept::Chunk;
use super::kept::Kept;
use super::numbers::Numbers;
use super::policy::Policy;
use super::posts::PostRings;
use super::stopwatch::Timeout;
use super::storage::Storage;
use super::times::Times;
use crate::protocol::command::Act;
use crate::protocol::command::Identity;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::name::Name;
use crate::protocol::reading::Reading;
use crate::protocol::record::Laps;
use crate::protocol::record::Record;
use crate::protocol::ring::SlotWords;
use crate::protocol::slot;
use crate::protocol::slot::Event;
use crate::protocol::slot::Status;
use crate::uapi;

/// The stopwatches of a device, and the times that they go by.
pub(super) struct Stopwatches<S: Storage> {
    pub(super) layout: Layout,
    pub(super) policy: Policy,
    /// The features that are on.
    pub(super) features: u64,
    pub(super) times: Times,
    pub(super) existing: Numbers<S>,
    pub(super) kept: Kept<S>,
    pub(super) posts: PostRings<S>,
    /// More storage is wanted.
    pub(super) storage_wanted: bool,
    /// There is none to be had for the next one that is created.
    storage_denied: bool,
    /// Features were turned off of which something is left: see [`Self::clean`].
    pub(super) unclean: bool,
}

impl<S: Storage> Stopwatches<S> {
    /// The numbered ones exist, stopped at 0, and the features are off.
    pub(super) fn new(layout: Layout, policy: Policy) -> Result<Self, S::Error> {
        let stopwatches = layout.geometry().stopwatches;
        let numbered = stopwatches.min(uapi::STOPWATCH_NUMBERED);
        Ok(Self {
            layout,
            policy,
            features: 0,
            times: Times::default(),
            existing: Numbers::new(stopwatches, numbered)?,
            kept: Kept::first(stopwatches)?,
            posts: PostRings::new(&layout)?,
            storage_wanted: false,
            storage_denied: false,
            unclean: false,
        })
    }

    /// How many more stopwatches there should be storage for.
    pub(super) fn wants_storage(&self) -> Option<u32> {
        self.missing().filter(|_| self.storage_wanted)
    }

    fn missing(&self) -> Option<u32> {
        let limit = self.layout.geometry().stopwatches;
        self.kept.wanted(self.existing.count(), limit)
    }

    /// Gives it storage. What it does not want any more is given back.
    pub(super) fn set_storage(&mut self, chunk: Chunk<S>) -> Option<Chunk<S>> {
        if self.missing() != Some(chunk.count()) {
            return Some(chunk);
        }
        self.kept.append(chunk);
        self.storage_wanted = self.missing().is_some();
        None
    }

    /// There is no more storage to be had now. A stopwatch that waits for it is
    /// refused.
    pub(super) fn deny_storage(&mut self) {
        self.storage_wanted = false;
        self.storage_denied = true;
    }

    /// Whether a request has to wait for [`Self::set_storage`].
    pub(super) fn lacks_storage(&mut self, words: &SlotWords) -> bool {
        if !slot::creates(words) || self.existing.count() < self.kept.count() {
            return false;
        }
        self.storage_wanted = self.missing().is_some();
        self.storage_wanted && !self.storage_denied
    }

    pub(super) fn has(&self, feature: u32) -> bool {
        self.features & u64::from(feature) != 0
    }

    /// The number of the stopwatch that has a name.
    pub(super) fn find(&self, name: &Name) -> Option<u32> {
        self.kept.find(name)
    }

    /// Whether a stopwatch exists under a number, and is of that generation; zero is any.
    #[inline(always)]
    pub(super) fn is(&self, watch: u32, generation: u32) -> bool {
        self.existing.contains(watch) && (generation == 0 || generation == self.generation(watch))
    }

    /// Which of those that had a number was the last one.
    #[inline]
    pub(super) fn generation(&self, watch: u32) -> u32 {
        let stopwatch = self.kept.get(watch);
        stopwatch.map_or(0, |stopwatch| stopwatch.generation)
    }

    /// The smallest number not below `from` that a stopwatch exists under.
    pub(super) fn next_existing(&self, from: u32) -> Option<u32> {
        self.existing.next(from)
    }

    /// What a stopwatch is, if it exists.
    pub(super) fn describe(&self, watch: u32) -> Option<Record> {
        let stopwatch = self.kept.get(watch)?;
        self.existing
            .contains(watch)
            .then(|| stopwatch.record(true))
    }

    /// Reads the laps of a stopwatch, if it exists, from lap `first` on, as many
    /// as there are and fit.
    ///
    /// They are read from the state pages, where alone they are kept. These are
    /// only an output, and a VMM that overwrites them deceives nobody but those
    /// who look at the laps of its own VM.
    pub(super) fn laps(
        &self,
        mem: &impl Memory,
        watch: u32,
        first: Option<u32>,
        into: &mut [u64],
    ) -> Option<Laps> {
        let stopwatch = self.kept.get(watch)?;
        let laps = || Laps::copy(mem, &self.layout, watch, stopwatch.laps(), first, into);
        self.existing.contains(watch).then(laps)
    }

    /// Notes the next timeout whose deadline has come, if there is one, and says
    /// what the guest is to be told of it, without a sequence number, and by the
    /// call of which ring.
    ///
    /// Only one that was due `since` so long, in ns, or whose time stands still: what
    /// was posted before it did is carried out.
    pub(super) fn expire(&mut self, env: &impl Environment, since: u64) -> Option<(Event, u32)> {
        let due = self.kept.deadlines.due(&mut self.times, env.clock())?;
        if !due.stands && due.now - due.deadline < since {
            return None;
        }
        let stopwatch = self.kept.get_mut(due.watch)?;
        let expiry = stopwatch.expire(due.now, due.deadline);
        let call = stopwatch.armed_by;
        let event = Event {
            kind: uapi::STOPWATCH_EVENT_TIMEOUT as u16,
            watch: due.watch,
            sequence: 0,
            deadline_ns: due.deadline,
            time_ns: due.now,
            timeouts: stopwatch.timeouts(),
            count: expiry.count,
            generation: stopwatch.generation,
        };
        match expiry.next {
            Some(deadline) => self.kept.arm(due.watch, deadline),
            None => self.kept.disarm(due.watch),
        }
        self.publish(env.memory(), due.watch);
        Some((event, call))
    }

    /// Does something with a stopwatch, publishes it, and reads it. `None` if there
    /// is no storage for one of that number.
    #[inline(always)]
    pub(super) fn act(
        &mut self,
        env: &impl Environment,
        watch: u32,
        act: Act,
        budget: &mut Budget,
    ) -> Option<(Status, Reading)> {
        let stopwatch = self.kept.get_mut(watch)?;
        let now = self.times.own(env.clock(), stopwatch.identity.time_base);
        let status = stopwatch.act(act, now);
        if status == Status::Ok && act != Act::Read {
            let mut lap = None;
            if act == Act::Lap {
                lap = self.layout.lap(watch, stopwatch.laps().wrapping_sub(1));
            } else if stopwatch.has_timeout() {
                self.follow(env.memory(), watch, act, now, budget);
            }
            self.publish_counts(env.memory(), watch, lap);
        }
        let stopwatch = self.kept.get(watch)?;
        Some((status, stopwatch.read(now, self.times.vm_time())))
    }

    /// [`Self::act`], if there is such a stopwatch, of that generation, and its timeout has not
    /// to follow.
    #[inline(always)]
    pub(super) fn act_alone(
        &mut self,
        env: &impl Environment,
        watch: u32,
        generation: u32,
        act: Act,
    ) -> Option<(Status, Reading)> {
        if !self.is(watch, generation) {
            return None;
        }
        let stopwatch = self.kept.get_mut(watch)?;
        let follows = !matches!(act, Act::Read | Act::Lap);
        if follows && stopwatch.has_timeout() {
            return None;
        }
        let now = self.times.own(env.clock(), stopwatch.identity.time_base);
        let status = stopwatch.act(act, now);
        let reading = stopwatch.read(now, self.times.vm_time());
        if status == Status::Ok && act != Act::Read {
            let lap = if act == Act::Lap {
                self.layout.lap(watch, reading.laps.wrapping_sub(1))
            } else {
                None
            };
            self.publish_counts(env.memory(), watch, lap);
        }
        Some((status, reading))
    }

    /// After a start, pause or reset of a stopwatch that has a timeout.
    #[cold]
    #[inline(never)]
    fn follow(&mut self, mem: &impl Memory, watch: u32, act: Act, now: u64, budget: &mut Budget) {
        budget.charge(Budget::TIMEOUT);
        let Some(stopwatch) = self.kept.get(watch) else {
            return;
        };
        if act == Act::Reset {
            self.disarm(mem, watch);
        } else if stopwatch.waits_for_elapsed() {
            let armed = self.kept.deadline(watch);
            if let Some(deadline) = stopwatch.elapsed_deadline(now, armed) {
                self.kept.arm(watch, deadline);
            }
        }
    }

    /// Makes a stopwatch under the smallest number that is free, or finds the one that has
    /// its name.
    pub(super) fn create(
        &mut self,
        mem: &impl Memory,
        identity: Identity,
    ) -> Result<(u32, Status), Status> {
        let named = !identity.name.is_none();
        if let Some(other) = self.find(&identity.name).filter(|_| named) {
            return Ok((other, Status::Exists));
        }
        self.storage_denied = false;
        let watch = self.existing.free().ok_or(Status::Full)?;
        let Some(stopwatch) = self.kept.get_mut(watch) else {
            self.storage_wanted = true;
            return Err(Status::Full);
        };
        stopwatch.create(identity);
        self.existing.insert(watch);
        self.storage_wanted = self.missing().is_some();
        if named {
            self.kept.insert_name(watch);
        }
        self.publish(mem, watch);
        Ok((watch, Status::Ok))
    }

    /// Deletes a stopwatch.
    pub(super) fn delete(&mut self, mem: &impl Memory, watch: u32) {
        self.kept.disarm(watch);
        if !self.kept.name_of(watch).is_none() {
            self.kept.remove_name(watch);
        }
        self.existing.remove(watch);
        self.posts.unbind_watch(mem, watch);
        if let Some(stopwatch) = self.kept.get_mut(watch) {
            stopwatch.delete();
        }
        self.publish(mem, watch);
    }

    /// Disarms the timeout of a stopwatch, if one is armed, and publishes all of
    /// the stopwatch.
    pub(super) fn disarm(&mut self, mem: &impl Memory, watch: u32) {
        if let Some(stopwatch) = self.kept.get_mut(watch) {
            stopwatch.set_timeout(Timeout::default());
        }
        self.kept.disarm(watch);
        self.publish(mem, watch);
    }

    /// Sets which features are on. Timeouts and bindings do not outlast theirs:
    /// [`Self::clean`] ends them.
    pub(super) fn set_features(&mut self, features: u64) {
        self.features = features;
        // What is posted from now on is not from before.
        self.times.settle();
        self.unclean = true;
    }

    /// Ends a slice of the timeouts and bindings whose features are off.
    pub(super) fn clean(&mut self, mem: &impl Memory, budget: &mut Budget) {
        if !self.has(uapi::STOPWATCH_F_POSTED) {
            budget.charge(self.layout.post_rings() * Budget::POST);
            self.posts.unbind_all(mem);
        }
        if !self.has(uapi::STOPWATCH_F_TIMEOUT) {
            while let Some(watch) = self.kept.deadlines.armed() {
                self.disarm(mem, watch);
                budget.charge(Budget::TIMEOUT);
                if budget.is_spent() {
                    self.unclean = self.kept.deadlines.armed().is_some();
                    return;
                }
            }
        }
        self.unclean = false;
    }

    /// Publishes a stopwatch.
    pub(super) fn publish(&mut self, mem: &impl Memory, watch: u32) {
        if let (Some(stopwatch), Some(offset)) =
            (self.kept.get_mut(watch), self.layout.record(watch))
        {
            let exists = self.existing.contains(watch);
            let record = stopwatch.record(exists);
            record.publish(mem, offset, &mut stopwatch.seq);
        }
    }

    /// Publishes what a stopwatch that exists has counted and, given where it
    /// belongs, its last lap.
    #[inline]
    fn publish_counts(&mut self, mem: &impl Memory, watch: u32, lap: Option<u32>) {
        if let (Some(stopwatch), Some(offset)) =
            (self.kept.get_mut(watch), self.layout.record(watch))
        {
            let record = stopwatch.record(true);
            record.publish_counts(mem, offset, &mut stopwatch.seq, lap);
        }
    }
}
