// SPDX-License-Identifier: GPL-2.0

//! RCU: what `kernel::sync::rcu` does not have.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use kernel::bindings;

/// Waits until each RCU read-side critical section that has begun by now is over, as
/// `kernel::sync::rcu::synchronize_rcu()`, at the price of an interrupt on each CPU in place of
/// milliseconds. May sleep; not from a read-side critical section.
pub(crate) fn synchronize_rcu_expedited() {
    // SAFETY: There is no requirement of memory safety.
    unsafe { bindings::synchronize_rcu_expedited() }
}
