// SPDX-License-Identifier: GPL-2.0

//! Waiting for RCU readers.

use kernel::bindings;

/// Waits until all RCU read-side critical sections that have begun are over. May sleep, for some
/// milliseconds.
pub(crate) fn synchronize() {
    // SAFETY: The callers may sleep, and are not in such a section, as otherwise nobody could.
    unsafe { bindings::synchronize_rcu() };
}
