// SPDX-License-Identifier: GPL-2.0

//! What serves a VM: its engine, its region and its timer, in the contexts in which they are used.
//!
//! | context                                          | what                                    |
//! |--------------------------------------------------|-----------------------------------------|
//! | the write to a doorbell: interrupts off, mostly  | up to a [`Budget`] of requests,         |
//! | inside the vCPU's own exit                       | answered in place ([`Doorbell`])        |
//! | a timer interrupt                                | timeouts that expired: events, calls    |
//! | a kernel worker                                  | requests that a doorbell left over,     |
//! |                                                  | room for more stopwatches               |
//! | a task's ioctl                                   | start, stop, look                       |
//!
//! All of them take [`Core::state`], the only lock in this file; nothing sleeps or allocates under
//! it. Lock order: the wait queue of a kick eventfd, held by whoever writes to it, then `state`,
//! then the timer base's. An eventfd is therefore never signalled under `state`.

use kernel::{
    alloc::allocator::KVmalloc,
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SpinLockIrq,
        SpinLockIrqGuard, //
    }, //
};

use crate::{
    abstractions::{
        clock,
        deadline_timer::{
            DeadlineHandler,
            DeadlineTimer, //
        },
        deferred::{
            Deferred,
            DeferredHandler, //
        },
        eventfd::{
            EventFd,
            Listener,
            WakeUp, //
        },
        memfd::PinnedMemfd, //
    },
    engine::{
        Budget,
        Clock,
        ClockId,
        Device,
        Laps,
        Layout,
        Message,
        Policy,
        Record,
        Reply,
        Room,
        Served,
        Settle,
        Stats,
        Status,
        Storage,
        Target, //
    },
    functions::Table,
    registry::Admission,
    uapi, //
};

/// One kick in so many is timed: the two readings of the clock that this takes are then not a
/// noticeable part of the time itself.
const TIMED: u64 = 64;

/// The engine's state in the kernel's memory.
struct KernelMemory;

impl Storage for KernelMemory {
    type Slice<T: Copy> = Vec<T, KVmalloc>;
    type Error = Error;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Self::Slice<T>> {
        Ok(KVVec::from_elem(value, len, GFP_KERNEL_ACCOUNT)?)
    }
}

/// What changes while a VM runs.
struct State {
    engine: Device<KernelMemory>,
    /// Between START and STOP.
    started: bool,
    /// By ring; `None` until it is set.
    calls: KVVec<Option<Arc<EventFd>>>,
    kicks: u64,
    timed_kicks: u64,
    service_ns: u64,
    over_budget: u64,
}

/// The host's clocks, counted from a VM's epoch.
struct VmClock {
    /// By [`ClockId`], in ns of each clock.
    epochs: [u64; uapi::STOPWATCH_CLOCKS as usize],
}

impl VmClock {
    /// The epoch is now.
    fn new() -> Self {
        Self {
            epochs: [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime].map(Self::host),
        }
    }

    /// A clock of the host.
    #[inline]
    fn host(clock: ClockId) -> u64 {
        match clock {
            ClockId::Monotonic => clock::monotonic_ns(),
            ClockId::MonotonicRaw => clock::monotonic_raw_ns(),
            ClockId::Boottime => clock::boottime_ns(),
        }
    }

    /// The host's time, of `CLOCK_MONOTONIC`, at a VM time.
    fn to_host(&self, time: u64) -> u64 {
        let [epoch, ..] = self.epochs;

        epoch.saturating_add(time)
    }
}

impl Clock for VmClock {
    #[inline]
    fn now(&self, clock: ClockId) -> u64 {
        let epoch = self.epochs.get(clock as usize).copied().unwrap_or(0);

        Self::host(clock).saturating_sub(epoch)
    }
}

/// A VM, less the timer and the work item around it.
#[pin_data]
pub(crate) struct Core {
    #[pin]
    state: SpinLockIrq<State>,
    region: PinnedMemfd,
    // Dropped after the region: then another VM may have it.
    _admission: Admission,
    clock: VmClock,
}

/// A VM with its timer and its work item. Dropping it waits for both.
pub(crate) type Server = Deferred<DeadlineTimer<Core>>;

