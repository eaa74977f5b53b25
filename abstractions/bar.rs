// SPDX-License-Identifier: GPL-2.0

//! A PCI BAR that is memory, mapped as such: cacheable.
//!
//! `ioremap()` would map it uncached, and below 4 GiB the MTRRs make `memremap(MEMREMAP_WB)` fall
//! back to uncached-minus; the caching of a RAM-backed BAR under nested paging is up to the
//! guest's own page tables, so `vmap_pfn()` with ordinary kernel protection is what gives
//! write-back.

use core::ptr::NonNull;
use kernel::{
    bindings,
    device::Bound,
    error::to_result,
    ffi::c_int,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use super::{
    shared_memory::SharedMemory,
    shim, //
};

/// A BAR that this driver has for itself; nobody else can request it.
///
/// # Invariants
///
/// BAR `bar` of `pdev` was requested, and is not released before this is dropped.
struct Region {
    pdev: ARef<pci::Device>,
    bar: c_int,
}

fn as_raw(pdev: &pci::Device) -> *mut bindings::pci_dev {
    // CAST: `pci::Device` is a transparent wrapper of a `struct pci_dev`, in an `Opaque`.
    core::ptr::from_ref(pdev).cast_mut().cast()
}

impl Region {
    fn request(pdev: &pci::Device<Bound>, bar: u32, name: &'static CStr) -> Result<Self> {
        let bar = c_int::try_from(bar)?;

        // SAFETY: `pdev` is valid, the caller has checked the number of the BAR, and `name` lives
        // forever.
        to_result(unsafe {
            bindings::pci_request_region(
                as_raw(pdev),
                bar,
                kernel::str::as_char_ptr_in_const_context(name),
            )
        })?;
        // INVARIANT: Requested just now.
        Ok(Self {
            pdev: pdev.into(),
            bar,
        })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it was requested; the reference keeps `pdev` valid.
        unsafe { bindings::pci_release_region(as_raw(&self.pdev), self.bar) };
    }
}

/// A part of a memory BAR, mapped write-back.
///
/// It has to be dropped before the driver is unbound, after which the BAR may be elsewhere.
///
/// # Invariants
///
/// `mapping` maps `size` bytes of the BAR that is `_region`.
pub(crate) struct MemoryBar {
    mapping: NonNull<u8>,
    size: usize,
    _region: Region,
}

// SAFETY: The mapping may be used and unmapped on any CPU, the region released by any task.
unsafe impl Send for MemoryBar {}
// SAFETY: It is only accessed through `SharedMemory`.
unsafe impl Sync for MemoryBar {}

impl MemoryBar {
    /// Requests BAR number `bar` under a name and maps `size` bytes from its start. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the BAR is smaller or `size` is not a whole number of pages, `EBUSY` if somebody
    /// else has the BAR, `ENOMEM` if there is no room to map it.
    pub(crate) fn new(
        pdev: &pci::Device<Bound>,
        bar: u32,
        size: usize,
        name: &'static CStr,
    ) -> Result<Self> {
        let start = usize::try_from(pdev.resource_start(bar)?)?;
        let len = pdev.resource_len(bar)?;

        if size == 0 || size % PAGE_SIZE != 0 || start % PAGE_SIZE != 0 || size as u64 > len {
            return Err(EINVAL);
        }
        let region = Region::request(pdev, bar, name)?;
        let count = size / PAGE_SIZE;
        let mut pfns: KVVec<usize> = KVVec::with_capacity(count, GFP_KERNEL)?;
        for page in 0..count {
            pfns.push(start / PAGE_SIZE + page, GFP_KERNEL)?;
        }
        // SAFETY: `pfns` has `count` entries, which are of the BAR: `vmap_pfn()` refuses RAM.
        let mapping =
            unsafe { shim::shim_vmap_pfn_kernel(pfns.as_mut_ptr(), u32::try_from(count)?) };
        // INVARIANT: It has mapped that, or returned null.
        Ok(Self {
            mapping: NonNull::new(mapping.cast()).ok_or(ENOMEM)?,
            size,
            _region: region,
        })
    }

    /// The memory. Usable in any context.
    #[inline]
    pub(crate) fn memory(&self) -> SharedMemory<'_> {
        // SAFETY: By the type invariant `size` bytes are mapped for as long as `self` is borrowed.
        unsafe { SharedMemory::new(self.mapping, self.size) }
    }
}

impl Drop for MemoryBar {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is a vmap. May sleep, as may whoever drops us.
        unsafe { shim::vunmap(self.mapping.as_ptr().cast()) };
    }
}
