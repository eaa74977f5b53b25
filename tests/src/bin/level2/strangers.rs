// SPDX-License-Identifier: MIT OR Apache-2.0

//! Devices that the driver was not made for: their regions were changed after
//! the host module had described them, before QEMU saw them.

use std::env;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{fcntl_setfd, FdFlags};
use stopwatch::host::Region;
use stopwatch_protocol::memory::Memory;
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::suite::environment;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::guests::strangers;

tests![the_driver_refuses_to_bind];

const WRONG_MAGIC: u32 = 0x474f_4f44;
const WRONG_VERSION: u32 = STOPWATCH_VERSION + 1;

/// Becomes a QEMU with one device of a wrong magic, one of a wrong version and
/// one that describes a ring outside its region.
pub(crate) fn become_qemu() -> ! {
    let mut command = Command::new(environment("STOPWATCH_GUEST"));
    command.args(env::args().skip(2));
    let magic = u64::from(STOPWATCH_MAGIC);
    let version = u64::from(STOPWATCH_VERSION) << 32;
    let mut vms = Vec::new();
    for (name, change) in [
        (
            "magic",
            Change {
                offset: 0,
                value: u64::from(WRONG_MAGIC) | version,
            },
        ),
        (
            "version",
            Change {
                offset: 0,
                value: magic | (u64::from(WRONG_VERSION) << 32),
            },
        ),
        (
            "slots",
            Change {
                offset: std::mem::offset_of!(stopwatch_info, ring_stride) as u32,
                value: 4096 | (4096 << 32),
            },
        ),
    ] {
        let control = control();
        control.set_name(&format!("wrong-{name}")).unwrap();
        let vm = Vm::of(control, SMALL);
        vm.control.start().unwrap();
        change.apply(&vm.guest.region);
        command.arg("-device").arg(device_argument(&vm));
        vms.push(vm);
    }
    panic!("cannot run {command:?}: {}", command.exec());
}

struct Change {
    offset: u32,
    value: u64,
}

impl Change {
    fn apply(&self, region: &Region) {
        region.store(self.offset, self.value);
    }
}

/// Lets QEMU inherit a descriptor, and says which it is.
fn inherited(fd: impl AsFd) -> String {
    fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}

pub(crate) fn device_argument(vm: &Vm) -> String {
    let list = |fds: &[OwnedFd]| fds.iter().map(inherited).collect::<Vec<_>>().join(":");
    format!(
        "stopwatch,vm={},region={},kicks={},calls={}",
        inherited(&vm.control),
        inherited(&vm.memfd),
        list(&vm.kicks),
        list(&vm.calls)
    )
}

fn the_driver_refuses_to_bind() {
    let mut guest = strangers();
    let devices = "grep -l 0x5357 /sys/bus/pci/devices/*/device | wc -l";
    assert_eq!(
        guest.shell(devices).trim(),
        "3",
        "the guest has three devices"
    );
    let resets = || -> Vec<_> {
        let vms = control().vms().unwrap();
        let wrong = vms.into_iter().filter(|vm| vm.name.starts_with("wrong-"));
        wrong.map(|vm| (vm.name, vm.resets)).collect()
    };
    let before = resets();
    assert_eq!(before.len(), 3);

    guest.load_driver();
    assert_ne!(
        guest.run("test -e /dev/stopwatch").status,
        0,
        "it bound to none"
    );
    let log = guest.shell("dmesg | grep stopwatch");
    for said in [
        format!("magic must be {STOPWATCH_MAGIC:#x}, got {WRONG_MAGIC:#x}"),
        format!(
            "device of version {WRONG_VERSION}, but this driver is for version {STOPWATCH_VERSION}: \
             update the driver in the guest"
        ),
        "out of place".to_owned(),
    ] {
        assert!(
            log.contains(&said),
            "`{said}` is not in the kernel log:\n{log}"
        );
    }
    assert_eq!(
        resets(),
        before,
        "a device that is not the driver's is left as it is"
    );
    guest.shell("rmmod stopwatch");
    guest.load_driver();
    guest.shell("rmmod stopwatch");
}
