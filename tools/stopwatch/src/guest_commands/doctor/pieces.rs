// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which pieces are there, as the kernel shows them in files, and what each missing one would
//! bring. No device is opened for that.

use std::fs;
use std::path::Path;

use rustix::fs::{access, Access};
use stopwatch::guest::PciDevice;
use stopwatch::Roots;

use super::{good, note, Finding};

/// What is seen of a machine.
struct Machine<'a> {
    roots: &'a Roots,
    devices: Vec<PciDevice>,
}

impl<'a> Machine<'a> {
    fn see(roots: &'a Roots) -> Self {
        Self {
            roots,
            devices: PciDevice::all(roots),
        }
    }

    fn has_node(&self) -> bool {
        self.roots.node().exists()
    }

    fn has_backend(&self) -> bool {
        self.roots.dev.join("vhost-stopwatch").exists()
    }
}

/// Every piece: how it is looked for.
const PIECES: [fn(&Machine<'_>) -> Finding; 7] = [
    carrier,
    driver,
    permission,
    lockdown,
    clock_source,
    backend,
    kvm,
];

/// Looks for all pieces.
pub(super) fn look(roots: &Roots) -> Vec<Finding> {
    let machine = Machine::see(roots);
    PIECES.iter().map(|piece| piece(&machine)).collect()
}

/// Whether this machine is a host, and no guest: then it does not miss a device.
pub(super) fn is_host_only(roots: &Roots) -> bool {
    let machine = Machine::see(roots);
    machine.has_backend() && !machine.has_node() && machine.devices.is_empty()
}

fn carrier(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "carrier";
    let all: Vec<_> = machine
        .devices
        .iter()
        .map(|device| format!("{} at {}", device.carrier(), device.address()))
        .collect();
    match all.is_empty() {
        false => good(CHECK, all.join(", ")),
        true => note(
            CHECK,
            format!("no PCI device {}", PciDevice::identities()),
            "one would make this machine a guest with stopwatches: start it on its host with \
             `stopwatch host run`",
        ),
    }
}

fn driver(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "driver";
    if machine.has_node() {
        return good(CHECK, machine.roots.node().display().to_string());
    }
    let bound = machine.devices.iter().find_map(PciDevice::driver);
    match (bound, machine.devices.is_empty()) {
        (Some(driver), _) => note(
            CHECK,
            format!("none of ours: {driver} has the device"),
            "unbind that, or load stopwatch.ko before it, to use the device at all",
        ),
        (None, false) => note(
            CHECK,
            "none; root uses the device by its PCI resources",
            "stopwatch.ko would bring all users and programs at once, interrupts for timeouts, and \
             files for scripts",
        ),
        (None, true) => note(
            CHECK,
            "none",
            "stopwatch.ko is for machines that have a device",
        ),
    }
}

fn permission(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "permission";
    let may = |path: &Path| access(path, Access::READ_OK | Access::WRITE_OK).is_ok();
    let (path, advice) = match (machine.has_node(), machine.devices.first()) {
        (true, _) => (
            machine.roots.node(),
            "with it this user could create stopwatches, and read and post without a system call: \
             see tools/udev/60-stopwatch.rules",
        ),
        (false, Some(device)) => (
            device.directory().join("enable"),
            "without a driver the device is root's: run as root, or load stopwatch.ko",
        ),
        (false, None) => return note(CHECK, "there is nothing to open", "get a device first"),
    };
    match may(&path) {
        true => good(CHECK, format!("this user may write {}", path.display())),
        false => note(
            CHECK,
            format!("this user may not write {}", path.display()),
            advice,
        ),
    }
}

fn lockdown(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "lockdown";
    let text = fs::read_to_string(machine.roots.sys.join("kernel/security/lockdown"));
    // The present one is in brackets.
    let mode = text.ok().and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    });
    match mode.as_deref() {
        None => good(CHECK, "this kernel shows none"),
        Some("none") => good(CHECK, "off"),
        Some(mode) if machine.has_node() => {
            good(CHECK, format!("{mode}, which is nothing to the driver"))
        }
        Some(mode) => note(
            CHECK,
            format!("{mode}: no program may map a device"),
            "without it root could do without the driver; load a signed stopwatch.ko, or boot \
             without `lockdown=` and with Secure Boot off",
        ),
    }
}

fn clock_source(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "guest clock";
    const FILE: &str = "devices/system/clocksource/clocksource0/current_clocksource";
    match fs::read_to_string(machine.roots.sys.join(FILE)) {
        Ok(name) => good(CHECK, name.trim()),
        Err(_) => note(
            CHECK,
            format!("{} cannot be read", machine.roots.sys.join(FILE).display()),
            "mount sysfs to see it",
        ),
    }
}

fn backend(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "backend";
    let node = machine.roots.dev.join("vhost-stopwatch");
    match machine.has_backend() {
        true => good(CHECK, format!("{}, to serve VMs", node.display())),
        false => note(
            CHECK,
            format!("no {}: this machine serves no VMs", node.display()),
            "on a host vhost_stopwatch.ko would bring stopwatches to its VMs, answered in the \
             doorbell's own exit",
        ),
    }
}

