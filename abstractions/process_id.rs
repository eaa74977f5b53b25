// SPDX-License-Identifier: GPL-2.0

//! Process ids: a process as each pid namespace numbers it.
//!
//! C header: [`include/linux/pid.h`](srctree/include/linux/pid.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    sync::rcu, //
};

/// The id of a process, which may have ended since.
///
/// Dropping it may happen in any context.
///
/// # Examples
///
/// ```
/// use crate::abstractions::process_id::ProcessId;
///
/// let id = ProcessId::current()?;
///
/// assert!(id.number() > 0);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// This owns a reference to what it points to.
pub(crate) struct ProcessId(NonNull<bindings::pid>);

impl ProcessId {
    /// That of the current process. Task context.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has none any more.
    pub(crate) fn current() -> Result<Self> {
        let task = current!().as_ptr();
        // SAFETY: The current task is valid while it runs this.
        let pid = unsafe { bindings::get_task_pid(task, bindings::pid_type_PIDTYPE_TGID) };

        // INVARIANT: `get_task_pid()` returns a reference.
        NonNull::new(pid).map(Self).ok_or(ESRCH)
    }

    /// Its number in the pid namespace of the current task; 0 if it is not there, or has ended.
    /// Task context.
    pub(crate) fn number(&self) -> i32 {
        let _guard = rcu::read_lock();

        // SAFETY: By the type invariant this holds a reference, and the RCU read lock is held.
        let task = unsafe { bindings::pid_task(self.0.as_ptr(), bindings::pid_type_PIDTYPE_TGID) };
        if task.is_null() {
            return 0;
        }
        // SAFETY: By the type invariant this holds a reference.
        unsafe { bindings::pid_vnr(self.0.as_ptr()) }
    }
}

// SAFETY: The numbers of a pid do not change, and its references are counted by atomics.
unsafe impl Send for ProcessId {}
// SAFETY: As above.
unsafe impl Sync for ProcessId {}

impl Drop for ProcessId {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is a reference of our own.
        unsafe { bindings::put_pid(self.0.as_ptr()) }
    }
}
