// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device that is plugged into a guest that runs, and unplugged; and what the
//! host allows that VM. The guest has no other device that its driver serves.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::time::{clock_gettime, ClockId};
use serde_json::Value;
use stopwatch::host::{Control, DEVICE};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::program::{host, host_json, host_refused};
use stopwatch_tests::suite::{eventually, figure, patience};
use stopwatch_tests::tests;

use crate::guests::{monitor, strangers};

tests![
    a_device_comes_and_goes,
    what_the_host_allows,
    what_the_host_does_not_allow,
    what_cannot_be_plugged,
    unplugged_under_programs_that_ring,
    unplugged_under_writes_to_its_registers,
];

const VM: &str = "plugged";

fn attach(options: &[&str]) -> Value {
    let monitor = monitor("strangers");
    let words = ["attach", "--qmp", &monitor, "--name", VM];
    host_json(&[&words, options].concat())
}

fn detach() {
    let monitor = monitor("strangers");
    let detach = ["detach", "--qmp", &monitor];
    // The program waits 30 s for the guest; one on the debug kernel may need more.
    for _ in 1..patience() {
        if host(&detach).status.success() {
            return;
        }
    }
    assert_eq!(host_json(&detach)["detached"], true);
}

/// Waits until the guest has noticed the device, and its driver has it.
fn arrived(guest: &mut Guest) {
    let there = "n=0; until [ -e /dev/stopwatch ]; do \
                 sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done";
    guest.shell(there);
}

/// Plugs a device into the guest, does that, and unplugs it.
pub(crate) fn with_device(options: &[&str], test: impl FnOnce(&mut Guest)) {
    let mut guest = strangers();
    guest.load_driver();
    attach(options);
    arrived(&mut guest);
    test(&mut guest);
    detach();
    guest.shell("rmmod stopwatch");
}

fn is_gone() -> bool {
    let vms = Control::open(DEVICE).unwrap().vms().unwrap();
    vms.iter().all(|vm| vm.name != VM)
}

fn a_device_comes_and_goes() {
    let mut guest = strangers();
    guest.load_driver();
    assert_ne!(guest.run("test -e /dev/stopwatch").status, 0);
    // The driver is there first, then the device, and the other way round.
    for driver_first in [true, false] {
        if !driver_first {
            guest.shell("rmmod stopwatch");
        }
        let made = attach(&["--auto-start", "boot", "--rings", "1"]);
        if !driver_first {
            guest.load_driver();
        }
        arrived(&mut guest);
        assert_eq!(
            guest.json("stopwatch pause boot --json")["state"],
            "stopped"
        );
        guest.shell("stopwatch timeout 1 10ms --wait");
        let shown = host_json(&["show", VM, "--stopwatch", "boot"]);
        assert_eq!((&shown["vm"], &shown["name"]), (&made["vm"], &VM.into()));
        assert_eq!(shown["watches"][0]["state"], "stopped");

        // Its file stays open, and says what has happened.
        guest.shell(
            "sh -c 'exec 7<>/dev/stopwatch; sleep 1000' >/dev/null 2>&1 & echo $! >/tmp/pid",
        );
        detach();
        assert_ne!(
            guest.run("test -e /dev/stopwatch").status,
            0,
            "the node has gone"
        );
        assert!(
            eventually(Duration::from_secs(10), is_gone),
            "the VM has ended"
        );
        guest.shell("kill $(cat /tmp/pid); sleep 0.2");
    }
    guest.shell("rmmod stopwatch");
    guest.check_log();
}

fn what_the_host_allows() {
    let options = ["--allow-host-time", "--min-interval", "20ms"];
    with_device(&options, |guest| {
        let uptime = || Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap();
        let info = guest.json("stopwatch info --json");
        let features = info["features"].as_array().unwrap();
        assert!(features.contains(&"host-time".into()), "{info}");
        let before = uptime();
        let shown = guest.json("stopwatch show --json");
        let after = uptime();
        let epoch = info["epoch_ns"].as_u64().unwrap();
        let at = Duration::from_nanos(epoch + shown["time_ns"].as_u64().unwrap());
        assert!(
            before <= at && at <= after,
            "the guest knows the host's uptime: {at:?}, which is {before:?} to {after:?}"
        );
        guest.shell("stopwatch timeout 1 20ms --every 20ms && stopwatch reset 1");
    });
}

