// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Carrying out what was posted before a moment, for who acts or looks then, and for the
//! task that does what doorbells have left over.

use super::Device;
use super::Served;
use super::Settled;
use crate::engine::budget::Budget;
use crate::engine::environment::Environment;
use crate::engine::storage::Storage;
use crate::uapi;

/// How far [`Device::settle`] has come for one caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settle {
    /// The number of the cut that the caller waits for; `None` before the first slice.
    cut: Option<u32>,
    /// The generation of the last reset that the VMM asked for before the caller began.
    reset: Option<u32>,
}

impl<S: Storage> Device<S> {
    /// Does a slice of what was posted when `state` was new: at most one capacity of
    /// each ring, and what others waited for before. When it is done, the caller acts,
    /// or looks at the device, without letting go of it between the two: after that
    /// nothing is carried out as of a time before it.
    pub fn settle(
        &mut self,
        env: &impl Environment,
        state: &mut Settle,
        budget: &mut Budget,
    ) -> Settled {
        let began = *state.reset.get_or_insert(self.reset_wanted);
        let served = if self.pending || self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            if state.cut.is_none() && !self.pending {
                state.cut = Some(self.cut.settle(self.call_waits()));
            }
            self.work(env, budget)
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
        env: &impl Environment,
        state: &mut Settle,
        budget: &mut Budget,
    ) -> Settled {
        if self.stopwatches.has(uapi::STOPWATCH_F_POSTED) {
            return self.settle(env, state, budget);
        }
        // A reset or a change of features that is not complete comes first there, too.
        let served = self.work(env, budget);
        Settled {
            done: !served.more,
            reset: false,
            wants_storage: served.wants_storage,
            deadline_changed: served.deadline_changed,
        }
    }

    /// Whether a call waits for the present cut.
    fn call_waits(&self) -> bool {
        self.cut.is_active() && !self.cut.pending().and(self.cut.calls()).is_empty()
    }
}
