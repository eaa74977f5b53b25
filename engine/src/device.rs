// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's end of a device: all state that counts is here, private. What is
//! in the region is read once and judged, or a published copy.

use core::ops::DerefMut;

use super::budget::Budget;
use super::clock::Clock;
use super::geometry::Layout;
use super::memory::Memory;
use super::name::Name;
use super::posts;
use super::record::Laps;
use super::record::Record;
use super::ring;
use super::ring::Posted;
use super::ring::Poster;
use super::rings::Next;
use super::rings::Rings;
use super::room::Room;
use super::slot;
use super::slot::Asker;
use super::slot::Message;
use super::slot::Reply;
use super::slot::Status;
use super::stopwatches::Stopwatches;
use super::words::field;
use super::words::store_from;
use super::words::words_of;
use crate::uapi;

/// All features that this engine knows.
pub const FEATURES: u64 = uapi::STOPWATCH_F_TIMEOUT as u64
    | uapi::STOPWATCH_F_HOST_TIME as u64
    | uapi::STOPWATCH_F_POSTED as u64
    | uapi::STOPWATCH_F_PORT_DOORBELLS as u64;

/// Where a device keeps its state: arrays that are allocated when it is made
/// and never grow.
pub trait Storage {
    /// An array.
    type Slice<T: Copy>: DerefMut<Target = [T]>;
    /// Why there is none.
    type Error;

    /// An array of `len` times `value`.
    fn filled<T: Copy>(value: T, len: usize) -> Result<Self::Slice<T>, Self::Error>;
}

/// What a host does for its guests beside stopwatches: the operations from
/// `STOPWATCH_OP_FUNCTIONS` on.
pub trait Functions {
    /// The feature that the guest must have turned on for an operation. `None` if
    /// there is no such operation.
    fn feature(&self, op: u16) -> Option<u64>;

    /// Does it. This runs in [`Device::serve`] and its like, so what takes long or
    /// sleeps is to be done later, by somebody else.
    fn call(&self, op: u16, arg: u64) -> Status;
}

/// None.
impl Functions for () {
    fn feature(&self, _: u16) -> Option<u64> {
        None
    }

    fn call(&self, _: u16, _: u64) -> Status {
        Status::BadOp
    }
}

/// What the VM's creator grants the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The features that are offered: of [`FEATURES`], and those that the host's
    /// [`Functions`] need.
    pub features: u64,
    /// The shortest interval of a periodic timeout, in ns.
    pub min_interval_ns: u64,
    /// The host's `CLOCK_MONOTONIC` at VM time 0. Published only if
    /// `STOPWATCH_F_HOST_TIME` is offered.
    pub epoch_ns: u64,
}

/// How long after a run of [`Device::expire`] that was not done the next one is, in
/// ns: often enough for the guest, and seldom enough for the CPU.
const RUN_GAP_NS: u64 = 100_000;

/// Units of a [`Budget`] for a request.
const REQUEST: u32 = 250;

/// So many posts of a post ring take no longer than a request.
const POSTS_PER_REQUEST: u32 = 8;

/// What a device has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Resets of the device.
    pub resets: u64,
    /// Requests answered, and posts taken from post rings.
    pub requests: u64,
    /// Of these, answered with `STOPWATCH_S_BAD_*`, or none that can be posted.
    pub bad_requests: u64,
    /// Events put into the event ring.
    pub events: u64,
    /// Events not put there because it was full.
    pub events_lost: u64,
}

/// What [`Device::serve`] or [`Device::drain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "there may be more to serve, and the timer to program"]
pub struct Served {
    /// Requests answered, and posts taken from post rings.
    pub answered: u32,
    /// Of these, answered with `STOPWATCH_S_BAD_*`, or none that can be posted.
    pub bad: u32,
    /// The budget is spent and there is more, or a stopwatch that is to be created
    /// waits for storage.
    pub more: bool,
    /// More storage is wanted: see [`Device::wants_storage`].
    pub wants_storage: bool,
    /// [`Device::next_deadline`] may be another one than before.
    pub deadline_changed: bool,
}