fn what_the_host_does_not_allow() {
    let options = [
        "--stopwatches",
        "65",
        "--rings",
        "1",
        "--min-interval",
        "20ms",
        "--allow-host-power",
    ];
    with_device(&options, |guest| {
        let info = guest.json("stopwatch info --json");
        assert_eq!(
            (&info["stopwatches"], &info["rings"]),
            (&65.into(), &1.into())
        );
        assert_eq!(info["epoch_ns"], Value::Null, "it learns no uptime: {info}");
        let features = info["features"].as_array().unwrap();
        for feature in ["host-time", "host-power"] {
            assert!(!features.contains(&feature.into()), "{info}");
        }
        for (command, says) in [
            ("stopwatch timeout 1 20ms --every 19ms", "--min-interval"),
            ("stopwatch timeout 1 20ms --every 100us", "--min-interval"),
            (
                "stopwatch create one && stopwatch create two",
                "all 65 stopwatches of this device are in use",
            ),
            ("stopwatch start 65", "no stopwatch 65"),
            // The host module was loaded without host_power=1.
            ("stopwatch-power-off", "not supported"),
        ] {
            let said = guest.run(command);
            assert_eq!(said.status, 1, "{command}: {}", said.text);
            assert!(said.text.contains(says), "{command}: {}", said.text);
        }
        let one = guest.json("stopwatch show 1 --json");
        assert_eq!(
            (&one["deadline_ns"], &one["timeouts"]),
            (&Value::Null, &0.into())
        );
    });
}

fn what_cannot_be_plugged() {
    let socket = monitor("strangers");
    let says = host_refused(
        &["attach", "--qmp", &socket, "--bus", "pci.9", "--name", VM],
        1,
    );
    assert!(says.contains("pci.9"), "in QEMU's own words: {says}");
    assert!(
        eventually(Duration::from_secs(10), is_gone),
        "no VM is left of it"
    );
    let says = host_refused(&["detach", "--qmp", &socket, "--id", "nothing"], 1);
    assert!(says.contains("nothing"), "{says}");
}

/// How often a device goes that is written to.
const ROUNDS: u32 = 4;

/// Starts programs in the guest that say `ready` when they have begun, each in a file.
fn start(guest: &mut Guest, programs: &[(&str, &str)]) {
    for (number, (program, ready)) in programs.iter().enumerate() {
        guest.shell(&format!(
            "{program} >/tmp/said-{number} 2>&1 & n=0; until grep -q {ready} /tmp/said-{number}; do \
             sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done"
        ));
    }
}

/// What they have said when they have ended.
fn said(guest: &mut Guest, programs: &[(&str, &str)]) -> Vec<String> {
    guest.shell(
        "n=0; while pidof guest-check; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done",
    );
    (0..programs.len())
        .map(|number| guest.shell(&format!("cat /tmp/said-{number}")))
        .collect()
}

/// Calls end with an error, mapped pages and rings with a signal.
fn unplugged_under_programs_that_ring() {
    let programs = [
        ("guest-check call", "calling"),
        ("guest-check touch pages", "touching"),
        ("guest-check touch ring", "touching"),
    ];
    let mut guest = strangers();
    guest.load_driver();
    for round in 0..ROUNDS {
        // By both kinds of doorbells.
        attach(&[
            "--doorbells",
            if round % 2 == 0 { "port" } else { "memory" },
        ]);
        arrived(&mut guest);
        start(&mut guest, &programs);
        detach();
        let expected = ["calling\nENODEV\nENODEV\n", "touching\n", "touching\n"];
        assert_eq!(said(&mut guest, &programs), expected, "in round {round}");
    }
    guest.shell("rmmod stopwatch");
    guest.check_log();
}

/// A guest's kernel that goes on writing to a device which it has given back: a write that
/// is under way in QEMU finds a device that is unplugged.
fn unplugged_under_writes_to_its_registers() {
    let devices = |guest: &mut Guest| -> BTreeSet<String> {
        let addresses = guest.shell("ls /sys/bus/pci/devices");
        addresses.split_whitespace().map(str::to_owned).collect()
    };
    let mut guest = strangers();
    let before = devices(&mut guest);
    let mut writes = 0;
    for round in 0..ROUNDS {
        attach(&[]);
        let mut new = None;
        let plugged = eventually(Duration::from_secs(30), || {
            new = devices(&mut guest).difference(&before).next().cloned();
            new.is_some()
        });
        assert!(plugged, "the guest has noticed the device");
        let program = format!("guest-check write-registers {}", new.unwrap());
        let programs = [(program.as_str(), "writing")];
        start(&mut guest, &programs);
        detach();
        let said = said(&mut guest, &programs).concat();
        let words: Vec<&str> = said.split_whitespace().collect();
        let ["writing", number] = words[..] else {
            panic!("in round {round}: {said}");
        };
        writes += number.parse::<u64>().expect("a number");
        assert!(
            eventually(Duration::from_secs(10), is_gone),
            "the VM has ended"
        );
    }
    figure(format!(
        "{writes} writes to the registers of a device that was unplugged {ROUNDS} times"
    ));
    guest.check_log();
}
