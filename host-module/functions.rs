// SPDX-License-Identifier: GPL-2.0

//! The host's operation table: what a guest may ask of the host beside stopwatches.
//!
//! Rings, doorbells, features and policy carry any function that fits into a slot. One more is an
//! entry in [`FUNCTIONS`], with the file that has it; its numbers are in `<linux/stopwatch_device.h>`
//! and `<linux/vhost_stopwatch.h>`. See `samples/host-power`.

use kernel::prelude::*;

use crate::protocol::slot::Status;

#[path = "../samples/host-power/host.rs"]
mod host_power;

/// A function that guests may call.
pub(crate) struct Function {
    /// Operation, from `STOPWATCH_OP_FUNCTIONS` on.
    pub(crate) op: u32,
    /// The feature that has to be on for it.
    pub(crate) feature: u64,
    /// The flag of the policy without which the feature is not offered.
    pub(crate) policy: u32,
    /// Whether the current task may give that leave. May be audited.
    pub(crate) may_allow: fn() -> bool,
    /// Whether the module has it at all; asked when a VM is made.
    pub(crate) enabled: fn() -> bool,
    /// Does it. Runs in the doorbell, with interrupts off: it may not sleep. Gets the request's
    /// argument.
    pub(crate) run: fn(u64) -> Status,
}

#[rustfmt::skip]
const FUNCTIONS: &[Function] = &[
    host_power::FUNCTION,
];

/// The features of the functions that this module has now.
pub(crate) fn features() -> u64 {
    FUNCTIONS
        .iter()
        .filter(|function| (function.enabled)())
        .fold(0, |features, function| features | function.feature)
}

/// The features of all functions that there are.
pub(crate) fn all_features() -> u64 {
    FUNCTIONS
        .iter()
        .fold(0, |features, function| features | function.feature)
}

/// The features of the functions that a policy allows.
pub(crate) fn allowed_by(policy: u32) -> u64 {
    FUNCTIONS
        .iter()
        .filter(|function| policy & function.policy != 0)
        .fold(0, |features, function| features | function.feature)
}

/// Checks that the current task may allow what a policy allows.
///
/// # Errors
///
/// `EPERM` if it may not.
pub(crate) fn may_be_allowed(policy: u32) -> Result {
    FUNCTIONS
        .iter()
        .filter(|function| policy & function.policy != 0)
        .try_for_each(|function| (function.may_allow)().then_some(()).ok_or(EPERM))
}

/// The policy flags that are about functions.
pub(crate) fn policy_flags() -> u32 {
    FUNCTIONS
        .iter()
        .fold(0, |flags, function| flags | function.policy)
}

/// The function that has an operation.
pub(crate) fn find(op: u16) -> Option<&'static Function> {
    FUNCTIONS
        .iter()
        .find(|function| function.op == u32::from(op))
}