/// What [`Device::command`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the timer may have to be programmed"]
pub struct Commanded {
    /// The answer.
    pub reply: Reply,
    /// [`Device::next_deadline`] may be another one than before.
    pub deadline_changed: bool,
}

/// The stopwatch that a program of the host means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one of the number in the request; none, if that creates one.
    Number,
    /// The one that has this name, whatever number is in the request.
    Name(Name),
}

/// How far [`Device::settle`] has come for one caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settle {
    /// Slices that are left; `None` before the first.
    slices: Option<u32>,
}

/// What [`Device::settle`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "there may be more to do, and the timer to program"]
pub struct Settled {
    /// All is carried out that was posted when the caller began.
    pub done: bool,
    /// More storage is wanted: see [`Device::wants_storage`].
    pub wants_storage: bool,
    /// [`Device::next_deadline`] may be another one than before.
    pub deadline_changed: bool,
}

/// What [`Device::expire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the guest may have to be called, and the timer to be programmed"]
pub struct Expired {
    /// Events put into the event ring.
    pub put: u32,
    /// Events that were lost because the event ring was full.
    pub lost: u32,
    /// A bit for each call that is to be made: there are events for it, or were
    /// some that are lost.
    pub calls: u64,
    /// [`Device::next_deadline`]. It is not past: after a run in which the budget was
    /// spent, the next one is a while away.
    pub next: Option<u64>,
    /// What was carried out before. If `more`, timeouts are noted in a later run.
    pub served: Served,
}

/// What the VMM told [`Device::vmm`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "after any change the timer is to be programmed"]
pub struct VmmChange {
    /// A reset has begun: [`Device::work`] has to be called until it is complete.
    pub reset: bool,
    /// [`Device::vmm_status`] is another one than before.
    pub status: bool,
    /// [`Device::next_deadline`] may be another one than before.
    pub deadline_changed: bool,
}

/// A device.
pub struct Device<S: Storage> {
    stopwatches: Stopwatches<S>,
    rings: Rings<S>,
    events: Poster,
    vmm_status: u32,
    reset_generation: u32,
    stats: Stats,
}

impl<S: Storage> Device<S> {
    /// A device at VM time 0. The numbered stopwatches exist, stopped at 0; all
    /// rings are empty.
    pub fn new(layout: Layout, policy: Policy) -> Result<Self, S::Error> {
        Ok(Self {
            stopwatches: Stopwatches::new(layout, policy)?,
            rings: Rings::new(&layout)?,
            events: Poster::new(layout.events()),
            vmm_status: uapi::STOPWATCH_VMM_RUNNING,
            reset_generation: 0,
            stats: Stats::default(),
        })
    }

    /// For how many stopwatches there should be storage, if that is more than there
    /// is.
    pub fn wants_storage(&self) -> Option<u32> {
        self.stopwatches.wants_room()
    }

    /// Gives it storage, which [`Self::work`] takes into use. What is not needed,
    /// as it is no larger or as another one is being taken into use, is given back
    /// and to be dropped.
    pub fn set_storage(&mut self, storage: Room<S>) -> Option<Room<S>> {
        let former = self.stopwatches.set_room(storage);
        Some(former)
    }

    /// Storage that is not used any more, to be dropped where that may be done.
    pub fn take_former_storage(&mut self) -> Option<Room<S>> {
        None
    }

    /// There is no more storage to be had now. A stopwatch that waits for it is
    /// refused.
    pub fn deny_storage(&mut self) {
        self.stopwatches.deny_room();
    }

    /// Writes what the guest and the VMM read into a region that is all zero:
    /// `struct stopwatch_info` and the state pages.
    pub fn publish_all(&mut self, mem: &impl Memory) {
        let stopwatches = &mut self.stopwatches;
        let info = stopwatches.layout.info(stopwatches.policy.features);
        store_from(mem, 0, &info, 0);
        for watch in 0..stopwatches.room.count() {
            stopwatches.publish(mem, watch);
        }
        self.publish_state(mem);
    }

