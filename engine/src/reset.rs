// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A reset of a device, in steps: how far it has come.

use super::budget::Budget;
use super::rings::Rings;
use super::stopwatches::Stopwatches;
use super::storage::Storage;
use crate::protocol::memory::Memory;
use crate::protocol::ring;
use crate::protocol::ring::Slots;
use crate::uapi;

// Units of a [`Budget`].
/// Around a part of a ring.
const AROUND: u32 = 60;
/// For a slot that is made free.
const CLEAR: u32 = 14;

/// How far a reset has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reset {
    /// Timeouts and bindings are ended.
    Clean,
    /// Stopwatches from this number on are deleted, if they have to be.
    Delete(u32),
    /// Slots of a request ring, from this one on, are made free.
    Ring(u32, u32),
    /// Slots of the event ring are.
    Events(u32),
}

impl Reset {
    /// Does a step, and says where it goes on; `None` after the last one. `events` are the
    /// slots of the event ring.
    pub(super) fn step<S: Storage>(
        self,
        mem: &impl Memory,
        stopwatches: &mut Stopwatches<S>,
        rings: &mut Rings<S>,
        events: Slots,
        budget: &mut Budget,
    ) -> Option<Self> {
        Some(match self {
            // That was done before.
            Self::Clean => {
                stopwatches.posts.clear_tickets();
                Self::Delete(uapi::STOPWATCH_NUMBERED)
            }
            Self::Delete(from) => {
                budget.charge(Budget::REQUEST_OTHER);
                let Some(watch) = stopwatches.existing.next(from) else {
                    return Some(Self::Ring(0, 0));
                };
                if stopwatches.kept.name_of(watch).is_none() {
                    budget.charge(Budget::TIMEOUT);
                    stopwatches.delete(mem, watch);
                }
                Self::Delete(watch + 1)
            }
            Self::Ring(ring, from) => {
                let Some(slots) = stopwatches.layout.ring(ring) else {
                    return Some(Self::Events(0));
                };
                if let Some(to) = clear(mem, slots, from, budget) {
                    return Some(Self::Ring(ring, to));
                }
                rings.restart(ring);
                Self::Ring(ring + 1, 0)
            }
            Self::Events(from) => Self::Events(clear(mem, events, from, budget)?),
        })
    }
}

/// Makes slots free, from `from` on, as many as the budget allows and one at least. Where
/// it goes on, if some are left.
fn clear(mem: &impl Memory, slots: Slots, from: u32, budget: &mut Budget) -> Option<u32> {
    let part = (budget.left() / CLEAR).max(1);
    let to = slots.count().min(from.saturating_add(part));
    ring::clear(mem, slots, from..to);
    budget.charge((to - from) * CLEAR + AROUND);
    (to < slots.count()).then_some(to)
}
