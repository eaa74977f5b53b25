// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system call itself: any number, any argument; and below it the mapped
//! pages and the CPU's counter. All `unsafe` of this crate is here and where a
//! `Request` is declared.

use std::arch::asm;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use stopwatch_uapi::{stopwatch_device_info, STOPWATCH_CLOCK_PAGE_SIZE};

/// Makes an ioctl with an argument of the caller's choice, for what the typed
/// calls never do: a wrong size, a bad pointer, a number that nobody knows.
///
/// # Errors
///
/// Whatever the kernel says.
///
/// # Safety
///
/// Where the kernel takes `argument` as an address, it reads and writes there.
/// What it writes must be memory that the caller may have overwritten.
pub unsafe fn ioctl(fd: impl AsFd, number: u32, argument: usize) -> Result<(), Errno> {
    // SAFETY: the caller vouches for what the kernel does with `argument`.
    unsafe { rustix::ioctl::ioctl(fd, Call { number, argument }) }
}

struct Call {
    number: u32,
    argument: usize,
}

// SAFETY: nothing is read from the argument afterwards, and IS_MUTATING is the
// cautious answer. What the kernel does is for the caller of `ioctl()`.
unsafe impl Ioctl for Call {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.number as Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.argument)
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<(), Errno> {
        Ok(())
    }
}

/// An ioctl whose argument is a `T`, to be called on the devices of this crate.
pub(crate) struct Request<T> {
    number: u32,
    argument: PhantomData<fn(&mut T)>,
}

impl<T> Request<T> {
    /// # Safety
    ///
    /// `T` is the C struct of which ioctl `number` takes the address. It has
    /// integers only and begins with a `u32` for its size, beyond which the
    /// kernel neither reads nor writes.
    pub(crate) const unsafe fn new(number: u32) -> Self {
        Self {
            number,
            argument: PhantomData,
        }
    }

    /// Fills in the size and makes the call.
    pub(crate) fn call(&self, fd: BorrowedFd<'_>, argument: &mut T) -> Result<(), Errno> {
        let argument = ptr::from_mut(argument);
        // SAFETY: by the contract of `new()` a T begins with a u32, and the
        // kernel stays within the size given there; `argument` comes from an
        // exclusive reference, and any integers are a valid T.
        unsafe {
            argument.cast::<u32>().write(size_of::<T>() as u32);
            ioctl(fd, self.number, argument.expose_provenance())
        }
    }
}

/// An ioctl whose argument is a number, to be called on the devices of this crate.
pub(crate) struct ValueRequest {
    number: u32,
}

impl ValueRequest {
    /// # Safety
    ///
    /// The kernel does not take the argument of ioctl `number` as an address.
    pub(crate) const unsafe fn new(number: u32) -> Self {
        Self { number }
    }

    /// Makes the call.
    pub(crate) fn call(&self, fd: BorrowedFd<'_>, argument: u32) -> Result<(), Errno> {
        // SAFETY: by the contract of `new()`.
        unsafe { ioctl(fd, self.number, argument as usize) }
    }
}

/// What is done with pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// Pages of a device, written by others at any time.
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

    /// Maps the clock page of a device and, behind it, its state pages.
    pub(crate) fn pages(
        fd: BorrowedFd<'_>,
        info: &stopwatch_device_info,
    ) -> Result<Arc<Self>, Errno> {
        let size = STOPWATCH_CLOCK_PAGE_SIZE as usize + info.state_size as usize;
        Self::new(fd, 0, size, Access::Read)
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

/// The CPU's counter, read after all loads before it. No load after it is moved
/// before it but by the CPU, which takes no interrupt and no exit in between then.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn counter() -> u64 {
    let (low, high): (u32, u32);
    // Not `_rdtsc()`: around that the compiler may move loads.
    // SAFETY: every x86-64 CPU has both instructions; they touch no memory.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    (u64::from(high) << 32) | u64::from(low)
}

/// Registers EAX to EDX of CPUID, if the CPU knows the leaf.
#[cfg(target_arch = "x86_64")]
pub(crate) fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    use std::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 CPU has the instruction, and it knows a leaf that is
    // not above what the first one of its range says.
    unsafe {
        (__cpuid(leaf & 0xffff_0000).eax >= leaf).then(|| {
            let registers = __cpuid(leaf);
            [registers.eax, registers.ebx, registers.ecx, registers.edx]
        })
    }
}
