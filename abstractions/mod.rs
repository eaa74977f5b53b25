// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not have (yet): safe wrappers for the facilities that a
//! paravirtual device needs on either side. Nothing here knows what a stopwatch is; it is written
//! to be sent upstream, a file each.
//!
//! Both modules compile this directory, each uses its half of it.

#![allow(
    dead_code,
    reason = "the host module and the guest driver each use a part"
)]

pub(crate) mod bar;
pub(crate) mod capability;
pub(crate) mod clock;
pub(crate) mod counter;
pub(crate) mod deadline_timer;
pub(crate) mod debugfs;
pub(crate) mod engine_memory;
pub(crate) mod eventfd;
pub(crate) mod memfd;
pub(crate) mod miscdevice;
pub(crate) mod pci_id;
pub(crate) mod pci_irq;
pub(crate) mod pm_notifier;
pub(crate) mod power;
pub(crate) mod shared_memory;
pub(crate) mod shared_page;
pub(crate) mod task_work;
pub(crate) mod user;
pub(crate) mod user_struct;
pub(crate) mod weak_file;

/// Bindings of `shim.h`, made by bindgen.
// Some kernel structs have members without a size of their own, which rustc does not expect in C.
#[allow(improper_ctypes, missing_docs, unreachable_pub, clippy::all)]
mod shim {
    use kernel::bindings::{
        callback_head,
        file,
        folio,
        page,
        vm_area_struct,
        wait_queue_entry, //
    };

    include!(concat!(env!("STOPWATCH_GENERATED"), "/generated_shim.rs"));
}
