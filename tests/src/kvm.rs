// SPDX-License-Identifier: MIT OR Apache-2.0

//! KVM's own counters, which tell exits that reached the VMM from those that
//! the kernel handled; and a VM without a CPU.

use std::ffi::c_void;
use std::fs::{self, File};
use std::ops::Sub;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{ioctl, Ioctl, IoctlOutput, Opcode};
use stopwatch::raw;

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

struct CreateVm;

// SAFETY: nothing is read or written at the argument, which is zero; the call
// returns a new descriptor.
unsafe impl Ioctl for CreateVm {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        // <linux/kvm.h>: _IO(KVMIO, 0x01)
        0xae01
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(fd: IoctlOutput, _: *mut c_void) -> Result<OwnedFd, Errno> {
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A VM of KVM that has interrupts and no CPU.
#[derive(Debug)]
pub struct Kvm {
    vm: OwnedFd,
}

impl Kvm {
    /// `None` if this machine has no KVM.
    pub fn new() -> Option<Self> {
        // <linux/kvm.h>: _IO(KVMIO, 0x60)
        const KVM_CREATE_IRQCHIP: u32 = 0xae60;

        let kvm = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .ok()?;
        // SAFETY: `CreateVm` is what the call takes and returns.
        let vm = unsafe { ioctl(&kvm, CreateVm) }.ok()?;
        // SAFETY: it takes no argument.
        unsafe { raw::ioctl(&vm, KVM_CREATE_IRQCHIP, 0) }.expect("KVM has an interrupt controller");
        Some(Self { vm })
    }

    /// Makes a signal of the eventfd interrupt 5, or not any more.
    pub fn irqfd(&self, eventfd: impl AsFd, on: bool) -> Result<(), Errno> {
        /// `struct kvm_irqfd` of <linux/kvm.h>.
        #[repr(C)]
        struct KvmIrqfd {
            fd: u32,
            gsi: u32,
            flags: u32,
            resamplefd: u32,
            pad: [u8; 16],
        }
        // _IOW(KVMIO, 0x76, struct kvm_irqfd)
        const KVM_IRQFD: u32 = 0x4020_ae76;
        const KVM_IRQFD_FLAG_DEASSIGN: u32 = 1;

        let argument = KvmIrqfd {
            fd: eventfd.as_fd().as_raw_fd() as u32,
            gsi: 5,
            flags: if on { 0 } else { KVM_IRQFD_FLAG_DEASSIGN },
            resamplefd: 0,
            pad: [0; 16],
        };
        let argument = std::ptr::from_ref(&argument).expose_provenance();
        // SAFETY: the struct is what the call takes, and is only read.
        unsafe { raw::ioctl(&self.vm, KVM_IRQFD, argument) }
    }
}
