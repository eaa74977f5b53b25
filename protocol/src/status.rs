// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What comes of a request.

use crate::uapi;

/// Status of a completed request: `STOPWATCH_S_*`, whose numbers it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = uapi::STOPWATCH_S_OK,
    /// It was in that state; no change.
    Already = uapi::STOPWATCH_S_ALREADY,
    /// Needs a running stopwatch; no change.
    Stopped = uapi::STOPWATCH_S_STOPPED,
    /// The name is taken; no change.
    Exists = uapi::STOPWATCH_S_EXISTS,
    /// Unknown operation, or its feature is off.
    BadOp = uapi::STOPWATCH_S_BAD_OP,
    /// There is no stopwatch of that number.
    BadWatch = uapi::STOPWATCH_S_BAD_WATCH,
    /// Unknown flag, or a reserved field is not zero.
    BadFlags = uapi::STOPWATCH_S_BAD_FLAGS,
    /// The argument is out of range.
    BadArg = uapi::STOPWATCH_S_BAD_ARG,
    /// The owner field broke the rules.
    BadOwner = uapi::STOPWATCH_S_BAD_OWNER,
    /// The name is not one.
    BadName = uapi::STOPWATCH_S_BAD_NAME,
    /// No number is free.
    Full = uapi::STOPWATCH_S_FULL,
    /// The VM's creator does not allow it.
    Denied = uapi::STOPWATCH_S_DENIED,
    /// A later request has overtaken this one.
    Stale = uapi::STOPWATCH_S_STALE,
    /// The guest took the request back.
    Cancelled = uapi::STOPWATCH_S_CANCELLED,
}

impl Status {
    /// The number that the header gives it.
    #[inline]
    pub fn to_wire(self) -> u32 {
        self as u32
    }

    /// The status of that number; the number itself if there is none.
    #[inline]
    pub fn from_wire(status: u32) -> Result<Self, u32> {
        Ok(match status {
            uapi::STOPWATCH_S_OK => Self::Ok,
            uapi::STOPWATCH_S_ALREADY => Self::Already,
            uapi::STOPWATCH_S_STOPPED => Self::Stopped,
            uapi::STOPWATCH_S_EXISTS => Self::Exists,
            uapi::STOPWATCH_S_BAD_OP => Self::BadOp,
            uapi::STOPWATCH_S_BAD_WATCH => Self::BadWatch,
            uapi::STOPWATCH_S_BAD_FLAGS => Self::BadFlags,
            uapi::STOPWATCH_S_BAD_ARG => Self::BadArg,
            uapi::STOPWATCH_S_BAD_OWNER => Self::BadOwner,
            uapi::STOPWATCH_S_BAD_NAME => Self::BadName,
            uapi::STOPWATCH_S_FULL => Self::Full,
            uapi::STOPWATCH_S_DENIED => Self::Denied,
            uapi::STOPWATCH_S_STALE => Self::Stale,
            uapi::STOPWATCH_S_CANCELLED => Self::Cancelled,
            unknown => return Err(unknown),
        })
    }

    /// Whether nothing was done, and there is no reading.
    pub fn is_refused(self) -> bool {
        self.to_wire() >= uapi::STOPWATCH_S_REFUSED
    }

    /// Whether it is one of `STOPWATCH_S_BAD_*`: the request broke the rules.
    pub fn is_bad(self) -> bool {
        self.is_refused()
            && !matches!(
                self,
                Self::Full | Self::Denied | Self::Stale | Self::Cancelled
            )
    }
}
