// SPDX-License-Identifier: MIT OR Apache-2.0

//! The `stopwatch` program, in the guest and on the host.

use serde_json::Value;
use stopwatch_tests::program::{host_json, host_refused, host_text};
use stopwatch_tests::tests;
use stopwatch_uapi::STOPWATCH_VERSION;

use crate::guests::{one, two};

tests![
    commands_print_the_reading,
    refusals_say_why,
    timeouts_in_words,
    the_list,
    information,
    the_host_s_list,
    the_host_s_view_of_a_vm,
    no_such_vm,
    a_short_bench,
];

fn commands_print_the_reading() {
    let mut guest = one();
    let zero = guest.json("stopwatch reset 4 --json");
    assert_eq!(zero["watch"], 4);
    assert_eq!(
        (&zero["state"], &zero["elapsed_ns"]),
        (&"stopped".into(), &0.into())
    );
    assert_eq!(guest.json("stopwatch start 4 --json")["state"], "running");
    let lap = guest.json("stopwatch lap 4 --json");
    assert_eq!(
        (&lap["laps"], &lap["lap_ns"]),
        (&1.into(), &lap["elapsed_ns"])
    );
    let paused = guest.json("stopwatch pause 4 --json");
    assert_eq!(paused["state"], "stopped");
    assert_eq!(
        guest.json("stopwatch show 4 --json")["elapsed_ns"],
        paused["elapsed_ns"]
    );
    let text = guest.shell("stopwatch reset 4");
    assert_eq!(text, "stopwatch 4: stopped, elapsed 0.000 000 000 s\n");
}

fn refusals_say_why() {
    let mut guest = one();
    guest.shell("stopwatch reset 4");
    for (command, status, says) in [
        ("stopwatch pause 4", 1, "is stopped"),
        ("stopwatch lap 4", 1, "is stopped"),
        (
            "stopwatch start 4 && stopwatch start 4",
            1,
            "is running already",
        ),
        ("stopwatch start 64", 1, "stopwatch list --all"),
        ("stopwatch timeout 4 4000000000s", 1, "expected at most"),
        ("stopwatch timeout 4 200000000000s", 2, "too long"),
        ("stopwatch timeout 4 soon", 2, "such as 1s"),
        ("stopwatch frobnicate", 2, "frobnicate"),
        ("stopwatch --device /dev/null show", 3, "/dev/null"),
        ("stopwatch --device /dev/nothing show", 3, "/dev/nothing"),
        ("stopwatch host list", 3, "insmod vhost_stopwatch.ko"),
    ] {
        let said = guest.run(command);
        assert_eq!(said.status, status, "{command}: {}", said.text);
        assert!(said.text.contains(says), "{command}: {}", said.text);
    }
}

fn timeouts_in_words() {
    let mut guest = one();
    guest.shell("stopwatch reset 4");
    let armed = guest.json("stopwatch timeout 4 1h --json");
    let deadline = armed["deadline_ns"].as_u64().unwrap();
    assert_eq!(
        deadline,
        armed["time_ns"].as_u64().unwrap() + 3_600_000_000_000
    );
    assert_eq!(
        guest.json("stopwatch timeout 4 off --json")["deadline_ns"],
        Value::Null
    );
    let expired = guest.json("stopwatch timeout 4 30ms --wait --json");
    assert_eq!(
        (&expired["watch"], &expired["timeouts"]),
        (&4.into(), &1.into())
    );
    assert!(
        expired["late_ns"].as_u64().unwrap() < 1_000_000_000,
        "{expired}"
    );
    assert!(
        expired["delivered_ns"].as_u64().unwrap() < 5_000_000_000,
        "{expired}"
    );
    assert!(guest
        .shell("stopwatch show 4")
        .contains("1 timeout expired"));
}