fn kvm(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "KVM";
    let node = machine.roots.dev.join("kvm");
    match node.exists() {
        true => good(CHECK, format!("{}, to run VMs", node.display())),
        false => note(
            CHECK,
            format!("no {}", node.display()),
            "on a host it would bring VMs at the CPU's speed, and doorbells that do not go by QEMU",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A machine of these files, and of links if there is an arrow.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("doctor-{name}-{}", std::process::id()));
            for directory in ["dev", "sys", "proc"] {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match text.strip_prefix("-> ") {
                    Some(target) => symlink(target, path).unwrap(),
                    None => fs::write(path, text).unwrap(),
                }
            }
            Self(root)
        }

        fn of(&self, check: &str) -> Finding {
            let all = look(&Roots::under(&self.0));
            let found = all.into_iter().find(|finding| finding.check == check);
            found.unwrap_or_else(|| panic!("{check} is not looked for"))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const VENDOR: (&str, &str) = ("sys/bus/pci/devices/0000:00:04.0/vendor", "0x1234\n");
    const DEVICE: (&str, &str) = ("sys/bus/pci/devices/0000:00:04.0/device", "0x5357\n");
    const ENABLE: (&str, &str) = ("sys/bus/pci/devices/0000:00:04.0/enable", "0\n");
    const OTHER: (&str, &str) = ("sys/bus/pci/devices/0000:00:03.0/vendor", "0x8086\n");
    const NODE: (&str, &str) = ("dev/stopwatch", "");
    const LOCKED: (&str, &str) = (
        "sys/kernel/security/lockdown",
        "none [integrity] confidentiality\n",
    );

    /// The verdict, and a part of what is said.
    fn check(tree: &Tree, check: &str, verdict: Verdict, part: &str) {
        let finding = tree.of(check);
        let advice = finding.advice.unwrap_or_default();
        let said = format!("{} ({advice})", finding.found);
        assert_eq!(finding.verdict, verdict, "{check}: {said}");
        assert!(said.contains(part), "{check}: {said}");
        assert_eq!(finding.advice.is_some(), verdict == Verdict::Note, "{said}");
    }

    #[test]
    fn a_machine_with_nothing_misses_everything() {
        let tree = Tree::new("nothing", &[OTHER]);
        check(&tree, "carrier", Verdict::Note, "no PCI device 1234:5357");
        check(
            &tree,
            "driver",
            Verdict::Note,
            "machines that have a device",
        );
        check(&tree, "permission", Verdict::Note, "nothing to open");
        check(&tree, "lockdown", Verdict::Good, "shows none");
        check(&tree, "guest clock", Verdict::Note, "mount sysfs");
        check(&tree, "backend", Verdict::Note, "serves no VMs");
        check(&tree, "KVM", Verdict::Note, "dev/kvm");
        assert!(!is_host_only(&Roots::under(&tree.0)));
    }

    #[test]
    fn a_guest_without_a_driver_is_told_what_that_would_bring() {
        let tree = Tree::new("guest", &[OTHER, VENDOR, DEVICE, ENABLE]);
        check(&tree, "carrier", Verdict::Good, "stopwatch at 0000:00:04.0");
        check(&tree, "driver", Verdict::Note, "interrupts for timeouts");
        check(&tree, "permission", Verdict::Good, "0000:00:04.0/enable");

        let tree = Tree::new("locked", &[VENDOR, DEVICE, ENABLE, LOCKED]);
        check(
            &tree,
            "lockdown",
            Verdict::Note,
            "integrity: no program may map",
        );
        let tree = Tree::new("driver", &[VENDOR, DEVICE, ENABLE, LOCKED, NODE]);
        check(&tree, "lockdown", Verdict::Good, "nothing to the driver");
        check(&tree, "driver", Verdict::Good, "dev/stopwatch");
        check(&tree, "permission", Verdict::Good, "dev/stopwatch");
        let off = ("sys/kernel/security/lockdown", "[none] integrity\n");
        let tree = Tree::new("unlocked", &[off]);
        check(&tree, "lockdown", Verdict::Good, "off");
    }

    #[test]
    fn a_device_of_another_driver_is_said_to_be_its() {
        let driver = (
            "sys/bus/pci/devices/0000:00:04.0/driver",
            "-> ../../../bus/pci/drivers/vfio-pci",
        );
        let tree = Tree::new("vfio", &[VENDOR, DEVICE, ENABLE, driver]);
        check(&tree, "driver", Verdict::Note, "vfio-pci has the device");
    }

    #[test]
    fn a_host_misses_no_device() {
        let clock = (
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "tsc\n",
        );
        let files = [("dev/vhost-stopwatch", ""), ("dev/kvm", ""), clock];
        let tree = Tree::new("host", &files);
        check(&tree, "backend", Verdict::Good, "dev/vhost-stopwatch");
        check(&tree, "KVM", Verdict::Good, "dev/kvm");
        check(&tree, "guest clock", Verdict::Good, "tsc");
        assert!(is_host_only(&Roots::under(&tree.0)));
    }
}
