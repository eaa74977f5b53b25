// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stopwatches as files under debugfs, by a shell and nothing else.

use stopwatch_tests::guest::Guest;
use stopwatch_tests::tests;

use crate::guests::one;

tests![
    a_life,
    laps,
    timeouts,
    the_list,
    names_with_white_space,
    names_that_are_taken_here,
    refusals,
    of_the_program_s_stopwatches,
];

/// A command in the directory.
fn here(guest: &mut Guest, command: &str) -> String {
    guest.shell(&format!("cd /sys/kernel/debug/stopwatch && {command}"))
}

fn elapsed(guest: &mut Guest, of: &str) -> u64 {
    let text = here(guest, &format!("cat {of}/elapsed"));
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("{of}: {text}"))
}

fn a_life() {
    let mut guest = one();
    let guest = &mut *guest;
    here(guest, "echo by-hand >create && test -d by-hand");
    assert_eq!(
        here(guest, "ls by-hand"),
        "control\nelapsed\nlaps\ntimeout\n"
    );
    assert_eq!(elapsed(guest, "by-hand"), 0);
    here(guest, "echo start >by-hand/control && sleep 0.1");
    let running = elapsed(guest, "by-hand");
    assert!(running >= 100_000_000);
    here(guest, "echo pause >by-hand/control");
    let paused = elapsed(guest, "by-hand");
    assert!(paused > running);
    assert_eq!(elapsed(guest, "by-hand"), paused);
    // It is the one that the program has.
    let shown = guest.json("stopwatch show by-hand --json");
    assert_eq!(shown["elapsed_ns"].as_u64(), Some(paused));
    let number = &shown["watch"];
    here(guest, "echo reset >by-hand/control");
    assert_eq!(elapsed(guest, "by-hand"), 0);
    here(guest, "echo by-hand >delete && test ! -e by-hand");
    assert_eq!(guest.run(&format!("stopwatch show {number}")).status, 1);
}

fn laps() {
    let mut guest = one();
    let guest = &mut *guest;
    here(guest, "echo lapped >create");
    assert_eq!(here(guest, "cat lapped/laps"), "");
    here(
        guest,
        "echo start >lapped/control; for n in 1 2 3; do echo lap >lapped/control; done",
    );
    let text = here(guest, "cat lapped/laps");
    let laps = guest.json("stopwatch laps lapped --json");
    let mut expected = String::new();
    for (number, ns) in laps["laps_ns"].as_array().unwrap().iter().enumerate() {
        expected += &format!("{number} {ns}\n");
    }
    assert_eq!(text, expected);
    assert_eq!(text.lines().count(), 3);
    here(guest, "echo lapped >delete");
}

fn timeouts() {
    let mut guest = one();
    let guest = &mut *guest;
    here(guest, "echo timed >create");
    let shows = |guest: &mut Guest, write: &str, expected: &str| {
        here(guest, &format!("echo {write} >timed/timeout"));
        let text = here(guest, "cat timed/timeout");
        assert!(text.starts_with(expected), "{write}: {text}");
        text
    };
    assert_eq!(here(guest, "cat timed/timeout"), "off\nexpired 0\n");
    shows(guest, "3600000000000", "deadline ");
    shows(guest, "'3600000000000 every 1000000000'", "deadline ");
    assert!(here(guest, "cat timed/timeout").contains(" every 1000000000\nexpired 0\n"));
    shows(guest, "'elapsed 90000000000'", "elapsed 90000000000\n");
    shows(
        guest,
        "'elapsed 5 every 7000000'",
        "elapsed 5 every 7000000\n",
    );
    shows(guest, "off", "off\n");
    // One that expires, and what it counted stays.
    here(guest, "echo 10000000 >timed/timeout; sleep 0.3");
    assert_eq!(here(guest, "cat timed/timeout"), "off\nexpired 1\n");
    here(
        guest,
        "echo start >timed/control; echo 'elapsed 20000000' >timed/timeout; sleep 0.3",
    );
    assert_eq!(here(guest, "cat timed/timeout"), "off\nexpired 2\n");
    here(guest, "echo timed >delete");
}

fn the_list() {
    let mut guest = one();
    let guest = &mut *guest;
    here(
        guest,
        "echo listed >create; echo start >listed/control; echo lap >listed/control",
    );
    let list = here(guest, "cat list");
    let mut lines = list.lines();
    let headings = lines.next().unwrap();
    assert_eq!(headings, "number state elapsed_ns laps timeouts uid name");
    let rows: Vec<Vec<_>> = lines.map(|line| line.splitn(7, ' ').collect()).collect();
    assert!(rows.len() >= 65, "{list}");
    assert_eq!((rows[63][0], rows[63].len()), ("63", 6), "it has no name");
    let row = rows
        .iter()
        .find(|row| row.get(6) == Some(&"listed"))
        .expect("it is in the list");
    assert!(row[0].parse::<u32>().unwrap() >= 64);
    assert_eq!((row[1], row[3], row[4], row[5]), ("running", "1", "0", "0"));
    assert!(row[2].parse::<u64>().unwrap() > 0);
    here(guest, "echo listed >delete");
    assert!(!here(guest, "cat list").contains("listed"));
}

