// SPDX-License-Identifier: GPL-2.0

//! Work that a task does on its way out of the kernel: before it goes on in its program, or before
//! KVM enters the guest again. It may be preempted and may sleep, and time and memory that it takes
//! are the task's.
//!
//! # Lifetime
//!
//! While work is queued it holds an open file of the module ([`WeakFile::upgrade`]), so neither
//! what the file has nor the module goes. The file's own last `fput()` is task work, too, maybe of
//! the same task; so neither may wait for the other, and neither does.
//!
//! The reference to the file is given back by code of the module, which runs for another moment
//! after that, without sleeping. [`TaskWorks`] covers that moment: the module's exit waits until
//! every task has slept, or has been in its program, since then (`synchronize_rcu_tasks()`).
//!
//! C header: [`include/linux/task_work.h`](srctree/include/linux/task_work.h)

use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    ptr, //
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        Arc, //
    },
    task::{
        Kuid,
        Task, //
    },
    types::Opaque, //
};

use super::shim;
use super::weak_file::WeakFile;

/// How a task is told of its work.
#[derive(Clone, Copy)]
pub(crate) enum Notify {
    /// It does it when it leaves the kernel.
    Resume,
    /// As [`Self::Resume`], and a system call in which it sleeps is interrupted for it.
    Signal,
}

/// How the current task is to be told of work; `None` where there is no task that would do it
/// soon: in interrupts, in a kernel thread, and in a task that exits. Usable in any context.
pub(crate) fn notify_current() -> Option<Notify> {
    if !in_task() {
        return None;
    }
    // SAFETY: This is a task, and `flags` is only written by itself.
    let flags = unsafe { (*Task::current_raw()).flags };

    if flags & (bindings::PF_KTHREAD | bindings::PF_EXITING) != 0 {
        None
    } else if flags & bindings::PF_USER_WORKER != 0 {
        // Workers of io_uring and vhost never return to user mode; a signal makes them look.
        Some(Notify::Signal)
    } else {
        Some(Notify::Resume)
    }
}

/// Whether this is a task, and no interrupt or softirq in which no task waits for what is done: the
/// kernel's `in_task()`. Any context.
#[inline]
pub(crate) fn in_task() -> bool {
    // SAFETY: It only looks at the state of this CPU.
    unsafe { shim::shim_in_task() }
}

/// Lets others run, if it is time. Task context, without spinlocks.
pub(crate) fn may_reschedule() {
    // SAFETY: Our caller may sleep.
    unsafe { shim::shim_cond_resched() };
}

/// Whether the current task has been killed, and should leave the kernel soon. An exiting task gets
/// no new work by [`notify_current`], but runs what it had: that looks here after each section, so
/// it does one.
pub(crate) fn current_is_dying() -> bool {
    // SAFETY: It only looks at the current task.
    unsafe { shim::shim_current_is_dying() }
}

/// The effective user of a task, which may change at any time. Any context.
pub(crate) fn effective_user(task: &Task) -> Kuid {
    // SAFETY: By the type invariant of `Task` it is valid while it is borrowed.
    let val = unsafe { shim::shim_task_euid(task.as_ptr()) };

    Kuid::from_raw(bindings::kuid_t { val })
}

/// What a [`TaskWork`] does.
pub(crate) trait TaskWorkHandler: Send + Sync + Sized + 'static {
    /// Does the work. Task context, without locks; may sleep. May run in several tasks at a time,
    /// if it is queued again while it runs. The task may be exiting.
    fn run(&self);
}

