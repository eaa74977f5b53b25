// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! All stopwatches of a device: what is done with them, whoever asks for it, and
//! what is shown of them. How requests get here is not.

use super::budget::Budget;
use super::clock::Clock;
use super::functions::Functions;
use super::kept::Chunk;
use super::kept::Kept;
use super::numbers::Numbers;
use super::policy::Policy;
use super::posts;
use super::posts::PostRings;
use super::stopwatch::Stopwatch;
use super::stopwatch::Timeout;
use super::storage::Storage;
use super::times::Times;
use super::validate::Asker;
use super::validate::Context;
use crate::protocol::clock::TimeBase;
use crate::protocol::command::Act;
use crate::protocol::command::Command;
use crate::protocol::command::Identity;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::name::Name;
use crate::protocol::reading::Reading;
use crate::protocol::record::Laps;
use crate::protocol::record::Record;
use crate::protocol::ring::Posted;
use crate::protocol::ring::SlotWords;
use crate::protocol::slot;
use crate::protocol::slot::Asked;
use crate::protocol::slot::Event;
use crate::protocol::slot::Reply;
use crate::protocol::slot::Status;
use crate::uapi;

/// Units of a budget for a post that is taken.
pub(super) const POST: u32 = 100;

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

/// What was done for a run of posts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Posts taken.
    pub(super) taken: u32,
    /// Of these, those that were none.
    pub(super) bad: u32,
}

/// What became of a request.
pub(super) enum Responded {
    /// It is answered.
    Good,
    /// It is answered: it broke the rules.
    Bad,
    /// It is to be answered when all of it is done.
    Later,
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
    /// Only one that was due `since` so long, in ns.
    pub(super) fn expire(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        since: u64,
    ) -> Option<(Event, u32)> {
        let due = self.kept.deadlines.due(&mut self.times, clock)?;
        if due.now - due.deadline < since {
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
        };
        match expiry.next {
            Some(deadline) => self.kept.arm(due.watch, deadline),
            None => self.kept.disarm(due.watch),
        }
        self.publish(mem, due.watch);
        Some((event, call))
    }

    /// Carries out the post that comes next, and those that follow it in its ring
    /// whose time is before `until`; `budget` of them at most. What comes of them is
    /// published once.
    pub(super) fn take_posts(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        next: &posts::Next,
        until: u64,
        limit: u32,
        budget: &mut Budget,
    ) -> Run {
        let mut run = Run::default();
        let (Some(end), layout) = (self.posts.end(next.ring), &self.layout) else {
            return run;
        };
        let watch = end.watch;
        let (Some(stopwatch), Some(offset)) = (self.kept.get_mut(watch), layout.record(watch))
        else {
            // Nothing is bound to what there is no storage for, and nobody waits for it.
            self.posts.unbind(mem, next.ring);
            return run;
        };
        let has_timeout = stopwatch.has_timeout();
        let moves_deadline = |act: &Act| has_timeout && *act != Act::Lap;
        let mut more = true;
        let mut at = next.at;

        // That is taken by itself.
        if let Some(act) = end.head.act().filter(moves_deadline) {
            more = end.advance(mem);
            run.taken = 1;
            self.times.act_at(at);
            self.act(mem, clock, watch, act, budget);
            self.posts.taken(mem, next.ring, more);
            budget.charge(POST);
            return run;
        }
        stopwatch.record(true).begin(mem, offset, stopwatch.seq);
        while more && (run.taken == 0 || run.taken < limit && !budget.is_spent() && at < until) {
            budget.charge(POST);
            let act = end.head.act();
            if act.as_ref().is_some_and(moves_deadline) {
                break;
            }
            self.times.act_at(at);
            let now = self.times.own(clock, stopwatch.identity.time_base);
            match act.map(|act| (act, stopwatch.act(act, now))) {
                Some((Act::Lap, Status::Ok)) => {
                    if let Some(lap) = layout.lap(watch, stopwatch.laps().wrapping_sub(1)) {
                        mem.store(lap, stopwatch.lap_ns());
                    }
                }
                Some(_) => {}
                None => run.bad += 1,
            }
            run.taken += 1;
            more = end.advance(mem);
            at = self.times.nearest(end.head.stamp());
        }
        let record = stopwatch.record(true);
        record.publish_counts(mem, offset, &mut stopwatch.seq, None);
        self.posts.taken(mem, next.ring, more);
        run
    }

