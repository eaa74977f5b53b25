// SPDX-License-Identifier: GPL-2.0

//! What serves a VM: its engine, its region and its timer, in the contexts in which they are used.
//!
//! | context                                          | what                                    |
//! |--------------------------------------------------|-----------------------------------------|
//! | the write to a doorbell: interrupts off, mostly  | one section of requests of a ring,      |
//! | inside the vCPU's own exit                       | answered in place ([`Doorbell`])        |
//! | the task that wrote to it, before it goes on, if | what that left over, in sections: more  |
//! | it is of the VM's user ([`Leftover`])            | requests, a reset, new storage          |
//! | a timer interrupt (a thread on PREEMPT_RT)       | one section of timeouts that expired:   |
//! |                                                  | events, calls                           |
//! | a task's ioctl                                   | start, stop, look, in sections          |
//!
//! A section is what is done between taking and releasing [`Core::state`], with interrupts off; the
//! engine's [`Budget`] bounds it. Nothing sleeps or allocates in it. Lock order: the wait queue of a
//! kick eventfd, held by whoever writes to it, then `state`, then the timer base's. An eventfd is
//! therefore never signalled under `state`, and no work is queued to a task under it.
//!
//! [`Leftover`]: doorbell::Leftover

use kernel::{
    alloc::allocator::KVmalloc,
    new_spinlock_irq,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        SpinLockIrq, //
    },
    task::{
        Kuid,
        Task, //
    }, //
};

use crate::{
    abstractions::{
        clock,
        deadline_timer::{
            DeadlineHandler,
            DeadlineTimer, //
        },
        eventfd::EventFd,
        memfd::PinnedMemfd,
        memory_cgroup::MemoryCgroup,
        shared_memory::SharedMemory,
        task_work, //
    },
    engine::{
        budget::Budget,
        device::{
            Device,
            Settle, //
        },
        environment::{
            Clock,
            Environment, //
        },
        kept::Chunk,
        policy::Policy,
        storage::Storage, //
    },
    expiries::{
        self,
        Turn, //
    },
    functions,
    protocol::{
        layout::Layout,
        memory::Memory,
        slot::Status, //
    },
    registry::Admission,
    uapi, //
};

mod doorbell;
mod operator;
mod vm_clock;

pub(crate) use doorbell::{
    Doorbell,
    TASK_WORK, //
};
use vm_clock::VmClock;

/// So many calls a run of the timer makes at most. An irqfd's takes a few thousand instructions; more
/// are made [`NEXT_CALLS_NS`] later.
const CALLS: u32 = 4;

/// How long after a run that has not made all its calls the next one is, in ns: the interrupt has to
/// end before.
const NEXT_CALLS_NS: u64 = 20_000;

/// The engine's state in the kernel's memory.
struct KernelMemory;

impl Storage for KernelMemory {
    type Slice<T: Copy> = Vec<T, KVmalloc>;
    type Error = Error;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Self::Slice<T>> {
        Ok(KVVec::from_elem(value, len, GFP_KERNEL_ACCOUNT)?)
    }
}

/// What is around the engine of a VM.
struct Surroundings<'a> {
    memory: &'a SharedMemory<'a>,
    clock: &'a VmClock,
}

impl Environment for Surroundings<'_> {
    #[inline]
    fn memory(&self) -> &impl Memory {
        self.memory
    }

    #[inline]
    fn clock(&self) -> &impl Clock {
        self.clock
    }

    fn feature(&self, op: u16) -> Option<u64> {
        functions::find(op).map(|function| function.feature)
    }

    fn call(&self, op: u16, arg: u64) -> Status {
        functions::find(op).map_or(Status::BadOp, |function| (function.run)(arg))
    }
}

