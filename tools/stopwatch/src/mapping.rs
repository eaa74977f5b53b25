// SPDX-License-Identifier: MIT OR Apache-2.0

//! Mapped pages, which others write to at any time.

use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags};
use stopwatch_uapi::{stopwatch_device_info, STOPWATCH_CLOCK_PAGE_SIZE};

/// What is done with pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// Pages of a device, written by others at any time, or of this program.
///
/// # Invariants
///
/// `size` bytes from `base` on, which is the start of a page, are mapped for
/// reading, or reading and writing, as long as this lives.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: it is only ever accessed by atomic loads and stores.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes of `fd`, from `offset` on.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        size: usize,
        access: Access,
    ) -> Result<Arc<Self>, Errno> {
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: with no address asked for, the kernel takes one where nothing
        // is mapped.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                size,
                protection,
                MapFlags::SHARED,
                fd,
                offset,
            )?
        };
        // INVARIANT: mmap() has just mapped that, and only drop() unmaps it.
        Ok(Arc::new(Self {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            size,
        }))
    }

    /// `size` bytes of this program's own, all zero.
    pub(crate) fn own(size: usize) -> Result<Arc<Self>, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `new()`.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), size, protection, MapFlags::PRIVATE)? };
        // INVARIANT: as in `new()`.
        Ok(Arc::new(Self {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            size,
        }))
    }

    /// Maps the clock page of a device and, behind it, its state pages.
    pub(crate) fn pages(
        fd: BorrowedFd<'_>,
        info: &stopwatch_device_info,
    ) -> Result<Arc<Self>, Errno> {
        let size = STOPWATCH_CLOCK_PAGE_SIZE as usize + info.state_size as usize;
        Self::new(fd, 0, size, Access::Read)
    }

    /// How many bytes are mapped.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// All words that are whole.
    pub(crate) fn all(self: &Arc<Self>) -> View<[AtomicU64]> {
        let start = NonNull::slice_from_raw_parts(self.base.cast(), self.size / size_of::<u64>());
        // INVARIANT: that is within what is mapped; `base` is the start of a page, so it is
        // aligned.
        View {
            start,
            _mapping: self.clone(),
        }
    }

    /// The `N` words from `offset` on, which must be a multiple of 8; panics if
    /// they are not within the pages.
    pub(crate) fn words<const N: usize>(self: &Arc<Self>, offset: usize) -> View<[AtomicU64; N]> {
        let size = N * size_of::<u64>();
        assert!(offset % 8 == 0 && offset <= self.size && size <= self.size - offset);
        // SAFETY: by the line above that is within what is mapped.
        let start = unsafe { self.base.add(offset) }.cast();
        // INVARIANT: as above; `base` is the start of a page, so it is aligned.
        View {
            start,
            _mapping: self.clone(),
        }
    }

    /// As [`Self::words`], of registers: 32 bits each.
    pub(crate) fn registers<const N: usize>(
        self: &Arc<Self>,
        offset: usize,
    ) -> View<[AtomicU32; N]> {
        let size = N * size_of::<u32>();
        assert!(offset % 4 == 0 && offset <= self.size && size <= self.size - offset);
        // SAFETY: by the line above that is within what is mapped.
        let start = unsafe { self.base.add(offset) }.cast();
        // INVARIANT: as in `words()`.
        View {
            start,
            _mapping: self.clone(),
        }
    }

    /// As [`Self::words`], `count` times, each `stride` bytes after the one before, of
    /// which it takes up the first; panics if `stride` is less, or no multiple of 8.
    pub(crate) fn array<const N: usize>(
        self: &Arc<Self>,
        offset: usize,
        stride: usize,
        count: usize,
    ) -> Array<N> {
        assert!(stride % 8 == 0 && stride >= N * size_of::<u64>());
        let size = stride.saturating_mul(count);
        assert!(offset % 8 == 0 && offset <= self.size && size <= self.size - offset);
        // SAFETY: by the line above that is within what is mapped.
        let start = unsafe { self.base.add(offset) };
        // INVARIANT: as in `words()`, and by the lines above.
        Array {
            start,
            stride,
            count,
            _mapping: self.clone(),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by the invariants that is mapped, and nothing that was borrowed
        // from `self` is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}

/// Words of a [`Mapping`], which was asked once whether it has them.
///
/// # Invariants
///
/// `start` is aligned, and all of what it points to, which is words, is mapped by
/// `_mapping`. Those of memory that is mapped read-only are only ever loaded, which
/// it bears.
#[derive(Debug)]
pub(crate) struct View<T: ?Sized> {
    start: NonNull<T>,
    _mapping: Arc<Mapping>,
}

impl View<[AtomicU64]> {
    /// Stores 16 bits, those at `index` if all words are taken for such; panics if there are
    /// not so many. For words that no other thread of this program accesses at that time: what
    /// an access of all 64 bits would see is for the other side to know.
    pub(crate) fn store_part(&self, index: usize, value: u16) {
        assert!(index / 4 < self.len());
        // SAFETY: by the line above that is within what is mapped, and it is aligned as `start`
        // is.
        let part = unsafe { self.start.cast::<AtomicU16>().add(index).as_ref() };
        part.store(value, Ordering::Relaxed);
    }
}

// SAFETY: as for `Mapping`.
unsafe impl<T: ?Sized> Send for View<T> {}
// SAFETY: as for `Mapping`.
unsafe impl<T: ?Sized> Sync for View<T> {}

impl<T: ?Sized> Deref for View<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by the invariants, for as long as `self` is borrowed; any bits
        // are words.
        unsafe { self.start.as_ref() }
    }
}

/// `count` times `N` words of a [`Mapping`], which was asked once whether it has them.
///
/// # Invariants
///
/// As for [`View`], of `N` words at `start + index * stride` for each index below
/// `count`.
#[derive(Debug)]
pub(crate) struct Array<const N: usize> {
    start: NonNull<u8>,
    stride: usize,
    count: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: as for `Mapping`.
unsafe impl<const N: usize> Send for Array<N> {}
// SAFETY: as for `Mapping`.
unsafe impl<const N: usize> Sync for Array<N> {}

impl<const N: usize> Array<N> {
    /// Those at `index`.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&[AtomicU64; N]> {
        // SAFETY: by the invariants, for as long as `self` is borrowed; any bits are
        // words.
        (index < self.count).then(|| unsafe {
            self.start
                .add(index * self.stride)
                .cast::<[AtomicU64; N]>()
                .as_ref()
        })
    }
}
