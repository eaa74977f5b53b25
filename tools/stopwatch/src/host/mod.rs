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

mod control;
mod error;
mod vm;

pub use control::{Control, Status, VmInfo, VmmStatus, NAME_SIZE};
pub use error::Error;
pub use vm::{event_fd, sealed_memfd, Geometry, Vm};

/// The usual device node.
pub const DEVICE: &str = "/dev/vhost-stopwatch";
