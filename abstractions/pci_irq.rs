// SPDX-License-Identifier: GPL-2.0

//! The interrupt of a PCI device that has one: its vector and its handler, as one value.
//!
//! A handler borrows from the vectors, so `kernel` has no way yet to keep both in a driver's data.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h)

use kernel::{
    device::Bound,
    irq::{
        self,
        Handler, //
    },
    pci::{
        self,
        IrqType,
        IrqTypes,
        IrqVectorRegistration, //
    },
    prelude::*, //
};

/// A handler of the one MSI-X vector of a device. Dropping it waits for the handler, and then frees
/// the vector.
///
/// # Invariants
///
/// `registration` is of a vector of `_vectors`, which is dropped after it.
#[pin_data]
pub(crate) struct MsixHandler<'bound, H: Handler> {
    #[pin]
    registration: irq::Registration<'bound, H>,
    _vectors: IrqVectorRegistration<'bound>,
}

impl<'bound, H: Handler + 'static> MsixHandler<'bound, H> {
    /// Allocates the vector and registers the handler, which may be called at once. May sleep.
    ///
    /// # Errors
    ///
    /// Those of the allocation: the device has no MSI-X, or there is no vector left for it.
    pub(crate) fn new(
        pdev: &'bound pci::Device<Bound>,
        name: &'static CStr,
        handler: H,
    ) -> Result<impl PinInit<Self, Error> + 'bound> {
        let vectors = pdev.alloc_irq_vectors(1, 1, IrqTypes::default().with(IrqType::MsiX))?;
        let request: irq::IrqRequest<'_> = vectors.index(0)?.into();
        // SAFETY: A request is a number, which is that of a vector for as long as `vectors` lives.
        // INVARIANT: By the order of the fields it is dropped last, and moving it frees nothing.
        let request = unsafe {
            core::mem::transmute::<irq::IrqRequest<'_>, irq::IrqRequest<'bound>>(request)
        };

        Ok(try_pin_init!(Self {
            _vectors: vectors,
            // SAFETY: The handler owns what it uses, and pinned memory is not used otherwise before
            // it is dropped. If it never is, the vector is never freed either.
            registration <- unsafe {
                irq::Registration::new(request, irq::Flags::TRIGGER_NONE, name, Ok(handler))
            },
        }))
    }
}
