// SPDX-License-Identifier: GPL-2.0

//! A PCI BAR that is memory, mapped as such: cacheable.
//!
//! `ioremap()` would map it uncached, and below 4 GiB the MTRRs make `memremap(MEMREMAP_WB)` fall
//! back to uncached-minus; the caching of a RAM-backed BAR under nested paging is up to the
//! guest's own page tables, so `vmap_pfn()` with ordinary kernel protection is what gives
//! write-back.

use core::ptr::NonNull;
use kernel::{
    device::Bound,
    page::PAGE_SIZE,
    pci,
    prelude::*, //
};

use super::{
    shared_memory::SharedMemory,
    shim, //
};

/// A part of a memory BAR, mapped write-back.
///
/// # Invariants
///
/// `mapping` maps `size` bytes of the BAR.
pub(crate) struct MemoryBar {
    mapping: NonNull<u8>,
    size: usize,
}

// SAFETY: The mapping may be used and unmapped on any CPU.
unsafe impl Send for MemoryBar {}
// SAFETY: It is only accessed through `SharedMemory`.
unsafe impl Sync for MemoryBar {}

impl MemoryBar {
    /// Maps `size` bytes from the start of BAR number `bar`. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the BAR is smaller or `size` is not a whole number of pages, `ENOMEM` if there is
    /// no room to map it.
    pub(crate) fn new(pdev: &pci::Device<Bound>, bar: u32, size: usize) -> Result<Self> {
        let start = pdev.resource_start(bar)?;
        let len = pdev.resource_len(bar)?;

        if size == 0 || size % PAGE_SIZE != 0 || size as u64 > len {
            return Err(EINVAL);
        }
        let count = size / PAGE_SIZE;
        let mut pfns: KVVec<usize> = KVVec::with_capacity(count, GFP_KERNEL)?;
        for page in 0..count {
            pfns.push((start as usize + page * PAGE_SIZE) / PAGE_SIZE, GFP_KERNEL)?;
        }
        // SAFETY: `pfns` has `count` entries, which are of the BAR: `vmap_pfn()` refuses RAM.
        let mapping =
            unsafe { shim::shim_vmap_pfn_kernel(pfns.as_mut_ptr(), u32::try_from(count)?) };
        // INVARIANT: It has mapped that, or returned null.
        Ok(Self {
            mapping: NonNull::new(mapping.cast()).ok_or(ENOMEM)?,
            size,
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
