// SPDX-License-Identifier: GPL-2.0

//! What operators ask for through [`crate::control`]: how a VM does, its stopwatches, and commands.

use kernel::{
    prelude::*,
    sync::SpinLockIrqGuard, //
};

use super::{
    Core,
    State, //
};
use crate::{
    abstractions::{
        deadline_timer::DeadlineTimer,
        task_work, //
    },
    engine::{
        budget::Budget,
        device::{
            Settle,
            Stats,
            Target, //
        },
        environment::Clock, //
    },
    protocol::{
        clock::ClockId,
        command::Command,
        record::{
            Laps,
            Record, //
        },
        slot::{
            Reply,
            Status, //
        }, //
    }, //
};

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

impl Core {
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

impl DeadlineTimer<Core> {
    /// Takes the lock when all that the guest had posted by now is carried out, so that what is
    /// shown or done next comes after it, or is forgotten by a reset that came meanwhile. Task
    /// context, without locks; may sleep.
    ///
    /// What waits for storage, and is behind that in its ring, comes later: a look does not allocate
    /// for a VM, whose cgroup may have no memory left.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS` if a signal is pending: nothing was done yet, so the call may begin again.
    fn settled(&self) -> Result<SpinLockIrqGuard<'_, State>> {
        let mut settle = Settle::default();

        loop {
            {
                let mut state = self.state.lock();

                if !state.started {
                    return Ok(state);
                }
                let settled = state.engine.settle(
                    &self.environment(&self.region.memory()),
                    &mut settle,
                    &mut Budget::settling(),
                );

                if settled.deadline_changed {
                    self.program(&state);
                }
                // A VM that is reset all the time is looked at in between.
                if settled.done || settled.reset {
                    return Ok(state);
                }
            }
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            task_work::may_reschedule();
        }
    }

    /// What a stopwatch is, or `None` if there is none of that number.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS` if a signal is pending, as with all that follow.
    pub(crate) fn describe(&self, watch: u32) -> Result<Option<Record>> {
        Ok(self.settled()?.engine.describe(watch))
    }

    /// The stopwatch that exists under the smallest number not below `from`: its number and what it
    /// is, at one moment. `None` if there is none.
    pub(crate) fn describe_next(&self, from: u32) -> Result<Option<(u32, Record)>> {
        let state = self.settled()?;
        let watch = state.engine.next_existing(from);

        Ok(watch.and_then(|watch| Some((watch, state.engine.describe(watch)?))))
    }

    /// Laps of a stopwatch, from number `first` on, or `None` if there is none of that number.
    pub(crate) fn laps(
        &self,
        watch: u32,
        first: Option<u32>,
        into: &mut [u64],
    ) -> Result<Option<Laps>> {
        let state = self.settled()?;

        Ok(state.engine.laps(&self.region.memory(), watch, first, into))
    }

    /// Carries out an operation of the host's. Task context; may sleep.
    pub(crate) fn command(&self, target: Target, command: Command) -> Result<Reply> {
        loop {
            let reply = {
                let mut state = self.settled()?;
                let commanded =
                    state
                        .engine
                        .command(&self.environment(&self.region.memory()), target, command);

                if state.started && commanded.deadline_changed {
                    self.program(&state);
                }
                commanded.reply
            };
            if reply.status != Ok(Status::Full) || !self.find_storage() {
                return Ok(reply);
            }
        }
    }
}