fn the_list() {
    let mut guest = one();
    guest.shell("for n in $(seq 0 63); do stopwatch reset $n; done >/dev/null");
    assert_eq!(guest.json("stopwatch list --json"), Value::Array(vec![]));
    guest.shell("stopwatch start 2; stopwatch start 63");
    let list = guest.json("stopwatch list --json");
    let numbers: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["watch"])
        .collect();
    assert_eq!(numbers, [2, 63]);
    let all = guest.json("stopwatch list --all --json");
    assert_eq!(all.as_array().map(Vec::len), Some(64));
}

fn information() {
    let info = one().json("stopwatch info --json");
    assert_eq!(info["version"], STOPWATCH_VERSION);
    assert_eq!(info["stopwatches"], 1024);
    let features = info["features"].as_array().unwrap();
    assert!(features.contains(&"timeout".into()), "{info}");
}

fn the_host_s_list() {
    let vms = [one().vm(), two().vm()];
    let list = host_json(&["list"]);
    for vm in vms {
        let entry = list
            .as_array()
            .and_then(|list| list.iter().find(|entry| entry["vm"] == vm.vm))
            .unwrap_or_else(|| panic!("VM {} is not in {list}", vm.vm));
        assert_eq!(entry["name"], vm.name.as_str());
        assert_eq!(
            (&entry["status"], &entry["vmm_status"]),
            (&"started".into(), &"running".into())
        );
        assert_eq!(
            (&entry["rings"], &entry["stopwatches"]),
            (&2.into(), &vm.stopwatches.into())
        );
        assert_eq!(entry["bad_requests"].as_u64(), Some(vm.bad_requests));
    }
    let text = host_text(&["list"]);
    let line = text.lines().find(|line| line.contains(" one "));
    let line = line.unwrap_or_else(|| panic!("guest one is not in\n{text}"));
    // What a kick took, in the mean: VM one has had some.
    assert!(line.contains(" ns "), "{line}");
}

fn the_host_s_view_of_a_vm() {
    let mut guest = one();
    guest.shell("stopwatch reset 33; stopwatch start 33; stopwatch lap 33");
    let shown = host_json(&["show", "one", "--stopwatch", "33"]);
    assert_eq!(shown["name"], "one");
    let watch = &shown["watches"][0];
    assert_eq!(
        (&watch["watch"], &watch["state"]),
        (&33.into(), &"running".into())
    );
    assert_eq!(watch["laps"], 1);
    let elapsed = watch["elapsed_ns"].as_u64().unwrap();
    let later = guest.json("stopwatch show 33 --json")["elapsed_ns"]
        .as_u64()
        .unwrap();
    assert!(elapsed < later, "host and guest read the same stopwatch");
    guest.shell("stopwatch reset 33");
}

fn no_such_vm() {
    assert!(host_refused(&["show", "nobody"], 1).contains("nobody"));
}

/// That it can measure, not what comes out.
fn a_short_bench() {
    let mut guest = one();
    let result = guest.json("stopwatch bench rows --seconds 0 --rounds 2 --json");
    let timings = result["timings"].as_array().expect("there are rows");
    for row in [
        "nothing",
        "system call, getppid",
        "tier 1: exit-free read",
        "tier 2: posted lap",
        "tier 3: call",
        "tier 1: exit-free read, in the kernel",
        "tier 2: posted lap, in the kernel",
        "tier 3: call, in the kernel",
    ] {
        let timing = timings.iter().find(|timing| timing["row"] == row);
        let timing = timing.unwrap_or_else(|| panic!("no row \"{row}\" in {result}"));
        assert_eq!(timing["samples"], 2, "{row}");
        assert!(timing["p50"].as_f64() >= Some(0.0), "{timing}");
    }
    // This guest has not the devices of the bench, which says so.
    let missing = result["missing"].as_array().expect("some rows are missing");
    let edu = missing
        .iter()
        .find(|missing| missing["row"] == "edu register");
    let reason = edu.and_then(|missing| missing["reason"].as_str());
    assert!(
        reason.is_some_and(|reason| reason.contains("no PCI device 1234:11e8")),
        "{result}"
    );
    let text = guest.shell("stopwatch bench rows --seconds 0 --rounds 1");
    assert!(text.contains("tier 3: call, in the kernel "), "{text}");
}
