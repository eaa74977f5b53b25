// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stopwatches that are created: their names, and how long they last.

use std::time::Instant;

use rustix::io::Errno;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::users::{by, ANNA, BERT};
use crate::*;

tests![
    a_life,
    a_name_outlives_its_file,
    one_without_a_name_goes_with_its_file,
    the_longest_name,
    what_is_no_name,
    a_name_that_is_taken,
    what_there_is_none_of,
    numbered_ones_stay,
    every_number_in_use,
    a_quarter_for_a_user,
];

fn a_life() {
    let named = Named::of(stopwatch_creation {
        name: field("Läufer 7"),
        clock: STOPWATCH_CLOCK_MONOTONIC_RAW,
        mode: STOPWATCH_MODE_READ,
        flags: STOPWATCH_CREATE_SKIP_PAUSED,
        ..Default::default()
    });
    let (file, watch) = (&named.file, named.watch);
    assert!(watch >= STOPWATCH_NUMBERED);
    let expected = stopwatch_description {
        size: size_of::<stopwatch_description>() as u32,
        watch,
        name: field("Läufer 7"),
        clock: STOPWATCH_CLOCK_MONOTONIC_RAW,
        mode: STOPWATCH_MODE_READ,
        record_flags: STOPWATCH_RECORD_EXISTS
            | STOPWATCH_RECORD_SKIP_PAUSED
            | (STOPWATCH_CLOCK_MONOTONIC_RAW << STOPWATCH_RECORD_CLOCK_SHIFT),
        ..Default::default()
    };
    assert_eq!(describe(file, watch, 0), Ok(expected));
    assert_eq!(find(file, "Läufer 7"), Ok(watch));
    // It is in the list, once.
    let mut from = 0;
    let mut numbers = Vec::new();
    while let Ok(next) = describe(file, from, STOPWATCH_DESCRIBE_NEXT) {
        numbers.push(next.watch);
        from = next.watch + 1;
    }
    assert!(numbers.starts_with(&(0..STOPWATCH_NUMBERED).collect::<Vec<_>>()));
    assert_eq!(numbers.iter().filter(|it| **it == watch).count(), 1);

    ok(file, START, watch, 0);
    let running = describe(file, watch, 0).unwrap();
    assert_eq!(running.state, STOPWATCH_RUNNING);
    ok(file, DELETE, watch, 0);
    assert_eq!(find(file, "Läufer 7"), Err(Errno::NOENT));
    assert_eq!(describe(file, watch, 0), Err(Errno::NOENT));
    for op in [START, PAUSE, LAP, RESET, READ, READ_RESET, TIMEOUT, DELETE] {
        refused(file, op, watch, 0, Errno::NOENT);
    }
    // Whoever comes next under that number begins anew.
    let next = Named::new("Läufer 7");
    assert_eq!(ok(&next.file, READ, next.watch, 0).elapsed_ns, 0);
}

fn a_name_outlives_its_file() {
    assert_eq!(children::spawn(&["create", "outlives"]), "created\n");
    let file = open();
    let watch = find(&file, "outlives").expect("its process has ended");
    let named = Named { file, watch };
    assert_eq!(ok(&named.file, READ, watch, 0).state, STOPWATCH_RUNNING);
}

fn one_without_a_name_goes_with_its_file() {
    let other = open();
    let file = open();
    let watch = anonymous(&file);
    ok(&other, START, watch, 0);
    assert_eq!(describe(&other, watch, 0).unwrap().name, field(""));
    // A copy is the same open file.
    let copy = file.try_clone().unwrap();
    drop(file);
    ok(&other, READ, watch, 0);
    drop(copy);
    refused(&other, READ, watch, 0, Errno::NOENT);
    assert_eq!(describe(&other, watch, 0), Err(Errno::NOENT));
}

fn the_longest_name() {
    let name = "n".repeat(STOPWATCH_NAME_SIZE as usize - 1);
    let named = Named::new(&name);
    assert_eq!(find(&named.file, &name), Ok(named.watch));
    assert_eq!(
        describe(&named.file, named.watch, 0).unwrap().name,
        field(&name)
    );
}

