// SPDX-License-Identifier: GPL-2.0

//! A sealed memfd, pinned and mapped into the kernel.
//!
//! C headers: [`include/linux/memfd.h`](srctree/include/linux/memfd.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h) for `memfd_pin_folios()`. The walk over the
//! folios is that of `drivers/dma-buf/udmabuf.c`.

use core::ptr::NonNull;
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

use super::{
    shared_memory::SharedMemory,
    shim, //
};

/// The file of a descriptor.
///
/// # Invariants
///
/// The pointer is to a file of which this owns a reference.
struct OwnedFile(NonNull<bindings::file>);

impl OwnedFile {
    fn get(fd: i32) -> Result<Self> {
        // CAST: A negative descriptor becomes a huge one, which is not open either.
        //
        // SAFETY: Any number may be looked up.
        let file = unsafe { bindings::fget(fd as u32) };

        // INVARIANT: `fget()` returns a reference or null.
        NonNull::new(file).map(Self).ok_or(EBADF)
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own the reference.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// Pinned folios.
///
/// # Invariants
///
/// The first `pinned` entries are folios that are pinned on behalf of this.
struct PinnedFolios {
    folios: KVVec<*mut bindings::folio>,
    pinned: usize,
}

impl Drop for PinnedFolios {
    fn drop(&mut self) {
        // SAFETY: By the type invariant they are pinned, and we unpin them once.
        unsafe { bindings::unpin_folios(self.folios.as_mut_ptr(), self.pinned) };
    }
}

/// The whole of a memfd: its pages cannot be moved or swapped out, and are mapped in one piece.
///
/// Whoever has the descriptor may write into it at any time, and may even punch a hole into the
/// file, after which it sees other pages than this does. Both only hurt what that one sees.
///
/// # Invariants
///
/// `mapping` is a vmap of the `size` bytes of `folios`.
pub(crate) struct PinnedMemfd {
    mapping: NonNull<u8>,
    size: usize,
    // Dropped after the mapping is gone.
    _folios: PinnedFolios,
}

// SAFETY: The mapping may be used and unmapped on any CPU.
unsafe impl Send for PinnedMemfd {}
// SAFETY: It is only accessed through `SharedMemory`.
unsafe impl Sync for PinnedMemfd {}

impl PinnedMemfd {
    /// The seals that keep the pages where they are.
    const SEALS_NEEDED: u32 = bindings::F_SEAL_SHRINK | bindings::F_SEAL_GROW;
    /// The seals with which nobody could write.
    const SEALS_REFUSED: u32 = bindings::F_SEAL_WRITE | bindings::F_SEAL_FUTURE_WRITE;

    /// Pins and maps the memfd `fd` of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is not open, or not for reading and writing; `EINVAL` if it is not a memfd,
    /// not of `size` bytes, not a whole number of pages, not sealed against shrinking and growing,
    /// or sealed against writing; `ENOMEM` if there is no memory to pin or map it.
    pub(crate) fn new(fd: i32, size: usize) -> Result<Self> {
        let file = OwnedFile::get(fd)?;

        // SAFETY: The file is valid by its invariant, here and in the next three blocks.
        if unsafe { shim::shim_file_is_rw(file.0.as_ptr()) } == 0 {
            return Err(EBADF);
        }
        // SAFETY: As above.
        let seals = unsafe { shim::shim_memfd_get_seals(file.0.as_ptr()) };
        let seals = u32::try_from(seals).map_err(|_| EINVAL)?;
        if seals & Self::SEALS_NEEDED != Self::SEALS_NEEDED || seals & Self::SEALS_REFUSED != 0 {
            return Err(EINVAL);
        }
        // The size is asked for after the seals: it can no longer change.
        //
        // SAFETY: As above.
        let file_size = unsafe { shim::shim_i_size(file.0.as_ptr()) };
        if size == 0 || size % PAGE_SIZE != 0 || usize::try_from(file_size) != Ok(size) {
            return Err(EINVAL);
        }

        let pages = size / PAGE_SIZE;
        let mut offset = 0;
        let mut folios = KVVec::from_elem(core::ptr::null_mut(), pages, GFP_KERNEL)?;
        let max_folios = u32::try_from(pages).map_err(|_| EINVAL)?;
        // SAFETY: As above; `folios` has room for `max_folios` entries.
        let pinned = unsafe {
            bindings::memfd_pin_folios(
                file.0.as_ptr(),
                0,
                (size - 1) as bindings::loff_t,
                folios.as_mut_ptr(),
                max_folios,
                &mut offset,
            )
        };
        let pinned = kernel::error::to_result(pinned.min(0) as i32).map(|()| pinned as usize)?;
        // INVARIANT: `memfd_pin_folios()` has pinned and stored that many.
        let folios = PinnedFolios { folios, pinned };

        let mut list: KVVec<*mut bindings::page> = KVVec::with_capacity(pages, GFP_KERNEL)?;
        for &folio in folios.folios.iter().take(folios.pinned) {
            // SAFETY: The folio is pinned, so it is valid and is not split.
            let in_folio = unsafe { shim::shim_folio_nr_pages(folio) };

            // The range starts at offset 0 of the file, so each folio counts from its first page.
            for n in 0..in_folio {
                if list.len() < pages {
                    // SAFETY: `n` is below the number of pages of the folio.
                    list.push(unsafe { shim::shim_folio_page(folio, n) }, GFP_KERNEL)?;
                }
            }
        }
        if list.len() != pages {
            return Err(EINVAL);
        }

        // SAFETY: `list` has `max_folios` pages, which are pinned.
        let mapping = unsafe { shim::shim_vmap_kernel(list.as_mut_ptr(), max_folios) };
        // INVARIANT: `vmap()` has mapped the pages, `size` bytes, or returned null.
        Ok(Self {
            mapping: NonNull::new(mapping.cast()).ok_or(ENOMEM)?,
            size,
            _folios: folios,
        })
    }

    /// The memory. Usable in any context.
    #[inline]
    pub(crate) fn memory(&self) -> SharedMemory<'_> {
        // SAFETY: By the type invariant `size` bytes are mapped for as long as `self` is borrowed;
        // a vmap starts at a page, and nothing else in this kernel accesses it.
        unsafe { SharedMemory::new(self.mapping, self.size) }
    }
}

impl Drop for PinnedMemfd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is a vmap. This may sleep, as may whoever drops us.
        unsafe { shim::vunmap(self.mapping.as_ptr().cast()) };
    }
}
