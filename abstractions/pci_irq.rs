// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a PCI device: its vectors, their handlers and the CPUs that take them, as one
//! value.
//!
//! A handler borrows from the vectors, so `kernel` has no way yet to keep both in a driver's data.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h)

use kernel::{
    bindings,
    cpu::CpuId,
    cpumask::CpumaskVar,
    device::Bound,
    error::to_result,
    irq::{
        self,
        ThreadedHandler, //
    },
    pci::{
        self,
        IrqType,
        IrqTypes,
        IrqVectorRegistration, //
    },
    prelude::*, //
};

/// The MSI-X vectors of a device. Dropping it frees them.
pub(crate) struct MsixVectors<'bound>(IrqVectorRegistration<'bound>);

impl<'bound> MsixVectors<'bound> {
    /// Allocates up to `most` vectors, one at least. May sleep.
    ///
    /// # Errors
    ///
    /// Those of the allocation: the device has no MSI-X, or there is no vector left for it.
    pub(crate) fn new(pdev: &'bound pci::Device<Bound>, most: u32) -> Result<Self> {
        let types = IrqTypes::default().with(IrqType::MsiX);

        Ok(Self(pdev.alloc_irq_vectors(1, most, types)?))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        // CAST: A device has 2,048 of them at the most.
        self.0.len() as u32
    }
}

/// Handlers of MSI-X vectors of a device. Dropping it waits for them, and then frees the vectors.
///
/// # Invariants
///
/// `registrations` are of vectors of `_vectors`, which is dropped after them.
pub(crate) struct MsixHandlers<'bound, H: ThreadedHandler + 'static> {
    registrations: KVec<Pin<KBox<irq::ThreadedRegistration<'bound, H>>>>,
    _vectors: MsixVectors<'bound>,
}

impl<'bound, H: ThreadedHandler + 'static> MsixHandlers<'bound, H> {
    /// Registers a threaded handler for each of the first `count` vectors, which may be called at
    /// once, and has it run on those CPUs of which `runs` says so, given the vector's index and the
    /// CPU. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and those of `request_irq()`. That the CPUs cannot be had is none: then it runs on
    /// others.
    pub(crate) fn new(
        vectors: MsixVectors<'bound>,
        count: u32,
        name: &'static CStr,
        handler: impl Fn() -> H,
        runs: impl Fn(u32, CpuId) -> bool,
    ) -> Result<Self> {
        let mut registrations = KVec::with_capacity(count as usize, GFP_KERNEL)?;

        for index in 0..count {
            let request: irq::IrqRequest<'_> = vectors.0.index(index as usize)?.into();
            let irq = request.irq();
            // SAFETY: A request is a number, which is that of a vector for as long as `vectors`
            // lives, and what is made of it here is dropped before that.
            let request = unsafe {
                core::mem::transmute::<irq::IrqRequest<'_>, irq::IrqRequest<'bound>>(request)
            };
            // SAFETY: The handler owns what it uses, and pinned memory is not used otherwise before
            // it is dropped. If it never is, the vector is never freed either.
            let registration = unsafe {
                irq::ThreadedRegistration::new(
                    request,
                    irq::Flags::TRIGGER_NONE,
                    name,
                    Ok(handler()),
                )
            };
            let registration = KBox::pin_init(registration, GFP_KERNEL)?;

            registrations.push(registration, GFP_KERNEL)?;
            // Where it cannot be told where to run, it runs somewhere.
            let _ = Self::run_on(irq, |cpu| runs(index, cpu));
        }
        // INVARIANT: By the order of the fields it is dropped last, and moving it frees nothing.
        Ok(Self {
            registrations,
            _vectors: vectors,
        })
    }

    /// Has an interrupt with a handler go to certain CPUs, of those that are online.
    fn run_on(irq: u32, runs: impl Fn(CpuId) -> bool) -> Result {
        let mut cpus = CpumaskVar::new_zero(GFP_KERNEL)?;

        for cpu in (0..kernel::cpu::nr_cpu_ids()).filter_map(CpuId::from_u32) {
            if runs(cpu) {
                cpus.set(cpu);
            }
        }
        // SAFETY: The interrupt has a handler, so it is there; the mask is copied.
        to_result(unsafe { bindings::irq_set_affinity(irq, cpus.as_raw()) })
    }
}
