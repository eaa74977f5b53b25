// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What a host does for its guests beside stopwatches.

use crate::protocol::slot::Status;

/// What a host does for its guests beside stopwatches: the operations from
/// `STOPWATCH_OP_FUNCTIONS` on.
pub trait Functions {
    /// The feature that the guest must have turned on for an operation. `None` if
    /// there is no such operation.
    fn feature(&self, op: u16) -> Option<u64>;

    /// Does it. This runs in [`Device::serve`] and its like, so what takes long or
    /// sleeps is to be done later, by somebody else.
    fn call(&self, op: u16, arg: u64) -> Status;
}

/// None.
impl Functions for () {
    fn feature(&self, _: u16) -> Option<u64> {
        None
    }

    fn call(&self, _: u16, _: u64) -> Status {
        Status::BadOp
    }
}
