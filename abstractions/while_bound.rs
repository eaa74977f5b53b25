// SPDX-License-Identifier: GPL-2.0

//! A value that is there while a driver is bound to a device, in an owner that may outlast that.
//!
//! `kernel::devres` keeps such a value in an allocation of its own, so that an access follows one
//! more pointer, and its caller answers for what the value borrows. Here the value is in its owner.
//! It is made by a function that knows of the binding only that there is one, so it can borrow
//! nothing that ends before the binding does.
//!
//! C header: [`include/linux/device/devres.h`](srctree/include/linux/device/devres.h)

use kernel::{
    bindings,
    device::Bound,
    error::to_result,
    ffi::c_void,
    pci,
    prelude::*,
    revocable::{
        Revocable,
        RevocableGuard, //
    },
    sync::{
        aref::ARef,
        Completion, //
    },
    types::CovariantForLt, //
};

/// A value that is dropped when the driver is unbound from a device, or when this is dropped, what
/// comes first. Unbinding is not over before that.
///
/// # Invariants
///
/// What `value` borrows is there while the driver is bound. [`Self::unbound`] is an action of the
/// device, with the address of this, until it has completed `ended`.
#[pin_data(PinnedDrop)]
pub(crate) struct WhileBound<F: CovariantForLt> {
    #[pin]
    value: Revocable<F::Of<'static>>,
    /// The value was dropped, and not by the action.
    #[pin]
    dropped: Completion,
    /// The action has run.
    #[pin]
    ended: Completion,
    pdev: ARef<pci::Device>,
}

/// The value. It stays while this is held, in an RCU read-side critical section: does not sleep.
pub(crate) struct Access<'a, F: CovariantForLt>(RevocableGuard<'a, F::Of<'static>>);

fn device(pdev: &pci::Device) -> *mut bindings::device {
    // CAST: `pci::Device` is a transparent wrapper of a `struct pci_dev`, in an `Opaque`.
    let pdev: *mut bindings::pci_dev = core::ptr::from_ref(pdev).cast_mut().cast();

    // SAFETY: By the type invariant of `pci::Device` it is valid.
    unsafe { &raw mut (*pdev).dev }
}

impl<F: CovariantForLt> WhileBound<F> {
    /// Has `make` make the value, and gives what else that returns beside an initialiser. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// Those of `make`; the initialiser's is `ENOMEM`.
    pub(crate) fn new<'bound, R>(
        pdev: &'bound pci::Device<Bound>,
        make: impl for<'a> FnOnce(&'a pci::Device<Bound>) -> Result<(F::Of<'a>, R)>,
    ) -> Result<(impl PinInit<Self, Error> + 'bound, R)>
    where
        F: 'bound,
        F::Of<'static>: Send,
    {
        // SAFETY: `make` takes any lifetime, so it cannot know of this one, and `R` has nothing of
        // it. What comes of it is the value, which is dropped while the driver is bound and used
        // by what is borrowed from an `Access` only; if this initialiser is not used, it is
        // dropped in 'bound.
        let forever = unsafe { &*core::ptr::from_ref(pdev) };
        let (value, others) = make(forever)?;

        // INVARIANT: `value` has borrowed nothing but `pdev`, or what is always there. The action
        // comes last: with it, this is initialised.
        let init = try_pin_init!(&this in Self {
            value <- Revocable::new(value),
            dropped <- Completion::new(),
            ended <- Completion::new(),
            pdev: pdev.into(),
            _: {
                // SAFETY: The driver is bound. This is pinned, and not freed before the action is
                // removed or has run.
                to_result(unsafe {
                    bindings::__devm_add_action(
                        device(pdev),
                        Some(Self::unbound),
                        this.as_ptr().cast(),
                        kernel::str::as_char_ptr_in_const_context(c"WhileBound"),
                    )
                })?
            },
        });
        Ok((init, others))
    }

    /// The value; `None` if the driver was unbound. Usable in any context.
    #[inline]
    pub(crate) fn try_access(&self) -> Option<Access<'_, F>> {
        self.value.try_access().map(Access)
    }

    /// Drops the value earlier than at the end of unbinding, after those who have an [`Access`]
    /// have let go of it. May sleep.
    pub(crate) fn end(&self) {
        // If the driver is unbound meanwhile, the action waits for this.
        if self.value.revoke() {
            self.dropped.complete_all();
        }
    }

    /// # Safety
    ///
    /// Only called as an action of the device, by which `this` is valid.
    unsafe extern "C" fn unbound(this: *mut c_void) {
        // SAFETY: As the caller promises.
        let this = unsafe { &*this.cast::<Self>() };

        if !this.value.revoke() {
            this.dropped.wait_for_completion();
        }
        this.ended.complete_all();
    }
}

#[pinned_drop]
impl<F: CovariantForLt> PinnedDrop for WhileBound<F> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Nobody has an `Access`, which borrows from this.
        if unsafe { self.value.revoke_nosync() } {
            self.dropped.complete_all();
        }
        let this = core::ptr::from_ref(&*self).cast_mut().cast();
        // SAFETY: The reference keeps the device valid.
        let removed = unsafe {
            bindings::devm_remove_action_nowarn(device(&self.pdev), Some(Self::unbound), this)
        };
        if removed != 0 {
            self.ended.wait_for_completion();
        }
    }
}

impl<F: CovariantForLt> Access<'_, F> {
    /// What is borrowed from the value does not outlast this.
    #[inline(always)]
    pub(crate) fn value(&self) -> &F::Of<'_> {
        F::cast_ref(&*self.0)
    }
}
