// SPDX-License-Identifier: GPL-2.0

//! A sealed memfd, pinned and mapped into the kernel.
//!
//! C headers: [`include/linux/memfd.h`](srctree/include/linux/memfd.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h) for `memfd_pin_folios()`. The walk over the
//! folios is that of `drivers/dma-buf/udmabuf.c`.

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    ffi::c_ulong,
    mm::Mm,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
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

/// The lock of a file's inode, taken shared: seals stay as they are.
///
/// # Invariants
///
/// The lock of the inode of the file is held.
struct InodeLock<'a>(&'a OwnedFile);

impl<'a> InodeLock<'a> {
    fn shared(file: &'a OwnedFile) -> Self {
        // SAFETY: The file is valid by its invariant. May sleep, as may our caller.
        unsafe { shim::shim_inode_lock_shared(file.0.as_ptr()) };
        // INVARIANT: Taken just now.
        Self(file)
    }
}

impl Drop for InodeLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold the lock, and the file is valid by its own.
        unsafe { shim::shim_inode_unlock_shared(self.0 .0.as_ptr()) };
    }
}

/// Pages that a process answers for as locked memory.
///
/// # Invariants
///
/// `pages` are counted in `mm`, if there is one.
struct LockedPages {
    mm: Option<ARef<Mm>>,
    pages: usize,
}

impl LockedPages {
    /// Charges them to the current process. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM` beyond its `RLIMIT_MEMLOCK`, unless it has `CAP_IPC_LOCK`.
    fn charge(pages: usize) -> Result<Self> {
        let mm: Option<ARef<Mm>> = current!().mm().map(|mm| {
            let mm: &Mm = mm;
            mm.into()
        });

        Self::account(mm.as_deref(), pages, true)?;
        // INVARIANT: Counted just now.
        Ok(Self { mm, pages })
    }

    fn account(mm: Option<&Mm>, pages: usize, more: bool) -> Result {
        let mm = mm.map_or(core::ptr::null_mut(), Mm::as_raw);

        // SAFETY: `mm` is null or we have a reference, which is all that it takes to count in it.
        to_result(unsafe { bindings::account_locked_vm(mm, pages as c_ulong, more) })
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        // By the type invariant they are counted. To count less cannot fail.
        let _ = Self::account(self.mm.as_deref(), self.pages, false);
    }
}

/// The identity of a memfd, for as long as it is open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemfdId(usize);

/// An open file that may be a memfd.
pub(crate) struct Memfd(OwnedFile);

impl Memfd {
    /// That of descriptor `fd` of the current process.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is not open for reading and writing, `EINVAL` if it is not a memfd.
    pub(crate) fn get(fd: i32) -> Result<Self> {
        let file = OwnedFile::get(fd)?;

        // SAFETY: The file is valid by its invariant.
        if unsafe { shim::shim_file_is_rw(file.0.as_ptr()) } == 0 {
            return Err(EBADF);
        }
        // SAFETY: As above.
        let seals = unsafe { shim::shim_memfd_get_seals(file.0.as_ptr()) };
        if seals < 0 {
            return Err(EINVAL);
        }
        Ok(Self(file))
    }

    /// Which one it is: the same for all descriptors of a memfd.
    pub(crate) fn id(&self) -> MemfdId {
        // SAFETY: The file is valid by its invariant, so it has an inode.
        MemfdId(unsafe { (*self.0 .0.as_ptr()).f_inode }.addr())
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
    // Dropped after the mapping is gone, in this order.
    _folios: PinnedFolios,
    _locked: LockedPages,
    // As long as it is open, no other memfd has its identity.
    _memfd: Memfd,
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

    /// Pins and maps the whole of `memfd`. The pages are locked memory of the current process. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not of `size` bytes, not a whole number of pages, not sealed against
    /// shrinking and growing, or sealed against writing; `ENOMEM` if there is no memory to pin or
    /// map it, or the process may not lock so much.
    pub(crate) fn new(memfd: Memfd, size: usize) -> Result<Self> {
        let locked = LockedPages::charge(size / PAGE_SIZE)?;
        let folios = Self::pin(&memfd.0, size)?;
        let mapping = Self::map(&folios, size / PAGE_SIZE)?;

        // INVARIANT: `vmap()` has mapped the pages, `size` bytes.
        Ok(Self {
            mapping,
            size,
            _folios: folios,
            _locked: locked,
            _memfd: memfd,
        })
    }

    /// Checks and pins it, under the lock that is taken to seal it: between the two nobody seals it
    /// against writing. Once it is pinned, to seal it is refused.
    fn pin(file: &OwnedFile, size: usize) -> Result<PinnedFolios> {
        let _lock = InodeLock::shared(file);

        // SAFETY: The file is valid by its invariant, here and in the next two blocks.
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
        let mut folios = KVVec::from_elem(core::ptr::null_mut(), pages, GFP_KERNEL_ACCOUNT)?;
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
        let pinned = to_result(pinned.min(0) as i32).map(|()| pinned as usize)?;
        // INVARIANT: `memfd_pin_folios()` has pinned and stored that many.
        Ok(PinnedFolios { folios, pinned })
    }

    /// Maps the first `pages` pages of `folios`.
    fn map(folios: &PinnedFolios, pages: usize) -> Result<NonNull<u8>> {
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

        let count = u32::try_from(pages).map_err(|_| EINVAL)?;
        // SAFETY: `list` has `count` pages, which are pinned.
        let mapping = unsafe { shim::shim_vmap_kernel(list.as_mut_ptr(), count) };
        NonNull::new(mapping.cast()).ok_or(ENOMEM)
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
