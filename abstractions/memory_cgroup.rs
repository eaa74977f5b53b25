// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups: who is charged for what is allocated.
//!
//! C header: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h)

use super::shim;
use kernel::bindings;

/// A memory cgroup. On a kernel without any, and for tasks in none, it is none: then nothing is changed
/// by it.
///
/// Dropping it may happen in any context.
///
/// # Invariants
///
/// The pointer is null, or this owns a reference to what it points to.
pub(crate) struct MemoryCgroup(*mut bindings::mem_cgroup);

impl MemoryCgroup {
    /// That of the current task. Task context.
    pub(crate) fn current() -> Self {
        // INVARIANT: It is null or comes with a reference.
        //
        // SAFETY: The memory of the current task, if it has some, stays while this runs. There is no
        // other requirement.
        Self(unsafe { shim::shim_get_current_mem_cgroup() })
    }

    /// What `act` allocates with `__GFP_ACCOUNT` is charged to this one, and not to that of the
    /// current task.
    pub(crate) fn charge<T>(&self, act: impl FnOnce() -> T) -> T {
        // SAFETY: By the type invariant and the borrow of `self` it is alive until the former one is
        // set again.
        let former = unsafe { shim::shim_set_active_memcg(self.0) };
        let result = act();

        // SAFETY: The former one is that of a scope around this, which keeps it alive, or null.
        unsafe { shim::shim_set_active_memcg(former) };
        result
    }
}

// SAFETY: A memory cgroup is used and its references are counted in any context.
unsafe impl Send for MemoryCgroup {}
// SAFETY: As above.
unsafe impl Sync for MemoryCgroup {}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is a reference of our own, or null, which is allowed.
        unsafe { shim::shim_mem_cgroup_put(self.0) }
    }
}
