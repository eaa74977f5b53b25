// SPDX-License-Identifier: GPL-2.0

//! The host's clocks, in ns since some moment that is the same for all readings of one. Usable in
//! any context.

use kernel::{
    bindings,
    time::{
        BootTime,
        ClockSource,
        Monotonic, //
    }, //
};

// CAST, for all three: `ktime_get()` returns a value that is not negative.

/// `CLOCK_MONOTONIC`: does not count the host's suspend.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    Monotonic::ktime_get() as u64
}

/// `CLOCK_MONOTONIC_RAW`: as `CLOCK_MONOTONIC`, without the corrections of NTP.
#[allow(dead_code, reason = "the host module's")]
#[inline]
pub(crate) fn monotonic_raw_ns() -> u64 {
    // SAFETY: It may be called anywhere but in NMIs, where no code of ours runs.
    let now = unsafe { bindings::ktime_get_raw() };

    now as u64
}

/// `CLOCK_BOOTTIME`: counts the host's suspend.
#[allow(dead_code, reason = "the host module's")]
#[inline]
pub(crate) fn boottime_ns() -> u64 {
    BootTime::ktime_get() as u64
}