/// A piece of work, to be queued to one task at a time.
///
/// # Examples
///
/// ```
/// use crate::abstractions::task_work::{
///     notify_current, TaskWork, TaskWorkGate, TaskWorkHandler, TaskWorks,
/// };
/// use crate::abstractions::weak_file::{FileLink, WeakFile};
/// use kernel::sync::Arc;
///
/// static GATE: TaskWorkGate = TaskWorkGate::new();
///
/// struct Rest;
///
/// impl TaskWorkHandler for Rest {
///     fn run(&self) {
///         pr_info!("done by the task itself\n");
///     }
/// }
///
/// /// Leaves the rest to the task that has called into the file.
/// fn leave_over(rest: &Arc<TaskWork<Rest>>, file: &WeakFile) -> Result {
///     let notify = notify_current().ok_or(ESRCH)?;
///
///     rest.queue(current!(), notify, file)
/// }
///
/// // The module's own, until it exits.
/// let works = KBox::try_pin_init(TaskWorks::new(&GATE), GFP_KERNEL)?;
/// let rest = Arc::pin_init(TaskWork::new(&GATE, Rest), GFP_KERNEL)?;
/// let file = <Arc<WeakFile> as FileLink>::new()?;
///
/// // A kernel thread takes no task work.
/// assert!(leave_over(&rest, &file).is_err());
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// - `head` is the first field; its function is `Self::run` while it is queued.
/// - While `queued`, `file` belongs to whoever set that, and then to the task that runs the work;
///   else to nobody.
#[pin_data]
#[repr(C)]
pub(crate) struct TaskWork<T: TaskWorkHandler> {
    head: Opaque<bindings::callback_head>,
    queued: Atomic<bool>,
    gate: &'static TaskWorkGate,
    file: UnsafeCell<Option<ARef<File>>>,
    inner: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: `head` and `file` have one owner at a time by the type invariants, `T` is `Send`.
unsafe impl<T: TaskWorkHandler> Send for TaskWork<T> {}
// SAFETY: As above; `T` is `Sync`.
unsafe impl<T: TaskWorkHandler> Sync for TaskWork<T> {}

impl<T: TaskWorkHandler> TaskWork<T> {
    /// An initialiser: nothing is queued. What is queued passes `gate`.
    pub(crate) fn new(gate: &'static TaskWorkGate, inner: T) -> impl PinInit<Self> {
        // INVARIANT: It is not queued.
        pin_init!(Self {
            head: Opaque::uninit(),
            queued: Atomic::new(false),
            gate,
            file: UnsafeCell::new(None),
            inner,
            _pin: PhantomPinned,
        })
    }

    /// Queues the work to `task`, unless it is queued, to whichever task. Until it begins, and
    /// while it runs, it holds `file`. Usable in any context.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the task exits, or the file does, or the module; or if the task is a kernel
    /// thread, which would do the work when it ends.
    pub(crate) fn queue(self: &Arc<Self>, task: &Task, notify: Notify, file: &WeakFile) -> Result {
        // Acquire: pairs with the release in `run()`, after which `head` and `file` are free.
        if self.queued.xchg(true, Acquire) {
            return Ok(());
        }
        // INVARIANT: `queued` was not set, so `head` and `file` are ours now.
        let result = self.queue_head(task, notify, file);

        if result.is_err() {
            // INVARIANT: Nothing is queued and there is no file. Release: as in `run()`.
            self.queued.store(false, Release);
        }
        result
    }

    /// The part of [`Self::queue`] for the owner of `head` and `file`.
    fn queue_head(self: &Arc<Self>, task: &Task, notify: Notify, file: &WeakFile) -> Result {
        // SAFETY: The task is valid.
        //
        // FIXME(read_once): The task may write other flags meanwhile. This one does not change.
        let flags = unsafe { (&raw const (*task.as_ptr()).flags).read_volatile() };
        if flags & bindings::PF_KTHREAD != 0 {
            return Err(ESRCH);
        }
        let file = file.upgrade().ok_or(ESRCH)?;
        let running = Running::new(self.gate).ok_or(ESRCH)?;
        let mode = match notify {
            Notify::Resume => bindings::task_work_notify_mode_TWA_RESUME,
            Notify::Signal => bindings::task_work_notify_mode_TWA_SIGNAL,
        };
        let this = Arc::into_raw(self.clone());

        // SAFETY: By the type invariants both are ours to write.
        unsafe {
            *self.file.get() = Some(file);
            self.head.get().write(bindings::callback_head {
                next: ptr::null_mut(),
                func: Some(Self::run),
            });
        }
        // SAFETY: `head` is set up, and stays, by the reference leaked above, until `run()`. The
        // task is valid, and its work may be added to in any context.
        let added = unsafe { bindings::task_work_add(task.as_ptr(), self.head.get(), mode) };
        if added != 0 {
            // SAFETY: Nothing was queued: what we leaked is ours again, and so is `file`.
            unsafe {
                drop(Arc::from_raw(this));
                *self.file.get() = None;
            }
            return Err(ESRCH);
        }
        // It ends in `run()`.
        core::mem::forget(running);
        Ok(())
    }

