// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What both ends of a stopwatch device and the tools have to know, as an ordinary
//! crate.
//!
//! The code is in `protocol.rs` and the files beside it. The kernel modules compile
//! the same files, as a module of theirs.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub use stopwatch_uapi as uapi;

pub mod atomic_words;
#[cfg(feature = "serde")]
mod json;
mod programs;

// By path, as the kernel modules do, so that its files lie beside it in both. Public
// for the macros alone.
#[doc(hidden)]
#[path = "protocol.rs"]
pub mod protocol;

pub use programs::UnknownClock;
pub use protocol::*;