    /// Answers what is in a slot, and leaves the answer in its place.
    #[inline(always)]
    pub(super) fn respond(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        posted: &mut Posted,
        budget: &mut Budget,
    ) -> Responded {
        // The short way, which nearly all requests go.
        if let Some((watch, act)) = slot::act(&posted.words, self.features) {
            if !posted.bad_owner && self.existing.contains(watch) {
                if let Some((status, reading)) = self.act(mem, clock, watch, act, budget) {
                    let status = status.to_wire();
                    posted.words = slot::encode_reply(&posted.words, status, watch, &reading);
                    return Responded::Good;
                }
            }
        }
        // A copy, so that those that go the short way need not be in memory.
        let request = *posted;
        let (words, responded) = self.respond_to_any(mem, clock, functions, ring, &request, budget);
        posted.words = words;
        responded
    }

    /// Answers what is in a slot, whatever that is: the words of the answer.
    #[cold]
    #[inline(never)]
    fn respond_to_any(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        posted: &Posted,
        budget: &mut Budget,
    ) -> (SlotWords, Responded) {
        budget.charge(Budget::REQUEST_OTHER);
        let words = &posted.words;
        let reply = if posted.bad_owner {
            Reply::refusal(words, Status::BadOwner)
        } else {
            self.answer(mem, clock, functions, ring, words, budget)
        };
        let responded = if self.unclean {
            Responded::Later
        } else if reply.is_bad() {
            Responded::Bad
        } else {
            Responded::Good
        };
        (reply.encode(words), responded)
    }

    /// Validates a request of the guest, and does what it asks for. VM time is that of
    /// the last [`Times::advance`].
    fn answer(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        words: &SlotWords,
        budget: &mut Budget,
    ) -> Reply {
        match self.carry_out(
            mem,
            clock,
            functions,
            Asker::Guest(ring),
            Asked::decode(words),
            budget,
        ) {
            Ok(reply) => reply,
            Err(status) => Reply::refusal(words, status),
        }
    }

    /// Does what a program of the host asks for.
    pub(super) fn command(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        watch: u32,
        command: Command,
    ) -> Reply {
        let asked = Asked::by_host(watch, command);
        self.carry_out(mem, clock, &(), Asker::Host, asked, &mut Budget::new(0))
            .unwrap_or_else(|status| Reply::refused(watch, status))
    }

    /// Validates what is asked for, and does it.
    fn carry_out(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        asker: Asker,
        asked: Result<Asked, Status>,
        budget: &mut Budget,
    ) -> Result<Reply, Status> {
        let asked = asked?;
        let context = Context {
            asker,
            existing: &self.existing,
            offered: self.policy.features,
            features: self.features,
            min_interval_ns: self.policy.min_interval_ns,
        };
        let needs = match asked.is_function() {
            true => functions.feature(asked.op).ok_or(Status::BadOp)?,
            false => 0,
        };
        let (watch, command) = context.validate(&asked, needs)?;
        let done = match command {
            Command::Function { op, arg } => self.call(functions, op, arg),
            Command::Create(identity) => {
                budget.charge(Budget::REQUEST_LONG);
                self.create(mem, clock, identity)
            }
            _ => self.execute(mem, clock, watch, command, asker, budget),
        }?;
        Ok(self.reply(&done))
    }

    /// Has the host do what is no stopwatch's work.
    fn call(&self, functions: &impl Functions, op: u16, arg: u64) -> Result<Done, Status> {
        let status = functions.call(op, arg);
        if status.is_refused() {
            return Err(status);
        }
        let now = self.times.vm_time();
        Ok(Done {
            watch: 0,
            status,
            now,
            before: Some(Reading {
                time_ns: now,
                ..Reading::default()
            }),
        })
    }