/// What changes while a VM runs.
struct State {
    engine: Device<KernelMemory>,
    /// Between START and STOP.
    started: bool,
    /// By ring; `None` until it is set.
    calls: KVVec<Option<Arc<EventFd>>>,
    /// Calls that are to be made, a bit for each.
    calls_due: u64,
    /// The turn among all VMs to note timeouts, once the timer has asked for one.
    turn: Option<Turn>,
    /// The user whose tasks do what their kicks leave over: the opener, or if that is privileged, and
    /// so may have made the VM for another user, the one who leaves something over first. An eventfd
    /// may be in the hands of anybody, who is not to pay for the VM.
    payer: Option<Kuid>,
    /// The payer's task that last left something over when it kicked, or that started the VM: it does
    /// what a kick leaves over that comes from elsewhere.
    kicker: Option<ARef<Task>>,
    kicks: u64,
    timed_kicks: u64,
    service_ns: u64,
    over_budget: u64,
}

/// A VM, less the timer around it.
#[pin_data]
pub(crate) struct Core {
    #[pin]
    state: SpinLockIrq<State>,
    region: PinnedMemfd,
    /// Of the task that set the region. It is charged for storage, whichever task allocates it.
    memory: MemoryCgroup,
    // Dropped after the region is unmapped: then another VM may have it.
    _admission: Admission,
    clock: VmClock,
    /// So many sections at most a task does of what was left over: twice what one capacity of all
    /// rings takes, and the largest reset. Who resets the VM all the time, or fills rings of which
    /// nothing is posted, does the rest.
    sections: u32,
}

/// A VM with its timer. Dropping it waits for that.
pub(crate) type Server = DeadlineTimer<Core>;

/// Makes the server of a VM: clears its region and writes what the VMM and the guest will find
/// there. VM time begins. The policy's `epoch_ns` is filled in here. `payer` is the user whose tasks do
/// what their kicks leave over, or `None` for the first one that does. May sleep.
///
/// # Errors
///
/// `ENOMEM` if there is no memory for the engine's state.
pub(crate) fn serve_region(
    layout: Layout,
    policy: Policy,
    region: PinnedMemfd,
    admission: Admission,
    payer: Option<Kuid>,
) -> Result<Arc<Server>> {
    let memory = region.memory();
    for offset in (0..layout.region_size()).step_by(size_of::<u64>()) {
        memory.store(offset, 0);
    }

    let clock = VmClock::new();
    let policy = Policy {
        epoch_ns: clock.to_host(0),
        ..policy
    };
    let mut engine = Device::new(layout, policy)?;
    engine.publish_all(&memory);

    let state = State {
        engine,
        started: false,
        calls: KVVec::from_elem(None, layout.geometry().rings as usize, GFP_KERNEL_ACCOUNT)?,
        calls_due: 0,
        turn: None,
        payer,
        kicker: None,
        kicks: 0,
        timed_kicks: 0,
        service_ns: 0,
        over_budget: 0,
    };
    let core = try_pin_init!(Core {
        state <- new_spinlock_irq!(state, "vhost_stopwatch::Core::state"),
        region,
        memory: MemoryCgroup::current(),
        _admission: admission,
        clock,
        sections: sections(layout),
    });

    Arc::pin_init(DeadlineTimer::new(core), GFP_KERNEL_ACCOUNT)
}

/// A reference to the current task.
fn current_task() -> ARef<Task> {
    let task: &Task = current!();

    task.into()
}

/// [`Core::sections`] of a device.
fn sections(layout: Layout) -> u32 {
    /// The least that a section does, of requests and of stopwatches in a reset.
    const EACH: u32 = 2;
    let geometry = layout.geometry();
    let posts = layout.post_rings() * uapi::STOPWATCH_POST_SLOTS;
    let slots = geometry.rings * geometry.ring_slots + posts;

    2 * (slots / EACH) + geometry.stopwatches / EACH + geometry.rings + 16
}

