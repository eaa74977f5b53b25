// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The stopwatch device without a kernel around it: what the host does with a
//! region, and how a guest talks to it.
//!
//! - [`Device`]: the host's end. Serves request rings, keeps the stopwatches
//!   and their timeouts, publishes records, puts events.
//! - [`guest`]: the guest's end. Posts requests, takes replies and events,
//!   reads records.
//! - [`Layout`]: where everything lies, for both.
//! - [`Memory`]: the region, as whoever includes this reaches it.
//!
//! Nothing here allocates, sleeps, panics or takes a lock: all of it may run
//! with interrupts off, under a lock of the caller's. The crate around this
//! module has it as `engine`, and the bindings of `include/uapi` as `uapi`.

#![forbid(unsafe_code)]
// Host and guest each use their end of it.
#![allow(dead_code, unused_imports)]

mod device;
mod geometry;
mod memory;
mod ring;
mod slot;
mod stopwatch;
mod timers;
mod words;

pub mod guest;

pub use device::{Device, Expired, Served, Stats, Storage, VmmChange, FEATURES};
pub use geometry::{Geometry, GeometryError, InfoError, InfoWords, Layout};
pub use memory::Memory;
pub use ring::Slots;
pub use slot::{Event, Reply, Request, Status};
pub use stopwatch::Reading;