    /// Does what a valid request asks of a stopwatch, and publishes what that changed.
    fn execute(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        watch: u32,
        command: Command,
        asker: Asker,
        budget: &mut Budget,
    ) -> Result<Done, Status> {
        if let Command::Act(act) = command {
            let (status, reading) = self
                .act(mem, clock, watch, act, budget)
                .ok_or(Status::BadWatch)?;
            return Ok(Done {
                watch,
                status,
                now: reading.time_ns,
                before: Some(reading),
            });
        }
        let stopwatch = self.kept.get_mut(watch).ok_or(Status::BadWatch)?;
        let now = self.times.own(clock, stopwatch.identity.time_base);

        // Only the guest arms timeouts.
        let ring = match asker {
            Asker::Guest(ring) => ring,
            Asker::Host => 0,
        };
        let mut done = Done {
            watch,
            status: Status::Ok,
            now,
            before: None,
        };
        budget.charge(match command {
            Command::ReadReset | Command::Timeout(_) => Budget::TIMEOUT,
            _ => Budget::REQUEST_LONG,
        });
        match command {
            // They were done before.
            Command::Act(_) | Command::Create(_) | Command::Function { .. } => {
                return Err(Status::BadOp)
            }
            Command::ReadReset => {
                done.before = Some(stopwatch.read(now, self.times.vm_time()));
                stopwatch.reset();
                self.disarm(mem, watch);
            }
            Command::Timeout(timeout) if timeout.disarms() => self.disarm(mem, watch),
            Command::Timeout(timeout) => {
                stopwatch.set_timeout(Timeout {
                    target: timeout.at_elapsed.then_some(timeout.ns),
                    interval: timeout.interval_ns,
                });
                stopwatch.armed_by = ring;
                let deadline = match timeout.at_elapsed {
                    true => stopwatch.elapsed_deadline(now, None),
                    false => Some(now.saturating_add(timeout.ns)),
                };
                if let Some(deadline) = deadline {
                    self.kept.arm(watch, deadline);
                }
                self.publish(mem, watch);
            }
            Command::Delete => self.delete(mem, watch),
            Command::SetMode { uid, mode } => {
                stopwatch.identity.uid = uid;
                stopwatch.identity.mode = mode;
                self.publish(mem, watch);
                // Who may go on is told when it is bound again.
                self.posts.unbind_watch(mem, watch);
            }
            Command::Bind(binding) => self.posts.bind(mem, binding, watch)?,
            Command::Unbind(binding) => self.posts.end_binding(mem, binding)?,
            Command::SetFeatures(features) => {
                self.set_features(features);
                self.clean(mem, budget);
            }
        }
        Ok(done)
    }

    /// The reply to a request that is not refused.
    fn reply(&self, done: &Done) -> Reply {
        let read = |stopwatch: &Stopwatch| stopwatch.read(done.now, self.times.vm_time());
        let now = || self.kept.get(done.watch).map(read);
        Reply {
            status: Ok(done.status),
            watch: done.watch,
            reading: done.before.or_else(now).unwrap_or_default(),
        }
    }

    /// Does something with a stopwatch, publishes it, and reads it. `None` if there
    /// is no storage for one of that number.
    #[inline(always)]
    fn act(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        watch: u32,
        act: Act,
        budget: &mut Budget,
    ) -> Option<(Status, Reading)> {
        let stopwatch = self.kept.get_mut(watch)?;
        let now = self.times.own(clock, stopwatch.identity.time_base);
        let status = stopwatch.act(act, now);
        if status == Status::Ok && act != Act::Read {
            let mut lap = None;
            if act == Act::Lap {
                lap = self.layout.lap(watch, stopwatch.laps().wrapping_sub(1));
            } else if stopwatch.has_timeout() {
                self.follow(mem, watch, act, now, budget);
            }
            self.publish_counts(mem, watch, lap);
        }
        let stopwatch = self.kept.get(watch)?;
        Some((status, stopwatch.read(now, self.times.vm_time())))
    }

    /// [`Self::act`], if there is such a stopwatch, and its timeout has not to follow.
    #[inline(always)]
    pub(super) fn act_alone(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        watch: u32,
        act: Act,
    ) -> Option<(Status, Reading)> {
        if !self.existing.contains(watch) {
            return None;
        }
        let stopwatch = self.kept.get_mut(watch)?;
        let follows = !matches!(act, Act::Read | Act::Lap);
        if follows && stopwatch.has_timeout() {
            return None;
        }
        let now = self.times.own(clock, stopwatch.identity.time_base);
        let status = stopwatch.act(act, now);
        let reading = stopwatch.read(now, self.times.vm_time());
        if status == Status::Ok && act != Act::Read {
            let lap = if act == Act::Lap {
                self.layout.lap(watch, reading.laps.wrapping_sub(1))
            } else {
                None
            };
            self.publish_counts(mem, watch, lap);
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
                now: self.times.own(clock, self.time_base_of(other)),
                before: None,
            });
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
        Ok(Done {
            watch,
            status: Status::Ok,
            now: self.times.own(clock, identity.time_base),
            before: None,
        })
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
    fn disarm(&mut self, mem: &impl Memory, watch: u32) {
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
            budget.charge(self.layout.post_rings() * POST);
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

    fn time_base_of(&self, watch: u32) -> TimeBase {
        let stopwatch = self.kept.get(watch);
        stopwatch.map_or(TimeBase::default(), |stopwatch| {
            stopwatch.identity.time_base
        })
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
