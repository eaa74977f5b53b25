// SPDX-License-Identifier: GPL-2.0

//! Eventfds: to signal one, and to be called, synchronously, when somebody signals one.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h). The listener follows the
//! discipline of `irqfd_wakeup()` in `virt/kvm/eventfd.c`.

use core::{
    marker::PhantomPinned,
    ptr::NonNull, //
};
#[cfg(CONFIG_PREEMPT_RT)]
use kernel::sync::SpinLockIrqGuard;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    prelude::*,
    sync::SpinLockIrq,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
#[cfg(not(CONFIG_PREEMPT_RT))]
use kernel::{
    interrupt::LocalInterruptDisabled,
    sync::SpinLockGuard, //
};

use super::shim;

/// A reference to an eventfd.
///
/// It keeps the eventfd alive, not its file: when the last file is closed nobody can signal it any
/// more, and that is all.
///
/// # Invariants
///
/// The pointer is to an `eventfd_ctx`, of which this owns a reference.
pub(crate) struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: The reference count of an eventfd is atomic, the rest is under its own lock.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

/// A file that is known to be an eventfd.
///
/// # Invariants
///
/// The pointer is to the file of an eventfd, of which this owns a reference.
pub(crate) struct EventFdFile(NonNull<bindings::file>);

impl EventFdFile {
    /// Looks up a descriptor of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is not open, `EINVAL` if it is not an eventfd.
    pub(crate) fn get(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be looked up.
        let file = from_err_ptr(unsafe { bindings::eventfd_fget(fd) })?;

        // INVARIANT: `eventfd_fget()` returns a referenced file of an eventfd.
        NonNull::new(file).map(Self).ok_or(EBADF)
    }

    /// The eventfd itself.
    pub(crate) fn eventfd(&self) -> Result<EventFd> {
        // SAFETY: By the type invariant the file is valid and that of an eventfd.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fileget(self.0.as_ptr()) })?;

        // INVARIANT: `eventfd_ctx_fileget()` returns a reference, which is ours now.
        NonNull::new(ctx).map(EventFd).ok_or(EINVAL)
    }
}

impl Drop for EventFdFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own the reference.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

