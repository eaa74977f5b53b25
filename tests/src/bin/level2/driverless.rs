// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest in which the driver is not loaded: root's programs have the device by its PCI
//! resources.

use std::collections::HashMap;

use serde_json::Value;
use stopwatch_tests::guest::Guest;
use stopwatch_tests::ioctl::ioctl;
use stopwatch_tests::program::host_json;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::{VHOST_STOPWATCH_START, VHOST_STOPWATCH_STOP};

use crate::driver::control_of;
use crate::guests::{one, two};

tests![
    the_device_before_and_after_its_driver,
    the_tiers_cost_what_they_cost_with_a_driver,
    programs_that_are_killed_or_wait,
];

/// As root in a guest that has never seen the driver.
fn without_driver(guest: &mut Guest) {
    guest.shell("rmmod stopwatch");
    assert_eq!(way(guest), "resources");
}

fn way(guest: &mut Guest) -> Value {
    guest.json("stopwatch info --json")["way"].clone()
}

/// Each of the guests has other doorbells, which are registers and I/O ports.
fn the_device_before_and_after_its_driver() {
    for mut guest in [one(), two()] {
        without_driver(&mut guest);
        let resets = guest.vm().resets;
        guest.shell("stopwatch create driverless --clock boottime; stopwatch start driverless");
        let lap = guest.json("stopwatch lap driverless --json");
        assert_eq!(
            (&lap["laps"], &lap["clock"]),
            (&1.into(), &"boottime".into())
        );
        let laps = guest.json("stopwatch laps driverless --json");
        assert_eq!(laps["laps_ns"], Value::Array(vec![lap["lap_ns"].clone()]));
        // It is the host's.
        let watch = lap["watch"].as_u64().unwrap();
        let vm = guest.vm().vm.to_string();
        let shown = host_json(&["show", &vm, "--stopwatch", &watch.to_string()]);
        let shown = &shown["watches"][0];
        assert_eq!((&shown["name"], &shown["laps"]), (&lap["name"], &1.into()));
        // A timeout stays armed from one program to the next, and expires.
        guest.shell("stopwatch timeout driverless 1h");
        assert!(guest.json("stopwatch show driverless --json")["deadline_ns"].is_u64());
        let expired = guest.json("stopwatch timeout driverless 20ms --wait --json");
        assert_eq!(expired["timeouts"], 1);
        assert_eq!(guest.vm().resets, resets, "no program has reset the device");

        // With the driver it goes on, and the driver is used.
        guest.load_driver();
        assert_eq!(way(&mut guest), "driver");
        let with = guest.json("stopwatch lap driverless --json");
        assert_eq!(with["laps"], 2);
        guest.shell("stopwatch timeout 6 5ms --wait");

        without_driver(&mut guest);
        let paused = guest.json("stopwatch pause driverless --json");
        assert!(paused["elapsed_ns"].as_u64() > with["elapsed_ns"].as_u64());
        guest.shell("stopwatch delete driverless");
        guest.load_driver();
        guest.check_log();
    }
}

/// An exit-free reading and a posted lap ring no doorbell of their own, a call rings one.
fn the_tiers_cost_what_they_cost_with_a_driver() {
    const COUNT: u64 = 1000;

    let mut guest = one();
    without_driver(&mut guest);
    let report = guest.json("stopwatch doctor --json");
    let found: HashMap<_, _> = report
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["check"].as_str().unwrap(), finding))
        .collect();
    for (check, verdict, part) in [
        ("device", "good", "PCI resources"),
        ("carrier", "good", "stopwatch at 0000:"),
        ("driver", "note", "by its PCI resources"),
        ("permission", "good", "enable"),
        ("call", "good", "answered"),
        ("exit-free", "good", "without a call"),
        ("posting", "good", "without a system call"),
    ] {
        let finding = found[check];
        assert_eq!(finding["verdict"], verdict, "{report}");
        assert!(
            finding["found"].as_str().unwrap().contains(part),
            "{finding}"
        );
    }
    assert!(guest.shell("stopwatch doctor").ends_with("all works\n"));

    let count = COUNT.to_string();
    let mut kicks = |tier: &str| {
        let begin = guest.vm().kicks;
        let said = guest.shell(&format!("guest-check driverless {tier} {count}"));
        let kicks = guest.vm().kicks - begin;
        figure(format!(
            "driverless {tier}: {kicks} kicks; {}",
            said.trim_end()
        ));
        kicks
    };
    let nothing = kicks("nothing");
    // So many more, for what has to be told again when it was known for a second.
    let few = nothing + COUNT / 4;
    assert!(kicks("read") < few);
    assert!(kicks("post") < few);
    assert!(kicks("call") >= COUNT);
    guest.load_driver();
    guest.check_log();
}

fn programs_that_are_killed_or_wait() {
    let mut guest = one();
    without_driver(&mut guest);
    guest.shell("stopwatch create kept; stopwatch start kept; stopwatch reset 44");
    // One waits for events, and has the device meanwhile.
    let said = guest.run(
        "stopwatch events >/dev/null 2>&1 & pid=$!; sleep 1; stopwatch show 44; status=$?; \
         kill -KILL $pid; exit $status",
    );
    assert_eq!(said.status, 3, "{}", said.text);
    assert!(
        said.text.contains("(stopwatch) has the device"),
        "{}",
        said.text
    );
    // Its lock has gone with it.
    guest.shell("stopwatch show 44");

    // Several at once take their turns.
    guest.shell(
        "stopwatch start 44; for n in 1 2 3 4 5 6; do stopwatch lap 44 >/dev/null & done; wait",
    );
    assert_eq!(guest.json("stopwatch show 44 --json")["laps"], 6);

    // One is killed while it waits for a host that does not serve.
    let control = control_of(&guest);
    ioctl(&control, VHOST_STOPWATCH_STOP, 0).unwrap();
    let killed = guest.run("timeout -s KILL 1 stopwatch pause 44");
    let next = guest.run("stopwatch pause 44");
    ioctl(&control, VHOST_STOPWATCH_START, 0).unwrap();
    assert_ne!(killed.status, 0, "{}", killed.text);
    assert_eq!(next.status, 1, "{}", next.text);
    assert!(next.text.contains("did not answer within"), "{}", next.text);
    let said = guest.shell("stopwatch show 44");
    assert!(said.contains("running"), "it was not carried out: {said}");
    assert_eq!(guest.json("stopwatch show kept --json")["state"], "running");
    guest.shell("stopwatch delete kept; stopwatch reset 44");

    // A driver that binds while a program has the device: the program notices, or the
    // kernel has taken the mapping away (CONFIG_IO_STRICT_DEVMEM).
    const SIGBUS: i32 = 128 + 7;
    let said = guest.run(
        "stopwatch events >/tmp/events 2>&1 & pid=$!; sleep 1; insmod /modules/stopwatch.ko; \
         wait $pid",
    );
    let events = guest.shell("cat /tmp/events");
    assert!(
        said.status == SIGBUS || said.status == 3 && events.contains("has the driver stopwatch"),
        "{}: {}, {events}",
        said.status,
        said.text
    );
    guest.shell("stopwatch timeout 6 5ms --wait");
    guest.check_log();
}
