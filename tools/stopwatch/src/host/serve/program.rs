// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM that this program serves, with the engine of the host module.

use std::convert::Infallible;

use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::{Device, Settle, Target};
use stopwatch_engine::environment::{Clock, Environment};
use stopwatch_engine::kept::Chunk;
use stopwatch_engine::policy::Policy;
use stopwatch_engine::storage::Storage;
use stopwatch_protocol::clock::{ClockId, TimeBase};
use stopwatch_protocol::command::{Act, Command, Identity};
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::slot::{Reply, Status};
use stopwatch_protocol::state;
use stopwatch_protocol::words::{field, Field};
use stopwatch_uapi as uapi;

use super::clock::{self, VmClock};
use super::memory::Guarded;

/// The engine's state in this program's memory.
struct Heap;

impl Storage for Heap {
    type Slice<T: Copy> = Vec<T>;
    type Error = Infallible;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Infallible> {
        Ok(vec![value; len])
    }
}

/// What is around the engine: a region and clocks, and no functions.
struct Around<'a, C>(&'a Guarded, &'a C);

impl<C: Clock> Environment for Around<'_, C> {
    fn memory(&self) -> &impl Memory {
        self.0
    }

    fn clock(&self) -> &impl Clock {
        self.1
    }
}

/// What a kick, or a reset, has left over.
struct Leftover {
    settle: Settle,
    /// So many sections it may take yet. Who resets the device all the time does not get
    /// more of this thread for it; the next kick goes on.
    sections: u32,
}

/// One kick in so many is timed.
const TIMED: u64 = 64;

/// What is counted of a VM beside what the engine counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) kicks: u64,
    pub(super) over_budget: u64,
    pub(super) timed_kicks: u64,
    pub(super) service_ns: u64,
}

/// A VM's engine and its region. All that it does is done in sections, which the engine's
/// budget bounds, so that one thread can serve many.
pub(super) struct ProgramVm {
    engine: Device<Heap>,
    memory: Guarded,
    clock: VmClock,
    leftover: Option<Leftover>,
    /// What a leftover gets.
    sections: u32,
    /// Of the host's `CLOCK_MONOTONIC`: when to call [`Self::expire`].
    deadline: Option<u64>,
    counts: Counts,
}

impl ProgramVm {
    /// A new VM, in a region of zeros. VM time goes by `clock`.
    pub(super) fn new(layout: Layout, policy: Policy, memory: Guarded, clock: VmClock) -> Self {
        let policy = Policy {
            epoch_ns: clock.to_host(0),
            ..policy
        };
        let Ok(mut engine) = Device::new(layout, policy);
        engine.publish_all(&memory);
        Self {
            engine,
            memory,
            clock,
            leftover: None,
            sections: sections(&layout),
            deadline: None,
            counts: Counts::default(),
        }
    }

    /// A VM that another process has served, by what that has left in the host's own copy
    /// of the state pages. To the guest it is a reset of the device: the stopwatches that
    /// outlast one are as they were, at the most with the latest laps that are kept.
    pub(super) fn restore(layout: Layout, policy: Policy, memory: Guarded, clock: VmClock) -> Self {
        let generation = state::reset_generation(memory.own(), &layout);
        let kept = Kept::take(&memory, &layout);
        let mut vm = Self::new(layout, policy, memory, clock);
        vm.remake(&kept);
        let mut moments: Vec<_> = kept.iter().flat_map(Kept::moments).collect();
        // By a clock they have to rise; what is at the same time keeps its order.
        moments.sort_by_key(|moment| moment.at.time);
        for Moment { at, watch, act } in moments {
            vm.command_at(&at, Target::Number(watch), Command::Act(act));
        }
        vm.reset_to(generation.wrapping_add(1));
        while vm.work() {}
        vm
    }

    /// Makes the stopwatches that were created, under the numbers that they had. Those
    /// without a name that it takes for the numbers between them go with the reset.
    fn remake(&mut self, kept: &[Kept]) {
        let begin = At::default();
        let created = kept
            .iter()
            .filter(|kept| kept.watch >= uapi::STOPWATCH_NUMBERED);
        let mut next = uapi::STOPWATCH_NUMBERED;
        for stopwatch in created {
            while next <= stopwatch.watch {
                let identity = if next == stopwatch.watch {
                    stopwatch.identity()
                } else {
                    Identity::default()
                };
                self.command_at(&begin, Target::Number(0), Command::Create(identity));
                next += 1;
            }
        }
    }

