// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What the VMM asks for: pauses, and resets of the device.

use super::Device;
use super::VmmChange;
use crate::engine::budget::Budget;
use crate::engine::environment::Environment;
use crate::engine::reset::Reset;
use crate::engine::storage::Storage;
use crate::protocol::memory::Memory;
use crate::protocol::ring::Producer;
use crate::protocol::words::field;
use crate::uapi;

impl<S: Storage> Device<S> {
    /// Looks at what the VMM has written, and does it, after what the budget allows of
    /// what is posted. Call this before serving a kick of ring 0. A status that the
    /// header does not know is taken as the one before, and costs nothing.
    ///
    /// What was posted and is over the budget is forgotten by a reset, and counts
    /// as posted at the end of a pause.
    #[inline]
    pub fn vmm(&mut self, env: &impl Environment, budget: &mut Budget) -> VmmChange {
        let word = env.memory().load_acquire(self.stopwatches.layout.vmm());
        if word == self.vmm_word {
            return VmmChange::default();
        }
        self.vmm_wrote(env, budget, word)
    }

    /// Does what the VMM has written.
    #[cold]
    #[inline(never)]
    fn vmm_wrote(&mut self, env: &impl Environment, budget: &mut Budget, word: u64) -> VmmChange {
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
            let _ = self.work(env, budget);
        }
        if change.status {
            if status == uapi::STOPWATCH_VMM_PAUSED {
                self.stopwatches.times.pause(env.clock());
            } else {
                self.stopwatches.times.resume(env.clock());
            }
            self.vmm_status = status;
            self.publish_state(env.memory());
        }
        if change.reset {
            self.reset_wanted = reset_generation;
            self.reset();
        }
        change
    }

    /// Begins to reset the device: rings are empty with wrap bit 1, features off, timeouts
    /// disarmed, and stopwatches without a name are deleted, save the numbered ones.
    /// All others go on as they were. [`Self::work`] does it, in slices. One that has
    /// begun begins anew: the guest may have posted in rings that were empty by then.
    fn reset(&mut self) {
        self.stopwatches.set_features(0);
        self.reset = Some(Reset::Clean);
        self.pending = true;
        self.begun = true;
    }

    /// A step of a reset, and where it goes on.
    pub(super) fn reset_step(
        &mut self,
        mem: &impl Memory,
        reset: Reset,
        budget: &mut Budget,
    ) -> Option<Reset> {
        let slots = self.events.slots();
        let next = reset.step(mem, &mut self.stopwatches, &mut self.rings, slots, budget);
        if next.is_none() {
            self.events = Producer::new(slots);
            self.cut.end_all();
            self.stats.resets = self.stats.resets.wrapping_add(1);
            self.reset_generation = self.reset_wanted;
            self.publish_state(mem);
        }
        next
    }
}
