// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's side of a stopwatch device, without a kernel around it.
//!
//! - [`device::Device`]: serves request rings and post rings, keeps the stopwatches and their
//!   timeouts, publishes records and laps, puts events; does what the host's own
//!   programs ask for in the same way.
//! - [`environment::Environment`], [`storage::Storage`]: the region, the host's clocks, what the
//!   host does for a guest that is no stopwatch's work, and arrays, as whoever includes this has
//!   them.
//!
//! Nothing here allocates, sleeps, panics or takes a lock: all of it may run
//! with interrupts off, under a lock of the caller's. The crate around this
//! module has it as `engine`, the protocol as `protocol`, and the bindings of
//! `include/uapi` as `uapi`.

#![forbid(unsafe_code)]

pub mod budget;
mod chunked;
mod cut;
mod deadlines;
pub mod device;
pub mod environment;
mod heads;
pub mod kept;
mod names;
mod numbers;
pub mod policy;
mod posts;
mod rate;
mod requests;
mod reset;
mod rings;
mod stopwatch;
mod stopwatches;
pub mod storage;
mod timers;
mod times;
mod validate;