impl Core {
    /// What is around the engine.
    #[inline]
    fn environment<'a>(&'a self, memory: &'a SharedMemory<'_>) -> Surroundings<'a> {
        Surroundings {
            memory,
            clock: &self.clock,
        }
    }

    /// Sets the eventfd of a call. Task context.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no call of that index.
    pub(crate) fn set_call(&self, index: u32, call: Arc<EventFd>) -> Result {
        let former = {
            let mut state = self.state.lock();
            let slot = state.calls.get_mut(index as usize).ok_or(EINVAL)?;

            slot.replace(call)
        };

        // It may have been the last reference, which is not for under the lock.
        drop(former);
        Ok(())
    }

    /// The eventfd of a call, which is not to be signalled under the lock. Any context.
    fn call(&self, index: u32) -> Option<Arc<EventFd>> {
        self.state.lock().calls.get(index as usize)?.clone()
    }

    /// Whether every call has its eventfd.
    pub(crate) fn has_calls(&self) -> bool {
        self.state.lock().calls.iter().all(Option::is_some)
    }
}

/// What has to be done with the timer, and so needs to know it.
impl DeadlineTimer<Core> {
    /// Serves kicks from now on; what came before is for [`Self::catch_up`]. Task context.
    ///
    /// # Errors
    ///
    /// `EALREADY` if it does.
    pub(crate) fn start(&self) -> Result {
        let former = {
            let mut state = self.state.lock();

            if state.started {
                return Err(EALREADY);
            }
            state.started = true;
            state.kicker.replace(current_task())
        };

        // It may have been the last reference, which is not for under the lock.
        drop(former);
        Ok(())
    }

    /// Serves what came before [`Self::start`], which signals eventfds. Task context, without
    /// locks; may sleep.
    pub(crate) fn catch_up(&self) {
        self.expire();
        self.work_off();
    }

    /// Serves no kick and notes no timeout from now on. Task context.
    ///
    /// # Errors
    ///
    /// `EALREADY` if it does not anyway.
    pub(crate) fn stop(&self) -> Result {
        let former = {
            let mut state = self.state.lock();

            if !state.started {
                return Err(EALREADY);
            }
            state.started = false;
            // The turn stays: it is as good after the next START.
            self.clear();
            state.kicker.take()
        };

        drop(former);
        Ok(())
    }

    /// Does what doorbells have left over by now, a section at a time. Task context, without
    /// locks; may sleep.
    ///
    /// It ends early if the task was killed; the rest is done by the next one that kicks.
    fn work_off(&self) {
        let mut settle = Settle::default();

        for _ in 0..self.sections {
            let settled = {
                let mut state = self.state.lock();

                if !state.started {
                    return;
                }
                let memory = self.region.memory();
                let env = self.environment(&memory);
                let mut budget = Budget::section();
                let vmm = state.engine.vmm(&env, &mut budget);
                let settled = state.engine.work_off(&env, &mut settle, &mut budget);

                if vmm.deadline_changed || settled.deadline_changed {
                    self.program(&state);
                }
                settled
            };

            if settled.wants_storage {
                self.find_storage();
                // What waited for it comes after what did not.
                settle = Settle::default();
            } else if settled.done {
                return;
            }
            if task_work::current_is_dying() {
                return;
            }
            task_work::may_reschedule();
        }
    }

    /// Gives the engine storage for more stopwatches, if it wants some. Task context: allocates.
    ///
    /// Returns whether it got some.
    fn find_storage(&self) -> bool {
        let wanted = self.state.lock().engine.wants_storage();
        let Some(stopwatches) = wanted else {
            return false;
        };
        let Ok(storage) = self.memory.charge(|| Chunk::new(stopwatches)) else {
            self.state.lock().engine.deny_storage();
            return false;
        };
        let refused = self.state.lock().engine.set_storage(storage);

        // Freeing it is not for under the lock.
        drop(refused);
        true
    }

    /// When the next timeout is due, in the host's time.
    fn next_expiry(&self, state: &State) -> Option<u64> {
        let deadline = state.engine.next_deadline(&self.clock)?;

        Some(self.clock.to_host(deadline))
    }

