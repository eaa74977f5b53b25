// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host` as an operator uses it. A VM here is a shell that inherits
//! the descriptors in place of QEMU.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use serde_json::Value;
use stopwatch_tests::harness::control;
use stopwatch_tests::program::{
    host_json as json, host_refused, host_text, stopwatch_program, Metrics,
};
use stopwatch_tests::suite::eventually;
use stopwatch_tests::tests;

tests![
    a_vm_is_listed,
    operating_a_stopwatch,
    laps_and_numbers,
    creating_and_deleting,
    what_started_by_itself,
    events_are_told,
    so_many_events_are_told,
    metrics_are_openmetrics,
    the_parser_refuses_what_is_no_openmetrics,
    users_do_not_see_each_other,
    refusals_say_what_to_do,
];

/// A VM as `stopwatch host run` makes it.
struct Running(Child);

impl Running {
    fn new(name: &str, options: &[&str]) -> Self {
        let child = Command::new(stopwatch_program())
            .args(["host", "run", "--name", name, "--rings", "1"])
            .args(options)
            .args(["--", "sh", "-c", "exec sleep 3600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let running = Self(child);
        let there = eventually(Duration::from_secs(10), || {
            let vms = control().vms().unwrap();
            // Its name is set before it becomes the other program.
            vms.iter().any(|vm| {
                vm.name == name
                    && fs::read_to_string(format!("/proc/{}/comm", vm.pid))
                        .is_ok_and(|comm| comm.trim() == "sleep")
            })
        });
        assert!(there, "VM {name} is there");
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_vm_is_listed() {
    let vm = Running::new("web1", &["--stopwatches", "128", "--event-slots", "16"]);
    let list = json(&["list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    let it = &list[0];
    assert_eq!(it["name"], "web1");
    assert_eq!((&it["vm"], &it["pid"]), (&1.into(), &vm.0.id().into()));
    assert_eq!(
        (&it["stopwatches"], &it["rings"], &it["event_slots"]),
        (&128.into(), &1.into(), &16.into())
    );
    assert!(host_text(&["list"]).contains("web1"));
    assert_eq!(json(&["show", "1"])["name"], "web1", "by its number");
    drop(vm);
    assert_eq!(
        json(&["list"]),
        Value::Array(vec![]),
        "it went with its process"
    );
}

fn operating_a_stopwatch() {
    let _vm = Running::new("web1", &["--auto-start", "boot"]);
    let state = |verb: &str| json(&[verb, "web1", "boot"])["state"].clone();
    assert_eq!(state("read"), "running");
    let lap = json(&["lap", "web1", "boot"]);
    assert_eq!(
        (&lap["laps"], &lap["lap_ns"]),
        (&1.into(), &lap["elapsed_ns"])
    );
    assert_eq!(state("pause"), "stopped");
    let shown = json(&["read", "web1", "boot"])["elapsed_ns"]
        .as_u64()
        .unwrap();
    assert_eq!(state("resume"), "running");
    let last = json(&["read-reset", "web1", "boot"]);
    assert!(last["elapsed_ns"].as_u64().unwrap() > shown);
    let zero = json(&["read", "web1", "boot"]);
    assert_eq!(
        (&zero["elapsed_ns"], &zero["state"]),
        (&0.into(), &"stopped".into())
    );
    assert_eq!(state("start"), "running");
    assert_eq!(state("reset"), "stopped");
}

fn laps_and_numbers() {
    let _vm = Running::new("web1", &[]);
    json(&["start", "web1", "7"]);
    let laps: Vec<u64> = (0..3)
        .map(|_| json(&["lap", "web1", "7"])["lap_ns"].as_u64().unwrap())
        .collect();
    let said = json(&["laps", "web1", "7"]);
    assert_eq!(said["laps_ns"], serde_json::json!(laps));
    assert_eq!((&said["total"], &said["oldest"]), (&3.into(), &0.into()));
    let said = json(&["laps", "web1", "7", "--from", "2"]);
    assert_eq!(said["laps_ns"], serde_json::json!(laps[2..]));
    let shown = json(&["show", "web1", "--stopwatch", "7"]);
    assert_eq!(shown["watches"][0]["laps"], 3);
}

fn creating_and_deleting() {
    let _vm = Running::new("web1", &["--stopwatches", "65"]);
    let made = json(&[
        "create",
        "web1",
        "größe",
        "--clock",
        "boottime",
        "--skip-paused",
        "--share",
        "read",
    ]);
    assert_eq!(
        (&made["watch"], &made["name"]),
        (&64.into(), &"größe".into())
    );
    let all = json(&["show", "web1", "--all"]);
    let watches = all["watches"].as_array().unwrap();
    assert_eq!(watches.len(), 65);
    let it = &watches[64];
    assert_eq!(
        (&it["clock"], &it["share"]),
        (&"boottime".into(), &"read".into())
    );
    assert_eq!((&it["skip_paused"], &it["uid"]), (&true.into(), &0.into()));
    assert_eq!(json(&["delete", "web1", "größe"])["deleted"], true);
    host_refused(&["read", "web1", "größe"], 1);
}

fn what_started_by_itself() {
    let _vm = Running::new("web1", &["--auto-start", "boot", "--auto-start", "second"]);
    let boot = json(&["read", "web1", "boot"]);
    let second = json(&["read", "web1", "second"]);
    assert_eq!(
        (&boot["state"], &second["state"]),
        (&"running".into(), &"running".into())
    );
    let elapsed = boot["elapsed_ns"].as_u64().unwrap();
    assert!(elapsed > 0 && elapsed <= boot["time_ns"].as_u64().unwrap());
}

fn events_are_told() {
    let _vm = Running::new("web1", &[]);
    let mut program = Command::new(stopwatch_program())
        .args(["host", "events", "web1", "--json", "--interval", "20ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(program.stdout.take().unwrap());
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in output.lines() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let change = event["change"].as_str().unwrap().to_owned();
            if tell.send((event["watch"].as_u64(), change)).is_err() {
                break;
            }
        }
    });
    // It tells of what changes after its first look; when that was only it knows.
    let watching = (0..50).any(|_| {
        json(&["start", "web1", "6"]);
        json(&["pause", "web1", "6"]);
        told.recv_timeout(Duration::from_millis(200)).is_ok()
    });
    let changes: Vec<_> = ["start", "lap", "pause"]
        .into_iter()
        .map(|command| {
            json(&[command, "web1", "5"]);
            loop {
                match told.recv_timeout(Duration::from_secs(10)) {
                    Ok((Some(5), change)) => break change,
                    Ok(_) => {}
                    Err(error) => break format!("{command}: {error}"),
                }
            }
        })
        .collect();
    program.kill().unwrap();
    program.wait().unwrap();
    reader.join().unwrap();
    assert!(watching, "nothing was told of stopwatch 6");
    assert_eq!(changes, ["watch-started", "watch-laps", "watch-stopped"]);
}

fn so_many_events_are_told() {
    let _vm = Running::new("web1", &[]);
    let watches = ["1", "2", "3", "4"];
    for watch in watches {
        json(&["start", "web1", watch]);
    }
    let mut program = Command::new(stopwatch_program())
        .args(["host", "events", "--count", "3", "--interval", "1s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // More in one look than there is to tell of in all.
    let ended = eventually(Duration::from_secs(30), || {
        for watch in watches {
            json(&["lap", "web1", watch]);
        }
        program.try_wait().unwrap().is_some()
    });
    program.kill().unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(ended, "it goes on after three events");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().all(|line| line.contains("lap")), "{text}");
}

fn metrics_are_openmetrics() {
    let name = "a \"quoted\" \\ name";
    let _vm = Running::new(name, &["--auto-start", "boot"]);
    json(&["start", "1", "3"]);
    json(&["lap", "1", "3"]);
    let file = "/tmp/stopwatch-test.prom";
    host_text(&["metrics", "--output", file]);
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(
        text.lines().count(),
        host_text(&["metrics"]).lines().count()
    );
    let metrics = Metrics::parse(&text).unwrap();
    let (info, _) = metrics.sample("stopwatch_vm_info", &[]);
    assert_eq!(info["name"], name, "escaped and back");
    assert_eq!(metrics.value("stopwatch_vm_stopwatches", &[]), 1024.0);
    assert_eq!(metrics.value("stopwatch_vm_lost_events_total", &[]), 0.0);
    assert_eq!(
        metrics.value("stopwatch_running", &[("stopwatch", "3")]),
        1.0
    );
    assert_eq!(metrics.value("stopwatch_laps", &[("stopwatch", "3")]), 1.0);
    let boot = metrics.value("stopwatch_elapsed_seconds", &[("name", "boot")]);
    assert!(boot > 0.0);
}

/// Or else the test above proves little.
fn the_parser_refuses_what_is_no_openmetrics() {
    let _vm = Running::new("web1", &["--auto-start", "boot"]);
    let text = host_text(&["metrics"]);
    Metrics::parse(&text).unwrap();
    for (wrong, what) in [
        (text.replace("# EOF\n", ""), "the end is not said"),
        (text.replace("_total{", "{"), "a counter without its suffix"),
        (text.replace("web1\"", "web1"), "a label that does not end"),
        (
            text.replace(
                "# UNIT stopwatch_vm_age_seconds seconds",
                "# UNIT stopwatch_vm_age_seconds s",
            ),
            "another unit than in the name",
        ),
        (text.replace("# EOF", "\n# EOF"), "an empty line"),
    ] {
        assert_ne!(wrong, text, "{what}");
        assert!(Metrics::parse(&wrong).is_err(), "{what}:\n{wrong}");
    }
}

fn users_do_not_see_each_other() {
    use std::os::unix::fs::PermissionsExt;
    let _vm = Running::new("root-s", &["--auto-start", "boot"]);
    fs::set_permissions("/dev/vhost-stopwatch", fs::Permissions::from_mode(0o666)).unwrap();
    let as_user = |arguments: &[&str]| {
        Command::new(stopwatch_program())
            .arg("host")
            .args(arguments)
            .uid(1000)
            .gid(1000)
            .output()
            .unwrap()
    };
    let list = as_user(&["list", "--json"]);
    assert_eq!(String::from_utf8_lossy(&list.stdout).trim(), "[]");
    for arguments in [
        &["show", "root-s"][..],
        &["show", "1"],
        &["pause", "1", "boot"],
        &["laps", "1", "boot"],
        &["delete", "1", "boot"],
        &["create", "1", "mine"],
    ] {
        let output = as_user(arguments);
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {says}");
        assert!(says.contains("host list"), "{arguments:?}: {says}");
    }
    let metrics = as_user(&["metrics"]).stdout;
    assert!(!String::from_utf8_lossy(&metrics).contains("root-s"));
    assert_eq!(
        json(&["read", "1", "boot"])["state"],
        "running",
        "untouched"
    );
}

fn refusals_say_what_to_do() {
    let _vm = Running::new("web1", &["--stopwatches", "65", "--auto-start", "boot"]);
    let long = "x".repeat(32);
    for (arguments, status, says) in [
        (&["read", "web1", "nobody"][..], 1, "--all"),
        (&["read", "web1", "64x"], 1, "--all"),
        (&["read", "nobody", "0"], 1, "host list"),
        (&["start", "web1", "boot"], 1, "running"),
        (&["pause", "web1", "0"], 1, "stopped"),
        (&["lap", "web1", "0"], 1, "stopped"),
        (&["create", "web1", "boot"], 1, "64"),
        (&["create", "web1", "other"], 1, "--stopwatches"),
        (&["create", "web1", ""], 2, "empty"),
        (&["create", "web1", &long], 2, "at most 31"),
        (&["create", "web1", "12"], 2, "number"),
        (&["create", "web1", "a/b"], 2, "\"/\""),
        (&["create", "web1", "a\nb"], 2, "control"),
        (&["create", "web1", "x", "--clock", "real"], 2, "monotonic"),
        (&["delete", "web1", "3"], 1, "numbered"),
        (&["laps", "web1", "9999"], 1, "--all"),
        (&["run", "--min-interval", "1us", "--", "true"], 1, "100"),
        (&["run", "--stopwatches", "0", "--", "true"], 2, "1"),
        (&["run", "--", "/no/such/qemu"], 1, "/no/such/qemu"),
        (&["run"], 2, "QEMU"),
        (
            &["attach", "--qmp", "/no/such/socket"],
            1,
            "/no/such/socket",
        ),
    ] {
        let text = host_refused(arguments, status);
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
    let bad: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"b\xff");
    let output = Command::new(stopwatch_program())
        .args(["host", "create", "web1"])
        .arg(bad)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("UTF-8"), "{text}");
}
