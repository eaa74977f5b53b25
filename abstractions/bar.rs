// SPDX-License-Identifier: GPL-2.0

//! PCI BARs that are not registers, for which there is `kernel::pci::Bar`: [`PortBar`] is for I/O
//! ports, [`MemoryBar`] for memory, which is mapped as such: cacheable.
//!
//! `ioremap()` would map memory uncached, and below 4 GiB the MTRRs make `memremap(MEMREMAP_WB)` fall
//! back to uncached-minus; the caching of a RAM-backed BAR under nested paging is up to the guest's
//! own page tables, so `vmap_pfn()` with ordinary kernel protection is what gives write-back.

use core::ptr::NonNull;
use kernel::{
    bindings,
    device::{
        Bound,
        Core, //
    },
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    io::{
        IoBackend,
        IoBase,
        MmioBackend, //
    },
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::Arc, //
};

use super::{
    miscdevice::{
        AddressSpace,
        Frame,
        Showing, //
    },
    shared_memory::SharedMemory,
    shim, //
};

fn as_raw(pdev: &pci::Device) -> *mut bindings::pci_dev {
    // CAST: `pci::Device` is a transparent wrapper of a `struct pci_dev`, in an `Opaque`.
    core::ptr::from_ref(pdev).cast_mut().cast()
}

/// Whether BAR number `bar` has one of these flags, `IORESOURCE_*`. The device chooses them, and so
/// does whoever emulates it.
fn has_flags(pdev: &pci::Device<Bound>, bar: u32, flags: u32) -> bool {
    if bar >= bindings::PCI_STD_NUM_BARS {
        return false;
    }
    // SAFETY: By the type invariant of `pci::Device` it is valid, and every one has that many BARs.
    let found = unsafe { shim::shim_pci_resource_flags(as_raw(pdev), bar) };

    found & flags as c_ulong != 0
}

/// Whether BAR number `bar` is memory. [`kernel::pci::Bar`] takes any BAR for that.
pub(crate) fn is_memory(pdev: &pci::Device<Bound>, bar: u32) -> bool {
    has_flags(pdev, bar, bindings::IORESOURCE_MEM)
}

/// Where `pci_iomap()` maps port 0: see `lib/iomap.c` of the kernel.
#[cfg(CONFIG_X86)]
const PIO_OFFSET: usize = 0x10000;

/// A BAR of I/O ports: `SIZE` bytes of it.
///
/// # Invariants
///
/// `cookie` is where `pci_iomap()` has mapped `_bar`, of which `first` is the first port.
pub(crate) struct PortBar<'a, const SIZE: usize> {
    #[cfg(CONFIG_X86)]
    first: u16,
    #[cfg(not(CONFIG_X86))]
    cookie: usize,
    _bar: pci::Bar<'a, SIZE>,
}

impl<'a, const SIZE: usize> PortBar<'a, SIZE> {
    /// Requests BAR number `bar` under a name. May sleep.
    ///
    /// # Errors
    ///
    /// As [`pci::Device::iomap_region_sized`], and `EINVAL` if the BAR is not I/O ports.
    pub(crate) fn new(pdev: &'a pci::Device<Bound>, bar: u32, name: &'static CStr) -> Result<Self> {
        if !has_flags(pdev, bar, bindings::IORESOURCE_IO) {
            return Err(EINVAL);
        }
        let bar = pdev.iomap_region_sized(bar, name)?;
        let cookie = MmioBackend::as_ptr((&bar).as_view()).addr();

        Ok(Self {
            // INVARIANT: Only ports are mapped to where this is not negative and has 16 bits.
            #[cfg(CONFIG_X86)]
            first: u16::try_from(cookie.wrapping_sub(PIO_OFFSET)).map_err(|_| EINVAL)?,
            #[cfg(not(CONFIG_X86))]
            cookie,
            _bar: bar,
        })
    }