    /// Answers the requests in a ring, `budget` of them at most. While
    /// `STOPWATCH_F_POSTED` is on, these are the ones in all rings, and what is in
    /// the post rings, of which a request's share of the budget is good for several.
    ///
    /// Each call is one function with the doorbell around it: what is kept in memory
    /// only to be handed on would be a tenth of the work.
    #[inline(always)]
    pub fn serve(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        budget: &mut Budget,
    ) -> Served {
        let served = self.serve_some(mem, clock, functions, ring, budget.left() / REQUEST);
        budget.charge(served.answered.saturating_mul(REQUEST));
        served
    }

    #[inline(always)]
    fn serve_some(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        budget: u32,
    ) -> Served {
        let mut served = Served::default();
        let stopwatches = &mut self.stopwatches;
        let Some((end, others)) = self.rings.one(ring) else {
            return served;
        };
        stopwatches.times.advance(clock);
        let mut posted = Posted::default();
        // VM time, read before the others were looked at last.
        let mut looked = 0;
        while served.answered < budget {
            let found = end.next(mem, &mut posted);
            let stamp = if found {
                slot::stamp(&posted.words)
            } else {
                slot::NOT_POSTED
            };
            // Mostly nothing waits but in this ring, and no order has to be made. The
            // others are looked at after a request was found in this one, as in
            // `Rings`, or if there is none; what was stamped before the last look
            // needs no further one.
            if stamp >= looked
                && (found || served.answered == 0)
                && stopwatches.has(uapi::STOPWATCH_F_POSTED)
            {
                if stopwatches.posts.any_waits(mem) || others.any_waits(mem) {
                    return self.serve_all(mem, clock, functions, ring, budget, served);
                }
                looked = stopwatches.times.now();
            }
            if !found {
                break;
            }
            if stopwatches.lacks_room(&posted.words) {
                served.more = true;
                break;
            }
            if stamp > stopwatches.times.now() && stamp != slot::NOT_POSTED {
                stopwatches.times.advance(clock);
            }
            stopwatches.times.act_at(stopwatches.times.nearest(stamp));
            let bad = stopwatches.respond(mem, clock, functions, ring, &mut posted);
            end.complete(mem, &mut posted.words);
            served.count(bad);
        }
        served.more |= served.answered == budget && end.waiting(mem);
        self.note(served)
    }

