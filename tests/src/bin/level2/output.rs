// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program prints: JSON for programs, what doctor finds, the live view,
//! and what the build makes of its command line.

use std::fs;
use std::process::Command;

use serde_json::Value;
use stopwatch_tests::program::stopwatch_program;
use stopwatch_tests::tests;

use crate::guests::one;

tests![
    json_everywhere,
    a_healthy_device,
    a_screen,
    completions,
    man_pages,
];

/// One object or one array a line, whatever the command.
fn json_everywhere() {
    let mut guest = one();
    guest.shell("stopwatch create json && stopwatch reset 4");
    for (command, has) in [
        ("start json", "elapsed_ns"),
        ("lap json", "lap_ns"),
        ("show json", "clock"),
        ("pause json", "state"),
        ("resume json", "state"),
        ("read-reset json", "laps"),
        ("reset json", "time_ns"),
        ("laps json", "laps_ns"),
        ("share json read", "share"),
        ("timeout json 1h --every 1s", "interval_ns"),
        ("timeout json off", "deadline_ns"),
        ("timeout json 1ms --wait", "delivered_ns"),
        ("info", "features"),
        ("bench call 4 --count 10", "p50_ns"),
        ("delete json", "deleted"),
        ("create json2 --clock raw", "skip_paused"),
    ] {
        for command in [
            format!("stopwatch {command} --json"),
            format!("stopwatch --json {command}"),
        ] {
            // The second time it may be refused, as it is done already.
            let said = guest.run(&command);
            if said.status == 0 {
                let value: Value = serde_json::from_str(&said.text)
                    .unwrap_or_else(|error| panic!("{command}: {error}: {}", said.text));
                assert!(value.get(has).is_some(), "{command}: no {has} in {value}");
                assert_eq!(said.text.lines().count(), 1, "{command}");
            } else {
                assert!(
                    command.starts_with("stopwatch --json"),
                    "{command}: {}",
                    said.text
                );
            }
        }
    }
    guest.shell("stopwatch delete json2");
    for command in ["list", "list --all", "doctor"] {
        let value = guest.json(&format!("stopwatch {command} --json"));
        assert!(value.is_array(), "{command}: {value}");
    }
    // Each event has a line.
    guest.shell("stopwatch events 4 --count 3 --json >/tmp/events 2>&1 & sleep 0.3");
    guest.shell("stopwatch timeout 4 20ms --every 20ms; sleep 1; stopwatch reset 4");
    let text = guest.shell("cat /tmp/events");
    assert_eq!(text.lines().count(), 3, "{text}");
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["type"], &event["watch"]),
            (&"timeout".into(), &4.into())
        );
        assert!(
            event["late_ns"].is_u64() && event["deadline_ns"].is_u64(),
            "{line}"
        );
    }
}

fn a_healthy_device() {
    let mut guest = one();
    let report = guest.json("stopwatch doctor --json");
    let report = report.as_array().unwrap();
    for check in [
        "device",
        "version",
        "features",
        "events",
        "call",
        "exit-free",
        "mapping",
        "posting",
        "counter",
        "steal",
        "guest clock",
    ] {
        let finding = report
            .iter()
            .find(|finding| finding["check"] == check)
            .unwrap_or_else(|| panic!("{check} is not in {report:?}"));
        assert_ne!(finding["verdict"], "bad", "{finding}");
        let advice = finding["advice"].is_string();
        assert_eq!(
            advice,
            finding["verdict"] == "note",
            "what to do: {finding}"
        );
    }
    let of = |check: &str| {
        report
            .iter()
            .find(|finding| finding["check"] == check)
            .unwrap()
    };
    for check in ["exit-free", "posting"] {
        assert_eq!(of(check)["verdict"], "good", "{report:?}");
    }
    assert!(of("mapping")["found"]
        .as_str()
        .unwrap()
        .contains("a load takes"));
    let text = guest.shell("stopwatch doctor");
    assert!(text.ends_with("all works\n"), "{text}");
}

fn a_screen() {
    let mut guest = one();
    guest.shell("stopwatch create watched; stopwatch start watched; stopwatch timeout watched 1h");
    let screen = guest.shell("guest-check terminal 1500 stopwatch watch --interval 100ms");
    for part in [
        "stopwatches:",
        "STOPWATCH NAME",
        "watched",
        "running",
        "monotonic",
        "q: quit",
    ] {
        assert!(screen.contains(part), "no \"{part}\" in: {screen}");
    }
    assert!(screen.contains("read without an exit"), "{screen}");
    // It goes on: the seconds are drawn again and again.
    assert!(screen.len() > 1000, "{screen}");
    guest.shell("stopwatch delete watched");
}

/// The commands of the program, and of `stopwatch host`, as its help has them.
fn commands() -> Vec<String> {
    let of = |words: &[&str]| {
        let output = Command::new(stopwatch_program())
            .args(words)
            .arg("--help")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let list = text
            .split_once("Commands:\n")
            .expect("it has commands")
            .1
            .to_owned();
        list.lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .filter(|word| word != "help")
            .collect::<Vec<_>>()
    };
    let mut all = of(&[]);
    all.extend(
        of(&["host"])
            .into_iter()
            .map(|command| format!("host {command}")),
    );
    assert!(all.len() > 30, "{all:?}");
    all
}

fn completions() {
    let commands = commands();
    for shell in ["bash", "zsh", "fish"] {
        let path = format!("build/completions/stopwatch.{shell}");
        let script = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for command in &commands {
            let word = command.rsplit(' ').next().unwrap();
            assert!(script.contains(word), "{path} has no {command}");
        }
        for option in ["at-elapsed", "skip-paused", "json"] {
            assert!(script.contains(option), "{path} has no {option}");
        }
    }
}

fn man_pages() {
    let page = |name: &str| {
        let path = format!("build/man/stopwatch{name}.1");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let main = page("");
    for command in commands() {
        let dashed = command.replace(' ', "-");
        let text = page(&format!("-{dashed}"));
        assert!(
            text.contains(".SH SYNOPSIS") && text.contains(".SH DESCRIPTION"),
            "{command}"
        );
        assert!(
            text.contains(&dashed.replace('-', "\\-")),
            "{command}: {text}"
        );
        if !command.contains(' ') {
            assert!(
                main.contains(&format!("stopwatch\\-{}", dashed.replace('-', "\\-"))),
                "{command}"
            );
        }
    }
}
