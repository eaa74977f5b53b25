// SPDX-License-Identifier: MIT OR Apache-2.0

//! The operator of the host: what `stopwatch host` does to the stopwatches of a
//! guest that runs, what it shows of them, and what the guest sees of that.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;
use stopwatch_tests::program::{host_json, host_refused, host_text, stopwatch_program, Metrics};
use stopwatch_tests::suite::{eventually, figure};
use stopwatch_tests::tests;

use crate::guests::{elapsed_ns, launch, one, two};

tests![
    from_launch_to_ready,
    the_host_starts_and_the_guest_stops,
    the_guest_starts_and_the_host_stops,
    each_command_by_names,
    four_thousand_stopwatches,
    events_are_told,
    metrics_of_two_guests,
    a_live_view,
];

fn from_launch_to_ready() {
    let launch = launch();
    let nanoseconds = u128::from(launch.read);
    assert_eq!(
        launch.elapsed.as_nanos(),
        nanoseconds,
        "the host reads the same"
    );
    assert!(
        launch.least <= launch.elapsed && launch.elapsed <= launch.most,
        "by the stopwatch {:?}, by the host's clock {:?} to {:?}",
        launch.elapsed,
        launch.least,
        launch.most
    );
    figure(format_args!(
        "from launch to ready {:.3} s by the stopwatch, {:.3} s to {:.3} s by the host's clock",
        launch.elapsed.as_secs_f64(),
        launch.least.as_secs_f64(),
        launch.most.as_secs_f64()
    ));
}

/// What a stopwatch counted, which `start` and `stop` start and stop, 100 ms
/// apart.
fn between(start: impl FnOnce(), stop: impl FnOnce() -> Value) {
    let before = Instant::now();
    start();
    let started = Instant::now();
    sleep(Duration::from_millis(100));
    let stopping = Instant::now();
    let stopped = stop();
    let after = Instant::now();
    assert_eq!(stopped["state"], "stopped");
    let elapsed = Duration::from_nanos(elapsed_ns(&stopped));
    let (least, most) = (stopping - started, after - before);
    assert!(
        least <= elapsed && elapsed <= most,
        "it counted {elapsed:?}, by the host's clock {least:?} to {most:?}"
    );
}

fn the_host_starts_and_the_guest_stops() {
    let mut guest = one();
    host_json(&["create", "one", "job"]);
    let start = || assert_eq!(host_json(&["start", "one", "job"])["state"], "running");
    between(start, || guest.json("stopwatch pause job --json"));
    host_json(&["delete", "one", "job"]);
    assert_eq!(guest.run("stopwatch show job").status, 1, "it is gone");
}

fn the_guest_starts_and_the_host_stops() {
    let mut guest = one();
    guest.shell("stopwatch create job");
    let start = || drop(guest.shell("stopwatch start job"));
    between(start, || host_json(&["pause", "one", "job"]));
    guest.shell("stopwatch delete job");
    host_refused(&["read", "one", "job"], 1);
}

fn each_command_by_names() {
    let mut guest = one();
    guest.shell("stopwatch create 'zwei Wörter' --share read");
    let mut step = |command: &str| {
        let host = host_json(&[command, "one", "zwei Wörter"]);
        let guest = guest.json("stopwatch show 'zwei Wörter' --json");
        for same in ["watch", "name", "state", "laps", "lap_ns", "uid", "share"] {
            // What a reading from before it was reset showed is gone.
            if command != "read-reset" {
                assert_eq!(host[same], guest[same], "{same} after {command}");
            }
        }
        (host, guest)
    };
    assert_eq!(step("start").1["state"], "running");
    assert_eq!(step("lap").1["laps"], 1);
    let (paused, seen) = step("pause");
    assert_eq!(paused["elapsed_ns"], seen["elapsed_ns"]);
    let (resumed, seen) = step("resume");
    assert!(elapsed_ns(&resumed) >= elapsed_ns(&paused));
    assert!(elapsed_ns(&seen) > elapsed_ns(&resumed));
    assert!(elapsed_ns(&step("read").0) > elapsed_ns(&seen));
    let (last, seen) = step("read-reset");
    assert_eq!((&last["laps"], &seen["laps"]), (&1.into(), &0.into()));
    assert_eq!(seen["elapsed_ns"], 0);
    step("start");
    assert_eq!(step("reset").1["elapsed_ns"], 0);

    guest.shell("stopwatch start 'zwei Wörter'; stopwatch lap 'zwei Wörter'");
    let laps = host_json(&["laps", "one", "zwei Wörter"]);
    let seen = guest.json("stopwatch laps 'zwei Wörter' --json");
    assert_eq!(laps["laps_ns"], seen["laps_ns"]);
    host_json(&["delete", "one", "zwei Wörter"]);
}

fn four_thousand_stopwatches() {
    let mut guest = two();
    assert_eq!(host_json(&["show", "two"])["stopwatches"], 4096);
    guest.shell("stopwatch start 4095 && exit 1; stopwatch create last && stopwatch start last");
    let made = host_json(&["read", "two", "last"]);
    assert_eq!(
        (&made["watch"], &made["state"]),
        (&64.into(), &"running".into())
    );
    guest.shell("stopwatch delete last");
}

