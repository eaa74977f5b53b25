// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ioctls with arguments that no library would make.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Errno;
use stopwatch::host::DEVICE;
use stopwatch::raw;

/// The argument of an ioctl, as bytes: a struct and then zeros, with room for
/// whatever the struct says of its size.
#[derive(Clone)]
pub struct Argument(Vec<u8>);

impl Argument {
    const ROOM: usize = 16 << 10;

    /// A struct that begins with its size, which is filled in.
    pub fn new<T: Copy>(value: &T) -> Self {
        let size = size_of::<T>();
        // SAFETY: the structs of include/uapi have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size) };
        let mut bytes: Vec<u8> = <[u8]>::to_vec(bytes);
        bytes.resize(Self::ROOM, 0);
        Self(bytes).with_u32(0, size as u32)
    }

    /// With another field.
    pub fn with_u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// With another size.
    pub fn with_size(self, size: usize) -> Self {
        assert!(size <= Self::ROOM);
        self.with_u32(0, size as u32)
    }

    /// Makes the call.
    pub fn call(&mut self, fd: impl AsFd, number: u32) -> Result<(), Errno> {
        let argument = self.0.as_mut_ptr();
        // SAFETY: the kernel keeps to the size in the first field, and the
        // buffer has room for all that it can be set to.
        unsafe { raw::ioctl(fd, number, argument.expose_provenance()) }
    }

    /// What the kernel left in a struct of integers.
    pub fn value<T: Copy>(&self) -> T {
        assert!(size_of::<T>() <= self.0.len());
        // SAFETY: the structs of include/uapi are integers, and arrays of them.
        unsafe { self.0.as_ptr().cast::<T>().read_unaligned() }
    }

    /// The bytes, to look at what the kernel wrote.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An ioctl with an argument that is no address.
pub fn ioctl(fd: impl AsFd, number: u32, argument: usize) -> Result<(), Errno> {
    assert!(argument == 0 || is_bad_address(argument), "{argument:#x}");
    // SAFETY: nothing of this process is there.
    unsafe { raw::ioctl(fd, number, argument) }
}

/// Whether nothing can be mapped there: the first page, or the kernel's half.
fn is_bad_address(address: usize) -> bool {
    address < 4096 || address > isize::MAX as usize
}

/// The node, open for reading and writing, without asking it anything.
pub fn open_node() -> File {
    File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .expect("the host module is loaded")
}
