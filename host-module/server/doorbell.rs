// SPDX-License-Identifier: GPL-2.0

//! The doorbells of a VM, and the tasks that do what these leave over.

use kernel::{
    prelude::*,
    sync::Arc,
    task::Kuid, //
};

use super::{
    current_task,
    Server, //
};
use crate::abstractions::{
    eventfd::{
        Listener,
        WakeUp, //
    },
    task_work::{
        self,
        Notify,
        TaskWork,
        TaskWorkGate,
        TaskWorkHandler, //
    },
    weak_file::WeakFile, //
};

/// One kick in so many is timed: the two readings of the clock that this takes are then not a
/// noticeable part of the time itself.
const TIMED: u64 = 64;

/// What the doorbell of a ring leaves over, for a task to do.
pub(crate) struct Leftover {
    server: Arc<Server>,
}

/// What all of the module's task work passes.
pub(crate) static TASK_WORK: TaskWorkGate = TaskWorkGate::new();

impl TaskWorkHandler for Leftover {
    fn run(&self) {
        let payer = self.server.state.lock().payer;

        // The task may have become another user's since it was queued.
        if payer.is_none_or(|payer| payer == Kuid::current_euid()) {
            self.server.work_off();
        }
    }
}

/// The doorbell of a request ring: listens to its kick eventfd.
pub(crate) struct Doorbell {
    server: Arc<Server>,
    ring: u32,
    /// Queued to a task that kicks, by itself. While it is queued to one, another one that kicks the
    /// same ring does not wait for it.
    own: Arc<TaskWork<Leftover>>,
    /// Queued to the last kicker by somebody else. That one may be stopped for long, which does not
    /// keep others from doing what they leave over.
    others: Arc<TaskWork<Leftover>>,
    /// The VM's file, which keeps all of this, and the module, while the work is queued.
    file: Arc<WeakFile>,
}

impl Doorbell {
    /// The doorbell of request ring `ring` of the VM that `file` is. May sleep.
    pub(crate) fn new(server: Arc<Server>, ring: u32, file: Arc<WeakFile>) -> Result<Self> {
        let leftover = || {
            let server = server.clone();

            Arc::pin_init(
                TaskWork::new(&TASK_WORK, Leftover { server }),
                GFP_KERNEL_ACCOUNT,
            )
        };

        Ok(Self {
            own: leftover()?,
            others: leftover()?,
            server,
            ring,
            file,
        })
    }

    /// Has a task do what is left over: the current one, before it goes on, if it is the payer's; or
    /// the payer's that kicked before. If that is gone, it waits for the next kick.
    #[cold]
    #[inline(never)]
    fn leave_over(&self) {
        if let Some(notify) = task_work::notify_current() {
            if self.pays(Kuid::current_euid())
                && self.own.queue(current!(), notify, &self.file).is_ok()
            {
                let former = self.server.state.lock().kicker.replace(current_task());

                drop(former);
                return;
            }
        }
        let (kicker, payer) = {
            let state = self.server.state.lock();

            (state.kicker.clone(), state.payer)
        };

        if let Some(kicker) = kicker {
            // It may have become another user's since.
            let user = task_work::effective_user(&kicker);

            if payer.is_none_or(|payer| payer == user) {
                // If it exits, the work waits for the next kick.
                let _ = self.others.queue(&kicker, Notify::Signal, &self.file);
            }
        }
    }

    /// Whether a user pays for the VM.
    fn pays(&self, user: Kuid) -> bool {
        *self.server.state.lock().payer.get_or_insert(user) == user
    }

    /// Has a task serve a kick that comes in an interrupt.
    #[cold]
    #[inline(never)]
    fn hand_over(&self) {
        {
            let mut state = self.server.state.lock();

            state.kicks = state.kicks.wrapping_add(1);
            state.over_budget = state.over_budget.wrapping_add(1);
        }
        self.leave_over();
    }
}

impl Listener for Doorbell {
    #[inline(always)]
    fn signalled(&self, wake_up: &WakeUp) {
        // A timer that calls may ring many doorbells, and each has a section of its own: none is
        // served inside the interrupt.
        if !task_work::in_task() {
            return self.hand_over();
        }
        let left_over = {
            let mut state = wake_up.lock(&self.server.state);
            let left_over = if state.kicks % TIMED == 0 {
                self.server.serve_timed(self.ring, &mut state)
            } else {
                self.server.serve(self.ring, &mut state)
            };

            state.kicks = state.kicks.wrapping_add(1);
            state.over_budget = state.over_budget.wrapping_add(left_over.into());
            left_over
        };

        if left_over {
            self.leave_over();
        }
    }
}
