// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of rows: what each one is called and how it is made.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{bail, ensure, Context, Result};

use super::pci::{Function, Test};
use super::system::{self, Mapping};
use super::{device, Operation};

/// What measuring costs by itself.
pub const NOTHING: &str = "nothing";
/// Instructions whose number is known: [`LOOP_INSNS`].
pub const LOOP: &str = "loop of 1,000 instructions";
/// What [`LOOP`] has, to the last one.
pub const LOOP_INSNS: u64 = 1000;
/// A system call that does next to nothing.
pub const SYSTEM_CALL: &str = "system call, getppid";
/// The way into the driver and back.
pub const NO_IOCTL: &str = "ioctl that the driver does not know";
/// HPET's main counter, by the kernel's own driver.
pub const HPET: &str = "HPET main counter";
/// A register of QEMU's teaching device.
pub const EDU: &str = "edu register";
/// A byte to a device model that only counts it.
pub const MMIO: &str = "pci-testdev mmio-no-eventfd";
/// The same at an I/O port.
pub const PORTIO: &str = "pci-testdev portio-no-eventfd";
/// What the system call of the two I/O port rows costs without its access.
pub const PORTIO_FILE: &str = "pci-testdev portio, 0 bytes written";
/// One request to a virtio device whose other end is QEMU.
pub const RNG: &str = "virtio-rng read";
/// One request to a virtio device whose other end is a kernel thread.
pub const VSOCK: &str = "vhost-vsock connect and reset";
/// A hypercall of KVM.
pub const PTP: &str = "ptp_kvm";
/// The kernel's clock, by KVM's clock page.
pub const VDSO_KVM: &str = "vDSO clock_gettime, kvm-clock";
/// The kernel's clock, by the CPU's counter alone.
pub const VDSO_TSC: &str = "vDSO clock_gettime, tsc";
/// A page of QEMU's that says when the counter was disturbed.
pub const VMCLOCK: &str = "vmclock page";
/// A doorbell with nobody behind it.
pub const BARE_MMIO: &str = "pci-testdev mmio-wildcard-eventfd";
/// The same at an I/O port.
pub const BARE_PORTIO: &str = "pci-testdev portio-wildcard-eventfd";
/// This device, from a program.
pub const TIER1: &str = "tier 1: exit-free read";
/// This device, from a program that wants nothing else of a reading.
pub const ELAPSED: &str = "tier 1: elapsed time alone";
/// This device, from a program.
pub const TIER2: &str = "tier 2: posted lap";
/// This device, from a program without a post ring.
pub const TIER2_IOCTL: &str = "tier 2: posted lap, by an ioctl";
/// This device, from a program.
pub const TIER3: &str = "tier 3: call";
/// This device, from the guest's kernel.
pub const TIER1_KERNEL: &str = "tier 1: exit-free read, in the kernel";
/// This device, from the guest's kernel.
pub const TIER2_KERNEL: &str = "tier 2: posted lap, in the kernel";
/// This device, from the guest's kernel.
pub const TIER3_KERNEL: &str = "tier 3: call, in the kernel";

/// This device with its doorbells in memory, from a program.
pub const TIER3_MEMORY: &str = "tier 3: call, doorbell in memory";
/// This device with its doorbells in memory, from the guest's kernel.
pub const TIER3_MEMORY_KERNEL: &str = "tier 3: call, doorbell in memory, in the kernel";

/// This device with the largest request ring, from a program.
pub const TIER2_LARGE: &str = "tier 2: posted lap, by an ioctl, ring of 4,096 slots";

/// Those that need a guest of their own, whose doorbells are in memory.
pub const MEMORY_NAMES: [&str; 2] = [TIER3_MEMORY, TIER3_MEMORY_KERNEL];

/// All rows of the guest, in the order of the table.
pub const NAMES: [&str; 28] = [
    NOTHING,
    LOOP,
    SYSTEM_CALL,
    NO_IOCTL,
    HPET,
    EDU,
    MMIO,
    PORTIO,
    PORTIO_FILE,
    RNG,
    VSOCK,
    PTP,
    VDSO_KVM,
    VDSO_TSC,
    VMCLOCK,
    BARE_MMIO,
    BARE_PORTIO,
    TIER1,
    ELAPSED,
    // Before what is posted, which the next call serves, too.
    TIER3,
    TIER2,
    TIER2_IOCTL,
    TIER1_KERNEL,
    TIER2_KERNEL,
    TIER3_KERNEL,
    TIER3_MEMORY,
    TIER3_MEMORY_KERNEL,
    TIER2_LARGE,
];

/// All but those that need another guest.
pub fn usual() -> impl Iterator<Item = &'static str> {
    let usual = |row: &&str| *row != TIER2_LARGE && !MEMORY_NAMES.contains(row);
    NAMES.into_iter().filter(usual)
}

const KVM_CLOCK: &str = "kvm-clock";
const TSC: &str = "tsc";

/// The row of the vDSO with that clock source.
pub fn vdso_by(clock_source: &str) -> Option<&'static str> {
    match clock_source {
        KVM_CLOCK => Some(VDSO_KVM),
        TSC => Some(VDSO_TSC),
        _ => None,
    }
}