    /// Does a slice of what is left to be done: a reset, a change of features, new
    /// storage, and what waits in the rings. `more` says that there is still some.
    pub fn work(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: &mut Budget,
    ) -> Served {
        if self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            return self.drain(mem, clock, functions, budget.left() / REQUEST);
        }
        let mut all = Served::default();
        for ring in 0..self.layout().geometry().rings {
            let served = self.serve(mem, clock, functions, ring, budget);
            all.answered += served.answered;
            all.bad += served.bad;
            all.more |= served.more;
            all.wants_storage |= served.wants_storage;
            all.deadline_changed |= served.deadline_changed;
        }
        all
    }

    /// Does a slice of what was posted when `state` was new. When it is done, the
    /// caller acts, or looks at the device, without letting go of it between the
    /// two: after that nothing is carried out as of a time before it.
    pub fn settle(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        state: &mut Settle,
        budget: &mut Budget,
    ) -> Settled {
        let slices = state
            .slices
            .unwrap_or_else(|| self.drains(budget.left() / REQUEST));
        let served = self.drain(mem, clock, functions, budget.left() / REQUEST);
        let slices = slices.saturating_sub(1);
        state.slices = Some(slices);
        Settled {
            done: !served.more || slices == 0,
            wants_storage: served.wants_storage,
            deadline_changed: served.deadline_changed,
        }
    }

    /// Carries out what is posted in any ring, `budget` requests at most. Does
    /// nothing while `STOPWATCH_F_POSTED` is off.
    fn drain(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: u32,
    ) -> Served {
        if !self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            return Served::default();
        }
        self.stopwatches.times.advance(clock);
        self.serve_all(mem, clock, functions, 0, budget, Served::default())
    }

    /// How many calls of [`Self::drain`] with that budget take all slots of all rings.
    fn drains(&self, budget: u32) -> u32 {
        let geometry = self.layout().geometry();
        let posts = self.layout().post_rings() * uapi::STOPWATCH_POST_SLOTS;
        let requests = geometry.rings * geometry.ring_slots + posts / POSTS_PER_REQUEST;
        requests
            .checked_div(budget)
            .map_or(u32::MAX, |drains| drains + 1)
    }

    /// Answers the requests in all rings, in the order of their stamps, after what
    /// was served before.
    fn serve_all(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        first: u32,
        budget: u32,
        mut served: Served,
    ) -> Served {
        let mut left = (budget - served.answered).saturating_mul(POSTS_PER_REQUEST);
        let stopwatches = &mut self.stopwatches;
        self.rings.begin(mem, first);
        stopwatches.posts.look(mem);
        while left != 0 {
            let request = self.rings.next(&stopwatches.times);
            let post = stopwatches.posts.next(&stopwatches.times);
            let post = post.filter(|post| {
                request.is_none_or(|request| {
                    post.at < request.at || post.at == request.at && !request.posted
                })
            });
            let look_again = match (post, request) {
                (Some(post), _) => post.look_again,
                (None, Some(request)) => request.look_again,
                (None, None) => break,
            };
            if look_again {
                stopwatches.times.advance(clock);
                self.rings.look(mem);
                stopwatches.posts.look(mem);
            } else if let Some(post) = post {
                // What comes after that may be later than what else waits, or is to come.
                let until = request.map_or(u64::MAX, |request| request.at);
                let until = until.min(post.until).min(stopwatches.times.now());
                let run = stopwatches.take_posts(mem, clock, &post, until, left);
                left = left.saturating_sub(run.taken);
                served.answered += run.taken;
                served.bad += run.bad;
            } else if let Some(Next { ring, at, .. }) = request {
                let mut posted = self.rings.head(ring);
                if stopwatches.lacks_room(&posted.words) {
                    self.rings.hold(ring);
                    continue;
                }
                stopwatches.times.act_at(at);
                let bad = stopwatches.respond(mem, clock, functions, ring, &mut posted);
                self.rings.complete(mem, ring, &mut posted.words);
                left = left.saturating_sub(POSTS_PER_REQUEST);
                served.count(bad);
            }
        }
        served.more = self.rings.any_waits() || stopwatches.posts.found_any();
        self.note(served)
    }

    /// Notes what was done in the device's own counts.
    fn note(&mut self, mut served: Served) -> Served {
        if !served.more {
            self.stopwatches.times.settle();
        }
        served.wants_storage = self.stopwatches.room_wanted;
        served.deadline_changed = self.stopwatches.room.deadlines.take_changed();
        self.stats.requests = self.stats.requests.wrapping_add(served.answered.into());
        self.stats.bad_requests = self.stats.bad_requests.wrapping_add(served.bad.into());
        served
    }

    /// Does what a program of the host asks for. It may start, pause, lap, reset
    /// and read stopwatches, create and delete them. A name is looked up here, so that
    /// nothing comes between that and the act; if nobody has it, the answer is
    /// `STOPWATCH_S_BAD_WATCH`. `STOPWATCH_S_FULL` is for want of storage if
    /// [`Self::wants_storage`] then says so.
    pub fn command(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        target: Target,
        request: impl Into<Message>,
    ) -> Commanded {
        let mut words = *request.into().words();
        if let Target::Name(name) = target {
            // No stopwatch has the number that stands for nobody.
            let watch = self.stopwatches.find(&name).unwrap_or(u32::MAX);
            field!(stopwatch_request.watch).set(&mut words, watch);
        }
        self.stopwatches.times.advance(clock);
        self.stopwatches.times.settle();
        Commanded {
            reply: self.stopwatches.answer(mem, clock, &words, Asker::Host),
            deadline_changed: self.stopwatches.room.deadlines.take_changed(),
        }
    }

    /// Notes the timeouts whose deadline has come, after what was posted when it
    /// began. That may take several runs; [`Expired::next`] says when the next one is.
    pub fn expire(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: &mut Budget,
    ) -> Expired {
        let mut expired = Expired {
            served: self.drain(mem, clock, functions, budget.left() / REQUEST),
            ..Expired::default()
        };
        budget.charge(expired.served.answered * REQUEST);
        if expired.served.more {
            expired.next = Some(self.stopwatches.times.now().saturating_add(RUN_GAP_NS));
            return expired;
        }
        self.stopwatches.times.advance(clock);
        while !budget.is_spent() {
            budget.charge(REQUEST);
            // The record is published by then: who has the event finds it in there.
            let Some((mut event, call)) = self.stopwatches.expire(mem, clock) else {
                break;
            };
            expired.calls |= 1u64.checked_shl(call).unwrap_or(0);
            event.sequence = self.stats.events.wrapping_add(self.stats.events_lost);
            match self.events.post(mem, event.encode()) {
                Some(_) => {
                    expired.put += 1;
                    self.stats.events = self.stats.events.wrapping_add(1);
                }
                None => {
                    expired.lost += 1;
                    self.stats.events_lost = self.stats.events_lost.wrapping_add(1);
                }
            }
        }
        if expired.calls != 0 {
            self.stopwatches.times.settle();
            self.publish_state(mem);
        }
        // The caller is told the next deadline here.
        self.stopwatches.room.deadlines.take_changed();
        expired.next = self.next_deadline(clock);
        expired
    }

    /// Looks at what the VMM has written, and does it, after [`Self::drain`]. Call
    /// this before serving a kick of ring 0. A status that the header does not know
    /// is taken as the one before.
    ///
    /// What was posted and is over the budget is forgotten by a reset, and counts
    /// as posted at the end of a pause.
    #[inline]
    pub fn vmm(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: &mut Budget,
    ) -> VmmChange {
        let words = [mem.load_acquire(self.stopwatches.layout.vmm())];
        let status = field!(stopwatch_vmm.status).get32(&words);
        let reset_generation = field!(stopwatch_vmm.reset_generation).get32(&words);
        if status == self.vmm_status && reset_generation == self.reset_generation {
            return VmmChange::default();
        }
        self.vmm_wrote(mem, clock, functions, budget, status, reset_generation)
    }

    /// Does what the VMM has written.
    #[cold]
    #[inline(never)]
    fn vmm_wrote(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: &mut Budget,
        status: u32,
        reset_generation: u32,
    ) -> VmmChange {
        let mut change = VmmChange::default();
        let drained = self.drain(mem, clock, functions, budget.left() / REQUEST);
        change.deadline_changed = drained.deadline_changed;
        if status != self.vmm_status {
            change.status = true;
            match status {
                uapi::STOPWATCH_VMM_RUNNING => self.stopwatches.times.resume(clock),
                uapi::STOPWATCH_VMM_PAUSED => self.stopwatches.times.pause(clock),
                _ => change.status = false,
            }
        }
        if change.status {
            self.vmm_status = status;
        }
        if reset_generation != self.reset_generation {
            self.reset_generation = reset_generation;
            self.reset(mem);
            change.reset = true;
        }
        if change.status || change.reset {
            self.publish_state(mem);
            change.deadline_changed = true;
        }
        change
    }

    /// Resets the device: rings are empty with phase 1, features off, timeouts
    /// disarmed, and stopwatches without a name are deleted, save the numbered
    /// ones. All others go on as they were.
    pub fn reset(&mut self, mem: &impl Memory) {
        self.stopwatches.set_features(mem, 0);
        self.stopwatches.posts.clear_tickets();
        let mut from = uapi::STOPWATCH_NUMBERED;
        while let Some(watch) = self.stopwatches.existing.next(from) {
            if self.stopwatches.room.name_of(watch).is_none() {
                self.stopwatches.delete(mem, watch);
            }
            from = watch + 1;
        }
        self.rings.clear(mem);
        self.events = Poster::new(self.events.slots());
        ring::clear(mem, self.events.slots());
        self.stats.resets = self.stats.resets.wrapping_add(1);
    }

    /// The VM time at which to call [`Self::expire`]. For a timeout that goes by
    /// another clock that may be before its deadline, which is then looked at
    /// again.
    pub fn next_deadline(&self, clock: &impl Clock) -> Option<u64> {
        self.stopwatches
            .room
            .deadlines
            .next(&self.stopwatches.times, clock)
    }

    /// The number of the stopwatch that has a name.
    pub fn find(&self, name: &Name) -> Option<u32> {
        self.stopwatches.find(name)
    }

    /// The smallest number not below `from` that a stopwatch exists under.
    pub fn next_existing(&self, from: u32) -> Option<u32> {
        self.stopwatches.next_existing(from)
    }

    /// What a stopwatch is, if it exists.
    pub fn describe(&self, watch: u32) -> Option<Record> {
        self.stopwatches.describe(watch)
    }

    /// Reads the laps of a stopwatch, if it exists, from lap `first` on, as many
    /// as there are and fit.
    pub fn laps(
        &self,
        mem: &impl Memory,
        watch: u32,
        first: u32,
        into: &mut [u64],
    ) -> Option<Laps> {
        self.stopwatches.laps(mem, watch, first, into)
    }

    /// Of VM time in which the VM was paused, until now.
    pub fn paused_ns(&self, clock: &impl Clock) -> u64 {
        self.stopwatches.times.paused_ns_now(clock)
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.stopwatches.layout
    }

    /// The features that are on.
    pub fn features(&self) -> u64 {
        self.stopwatches.features
    }

    /// `STOPWATCH_VMM_RUNNING` or `STOPWATCH_VMM_PAUSED`, as the VMM said it
    /// last.
    pub fn vmm_status(&self) -> u32 {
        self.vmm_status
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Publishes the state of the whole device.
    fn publish_state(&self, mem: &impl Memory) {
        /// The words before that.
        const PAUSES: usize = core::mem::offset_of!(uapi::stopwatch_state, pauses) / 8;

        let mut words = [0; words_of::<uapi::stopwatch_state>()];
        let host_time = u64::from(uapi::STOPWATCH_F_HOST_TIME);
        field!(stopwatch_state.events).set(&mut words, self.stats.events);
        field!(stopwatch_state.events_lost).set(&mut words, self.stats.events_lost);
        field!(stopwatch_state.vmm_status).set(&mut words, self.vmm_status);
        field!(stopwatch_state.reset_generation).set(&mut words, self.reset_generation);
        field!(stopwatch_state.paused_ns).set(&mut words, self.stopwatches.times.paused_ns());
        field!(stopwatch_state.paused_since_ns)
            .set(&mut words, self.stopwatches.times.last_pause());
        if self.stopwatches.policy.features & host_time != 0 {
            field!(stopwatch_state.epoch_ns).set(&mut words, self.stopwatches.policy.epoch_ns);
        }
        let offset = self.stopwatches.layout.state();
        // Who sees a reset generation sees what the reset did: pairs with the acquire
        // in `guest::reset_generation()`.
        mem.fence_release();
        mem.store_all(offset, words.get(..PAUSES).unwrap_or_default());
        // Who sees this count sees the time paused that goes with it: pairs with the
        // acquire in `guest::read_pauses()`.
        let pauses = field!(stopwatch_state.pauses);
        mem.store_release(offset + pauses.offset(), self.stopwatches.times.pauses());
    }
}

impl Served {
    fn count(&mut self, bad: bool) {
        self.answered += 1;
        self.bad += u32::from(bad);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// Arrays for the tests of all files.
    pub(in super::super) struct Heap;

    impl Storage for Heap {
        type Slice<T: Copy> = Vec<T>;
        type Error = core::convert::Infallible;

        fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Self::Error> {
            Ok(vec![value; len])
        }
    }
}
