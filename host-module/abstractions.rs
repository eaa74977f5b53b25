// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not have (yet): those of the safe wrappers in `abstractions/` that
//! the host module needs. Nothing there knows what a stopwatch is; it is written to be sent upstream, a file
//! each.

#[path = "../abstractions/capability.rs"]
pub(crate) mod capability;
#[path = "../abstractions/clock.rs"]
pub(crate) mod clock;
#[path = "../abstractions/deadline_timer.rs"]
pub(crate) mod deadline_timer;
#[path = "../abstractions/eventfd.rs"]
pub(crate) mod eventfd;
#[path = "../abstractions/memfd.rs"]
pub(crate) mod memfd;
#[path = "../abstractions/memory_cgroup.rs"]
pub(crate) mod memory_cgroup;
#[path = "../abstractions/miscdevice.rs"]
pub(crate) mod miscdevice;
#[path = "../abstractions/power.rs"]
pub(crate) mod power;
#[path = "../abstractions/process_id.rs"]
pub(crate) mod process_id;
#[path = "../abstractions/protocol_memory.rs"]
pub(crate) mod protocol_memory;
#[path = "../abstractions/shared_memory.rs"]
pub(crate) mod shared_memory;
#[path = "../abstractions/task_work.rs"]
pub(crate) mod task_work;
#[path = "../abstractions/user_struct.rs"]
pub(crate) mod user_struct;
#[path = "../abstractions/weak_file.rs"]
pub(crate) mod weak_file;

/// Bindings of `shim.h`, made by bindgen.
// Some kernel structs have members without a size of their own, which rustc does not expect in C.
#[allow(improper_ctypes, missing_docs, unreachable_pub, clippy::all)]
#[allow(dead_code, reason = "generated for both modules")]
mod shim {
    use kernel::bindings::{
        file,
        file_operations,
        folio,
        mem_cgroup,
        notifier_block,
        page,
        pci_dev,
        task_struct,
        vm_area_struct,
        wait_queue_entry, //
    };

    include!(concat!(env!("STOPWATCH_GENERATED"), "/generated_shim.rs"));
}
