// SPDX-License-Identifier: GPL-2.0

//! The host's clock, in ns.

use kernel::bindings;

/// `CLOCK_MONOTONIC`, in ns since an arbitrary moment. Usable in any context.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: `ktime_get()` may be called anywhere but in NMIs, where no code of ours runs.
    let now = unsafe { bindings::ktime_get() };

    // CAST: The monotonic clock starts at 0 and is positive for 292 years.
    now as u64
}
