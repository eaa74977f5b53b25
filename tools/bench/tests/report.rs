// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report, out of measurements that are known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use stopwatch_bench::guest::{rows, TIER4, TIMERFD};
use stopwatch_bench::marks::Span;
use stopwatch_bench::report;
use stopwatch_bench::results::{
    Exits, GuestPart, Lateness, Missing, Part, Scale, Side, Throughput, Timing,
};

const SYMBOLS: &str = "ffffffff81000000 T asm_sysvec_apic_timer_interrupt\n\
                       ffffffff81000100 T do_something\n\
                       ffffffffc0000000 t serve\t[vhost_stopwatch]\n";
const GUEST_SYMBOLS: &str = "ffffffffc0000000 t post\t[stopwatch]\n";

/// Rows in the guest, with the instructions of one operation: in the guest's
/// kernel and in the host's.
const ROWS: [(&str, Side, u64, u64); 14] = [
    (rows::NOTHING, Side::GuestUser, 0, 0),
    (rows::LOOP, Side::GuestUser, 1003, 0),
    (rows::HPET, Side::GuestUser, 0, 8000),
    (rows::VSOCK, Side::GuestUser, 30000, 20000),
    (rows::VDSO_KVM, Side::GuestUser, 100, 0),
    (rows::VDSO_TSC, Side::GuestUser, 70, 0),
    (rows::PORTIO_FILE, Side::GuestUser, 1000, 0),
    (rows::BARE_PORTIO, Side::GuestUser, 1400, 1600),
    (rows::TIER1, Side::GuestUser, 120, 0),
    (rows::ELAPSED, Side::GuestUser, 49, 0),
    (rows::TIER3, Side::GuestUser, 1000, 2000),
    (rows::TIER2, Side::GuestUser, 200, 150),
    (rows::TIER2_KERNEL, Side::GuestKernel, 150, 150),
    (rows::TIER3_KERNEL, Side::GuestKernel, 300, 2000),
];
const BATCH: u64 = 10;
const MARKS: u64 = 14;

fn index(row: &str) -> usize {
    rows::NAMES
        .iter()
        .position(|&name| name == row)
        .expect("a row of the table")
}

/// What the plugin would have written, with ticks in two of five rounds.
fn log() -> String {
    let mut log = String::from(
        "place 1 guest ffffffffc0000010\nplace 2 host ffffffffc0000020\n\
         place 3 host ffffffff81000000\n",
    );
    let mut span = |span: Span, guest: u64, host: u64| {
        for round in 0..5 {
            log += &format!("span {} 1:{guest} 2:{host}", span.number());
            log += if round % 2 == 1 { " 3:777\n" } else { "\n" };
        }
    };
    span(Span::EMPTY, MARKS, 0);
    span(Span::kick(0), 0, MARKS);
    span(Span::kick(1), 0, MARKS + 2000);
    span(Span::kick(1000), 0, MARKS + 2000);
    for (row, side, guest, host) in ROWS {
        let marks = if side == Side::GuestKernel { 0 } else { MARKS };
        span(Span::row(index(row)), marks + guest * BATCH, host * BATCH);
    }
    log
}

fn guest() -> GuestPart {
    let timing = |(row, side, guest, host): (&str, Side, u64, u64)| {
        let ns = (guest + host) as f64;
        Timing::of(row, side, BATCH as u32, vec![ns, ns + 1.0, ns + 2.0])
    };
    GuestPart {
        timings: ROWS.into_iter().map(timing).collect(),
        missing: vec![Missing {
            row: rows::PTP.to_owned(),
            reason: "no hypercall <here>".to_owned(),
        }],
        port_doorbell: true,
        clock_source: "kvm-clock".to_owned(),
        ..GuestPart::default()
    }
}

fn part() -> Part {
    let timing = |row: &str, ns| Timing::of(row, Side::GuestUser, 1, vec![ns]);
    let scale = |vms, ns| Scale {
        vms,
        kick: Timing::of(&format!("kick, {vms} VMs open"), Side::Host, 1, vec![ns]),
        bytes_per_vm: 50_000.0,
        region: 1 << 20,
        wakeups_per_second: 0.0,
    };
    let exits = Exits {
        operations: 1000,
        per_operation: 1.0,
        ..Exits::default()
    };
    Part {
        machine: BTreeMap::from([("machine".to_owned(), "made up".to_owned())]),
        guest: guest(),
        exits: BTreeMap::from([(rows::TIER3.to_owned(), exits)]),
        throughput: vec![Throughput {
            row: rows::TIER2.to_owned(),
            by_vcpus: BTreeMap::from([(1, 1e6), (2, 1.9e6)]),
            limited_by: Some("only 2 CPUs".to_owned()),
        }],
        lateness: Some(Lateness {
            timings: vec![timing(TIMERFD, 100.0), timing(TIER4, 150.0)],
            clock_error_ns: 10,
        }),
        scale: vec![scale(1, 1000.0), scale(1000, 1050.0)],
        ..Part::default()
    }
}

