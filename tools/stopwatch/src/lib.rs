// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stopwatches that a host kernel keeps for its virtual machines.
//!
//! | module | for a program | on |
//! |---|---|---|
//! | [`guest`] | in a VM, which uses the stopwatches | `/dev/stopwatch`, or the device's PCI resources |
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

mod counter;
mod description;
mod features;
mod mapping;
mod open;
mod reading;
mod roots;
mod time;
mod which;

pub use description::{Creation, Description, Laps, Share, UnknownShare};
pub use features::Features;
pub use open::OpenError;
pub use protocol::clock::ClockId;
pub use protocol::command::{Act, Command, Timeout};
pub use protocol::name::{Name, NameError};
pub use reading::{Reading, Source};
pub use roots::Roots;
pub use time::{Nanoseconds, ParseError};
pub use which::{Which, WhichError};
