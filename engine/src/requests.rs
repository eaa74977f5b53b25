// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What the guest and programs of the host ask for: it is validated, carried out and
//! answered. How it gets here is not in this file, and what stopwatches are is not.

use super::budget::Budget;
use super::environment::Environment;
use super::heads::Head;
use super::stopwatch::Stopwatch;
use super::stopwatch::Timeout;
use super::stopwatches::Stopwatches;
use super::storage::Storage;
use super::validate::Asker;
use super::validate::Context;
use crate::protocol::clock::TimeBase;
use crate::protocol::command::Act;
use crate::protocol::command::Command;
use crate::protocol::memory::Memory;
use crate::protocol::reading::Reading;
use crate::protocol::ring::Posted;
use crate::protocol::ring::SlotWords;
use crate::protocol::slot;
use crate::protocol::slot::Asked;
use crate::protocol::slot::Reply;
use crate::protocol::slot::Status;

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
    /// Answers what is in a slot, and leaves the answer in its place.
    #[inline(always)]
    pub(super) fn respond(
        &mut self,
        env: &impl Environment,
        ring: u32,
        posted: &mut Posted,
        budget: &mut Budget,
    ) -> Responded {
        // The short way, which nearly all requests go.
        if let Some((watch, generation, act)) = slot::act(&posted.words, self.features) {
            if !posted.bad_owner && self.is(watch, generation) {
                if let Some((status, reading)) = self.act(env, watch, act, budget) {
                    let status = status.to_wire();
                    posted.words = slot::encode_reply(&posted.words, status, watch, &reading);
                    return Responded::Good;
                }
            }
        }
        // A copy, so that those that go the short way need not be in memory.
        let request = *posted;
        let (words, responded) = self.respond_to_any(env, ring, &request, budget);
        posted.words = words;
        responded
    }

    /// Answers what is in a slot, whatever that is: the words of the answer.
    #[cold]
    #[inline(never)]
    fn respond_to_any(
        &mut self,
        env: &impl Environment,
        ring: u32,
        posted: &Posted,
        budget: &mut Budget,
    ) -> (SlotWords, Responded) {
        budget.charge(Budget::REQUEST_OTHER);
        let words = &posted.words;
        let reply = if posted.bad_owner {
            Reply::refusal(words, Status::BadOwner)
        } else {
            self.answer(env, ring, words, budget)
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
    /// the last [`Times::advance`](super::times::Times::advance).
    fn answer(
        &mut self,
        env: &impl Environment,
        ring: u32,
        words: &SlotWords,
        budget: &mut Budget,
    ) -> Reply {
        match self.carry_out(env, Asker::Guest(ring), Asked::decode(words), budget) {
            Ok(reply) => reply,
            Err(status) => Reply::refusal(words, status),
        }
    }

    /// Does what a program of the host asks for.
    pub(super) fn command(
        &mut self,
        env: &impl Environment,
        watch: u32,
        command: Command,
    ) -> Reply {
        let asked = Asked::by_host(watch, command);
        self.carry_out(env, Asker::Host, asked, &mut Budget::new(0))
            .unwrap_or_else(|status| Reply::refused(watch, status))
    }

    /// Validates what is asked for, and does it.
    fn carry_out(
        &mut self,
        env: &impl Environment,
        asker: Asker,
        asked: Result<Asked, Status>,
        budget: &mut Budget,
    ) -> Result<Reply, Status> {
        let asked = asked?;
        let context = Context {
            asker,
            existing: &self.existing,
            generation: self.generation(asked.watch),
            offered: self.policy.features,
            features: self.features,
            min_interval_ns: self.policy.min_interval_ns,
        };
        let needs = match asked.is_function() {
            true => env.feature(asked.op).ok_or(Status::BadOp)?,
            false => 0,
        };
        let (watch, command) = context.validate(&asked, needs)?;
        let done = match command {
            Command::Function { op, arg } => self.call(env, op, arg),
            Command::Create(identity) => {
                budget.charge(Budget::REQUEST_LONG);
                let (watch, status) = self.create(env.memory(), identity)?;
                let now = self.times.own(env.clock(), self.time_base_of(watch));
                Ok(Done {
                    watch,
                    status,
                    now,
                    before: None,
                })
            }
            _ => self.execute(env, watch, command, asker, budget),
        }?;
        let mut reply = self.reply(&done);
        if matches!(command, Command::Create(_)) {
            reply.generation = self.generation(done.watch);
        }
        Ok(reply)
    }

    /// Has the host do what is no stopwatch's work.
    fn call(&self, env: &impl Environment, op: u16, arg: u64) -> Result<Done, Status> {
        let status = env.call(op, arg);
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
        env: &impl Environment,
        watch: u32,
        command: Command,
        asker: Asker,
        budget: &mut Budget,
    ) -> Result<Done, Status> {
        let mem = env.memory();
        if let Command::Act(act) = command {
            let (status, reading) = self.act(env, watch, act, budget).ok_or(Status::BadWatch)?;
            return Ok(Done {
                watch,
                status,
                now: reading.time_ns,
                before: Some(reading),
            });
        }
        let stopwatch = self.kept.get_mut(watch).ok_or(Status::BadWatch)?;
        let now = self.times.own(env.clock(), stopwatch.identity.time_base);

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
            generation: 0,
            reading: done.before.or_else(now).unwrap_or_default(),
        }
    }

    fn time_base_of(&self, watch: u32) -> TimeBase {
        let stopwatch = self.kept.get(watch);
        stopwatch.map_or(TimeBase::default(), |stopwatch| {
            stopwatch.identity.time_base
        })
    }

    /// Carries out the post at the head of a ring, and those that follow it there whose time
    /// is before what else waits, or is to come; `limit` of them at most. What comes of them
    /// is published once.
    pub(super) fn take_posts(
        &mut self,
        env: &impl Environment,
        ring: u32,
        head: &Head,
        limit: u32,
        budget: &mut Budget,
    ) -> Run {
        let mem = env.memory();
        let mut run = Run::default();
        let (Some(end), layout) = (self.posts.end(ring), &self.layout) else {
            return run;
        };
        let watch = end.watch;
        let (Some(stopwatch), Some(offset)) = (self.kept.get_mut(watch), layout.record(watch))
        else {
            // Nothing is bound to what there is no storage for, and nobody waits for it.
            self.posts.unbind(mem, ring);
            return run;
        };
        let has_timeout = stopwatch.has_timeout();
        let moves_deadline = |act: &Act| has_timeout && *act != Act::Lap;
        let mut more = true;
        let mut at = head.at;
        let until = head.until.min(self.times.now());

        // That is taken by itself.
        if let Some(act) = end.head.act().filter(moves_deadline) {
            more = end.advance(mem);
            run.taken = 1;
            self.times.act_at(at);
            self.act(env, watch, act, budget);
            self.posts.taken(mem, ring, more);
            budget.charge(Budget::POST);
            return run;
        }
        stopwatch.record(true).begin(mem, offset, stopwatch.seq);
        while more && (run.taken == 0 || run.taken < limit && !budget.is_spent() && at < until) {
            budget.charge(Budget::POST);
            let act = end.head.act();
            if act.as_ref().is_some_and(moves_deadline) {
                break;
            }
            self.times.act_at(at);
            let now = self.times.own(env.clock(), stopwatch.identity.time_base);
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
        self.posts.taken(mem, ring, more);
        run
    }
}