/// How a VM does, at one moment.
pub(crate) struct Snapshot {
    pub(crate) started: bool,
    pub(crate) stats: Stats,
    pub(crate) features: u64,
    pub(crate) vmm_status: u32,
    pub(crate) kicks: u64,
    pub(crate) timed_kicks: u64,
    pub(crate) service_ns: u64,
    pub(crate) over_budget: u64,
    pub(crate) time_ns: u64,
    pub(crate) paused_ns: u64,
}

/// Makes the server of a VM: clears its region and writes what the VMM and the guest will find
/// there. VM time begins. The policy's `epoch_ns` is filled in here. May sleep.
///
/// # Errors
///
/// `ENOMEM` if there is no memory for the engine's state.
pub(crate) fn serve_region(
    layout: Layout,
    policy: Policy,
    region: PinnedMemfd,
    admission: Admission,
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
        kicks: 0,
        timed_kicks: 0,
        service_ns: 0,
        over_budget: 0,
    };
    let core = try_pin_init!(Core {
        state <- new_spinlock_irq!(state, "vhost_stopwatch::Core::state"),
        region,
        _admission: admission,
        clock,
    });

    Arc::pin_init(Deferred::new(DeadlineTimer::new(core)), GFP_KERNEL_ACCOUNT)
}

impl Core {
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

    /// How the VM does.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();

        Snapshot {
            started: state.started,
            stats: state.engine.stats(),
            features: state.engine.features(),
            vmm_status: state.engine.vmm_status(),
            kicks: state.kicks,
            timed_kicks: state.timed_kicks,
            service_ns: state.service_ns,
            over_budget: state.over_budget,
            time_ns: self.clock.now(ClockId::Monotonic),
            paused_ns: state.engine.paused_ns(&self.clock),
        }
    }
}

/// What has to be done with the timer, and so needs to know it.
impl DeadlineTimer<Core> {
    /// Serves kicks from now on, and what came before. Task context.
    ///
    /// # Errors
    ///
    /// `EALREADY` if it does.
    fn start(&self) -> Result {
        {
            let mut state = self.state.lock();

            if state.started {
                return Err(EALREADY);
            }
            state.started = true;
        }
        self.expire();
        Ok(())
    }

    /// Serves no kick and notes no timeout from now on. Task context.
    ///
    /// # Errors
    ///
    /// `EALREADY` if it does not anyway.
    pub(crate) fn stop(&self) -> Result {
        let mut state = self.state.lock();

        if !state.started {
            return Err(EALREADY);
        }
        state.started = false;
        self.clear();
        Ok(())
    }

    /// Takes the lock when all that the guest had posted by now is carried out, so that what is
    /// shown or done next comes after it. Task context.
    fn settled(&self) -> SpinLockIrqGuard<'_, State> {
        let mut settle = Settle::default();

