// SPDX-License-Identifier: MIT OR Apache-2.0

//! On the host: the control plane, by `/dev/vhost-stopwatch`.
//!
//! [`Control`] is an open file of the device, with a typed call for each ioctl;
//! it is enough to look at the VMs of others. [`Vm`] makes a VM out of it.
//!
//! ```no_run
//! use stopwatch::host::{Control, Geometry, Vm, DEVICE};
//!
//! let vm = Vm::create(Control::open(DEVICE)?, Geometry::default())?;
//! vm.control().start()?;
//! println!("-device {}", vm.device_argument());
//! # Ok::<(), stopwatch::host::Error>(())
//! ```
//!
//! One side starts and the other stops: what took how long from here to there.
//!
//! ```no_run
//! use stopwatch::host::{Control, DEVICE};
//! use stopwatch::Act;
//!
//! let control = Control::open(DEVICE)?;
//! let vm = control.find("web1")?.vm;
//! let boot = control.create(vm, &"boot".parse()?, Default::default())?;
//! control.command(vm, &boot.into(), Act::Start)?;
//! // In the guest, when it is ready: `stopwatch pause boot`.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod control;
mod error;
mod policy;
mod qmp;
mod region;
pub mod serve;
mod stopwatches;
mod vm;
mod vm_info;

pub use control::Control;
pub use error::Error;
pub use policy::{Policy, MIN_INTERVAL_NS};
pub use qmp::{Qmp, QmpError};
pub use region::{map_region, Region, RegionWords};
pub use stopwatch_protocol::geometry::Geometry;
pub use vm::{event_fd, sealed_memfd, Vm};
pub use vm_info::{Status, VmInfo, VmmStatus, NAME_SIZE};

use vm::{event_fds, memfd};

/// The usual device node.
pub const DEVICE: &str = "/dev/vhost-stopwatch";
