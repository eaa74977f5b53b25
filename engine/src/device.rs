// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's end of a device: all state that counts is here, private. What is
//! in the region is read once and validated, or a published copy.

use super::budget::Budget;
use super::cut::Cut;
use super::environment::Clock;
use super::environment::Environment;
use super::kept::Chunk;
use super::policy::Policy;
use super::rate::Rate;
use super::reset::Reset;
use super::rings::Rings;
use super::stopwatches::Stopwatches;
use super::storage::Storage;
use crate::protocol::command::Command;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::name::Name;
use crate::protocol::record::Laps;
use crate::protocol::record::Record;
use crate::protocol::ring::Producer;
use crate::protocol::slot::Reply;
use crate::protocol::words::field;
use crate::protocol::words::store_from;
use crate::protocol::words::words_of;
use crate::uapi;

mod expiry;
mod serve;
mod settle;
mod vmm;

use expiry::Expiry;
pub use settle::Settle;

// Units of a [`Budget`].
/// For an act on a stopwatch that has no timeout.
const REQUEST: u32 = 250;
/// For a look at all rings: around it, and for each ring of a kind.
const LOOK: u32 = 60;
const LOOK_RING: u32 = 60;
const LOOK_POSTS: u32 = 30;
/// For the choice between rings, each.
const CHOICE: u32 = 30;
/// For a look at six heaps and clocks, in which no timeout was found.
const NOT_DUE: u32 = 300;

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

/// What [`Device::serve`] or [`Device::work`] did.
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
    events: Producer,
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
            events: Producer::new(layout.events()),
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

    /// Does a slice of what is left to be done: a reset, a change of features, and what
    /// waits in the rings. `more` says that there is still some.
    pub fn work(&mut self, env: &impl Environment, budget: &mut Budget) -> Served {
        if self.pending {
            self.work_pending(env.memory(), budget);
            let more = Served {
                more: true,
                ..Served::default()
            };
            return self.note(more);
        }
        if self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            self.stopwatches.times.advance(env.clock());
            return self.serve_all(env, 0, budget, Served::default());
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
            let served = self.serve(env, ring, budget);
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

    /// Does what a program of the host asks for. It may start, pause, lap, reset
    /// and read stopwatches, create and delete them. A name is looked up here, so that
    /// nothing comes between that and the act; if nobody has it, the answer is
    /// `STOPWATCH_S_BAD_WATCH`. `STOPWATCH_S_FULL` is for want of storage if
    /// [`Self::wants_storage`] then says so.
    pub fn command(
        &mut self,
        env: &impl Environment,
        target: Target,
        command: Command,
    ) -> Commanded {
        let watch = match target {
            Target::Number(watch) => watch,
            // No stopwatch has the number that stands for nobody.
            Target::Name(name) => self.stopwatches.find(&name).unwrap_or(u32::MAX),
        };
        self.stopwatches.times.advance(env.clock());
        self.stopwatches.times.settle();
        Commanded {
            reply: self.stopwatches.command(env, watch, command),
            deadline_changed: self.stopwatches.kept.deadlines.take_changed(),
        }
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
