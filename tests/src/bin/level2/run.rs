// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch run`: a command, timed.

use std::time::Instant;

use serde_json::{json, Value};
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;

use crate::guests::one;

tests![
    both_clocks,
    a_line_is_a_lap,
    what_is_kept,
    the_exit_status_is_the_command_s,
    its_streams_are_the_command_s,
];

const SECOND: u64 = 1_000_000_000;

fn both_clocks() {
    let mut guest = one();
    let asked = Instant::now();
    let timed = guest.json("stopwatch run --json -- sleep 1");
    let most = asked.elapsed();
    let number = |field: &str| {
        timed[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field}: {timed}"))
    };
    let (by_host, by_guest) = (number("host_elapsed_ns"), number("guest_elapsed_ns"));
    assert!(by_host >= SECOND && by_guest >= SECOND, "{timed}");
    assert!(u128::from(by_host) <= most.as_nanos(), "{timed}");
    let difference = timed["difference_ns"].as_i64().unwrap();
    assert_eq!(difference, by_host as i64 - by_guest as i64);
    // The guest's clock is kept by this host's; the calls are what lies between.
    assert!(
        difference.unsigned_abs() < number("error_ns") + SECOND / 100,
        "{timed}"
    );
    assert_eq!(
        (&timed["exit_code"], &timed["signal"]),
        (&0.into(), &Value::Null)
    );
    assert!(timed["steal_ns"].is_u64(), "KVM tells it: {timed}");
    figure(format_args!(
        "stopwatch run -- sleep 1: {by_host} ns by the host, {by_guest} ns by the guest, the calls \
         are up to {} ns",
        number("error_ns")
    ));
    let text = guest.shell("stopwatch run -- sleep 0.1");
    for line in [
        "host        ",
        "guest       ",
        "difference  ",
        "steal       ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

fn a_line_is_a_lap() {
    let mut guest = one();
    let command = "sh -c 'echo first; sleep 0.2; echo second; echo no end'";
    let said = guest.shell(&format!(
        "stopwatch run --laps --json --output /tmp/timed -- {command}"
    ));
    assert_eq!(said, "first\nsecond\nno end\n", "the lines go on");
    let timed = guest.json("cat /tmp/timed");
    let laps: Vec<u64> = serde_json::from_value(timed["laps_ns"].clone()).unwrap();
    assert!(laps.len() == 3 && laps.is_sorted(), "{timed}");
    assert!(laps[1] - laps[0] >= SECOND / 5, "{timed}");
    assert!(Some(laps[2]) <= timed["host_elapsed_ns"].as_u64());
    let text = guest.shell(&format!("stopwatch run --laps -- {command}"));
    assert!(
        text.contains("\nlap 0       0.") && text.contains("\nlap 2       0."),
        "{text}"
    );
}

fn what_is_kept() {
    let mut guest = one();
    // Without a name nothing is.
    let before = guest.json("stopwatch list --all --json");
    guest.shell("stopwatch run -- true");
    let after = guest.json("stopwatch list --all --json");
    assert_eq!(
        before.as_array().map(Vec::len),
        after.as_array().map(Vec::len)
    );
    let timed = guest.json("stopwatch run --name build --json -- true");
    assert_eq!(timed["name"], "build");
    let shown = guest.json("stopwatch show build --json");
    assert_eq!(shown["state"], "stopped");
    assert_eq!(shown["elapsed_ns"], timed["host_elapsed_ns"]);
    // The next one begins anew, under the same number.
    let timed = guest.json("stopwatch run --name build --laps --json -- true");
    let again = guest.json("stopwatch show build --json");
    assert_eq!(again["watch"], shown["watch"]);
    assert_eq!(again["elapsed_ns"], timed["host_elapsed_ns"]);
    // One that runs is somebody's.
    guest.shell("stopwatch start build");
    let said = guest.run("stopwatch run --name build -- touch /tmp/it-ran");
    assert_eq!(said.status, 1);
    assert!(said.text.contains("is running already"), "{}", said.text);
    guest.shell("test ! -e /tmp/it-ran; stopwatch delete build");
}

fn the_exit_status_is_the_command_s() {
    let mut guest = one();
    for (command, status) in [
        ("-- true", 0),
        ("-- false", 1),
        ("-- sh -c 'exit 42'", 42),
        ("-- sh -c 'kill -KILL $$'", 128 + 9),
        ("-- sh -c 'kill -TERM $$'", 128 + 15),
        ("-- /no/such/program", 127),
        ("-- /etc", 126),
        ("--output /no/such/directory/file -- true", 1),
        ("true", 2),
        ("", 2),
    ] {
        let said = guest.run(&format!("mkdir -p /etc; stopwatch run {command}"));
        assert_eq!(said.status, status, "{command}: {}", said.text);
        let timed = said.text.contains("difference");
        let ran = !matches!(status, 2 | 126 | 127) && !command.contains("directory");
        assert_eq!(timed, ran, "{command}: {}", said.text);
    }
    let killed = guest.run("stopwatch run --json -- sh -c 'kill -KILL $$'");
    let timed: Value = serde_json::from_str(&killed.text).unwrap();
    assert_eq!(
        (&timed["exit_code"], &timed["signal"]),
        (&Value::Null, &json!(9))
    );
}

fn its_streams_are_the_command_s() {
    let mut guest = one();
    let said =
        guest.shell("echo in | stopwatch run --output /dev/null -- sh -c 'cat; echo err >&2'");
    assert_eq!(said, "in\nerr\n");
    // The result goes to standard error, out of the way of what is piped on.
    assert_eq!(
        guest.shell("stopwatch run -- echo out 2>/dev/null | cat"),
        "out\n"
    );
}
