// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's end of a device: all state that counts is here, private. What is
//! in the region is read once and validated, or a published copy.

use super::budget::Budget;
use super::clock::Clock;
use super::cut::Cut;
use super::cut::Set;
use super::functions::Functions;
use super::kept::Chunk;
use super::policy::Policy;
use super::posts::PostRings;
use super::rate::Rate;
use super::reset::Reset;
use super::rings::Next;
use super::rings::Rings;
use super::stopwatches::Responded;
use super::stopwatches::Stopwatches;
use super::storage::Storage;
use crate::protocol::command::Command;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::name::Name;
use crate::protocol::record::Laps;
use crate::protocol::record::Record;
use crate::protocol::ring::Posted;
use crate::protocol::ring::Poster;
use crate::protocol::slot;
use crate::protocol::slot::Reply;
use crate::protocol::words::field;
use crate::protocol::words::store_from;
use crate::protocol::words::words_of;
use crate::uapi;

/// How long after a run of [`Device::expire`] that was not done the next one is, in
/// ns: often enough for the guest, and seldom enough for the CPU.
const RUN_GAP_NS: u64 = 100_000;

/// After a run that told nothing for want of tokens the next one is so far away, in
/// ns.
const RATE_GAP_NS: u64 = 1_000_000;

// Units of a [`Budget`].
/// For an act on a stopwatch that has no timeout.
const REQUEST: u32 = 250;
/// For a look at all rings: around it, and for each ring of a kind.
const LOOK: u32 = 60;
const LOOK_RING: u32 = 60;
const LOOK_POSTS: u32 = 30;
/// For the choice between rings, each.
const CHOICE: u32 = 24;
/// For a look at six heaps and clocks, in which no timeout was found.
const NOT_DUE: u32 = 300;

/// So often all rings are looked at before something is taken, and once more if the
/// budget allows it. What an honest guest has posted is found in two looks; each further
/// one would be for somebody who posts while they go on.
const LOOKS: u32 = 2;

/// How far [`Device::expire`] has come.
#[derive(Clone, Copy, Debug)]
enum Expiry {
    Idle,
    /// It waits for a cut that began at this VM time.
    Settling(Settle, u64),
    /// What was due at this VM time may be told.
    Ready(u64),
}

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
    /// The one of this number; 0 where none is meant.
    Number(u32),
    /// The one that has this name.
    Name(Name),
}

/// How far [`Device::settle`] has come for one caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settle {
    /// The number of the cut that the caller waits for; `None` before the first slice.
    cut: Option<u32>,
    /// The generation of the last reset that the VMM asked for before the caller began.
    reset: Option<u32>,
}

/// What [`Device::settle`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "there may be more to do, and the timer to program"]
pub struct Settled {
    /// All is carried out that was posted when the caller began.
    pub done: bool,
    /// A reset has begun since the caller did: what was posted then is forgotten.
    pub reset: bool,
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
    /// More storage is wanted: see [`Device::wants_storage`].
    pub wants_storage: bool,
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
    cut: Cut,
    /// Nothing is served until [`Device::work`] has done what is begun.
    pending: bool,
    /// Whether [`Self::serve_one`] may not answer: `pending`, or a cut is being carried out.
    begun: bool,
    reset: Option<Reset>,
    expiry: Expiry,
    rate: Rate,
    vmm_status: u32,
    /// The word that the VMM had written when it was looked at last.
    vmm_word: u64,
    /// Of the last reset that is complete.
    reset_generation: u32,
    /// Of the last reset that the VMM asked for.
    reset_wanted: u32,
    /// Units for a look at all rings, and for the choice of the next one.
    look: u32,
    choice: u32,
    /// The ring that [`Device::work`] begins with.
    turn: u32,
    stats: Stats,
}

