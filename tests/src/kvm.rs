// SPDX-License-Identifier: MIT OR Apache-2.0

//! KVM's own counters, which tell exits that reached the VMM from those that
//! the kernel handled.

use std::fs;
use std::ops::Sub;

const DEBUGFS: &str = "/sys/kernel/debug/kvm";

/// What KVM has counted for the VMs of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exits {
    /// Of the guest, to anywhere.
    pub all: u64,
    /// Those that went on to the VMM: `mmio_exits` and `io_exits`.
    pub to_vmm: u64,
}

impl Exits {
    /// Up to now, of the VMM with that process ID.
    pub fn of(pid: u32) -> Self {
        let prefix = format!("{pid}-");
        let vms: Vec<_> = fs::read_dir(DEBUGFS)
            .unwrap_or_else(|error| panic!("{DEBUGFS}: {error}; mount debugfs and load KVM"))
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .collect();
        assert!(!vms.is_empty(), "KVM knows no VM of process {pid}");
        let count = |name: &str| -> u64 {
            vms.iter()
                .map(|vm| {
                    let path = vm.path().join(name);
                    let text = fs::read_to_string(&path).expect("KVM counts it");
                    text.trim().parse::<u64>().expect("a number")
                })
                .sum()
        };
        Self {
            all: count("exits"),
            to_vmm: count("mmio_exits") + count("io_exits"),
        }
    }
}

impl Sub for Exits {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            all: self.all - before.all,
            to_vmm: self.to_vmm - before.to_vmm,
        }
    }
}
