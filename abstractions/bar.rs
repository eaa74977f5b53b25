// SPDX-License-Identifier: GPL-2.0

//! PCI BARs of a driver whose users may outlast the binding: it is up to the driver to drop them
//! before. `kernel::pci::Bar` leaves that to devres, which every access has to ask.
//!
//! [`RegisterBar`] is for registers, [`PortBar`] for I/O ports, [`MemoryBar`] for memory, which is
//! mapped as such: cacheable. `ioremap()` would map it uncached, and below 4 GiB the MTRRs make
//! `memremap(MEMREMAP_WB)` fall back to uncached-minus; the caching of a RAM-backed BAR under
//! nested paging is up to the guest's own page tables, so `vmap_pfn()` with ordinary kernel
//! protection is what gives write-back.

use core::ptr::NonNull;
use kernel::{
    bindings,
    device::Bound,
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    io::{
        IoBase,
        Mmio,
        MmioBackend,
        MmioRaw,
        Region, //
    },
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
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

/// A BAR that this driver has for itself; nobody else can request it.
///
/// # Invariants
///
/// BAR `bar` of `pdev` was requested, and is not released before this is dropped.
struct Request {
    pdev: ARef<pci::Device>,
    bar: c_int,
}

fn as_raw(pdev: &pci::Device) -> *mut bindings::pci_dev {
    // CAST: `pci::Device` is a transparent wrapper of a `struct pci_dev`, in an `Opaque`.
    core::ptr::from_ref(pdev).cast_mut().cast()
}

impl Request {
    fn new(pdev: &pci::Device<Bound>, bar: u32, name: &'static CStr) -> Result<Self> {
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

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it was requested; the reference keeps `pdev` valid.
        unsafe { bindings::pci_release_region(as_raw(&self.pdev), self.bar) };
    }
}

/// What `pci_iomap()` gives of a BAR: memory, uncached, or ports.
///
/// # Invariants
///
/// `cookie` is a mapping of at least `len` bytes of the BAR that is `request`.
struct IoMapping {
    cookie: NonNull<c_void>,
    len: usize,
    request: Request,
}

// SAFETY: The mapping may be used and unmapped on any CPU.
unsafe impl Send for IoMapping {}
// SAFETY: As above; it has no state of its own.
unsafe impl Sync for IoMapping {}

impl IoMapping {
    fn new(pdev: &pci::Device<Bound>, bar: u32, len: usize, name: &'static CStr) -> Result<Self> {
        if pdev.resource_len(bar)? < len as u64 {
            return Err(EINVAL);
        }
        let request = Request::new(pdev, bar, name)?;

        // SAFETY: `pdev` is valid, and `resource_len()` has checked the number of the BAR.
        let cookie = unsafe { bindings::pci_iomap(as_raw(pdev), request.bar, len as c_ulong) };
        // INVARIANT: It has mapped that, or returned null.
        Ok(Self {
            cookie: NonNull::new(cookie).ok_or(ENOMEM)?,
            len,
            request,
        })
    }
}

impl Drop for IoMapping {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is a mapping of that device.
        unsafe { bindings::pci_iounmap(as_raw(&self.request.pdev), self.cookie.as_ptr()) };
    }
}

/// A BAR of registers: `SIZE` bytes of it, mapped uncached.
///
/// It has to be dropped before the driver is unbound.
///
/// # Invariants
///
/// `raw` is what `_mapping` has mapped, which is memory.
pub(crate) struct RegisterBar<const SIZE: usize> {
    raw: MmioRaw<Region<SIZE>>,
    _mapping: IoMapping,
}

impl<const SIZE: usize> RegisterBar<SIZE> {
    /// Requests BAR number `bar` under a name and maps it. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the BAR is smaller, `EBUSY` if somebody else has it, `ENOMEM` if there is no
    /// room to map it.
    pub(crate) fn new(pdev: &pci::Device<Bound>, bar: u32, name: &'static CStr) -> Result<Self> {
        let mapping = IoMapping::new(pdev, bar, SIZE, name)?;

        // INVARIANT: `IoMapping` has mapped that much. Should the BAR be of ports, reads and writes
        // fault: a device that lies about itself can do worse.
        Ok(Self {
            raw: MmioRaw::new_region(mapping.cookie.as_ptr() as usize, mapping.len)?,
            _mapping: mapping,
        })
    }
}

impl<'a, const SIZE: usize> IoBase<'a> for &'a RegisterBar<SIZE> {
    type Backend = MmioBackend;
    type Target = Region<SIZE>;

    #[inline]
    fn as_view(self) -> Mmio<'a, Region<SIZE>> {
        // SAFETY: By the type invariant it is mapped, as long as `self` is borrowed at least.
        unsafe { Mmio::from_raw(self.raw) }
    }
}

