// SPDX-License-Identifier: MIT OR Apache-2.0

//! The clocks that stopwatches go by, and a VM that is paused meanwhile.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{json, Value};
use stopwatch::host::Qmp;
use stopwatch_tests::guest::Guest;
use stopwatch_tests::suite::{eventually, figure, figures_of};
use stopwatch_tests::tests;

use crate::guests::{monitor, two};

tests![
    the_three_clocks_and_a_pause,
    timeouts_and_a_pause,
    mapped_readings_after_a_pause,
    an_event_ring_that_overflows,
];

const SECOND: u64 = 1_000_000_000;

/// A moment and what a stopwatch showed in it.
fn at(shown: &Value) -> (u64, u64) {
    let number = |field: &str| shown[field].as_u64().expect("a number");
    (number("time_ns"), number("elapsed_ns"))
}

/// Pauses the VM, and lets it go on when `until` is true.
fn paused(until: impl FnMut() -> bool) {
    let mut qemu = Qmp::connect(monitor("two")).unwrap();
    qemu.execute("stop", json!({})).unwrap();
    let came = eventually(Duration::from_secs(60), until);
    qemu.execute("cont", json!({})).unwrap();
    assert!(came, "what the pause was for did not happen");
}

/// Pauses the VM for a while; how long that was, in VM time.
fn pause_for(guest: &mut Guest, a_while: Duration) -> u64 {
    let before = guest.vm().paused_ns;
    paused(|| {
        sleep(a_while);
        true
    });
    let pause = guest.vm().paused_ns - before;
    assert!(u128::from(pause) >= a_while.as_nanos());
    pause
}

fn the_three_clocks_and_a_pause() {
    let mut guest = two();
    let kinds = [
        ("by-monotonic", "--clock monotonic"),
        ("by-raw", "--clock raw"),
        ("by-boottime", "--clock boottime"),
        ("less-pauses", "--skip-paused"),
        ("raw-less-pauses", "--clock raw --skip-paused"),
    ];
    let started = kinds.map(|(name, options)| {
        guest.shell(&format!("stopwatch create {name} {options}"));
        at(&guest.json(&format!("stopwatch start {name} --json"))).0
    });
    let pause = pause_for(&mut guest, Duration::from_millis(1500));
    for ((name, _), started) in kinds.into_iter().zip(started) {
        let (time, elapsed) = at(&guest.json(&format!("stopwatch pause {name} --json")));
        let passed = time - started;
        let counted = match name {
            "less-pauses" | "raw-less-pauses" => passed - pause,
            _ => passed,
        };
        // Another clock may go another way: what NTP may slew at most, and what
        // lies between two looks at two clocks.
        let slack = match name {
            "by-monotonic" | "less-pauses" => 0,
            _ => passed / 1000 + 1_000_000,
        };
        assert!(
            elapsed.abs_diff(counted) <= slack,
            "{name}: {elapsed} ns, expected {counted} give or take {slack}"
        );
        figure(format_args!(
            "{name}: {elapsed} ns in {passed} ns, of which the VM was paused {pause} ns"
        ));
        guest.shell(&format!("stopwatch delete {name}"));
    }
}

fn timeouts_and_a_pause() {
    let mut guest = two();
    guest.shell("stopwatch create goes-on; stopwatch create stands-still --skip-paused");
    guest.shell("stopwatch events --count 2 --json >/tmp/events 2>&1 & sleep 0.3");
    let armed = ["goes-on", "stands-still"].map(|name| {
        guest.json(&format!("stopwatch timeout {name} 1s --json"))["deadline_ns"]
            .as_u64()
            .unwrap()
    });
    let pause = pause_for(&mut guest, Duration::from_millis(2000));
    // The one expired meanwhile, the other has its second yet to wait.
    let two_came = eventually(Duration::from_secs(30), || {
        guest.shell("cat /tmp/events").lines().count() == 2
    });
    let text = guest.shell("cat /tmp/events");
    assert!(two_came, "{text}");
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for ((event, name), deadline) in events.iter().zip(["goes-on", "stands-still"]).zip(armed) {
        assert_eq!(event["name"], name, "{text}");
        assert_eq!(event["deadline_ns"].as_u64(), Some(deadline));
        let late = event["late_ns"].as_u64().unwrap();
        assert!(
            late < SECOND / 2,
            "{name}: in its own time it is not late: {late} ns"
        );
        figure(format_args!(
            "a timeout of 1 s of {name}, with a pause of {pause} ns: {late} ns late by its own time"
        ));
    }
    guest.shell("stopwatch delete goes-on; stopwatch delete stands-still");
}

/// What was known of the time before a pause must not be used after it.
fn mapped_readings_after_a_pause() {
    let mut guest = two();
    guest.shell("stopwatch create waits --skip-paused; stopwatch start waits");
    pause_for(&mut guest, Duration::from_millis(300));
    guest.shell("guest-check --exact mapping::readings_hold_their_bound");
    let called = at(&guest.json("stopwatch show waits --json"));
    let mapped = at(&guest.json("guest-check mapped waits"));
    let later = at(&guest.json("stopwatch show waits --json"));
    // How far own time is behind VM time is the same for both.
    assert_eq!(mapped.0 - mapped.1, called.0 - called.1);
    assert_eq!(later.0 - later.1, called.0 - called.1);
    guest.shell("stopwatch delete waits");
}

/// While the VM is paused nobody takes events from the ring.
fn an_event_ring_that_overflows() {
    const COUNT: u64 = 300;
    let mut guest = two();
    let counted = |guest: &Guest| {
        let vm = guest.vm();
        vm.events + vm.events_lost
    };
    let before = counted(&guest);
    guest.shell("stopwatch events --count 1000 >/tmp/told 2>&1 & echo $! >/tmp/pid");
    guest.shell(&format!(
        "guest-check storm {COUNT} >/tmp/storm 2>&1 & n=0; until grep -q armed /tmp/storm; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done"
    ));
    assert_eq!(counted(&guest), before, "none has expired yet");
    paused(|| counted(&guest) >= before + COUNT);
    let said = guest.shell(
        "n=0; while pidof guest-check >/dev/null && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done; \
         cat /tmp/storm",
    );
    assert!(said.contains("counted as lost"), "{said}");
    figures_of(&said);
    let lost = guest.vm().events_lost;
    assert_eq!(
        guest.json("stopwatch info --json")["events_lost"].as_u64(),
        Some(lost)
    );
    // Who follows the events by the program is told so as well.
    let told = guest.shell("kill $(cat /tmp/pid); cat /tmp/told");
    assert!(told.contains("found the event ring full"), "{told}");
    assert!(
        guest.shell("stopwatch doctor").contains("event slots"),
        "and what to do"
    );
}
