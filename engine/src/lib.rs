// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The stopwatch engine as an ordinary crate, for tests and tools.
//!
//! The code is in `engine.rs` and the files beside it. The kernel modules
//! compile the same files, as a module of theirs.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub use stopwatch_uapi as uapi;

// By path, as the kernel modules do, so that its files lie beside it in both.
#[path = "engine.rs"]
mod engine;

pub use engine::*;
