// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system call itself: any number, any argument. All `unsafe` of this
//! crate is here and where a `Request` is declared.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

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
