// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a PCI device: its vectors, their handlers and the CPUs that take them, as one
//! value.
//!
//! A handler borrows from the vectors, and must not be forgotten, so `kernel` has no safe way yet to
//! keep both in a driver's data. Here they end with the binding, whatever becomes of their owner.
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
        Flags,
        IrqRequest,
        ThreadedHandler,
        ThreadedRegistration, //
    },
    pci::{
        self,
        IrqType,
        IrqTypes,
        IrqVectorRegistration, //
    },
    prelude::*,
    types::CovariantForLt, //
};

use super::while_bound::WhileBound;

/// What interrupts are for.
pub(crate) trait Interrupted {
    /// Its handler, of which each vector has one.
    type Handler: ThreadedHandler + Send + 'static;

    /// How many vectors it needs, of those that it was given.
    fn vectors(&self) -> u32;

    /// Makes the handler of a vector. It may be called as soon as it is registered.
    fn handler(&self) -> Self::Handler;

    /// Whether a CPU takes the interrupts of a vector.
    fn runs(&self, vector: u32, cpu: CpuId) -> bool;
}

/// A handler of a vector. Dropping it waits until it does not run.
trait Registered: Send {}

impl<H: ThreadedHandler + Send + 'static> Registered for Pin<KBox<ThreadedRegistration<'_, H>>> {}

/// # Invariants
///
/// `handlers` are of vectors of `_vectors`, which is dropped after them.
struct Handlers<'bound> {
    handlers: KVec<KBox<dyn Registered + 'bound>>,
    _vectors: KBox<IrqVectorRegistration<'bound>>,
}

type BoundHandlers = WhileBound<CovariantForLt!(Handlers<'_>)>;

/// Handlers of MSI-X vectors of a device. Dropping it waits for them, and then frees the vectors;
/// so does the end of the binding. May sleep.
pub(crate) struct MsixHandlers {
    _handlers: Pin<KBox<BoundHandlers>>,
}

impl MsixHandlers {
    /// Allocates up to `most` vectors, one at least, and has `make` make what they are for, given
    /// how many they are. Then gives as many of them as that needs a threaded handler, which may be
    /// called at once. May sleep.
    ///
    /// # Errors
    ///
    /// Those of the allocation of vectors: the device has no MSI-X, or there is no vector left for
    /// it; those of `make` and of `request_irq()`; `ENOMEM`. That the CPUs cannot be had is none:
    /// then a handler runs on others.
    pub(crate) fn new<I: Interrupted>(
        pdev: &pci::Device<Bound>,
        most: u32,
        name: &'static CStr,
        make: impl FnOnce(u32) -> Result<I>,
    ) -> Result<(Self, I)> {
        let (handlers, interrupted) =
            BoundHandlers::new(pdev, move |pdev| Handlers::new(pdev, most, name, make))?;
        // Here, for the action is there only after this, and an initialiser may be forgotten.
        let _handlers = KBox::pin_init(handlers, GFP_KERNEL)?;

        Ok((Self { _handlers }, interrupted))
    }
}

impl<'bound> Handlers<'bound> {
    fn new<I: Interrupted>(
        pdev: &'bound pci::Device<Bound>,
        most: u32,
        name: &'static CStr,
        make: impl FnOnce(u32) -> Result<I>,
    ) -> Result<(Self, I)> {
        let types = IrqTypes::default().with(IrqType::MsiX);
        let vectors = pdev
            .alloc_irq_vectors(1, most, types)
            .inspect_err(|_| dev_err!(pdev, "no MSI-X vector for its interrupts\n"))?;
        let vectors = KBox::new(vectors, GFP_KERNEL)?;
        // CAST: A device has 2,048 vectors at the most.
        let interrupted = make(vectors.len() as u32)?;
        let count = interrupted.vectors();

        // INVARIANT: By the order of the fields they are dropped last, and moving this does not
        // move what is in the box.
        let mut this = Self {
            handlers: KVec::with_capacity(count as usize, GFP_KERNEL)?,
            _vectors: vectors,
        };
        for index in 0..count {
            this.register(index, name, &interrupted)?;
        }
        Ok((this, interrupted))
    }

    fn register<I: Interrupted>(
        &mut self,
        index: u32,
        name: &'static CStr,
        interrupted: &I,
    ) -> Result {
        // SAFETY: By the type invariant the vectors are there, and are not moved, until the last of
        // `handlers` is dropped, which is the only place where this reference goes.
        let vectors = unsafe { &*core::ptr::from_ref(&*self._vectors) };
        let request: IrqRequest<'bound> = vectors.index(index as usize)?.into();
        let irq = request.irq();
        let handler = Ok(interrupted.handler());

        // SAFETY: It is dropped, at the latest when the driver is unbound: it does not leave this
        // file but in a `WhileBound`, the action of which drops it even if its owner is forgotten.
        let handler =
            unsafe { ThreadedRegistration::new(request, Flags::TRIGGER_NONE, name, handler) };
        let handler = KBox::pin_init(handler, GFP_KERNEL)?;

        self.handlers
            .push(KBox::new(handler, GFP_KERNEL)?, GFP_KERNEL)?;
        // Where it cannot be told where to run, it runs somewhere.
        let _ = run_on(irq, |cpu| interrupted.runs(index, cpu));
        Ok(())
    }
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
