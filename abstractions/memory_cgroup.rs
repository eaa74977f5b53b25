// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups: who is charged for what is allocated.
//!
//! C header: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h)

use super::shim;
use kernel::bindings;

/// A memory cgroup, or none on a kernel without them. May be dropped in any context.
///
/// # Examples
///
/// ```
/// use crate::abstractions::memory_cgroup::MemoryCgroup;
///
/// let cgroup = MemoryCgroup::current();
///
/// // Maybe later, and in another task: this is charged to `cgroup`.
/// let memory = cgroup.charge(|| KBox::new(7, GFP_KERNEL_ACCOUNT))?;
///
/// assert_eq!(*memory, 7);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The pointer is null, or this owns a reference to what it points to.
pub(crate) struct MemoryCgroup(*mut bindings::mem_cgroup);

impl MemoryCgroup {
    /// That of the current task. Task context.
    pub(crate) fn current() -> Self {
        // INVARIANT: `get_mem_cgroup_from_mm()` returns a reference, or null if there are none.
        //
        // SAFETY: The current task holds a reference to its `mm`, or has none.
        Self(unsafe { shim::shim_get_current_mem_cgroup() })
    }

    /// Charges what `act` allocates with `__GFP_ACCOUNT` to this cgroup, and not to that of the
    /// current task. Task context.
    pub(crate) fn charge<T>(&self, act: impl FnOnce() -> T) -> T {
        // SAFETY: By the type invariant this holds a reference, which outlives the borrow of
        // `self`, and the former cgroup is set again before that ends.
        let former = unsafe { shim::shim_set_active_memcg(self.0) };
        let result = act();

        // SAFETY: It was set when this began: by a scope around this, which holds a reference, or
        // null.
        unsafe { shim::shim_set_active_memcg(former) };
        result
    }
}

// SAFETY: References to a cgroup are counted by atomics, and may be dropped by any task.
unsafe impl Send for MemoryCgroup {}
// SAFETY: As above.
unsafe impl Sync for MemoryCgroup {}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is a reference of our own, or null, which is allowed.
        unsafe { shim::shim_mem_cgroup_put(self.0) }
    }
}