impl<S: Storage> Device<S> {
    /// A device at VM time 0. The numbered stopwatches exist, stopped at 0; all
    /// rings are empty.
    pub fn new(layout: Layout, policy: Policy) -> Result<Self, S::Error> {
        let (rings, posts) = (layout.geometry().rings, layout.post_rings());
        Ok(Self {
            stopwatches: Stopwatches::new(layout, policy)?,
            rings: Rings::new(&layout)?,
            events: Poster::new(layout.events()),
            cut: Cut::NONE,
            pending: false,
            begun: false,
            reset: None,
            expiry: Expiry::Idle,
            rate: Rate::default(),
            vmm_status: uapi::STOPWATCH_VMM_RUNNING,
            vmm_word: u64::from(uapi::STOPWATCH_VMM_RUNNING),
            reset_generation: 0,
            reset_wanted: 0,
            look: LOOK + rings * LOOK_RING + posts * LOOK_POSTS,
            choice: LOOK + (rings + posts) * CHOICE,
            turn: 0,
            stats: Stats::default(),
        })
    }

    /// How many more stopwatches there should be storage for.
    pub fn wants_storage(&self) -> Option<u32> {
        self.stopwatches.wants_storage()
    }

    /// Gives it storage, for as many as [`Self::wants_storage`] says. It is given back if
    /// it is not wanted any more, as there was some meanwhile; to be dropped where
    /// that may be done.
    pub fn set_storage(&mut self, storage: Chunk<S>) -> Option<Chunk<S>> {
        self.stopwatches.set_storage(storage)
    }

    /// There is no more storage to be had now. A stopwatch that waits for it is
    /// refused.
    pub fn deny_storage(&mut self) {
        self.stopwatches.deny_storage();
    }

    /// Writes what the guest and the VMM read into a region that is all zero:
    /// `struct stopwatch_info` and the state pages.
    pub fn publish_all(&mut self, mem: &impl Memory) {
        let stopwatches = &mut self.stopwatches;
        let info = stopwatches.layout.info(stopwatches.policy.features);
        store_from(mem, 0, &info, 0);
        for watch in 0..stopwatches.kept.count() {
            stopwatches.publish(mem, watch);
        }
        self.publish_state(mem);
    }

    /// Answers the request in a ring, if that is a call that acts on a stopwatch, and
    /// nothing else is to be done before it: what nearly all doorbells are about. `None` if
    /// not, and [`Self::vmm`] and [`Self::serve_rest`] have to be called. Otherwise says
    /// whether more waits in the ring, for the same two. No deadline is another one then
    /// than before.
    ///
    /// This is one function with the doorbell around it, and has no loop: what is kept
    /// in memory only to be handed on would be a tenth of the work.
    #[inline(always)]
    pub fn serve_one(&mut self, mem: &impl Memory, clock: &impl Clock, ring: u32) -> Option<bool> {
        if self.begun || mem.load_acquire(self.stopwatches.layout.vmm()) != self.vmm_word {
            return None;
        }
        let (end, others) = self.rings.one(ring)?;
        let stopwatches = &mut self.stopwatches;
        stopwatches.times.advance(clock);
        let mut posted = Posted::default();
        if !end.next(mem, &mut posted) || posted.bad_owner {
            return None;
        }
        let (watch, act) = slot::act(&posted.words, 0)?;
        // The others are looked at after the request was found, as in `Rings`.
        if stopwatches.has(uapi::STOPWATCH_F_POSTED)
            && (stopwatches.posts.any_waits(mem) || others.any_waits(mem))
        {
            return None;
        }
        stopwatches.times.settle();
        let (status, reading) = stopwatches.act_alone(mem, clock, watch, act)?;
        let status = status.to_wire();
        let mut words = slot::encode_reply(&posted.words, status, watch, &reading);
        end.complete(mem, &mut words);
        self.stats.requests = self.stats.requests.wrapping_add(1);
        Some(end.waiting(mem))
    }

    /// Answers the requests in a ring, within the budget. While `STOPWATCH_F_POSTED` is
    /// on, these are the ones in all rings, and what is in the post rings. While a
    /// reset or a change of features is not complete, nothing is served.
    pub fn serve(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        budget: &mut Budget,
    ) -> Served {
        let Some(more) = self.serve_one(mem, clock, ring) else {
            return self.serve_rest(mem, clock, functions, ring, budget);
        };
        let mut served = Served::default();
        budget.charge(self.look + REQUEST);
        if more && budget.is_spent() {
            served.more = true;
        } else if more {
            served = self.serve_rest(mem, clock, functions, ring, budget);
        }
        served.answered += 1;
        served
    }

