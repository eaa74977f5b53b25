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
//! use stopwatch::host::{Control, Operation, DEVICE};
//!
//! let control = Control::open(DEVICE)?;
//! let vm = control.find("web1")?.vm;
//! let boot = control.create(vm, &"boot".parse()?, Default::default())?;
//! control.command(vm, &boot.into(), Operation::Start)?;
//! // In the guest, when it is ready: `stopwatch pause boot`.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod control;
mod error;
mod qmp;
mod vm;
mod vm_info;

pub use control::{Control, Operation, Policy, MIN_INTERVAL_NS};
pub use error::Error;
pub use qmp::{Qmp, QmpError};
pub use vm::{event_fd, sealed_memfd, Geometry, Vm};
pub use vm_info::{Status, VmInfo, VmmStatus, NAME_SIZE};

/// The usual device node.
pub const DEVICE: &str = "/dev/vhost-stopwatch";
