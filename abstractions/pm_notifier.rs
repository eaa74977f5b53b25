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
mod registered {
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
mod registered {
    use super::{
        super::notifier::{
            Chained,
            Notifier, //
        },
        PmHandler,
        Sleep, //
    };
    use kernel::{
        bindings,
        ffi::{
            c_int,
            c_ulong, //
        },
        prelude::*, //
    };

    /// A handler on the chain of those who are told of sleep.
    pub(crate) struct Pm<H>(H);

    /// A registered [`PmHandler`].
    pub(crate) type PmNotifier<H> = Notifier<Pm<H>>;

    // SAFETY: These are the functions of one blocking chain, which has them.
    unsafe impl<H: PmHandler> Chained for Pm<H> {
        unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
            // SAFETY: As the caller promises.
            unsafe { bindings::register_pm_notifier(block) }
        }

        unsafe fn unregister(block: *mut bindings::notifier_block) {
            // SAFETY: As the caller promises.
            unsafe { bindings::unregister_pm_notifier(block) };
        }

        fn notify(&self, action: c_ulong) -> c_int {
            let Self(handler) = self;
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

    impl<H: PmHandler> PmNotifier<H> {
        /// Registers a handler. May sleep.
        pub(crate) fn new(handler: H) -> impl PinInit<Self, Error> {
            Self::register(Pm(handler))
        }
    }
}

pub(crate) use registered::PmNotifier;
