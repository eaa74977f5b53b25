// SPDX-License-Identifier: GPL-2.0

//! Error codes that `kernel::error::code` does not name.

use kernel::{
    bindings,
    prelude::*, //
};

macro_rules! errno {
    ($(#[$doc:meta] $name:ident = $code:ident),* $(,)?) => { $(
        #[$doc]
        pub(crate) fn $name() -> Error {
            Error::from_errno(-(bindings::$code as kernel::ffi::c_int))
        }
    )* };
}

errno! {
    /// Operation already in progress.
    ealready = EALREADY,
    /// No data available.
    enodata = ENODATA,
    /// Operation not supported.
    eopnotsupp = EOPNOTSUPP,
}
