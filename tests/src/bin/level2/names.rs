// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stopwatches with names, by the program in a guest: a life, many at once, and
//! what happens to them when the device is reset.

use serde_json::{json, Value};
use stopwatch_tests::suite::figures_of;
use stopwatch_tests::tests;

use crate::guests::{one, two};

tests![
    a_life,
    a_thousand,
    laps_that_are_kept_no_longer,
    what_a_reset_of_the_device_leaves,
];

fn a_life() {
    let mut guest = one();
    let made = guest
        .json("stopwatch create 'first lap' --clock boottime --skip-paused --share read --json");
    for (field, expected) in [
        ("name", json!("first lap")),
        ("state", json!("stopped")),
        ("elapsed_ns", json!(0)),
        ("clock", json!("boottime")),
        ("skip_paused", json!(true)),
        ("share", json!("read")),
        ("uid", json!(0)),
    ] {
        assert_eq!(made[field], expected, "{field} of {made}");
    }
    let number = &made["watch"];
    assert!(number.as_u64().unwrap() >= 64);
    // Start, and what people call the second start.
    guest.shell("stopwatch start 'first lap' && stopwatch pause 'first lap'");
    let resumed = guest.json("stopwatch resume 'first lap' --json");
    assert_eq!(resumed["state"], "running");
    assert_eq!(guest.json("stopwatch lap 'first lap' --json")["laps"], 1);
    // By its number it is the same one.
    assert_eq!(
        guest.json(&format!("stopwatch show {number} --json"))["name"],
        "first lap"
    );
    let list = guest.json("stopwatch list --json");
    let listed = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| &it["watch"] == number);
    assert_eq!(listed.count(), 1);
    assert!(guest.shell("stopwatch list").contains("first lap"));
    let shared = guest.json("stopwatch share 'first lap' control --json");
    assert_eq!(shared["share"], "control");
    let before = guest.json("stopwatch read-reset 'first lap' --json");
    assert_eq!(
        (&before["state"], &before["laps"]),
        (&"running".into(), &1.into())
    );
    assert_eq!(
        guest.json("stopwatch show 'first lap' --json")["elapsed_ns"],
        0
    );
    let deleted = guest.json("stopwatch delete 'first lap' --json");
    assert_eq!(deleted, json!({ "watch": number, "deleted": true }));
    assert_eq!(guest.run("stopwatch show 'first lap'").status, 1);
}

fn a_thousand() {
    let mut guest = two();
    // As many as there is room for beside the numbered ones, and some others.
    let stopwatches = guest.vm().stopwatches as usize;
    let count = (stopwatches - 64 - 32).min(1024);
    assert!(64 + count >= 992, "this VM was given {stopwatches}");
    figures_of(&guest.shell(&format!("guest-check fill {count}")));
    let list = guest.json("stopwatch list --json");
    let named = |list: &Value| {
        let names = list.as_array().unwrap().iter().map(|it| &it["name"]);
        names
            .filter(|name| name.as_str().is_some_and(|name| name.starts_with("many-")))
            .count()
    };
    assert_eq!(named(&list), count);
    // By files, too.
    let top = "/sys/kernel/debug/stopwatch";
    let lines = guest.shell(&format!(
        "grep -c many- {top}/list; ls -d {top}/many-* | wc -l"
    ));
    assert_eq!(lines, format!("{count}\n{count}\n"));
    // Each is a stopwatch of its own.
    guest.shell("stopwatch start many-0777 && stopwatch lap many-0777");
    assert_eq!(
        guest.json("stopwatch show many-0776 --json")["state"],
        "stopped"
    );
    assert_eq!(guest.json("stopwatch show many-0777 --json")["laps"], 1);
    figures_of(&guest.shell("guest-check empty"));
    assert_eq!(named(&guest.json("stopwatch list --json")), 0);
    assert_eq!(guest.run(&format!("ls {top} | grep many-")).text, "");
}

fn laps_that_are_kept_no_longer() {
    let mut guest = one();
    guest.shell("stopwatch create laps && stopwatch start laps");
    guest.shell(
        "d=/sys/kernel/debug/stopwatch/laps; for n in $(seq 258); do echo lap >$d/control; done",
    );
    let kept = guest.json("stopwatch laps laps --json");
    assert_eq!(
        (&kept["total"], &kept["oldest"], &kept["first"]),
        (&258.into(), &2.into(), &2.into())
    );
    let laps: Vec<u64> = serde_json::from_value(kept["laps_ns"].clone()).unwrap();
    assert!(laps.len() == 256 && laps.is_sorted(), "{laps:?}");
    let text = guest.shell("stopwatch laps laps");
    assert!(
        text.contains("258 laps in all; the oldest that is kept is 2"),
        "{text}"
    );
    let last = guest.json("stopwatch laps laps --from 257 --json");
    assert_eq!(last["laps_ns"], json!([laps[255]]));
    let said = guest.run("stopwatch laps laps --from 1");
    assert_eq!(said.status, 1);
    assert!(
        said.text.contains("lap 1") && said.text.contains("the oldest is 2; ask from there on"),
        "{}",
        said.text
    );
    guest.shell("stopwatch delete laps");
}

/// By its driver, which is unbound and bound again under a program that has the
/// device open.
fn what_a_reset_of_the_device_leaves() {
    let mut guest = one();
    guest.shell(
        "stopwatch create stays --clock raw --share read && stopwatch start stays && \
         stopwatch lap stays && stopwatch timeout stays 1h && stopwatch start 9",
    );
    // It has one without a name.
    guest.shell(
        "rm -f /tmp/child; \
         stopwatch run -- sh -c 'echo $$ >/tmp/child; exec sleep 1000' >/tmp/run 2>&1 & \
         echo $! >/tmp/pid; n=0; until [ -s /tmp/child ]; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 100 ] || exit 1; done",
    );
    let before = guest.json("stopwatch list --json");
    let nameless = |list: &Value| {
        let created = |it: &&Value| it["name"].is_null() && it["watch"].as_u64() >= Some(64);
        list.as_array().unwrap().iter().filter(created).count()
    };
    assert_eq!(nameless(&before), 1, "{before}");
    let resets = guest.vm().resets;
    guest.shell(
        "d=/sys/bus/pci/drivers/stopwatch; it=$(basename $(ls -d $d/0*)); \
         echo $it >$d/unbind; sleep 0.2; echo $it >$d/bind",
    );
    assert!(guest.vm().resets > resets);
    let after = guest.json("stopwatch list --json");
    assert_eq!(nameless(&after), 0, "{after}");
    let stays = guest.json("stopwatch show stays --json");
    for (field, expected) in [
        ("state", json!("running")),
        ("laps", json!(1)),
        ("clock", json!("raw")),
        ("share", json!("read")),
        ("deadline_ns", Value::Null),
    ] {
        assert_eq!(stays[field], expected, "{field} of {stays}");
    }
    assert!(
        stays["elapsed_ns"].as_u64() > Some(200_000_000),
        "it went on: {stays}"
    );
    assert_eq!(guest.json("stopwatch show 9 --json")["state"], "running");
    // The program that had the device is told so.
    let said = guest.run(
        "kill $(cat /tmp/child); n=0; while kill -0 $(cat /tmp/pid) 2>/dev/null && [ $n -lt 100 ]; do \
         sleep 0.1; n=$((n + 1)); done; cat /tmp/run",
    );
    assert!(said.text.contains("is gone"), "{}", said.text);
    guest.shell("stopwatch delete stays; stopwatch reset 9");
}
