// SPDX-License-Identifier: GPL-2.0

//! The power of the machine.
//!
//! C header: [`include/linux/reboot.h`](srctree/include/linux/reboot.h)

use super::shim;

/// Powers the machine off in good order: has user space do it, and does it by force if that fails.
/// Returns at once; usable in any context.
pub(crate) fn orderly_poweroff() {
    // SAFETY: It only queues work, which any context may do.
    unsafe { shim::orderly_poweroff(true) };
}
