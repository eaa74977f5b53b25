// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The stopwatch engine as an ordinary crate, for tests.
//!
//! The code is in `engine.rs` and the files beside it. The host module compiles the
//! same files, as a module of its own.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

use stopwatch_protocol as protocol;
use stopwatch_protocol::uapi;

// By path, as the host module does, so that its files lie beside it in both.
#[path = "engine.rs"]
mod engine;

pub use engine::*;
