// SPDX-License-Identifier: GPL-2.0

//! How many timeouts all VMs together may note, in interrupts of the host's.
//!
//! A VM has its own bound, its policy's, by the engine. This one is behind that: so many a second on
//! the whole host, as the module's parameter `max_expiries` says. A VM whose timer has expired takes
//! the next free place in the order of all, and so one that asks seldom waits for those before it, not
//! for those that ask again.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

const NS_PER_SEC: u64 = 1_000_000_000;

/// So long may places be taken before their time, in ns: a moment with many timeouts is usual, and
/// harmless if few were before it.
const BURST_NS: u64 = 10_000_000;

/// The time of the next free place, in ns of `CLOCK_MONOTONIC`.
static NEXT: Atomic<u64> = Atomic::new(0);

/// A place in the order of all VMs. Dropping it gives it back, so that nobody moves the others by
/// taking places that he does not use.
#[must_use]
pub(crate) struct Turn {
    time: u64,
}

impl Turn {
    /// When it is, in ns of `CLOCK_MONOTONIC`: then, or later, timeouts may be noted.
    pub(crate) fn time(&self) -> u64 {
        self.time
    }

    /// It is used: timeouts are noted now.
    pub(crate) fn begin(self) {
        core::mem::forget(self);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Those behind it stay where they are; the next one to come gets a place that much earlier.
        //
        // Relaxed: nothing but the number itself is exchanged by it. It was added before.
        NEXT.fetch_sub(distance(), Relaxed);
    }
}

/// The distance of two places, in ns.
fn distance() -> u64 {
    NS_PER_SEC / u64::from(crate::module_parameters::max_expiries.value().max(1))
}

/// Takes the next free place; `now` is a time of `CLOCK_MONOTONIC`, in ns. Any context.
pub(crate) fn turn(now: u64) -> Turn {
    let mut next = NEXT.load(Relaxed);

    loop {
        let place = next.max(now);

        // Relaxed: nothing but the number itself is exchanged by it.
        match NEXT.cmpxchg(next, place.saturating_add(distance()), Relaxed) {
            Ok(_) => {
                return Turn {
                    time: place.saturating_sub(BURST_NS),
                }
            }
            Err(other) => next = other,
        }
    }
}

/// So many timeouts were noted in one turn, or as much else was done as takes that long. Each but the
/// first takes a place of its own, and those who ask later wait for it.
pub(crate) fn noted(timeouts: u32) {
    let more = u64::from(timeouts.saturating_sub(1));

    // Relaxed: as above. No overflow before the clock has one.
    NEXT.fetch_add(more.saturating_mul(distance()), Relaxed);
}
