// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's end of a device: all state that counts is here, private. What is
//! in the region is read once and judged, or a published copy.

use core::ops::DerefMut;

use super::clock::Clock;
use super::clock::Pace;
use super::clock::Times;
use super::geometry::Layout;
use super::memory::Memory;
use super::name::Name;
use super::numbers::Numbers;
use super::record::Laps;
use super::record::Record;
use super::ring;
use super::ring::Posted;
use super::ring::Poster;
use super::ring::SlotWords;
use super::rings::Rings;
use super::rings::Turn;
use super::room::Room;
use super::slot;
use super::slot::Act;
use super::slot::Asker;
use super::slot::Creation;
use super::slot::Event;
use super::slot::Message;
use super::slot::Operation;
use super::slot::Reply;
use super::slot::Status;
use super::slot::Terms;
use super::stopwatch::Identity;
use super::stopwatch::Reading;
use super::stopwatch::Stopwatch;
use super::stopwatch::Timeout;
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

/// What a device has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Resets of the device.
    pub resets: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered with `STOPWATCH_S_BAD_*`.
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
    /// Requests answered.
    pub answered: u32,
    /// Of these, answered with `STOPWATCH_S_BAD_*`.
    pub bad: u32,
    /// The budget is spent and there is more, or a stopwatch that is to be created
    /// waits for room.
    pub more: bool,
    /// More room is wanted: see [`Device::wants_room`].
    pub wants_room: bool,
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

/// What [`Device::expire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the guest may have to be called, and the timer to be programmed"]
pub struct Expired {
    /// Events put into the event ring: call the guest if there are any.
    pub put: u32,
    /// Events that were lost because the event ring was full: call the guest
    /// for these, too.
    pub lost: u32,
    /// [`Device::next_deadline`]. If the budget was spent, it may be past.
    pub next: Option<u64>,
}

/// What the VMM told [`Device::vmm`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "after any change the timer is to be programmed"]
pub struct VmmChange {
    /// The device was reset. No timeout is armed any more.
    pub reset: bool,
    /// [`Device::vmm_status`] is another one than before.
    pub status: bool,
}

