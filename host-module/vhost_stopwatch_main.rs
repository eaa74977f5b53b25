// SPDX-License-Identifier: GPL-2.0

//! The host's side of the stopwatch: keeps the time of every VM and serves their rings in the
//! kernel, inside the write to the doorbell.
//!
//! - [`control`]: `/dev/vhost-stopwatch`, an open file and its ioctls;
//! - [`registry`]: all VMs, and who may see them;
//! - [`vm`]: one VM, from the setting of its region to the closing of its file;
//! - [`server`]: what runs in doorbells, timers and the tasks behind them; everything fast is there;
//! - [`expiries`]: how many timeouts all VMs together may note;
//! - [`functions`]: what else than stopwatches a guest may ask for.
//!
//! What a stopwatch does is in `engine/`, how a ring is read in `protocol/`; neither knows a kernel.
//! What needs `unsafe` is in `abstractions/`, which knows no stopwatch.

use kernel::{
    prelude::*,
    sync::Arc, //
};

mod abstractions;
mod control;
#[allow(unreachable_pub, reason = "it is a crate of its own for tests")]
#[path = "../engine/src/engine.rs"]
mod engine;
mod expiries;
mod functions;
#[allow(dead_code, reason = "each module uses its end of it")]
#[allow(unreachable_pub, reason = "it is a crate of its own for programs")]
#[path = "../protocol/src/protocol.rs"]
mod protocol;
mod registry;
mod server;
#[path = "../abstractions/uapi.rs"]
mod uapi;
mod vm;

use abstractions::{
    miscdevice::MiscRegistration,
    task_work::TaskWorks, //
};

module! {
    type: VhostStopwatch,
    name: "vhost_stopwatch",
    authors: ["The Stopwatch authors"],
    description: "Host side of the paravirtual stopwatch",
    license: "GPL",
    params: {
        max_expiries: u32 {
            default: 100000,
            description: "Timeouts of all VMs together that are noted in a second, on the average",
        },
        max_vms: u32 {
            default: 4096,
            description: "VMs that there may be at a time; more are refused with ENOSPC",
        },
        host_power: u8 {
            default: 0,
            description: "1: VMs whose policy allows it may power the host off (samples/host-power)",
        },
    },
}

#[pin_data]
struct VhostStopwatch {
    #[pin]
    _device: MiscRegistration<control::ControlFile>,
    // Dropped after the device: then there are no files any more.
    #[pin]
    _task_works: TaskWorks,
}

impl kernel::InPlaceModule for VhostStopwatch {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _task_works <- TaskWorks::new(&server::TASK_WORK),
            _device <- MiscRegistration::new(
                c"vhost-stopwatch",
                Arc::pin_init(registry::Registry::new(), GFP_KERNEL)?,
            ),
        })
    }
}
