// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Noting the timeouts that have expired, for the timer.

use super::Device;
use super::Expired;
use super::Settle;
use super::NOT_DUE;
use crate::engine::budget::Budget;
use crate::engine::environment::Clock;
use crate::engine::environment::Environment;
use crate::engine::storage::Storage;

/// How long after a run of [`Device::expire`] that was not done the next one is, in
/// ns: often enough for the guest, and seldom enough for the CPU.
const RUN_GAP_NS: u64 = 100_000;

/// After a run that told nothing for want of tokens the next one is so far away, in
/// ns.
const RATE_GAP_NS: u64 = 1_000_000;

/// How far [`Device::expire`] has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expiry {
    Idle,
    /// It waits for a cut that began at this VM time.
    Settling(Settle, u64),
    /// What was due at this VM time may be told.
    Ready(u64),
}

impl<S: Storage> Device<S> {
    /// Notes the timeouts whose deadline has come, after what was posted when it
    /// began. That may take several runs; [`Expired::next`] says when the next one is.
    pub fn expire(&mut self, env: &impl Environment, budget: &mut Budget) -> Expired {
        let mut expired = Expired::default();
        let due = loop {
            match self.expiry {
                Expiry::Idle => {
                    self.expiry = Expiry::Settling(Settle::default(), self.times_now(env.clock()));
                }
                Expiry::Settling(mut state, began) => {
                    let settled = self.settle(env, &mut state, budget);
                    expired.wants_storage |= settled.wants_storage;
                    if !settled.done {
                        self.expiry = Expiry::Settling(state, began);
                        self.stopwatches.kept.deadlines.take_changed();
                        // Nothing is told by such a run, so no token bounds how many
                        // there are: the gap does.
                        let now = self.times_now(env.clock());
                        self.rate.not_before = now.saturating_add(RATE_GAP_NS);
                        expired.next = Some(self.rate.not_before);
                        return expired;
                    }
                    self.expiry = Expiry::Ready(began);
                }
                Expiry::Ready(began) => break began,
            }
        };
        self.stopwatches.times.advance(env.clock());
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
            let Some((mut event, call)) = self.stopwatches.expire(env, now - due) else {
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
            match self.events.post(env.memory(), event.encode()) {
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
            self.publish_state(env.memory());
        }
        // The caller is told the next deadline here.
        self.stopwatches.kept.deadlines.take_changed();
        let now = self.times_now(env.clock());
        if self
            .next_deadline(env.clock())
            .is_some_and(|next| next <= now)
        {
            // It became due meanwhile, or is left over.
            self.rate.not_before = now.saturating_add(RUN_GAP_NS);
        }
        expired.next = self.next_deadline(env.clock());
        expired
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
}
