// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's end of a device: all state that counts is here, private. What is
//! in the region is read once and judged, or a published copy.

use core::ops::DerefMut;

use super::geometry::Layout;
use super::memory::Memory;
use super::ring;
use super::ring::Completer;
use super::ring::Poster;
use super::slot::Event;
use super::slot::Operation;
use super::slot::Reply;
use super::slot::Request;
use super::slot::Status;
use super::slot::Terms;
use super::stopwatch::Reading;
use super::stopwatch::Stopwatch;
use super::timers::Timers;
use super::words::field;
use super::words::store_from;
use super::words::words_of;
use crate::uapi;

/// All features that this engine knows.
pub const FEATURES: u64 = uapi::STOPWATCH_F_TIMEOUT as u64;

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

/// What [`Device::serve`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "there may be more to serve, and the timer to program"]
pub struct Served {
    /// Requests answered.
    pub answered: u32,
    /// Of these, answered with `STOPWATCH_S_BAD_*`.
    pub bad: u32,
    /// The budget is spent and the ring has more.
    pub more: bool,
    /// [`Device::next_deadline`] is another one than before.
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
    /// The next deadline. If the budget was spent, it may be past.
    pub next: Option<u64>,
}

/// What the VMM told [`Device::vmm`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a reset leaves no deadline to wait for"]
pub struct VmmChange {
    /// The device was reset. No timeout is armed any more.
    pub reset: bool,
    /// [`Device::vmm_status`] is another one than before.
    pub status: bool,
}

/// A device.
///
/// Its methods take VM time as `now`. Callers on several CPUs may have read the
/// clock in another order than that in which they get here; to a device, time
/// stands still until it catches up.
pub struct Device<S: Storage> {
    layout: Layout,
    offered: u64,
    features: u64,
    now: u64,
    stopwatches: S::Slice<Stopwatch>,
    timers: Timers<S>,
    rings: S::Slice<Completer>,
    events: Poster,
    vmm_status: u32,
    reset_generation: u32,
    stats: Stats,
}

impl<S: Storage> Device<S> {
    /// A device that offers `features`; those not in [`FEATURES`] are left out.
    /// All stopwatches are stopped at 0, all rings are empty.
    pub fn new(layout: Layout, features: u64) -> Result<Self, S::Error> {
        let geometry = layout.geometry();
        let events = layout.events();
        let mut rings = S::filled(Completer::new(events), geometry.rings as usize)?;
        for (number, ring) in (0u32..).zip(rings.iter_mut()) {
            if let Some(slots) = layout.ring(number) {
                *ring = Completer::new(slots);
            }
        }
        Ok(Self {
            layout,
            offered: features & FEATURES,
            features: 0,
            now: 0,
            stopwatches: S::filled(Stopwatch::default(), geometry.stopwatches as usize)?,
            timers: Timers::new(geometry.stopwatches as usize)?,
            rings,
            events: Poster::new(events),
            vmm_status: uapi::STOPWATCH_VMM_RUNNING,
            reset_generation: 0,
            stats: Stats::default(),
        })
    }

    /// Writes what the guest and the VMM read into a region that is all zero:
    /// `struct stopwatch_info` and the state pages.
    pub fn publish_all(&mut self, mem: &impl Memory) {
        store_from(mem, 0, &self.layout.info(self.offered), 0);
        self.publish_state(mem);
        for watch in 0..self.layout.geometry().stopwatches {
            self.publish(mem, watch);
        }
    }

    /// Answers the requests in a ring, `budget` of them at most.
    pub fn serve(&mut self, mem: &impl Memory, ring: u32, now: u64, budget: u32) -> Served {
        let mut served = Served::default();
        let Some(mut end) = self.rings.get(ring as usize).copied() else {
            return served;
        };
        self.advance(now);
        let deadline = self.next_deadline();

        while served.answered < budget {
            let Some(posted) = end.next(mem) else {
                break;
            };
            let judged = if posted.bad_owner {
                Err(Status::BadOwner)
            } else {
                Request::judge(&posted.words, &self.terms())
            };
            let (status, reading) = match judged {
                Ok((watch, operation)) => self.execute(mem, watch, operation),
                Err(status) => {
                    served.bad += 1;
                    (status, Reading::default())
                }
            };
            end.complete(mem, Reply::encode(&posted.words, status, &reading));
            served.answered += 1;
        }

        served.more = served.answered == budget && end.waiting(mem);
        served.deadline_changed = self.next_deadline() != deadline;
        self.stats.requests = self.stats.requests.wrapping_add(served.answered.into());
        self.stats.bad_requests = self.stats.bad_requests.wrapping_add(served.bad.into());
        if let Some(ring) = self.rings.get_mut(ring as usize) {
            *ring = end;
        }
        served
    }

