// SPDX-License-Identifier: GPL-2.0

//! Work that is put off to a context that may be preempted.
//!
//! Differs from `kernel::workqueue` in that a queued item holds no reference: dropping it cancels
//! it and waits. So a module that drops what it has can be unloaded.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::ops::Deref;
use kernel::{
    bindings,
    prelude::*,
    static_lock_class,
    types::Opaque, //
};

/// What a [`Deferred`] calls.
pub(crate) trait DeferredHandler: Sync + Sized + 'static {
    /// Does the work. May sleep; never runs twice at a time. Returns whether there is more to do,
    /// in which case it is called again, after others had their turn.
    fn run(&self) -> bool;
}

/// A work item together with what it belongs to.
///
/// Dereferences to the `T`.
///
/// # Invariants
///
/// `work` is initialised, with [`Self::run`] as its function, and is the first field.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Deferred<T: DeferredHandler> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    #[pin]
    inner: T,
}

// SAFETY: A work item may be queued, cancelled and dropped on any CPU.
unsafe impl<T: DeferredHandler + Send> Send for Deferred<T> {}
// SAFETY: Queueing through `&self` is atomic; `T` is `Sync`.
unsafe impl<T: DeferredHandler> Sync for Deferred<T> {}

impl<T: DeferredHandler> Deferred<T> {
    /// An initialiser: nothing is queued.
    pub(crate) fn new(inner: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        // INVARIANT: `init_work_with_key()` initialises `work` with `run`.
        try_pin_init!(Self {
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is valid for writes and will not move; name and key are static.
                unsafe {
                    bindings::init_work_with_key(
                        work,
                        Some(Self::run),
                        false,
                        kernel::str::as_char_ptr_in_const_context(c"deferred"),
                        static_lock_class!().as_ptr(),
                    )
                }
            }),
            inner <- inner,
        })
    }

    /// Queues the work, unless it is queued. Usable in any context.
    pub(crate) fn queue(&self) {
        // SAFETY: By the type invariant `work` is initialised. `system_dfl_wq` is never freed.
        unsafe {
            bindings::queue_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as kernel::ffi::c_int,
                bindings::system_dfl_wq,
                self.work.get(),
            )
        };
    }

    /// # Safety
    ///
    /// Only called for the work item whose function it is.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: By the type invariant `work` is the first field of a `Self`, which is pinned
        // and alive: dropping it cancels the work and waits for this function.
        let this = unsafe { &*work.cast::<Self>() };

        if T::run(&this.inner) {
            this.queue();
        }
    }
}

impl<T: DeferredHandler> Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

#[pinned_drop]
impl<T: DeferredHandler> PinnedDrop for Deferred<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant `work` is initialised; nobody else can queue it, as we have
        // the only reference, and `cancel_work_sync()` copes with work that queues itself.
        unsafe { bindings::cancel_work_sync(self.work.get()) };
    }
}