/// Where `pci_iomap()` maps port 0: see `lib/iomap.c` of the kernel.
#[cfg(CONFIG_X86)]
const PIO_OFFSET: usize = 0x10000;

/// A BAR of I/O ports.
///
/// It has to be dropped before the driver is unbound.
///
/// # Invariants
///
/// On x86, `mapping` maps ports, the first of which is `first`.
pub(crate) struct PortBar {
    mapping: IoMapping,
    #[cfg(CONFIG_X86)]
    first: u16,
}

impl PortBar {
    /// Enables the device with its ports, as `pci_enable_device()`, and not only its memory. To be
    /// called before the device is enabled otherwise. May sleep.
    pub(crate) fn enable(pdev: &pci::Device<Bound>) -> Result {
        // SAFETY: `pdev` is valid.
        to_result(unsafe { bindings::pci_enable_device(as_raw(pdev)) })
    }

    /// Requests BAR number `bar`, which must have `len` bytes of ports, under a name. May sleep.
    ///
    /// # Errors
    ///
    /// As [`RegisterBar::new`], and on x86 `EINVAL` if the BAR is not of ports.
    pub(crate) fn new(
        pdev: &pci::Device<Bound>,
        bar: u32,
        len: usize,
        name: &'static CStr,
    ) -> Result<Self> {
        let mapping = IoMapping::new(pdev, bar, len, name)?;

        Ok(Self {
            // INVARIANT: Only ports are mapped to where this is not negative and has 16 bits.
            #[cfg(CONFIG_X86)]
            first: u16::try_from((mapping.cookie.as_ptr() as usize).wrapping_sub(PIO_OFFSET))
                .map_err(|_| EINVAL)?,
            mapping,
        })
    }

    /// Writes 4 bytes at `offset`; nothing if the BAR does not have it. Earlier stores come before.
    #[inline]
    pub(crate) fn write32(&self, offset: usize, value: u32) {
        if offset.saturating_add(size_of::<u32>()) > self.mapping.len {
            return;
        }
        // One instruction; the C functions find out each time that it is a port.
        #[cfg(CONFIG_X86)]
        // SAFETY: By the type invariant, and that of `IoMapping`, that is a port of the BAR, which
        // we have for ourselves. What is written to a device's port is the device's business. CAST:
        // There are no ports beyond 16 bits, and the BAR has this one.
        unsafe {
            core::arch::asm!(
                "out dx, eax",
                in("dx") self.first.wrapping_add(offset as u16),
                in("eax") value,
                options(nostack, preserves_flags),
            )
        };
        #[cfg(not(CONFIG_X86))]
        // SAFETY: By the invariant of `IoMapping` it is mapped.
        unsafe {
            bindings::iowrite32(
                value,
                self.mapping.cookie.as_ptr().wrapping_byte_add(offset),
            )
        };
    }
}

/// A part of a memory BAR, mapped write-back, and decrypted where the guest's memory is encrypted.
///
/// It has to be dropped before the driver is unbound, after which the BAR may be elsewhere.
///
/// # Invariants
///
/// `mapping` maps `size` bytes of the BAR that is `_request`.
pub(crate) struct MemoryBar {
    mapping: NonNull<u8>,
    size: usize,
    first_pfn: usize,
    /// By what the mappings of programs are found; closed when this is dropped.
    pages: Arc<AddressSpace>,
    _request: Request,
}

// SAFETY: The mapping may be used and unmapped on any CPU, the region released by any task.
unsafe impl Send for MemoryBar {}
// SAFETY: It is only accessed through `SharedMemory`.
unsafe impl Sync for MemoryBar {}

impl MemoryBar {
    /// Requests BAR number `bar` under a name and maps `size` bytes from its start; programs map
    /// them by `pages` only. May sleep.
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
        pages: Arc<AddressSpace>,
    ) -> Result<Self> {
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
    pub(crate) fn frame<'a>(&self, offset: usize, showing: &'a Showing<'a>) -> Option<Frame<'a>> {
        if offset >= self.size {
            return None;
        }
        // SAFETY: `drop` closes `pages` before the BAR is released.
        unsafe { Frame::new(showing, &self.pages, self.first_pfn + offset / PAGE_SIZE) }
    }
}

impl Drop for MemoryBar {
    fn drop(&mut self) {
        self.pages.close();
        // SAFETY: By the type invariant it is a vmap. May sleep, as may whoever drops us.
        unsafe { shim::vunmap(self.mapping.as_ptr().cast()) };
    }
}
