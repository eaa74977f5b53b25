// SPDX-License-Identifier: MIT OR Apache-2.0

//! The samples, each as a reader would copy it. Those in C and Rust are built by
//! `lab/lab tools`; the script is sent to the guest.

use std::process::Command;

use stopwatch::Nanoseconds;
use stopwatch_tests::guest::Guest;
use stopwatch_tests::tests;

use crate::guests::{one, two};

tests![in_c, in_c_of_32_bits, in_rust, in_shell];

/// `WORD [NUMBER] TIME...` as the samples print it, by the word: the times.
fn times(text: &str, word: &str) -> Vec<u64> {
    text.lines()
        .filter(|line| line.split_whitespace().next() == Some(word))
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let time = if word == "lap" {
                &words[2..]
            } else {
                &words[1..]
            };
            let Ok(Nanoseconds(ns)) = time.concat().parse() else {
                panic!("`{line}` shows no time:\n{text}");
            };
            ns
        })
        .collect()
}

/// Runs a sample, which takes three laps 10 ms apart, waits for a timeout of
/// 50 ms, reads, pauses, and deletes the stopwatch that it made.
fn check(guest: &mut Guest, command: &str, name: &str) -> String {
    const MS: u64 = 1_000_000;
    let text = guest.shell(command);
    let laps = times(&text, "lap");
    assert_eq!(laps.len(), 3, "{text}");
    // Of the guest's clock, which does not go as the host's does to the last digit.
    let mut before = 0;
    for lap in laps {
        assert!(lap >= before + 9 * MS, "10 ms after the last:\n{text}");
        before = lap;
    }
    assert!(text.contains("\ntimeout "), "{text}");
    let paused = times(&text, "paused");
    assert!(paused.len() == 1 && paused[0] >= before + 50 * MS, "{text}");
    let said = guest.run(&format!("stopwatch show {name}"));
    assert_eq!(said.status, 1, "it deletes its stopwatch: {}", said.text);
    text
}

fn in_c() {
    let text = check(&mut one(), "stopwatch-sample-c", "sample-c");
    assert!(
        text.contains("\nexit-free "),
        "as root it maps the device:\n{text}"
    );
}

fn in_c_of_32_bits() {
    let mut guest = two();
    // The fifth byte of an ELF file is its class, and 1 is 32 bits.
    let class = "dd if=/bin/stopwatch-sample-c32 bs=1 skip=4 count=1 2>/dev/null | od -An -tu1";
    assert_eq!(guest.shell(class).trim(), "1");
    check(&mut guest, "stopwatch-sample-c32", "sample-c");
}

fn in_rust() {
    let text = check(&mut one(), "stopwatch-sample", "sample-rust");
    assert!(
        text.contains("\nexit-free "),
        "as root it maps the device:\n{text}"
    );
}

fn in_shell() {
    let script = Command::new("base64")
        .args(["--wrap=0", "samples/shell/stopwatch.sh"])
        .output()
        .expect("base64 can be run");
    let script = String::from_utf8(script.stdout).expect("letters");
    let mut guest = two();
    guest.shell(&format!("echo {script} | base64 -d >/tmp/sample.sh"));
    check(&mut guest, "sh /tmp/sample.sh", "sample-shell");
}