fn events_are_told() {
    let mut guest = one();
    guest.shell("stopwatch reset 20 && stopwatch reset 21");
    let mut program = Command::new(stopwatch_program())
        .args(["host", "events", "one", "--json", "--interval", "20ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(program.stdout.take().unwrap());
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in output.lines() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if tell.send(event).is_err() {
                break;
            }
        }
    });
    // It tells of what changes after its first look; when that was only it knows.
    let watching = (0..50).any(|_| {
        guest.shell("stopwatch start 21; stopwatch lap 21");
        told.recv_timeout(Duration::from_millis(200)).is_ok()
    });
    let mut changes = Vec::new();
    for command in [
        "stopwatch create told",
        "stopwatch start told",
        "stopwatch lap told",
        "stopwatch timeout told 10ms --wait",
        "stopwatch pause told",
        "stopwatch delete told",
    ] {
        guest.shell(command);
        // The next that is about that one, and not only that a timeout was armed.
        let change = loop {
            match told.recv_timeout(Duration::from_secs(10)) {
                Ok(event) if event["name"] != "told" || event["change"] == "watch-armed" => {}
                Ok(event) => break event["change"].as_str().unwrap().to_owned(),
                Err(error) => break format!("{command}: {error}"),
            }
        };
        changes.push(change);
    }
    program.kill().unwrap();
    program.wait().unwrap();
    reader.join().unwrap();
    assert!(watching, "nothing was told of stopwatch 21");
    assert_eq!(
        changes,
        [
            "watch-created",
            "watch-started",
            "watch-laps",
            "watch-timeouts",
            "watch-stopped",
            "watch-deleted"
        ]
    );
    guest.shell("stopwatch reset 21");
}

fn metrics_of_two_guests() {
    let (mut one, mut two) = (one(), two());
    one.shell("stopwatch reset 22 && stopwatch start 22 && stopwatch lap 22");
    two.shell("stopwatch reset 22 && stopwatch start 22 && stopwatch pause 22");
    let before = (one.vm(), two.vm());
    let metrics = Metrics::parse(&host_text(&["metrics"])).unwrap();
    for (vm, running, laps) in [(&before.0, 1.0, 1.0), (&before.1, 0.0, 0.0)] {
        let number = vm.vm.to_string();
        let of_vm = [("vm", &*number)];
        let (info, _) = metrics.sample("stopwatch_vm_info", &of_vm);
        assert_eq!(info["name"], vm.name.as_str());
        assert_eq!(info["pid"], vm.pid.to_string());
        let value = |name| metrics.value(name, &of_vm);
        assert_eq!(value("stopwatch_vm_running"), 1.0);
        assert_eq!(value("stopwatch_vm_stopwatches"), f64::from(vm.stopwatches));
        assert!(value("stopwatch_vm_kicks_total") >= vm.kicks as f64);
        assert!(value("stopwatch_vm_requests_total") >= vm.requests as f64);
        assert!(value("stopwatch_vm_service_seconds_total") > 0.0);
        let of_watch = [("vm", &*number), ("stopwatch", "22")];
        assert_eq!(metrics.value("stopwatch_running", &of_watch), running);
        assert_eq!(metrics.value("stopwatch_laps", &of_watch), laps);
        assert!(metrics.value("stopwatch_elapsed_seconds", &of_watch) > 0.0);
    }
    one.shell("stopwatch reset 22");
    two.shell("stopwatch reset 22");
}

/// On a terminal: script(1) makes one, and writes down what is drawn.
fn a_live_view() {
    let mut guest = one();
    guest.shell("stopwatch create live && stopwatch start live");
    let watch = "stty rows 40 cols 150 && exec stopwatch host watch --interval 200ms";
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", watch, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script can be run");
    let mut output = script.stdout.take().unwrap();
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut drawn = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = std::io::Read::read(&mut output, &mut bytes) {
            drawn.extend_from_slice(&bytes[..count]);
            // It is one of the stopwatches of guest one.
            if drawn.windows(4).any(|four| four == b"live") {
                let _ = tell.send(());
            }
        }
        String::from_utf8_lossy(&drawn).into_owned()
    });
    // The first VM is selected at first: down it goes to that one, a look each.
    let mut keys = script.stdin.take().unwrap();
    let seen = (0..30).any(|_| {
        let seen = told.recv_timeout(Duration::from_secs(1)).is_ok();
        let _ = keys.write_all(if seen { b"q" } else { b"j" });
        seen
    });
    let mut status = None;
    let ended = eventually(Duration::from_secs(10), || {
        status = script.try_wait().unwrap();
        status.is_some()
    });
    let _ = script.kill();
    let _ = script.wait();
    let drawn = reader.join().unwrap();
    let start: String = drawn.chars().take(2000).collect();
    assert!(
        seen,
        "stopwatch \"live\" is not in what begins with {start:?}"
    );
    assert!(
        ended && status.unwrap().success(),
        "`q` ends it: {status:?}"
    );
    for part in ["KICKS/S", "SERVICE", "one", "two", "stopwatches"] {
        assert!(
            drawn.contains(part),
            "{part} is not in what begins with {start:?}"
        );
    }
    guest.shell("stopwatch delete live");
}