/// A device.
pub struct Device<S: Storage> {
    layout: Layout,
    policy: Policy,
    features: u64,
    times: Times,
    existing: Numbers<S>,
    room: Room<S>,
    /// More room is wanted.
    room_wanted: bool,
    /// There is none to be had for the next one that is created.
    room_denied: bool,
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
        let geometry = layout.geometry();
        let events = layout.events();
        let numbered = geometry.stopwatches.min(uapi::STOPWATCH_NUMBERED);
        Ok(Self {
            layout,
            policy,
            features: 0,
            times: Times::default(),
            existing: Numbers::new(geometry.stopwatches, numbered)?,
            room: Room::first(geometry.stopwatches)?,
            room_wanted: false,
            room_denied: false,
            rings: Rings::new(&layout)?,
            events: Poster::new(events),
            vmm_status: uapi::STOPWATCH_VMM_RUNNING,
            reset_generation: 0,
            stats: Stats::default(),
        })
    }

    /// For how many stopwatches there should be room, if that is more than there
    /// is.
    pub fn wants_room(&self) -> Option<u32> {
        self.more_room().filter(|_| self.room_wanted)
    }

    fn more_room(&self) -> Option<u32> {
        let limit = self.layout.geometry().stopwatches;
        self.room.wanted(self.existing.count(), limit)
    }

    /// Gives it room, and takes the room that it had, which is to be dropped.
    /// Nothing happens to a device if the new one is not larger.
    pub fn set_room(&mut self, mut room: Room<S>) -> Room<S> {
        if room.count() <= self.room.count() {
            return room;
        }
        room.take_over(&self.room);
        core::mem::swap(&mut room, &mut self.room);
        self.room_wanted = self.more_room().is_some();
        room
    }

    /// There is no more room to be had now. A stopwatch that waits for it is
    /// refused.
    pub fn deny_room(&mut self) {
        self.room_wanted = false;
        self.room_denied = true;
    }

    /// Whether a request has to wait for [`Self::set_room`].
    fn lacks_room(&mut self, words: &SlotWords) -> bool {
        if !slot::creates(words) || self.existing.count() < self.room.count() {
            return false;
        }
        self.room_wanted = self.more_room().is_some();
        self.room_wanted && !self.room_denied
    }

    /// Writes what the guest and the VMM read into a region that is all zero:
    /// `struct stopwatch_info` and the state pages.
    pub fn publish_all(&mut self, mem: &impl Memory) {
        store_from(mem, 0, &self.layout.info(self.policy.features), 0);
        self.publish_state(mem);
        for watch in 0..self.room.count() {
            self.publish(mem, watch);
        }
    }

    /// Answers the requests in a ring, `budget` of them at most. While
    /// `STOPWATCH_F_POSTED` is on, these are the ones in all rings.
    pub fn serve(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        budget: u32,
    ) -> Served {
        let mut served = Served::default();
        let Some(mut end) = self.rings.end(ring) else {
            return served;
        };
        self.times.advance(clock);
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
                && self.has(uapi::STOPWATCH_F_POSTED)
            {
                if self.rings.others_wait(mem, ring) {
                    self.rings.set_end(ring, end);
                    return self.serve_all(mem, clock, functions, ring, budget, served);
                }
                looked = self.times.now();
            }
            if !found {
                break;
            }
            if self.lacks_room(&posted.words) {
                served.more = true;
                break;
            }
            if stamp > self.times.now() && stamp != slot::NOT_POSTED {
                self.times.advance(clock);
            }
            self.times.act_at(self.times.nearest(stamp));
            let bad = self.respond(mem, clock, functions, &mut posted);
            end.complete(mem, &mut posted.words);
            served.count(bad);
        }
        self.rings.set_end(ring, end);
        served.more |= served.answered == budget && end.waiting(mem);
        self.note(served)
    }

    /// Carries out what is posted in any ring, `budget` requests at most. Does
    /// nothing while `STOPWATCH_F_POSTED` is off.
    ///
    /// To be called before [`Self::command`], [`Self::expire`] and whatever shows
    /// something of the device, without letting go of it between the two: after
    /// the latter nothing is carried out as of a time before it. A guest may post
    /// faster than this goes. Who has called this often enough to take all slots
    /// of all rings has taken what was there at first, and may go on without the
    /// rest.
    pub fn drain(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: u32,
    ) -> Served {
        if !self.has(uapi::STOPWATCH_F_POSTED) {
            return Served::default();
        }
        self.times.advance(clock);
        self.serve_all(mem, clock, functions, 0, budget, Served::default())
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
        self.rings.begin(mem, first);
        while served.answered < budget {
            match self.rings.turn(&self.times) {
                Turn::Take(ring, at) => {
                    let mut posted = self.rings.head(ring);
                    if self.lacks_room(&posted.words) {
                        self.rings.hold(ring);
                        continue;
                    }
                    self.times.act_at(at);
                    let bad = self.respond(mem, clock, functions, &mut posted);
                    self.rings.complete(mem, ring, &mut posted.words);
                    served.count(bad);
                }
                Turn::LookAgain => {
                    self.times.advance(clock);
                    self.rings.look(mem);
                }
                Turn::Empty => break,
            }
        }
        served.more = self.rings.any_waits();
        self.note(served)
    }

    /// Notes what was done in the device's own counts.
    fn note(&mut self, mut served: Served) -> Served {
        if !served.more {
            self.times.settle();
        }
        served.wants_room = self.room_wanted;
        served.deadline_changed = self.room.deadlines.take_changed();
        self.stats.requests = self.stats.requests.wrapping_add(served.answered.into());
        self.stats.bad_requests = self.stats.bad_requests.wrapping_add(served.bad.into());
        served
    }

    /// Does what a program of the host asks for. It may start, pause, lap, reset
    /// and read stopwatches, create and delete them. `STOPWATCH_S_FULL` is for want
    /// of room if [`Self::wants_room`] then says so.
    pub fn command(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        request: impl Into<Message>,
    ) -> Commanded {
        self.times.advance(clock);
        self.times.settle();
        Commanded {
            reply: self.answer(mem, clock, request.into().words(), Asker::Host),
            deadline_changed: self.room.deadlines.take_changed(),
        }
    }

    /// Notes the timeouts whose deadline has come, `budget` of them at most.
    pub fn expire(&mut self, mem: &impl Memory, clock: &impl Clock, budget: u32) -> Expired {
        self.times.advance(clock);
        let mut expired = Expired::default();
        for _ in 0..budget {
            let Some(due) = self.room.deadlines.due(&mut self.times, clock) else {
                break;
            };
            let Some(stopwatch) = self.room.get_mut(due.watch) else {
                break;
            };
            let expiry = stopwatch.expire(due.now, due.deadline);
            let event = Event {
                kind: uapi::STOPWATCH_EVENT_TIMEOUT as u16,
                watch: due.watch,
                sequence: self.stats.events.wrapping_add(self.stats.events_lost),
                deadline_ns: due.deadline,
                time_ns: due.now,
                timeouts: stopwatch.timeouts(),
                count: expiry.count,
            };
            match expiry.next {
                Some(deadline) => self.room.arm(due.watch, deadline),
                None => self.room.disarm(due.watch),
            }
            // The record first: who has the event finds it in the record.
            self.publish(mem, due.watch);
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
        if expired.put != 0 || expired.lost != 0 {
            self.times.settle();
            self.publish_state(mem);
        }
        // The caller is told the next deadline here.
        self.room.deadlines.take_changed();
        expired.next = self.next_deadline(clock);
        expired
    }

    /// Looks at what the VMM has written, and does it, after [`Self::drain`]. Call
    /// this before serving a kick of ring 0. A status that the header does not know
    /// is taken as the one before.
    ///
    /// What was posted and is over the budget is forgotten by a reset, and counts
    /// as posted at the end of a pause.
    pub fn vmm(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: u32,
    ) -> VmmChange {
        let mut change = VmmChange::default();
        let words = [mem.load_acquire(self.layout.vmm())];
        let status = field!(stopwatch_vmm.status).get32(&words);
        let reset_generation = field!(stopwatch_vmm.reset_generation).get32(&words);
        if status == self.vmm_status && reset_generation == self.reset_generation {
            return change;
        }

        // Of what this did the caller learns by the change.
        let _ = self.drain(mem, clock, functions, budget);
        if status != self.vmm_status {
            change.status = true;
            match status {
                uapi::STOPWATCH_VMM_RUNNING => self.times.resume(clock),
                uapi::STOPWATCH_VMM_PAUSED => self.times.pause(clock),
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
        }
        change
    }

    /// Resets the device: rings are empty with phase 1, features off, timeouts
    /// disarmed, and stopwatches without a name are deleted, save the numbered
    /// ones. All others go on as they were.
    pub fn reset(&mut self, mem: &impl Memory) {
        self.set_features(mem, 0);
        let mut from = uapi::STOPWATCH_NUMBERED;
        while let Some(watch) = self.existing.next(from) {
            if self.room.name_of(watch).is_none() {
                self.delete(mem, watch);
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
        self.room.deadlines.next(&self.times, clock)
    }

    /// The number of the stopwatch that has a name.
    pub fn find(&self, name: &Name) -> Option<u32> {
        self.room.find(name)
    }

    /// The smallest number not below `from` that a stopwatch exists under.
    pub fn next_existing(&self, from: u32) -> Option<u32> {
        self.existing.next(from)
    }

    /// What a stopwatch is, if it exists.
    pub fn describe(&self, watch: u32) -> Option<Record> {
        let stopwatch = self.room.get(watch)?;
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
    pub fn laps(
        &self,
        mem: &impl Memory,
        watch: u32,
        first: u32,
        into: &mut [u64],
    ) -> Option<Laps> {
        let stopwatch = self.room.get(watch)?;
        let laps = || Laps::copy(mem, &self.layout, watch, stopwatch.laps(), first, into);
        self.existing.contains(watch).then(laps)
    }

    /// Of VM time in which the VM was paused, until now.
    pub fn paused_ns(&self, clock: &impl Clock) -> u64 {
        self.times.paused_ns_now(clock)
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The features that are on.
    pub fn features(&self) -> u64 {
        self.features
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

    fn has(&self, feature: u32) -> bool {
        self.features & u64::from(feature) != 0
    }

    /// Answers what is in a slot, and leaves the answer in its place. Whether the
    /// request broke the rules.
    #[inline(always)]
    fn respond(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        posted: &mut Posted,
    ) -> bool {
        // The short way, which nearly all requests go.
        if let Some((watch, act)) = slot::act(&posted.words, self.features) {
            if !posted.bad_owner && self.existing.contains(watch) {
                if let Some((status, reading)) = self.act(mem, clock, watch, act) {
                    let status = status.to_wire();
                    posted.words = slot::encode_reply(&posted.words, status, watch, &reading);
                    return false;
                }
            }
        }
        let reply = self.respond_to_any(mem, clock, functions, posted);
        posted.words = reply.encode(&posted.words);
        reply.is_bad()
    }

    /// Answers what is in a slot, whatever that is.
    #[cold]
    #[inline(never)]
    fn respond_to_any(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        posted: &Posted,
    ) -> Reply {
        if posted.bad_owner {
            return Reply::refusal(&posted.words, Status::BadOwner);
        }
        match slot::function(&posted.words) {
            Some(op) => self.call(functions, op, &posted.words),
            None => self.answer(mem, clock, &posted.words, Asker::Guest),
        }
    }

    /// Has the host do what is no stopwatch's work.
    fn call(&self, functions: &impl Functions, op: u16, words: &SlotWords) -> Reply {
        let on = |feature| feature & !self.features == 0;
        let status = if functions.feature(op).is_some_and(on) {
            match slot::judge_function(words) {
                Ok(arg) => functions.call(op, arg),
                Err(status) => status,
            }
        } else {
            Status::BadOp
        };
        let mut reply = Reply::refusal(words, status);
        if !status.is_refused() {
            reply.reading.time_ns = self.times.vm_time();
        }
        reply
    }

    /// Judges a request, and does what it asks for. VM time is that of the last
    /// [`Times::advance`].
    fn answer(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        words: &SlotWords,
        asker: Asker,
    ) -> Reply {
        let terms = Terms {
            asker,
            existing: &self.existing,
            offered: self.policy.features,
            features: self.features,
            min_interval_ns: self.policy.min_interval_ns,
        };
        let done = match slot::judge(words, &terms) {
            Ok((_, Operation::Create)) => {
                Creation::judge(words).and_then(|identity| self.create(mem, clock, identity))
            }
            Ok((watch, operation)) => self.execute(mem, clock, watch, operation),
            Err(status) => Err(status),
        };
        match done {
            Ok(done) => self.reply(&done),
            Err(status) => Reply::refusal(words, status),
        }
    }

    /// Does what a judged request asks for, and publishes what that changed.
    fn execute(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        watch: u32,
        operation: Operation,
    ) -> Result<Done, Status> {
        if let Operation::Act(act) = operation {
            let (status, reading) = self.act(mem, clock, watch, act).ok_or(Status::BadWatch)?;
            return Ok(Done {
                watch,
                status,
                now: reading.time_ns,
                before: Some(reading),
            });
        }
        let stopwatch = self.room.get_mut(watch).ok_or(Status::BadWatch)?;
        let now = self.times.own(clock, stopwatch.identity.pace);

        let mut done = Done {
            watch,
            status: Status::Ok,
            now,
            before: None,
        };
        match operation {
            Operation::Act(_) => return Err(Status::BadOp),
            Operation::ReadReset => {
                done.before = Some(stopwatch.read(now, self.times.vm_time()));
                stopwatch.reset();
                self.disarm(mem, watch);
            }
            Operation::Timeout(ns, interval) => {
                stopwatch.set_timeout(Timeout {
                    target: None,
                    interval,
                });
                self.room.arm(watch, now.saturating_add(ns));
                self.publish(mem, watch);
            }
            Operation::TimeoutElapsed(target, interval) => {
                stopwatch.set_timeout(Timeout {
                    target: Some(target),
                    interval,
                });
                if let Some(deadline) = stopwatch.elapsed_deadline(now, None) {
                    self.room.arm(watch, deadline);
                }
                self.publish(mem, watch);
            }
            Operation::Disarm => self.disarm(mem, watch),
            Operation::Create => return Err(Status::BadOp),
            Operation::Delete => self.delete(mem, watch),
            Operation::SetMode { uid, mode } => {
                stopwatch.identity.uid = uid;
                stopwatch.identity.mode = mode;
                self.publish(mem, watch);
            }
            Operation::SetFeatures(features) => self.set_features(mem, features),
        }
        Ok(done)
    }

    /// The reply to a request that is not refused.
    fn reply(&self, done: &Done) -> Reply {
        let read = |stopwatch: &Stopwatch| stopwatch.read(done.now, self.times.vm_time());
        let now = || self.room.get(done.watch).map(read);
        Reply {
            status: Ok(done.status),
            watch: done.watch,
            reading: done.before.or_else(now).unwrap_or_default(),
        }
    }

    /// Does something with a stopwatch, publishes it, and reads it. `None` if there
    /// is no room for one of that number.
    #[inline(always)]
    fn act(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        watch: u32,
        act: Act,
    ) -> Option<(Status, Reading)> {
        let stopwatch = self.room.get_mut(watch)?;
        let now = self.times.own(clock, stopwatch.identity.pace);
        let status = match act {
            Act::Start => stopwatch.start(now),
            Act::Pause => stopwatch.pause(now),
            Act::Lap => stopwatch.lap(now),
            Act::Reset => stopwatch.reset(),
            Act::Read => return Some((Status::Ok, stopwatch.read(now, self.times.vm_time()))),
        };
        if status == Status::Ok {
            let mut lap = None;
            if act == Act::Lap {
                lap = self.layout.lap(watch, stopwatch.laps().wrapping_sub(1));
            } else if stopwatch.has_timeout() {
                self.follow(mem, watch, act, now);
            }
            self.publish_counts(mem, watch, lap);
        }
        let stopwatch = self.room.get(watch)?;
        Some((status, stopwatch.read(now, self.times.vm_time())))
    }

    /// After a start, pause or reset of a stopwatch that has a timeout.
    #[cold]
    #[inline(never)]
    fn follow(&mut self, mem: &impl Memory, watch: u32, act: Act, now: u64) {
        let Some(stopwatch) = self.room.get(watch) else {
            return;
        };
        if act == Act::Reset {
            self.disarm(mem, watch);
        } else if stopwatch.waits_for_elapsed() {
            let armed = self.room.deadline(watch);
            if let Some(deadline) = stopwatch.elapsed_deadline(now, armed) {
                self.room.arm(watch, deadline);
            }
        }
    }

    /// Makes a stopwatch under the smallest number that is free.
    fn create(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        identity: Identity,
    ) -> Result<Done, Status> {
        let named = !identity.name.is_none();
        if let Some(other) = self.find(&identity.name).filter(|_| named) {
            return Ok(Done {
                watch: other,
                status: Status::Exists,
                now: self.times.own(clock, self.pace_of(other)),
                before: None,
            });
        }
        self.room_denied = false;
        let watch = self.existing.free().ok_or(Status::Full)?;
        let Some(stopwatch) = self.room.get_mut(watch) else {
            self.room_wanted = true;
            return Err(Status::Full);
        };
        stopwatch.create(identity);
        self.existing.insert(watch);
        self.room_wanted = self.more_room().is_some();
        if named {
            self.room.insert_name(watch);
        }
        self.publish(mem, watch);
        Ok(Done {
            watch,
            status: Status::Ok,
            now: self.times.own(clock, identity.pace),
            before: None,
        })
    }

    /// Deletes a stopwatch.
    fn delete(&mut self, mem: &impl Memory, watch: u32) {
        self.room.disarm(watch);
        if !self.room.name_of(watch).is_none() {
            self.room.remove_name(watch);
        }
        self.existing.remove(watch);
        if let Some(stopwatch) = self.room.get_mut(watch) {
            stopwatch.delete();
        }
        self.publish(mem, watch);
    }

    /// Disarms the timeout of a stopwatch, if one is armed, and publishes all of
    /// the stopwatch.
    fn disarm(&mut self, mem: &impl Memory, watch: u32) {
        if let Some(stopwatch) = self.room.get_mut(watch) {
            stopwatch.set_timeout(Timeout::default());
        }
        self.room.disarm(watch);
        self.publish(mem, watch);
    }

    /// Sets which features are on. Timeouts do not outlast theirs.
    fn set_features(&mut self, mem: &impl Memory, features: u64) {
        self.features = features;
        // What is posted from now on is not from before.
        self.times.settle();
        if features & u64::from(uapi::STOPWATCH_F_TIMEOUT) == 0 {
            while let Some(watch) = self.room.deadlines.armed() {
                self.disarm(mem, watch);
            }
        }
    }

    fn pace_of(&self, watch: u32) -> Pace {
        let stopwatch = self.room.get(watch);
        stopwatch.map_or(Pace::default(), |stopwatch| stopwatch.identity.pace)
    }

    /// Publishes a stopwatch.
    fn publish(&mut self, mem: &impl Memory, watch: u32) {
        if let (Some(stopwatch), Some(offset)) =
            (self.room.get_mut(watch), self.layout.record(watch))
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
            (self.room.get_mut(watch), self.layout.record(watch))
        {
            let record = stopwatch.record(true);
            record.publish_counts(mem, offset, &mut stopwatch.seq, lap);
        }
    }

    /// Publishes the state of the whole device.
    fn publish_state(&self, mem: &impl Memory) {
        let mut words = [0; words_of::<uapi::stopwatch_state>()];
        let host_time = u64::from(uapi::STOPWATCH_F_HOST_TIME);
        field!(stopwatch_state.events).set(&mut words, self.stats.events);
        field!(stopwatch_state.events_lost).set(&mut words, self.stats.events_lost);
        field!(stopwatch_state.vmm_status).set(&mut words, self.vmm_status);
        field!(stopwatch_state.reset_generation).set(&mut words, self.reset_generation);
        field!(stopwatch_state.paused_ns).set(&mut words, self.times.paused_ns());
        field!(stopwatch_state.paused_since_ns).set(&mut words, self.times.last_pause());
        if self.policy.features & host_time != 0 {
            field!(stopwatch_state.epoch_ns).set(&mut words, self.policy.epoch_ns);
        }
        store_from(mem, self.layout.state(), &words, 0);
    }
}

impl Served {
    fn count(&mut self, bad: bool) {
        self.answered += 1;
        self.bad += u32::from(bad);
    }
}

/// What was done for a request that is not refused.
struct Done {
    watch: u32,
    status: Status,
    /// The stopwatch's own time.
    now: u64,
    /// The reading, if it is not that of after.
    before: Option<Reading>,
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
