// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bad input to the program: its exit status, and a message that says what was
//! wrong, what was expected and what to do.

use stopwatch_tests::tests;

use crate::guests::one;

tests![names, timeouts, which_do_not_exist];

/// Each is refused with the status, and says all of that.
fn refused(cases: &[(&str, i32, &[&str])]) {
    let mut guest = one();
    for &(command, status, says) in cases {
        let said = guest.run(command);
        assert_eq!(said.status, status, "{command}: {}", said.text);
        for part in says {
            assert!(
                said.text.contains(part),
                "{command}: no \"{part}\" in: {}",
                said.text
            );
        }
    }
}

fn names() {
    one().shell("stopwatch create there");
    refused(&[
        (
            "stopwatch create ''",
            2,
            &["must not be empty", "expected 1 to 31 bytes"],
        ),
        (
            "stopwatch create nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
            2,
            &["has 32 bytes", "expected at most 31"],
        ),
        (
            "stopwatch create a/b",
            2,
            &["has '/' in it", "expected no control characters"],
        ),
        (
            "stopwatch create ..",
            2,
            &["means a directory", "choose another name"],
        ),
        (
            "stopwatch create 42",
            2,
            &["is a number, and no name", "add a letter"],
        ),
        (
            "stopwatch create \"$(printf 'bo\\377ot')\"",
            2,
            &["is not UTF-8", "expected"],
        ),
        (
            "stopwatch create \"$(printf 'a\\033b')\"",
            2,
            &["has '\\u{1b}' in it"],
        ),
        (
            "stopwatch create there",
            1,
            &[
                "there is a stopwatch \"there\" already, number ",
                "delete it first",
            ],
        ),
        (
            "stopwatch create x --clock real",
            2,
            &["monotonic", "boottime"],
        ),
        (
            "stopwatch create x --share all",
            2,
            &["none", "read", "control"],
        ),
        (
            "stopwatch delete 3",
            1,
            &["is a numbered one", "only those that were created"],
        ),
        ("stopwatch share 3 read", 1, &["is a numbered one"]),
    ]);
    one().shell("stopwatch delete there");
}

fn timeouts() {
    refused(&[
        (
            "stopwatch timeout 4 4000000000s",
            1,
            &["is too long", "expected at most"],
        ),
        (
            "stopwatch timeout 4 1s --every 4000000000s",
            1,
            &["is too long", "expected at most"],
        ),
        ("stopwatch timeout 4 200000000000s", 2, &["too long"]),
        ("stopwatch timeout 4 -1s", 2, &["-1"]),
        (
            "stopwatch timeout 4 1s --every 10us",
            1,
            &["no periodic timeout that fast", "--min-interval"],
        ),
        (
            "stopwatch timeout 4 1s --every 0s",
            2,
            &["expected a duration above 0"],
        ),
        (
            "stopwatch timeout 4 off --wait",
            2,
            &["nothing to wait for"],
        ),
        ("stopwatch timeout 4", 2, &["DURATION"]),
    ]);
    // In the past is at once.
    let mut guest = one();
    guest.shell("stopwatch reset 4; stopwatch start 4");
    let expired = guest.json("stopwatch timeout 4 1ns --at-elapsed --wait --json");
    assert_eq!(
        (&expired["watch"], &expired["timeouts"]),
        (&4.into(), &1.into())
    );
    guest.shell("stopwatch reset 4");
}

fn which_do_not_exist() {
    refused(&[
        (
            "stopwatch start nobody",
            1,
            &["stopwatch \"nobody\"", "`stopwatch create nobody` makes it"],
        ),
        (
            "stopwatch laps 1000",
            1,
            &["there is no stopwatch 1000", "stopwatch list --all"],
        ),
        ("stopwatch show 99999999999", 2, &["99999999999"]),
        (
            "stopwatch events nobody",
            1,
            &["`stopwatch create nobody` makes it"],
        ),
        (
            "stopwatch --device /dev/nothing doctor",
            3,
            &["there is no /dev/nothing", "insmod"],
        ),
        ("stopwatch watch", 1, &["needs a terminal", "`list --json`"]),
        ("stopwatch", 2, &["Usage"]),
    ]);
}
