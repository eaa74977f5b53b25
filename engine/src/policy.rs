// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What the VM's creator grants the guest.

use crate::uapi;

/// All features that this engine knows.
pub const FEATURES: u64 = uapi::STOPWATCH_F_TIMEOUT as u64
    | uapi::STOPWATCH_F_HOST_TIME as u64
    | uapi::STOPWATCH_F_POSTED as u64
    | uapi::STOPWATCH_F_PORT_DOORBELLS as u64;

/// What the VM's creator grants the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The features that are offered: of [`FEATURES`], and those that
    /// [`Environment::feature`](super::environment::Environment::feature) tells.
    pub features: u64,
    /// The shortest interval of a periodic timeout, in ns.
    pub min_interval_ns: u64,
    /// The host's `CLOCK_MONOTONIC` at VM time 0. Published only if
    /// `STOPWATCH_F_HOST_TIME` is offered.
    pub epoch_ns: u64,
}