    /// [`Self::serve`], for who has called [`Self::serve_one`].
    pub fn serve_rest(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        ring: u32,
        budget: &mut Budget,
    ) -> Served {
        let mut served = Served::default();
        if self.pending {
            served.more = true;
            return served;
        }
        let stopwatches = &mut self.stopwatches;
        if self.cut.is_active() && stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            stopwatches.times.advance(clock);
            return self.serve_all(mem, clock, functions, ring, budget, served);
        }
        let Some((end, others)) = self.rings.one(ring) else {
            return served;
        };
        stopwatches.times.advance(clock);
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
                stopwatches.times.advance(clock);
            }
            stopwatches.times.act_at(stopwatches.times.nearest(stamp));
            let bad = match stopwatches.respond(mem, clock, functions, ring, &mut posted, budget) {
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

    /// Does a slice of what is left to be done: a reset, a change of features, and what
    /// waits in the rings. `more` says that there is still some.
    pub fn work(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        budget: &mut Budget,
    ) -> Served {
        if self.pending {
            self.work_pending(mem, budget);
            let more = Served {
                more: true,
                ..Served::default()
            };
            return self.note(more);
        }
        if self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            self.stopwatches.times.advance(clock);
            return self.serve_all(mem, clock, functions, 0, budget, Served::default());
        }
        let rings = self.layout().geometry().rings;
        let mut all = Served::default();
        for _ in 0..rings {
            if budget.is_spent() {
                all.more = true;
                break;
            }
            let ring = self.turn;
            self.turn = if ring + 1 < rings { ring + 1 } else { 0 };
            budget.charge(LOOK);
            let served = self.serve(mem, clock, functions, ring, budget);
            all.answered += served.answered;
            all.bad += served.bad;
            all.more |= served.more;
            all.wants_storage |= served.wants_storage;
            all.deadline_changed |= served.deadline_changed;
        }
        all
    }

    /// Does a slice of what was begun and blocks the rings.
    fn work_pending(&mut self, mem: &impl Memory, budget: &mut Budget) {
        if self.stopwatches.unclean {
            self.stopwatches.clean(mem, budget);
        }
        if self.stopwatches.unclean {
            return;
        }
        while let Some(reset) = self.reset {
            self.reset = self.reset_step(mem, reset, budget);
            if self.reset.is_none() {
                break;
            }
            if budget.is_spent() {
                return;
            }
        }
        self.pending = self.reset.is_some();
        self.begun = self.pending || self.cut.is_active();
    }

    /// A step of a reset, and where it goes on.
    fn reset_step(
        &mut self,
        mem: &impl Memory,
        reset: Reset,
        budget: &mut Budget,
    ) -> Option<Reset> {
        let slots = self.events.slots();
        let next = reset.step(mem, &mut self.stopwatches, &mut self.rings, slots, budget);
        if next.is_none() {
            self.events = Poster::new(slots);
            self.cut.end_all();
            self.stats.resets = self.stats.resets.wrapping_add(1);
            self.reset_generation = self.reset_wanted;
            self.publish_state(mem);
        }
        next
    }

    /// Does a slice of what was posted when `state` was new: at most one capacity of
    /// each ring, and what others waited for before. When it is done, the caller acts,
    /// or looks at the device, without letting go of it between the two: after that
    /// nothing is carried out as of a time before it.
    pub fn settle(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        state: &mut Settle,
        budget: &mut Budget,
    ) -> Settled {
        let began = *state.reset.get_or_insert(self.reset_wanted);
        let served = if self.pending || self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            if state.cut.is_none() && !self.pending {
                state.cut = Some(self.cut.settle(self.call_waits()));
            }
            self.work(mem, clock, functions, budget)
        } else {
            Served::default()
        };
        let over = state.cut.is_some_and(|number| self.cut.is_over(number));
        let off = !self.stopwatches.has(uapi::STOPWATCH_F_POSTED);
        Settled {
            done: !self.pending && (over || off),
            reset: self.reset_wanted != began,
            wants_storage: served.wants_storage,
            deadline_changed: served.deadline_changed,
        }
    }

    /// Does a slice of what doorbells have left over, for the task that does it:
    /// [`Self::settle`]; while nothing is posted, what waits in the rings. Whoever posts
    /// later does not prolong it.
    pub fn work_off(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        state: &mut Settle,
        budget: &mut Budget,
    ) -> Settled {
        if self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            return self.settle(mem, clock, functions, state, budget);
        }
        // A reset or a change of features that is not complete comes first there, too.
        let served = self.work(mem, clock, functions, budget);
        Settled {
            done: !served.more,
            reset: false,
            wants_storage: served.wants_storage,
            deadline_changed: served.deadline_changed,
        }
    }

    /// Whether a call waits for the present cut.
    fn call_waits(&self) -> bool {
        self.cut.is_active() && self.cut.pending().requests & self.cut.calls() != 0
    }

    /// Answers the requests in all rings, in the order of their stamps, after what
    /// was served before.
    fn serve_all(
        &mut self,
        mem: &impl Memory,
        clock: &impl Clock,
        functions: &impl Functions,
        first: u32,
        budget: &mut Budget,
        mut served: Served,
    ) -> Served {
        let stopwatches = &mut self.stopwatches;
        let found = |rings: &Rings<S>, posts: &PostRings<S>| Set {
            requests: rings.waiting(),
            posts: posts.waiting(),
        };
        self.rings.begin(mem, first);
        stopwatches.posts.look(mem);
        budget.charge(self.look);
        self.cut.looked(found(&self.rings, &stopwatches.posts));
        let mut progress = served.answered != 0;
        let mut looks = 1;
        loop {
            if budget.is_spent() && progress {
                break;
            }
            budget.charge(self.choice);
            let waiting = found(&self.rings, &stopwatches.posts);
            let calls = self.rings.calls();
            let late = self.cut.pending().requests & calls & self.cut.calls();
            // A call that nobody has waited for has what was there before it done first.
            let another = calls != 0 && late == 0 && !self.cut.settles();
            if !self.cut.is_active() || another {
                if waiting.is_empty() && !self.cut.is_wanted() {
                    break;
                }
                self.cut
                    .begin(calls, self.rings.numbers(), stopwatches.posts.numbers());
                budget.charge(self.choice);
                continue;
            }
            // A call that was found since it began joins it or is of the next one: what was
            // posted before that may be in a ring that was seen empty.
            let found_later = self.cut.pending().requests & calls & !self.cut.calls();
            self.cut.join(found_later, waiting);
            let left = self.cut.pending().and(Set {
                requests: waiting.requests & (!calls | self.cut.calls()),
                posts: waiting.posts,
            });
            if left.is_empty() {
                if waiting.is_empty() {
                    self.cut.end_all();
                    break;
                }
                self.cut.end();
                continue;
            }
            let open = self.cut.open();
            let (request, post) = if left.requests & !calls != 0 || left.posts != 0 {
                (
                    self.rings.next(open.requests & !calls, &stopwatches.times),
                    stopwatches.posts.next(open.posts, &stopwatches.times),
                )
            } else if self.cut.expel(waiting) {
                continue;
            } else {
                // Where there is no further look, one that had its look comes first.
                let looked = left.requests & !self.rings.fresh();
                let calls = if looks >= LOOKS && looked != 0 {
                    looked
                } else {
                    left.requests
                };
                (self.rings.call(calls, &stopwatches.times), None)
            };
            let post = post.filter(|post| request.is_none_or(|request| post.at < request.at));
            let look_again = match (post, request) {
                (Some(post), _) => post.look_again,
                (None, Some(request)) => request.look_again,
                (None, None) => break,
            };
            if look_again && (looks < LOOKS || looks == LOOKS && !budget.is_spent()) {
                looks += 1;
                stopwatches.times.advance(clock);
                self.rings.look(mem);
                stopwatches.posts.look(mem);
                budget.charge(self.look);
                self.cut.looked(found(&self.rings, &stopwatches.posts));
                continue;
            }
            looks = 0;
            progress = true;
            if let Some(post) = post {
                // What comes after that may be later than what else waits, or is to come.
                let until = request.map_or(u64::MAX, |request| request.at);
                let until = until.min(post.until).min(stopwatches.times.now());
                let number = stopwatches.posts.number(post.ring);
                let limit = self.cut.posts_left(post.ring, number);
                let run = stopwatches.take_posts(mem, clock, &post, until, limit, budget);
                let number = number.wrapping_add(run.taken);
                let more = stopwatches.posts.waiting() & (1 << post.ring) != 0;
                self.cut.took_posts(post.ring, number, more);
                served.answered += run.taken;
                served.bad += run.bad;
            } else if let Some(Next { ring, at, .. }) = request {
                let mut posted = self.rings.head(ring);
                if stopwatches.lacks_storage(&posted.words) {
                    self.rings.hold(ring);
                    self.cut.hold(ring);
                    continue;
                }
                stopwatches.times.act_at(at);
                budget.charge(REQUEST);
                let bad =
                    match stopwatches.respond(mem, clock, functions, ring, &mut posted, budget) {
                        Responded::Good => false,
                        Responded::Bad => true,
                        Responded::Later => {
                            self.pending = true;
                            break;
                        }
                    };
                self.rings.complete(mem, ring, &mut posted.words);
                let (number, capacity) = self.rings.progress(ring);
                let more = self.rings.waiting() & (1 << ring) != 0;
                self.cut.took_request(ring, number, capacity, more);
                served.count(bad);
                if !stopwatches.has(uapi::STOPWATCH_F_POSTED) {
                    // The others are served by themselves from now on.
                    self.cut.end_all();
                    break;
                }
            }
        }
        served.more = self.pending || self.rings.any_waits() || stopwatches.posts.found_any();
        if !served.more {
            self.cut.end_all();
        }
        self.begun = self.pending || self.cut.is_active();
        self.note(served)
    }

    /// Notes what was done in the device's own counts.
    fn note(&mut self, mut served: Served) -> Served {
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
        command: Command,
    ) -> Commanded {
        let watch = match target {
            Target::Number(watch) => watch,
            // No stopwatch has the number that stands for nobody.
            Target::Name(name) => self.stopwatches.find(&name).unwrap_or(u32::MAX),
        };
        self.stopwatches.times.advance(clock);
        self.stopwatches.times.settle();
        Commanded {
            reply: self.stopwatches.command(mem, clock, watch, command),
            deadline_changed: self.stopwatches.kept.deadlines.take_changed(),
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
        let mut expired = Expired::default();
        let due = loop {
            match self.expiry {
                Expiry::Idle => {
                    self.expiry = Expiry::Settling(Settle::default(), self.times_now(clock));
                }
                Expiry::Settling(mut state, began) => {
                    let settled = self.settle(mem, clock, functions, &mut state, budget);
                    expired.wants_storage |= settled.wants_storage;
                    if !settled.done {
                        self.expiry = Expiry::Settling(state, began);
                        self.stopwatches.kept.deadlines.take_changed();
                        // Nothing is told by such a run, so no token bounds how many
                        // there are: the gap does.
                        let now = self.times_now(clock);
                        self.rate.not_before = now.saturating_add(RATE_GAP_NS);
                        expired.next = Some(self.rate.not_before);
                        return expired;
                    }
                    self.expiry = Expiry::Ready(began);
                }
                Expiry::Ready(began) => break began,
            }
        };
        self.stopwatches.times.advance(clock);
        let now = self.stopwatches.times.now();
        // This is the run that was waited for.
        self.rate.not_before = 0;
        let mut told = 0;
        loop {
            if told != 0 && budget.is_spent() {
                break;
            }
            let before = self.rate;
            let interval = self.stopwatches.policy.min_interval_ns;
            if let Err(next) = self.rate.take(now, interval) {
                self.expiry = Expiry::Idle;
                // Whatever is due until then waits for it; what is not due is not late.
                self.rate.not_before = next.max(now.saturating_add(RATE_GAP_NS));
                break;
            }
            let Some((mut event, call)) = self.stopwatches.expire(mem, clock, now - due) else {
                budget.charge(NOT_DUE);
                self.rate = before;
                self.expiry = Expiry::Idle;
                break;
            };
            budget.charge(Budget::EXPIRY);
            told += 1;
            // The record is published by then: who has the event finds it in there.
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
        self.stopwatches.kept.deadlines.take_changed();
        let now = self.times_now(clock);
        if self.next_deadline(clock).is_some_and(|next| next <= now) {
            // It became due meanwhile, or is left over.
            self.rate.not_before = now.saturating_add(RUN_GAP_NS);
        }
        expired.next = self.next_deadline(clock);
        expired
    }

    /// Looks at what the VMM has written, and does it, after what the budget allows of
    /// what is posted. Call this before serving a kick of ring 0. A status that the
    /// header does not know is taken as the one before, and costs nothing.
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
        let word = mem.load_acquire(self.stopwatches.layout.vmm());
        if word == self.vmm_word {
            return VmmChange::default();
        }
        self.vmm_wrote(mem, clock, functions, budget, word)
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
        word: u64,
    ) -> VmmChange {
        let mut change = VmmChange::default();
        self.vmm_word = word;
        let status = field!(stopwatch_vmm.status).get32(&[word]);
        let reset_generation = field!(stopwatch_vmm.reset_generation).get32(&[word]);
        change.status = status != self.vmm_status
            && matches!(
                status,
                uapi::STOPWATCH_VMM_RUNNING | uapi::STOPWATCH_VMM_PAUSED
            );
        change.reset = reset_generation != self.reset_wanted;
        if !change.status && !change.reset {
            return change;
        }
        change.deadline_changed = true;
        if !self.pending && self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            let _ = self.work(mem, clock, functions, budget);
        }
        if change.status {
            if status == uapi::STOPWATCH_VMM_PAUSED {
                self.stopwatches.times.pause(clock);
            } else {
                self.stopwatches.times.resume(clock);
            }
            self.vmm_status = status;
            self.publish_state(mem);
        }
        if change.reset {
            self.reset_wanted = reset_generation;
            self.reset();
        }
        change
    }

    /// Begins to reset the device: rings are empty with phase 1, features off, timeouts
    /// disarmed, and stopwatches without a name are deleted, save the numbered ones.
    /// All others go on as they were. [`Self::work`] does it, in slices. One that has
    /// begun begins anew: the guest may have posted in rings that were empty by then.
    fn reset(&mut self) {
        self.stopwatches.set_features(0);
        self.reset = Some(Reset::Clean);
        self.pending = true;
        self.begun = true;
    }

    /// The VM time at which to call [`Self::expire`]. For a timeout that goes by
    /// another clock that may be before its deadline, which is then looked at
    /// again.
    pub fn next_deadline(&self, clock: &impl Clock) -> Option<u64> {
        let next = self
            .stopwatches
            .kept
            .deadlines
            .next(&self.stopwatches.times, clock)?;
        Some(next.max(self.rate.not_before))
    }

    /// VM time now.
    fn times_now(&mut self, clock: &impl Clock) -> u64 {
        self.stopwatches.times.advance(clock);
        self.stopwatches.times.now()
    }

    /// The number of the stopwatch that has a name.
    #[allow(dead_code, reason = "for tests: commands find names themselves")]
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

    /// Reads the laps of a stopwatch, if it exists, from lap `first` on, or from the
    /// oldest that is kept; as many as there are and fit.
    pub fn laps(
        &self,
        mem: &impl Memory,
        watch: u32,
        first: Option<u32>,
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
