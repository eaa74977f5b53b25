// SPDX-License-Identifier: GPL-2.0

//! Privileges of the current task.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h)

use kernel::bindings;

/// Whether the current task has `CAP_SYS_ADMIN` in the initial user namespace. May be audited.
#[allow(dead_code, reason = "the host module's")]
pub(crate) fn sys_admin() -> bool {
    // SAFETY: `capable()` may be called by any task.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as kernel::ffi::c_int) }
}

/// Whether the current task has `CAP_DAC_OVERRIDE` in the initial user namespace. May be audited.
#[allow(dead_code, reason = "the guest driver's")]
pub(crate) fn dac_override() -> bool {
    // SAFETY: `capable()` may be called by any task.
    unsafe { bindings::capable(bindings::CAP_DAC_OVERRIDE as kernel::ffi::c_int) }
}

/// Whether the current task has `CAP_SYS_BOOT` in the initial user namespace. May be audited.
pub(crate) fn sys_boot() -> bool {
    // SAFETY: `capable()` may be called by any task.
    unsafe { bindings::capable(bindings::CAP_SYS_BOOT as kernel::ffi::c_int) }
}
