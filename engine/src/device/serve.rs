// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Answering what waits in the rings, for doorbells and for [`Device::work`].

use super::Device;
use super::Served;
use super::REQUEST;
use crate::engine::budget::Budget;
use crate::engine::environment::Environment;
use crate::engine::heads::Choice;
use crate::engine::heads::Head;
use crate::engine::heads::Set;
use crate::engine::heads::Source;
use crate::engine::requests::Responded;
use crate::engine::storage::Storage;
use crate::protocol::memory::Memory;
use crate::protocol::ring::Posted;
use crate::protocol::slot;
use crate::uapi;

/// So often all rings are looked at before something is taken, and once more if the
/// budget allows it. What an honest guest has posted is found in two looks; each further
/// one would be for somebody who posts while they go on.
const LOOKS: u32 = 2;

impl<S: Storage> Device<S> {
    /// Answers the request in a ring, if that is a call that acts on a stopwatch, and
    /// nothing else is to be done before it: what nearly all doorbells are about. `None` if
    /// not, and [`Self::vmm`] and [`Self::serve_rest`] have to be called. Otherwise says
    /// whether more waits in the ring, for the same two. No deadline is another one then
    /// than before.
    ///
    /// This is one function with the doorbell around it, and has no loop: what is kept
    /// in memory only to be handed on would be a tenth of the work.
    #[inline(always)]
    pub fn serve_one(&mut self, env: &impl Environment, ring: u32) -> Option<bool> {
        let mem = env.memory();
        if self.begun || mem.load_acquire(self.stopwatches.layout.vmm()) != self.vmm_word {
            return None;
        }
        let (end, others) = self.rings.one(ring)?;
        let stopwatches = &mut self.stopwatches;
        stopwatches.times.advance(env.clock());
        let mut posted = Posted::default();
        if !end.next(mem, &mut posted) || posted.bad_owner {
            return None;
        }
        let (watch, generation, act) = slot::act(&posted.words, 0)?;
        // The others are looked at after the request was found: see `Head`.
        if stopwatches.has(uapi::STOPWATCH_F_POSTED)
            && (stopwatches.posts.any_waits(mem) || others.any_waits(mem))
        {
            return None;
        }
        stopwatches.times.settle();
        let (status, reading) = stopwatches.act_alone(env, watch, generation, act)?;
        let status = status.to_wire();
        let mut words = slot::encode_reply(&posted.words, status, watch, &reading);
        end.complete(mem, &mut words);
        self.stats.requests = self.stats.requests.wrapping_add(1);
        Some(end.waiting(mem))
    }

    /// Answers the requests in a ring, within the budget. While `STOPWATCH_F_POSTED` is
    /// on, these are the ones in all rings, and what is in the post rings. While a
    /// reset or a change of features is not complete, nothing is served.
    pub fn serve(&mut self, env: &impl Environment, ring: u32, budget: &mut Budget) -> Served {
        let Some(more) = self.serve_one(env, ring) else {
            return self.serve_rest(env, ring, budget);
        };
        let mut served = Served::default();
        budget.charge(self.look + REQUEST);
        if more && budget.is_spent() {
            served.more = true;
        } else if more {
            served = self.serve_rest(env, ring, budget);
        }
        served.answered += 1;
        served
    }