/// Opens what a row needs.
pub(super) fn prepare(row: &str) -> Result<Operation> {
    match row {
        NOTHING => Ok(Operation::short(|| Ok(()))),
        LOOP => Ok(Operation::batch(20, 10, || {
            system::instructions(LOOP_INSNS);
            Ok(())
        })),
        SYSTEM_CALL => Ok(Operation::short(|| {
            system::system_call();
            Ok(())
        })),
        NO_IOCTL => device::no_ioctl(),
        HPET => hpet(),
        EDU => edu(),
        MMIO => testdev(0, Test::Mmio { eventfd: false }),
        PORTIO_FILE => portio_file(),
        PORTIO => testdev(1, Test::Portio { eventfd: false }),
        BARE_MMIO => testdev(2, Test::Mmio { eventfd: true }),
        BARE_PORTIO => testdev(3, Test::Portio { eventfd: true }),
        RNG => rng(),
        VSOCK => vsock(),
        PTP => ptp(),
        VDSO_KVM => vdso(KVM_CLOCK),
        VDSO_TSC => vdso(TSC),
        VMCLOCK => vmclock(),
        TIER1 => device::read(),
        ELAPSED => device::elapsed(),
        TIER2 => device::posted_lap(),
        TIER2_IOCTL | TIER2_LARGE => device::posted_by_ioctl(),
        TIER3 | TIER3_MEMORY => device::call(),
        TIER1_KERNEL => device::kernel("read", 400, 100),
        TIER2_KERNEL => device::kernel("lap", 128, 32),
        TIER3_KERNEL | TIER3_MEMORY_KERNEL => device::kernel("call", 20, 4),
        _ => bail!(
            "there is no row \"{row}\"; expected one of {}",
            NAMES.join(", ")
        ),
    }
}

fn hpet() -> Result<Operation> {
    const MAIN_COUNTER: usize = 0xf0;
    let mapping = Mapping::read_only("/dev/hpet", 4096)?;
    Ok(Operation::long(move || {
        mapping.read::<u32>(MAIN_COUNTER);
        Ok(())
    }))
}

fn edu() -> Result<Operation> {
    const IDENTIFICATION: usize = 0;
    let edu = Function::find(0x1234, 0x11e8, 0)?;
    let mapping = edu.memory(0)?;
    ensure!(
        mapping.read::<u32>(IDENTIFICATION) & 0xff == 0xed,
        "register 0 of edu does not have its identification"
    );
    Ok(Operation::long(move || {
        mapping.read::<u32>(IDENTIFICATION);
        Ok(())
    }))
}

/// A test device can have one test selected, so each of the four rows has its own.
fn testdev(index: usize, test: Test) -> Result<Operation> {
    let selected = Function::find(0x1b36, 0x0005, index)?.select(test)?;
    Ok(Operation::long(move || selected.write()))
}

/// The kernel does all that it does for an access, save the access.
fn portio_file() -> Result<Operation> {
    let selected = Function::find(0x1b36, 0x0005, 1)?.select(Test::Portio { eventfd: false })?;
    Ok(Operation::long(move || selected.write_nothing()))
}

/// The core of hw_random keeps what a driver gave and hands it out in pieces:
/// eight reads of 8 bytes make one request to the device. So one operation here
/// is as many bytes as one request brings. The driver also asks for the next ones
/// as soon as it hands some out; so several in a row, each of which but the first
/// has to wait for its own.
fn rng() -> Result<Operation> {
    const REQUEST: usize = 64;
    let current = system::text("/sys/class/misc/hw_random/rng_current")?;
    ensure!(
        current.starts_with("virtio_rng"),
        "the current hardware generator is \"{current}\", not virtio_rng: load virtio-rng.ko"
    );
    let mut file = File::open("/dev/hwrng").context("/dev/hwrng")?;
    let mut bytes = [0; REQUEST];
    Ok(Operation::batch(8, 3, move || {
        file.read_exact(&mut bytes).context("read /dev/hwrng")
    }))
}

/// From socket() to close(), since a socket connects once.
fn vsock() -> Result<Operation> {
    const NOBODY_LISTENS: u32 = 0xdead;
    let operation = || match system::vsock_connect(system::VSOCK_HOST, NOBODY_LISTENS) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(()),
        Err(error) => Err(error).context("connect to the host by vsock"),
        Ok(()) => bail!("somebody listens at port {NOBODY_LISTENS} of the host"),
    };
    operation()?;
    Ok(Operation::long(operation))
}

fn ptp() -> Result<Operation> {
    let class = "/sys/class/ptp";
    let clock = std::fs::read_dir(class)
        .with_context(|| class.to_owned())?
        .filter_map(Result::ok)
        .find(|entry| {
            system::text(entry.path().join("clock_name"))
                .is_ok_and(|name| name == "KVM virtual PTP")
        })
        .context("no PTP clock of KVM: ptp_kvm.ko binds only if KVM offers the hypercall")?;
    let node = PathBuf::from("/dev").join(clock.file_name());
    let file = File::open(&node).with_context(|| node.display().to_string())?;
    // FD_TO_CLOCKID of <linux/time.h>.
    let id = (!file.as_raw_fd() << 3) | 3;
    Ok(Operation::long(move || {
        let _ = &file;
        system::clock_ns(id)
            .map(drop)
            .context("clock_gettime of ptp_kvm")
    }))
}

fn vdso(clock_source: &'static str) -> Result<Operation> {
    system::clock_source_is_there(clock_source)?;
    Ok(Operation {
        clock_source: Some(clock_source),
        ..Operation::short(|| system::clock_ns(libc::CLOCK_MONOTONIC).map(drop))
    })
}

/// As its header says: the sequence count, what it protects, the count again.
/// QEMU gives no time in it, so this is the reading of a page and no clock.
fn vmclock() -> Result<Operation> {
    const SEQUENCE: usize = 12;
    const DISRUPTION_MARKER: usize = 16;
    let mapping = Mapping::read_only("/dev/vmclock0", 4096)?;
    Ok(Operation::short(move || loop {
        let before = mapping.read::<u32>(SEQUENCE);
        mapping.read::<u64>(DISRUPTION_MARKER);
        if before % 2 == 0 && mapping.read::<u32>(SEQUENCE) == before {
            return Ok(());
        }
    }))
}