fn directory(name: &str, log: &str) -> std::path::PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("instructions.log"), log).unwrap();
    fs::write(directory.join("level1.symbols"), SYMBOLS).unwrap();
    fs::write(directory.join("level2.symbols"), GUEST_SYMBOLS).unwrap();
    directory
}

#[test]
fn all_files_say_what_was_measured() {
    let directory = directory("report", &log());
    let document = directory.join("experiment.md");
    fs::write(
        &document,
        "before\n<!-- Written by `make bench` from here -->\nold\n<!-- to here -->\nafter\n",
    )
    .unwrap();
    let mut counted = part();
    report::count_instructions(&mut counted, &directory).unwrap();
    let results = report::results(part(), Some(counted));
    report::write(&results, &directory, Some(&document)).unwrap();

    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!(json["machine"]["machine"], "made up");
    let row = |name: &str| {
        let rows = json["rows"].as_array().unwrap();
        rows.iter().find(|row| row["row"] == name).unwrap().clone()
    };
    let call = row(rows::TIER3);
    assert_eq!(call["side"], "guest-user");
    assert_eq!(call["insns"], 3000);
    assert_eq!(
        (&call["insns_guest"], &call["insns_host"]),
        (&1000.into(), &2000.into())
    );
    assert_eq!(call["wall_ns_p50"], 3001.0);
    assert_eq!(call["wall_ns_p99"], 3002.0);
    assert_eq!(call["exits_per_op"], 1.0);
    assert_eq!(call["samples"], 3);
    assert_eq!(row(rows::TIER3_KERNEL)["insns"], 2300);
    assert_eq!(row(rows::TIER3_KERNEL)["side"], "guest-kernel");
    assert_eq!(row("kick, 1000 VMs open")["insns"], 2000);
    assert_eq!(row(TIER4)["insns"], Value::Null);

    let targets = json["targets"].as_array().unwrap();
    let came_to: Vec<_> = targets
        .iter()
        .map(|target| (target["value"].as_f64(), target["met"].as_bool()))
        .collect();
    assert_eq!(
        came_to,
        [
            (Some(1.2), Some(true)),
            (Some(0.7), Some(true)),
            (Some(3.5), Some(false)),
            (Some(1.15), Some(true)),
            (Some(0.375), Some(false)),
            (Some(3001.0 / 50001.0), Some(true)),
            (Some(1.5), Some(false)),
            (None, None),
            (Some(1.05), Some(true)),
            (Some(50_000.0), Some(true)),
        ]
    );
    assert_eq!(targets[7]["note"], "only 2 CPUs");

    let table = read("results.md");
    let line = format!(
        "| {} | guest-user | 3,000 | 1,000 | 2,000 | 3.0 µs |",
        rows::TIER3
    );
    assert!(table.contains(&line), "{table}");
    assert!(table.contains("no hypercall <here>"), "{table}");
    let parts = format!("| {} | 0 | 1,000 | 0 | 0 | 2,000 | 0 | 0 |", rows::TIER3);
    assert!(table.contains(&parts), "{table}");
    let new = fs::read_to_string(&document).unwrap();
    assert!(
        new.starts_with("before\n") && new.ends_with("after\n"),
        "{new}"
    );
    assert!(new.contains(&line) && !new.contains("\nold\n"), "{new}");

    let (chart, page) = (read("results.svg"), read("results.html"));
    assert!(
        chart.starts_with("<svg") && chart.contains(rows::TIER3),
        "{chart}"
    );
    assert!(page.contains("<svg") && page.contains("no hypercall &lt;here&gt;"));
    // Nothing of it comes from elsewhere.
    for elsewhere in ["src=", "href=", "url(", "@import"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn instructions_are_told_by_function() {
    let directory = directory("profile", &log());
    let mut part = part();
    report::count_instructions(&mut part, &directory).unwrap();
    let call = &part.instructions[rows::TIER3];
    assert_eq!((call.guest_kernel, call.host_kernel), (1000.0, 2000.0));
    assert_eq!(call.occurrences, (5, 3), "two had a tick");
    let profile = report::profile(&part);
    for line in [
        "| host kernel | `serve [vhost_stopwatch]` | 2000.0 |",
        "| guest kernel | `post [stopwatch]` | 1000.0 |",
    ] {
        assert!(profile.contains(line), "{profile}");
    }
}

#[test]
fn a_count_that_is_wrong_is_no_report() {
    let broken = format!(
        "span {} 1:{}",
        Span::row(index(rows::LOOP)).number(),
        MARKS + 10030
    );
    let log = log();
    assert!(log.contains(&broken));
    let directory = directory("broken", &log.replace(&broken, &format!("{broken}0")));
    let error = report::count_instructions(&mut part(), &directory).unwrap_err();
    assert!(error.to_string().contains("can be trusted"), "{error:#}");
}