    /// Writes 4 bytes at `offset`. Writes nothing if that is not a multiple of 4, or beyond the BAR.
    /// Earlier stores come before.
    #[inline]
    pub(crate) fn write32(&self, offset: usize, value: u32) {
        if offset % size_of::<u32>() != 0 || offset.saturating_add(size_of::<u32>()) > SIZE {
            return;
        }
        // One instruction; the C functions find out each time that it is a port.
        #[cfg(CONFIG_X86)]
        // SAFETY: By the type invariant that is a port of the BAR, which we have for ourselves.
        // What is written to a device's port is the device's business. CAST: There are no ports
        // beyond 16 bits, and the BAR has this one.
        unsafe {
            core::arch::asm!(
                "out dx, eax",
                in("dx") self.first.wrapping_add(offset as u16),
                in("eax") value,
                options(nostack, preserves_flags),
            )
        };
        #[cfg(not(CONFIG_X86))]
        // SAFETY: By the type invariant it is mapped.
        unsafe {
            bindings::iowrite32(
                value,
                core::ptr::without_provenance_mut(self.cookie + offset),
            )
        };
    }
}

/// Enables a device with its ports, as `pci_enable_device()`, and not only its memory: what is
/// enabled already gets no ports by this. May sleep.
pub(crate) fn enable_with_ports(pdev: &pci::Device<Core<'_>>) -> Result {
    // SAFETY: `pdev` is valid.
    to_result(unsafe { bindings::pci_enable_device(as_raw(pdev)) })
}

/// A BAR that this driver has for itself; nobody else can request it.
///
/// # Invariants
///
/// BAR `bar` of `pdev` was requested, and is not released before this is dropped.
struct Request<'a> {
    pdev: &'a pci::Device<Bound>,
    bar: c_int,
}

impl<'a> Request<'a> {
    fn new(pdev: &'a pci::Device<Bound>, bar: u32, name: &'static CStr) -> Result<Self> {
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
        Ok(Self { pdev, bar })
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it was requested, and the device is bound.
        unsafe { bindings::pci_release_region(as_raw(self.pdev), self.bar) };
    }
}

/// A part of a memory BAR, mapped write-back, and decrypted where the guest's memory is encrypted.
///
/// # Invariants
///
/// `mapping` maps `size` bytes of the BAR that is `_request`.
pub(crate) struct MemoryBar<'a> {
    mapping: NonNull<u8>,
    size: usize,
    first_pfn: usize,
    /// By what the mappings of programs are found; closed when this is dropped.
    pages: Arc<AddressSpace>,
    _request: Request<'a>,
}

// SAFETY: The mapping may be used and unmapped on any CPU, the region released by any task.
unsafe impl Send for MemoryBar<'_> {}
// SAFETY: It is only accessed through `SharedMemory`.
unsafe impl Sync for MemoryBar<'_> {}

impl<'a> MemoryBar<'a> {
    /// Requests BAR number `bar` under a name and maps `size` bytes from its start; programs map
    /// them by `pages` only. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the BAR is not memory or is smaller, or if `size` is not a whole number of pages;
    /// `EBUSY` if somebody else has the BAR; `ENOMEM` if there is no room to map it.
    pub(crate) fn new(
        pdev: &'a pci::Device<Bound>,
        bar: u32,
        size: usize,
        name: &'static CStr,
        pages: Arc<AddressSpace>,
    ) -> Result<Self> {
        if !is_memory(pdev, bar) {
            return Err(EINVAL);
        }
        let start = usize::try_from(pdev.resource_start(bar)?)?;
        let len = pdev.resource_len(bar)?;

        if size == 0 || size % PAGE_SIZE != 0 || start % PAGE_SIZE != 0 || size as u64 > len {
            return Err(EINVAL);
        }
        let request = Request::new(pdev, bar, name)?;
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
            first_pfn: start / PAGE_SIZE,
            pages,
            _request: request,
        })
    }

    /// The memory. Usable in any context.
    #[inline]
    pub(crate) fn memory(&self) -> SharedMemory<'_> {
        // SAFETY: By the type invariant `size` bytes are mapped for as long as `self` is borrowed.
        unsafe { SharedMemory::new(self.mapping, self.size) }
    }

    /// The page frame at `offset`; `None` if it is not in what was mapped here, or something else
    /// is shown.
    pub(crate) fn frame<'s>(&self, offset: usize, showing: &'s Showing<'s>) -> Option<Frame<'s>> {
        if offset >= self.size {
            return None;
        }
        // SAFETY: `drop` closes `pages` before the BAR is released.
        unsafe { Frame::new(showing, &self.pages, self.first_pfn + offset / PAGE_SIZE) }
    }
}

impl Drop for MemoryBar<'_> {
    fn drop(&mut self) {
        self.pages.close();
        // SAFETY: By the type invariant it is a vmap. May sleep, as may whoever drops us.
        unsafe { shim::vunmap(self.mapping.as_ptr().cast()) };
    }
}
