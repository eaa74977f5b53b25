// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The stopwatch device without a kernel around it: what the host does with a
//! region, and how a guest talks to it.
//!
//! - [`Device`]: the host's end. Serves request rings and post rings, keeps the
//!   stopwatches and their timeouts, publishes records and laps, puts events;
//!   does what the host's own programs ask for in the same way.
//! - [`guest`]: the guest's end. Posts requests, takes replies and events,
//!   reads records and laps.
//! - [`Layout`]: where everything lies, for both.
//! - [`Memory`], [`Clock`], [`Storage`]: the region, the host's clocks and
//!   arrays, as whoever includes this has them.
//! - [`Functions`]: what the host does for a guest that is no stopwatch's work.
//!
//! Nothing here allocates, sleeps, panics or takes a lock: all of it may run
//! with interrupts off, under a lock of the caller's. The crate around this
//! module has it as `engine`, and the bindings of `include/uapi` as `uapi`.

#![forbid(unsafe_code)]
// Host and guest each use their end of it.
#![allow(dead_code, unused_imports)]

mod budget;
mod clock;
mod cut;
mod deadlines;
mod device;
mod geometry;
mod memory;
mod name;
mod names;
mod numbers;
mod posts;
mod record;
mod ring;
mod rings;
mod slot;
mod stopwatch;
mod stopwatches;
mod storage;
mod timers;
mod words;

pub mod guest;
pub mod guest_clock;

pub use budget::Budget;
pub use clock::{Clock, ClockId};
pub use device::{
    Commanded, Device, Expired, Functions, Policy, Served, Settle, Settled, Stats, Storage, Target,
    VmmChange, FEATURES,
};
pub use geometry::{Geometry, GeometryError, InfoError, InfoWords, Layout};
pub use memory::Memory;
pub use name::Name;
pub use record::{Laps, Record};
pub use ring::Slots;
pub use slot::{Creation, Event, Message, Reply, Request, Stamped, Status};
pub use stopwatch::Reading;
pub use storage::Chunk;