    /// The region.
    pub(super) fn memory(&self) -> &impl Memory {
        &self.memory
    }

    /// What was counted here.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The VM's clock.
    pub(super) fn clock(&self) -> VmClock {
        self.clock
    }

    /// The engine, to look at.
    pub(super) fn engine(&self) -> &Device<impl Storage> {
        &self.engine
    }

    /// When [`Self::expire`] is to be called, of the host's `CLOCK_MONOTONIC` in ns.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Whether [`Self::work`] is to be called.
    pub(super) fn has_work(&self) -> bool {
        self.leftover.is_some()
    }

    /// Serves a ring: a section.
    pub(super) fn kick(&mut self, ring: u32) {
        // As the host module does: the two readings of the clock are no part of most.
        if self.counts.kicks % TIMED != 0 {
            return self.serve(ring);
        }
        let since = clock::now();
        self.serve(ring);
        self.counts.timed_kicks += 1;
        self.counts.service_ns += clock::now().saturating_sub(since);
    }

    fn serve(&mut self, ring: u32) {
        let mut budget = Budget::section();
        let env = Around(&self.memory, &self.clock);
        let served = self.engine.serve(&env, ring, &mut budget);
        self.counts.kicks += 1;
        if served.wants_storage {
            self.find_storage();
        }
        if served.more || served.wants_storage {
            self.counts.over_budget += 1;
            self.leave_over();
        }
        if served.deadline_changed {
            self.program();
        }
    }

    /// The guest rings for a reset of the device.
    pub(super) fn reset(&mut self) {
        let word = self.memory.own().load(self.engine.layout().vmm());
        self.reset_to(reset_generation().get32_of(word).wrapping_add(1));
    }

    /// Begins a reset, of that generation.
    fn reset_to(&mut self, generation: u32) {
        // RUNNING is what the other half says.
        let mut word = [u64::from(uapi::STOPWATCH_VMM_RUNNING)];
        reset_generation().set(&mut word, generation);
        // The guest's copy is not looked at, and so not written.
        self.memory.own().store(self.engine.layout().vmm(), word[0]);
        let mut budget = Budget::section();
        let env = Around(&self.memory, &self.clock);
        let change = self.engine.vmm(&env, &mut budget);
        if change.reset {
            // All of it, whatever was left over before.
            self.leftover = None;
            self.leave_over();
        }
        self.program();
    }

    fn leave_over(&mut self) {
        self.leftover.get_or_insert_with(|| Leftover {
            settle: Settle::default(),
            sections: self.sections,
        });
    }

    /// Does a section of what is left over. Whether there is more.
    pub(super) fn work(&mut self) -> bool {
        let Some(mut leftover) = self.leftover.take() else {
            return false;
        };
        let env = Around(&self.memory, &self.clock);
        let mut budget = Budget::section();
        let settled = self
            .engine
            .work_off(&env, &mut leftover.settle, &mut budget);
        if settled.wants_storage {
            self.find_storage();
            // What waited for it comes after what did not.
            leftover.settle = Settle::default();
        }
        leftover.sections -= 1;
        if leftover.sections != 0 && (settled.wants_storage || !settled.done) {
            self.leftover = Some(leftover);
        }
        if settled.deadline_changed {
            self.program();
        }
        self.has_work()
    }

    /// Notes the timeouts that have expired: a section. Says which calls are to be made, a
    /// bit for each.
    pub(super) fn expire(&mut self) -> u64 {
        let mut budget = Budget::section();
        let env = Around(&self.memory, &self.clock);
        let expired = self.engine.expire(&env, &mut budget);
        if expired.wants_storage {
            self.find_storage();
        }
        self.deadline = expired.next.map(|next| self.clock.to_host(next));
        expired.calls
    }

    /// A section of what was posted before a program of the host acts, or looks. Whether
    /// all is done, or forgotten by a reset.
    pub(super) fn settle(&mut self, state: &mut Settle) -> bool {
        let mut budget = Budget::settling();
        let env = Around(&self.memory, &self.clock);
        let settled = self.engine.settle(&env, state, &mut budget);
        if settled.wants_storage {
            self.find_storage();
        }
        if settled.deadline_changed {
            self.program();
        }
        settled.done || settled.reset
    }

    /// Does what a program of the host asks for.
    pub(super) fn command(&mut self, target: Target, command: Command) -> Reply {
        self.command_at(&{ self.clock }, target, command)
    }