    /// # Safety
    ///
    /// Only called by a task that was given the work by [`Self::queue_head`], once.
    unsafe extern "C" fn run(head: *mut bindings::callback_head) {
        // SAFETY: `head` is the first field of a `Self`, to which `queue_head()` has leaked us a
        // reference.
        let this = unsafe { Arc::from_raw(head.cast_const().cast::<Self>()) };
        // INVARIANT: `queue_head()` has left us its own, of the same gate.
        let running = Running(this.gate);
        // SAFETY: By the type invariant the file is ours, as the work was queued.
        let file = unsafe { (*this.file.get()).take() };
        // Release: pairs with the acquire in `queue()`. From now on it may be queued again, so work
        // that comes while this runs is not missed.
        this.queued.store(false, Release);

        this.inner.run();

        drop(this);
        drop(file);
        // From here on the module may be on its way out, and nothing may sleep before this task has
        // left its code.
        drop(running);
    }
}

/// What all task work of a module passes: a `static` of the module.
pub(crate) struct TaskWorkGate {
    /// Works that are queued or run.
    running: Atomic<i64>,
    /// There is a [`TaskWorks`].
    open: Atomic<bool>,
}

impl TaskWorkGate {
    /// A gate that is shut.
    pub(crate) const fn new() -> Self {
        Self {
            running: Atomic::new(0),
            open: Atomic::new(false),
        }
    }
}

impl Default for TaskWorkGate {
    fn default() -> Self {
        Self::new()
    }
}

/// Work that is queued or runs.
///
/// # Invariants
///
/// It is counted in the `running` of the gate.
struct Running(&'static TaskWorkGate);

impl Running {
    /// `None` if the gate is shut.
    fn new(gate: &'static TaskWorkGate) -> Option<Self> {
        // Full, twice: pairs with `TaskWorks::drop`. It sees this one, or this sees that it closed.
        gate.running.fetch_add(1i64, Full);
        // INVARIANT: Counted just now.
        let running = Self(gate);

        gate.open
            .cmpxchg(true, true, Full)
            .is_ok()
            .then_some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Release: what was done before is seen by `TaskWorks::drop`.
        self.0.running.fetch_sub(1i64, Release);
    }
}

/// That a module does task work: its gate is open. Belongs into what the module's exit drops, which
/// waits then until no task is in the module's code any more. A module that forgets it does not
/// wait. Nothing that a module has can rule that out: it would take a function of the kernel, which
/// calls the work and gives back the module after that.
#[pin_data(PinnedDrop)]
pub(crate) struct TaskWorks {
    gate: &'static TaskWorkGate,
    #[pin]
    _pin: PhantomPinned,
}

impl TaskWorks {
    /// An initialiser: from then on work may be queued.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the gate is open.
    pub(crate) fn new(gate: &'static TaskWorkGate) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Full: pairs with `Running::new`.
            _: { gate.open.cmpxchg(false, true, Full).map_err(|_| EBUSY)?; },
            gate,
            _pin: PhantomPinned,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for TaskWorks {
    fn drop(self: Pin<&mut Self>) {
        // Full: pairs with `Running::new`.
        self.gate.open.xchg(false, Full);
        // When a module exits, work may be left that has given its file back, and ends soon.
        //
        // Acquire: pairs with the release in `Running::drop`.
        while self.gate.running.load(Acquire) != 0 {
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
        }
        // SAFETY: We may sleep.
        unsafe { shim::shim_synchronize_rcu_tasks() };
    }
}
