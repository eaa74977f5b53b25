// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system call itself: any number, any argument. `unsafe` of this crate is here,
//! in `mapping.rs`, in `counter.rs` and where a `Ioctl` is declared.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::ioctl::{self, IoctlOutput, Opcode};
use rustix::net::{recv, send, RecvFlags, SendFlags};

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
    unsafe { ioctl::ioctl(fd, Call { number, argument }) }
}

struct Call {
    number: u32,
    argument: usize,
}

// SAFETY: nothing is read from the argument afterwards, and IS_MUTATING is the
// cautious answer. What the kernel does is for the caller of `ioctl()`.
unsafe impl ioctl::Ioctl for Call {
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
pub(crate) struct Ioctl<T> {
    number: u32,
    argument: PhantomData<fn(&mut T)>,
}

impl<T> Ioctl<T> {
    /// # Safety
    ///
    /// `T` is the C struct of which ioctl `number` takes the address. It has
    /// integers only, without holes, and begins with a `u32` for its size, beyond which
    /// the kernel neither reads nor writes.
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

/// What goes before the struct in a message between [`Ioctl::ask`] and a server: the
/// number of the ioctl or, in the answer, of the error; and zero.
pub(crate) const HEADER: usize = 8;

/// No message is larger: a struct, and all laps that are kept.
pub(crate) const MOST: usize = 4096;

impl<T> Ioctl<T> {
    /// Its number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// As [`Self::call`], by a program that answers for the device at a socket that keeps
    /// messages apart: it gets the struct, and sends it back. What is behind the struct
    /// goes to `tail`, from its start.
    pub(crate) fn ask(
        &self,
        socket: BorrowedFd<'_>,
        argument: &mut T,
        tail: &mut [u64],
    ) -> Result<(), Errno> {
        // SAFETY: by the contract of `new()` a T begins with a u32.
        unsafe {
            ptr::from_mut(argument)
                .cast::<u32>()
                .write(size_of::<T>() as u32)
        };
        let mut message = self.message(0, argument, &[]);
        message[..4].copy_from_slice(&self.number.to_le_bytes());
        send(socket, &message, SendFlags::NOSIGNAL)?;
        let mut answer = [0; MOST];
        let (_, size) = recv(socket, &mut answer, RecvFlags::empty())?;
        let (errno, body) = split(&answer[..size]).ok_or(Errno::CONNRESET)?;
        if let Some(answer) = self.read(body) {
            *argument = answer;
        } else if errno == 0 {
            return Err(Errno::TOOBIG);
        }
        let words = body.get(size_of::<T>()..).unwrap_or_default();
        for (word, bytes) in tail.iter_mut().zip(words.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        match errno {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno as i32)),
        }
    }

    /// A message with the struct.
    pub(crate) fn message(&self, first: u32, argument: &T, tail: &[u64]) -> Vec<u8> {
        let mut message = Vec::with_capacity(MOST);
        message.extend(first.to_le_bytes());
        message.resize(HEADER, 0);
        let start = ptr::from_ref(argument).cast::<u8>();
        // SAFETY: by the contract of `new()` all bytes of a T are those of integers.
        message.extend(unsafe { std::slice::from_raw_parts(start, size_of::<T>()) });
        message.extend(tail.iter().flat_map(|word| word.to_le_bytes()));
        message
    }

    /// The struct that is at the start of a message's body, if all of it is.
    pub(crate) fn read(&self, body: &[u8]) -> Option<T> {
        let bytes = body.get(..size_of::<T>())?;
        // SAFETY: that many bytes are there, and by the contract of `new()` any are a T.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// The first word of a message, and what is behind its header.
pub(crate) fn split(message: &[u8]) -> Option<(u32, &[u8])> {
    let (header, body) = message.split_at_checked(HEADER)?;
    Some((u32::from_le_bytes(header.get(..4)?.try_into().ok()?), body))
}

/// An ioctl whose argument is a number, to be called on the devices of this crate.
pub(crate) struct ValueIoctl {
    number: u32,
}

impl ValueIoctl {
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
