// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stopwatches that a host kernel keeps for its virtual machines.
//!
//! | module | for a program | on |
//! |---|---|---|
//! | [`guest`] | in a VM, which uses the stopwatches | `/dev/stopwatch` |
//! | [`host`] | on the host, which makes VMs and looks at them | `/dev/vhost-stopwatch` |
//! | [`raw`] | that has to say what the other two cannot | either |
//! | [`protocol`] | that reads or writes a region itself | either |
//!
//! Numbers, names and the meaning of every field are those of the C headers
//! under `include/uapi/linux`. Times are nanoseconds; "VM time" is the host's
//! `CLOCK_MONOTONIC`, counted from the moment at which the VM was made.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub use stopwatch_protocol as protocol;

pub mod guest;
pub mod host;
pub mod raw;

mod description;
mod features;
mod name;
mod open;
mod reading;
mod time;

pub use description::{Clock, Creation, Description, Laps, Share, UnknownWord};
pub use features::Features;
pub use name::{Name, NameError, Which, WhichError};
pub use open::OpenError;
pub use reading::{Reading, Source, State};
pub use time::{Nanoseconds, ParseError};