impl EventFd {
    /// Adds one to its counter and wakes those who wait for it.
    ///
    /// Usable in any context but one: not inside the wake-up function of an eventfd, and so not
    /// in [`Listener::signalled`]. No lock may be held that a wake-up function takes.
    pub(crate) fn signal(&self) {
        // SAFETY: By the type invariant the eventfd is valid.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own the reference.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// That the lock of an eventfd's wait queue is held on this CPU.
///
/// # Invariants
///
/// It is, for as long as this exists.
pub(crate) struct WakeUp(NotThreadSafe);

impl WakeUp {
    /// Takes `lock`. Where the wait queue's lock has interrupts disabled, they are not disabled
    /// again.
    #[inline(always)]
    pub(crate) fn lock<'a, T>(&'a self, lock: &'a SpinLockIrq<T>) -> WakeUpGuard<'a, T> {
        #[cfg(not(CONFIG_PREEMPT_RT))]
        {
            // SAFETY: By the type invariant the lock of a wait queue is held. An eventfd is
            // signalled in interrupts, too, so whoever takes that lock disables interrupts, and
            // enables them when it releases the lock, which is after `self` ends.
            lock.lock_with(unsafe { LocalInterruptDisabled::assume_disabled() })
        }
        // There a wait queue's lock is one that sleeps, and leaves interrupts enabled.
        #[cfg(CONFIG_PREEMPT_RT)]
        {
            lock.lock()
        }
    }
}

/// What [`WakeUp::lock`] returns.
#[cfg(not(CONFIG_PREEMPT_RT))]
pub(crate) type WakeUpGuard<'a, T> = SpinLockGuard<'a, T>;
/// What [`WakeUp::lock`] returns.
#[cfg(CONFIG_PREEMPT_RT)]
pub(crate) type WakeUpGuard<'a, T> = SpinLockIrqGuard<'a, T>;

/// What an [`EventFdListener`] calls.
pub(crate) trait Listener: Send + Sync + 'static {
    /// The eventfd was signalled.
    ///
    /// Runs inside the signalling call, in whatever context that is, with the lock of the
    /// eventfd's wait queue held, and so with interrupts disabled unless the kernel is
    /// `PREEMPT_RT`. It has to be short, may not sleep, allocate or take a sleeping lock, and may
    /// not signal any eventfd. It never runs twice at a time for the same eventfd.
    fn signalled(&self, wake_up: &WakeUp);
}

/// A [`Listener`] on an eventfd's wait queue, the only one of its kind there: an eventfd has one
/// listener, or one irqfd of KVM. Dropping it takes it off and waits for a call that is under way.
/// That takes the lock of the wait queue: not inside a wake-up of that eventfd.
///
/// # Examples
///
/// ```
/// use crate::abstractions::eventfd::{EventFdFile, EventFdListener, Listener, WakeUp};
/// use kernel::sync::{new_spinlock_irq, Arc, SpinLockIrq};
///
/// struct Doorbell(Pin<KBox<SpinLockIrq<u64>>>);
///
/// impl Listener for Doorbell {
///     fn signalled(&self, wake_up: &WakeUp) {
///         *wake_up.lock(&self.0) += 1;
///     }
/// }
///
/// /// Counts how often the eventfd `fd` is signalled, until what it returns is dropped.
/// fn count(fd: i32) -> Result<Pin<KBox<EventFdListener<Doorbell>>>> {
///     let file = EventFdFile::get(fd)?;
///     let count = KBox::pin_init(new_spinlock_irq!(0), GFP_KERNEL)?;
///
///     EventFdListener::attach(&file, Doorbell(count))
/// }
///
/// // No descriptor has this number.
/// assert!(count(-1).is_err());
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// - `wait` is the first field, its function is `Self::wake`.
/// - `wait` is on the wait queue of `eventfd`.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct EventFdListener<L: Listener> {
    #[pin]
    wait: Opaque<bindings::wait_queue_entry>,
    eventfd: EventFd,
    listener: L,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The wait queue entry is only touched under the wait queue's lock.
unsafe impl<L: Listener> Send for EventFdListener<L> {}
// SAFETY: As above.
unsafe impl<L: Listener> Sync for EventFdListener<L> {}

impl<L: Listener> EventFdListener<L> {
    /// Listens to the eventfd of `file`. May sleep.
    ///
    /// The listener may be called before this returns. Signals from before are not told: look at
    /// what they were about after this returns.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the eventfd has a listener, or an irqfd of KVM. The eventfd is not changed then.
    pub(crate) fn attach(file: &EventFdFile, listener: L) -> Result<Pin<KBox<Self>>> {
        // INVARIANT: `wait` is set up and on the queue, or there is no `Self`. It comes last, as
        // the listener may be called at once.
        KBox::try_pin_init(
            try_pin_init!(Self {
                eventfd: file.eventfd()?,
                listener,
                _pin: PhantomPinned,
                wait <- Opaque::try_ffi_init(|wait: *mut bindings::wait_queue_entry| {
                    // SAFETY: `wait` is valid for writes. The wait queue initialises the list head
                    // when the entry is added.
                    unsafe {
                        wait.write(bindings::wait_queue_entry {
                            func: Some(Self::wake),
                            ..pin_init::zeroed()
                        })
                    };
                    // SAFETY: The file is valid by its own invariant. The entry is set up and
                    // pinned, and is taken off the queue before it is freed, as `PinnedDrop` does.
                    to_result(unsafe { shim::shim_poll_add_wait(file.0.as_ptr(), wait) })
                }),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether it listens to the eventfd of `file`.
    pub(crate) fn listens_to(&self, file: &EventFdFile) -> bool {
        file.eventfd()
            .is_ok_and(|eventfd| eventfd.0 == self.eventfd.0)
    }

    /// # Safety
    ///
    /// Only called by the wait queue on which `wait` is, with the queue's lock held.
    unsafe extern "C" fn wake(
        wait: *mut bindings::wait_queue_entry,
        _mode: c_uint,
        _flags: c_int,
        key: *mut c_void,
    ) -> c_int {
        // SAFETY: By the type invariant `wait` is the first field of a `Self`, which is pinned and
        // alive: dropping it takes the lock that our caller holds.
        let this = unsafe { &*wait.cast::<Self>() };
        // CAST: The key of a wake-up is a set of poll flags, as for `key_to_poll()`.
        let flags = key.addr() as u32;

        // EPOLLHUP (the last file was closed) needs no answer: nobody can signal any more, and
        // our reference keeps the wait queue until we are dropped.
        if flags & bindings::POLLIN != 0 {
            let mut count = 0;

            // Keep the counter from ever filling up, which would block those who signal. With
            // EFD_SEMAPHORE this takes one, as for an irqfd: who has added more may fill it, and
            // blocks those who write to it.
            //
            // SAFETY: The eventfd is valid; the wait queue's lock is held, as for any wake-up.
            unsafe { bindings::eventfd_ctx_do_read(this.eventfd.0.as_ptr(), &mut count) };

            // INVARIANT: Our caller holds the lock of the wait queue until we return.
            this.listener.signalled(&WakeUp(NotThreadSafe));
            // Nobody else has to wake up: what was signalled is taken.
            return 1;
        }
        0
    }
}

#[pinned_drop]
impl<L: Listener> PinnedDrop for EventFdListener<L> {
    fn drop(self: Pin<&mut Self>) {
        let mut count = 0;

        // Takes the wait queue's lock, so a call that is under way has ended when it returns.
        //
        // SAFETY: By the type invariants the eventfd is valid and `wait` is on its queue.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.eventfd.0.as_ptr(),
                self.wait.get(),
                &mut count,
            )
        };
    }
}
