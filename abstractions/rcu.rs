// SPDX-License-Identifier: GPL-2.0

//! RCU: what `kernel::sync::rcu` does not have.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use kernel::bindings;

/// Waits for the end of every RCU read-side critical section that has begun by now, as
/// `kernel::sync::rcu::synchronize_rcu()` does. It interrupts each CPU, and so takes microseconds
/// where that takes milliseconds. May sleep; not from a read-side critical section.
pub(crate) fn synchronize_rcu_expedited() {
    // SAFETY: It takes nothing, and has no requirement of memory safety.
    unsafe { bindings::synchronize_rcu_expedited() }
}
