// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Memory, as whoever includes the engine has it.

use core::ops::DerefMut;

/// Where a device keeps its state: arrays that are allocated by who makes it, or gives
/// it more ([`Device::set_storage`](super::device::Device::set_storage)), and never grow.
pub trait Storage {
    /// An array.
    type Slice<T: Copy>: DerefMut<Target = [T]>;
    /// Why there is none.
    type Error;

    /// An array of `len` times `value`.
    fn filled<T: Copy>(value: T, len: usize) -> Result<Self::Slice<T>, Self::Error>;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// Arrays for the tests of all files.
    pub(in super::super) struct Heap;

    impl Storage for Heap {
        type Slice<T: Copy> = Vec<T>;
        type Error = core::convert::Infallible;

        fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Self::Error> {
            Ok(vec![value; len])
        }
    }
}
