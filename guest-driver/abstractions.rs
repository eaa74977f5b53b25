// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not have (yet): those of the safe wrappers in `abstractions/` that
//! the guest driver needs. Nothing there knows what a stopwatch is; it is written to be sent
//! upstream, a file each.

#[path = "../abstractions/bar.rs"]
pub(crate) mod bar;
#[path = "../abstractions/capability.rs"]
pub(crate) mod capability;
#[path = "../abstractions/clock.rs"]
pub(crate) mod clock;
#[path = "../abstractions/counter.rs"]
pub(crate) mod counter;
#[path = "../abstractions/deadline_timer.rs"]
pub(crate) mod deadline_timer;
#[path = "../abstractions/debugfs.rs"]
pub(crate) mod debugfs;
#[path = "../abstractions/miscdevice.rs"]
pub(crate) mod miscdevice;
#[path = "../abstractions/notifier.rs"]
mod notifier;
#[path = "../abstractions/pci_id.rs"]
pub(crate) mod pci_id;
#[allow(dead_code, reason = "registrations are held to be dropped")]
#[path = "../abstractions/pci_irq.rs"]
pub(crate) mod pci_irq;
#[path = "../abstractions/pm_notifier.rs"]
pub(crate) mod pm_notifier;
#[path = "../abstractions/protocol_memory.rs"]
pub(crate) mod protocol_memory;
#[path = "../abstractions/reboot_notifier.rs"]
pub(crate) mod reboot_notifier;
#[path = "../abstractions/shared_memory.rs"]
pub(crate) mod shared_memory;
#[path = "../abstractions/shared_page.rs"]
pub(crate) mod shared_page;
#[path = "../abstractions/user.rs"]
pub(crate) mod user;
#[path = "../abstractions/user_struct.rs"]
pub(crate) mod user_struct;
#[allow(dead_code, reason = "its files are noted nowhere")]
#[path = "../abstractions/weak_file.rs"]
pub(crate) mod weak_file;
#[path = "../abstractions/while_bound.rs"]
pub(crate) mod while_bound;

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