        loop {
            let mut state = self.state.lock();

            if !state.started {
                return state;
            }
            let settled = state.engine.settle(
                &self.region.memory(),
                &self.clock,
                &Table,
                &mut settle,
                &mut Budget::section(),
            );

            if settled.deadline_changed {
                self.program(&state);
            }
            if settled.done {
                return state;
            }
        }
    }

    /// The smallest number, not below `watch`, of a stopwatch that exists.
    pub(crate) fn next_existing(&self, watch: u32) -> Option<u32> {
        self.settled().engine.next_existing(watch)
    }

    /// What a stopwatch is, or `None` if there is none of that number.
    pub(crate) fn describe(&self, watch: u32) -> Option<Record> {
        self.settled().engine.describe(watch)
    }

    /// Laps of a stopwatch, from number `first` on, or `None` if there is none of that number.
    pub(crate) fn laps(&self, watch: u32, first: u32, into: &mut [u64]) -> Option<Laps> {
        let state = self.settled();

        state.engine.laps(&self.region.memory(), watch, first, into)
    }

    /// Carries out an operation of the host's. Task context.
    pub(crate) fn command(&self, target: Target, message: impl Into<Message>) -> Reply {
        let message = message.into();

        loop {
            let reply = {
                let mut state = self.settled();
                let commanded =
                    state
                        .engine
                        .command(&self.region.memory(), &self.clock, target, message);

                if state.started && commanded.deadline_changed {
                    self.program(&state);
                }
                commanded.reply
            };
            if reply.status != Ok(Status::Full) || !self.make_room() {
                return reply;
            }
        }
    }

    /// Gives the engine room for more stopwatches, if it wants some. Task context, or that of a
    /// worker: allocates.
    ///
    /// Returns whether it got some.
    fn make_room(&self) -> bool {
        let wanted = self.state.lock().engine.wants_storage();
        let Some(stopwatches) = wanted else {
            return false;
        };
        let Ok(room) = Room::new(stopwatches) else {
            self.state.lock().engine.deny_storage();
            return false;
        };
        let refused = self.state.lock().engine.set_storage(room);

        // Freeing it is not for under the lock.
        drop(refused);
        let former = self.state.lock().engine.take_former_storage();

        drop(former);
        true
    }

    /// Sets the timer to the engine's next deadline.
    fn program(&self, state: &State) {
        match state.engine.next_deadline(&self.clock) {
            Some(deadline) => self.set(self.clock.to_host(deadline)),
            None => self.clear(),
        }
    }

    /// Does what the VMM has asked for and serves a ring, within the budget. Any context.
    ///
    /// What is left is for a worker.
    #[inline(always)]
    fn serve(&self, ring: u32, state: &mut State) -> Served {
        if !state.started {
            return Served::default();
        }
        let memory = self.region.memory();
        let mut budget = Budget::section();
        let vmm = state.engine.vmm(&memory, &self.clock, &Table, &mut budget);
        let served = state
            .engine
            .serve(&memory, &self.clock, &Table, ring, &mut budget);

        if vmm.deadline_changed || served.deadline_changed {
            self.program(state);
        }
        served
    }

    /// Notes the timeouts that have expired, within the budget, and calls the guest. Any context
    /// but inside an eventfd's wake-up.
    fn expire(&self) {
        let mut calls = {
            let mut state = self.state.lock();

            if !state.started {
                return;
            }
            let expired = state.engine.expire(
                &self.region.memory(),
                &self.clock,
                &Table,
                &mut Budget::section(),
            );

            match expired.next {
                Some(next) => self.set(self.clock.to_host(next)),
                None => self.clear(),
            }
            expired.calls
        };

        while calls != 0 {
            if let Some(call) = self.call(calls.trailing_zeros()) {
                call.signal();
            }
            calls &= calls - 1;
        }
    }
}

impl Server {
    /// Serves kicks from now on; those that came before are served by a worker. Task context.
    ///
    /// # Errors
    ///
    /// `EALREADY` if it does.
    pub(crate) fn start_serving(&self) -> Result {
        self.start()?;
        self.queue();
        Ok(())
    }
}

impl DeadlineHandler for Core {
    fn expired(timer: &DeadlineTimer<Self>) {
        timer.expire();
    }
}

impl DeferredHandler for DeadlineTimer<Core> {
    fn run(&self) -> bool {
        self.make_room();
        let rings = self.state.lock().engine.layout().geometry().rings;

        // Each ring under the lock for itself, so that doorbells get their turn.
        (0..rings).fold(false, |more, ring| {
            let served = self.serve(ring, &mut self.state.lock());

            served.more || served.wants_storage || more
        })
    }
}

/// The doorbell of a request ring: listens to its kick eventfd.
pub(crate) struct Doorbell {
    server: Arc<Server>,
    ring: u32,
}

impl Doorbell {
    /// The doorbell of request ring `ring`.
    pub(crate) fn new(server: Arc<Server>, ring: u32) -> Self {
        Self { server, ring }
    }
}

impl Listener for Doorbell {
    #[inline(always)]
    fn signalled(&self, wake_up: &WakeUp) {
        let served = {
            let mut state = wake_up.lock(&self.server.state);
            let since = (state.kicks % TIMED == 0).then(clock::monotonic_ns);
            let served = self.server.serve(self.ring, &mut state);

            if let Some(since) = since {
                let spent = clock::monotonic_ns().saturating_sub(since);

                state.timed_kicks = state.timed_kicks.wrapping_add(1);
                state.service_ns = state.service_ns.wrapping_add(spent);
            }
            state.kicks = state.kicks.wrapping_add(1);
            state.over_budget = state.over_budget.wrapping_add(served.more.into());
            served
        };

        if served.more || served.wants_storage {
            self.server.queue();
        }
    }
}
