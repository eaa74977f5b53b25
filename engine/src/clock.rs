// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's clocks, as the engine reads them.

use crate::protocol::clock::ClockId;

/// The host's clocks, as whoever includes this reads them.
pub trait Clock {
    /// The time on a clock, in ns since the VM's epoch.
    fn now(&self, clock: ClockId) -> u64;
}