/// White space is part of a name, at its ends, too: each is deleted by its own, and what a name
/// has in it moves no column of the list.
fn names_with_white_space() {
    let mut guest = one();
    let guest = &mut *guest;
    let names = [
        "backup",
        "backup ",
        " backup",
        "backup\u{a0}",
        "x running 9 9",
    ];
    for name in names {
        here(guest, &format!("echo '{name}' >create && test -d '{name}'"));
    }
    let list = here(guest, "cat list");
    for name in names {
        let is_it = |line: &&str| line.splitn(7, ' ').nth(6) == Some(name);
        let line = list.lines().find(is_it).expect("it is in the list");
        assert!(line.contains(" stopped 0 0 0 0 "), "{line}");
    }
    here(guest, "echo 'backup ' >delete");
    assert_eq!(
        here(guest, "for it in ?backup backup*; do echo \"$it\"; done"),
        " backup\nbackup\nbackup\u{a0}\n"
    );
    for name in ["backup", " backup", "backup\u{a0}", "x running 9 9"] {
        here(
            guest,
            &format!("echo '{name}' >delete && test ! -e '{name}'"),
        );
    }
}

/// Their directories have their numbers.
fn names_that_are_taken_here() {
    let mut guest = one();
    let guest = &mut *guest;
    for name in ["list", "create", "delete", "bench"] {
        let made = guest.json(&format!("stopwatch create {name} --json"));
        let number = &made["watch"];
        here(
            guest,
            &format!("test -f {name} && echo start >{number}/control"),
        );
        assert!(elapsed(guest, &number.to_string()) > 0);
        here(
            guest,
            &format!("echo {name} >delete && test -f {name} && test ! -e {number}"),
        );
    }
}

fn refusals() {
    let mut guest = one();
    let guest = &mut *guest;
    here(guest, "echo refused >create");
    let long = "n".repeat(32);
    let very_long = "n".repeat(5000);
    for (command, says) in [
        ("echo jump >refused/control", "Invalid argument"),
        (
            "echo pause >refused/control",
            "Operation already in progress",
        ),
        ("echo lap >refused/control", "No data available"),
        ("echo refused >create", "File exists"),
        ("echo nobody >delete", "No such file or directory"),
        ("echo 17 >delete", "Invalid argument"),
        ("echo 17 >create", "Invalid argument"),
        ("echo a/b >create", "Invalid argument"),
        ("echo .. >create", "Invalid argument"),
        ("echo >create", "Invalid argument"),
        ("echo \"$(printf 'bo\\377ot')\" >create", "Invalid argument"),
        (&*format!("echo {long} >create"), "Invalid argument"),
        (
            &*format!("echo {very_long} >create"),
            "Argument list too long",
        ),
        ("echo soon >refused/timeout", "Invalid argument"),
        ("echo 1 every >refused/timeout", "Invalid argument"),
        ("echo 1 2 >refused/timeout", "Invalid argument"),
        ("echo off off >refused/timeout", "Invalid argument"),
        ("echo -5 >refused/timeout", "Invalid argument"),
        (
            "echo 18446744073709551616 >refused/timeout",
            "Invalid argument",
        ),
        (
            "echo 3155760000000000001 >refused/timeout",
            "Invalid argument",
        ),
        ("echo 5 every 7 >refused/timeout", "Operation not permitted"),
        ("cat refused/control", "Invalid argument"),
        ("echo 1 >refused/elapsed", "Invalid argument"),
        ("mkdir mine", "Operation not permitted"),
    ] {
        let said = guest.run(&format!("cd /sys/kernel/debug/stopwatch && {command}"));
        assert_ne!(said.status, 0, "{command}");
        assert!(said.text.contains(says), "{command}: {}", said.text);
    }
    assert_eq!(
        here(guest, "cat refused/timeout"),
        "off\nexpired 0\n",
        "it is as it was"
    );
    assert_eq!(elapsed(guest, "refused"), 0);
    here(guest, "echo refused >delete");
}

/// Their directories come and go with them.
fn of_the_program_s_stopwatches() {
    let mut guest = one();
    let guest = &mut *guest;
    let before = here(guest, "ls");
    guest.shell("stopwatch create elsewhere");
    here(guest, "test -d elsewhere");
    guest.shell("stopwatch delete elsewhere");
    let while_it_ran = guest.shell("stopwatch run -- ls /sys/kernel/debug/stopwatch 2>/dev/null");
    assert_eq!(
        while_it_ran.lines().count(),
        before.lines().count() + 1,
        "one without a name"
    );
    assert_eq!(here(guest, "ls"), before);
}
