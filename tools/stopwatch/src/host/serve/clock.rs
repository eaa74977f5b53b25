// SPDX-License-Identifier: MIT OR Apache-2.0

//! The time of a VM, for the engine in this program.

use rustix::time::{clock_gettime, ClockId as HostClock};
use serde::{Deserialize, Serialize};
use stopwatch_engine::environment::Clock;
use stopwatch_protocol::clock::ClockId;

const CLOCKS: [ClockId; 3] = [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime];

/// The host's clocks, counted from a VM's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VmClock {
    /// By [`ClockId`], in ns of each clock.
    epochs: [u64; CLOCKS.len()],
}

impl VmClock {
    /// The epoch is now.
    pub(super) fn new() -> Self {
        Self {
            epochs: CLOCKS.map(host),
        }
    }

    /// The host's `CLOCK_MONOTONIC` at a VM time.
    pub(super) fn to_host(self, time: u64) -> u64 {
        self.epochs[0].saturating_add(time)
    }
}

impl Clock for VmClock {
    #[inline]
    fn now(&self, clock: ClockId) -> u64 {
        host(clock).saturating_sub(self.epochs[clock as usize])
    }
}

/// A clock of the host, in ns.
pub(super) fn host(clock: ClockId) -> u64 {
    let now = clock_gettime(match clock {
        ClockId::Monotonic => HostClock::Monotonic,
        ClockId::MonotonicRaw => HostClock::MonotonicRaw,
        ClockId::Boottime => HostClock::Boottime,
    });
    let [seconds, ns] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + ns
}

/// The host's `CLOCK_MONOTONIC`, in ns.
pub(super) fn now() -> u64 {
    host(ClockId::Monotonic)
}