    /// Sets the timer to the engine's next deadline.
    fn program(&self, state: &State) {
        self.set_for(state, self.next_expiry(state));
    }

    /// Sets the timer to a time of the host, if any, and for calls that are due.
    fn set_for(&self, state: &State, time: Option<u64>) {
        let calls =
            (state.calls_due != 0).then(|| clock::monotonic_ns().saturating_add(NEXT_CALLS_NS));

        match [time, calls].into_iter().flatten().min() {
            Some(time) => self.set(time),
            None => self.clear(),
        }
    }

    /// Notes what the VMM asks for and serves a ring: a section. Any context.
    ///
    /// Returns whether it was served, and something is left over.
    #[inline(always)]
    fn serve(&self, ring: u32, state: &mut State) -> bool {
        if !state.started {
            return false;
        }
        let memory = self.region.memory();

        state.engine.serve_one(&self.environment(&memory), ring) != Some(false)
            && self.serve_rest(ring, state)
    }

    /// [`Self::serve`], with a note of how long it takes. There is one copy of the usual way in the
    /// doorbell, which this is not for.
    #[cold]
    #[inline(never)]
    fn serve_timed(&self, ring: u32, state: &mut State) -> bool {
        let since = clock::monotonic_ns();
        let left_over = self.serve(ring, state);
        let spent = clock::monotonic_ns().saturating_sub(since);

        state.timed_kicks = state.timed_kicks.wrapping_add(1);
        state.service_ns = state.service_ns.wrapping_add(spent);
        left_over
    }

    /// What [`Self::serve`] does that is not mostly all.
    #[cold]
    #[inline(never)]
    fn serve_rest(&self, ring: u32, state: &mut State) -> bool {
        let memory = self.region.memory();
        let env = self.environment(&memory);
        let mut budget = Budget::section();
        let vmm = state.engine.vmm(&env, &mut budget);
        let served = state.engine.serve_rest(&env, ring, &mut budget);

        if vmm.deadline_changed || served.deadline_changed {
            self.program(state);
        }
        vmm.reset || served.more || served.wants_storage
    }

    /// Notes the timeouts that have expired: a section; and calls the guest. Any context but inside
    /// an eventfd's wake-up.
    fn expire(&self) {
        let mut calls = {
            let mut state = self.state.lock();

            if !state.started {
                return;
            }
            let next = self.expire_in_turn(&mut state);
            let due = state.calls_due;

            for _ in 0..CALLS {
                state.calls_due &= state.calls_due.wrapping_sub(1);
            }
            self.set_for(&state, next);
            due & !state.calls_due
        };

        while calls != 0 {
            if let Some(call) = self.call(calls.trailing_zeros()) {
                call.signal();
            }
            calls &= calls - 1;
        }
    }

    /// Notes timeouts, if it is the turn of this VM.
    ///
    /// Returns the host's time for which the timer is to be set.
    fn expire_in_turn(&self, state: &mut State) -> Option<u64> {
        let now = clock::monotonic_ns();
        let turn = match state.turn.take() {
            Some(turn) => turn,
            None => {
                let next = self.next_expiry(state)?;

                if next > now {
                    // It came for calls, or what it was set for is gone.
                    return Some(next);
                }
                expiries::turn(now)
            }
        };

        if turn.time() > now {
            let time = turn.time();
            state.turn = Some(turn);
            return Some(time);
        }
        turn.begin();
        let mut budget = Budget::section();
        let expired = state
            .engine
            .expire(&self.environment(&self.region.memory()), &mut budget);
        let spent = Budget::SECTION - budget.left();

        // A run carries out what was posted before a timeout, too, and pays for it. Rounded up: the
        // last step may go over the budget.
        expiries::noted(spent.div_ceil(Budget::EXPIRY));
        state.calls_due |= expired.calls;
        expired.next.map(|next| self.clock.to_host(next))
    }
}

impl DeadlineHandler for Core {
    fn expired(timer: &DeadlineTimer<Self>) {
        timer.expire();
    }
}
