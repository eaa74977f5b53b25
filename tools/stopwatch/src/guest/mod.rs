// SPDX-License-Identifier: MIT OR Apache-2.0

//! In a guest: commands to stopwatches and events from them, by `/dev/stopwatch` or, where no
//! driver is loaded, by the device's PCI resources, as root.
//!
//! ```no_run
//! use stopwatch::guest::Device;
//! use stopwatch::Act;
//!
//! let device = Device::find()?;
//! device.command(0, Act::Reset)?;
//! device.command(0, Act::Start)?;
//! let reading = device.command(0, Act::Read)?;
//! println!("{} ns", reading.elapsed_ns);
//! # Ok::<(), stopwatch::guest::Error>(())
//! ```
//!
//! A stopwatch with a name lasts until it is deleted; another program finds it:
//!
//! ```no_run
//! use std::time::Duration;
//! use stopwatch::guest::Device;
//! use stopwatch::{Act, ClockId, Creation, Timeout};
//!
//! let device = Device::find()?;
//! let boot = device.create(
//!     Some(&"boot".parse()?),
//!     Creation { clock: ClockId::Boottime, ..Default::default() },
//! )?;
//! device.command(boot, Act::Start)?;
//! assert_eq!(device.number(&"boot".parse()?)?, boot);
//!
//! // An event when it shows 90 s, and each second from then on.
//! device.command(boot, Timeout {
//!     ns: 90_000_000_000,
//!     interval_ns: 1_000_000_000,
//!     at_elapsed: true,
//! })?;
//! if let Some(event) = device.next_event(Some(Duration::from_secs(100)))? {
//!     println!("stopwatch {}: {} ns late", event.watch, event.late_ns());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Device::reader`] reads without a system call, [`Device::poster`] commands
//! without one.

mod cpu;
mod device;
mod driver;
mod error;
mod event;
mod info;
mod pages;
mod poster;
mod reader;
mod resources;
mod unavailable;

use stopwatch_uapi as uapi;

pub use cpu::Cpu;
pub use device::{Burst, Device};
pub use error::Error;
pub use event::Event;
pub use info::{Info, Way};
pub use poster::Poster;
pub use reader::Reader;
pub use resources::PciDevice;
pub use unavailable::Unavailable;

/// The usual device node.
pub const DEVICE: &str = "/dev/stopwatch";

/// The longest timeout that can be armed, in ns.
pub const MAX_TIMEOUT_NS: u64 = uapi::STOPWATCH_MAX_TIMEOUT_NS;
