// SPDX-License-Identifier: GPL-2.0

//! To be told when the system is about to sleep, and when it is awake again.
//!
//! C header: [`include/linux/suspend.h`](srctree/include/linux/suspend.h)

use kernel::prelude::*;

/// How the system is about to sleep.
#[cfg_attr(
    not(CONFIG_PM_SLEEP),
    allow(dead_code, reason = "the system does not sleep")
)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// To idle or to memory, which is kept.
    Suspend,
    /// To an image of the memory, or from such an image.
    Hibernation,
}

/// What a [`PmNotifier`] calls. Both functions run in process context and may sleep; user space
/// runs when they are called, and the devices do.
pub(crate) trait PmHandler: Send + Sync + 'static {
    /// The system is about to sleep.
    ///
    /// # Errors
    ///
    /// Keeps the system from it; who wanted it gets that error.
    fn prepare(&self, sleep: Sleep) -> Result;

    /// The system is awake again, or did not sleep after all. Not called if it was this handler
    /// that kept it from it.
    fn awake(&self, sleep: Sleep);
}

/// Where the system does not sleep: [`PmNotifier`] has a handler that is never called.
#[cfg(not(CONFIG_PM_SLEEP))]
mod notifier {
    use super::PmHandler;
    use kernel::prelude::*;

    /// See [`super::Sleep`].
    #[pin_data]
    pub(crate) struct PmNotifier<H: PmHandler> {
        _handler: H,
    }

    impl<H: PmHandler> PmNotifier<H> {
        /// Registers nothing.
        pub(crate) fn new(handler: H) -> impl PinInit<Self, Error> {
            // Nobody calls these, which does not make what they call dead code.
            let _ = (H::prepare, H::awake);

            try_pin_init!(Self { _handler: handler })
        }
    }
}

#[cfg(CONFIG_PM_SLEEP)]
mod notifier {
    use super::{
        PmHandler,
        Sleep, //
    };
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

    /// A registered [`PmHandler`]; dropping it unregisters it, and waits for a call that is under
    /// way.
    ///
    /// # Invariants
    ///
    /// `block` is the first field, its function is [`Self::notify`], and it is registered.
    #[pin_data(PinnedDrop)]
    #[repr(C)]
    pub(crate) struct PmNotifier<H: PmHandler> {
        #[pin]
        block: Opaque<bindings::notifier_block>,
        handler: H,
        #[pin]
        _pin: PhantomPinned,
    }

    // SAFETY: The block is only touched under the lock of the chain on which it is.
    unsafe impl<H: PmHandler> Send for PmNotifier<H> {}
    // SAFETY: As above.
    unsafe impl<H: PmHandler> Sync for PmNotifier<H> {}

    impl<H: PmHandler> PmNotifier<H> {
        /// Registers a handler. May sleep.
        pub(crate) fn new(handler: H) -> impl PinInit<Self, Error> {
            // INVARIANT: `block` is set up and registered, or there is no `Self`. It comes last,
            // for the handler may be called at once.
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
                    to_result(unsafe { bindings::register_pm_notifier(block) })
                }),
            })
        }

        /// # Safety
        ///
        /// Only called by the chain on which `block` is.
        unsafe extern "C" fn notify(
            block: *mut bindings::notifier_block,
            action: c_ulong,
            _data: *mut c_void,
        ) -> c_int {
            // SAFETY: By the type invariant `block` is the first field of a `Self`, which is pinned
            // and alive: dropping it takes the lock of the chain, which our caller holds. The
            // handler was initialised before the block was registered.
            let handler = unsafe { &(*block.cast::<Self>()).handler };

            // CAST: All values that the chain is called with fit.
            let result = match action as u32 {
                bindings::PM_SUSPEND_PREPARE => handler.prepare(Sleep::Suspend),
                bindings::PM_HIBERNATION_PREPARE | bindings::PM_RESTORE_PREPARE => {
                    handler.prepare(Sleep::Hibernation)
                }
                bindings::PM_POST_SUSPEND => {
                    handler.awake(Sleep::Suspend);
                    Ok(())
                }
                bindings::PM_POST_HIBERNATION | bindings::PM_POST_RESTORE => {
                    handler.awake(Sleep::Hibernation);
                    Ok(())
                }
                _ => Ok(()),
            };
            // As notifier_from_errno() does it.
            match result {
                Ok(()) => bindings::NOTIFY_OK as c_int,
                Err(error) => {
                    bindings::NOTIFY_STOP_MASK as c_int
                        | (bindings::NOTIFY_OK as c_int - error.to_errno())
                }
            }
        }
    }

    #[pinned_drop]
    impl<H: PmHandler> PinnedDrop for PmNotifier<H> {
        fn drop(self: Pin<&mut Self>) {
            // SAFETY: By the type invariant the block is registered. No handler calls this.
            unsafe { bindings::unregister_pm_notifier(self.block.get()) };
        }
    }
}

pub(crate) use notifier::PmNotifier;