    /// [`Self::serve`], for who has called [`Self::serve_one`].
    pub fn serve_rest(&mut self, env: &impl Environment, ring: u32, budget: &mut Budget) -> Served {
        let mem = env.memory();
        let mut served = Served::default();
        if self.pending {
            served.more = true;
            return served;
        }
        let stopwatches = &mut self.stopwatches;
        if self.cut.is_active() && stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            stopwatches.times.advance(env.clock());
            return self.serve_all(env, ring, budget, served);
        }
        let Some((end, others)) = self.rings.one(ring) else {
            return served;
        };
        stopwatches.times.advance(env.clock());
        let mut posted = Posted::default();
        // VM time, read before the others were looked at last.
        let mut looked = 0;
        loop {
            let found = end.next(mem, &mut posted);
            let stamp = if found {
                slot::stamp(&posted.words)
            } else {
                slot::NOT_POSTED
            };
            // Mostly nothing waits but in this ring, and no order has to be made. The
            // others are looked at after a request was found in this one, or if there is
            // none; what was stamped before the last look needs no further one: see `Head`.
            if stamp >= looked
                && (found || served.answered == 0)
                && stopwatches.has(uapi::STOPWATCH_F_POSTED)
            {
                if stopwatches.posts.any_waits(mem) || others.any_waits(mem) {
                    return self.serve_all(env, ring, budget, served);
                }
                budget.charge(self.look);
                looked = stopwatches.times.now();
            }
            if !found {
                break;
            }
            if stopwatches.lacks_storage(&posted.words) {
                served.more = true;
                break;
            }
            if stamp > stopwatches.times.now() && stamp != slot::NOT_POSTED {
                stopwatches.times.advance(env.clock());
            }
            stopwatches.times.act_at(stopwatches.times.nearest(stamp));
            let bad = match stopwatches.respond(env, ring, &mut posted, budget) {
                Responded::Good => false,
                Responded::Bad => true,
                Responded::Later => {
                    self.pending = true;
                    self.begun = true;
                    served.more = true;
                    break;
                }
            };
            end.complete(mem, &mut posted.words);
            served.count(bad);
            budget.charge(REQUEST);
            if budget.is_spent() {
                served.more = end.waiting(mem);
                break;
            }
        }
        self.note(served)
    }

    /// Takes what waits in all rings, of both kinds, in the order of the stamps, after what
    /// was served before.
    pub(super) fn serve_all(
        &mut self,
        env: &impl Environment,
        first: u32,
        budget: &mut Budget,
        mut served: Served,
    ) -> Served {
        let mem = env.memory();
        self.rings.begin(mem, first);
        self.look(mem, budget);
        let mut progress = served.answered != 0;
        let mut looks = 1;
        loop {
            if budget.is_spent() && progress {
                break;
            }
            budget.charge(self.choice);
            let (waiting, calls) = (self.waiting(), self.calls());
            let late = self.cut.pending().and(calls).and(self.cut.calls());
            // A call that nobody has waited for has what was there before it done first.
            let another = !calls.is_empty() && late.is_empty() && !self.cut.settles();
            if !self.cut.is_active() || another {
                if waiting.is_empty() && !self.cut.is_wanted() {
                    break;
                }
                let posts = self.stopwatches.posts.numbers();
                self.cut.begin(calls, self.rings.numbers().chain(posts));
                budget.charge(self.choice);
                continue;
            }
            // A call that was found since it began joins it or is of the next one: what was
            // posted before that may be in a ring that was seen empty.
            let found_later = self.cut.pending().and(calls).without(self.cut.calls());
            self.cut.join(found_later, waiting);
            let not_of_it = calls.without(self.cut.calls());
            let left = self.cut.pending().and(waiting).without(not_of_it);
            if left.is_empty() {
                if waiting.is_empty() {
                    self.cut.end_all();
                    break;
                }
                self.cut.end();
                continue;
            }
            let among = if !left.without(calls).is_empty() {
                self.cut.open().without(calls)
            } else if self.cut.expel(waiting) {
                continue;
            } else {
                // Where there is no further look, one that had its look comes first.
                let looked = left.without(self.fresh());
                match looks >= LOOKS && !looked.is_empty() {
                    true => looked,
                    false => left,
                }
            };
            let Some(head) = self.earliest(among) else {
                break;
            };
            if head.look_again && (looks < LOOKS || looks == LOOKS && !budget.is_spent()) {
                looks += 1;
                self.stopwatches.times.advance(env.clock());
                self.look(mem, budget);
                continue;
            }
            looks = 0;
            progress = true;
            match head.source {
                Source::Posts(ring) => {
                    let (number, capacity) = self.progress(head.source);
                    let limit = self.cut.left(head.source, number, capacity);
                    let run = self.stopwatches.take_posts(env, ring, &head, limit, budget);
                    served.answered += run.taken;
                    served.bad += run.bad;
                }
                Source::Requests(ring) => {
                    let stopwatches = &mut self.stopwatches;
                    let mut posted = self.rings.head(ring);
                    if stopwatches.lacks_storage(&posted.words) {
                        self.rings.hold(ring);
                        self.cut.hold(head.source);
                        continue;
                    }
                    stopwatches.times.act_at(head.at);
                    budget.charge(REQUEST);
                    let bad = match stopwatches.respond(env, ring, &mut posted, budget) {
                        Responded::Good => false,
                        Responded::Bad => true,
                        Responded::Later => {
                            self.pending = true;
                            break;
                        }
                    };
                    self.rings.complete(mem, ring, &mut posted.words);
                    served.count(bad);
                }
            }
            let (number, capacity) = self.progress(head.source);
            let more = !self.waiting().and(Set::of(head.source)).is_empty();
            self.cut.took(head.source, number, capacity, more);
            if !self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
                // The others are served by themselves from now on.
                self.cut.end_all();
                break;
            }
        }
        served.more = self.pending || self.rings.any_waits() || self.waiting().posts != 0;
        if !served.more {
            self.cut.end_all();
        }
        self.begun = self.pending || self.cut.is_active();
        self.note(served)
    }

    /// Looks at all rings of which nothing waits.
    fn look(&mut self, mem: &impl Memory, budget: &mut Budget) {
        self.rings.look(mem);
        self.stopwatches.posts.look(mem);
        budget.charge(self.look);
        self.cut.looked(self.waiting());
    }

    /// Rings in which something was found.
    fn waiting(&self) -> Set {
        Set {
            requests: self.rings.found().waiting,
            posts: self.stopwatches.posts.found().waiting,
        }
    }

    /// Of these, the ones in which it was found since the last look at all rings began.
    fn fresh(&self) -> Set {
        Set {
            requests: self.rings.found().fresh,
            posts: self.stopwatches.posts.found().fresh,
        }
    }

    /// Of those that wait, the ones in which that was not posted.
    fn calls(&self) -> Set {
        Set {
            requests: self.rings.calls(),
            ..Set::NONE
        }
    }

    /// What comes first in some of the rings; of what is of one time, what is in request
    /// rings, and then by the numbers of the rings.
    fn earliest(&self, among: Set) -> Option<Head> {
        let mut choice = Choice::new(&self.stopwatches.times);
        self.rings.among(among.requests, &mut choice);
        self.stopwatches.posts.among(among.posts, &mut choice);
        choice.head(self.fresh())
    }

    /// How many were taken from a ring, and how many it holds.
    fn progress(&self, source: Source) -> (u32, u32) {
        match source {
            Source::Requests(ring) => self.rings.progress(ring),
            Source::Posts(ring) => self.stopwatches.posts.progress(ring),
        }
    }

    /// Notes what was done in the device's own counts.
    pub(super) fn note(&mut self, mut served: Served) -> Served {
        if !served.more {
            self.stopwatches.times.settle();
        }
        // A stopwatch that was deleted since then may have made it needless.
        served.wants_storage =
            self.stopwatches.storage_wanted && self.stopwatches.wants_storage().is_some();
        served.deadline_changed = self.stopwatches.kept.deadlines.take_changed();
        self.stats.requests = self.stats.requests.wrapping_add(served.answered.into());
        self.stats.bad_requests = self.stats.bad_requests.wrapping_add(served.bad.into());
        served
    }
}

impl Served {
    fn count(&mut self, bad: bool) {
        self.answered += 1;
        self.bad += u32::from(bad);
    }
}
