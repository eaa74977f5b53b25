// SPDX-License-Identifier: MIT OR Apache-2.0

//! KVM's own counters, which tell exits that reached the VMM from those that
//! the kernel handled; and VMs that never run.

use std::fs;
use std::ops::Sub;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::sync::OnceLock;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

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
    /// Up to now, of the VMM with that process ID, or that is a child of that process:
    /// what records a start stays, and has the VMM run beside it.
    pub fn of(pid: u32) -> Self {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let pids = children.split_whitespace().map(String::from);
        let prefixes: Vec<_> = pids.chain([pid.to_string()]).map(|pid| pid + "-").collect();
        let vms: Vec<_> = fs::read_dir(DEBUGFS)
            .unwrap_or_else(|error| panic!("{DEBUGFS}: {error}; mount debugfs and load KVM"))
            .filter_map(Result::ok)
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                prefixes.iter().any(|prefix| name.starts_with(prefix))
            })
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

/// The interrupt of [`VmWithInterrupts`].
const GSI: u32 = 5;

/// A VM of KVM that has interrupts and no CPU.
#[derive(Debug)]
pub struct VmWithInterrupts(VmFd);

impl VmWithInterrupts {
    /// `None` if this machine has no KVM.
    pub fn new() -> Option<Self> {
        let vm = Kvm::new().ok()?.create_vm().ok()?;
        vm.create_irq_chip()
            .expect("KVM has an interrupt controller");
        Some(Self(vm))
    }

    /// Makes a signal of the eventfd an interrupt, or not any more.
    pub fn irqfd(&self, eventfd: impl AsFd, on: bool) -> Result<(), Errno> {
        let fd = rustix::io::dup(eventfd.as_fd())?;
        // SAFETY: the descriptor is an eventfd's, and is nobody else's.
        let eventfd = unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) };
        let done = if on {
            self.0.register_irqfd(&eventfd, GSI)
        } else {
            self.0.unregister_irqfd(&eventfd, GSI)
        };
        done.map_err(|error| Errno::from_raw_os_error(error.errno()))
    }
}

/// Keeps KVM from rewriting the code that its vCPUs run, as long as this process lives.
///
/// KVM has a static key for "some vCPU's APIC is disabled in software" and one for
/// "...in hardware" (`apic_sw_disabled`, `apic_hw_disabled` in `arch/x86/kvm/lapic.c`), so it
/// rewrites its own loop whenever a guest boots. A processor that is emulated by several
/// threads can miss the last of the three steps by which Linux does that
/// (`arch/x86/kernel/alternative.c`): it then executes the breakpoint of the first one when
/// nobody expects it any more, and the host panics with `Fatal exception in interrupt`. That
/// was seen once, with two guests running while a third one booted. With a vCPU of each kind
/// there always, the keys stay as they are.
///
/// Does nothing where there is no KVM.
pub fn keep_code() {
    static VCPUS: OnceLock<Option<[VcpuFd; 2]>> = OnceLock::new();
    VCPUS.get_or_init(|| {
        let vm = Kvm::new().ok()?.create_vm().ok()?;
        vm.create_irq_chip()
            .expect("KVM has an interrupt controller");
        // A vCPU begins with an APIC that is disabled in software, and keeps the VM alive.
        let software = vm.create_vcpu(0).expect("KVM makes a vCPU");
        let hardware = vm.create_vcpu(1).expect("KVM makes a second vCPU");
        let mut registers = hardware.get_sregs().expect("it has registers");
        // MSR_IA32_APICBASE_ENABLE of <asm/msr-index.h>
        registers.apic_base &= !(1 << 11);
        hardware
            .set_sregs(&registers)
            .expect("an APIC can be disabled");
        Some([software, hardware])
    });
}
