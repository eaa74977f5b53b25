// SPDX-License-Identifier: GPL-2.0

//! To be told when the system is about to end: by a reboot, a shutdown, or another kernel that
//! takes over (kexec), for which nobody resets the devices.
//!
//! C header: [`include/linux/reboot.h`](srctree/include/linux/reboot.h)

use kernel::{
    bindings,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*, //
};

use super::{
    notifier::{
        Chained,
        Notifier, //
    },
    shim, //
};

/// What a [`RebootNotifier`] calls.
pub(crate) trait RebootHandler: Send + Sync + 'static {
    /// The system is about to end. Runs in process context and may sleep; user space may still run.
    fn ends(&self);
}

/// A handler on the chain of those who are told of the end.
pub(crate) struct Reboot<H>(H);

/// A registered [`RebootHandler`].
pub(crate) type RebootNotifier<H> = Notifier<Reboot<H>>;

// SAFETY: These are the functions of one blocking chain, which has them.
unsafe impl<H: RebootHandler> Chained for Reboot<H> {
    unsafe fn register(block: *mut bindings::notifier_block) -> c_int {
        // SAFETY: As the caller promises.
        unsafe { shim::register_reboot_notifier(block) }
    }

    unsafe fn unregister(block: *mut bindings::notifier_block) {
        // SAFETY: As the caller promises.
        unsafe { shim::unregister_reboot_notifier(block) };
    }

    fn notify(&self, _action: c_ulong) -> c_int {
        self.0.ends();
        bindings::NOTIFY_DONE as c_int
    }
}

impl<H: RebootHandler> RebootNotifier<H> {
    /// Registers a handler. May sleep.
    pub(crate) fn new(handler: H) -> impl PinInit<Self, Error> {
        Self::register(Reboot(handler))
    }
}
