// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why a reading takes a call.

use rustix::io::Errno;
use stopwatch_protocol::unavailable;
use stopwatch_uapi as uapi;
use thiserror::Error;

/// Why there is no reading without a call.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// The pages are not mapped.
    #[error(
        "the state pages cannot be mapped ({0}): that takes a file open for writing by a user whom \
         its mode lets, or root"
    )]
    NotMapped(Errno),
    /// The driver is of another version than this program.
    #[error(
        "the driver shows version {0} of the device's pages, but this program reads version {own}; \
         update the older one",
        own = uapi::STOPWATCH_VERSION
    )]
    OtherVersion(u32),
    /// What the pages say does not tell it.
    #[error(transparent)]
    Pages(#[from] unavailable::Unavailable),
}