fn what_is_no_name() {
    let file = open();
    let full = [b'n'; STOPWATCH_NAME_SIZE as usize];
    let names: [&[u8]; 14] = [
        &full,
        b".",
        b"..",
        b"7",
        b"0123456789",
        b"a/b",
        b"/",
        b"a\nb",
        b"\x1b[31mred",
        b"\x7f",
        "\u{85}".as_bytes(),
        b"bo\xffot",
        b"cut \xc3",
        b"after\0the end",
    ];
    for name in names {
        let creation = stopwatch_creation {
            name: field(name),
            ..Default::default()
        };
        let (result, _) = create(&file, creation);
        assert_eq!(result, Err(Errno::INVAL), "{:?}", name.escape_ascii());
        assert_eq!(find(&file, name), Err(Errno::NOENT));
    }
    assert_eq!(
        find(&file, ""),
        Err(Errno::NOENT),
        "one without a name has none"
    );
    let unknown = [
        stopwatch_creation {
            clock: STOPWATCH_CLOCKS,
            ..Default::default()
        },
        stopwatch_creation {
            clock: u32::MAX,
            ..Default::default()
        },
        stopwatch_creation {
            mode: 4,
            ..Default::default()
        },
        stopwatch_creation {
            mode: u32::MAX,
            ..Default::default()
        },
    ];
    for creation in unknown {
        let (result, _) = create(&file, creation);
        assert_eq!(result, Err(Errno::INVAL), "{creation:?}");
    }
}

fn a_name_that_is_taken() {
    let named = Named::new("taken");
    ok(&named.file, START, named.watch, 0);
    let again = stopwatch_creation {
        name: field("taken"),
        clock: STOPWATCH_CLOCK_BOOTTIME,
        ..Default::default()
    };
    assert_eq!(create(&open(), again), (Err(Errno::EXIST), named.watch));
    let description = describe(&named.file, named.watch, 0).unwrap();
    assert_eq!(
        (description.clock, description.state),
        (STOPWATCH_CLOCK_MONOTONIC, STOPWATCH_RUNNING),
        "it is as it was"
    );
}

fn what_there_is_none_of() {
    let file = open();
    assert_eq!(find(&file, "nobody"), Err(Errno::NOENT));
    let stopwatches = device_info(&file).stopwatches;
    for watch in [stopwatches, u32::MAX] {
        assert_eq!(describe(&file, watch, 0), Err(Errno::NOENT));
        assert_eq!(
            describe(&file, watch, STOPWATCH_DESCRIBE_NEXT),
            Err(Errno::NOENT)
        );
    }
}

fn numbered_ones_stay() {
    let file = open();
    for watch in [0, 40, STOPWATCH_NUMBERED - 1] {
        refused(&file, DELETE, watch, 0, Errno::INVAL);
        refused(&file, SET_MODE, watch, 3 << 32, Errno::INVAL);
        ok(&file, READ, watch, 0);
    }
}

/// All that the device has, each with a timeout of its own.
fn every_number_in_use() {
    let file = open();
    let stopwatches = device_info(&file).stopwatches;
    assert!(stopwatches >= 1024);
    let begin = Instant::now();
    let mut watches = Vec::new();
    let result = loop {
        match create(&file, stopwatch_creation::default()) {
            (Ok(()), watch) => watches.push(watch),
            (result, _) => break result,
        }
    };
    let took = begin.elapsed();
    assert_eq!(result, Err(Errno::NOSPC));
    let (result, _) = create(
        &file,
        stopwatch_creation {
            name: field("one too many"),
            ..Default::default()
        },
    );
    assert_eq!(result, Err(Errno::NOSPC));
    assert_eq!(watches.len() as u32, stopwatches - STOPWATCH_NUMBERED);
    for &watch in &watches {
        let armed = ok(&file, TIMEOUT, watch, 3_600_000 * MS + u64::from(watch));
        assert_eq!(
            armed.deadline_ns,
            armed.time_ns + 3_600_000 * MS + u64::from(watch)
        );
    }
    let armed = watches.iter().all(|&watch| {
        describe(&file, watch, 0).is_ok_and(|description| description.deadline_ns != 0)
    });
    assert!(armed, "one timeout for each stopwatch");
    // One goes, one comes.
    ok(&file, DELETE, watches[500], 0);
    assert_eq!(anonymous(&file), watches[500]);
    let begin = Instant::now();
    drop(file);
    let other = open();
    assert!(watches
        .iter()
        .all(|&watch| describe(&other, watch, 0) == Err(Errno::NOENT)));
    figure(format_args!(
        "{} stopwatches created in {took:.2?}, gone with their file in {:.2?}",
        watches.len(),
        begin.elapsed()
    ));
}

/// Users without privileges do not take the numbers from each other, named or not.
fn a_quarter_for_a_user() {
    let file = open();
    let quota = (device_info(&file).stopwatches - STOPWATCH_NUMBERED) / 4;
    let mut made = 0;
    let refused = by(ANNA, || loop {
        match create(&file, stopwatch_creation::default()) {
            (Ok(()), _) => made += 1,
            (Err(errno), _) => break errno,
        }
    });
    assert_eq!((refused, made), (Errno::DQUOT, quota));
    let other = open();
    let named = stopwatch_creation {
        name: field("one more than a quarter"),
        ..Default::default()
    };
    assert_eq!(by(ANNA, || create(&other, named).0), Err(Errno::DQUOT));
    by(BERT, || anonymous(&other));
    anonymous(&other);
    drop(file);
    by(ANNA, || anonymous(&other));
}
