// SPDX-License-Identifier: GPL-2.0

//! The time of a VM, for its engine and its timer.

use crate::{
    abstractions::clock,
    engine::environment::Clock,
    protocol::clock::ClockId,
    uapi, //
};

/// The host's clocks, counted from a VM's epoch.
pub(super) struct VmClock {
    /// By [`ClockId`], in ns of each clock.
    epochs: [u64; uapi::STOPWATCH_CLOCKS as usize],
}

impl VmClock {
    /// The epoch is now.
    pub(super) fn new() -> Self {
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
    pub(super) fn to_host(&self, time: u64) -> u64 {
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
