// SPDX-License-Identifier: GPL-2.0

//! To be told when the system is about to end: by a reboot, a shutdown, or another kernel that
//! takes over (kexec), for which nobody resets the devices.
//!
//! C header: [`include/linux/reboot.h`](srctree/include/linux/reboot.h)

use super::shim;
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

/// What a [`RebootNotifier`] calls.
pub(crate) trait RebootHandler: Send + Sync + 'static {
    /// The system is about to end. Runs in process context and may sleep; user space may still run.
    fn ends(&self);
}

/// A registered [`RebootHandler`]; dropping it unregisters it, and waits for a call that is under
/// way.
///
/// # Invariants
///
/// `block` is the first field, its function is [`Self::notify`], and it is registered.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct RebootNotifier<H: RebootHandler> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    handler: H,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The block is only touched under the lock of the chain on which it is.
unsafe impl<H: RebootHandler> Send for RebootNotifier<H> {}
// SAFETY: As above.
unsafe impl<H: RebootHandler> Sync for RebootNotifier<H> {}

impl<H: RebootHandler> RebootNotifier<H> {
    /// Registers a handler. May sleep.
    pub(crate) fn new(handler: H) -> impl PinInit<Self, Error> {
        // INVARIANT: `block` is set up and registered, or there is no `Self`. It comes last, for
        // the handler may be called at once.
        try_pin_init!(Self {
            handler,
            _pin: PhantomPinned,
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: `block` is valid for writes.
                unsafe {
                    block.write(bindings::notifier_block {
                        notifier_call: Some(Self::notify),
                        ..pin_init::zeroed()
                    })
                };
                // SAFETY: It is set up, will not move, and is unregistered before it is freed.
                to_result(unsafe { shim::register_reboot_notifier(block) })
            }),
        })
    }

    /// # Safety
    ///
    /// Only called by the chain on which `block` is.
    unsafe extern "C" fn notify(
        block: *mut bindings::notifier_block,
        _action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: By the type invariant `block` is the first field of a `Self`, which is pinned and
        // alive: dropping it takes the lock of the chain, which our caller holds. The handler was
        // initialised before the block was registered.
        let handler = unsafe { &(*block.cast::<Self>()).handler };

        handler.ends();
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<H: RebootHandler> PinnedDrop for RebootNotifier<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the block is registered. No handler calls this.
        unsafe { shim::unregister_reboot_notifier(self.block.get()) };
    }
}
