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
    page::PAGE_SIZE,
    prelude::*, //
};

use super::shared_memory::SharedMemory;
use super::shim;

/// The file of a descriptor.
///
/// # Invariants
///
/// The pointer is to a file of which this owns a reference.
struct OwnedFile(NonNull<bindings::file>);

// SAFETY: A reference to a file may be used and given back by any task.
unsafe impl Send for OwnedFile {}
// SAFETY: What is done through `&self` may be done by several tasks at a time.
unsafe impl Sync for OwnedFile {}

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

/// Memory that a user answers for as locked.
///
/// # Invariants
///
/// What `pin` says was counted by `mm_account_pinned_pages()`.
struct LockedMemory {
    pin: bindings::ubuf_info_msgzc_mmpin,
}

// SAFETY: A user's count may be changed, and the reference to him given back, by any task.
unsafe impl Send for LockedMemory {}
// SAFETY: Nothing is reached through `&self`.
unsafe impl Sync for LockedMemory {}

impl LockedMemory {
    /// Charges `size` bytes to the user of the current task, and two pages: the kernel's function
    /// is for buffers that may begin and end anywhere. Not to the process, whose count an exec or
    /// its end would forget while the memory stays locked.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the user has more then, in all his processes, than the task's `RLIMIT_MEMLOCK`.
    /// Nothing is counted if that is infinite, or with `CAP_IPC_LOCK`.
    fn charge(size: usize) -> Result<Self> {
        let mut pin = bindings::ubuf_info_msgzc_mmpin::default();

        // SAFETY: `pin` is valid for writes, and has no user yet.
        to_result(unsafe { bindings::mm_account_pinned_pages(&mut pin, size) })
            .map_err(|_| ENOMEM)?;
        // INVARIANT: Counted just now, or it has no user.
        Ok(Self { pin })
    }
}

impl Drop for LockedMemory {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it was counted; it is given back once.
        unsafe { bindings::mm_unaccount_pinned_pages(&mut self.pin) };
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
        let seals = unsafe { shim::shim_shmem_seals(file.0.as_ptr()) };
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
/// Dropping it may sleep.
///
/// # Examples
///
/// ```
/// use crate::abstractions::memfd::{Memfd, PinnedMemfd};
/// use kernel::page::PAGE_SIZE;
///
/// /// The first word of a memfd of one page, whose size is sealed.
/// fn first_word(fd: i32) -> Result<u64> {
///     let memfd = Memfd::get(fd)?;
///     let pinned = PinnedMemfd::new(&memfd, PAGE_SIZE)?;
///
///     Ok(pinned.memory().load(0))
/// }
///
/// // No descriptor has this number.
/// assert!(first_word(-1).is_err());
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `mapping` is a vmap of the `size` bytes of `folios`.
pub(crate) struct PinnedMemfd {
    mapping: NonNull<u8>,
    size: usize,
    // Dropped after the mapping is gone, in this order.
    _folios: PinnedFolios,
    _locked: LockedMemory,
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

    /// Pins and maps the whole of `memfd`. The pages are locked memory of the current user. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not of `size` bytes, not a whole number of pages, not sealed against
    /// shrinking and growing, or sealed against writing; `ENOMEM` if there is no memory to pin or
    /// map it, or the user may not lock so much.
    pub(crate) fn new(memfd: &Memfd, size: usize) -> Result<Self> {
        let locked = LockedMemory::charge(size)?;
        let folios = Self::pin(&memfd.0, size)?;
        let mapping = Self::map(&folios, size / PAGE_SIZE)?;

        // INVARIANT: `vmap()` has mapped the pages, `size` bytes.
        Ok(Self {
            mapping,
            size,
            _folios: folios,
            _locked: locked,
        })
    }

    /// Checks and pins it, under the lock that is taken to seal it: between the two nobody seals it
    /// against writing. Once it is pinned, F_SEAL_WRITE is refused. F_SEAL_FUTURE_WRITE is not: it
    /// leaves mappings that there are as they are.
    fn pin(file: &OwnedFile, size: usize) -> Result<PinnedFolios> {
        let _lock = InodeLock::shared(file);

        // SAFETY: The file is valid by its invariant, here and in the next two blocks.
        let seals = unsafe { shim::shim_shmem_seals(file.0.as_ptr()) };
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
        let mut list: KVVec<*mut bindings::page> = KVVec::with_capacity(pages, GFP_KERNEL_ACCOUNT)?;
        for &folio in folios.folios.iter().take(folios.pinned) {
            // SAFETY: The folio is pinned, so it is valid and is not split.
            let in_folio = unsafe { shim::shim_folio_nr_pages(folio) };

            // The range starts at offset 0 of the file, so each folio counts from its first page.
            for n in 0..in_folio {
                if list.len() < pages {
                    // SAFETY: `n` is below the number of pages of the folio.
                    let page = unsafe { shim::shim_folio_page(folio, n) };

                    list.push(page, GFP_KERNEL_ACCOUNT)?;
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