    fn command_at(&mut self, clock: &impl Clock, target: Target, command: Command) -> Reply {
        loop {
            let env = Around(&self.memory, clock);
            let commanded = self.engine.command(&env, target, command);
            if commanded.deadline_changed {
                self.program();
            }
            if commanded.reply.status != Ok(Status::Full) || !self.find_storage() {
                return commanded.reply;
            }
        }
    }

    /// Laps of a stopwatch, if it exists.
    pub(super) fn laps(&self, watch: u32, first: Option<u32>, into: &mut [u64]) -> Option<Laps> {
        self.engine.laps(&self.memory, watch, first, into)
    }

    fn program(&mut self) {
        let next = self.engine.next_deadline(&self.clock);
        self.deadline = next.map(|next| self.clock.to_host(next));
    }

    /// Gives the engine storage for more stopwatches, if it wants some. Whether it got some.
    fn find_storage(&mut self) -> bool {
        let Some(wanted) = self.engine.wants_storage() else {
            return false;
        };
        let Ok(chunk) = Chunk::new(wanted);
        self.engine.set_storage(chunk);
        true
    }
}

/// So many sections what is left over takes at the most: twice what one capacity of all
/// rings does, and the largest reset.
fn sections(layout: &Layout) -> u32 {
    /// The least that a section does, of requests and of stopwatches in a reset.
    const EACH: u32 = 2;
    let geometry = layout.geometry();
    let posts = layout.post_rings() * uapi::STOPWATCH_POST_SLOTS;
    let slots = geometry.rings * geometry.ring_slots + posts;
    2 * (slots / EACH) + geometry.stopwatches / EACH + geometry.rings + 16
}

fn reset_generation() -> Field {
    field!(stopwatch_vmm.reset_generation)
}

/// A moment by one clock, for what is done again. The others stand still.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    clock: ClockId,
    time: u64,
}

impl Clock for At {
    fn now(&self, clock: ClockId) -> u64 {
        if clock == self.clock {
            self.time
        } else {
            0
        }
    }
}

/// What a stopwatch did.
struct Moment {
    at: At,
    watch: u32,
    act: Act,
}

/// A stopwatch that outlasts a reset.
struct Kept {
    watch: u32,
    record: Record,
    /// What it showed at its latest laps.
    laps: Vec<u64>,
}

impl Kept {
    /// Takes all of them out of the region, in which no record is left.
    fn take(memory: &Guarded, layout: &Layout) -> Vec<Self> {
        let own = memory.own();
        let mut kept = Vec::new();
        for watch in 0..layout.geometry().stopwatches {
            let Some(offset) = layout.record(watch) else {
                break;
            };
            // The sequence count is odd if the process ended while it wrote.
            own.store(offset, own.load(offset) & !1);
            let Some(record) = Record::read(own, offset) else {
                continue;
            };
            if !record.exists {
                continue;
            }
            for word in (0..layout.record_size()).step_by(8) {
                memory.store(offset + word, 0);
            }
            if watch >= uapi::STOPWATCH_NUMBERED && record.name.is_none() {
                continue;
            }
            let mut laps = vec![0; uapi::STOPWATCH_LAP_SLOTS as usize];
            let copied = Laps::copy(own, layout, watch, record.laps, None, &mut laps);
            laps.truncate(copied.count as usize);
            kept.push(Self {
                watch,
                record,
                laps,
            });
        }
        kept
    }

    fn clock(&self) -> ClockId {
        ClockId::from_wire(self.record.clock).unwrap_or_default()
    }

    fn identity(&self) -> Identity {
        Identity {
            name: self.record.name,
            uid: self.record.uid,
            mode: self.record.mode,
            time_base: TimeBase::new(self.clock(), self.record.skip_paused),
        }
    }

    /// What it has to do to be as it was: as if it had been started once.
    fn moments(&self) -> Vec<Moment> {
        let record = &self.record;
        let at = |time, act| Moment {
            at: At {
                clock: self.clock(),
                time,
            },
            watch: self.watch,
            act,
        };
        // It shows `base_ns` plus the time while it runs.
        let start = match record.started_ns() {
            Some(started) => started.saturating_sub(record.elapsed_ns),
            None => 0,
        };
        if !record.running && record.elapsed_ns == 0 {
            return Vec::new();
        }
        let mut moments = vec![at(start, Act::Start)];
        let laps = self.laps.iter();
        moments.extend(laps.map(|lap| at(start.saturating_add(*lap), Act::Lap)));
        if !record.running {
            moments.push(at(record.elapsed_ns, Act::Pause));
        }
        moments
    }
}