    /// Notes the timeouts whose deadline has come, `budget` of them at most.
    pub fn expire(&mut self, mem: &impl Memory, now: u64, budget: u32) -> Expired {
        self.advance(now);
        let mut expired = Expired::default();
        for _ in 0..budget {
            let Some(timer) = self.timers.first() else {
                break;
            };
            if timer.deadline > self.now {
                break;
            }
            self.timers.disarm(timer.watch);
            let Some(stopwatch) = self.stopwatches.get_mut(timer.watch as usize) else {
                break;
            };
            let event = Event {
                kind: uapi::STOPWATCH_EVENT_TIMEOUT as u16,
                watch: timer.watch,
                sequence: self.stats.events.wrapping_add(self.stats.events_lost),
                deadline_ns: timer.deadline,
                time_ns: self.now,
                timeouts: stopwatch.expired(),
            };
            // The record first: who has the event finds it in the record.
            self.publish(mem, timer.watch);
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
            self.publish_state(mem);
        }
        expired.next = self.next_deadline();
        expired
    }

    /// Looks at what the VMM has written, and does it. Call this before
    /// serving a kick of ring 0. A status that the header does not know is
    /// taken as the one before.
    pub fn vmm(&mut self, mem: &impl Memory) -> VmmChange {
        let mut change = VmmChange::default();
        let words = [mem.load_acquire(self.layout.vmm())];
        let status = field!(stopwatch_vmm.status).get32(&words);
        let reset_generation = field!(stopwatch_vmm.reset_generation).get32(&words);

        if status != self.vmm_status
            && matches!(
                status,
                uapi::STOPWATCH_VMM_RUNNING | uapi::STOPWATCH_VMM_PAUSED
            )
        {
            self.vmm_status = status;
            change.status = true;
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
    /// disarmed. Stopwatches go on as they were.
    pub fn reset(&mut self, mem: &impl Memory) {
        self.set_features(mem, 0);
        for ring in self.rings.iter_mut() {
            *ring = Completer::new(ring.slots());
            ring::clear(mem, ring.slots());
        }
        self.events = Poster::new(self.events.slots());
        ring::clear(mem, self.events.slots());
        self.stats.resets = self.stats.resets.wrapping_add(1);
    }

    /// The reading of a stopwatch, if there is that one.
    pub fn read(&self, watch: u32, now: u64) -> Option<Reading> {
        let stopwatch = self.stopwatches.get(watch as usize)?;
        Some(stopwatch.read(now.max(self.now), self.timers.deadline(watch)))
    }

    /// The VM time at which [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|timer| timer.deadline)
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

    /// Moves time on to `now`, never back.
    fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    fn terms(&self) -> Terms {
        Terms {
            stopwatches: self.layout.geometry().stopwatches,
            offered: self.offered,
            features: self.features,
        }
    }

    /// Does what a judged request asks for, and publishes what it changed.
    fn execute(
        &mut self,
        mem: &impl Memory,
        watch: u32,
        operation: Operation,
    ) -> (Status, Reading) {
        let now = self.now;
        let Some(stopwatch) = self.stopwatches.get_mut(watch as usize) else {
            return (Status::BadWatch, Reading::default());
        };
        let status = match operation {
            Operation::Start => stopwatch.start(now),
            Operation::Pause => stopwatch.pause(now),
            Operation::Lap => stopwatch.lap(now),
            Operation::Reset => {
                stopwatch.reset();
                self.timers.disarm(watch);
                Status::Ok
            }
            Operation::Read => Status::Ok,
            Operation::Timeout(0) => {
                self.timers.disarm(watch);
                Status::Ok
            }
            Operation::Timeout(ns) => {
                self.timers.arm(watch, now.saturating_add(ns));
                Status::Ok
            }
            Operation::SetFeatures(features) => {
                self.set_features(mem, features);
                Status::Ok
            }
        };
        if status == Status::Ok && operation != Operation::Read {
            self.publish(mem, watch);
        }
        (status, self.read(watch, now).unwrap_or_default())
    }

    /// Sets which features are on. Timeouts do not outlast theirs.
    fn set_features(&mut self, mem: &impl Memory, features: u64) {
        self.features = features;
        if features & u64::from(uapi::STOPWATCH_F_TIMEOUT) == 0 {
            while let Some(timer) = self.timers.last() {
                self.timers.disarm(timer.watch);
                self.publish(mem, timer.watch);
            }
        }
    }

    /// Publishes a stopwatch.
    fn publish(&mut self, mem: &impl Memory, watch: u32) {
        let deadline = self.timers.deadline(watch);
        if let (Some(stopwatch), Some(offset)) = (
            self.stopwatches.get_mut(watch as usize),
            self.layout.record(watch),
        ) {
            stopwatch.publish(mem, offset, deadline);
        }
    }

    /// Publishes the state of the whole device.
    fn publish_state(&self, mem: &impl Memory) {
        let mut words = [0; words_of::<uapi::stopwatch_state>()];
        field!(stopwatch_state.events).set(&mut words, self.stats.events);
        field!(stopwatch_state.events_lost).set(&mut words, self.stats.events_lost);
        field!(stopwatch_state.vmm_status).set(&mut words, self.vmm_status);
        field!(stopwatch_state.reset_generation).set(&mut words, self.reset_generation);
        store_from(mem, self.layout.state(), &words, 0);
    }
}
