// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What is around a device: its region, the host's clocks, and what the host does for its
//! guests beside stopwatches.

use crate::protocol::clock::ClockId;
use crate::protocol::memory::Memory;
use crate::protocol::slot::Status;

/// What is around a device, as whoever includes this has it.
pub trait Environment {
    /// The region, always the same one.
    fn memory(&self) -> &impl Memory;

    /// The host's clocks.
    fn clock(&self) -> &impl Clock;

    /// The feature that the guest must have turned on for an operation from
    /// `STOPWATCH_OP_FUNCTIONS` on. `None` if there is no such operation.
    fn feature(&self, _op: u16) -> Option<u64> {
        None
    }

    /// Does such an operation. This runs in [`Device::serve`](super::device::Device::serve)
    /// and its like, so what takes long or sleeps is to be done later, by somebody else.
    fn call(&self, _op: u16, _arg: u64) -> Status {
        Status::BadOp
    }
}

/// The host's clocks.
pub trait Clock {
    /// The time on a clock, in ns since the VM's epoch.
    fn now(&self, clock: ClockId) -> u64;
}
