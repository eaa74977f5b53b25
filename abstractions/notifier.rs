// SPDX-License-Identifier: GPL-2.0

//! Entries of the kernel's notifier chains whose calls may sleep: what
//! [`pm_notifier`](super::pm_notifier) and [`reboot_notifier`](super::reboot_notifier) have in
//! common.
//!
//! C header: [`include/linux/notifier.h`](srctree/include/linux/notifier.h)

use core::marker::PhantomPinned;
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    types::Opaque, //
};

/// What a [`Notifier`] calls, and the chain on which that is.
///
/// # Safety
///
/// `register` adds a block to a chain, if it returns 0, and `unregister` takes it off. The chain
/// calls its blocks in process context, under a lock that `unregister` takes, too.
pub(crate) unsafe trait Chained: Send + Sync + 'static {
    /// Adds a block to the chain. May sleep.
    ///
    /// # Safety
    ///
    /// The block is set up, and does not move until it was unregistered.
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int;

    /// Takes a block off the chain, and waits for a call that is under way. May sleep.
    ///
    /// # Safety
    ///
    /// The block is registered, and this is no call by the chain.
    unsafe fn unregister(block: *mut bindings::notifier_block);

    /// Handles an action of the chain's, and returns a `NOTIFY_*`. May sleep.
    fn notify(&self, action: c_ulong) -> c_int;
}

/// A block on a chain; dropping it takes it off, and waits for a call that is under way. May sleep.
///
/// # Invariants
///
/// `block` is the first field, its function is [`Self::call`], and it is registered.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Notifier<C: Chained> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    chained: C,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The block is only touched under the lock of the chain on which it is.
unsafe impl<C: Chained> Send for Notifier<C> {}
// SAFETY: As above.
unsafe impl<C: Chained> Sync for Notifier<C> {}

impl<C: Chained> Notifier<C> {
    /// Registers a block. May sleep.
    pub(super) fn register(chained: C) -> impl PinInit<Self, Error> {
        // INVARIANT: `block` is set up and registered, or there is no `Self`. It comes last, for
        // it may be called at once.
        try_pin_init!(Self {
            chained,
            _pin: PhantomPinned,
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: `block` is valid for writes.
                unsafe {
                    block.write(bindings::notifier_block {
                        notifier_call: Some(Self::call),
                        ..pin_init::zeroed()
                    })
                };
                // SAFETY: It is set up, is pinned, and is unregistered before it is freed.
                to_result(unsafe { C::register(block) })
            }),
        })
    }

    /// # Safety
    ///
    /// Only called by the chain on which `block` is.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: By the type invariant `block` is the first field of a `Self`, which is pinned and
        // alive: dropping it takes the lock of the chain, which our caller holds. `chained` was
        // initialised before the block was registered.
        let chained = unsafe { &(*block.cast::<Self>()).chained };

        chained.notify(action)
    }
}

#[pinned_drop]
impl<C: Chained> PinnedDrop for Notifier<C> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the block is registered. The chain's calls have a reference
        // only, and drop nothing.
        unsafe { C::unregister(self.block.get()) };
    }
}
