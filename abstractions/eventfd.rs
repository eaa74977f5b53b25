// SPDX-License-Identifier: GPL-2.0

//! Eventfds: to signal one, and to be called, synchronously, when somebody signals one.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h). The listener follows the
//! discipline of `irqfd_wakeup()` in `virt/kvm/eventfd.c`.

use core::{
    marker::PhantomPinned,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    prelude::*,
    types::Opaque, //
};

use super::{
    irq_lock::IrqsOff,
    shim, //
};

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

/// What an [`EventFdListener`] calls.
pub(crate) trait Listener: Send + Sync {
    /// The eventfd was signalled.
    ///
    /// Runs inside the signalling call, in whatever context that is, with interrupts disabled and
    /// the lock of the eventfd's wait queue held. It has to be short, may not sleep, allocate or
    /// take a sleeping lock, and may not signal any eventfd. It never runs twice at a time for the
    /// same eventfd.
    fn signalled(&self, irqs: &IrqsOff);
}

/// A [`Listener`] that hangs on an eventfd's wait queue; dropping it takes it off and waits for a
/// call that is under way.
///
/// # Invariants
///
/// - `wait` is the first field, its function is [`Self::wake`].
/// - From the end of initialisation on, `wait` is on the wait queue of `eventfd`.
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
    pub(crate) fn attach(file: &EventFdFile, listener: L) -> Result<Pin<KBox<Self>>> {
        let eventfd = file.eventfd()?;

        let this = KBox::pin_init(
            pin_init!(Self {
                wait <- Opaque::ffi_init(|wait: *mut bindings::wait_queue_entry| {
                    // SAFETY: `wait` is valid for writes. The list head is initialised by the
                    // wait queue when the entry is added; a zeroed one is on no list.
                    unsafe {
                        wait.write(bindings::wait_queue_entry {
                            func: Some(Self::wake),
                            ..pin_init::zeroed()
                        })
                    }
                }),
                eventfd,
                listener,
                _pin: PhantomPinned,
            }),
            GFP_KERNEL,
        )?;

        // SAFETY: The file is valid by its own invariant. The entry is initialised and pinned, and
        // is taken off the queue before it is freed, as `PinnedDrop` does.
        let queues = unsafe { shim::shim_poll_add_wait(file.0.as_ptr(), this.wait.get()) };
        // INVARIANT: An eventfd has one wait queue, and its poll() always waits on it.
        if queues != 1 {
            // It cannot be dropped by the book, so it is never dropped.
            core::mem::forget(this);
            return Err(EINVAL);
        }
        Ok(this)
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

            // Keep the counter from ever filling up, which would block those who signal.
            //
            // SAFETY: The eventfd is valid; the wait queue's lock is held, as for any wake-up.
            unsafe { bindings::eventfd_ctx_do_read(this.eventfd.0.as_ptr(), &mut count) };

            // SAFETY: Who holds the lock of an eventfd's wait queue has interrupts disabled, as it is
            // taken in interrupts, too; and our caller holds it until we return.
            this.listener.signalled(&unsafe { IrqsOff::new() });
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
        // SAFETY: By the type invariants the eventfd is valid and `wait` is on its queue; if the
        // constructor failed before, there was no `Self` to drop.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.eventfd.0.as_ptr(),
                self.wait.get(),
                &mut count,
            )
        };
    }
}
