// SPDX-License-Identifier: GPL-2.0

//! Structs of ioctls that grow: their first field is their size, as the caller knows it.
//!
//! The rules are those of `copy_struct_from_user()` in
//! [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h).

use core::ptr;
use kernel::{
    bindings,
    ffi::c_ulong,
    page::PAGE_SIZE,
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// A struct of an ioctl.
///
/// # Safety
///
/// The type is `repr(C)`, without padding, and its first four bytes are a native-endian `u32`, its
/// size.
pub(crate) unsafe trait UserStruct: FromBytes + AsBytes + Default {
    /// The size of the first version of the struct that was ever released, in bytes.
    const FIRST_SIZE: usize;
}

/// A copy of a struct of the caller, and where it is to be copied back to.
pub(crate) struct UserCopy<T: UserStruct> {
    /// The copy. Fields that the caller does not know are zero.
    pub(crate) value: T,
    arg: usize,
    size: usize,
}

impl<T: UserStruct> UserCopy<T> {
    /// A copy of nothing yet, of the struct at address `arg` of the caller.
    #[inline]
    pub(crate) fn of(arg: usize) -> Self {
        Self {
            value: T::default(),
            arg,
            size: T::FIRST_SIZE,
        }
    }

    /// Copies the struct, each byte once. May sleep. To be called once.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be read, `EINVAL` if its size is below the first version's, `E2BIG` if
    /// it is larger than a page or has a non-zero byte beyond what this kernel knows.
    #[inline]
    pub(crate) fn read(&mut self) -> Result<&mut T> {
        const SIZE_FIELD: usize = size_of::<u32>();
        const {
            assert!(SIZE_FIELD <= T::FIRST_SIZE && T::FIRST_SIZE <= size_of::<T>());
        };

        let bytes = self.value.as_bytes_mut();

        // What every caller has, so that most take one copy: with it comes how much there is.
        let (first, more) = bytes.split_at_mut(T::FIRST_SIZE);
        // SAFETY: `first` has so many bytes. That is a constant, and the memory a variable of ours,
        // so the check of usercopy hardening, which is `copy_from_user()`'s, has nothing to find.
        let missing = unsafe {
            bindings::_copy_from_user(
                first.as_mut_ptr().cast(),
                ptr::with_exposed_provenance(self.arg),
                T::FIRST_SIZE as c_ulong,
            )
        };
        if missing != 0 {
            return Err(EFAULT);
        }
        let size = first
            .first_chunk::<SIZE_FIELD>()
            .map_or(0, |size| u32::from_ne_bytes(*size) as usize);
        if size < T::FIRST_SIZE {
            return Err(EINVAL);
        }
        if size > PAGE_SIZE {
            return Err(E2BIG);
        }

        if size > T::FIRST_SIZE {
            let known = size.min(size_of::<T>());
            let rest = UserPtr::from_addr(self.arg).wrapping_byte_add(T::FIRST_SIZE);
            let mut rest = UserSlice::new(rest, size - T::FIRST_SIZE).reader();
            rest.read_slice(&mut more[..known - T::FIRST_SIZE])?;
            while !rest.is_empty() {
                if rest.read::<u8>()? != 0 {
                    return Err(E2BIG);
                }
            }
            self.size = known;
        }
        Ok(&mut self.value)
    }

    /// Copies the value back, as much of it as the caller knows. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written.
    pub(crate) fn write_back(&self) -> Result {
        let bytes = self.value.as_bytes().get(..self.size).ok_or(EINVAL)?;
        // SAFETY: `bytes` has so many, all of them initialised. As in `read()`, it is known where
        // they are.
        let missing = unsafe {
            bindings::_copy_to_user(
                ptr::with_exposed_provenance_mut(self.arg),
                bytes.as_ptr().cast(),
                bytes.len() as c_ulong,
            )
        };

        if missing != 0 {
            return Err(EFAULT);
        }
        Ok(())
    }
}

/// Copies an array to address `addr` of the caller. May sleep.
///
/// # Errors
///
/// `EFAULT` if it cannot be written.
pub(crate) fn write_array(addr: u64, values: &[u64]) -> Result {
    let addr = usize::try_from(addr).map_err(|_| EFAULT)?;
    let mut writer = UserSlice::new(UserPtr::from_addr(addr), size_of_val(values)).writer();

    values.iter().try_for_each(|value| writer.write(value))
}
