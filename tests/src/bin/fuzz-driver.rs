// SPDX-License-Identifier: MIT OR Apache-2.0

//! In level 1: boots a guest and fuzzes the driver in it by `guest-fuzz`, for that many
//! seconds; at first with a host that keeps to the rules, then with one that writes to
//! the region meanwhile. Needs build/bin/guest-fuzz, which tests/fuzz/modules puts there.

use std::env;
use std::process::Command;
use std::time::Duration;

use stopwatch::host::{map_region, Geometry, Qmp, Vm};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::harness::control;
use stopwatch_tests::hostile::{during, layout, parts};
use stopwatch_tests::kmsg;
use stopwatch_tests::suite::{environment, eventually, host_module, patience, FIGURE};

const GEOMETRY: Geometry = Geometry {
    stopwatches: 96,
    rings: 2,
    ring_slots: 16,
    event_slots: 16,
};

/// A command of the guest's may take 90 s.
const SLICE: u64 = 60;

fn main() {
    let seconds: u64 = env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .expect("how long? expected a number of seconds");
    let mut host_log = kmsg::Cursor::now();
    host_module().load().expect("the host module loads");

    let monitor = format!("{}/fuzz.monitor", env::temp_dir().display());
    let argument = format!("unix:{monitor},server=on,wait=off");
    let command = Command::new(environment("STOPWATCH_GUEST"));
    let mut guest = Guest::boot_with("fuzz", command, &["-qmp", &argument]);
    guest.ready();
    guest.load_driver();
    let vm = Vm::create(control(), GEOMETRY).expect("a VM");
    vm.control().start().expect("it starts");
    let region = map_region(vm.region(), vm.region_size()).unwrap();
    let mut qemu = Qmp::connect(&monitor).expect("QEMU listens");
    vm.attach(&mut qemu, "fuzz", None)
        .expect("it is plugged in");
    let there = Duration::from_secs(30) * patience();
    let bound = eventually(there, || guest.run("test -e /dev/stopwatch").status == 0);
    assert!(bound, "the driver has the device");

    // Half of the time to the first.
    let parts = parts(&layout(GEOMETRY));
    let share = seconds / 2 / parts.len() as u64;
    fuzz(&mut guest, "a host that keeps to the rules", seconds / 2);
    for (seed, (part, range)) in (1..).zip(&parts) {
        let what = format!("a host that writes to {part}");
        let test = || fuzz(&mut guest, &what, share.max(1));
        let ((), written) = during(&vm, &region, range, (seed << 40) | 0x5eed, test);
        println!("{what}: {written} words");
    }

    guest.shell("rmmod stopwatch");
    guest.check_leaks();
    guest.power_off();
    drop((vm, region));
    let module = host_module();
    let unloaded = eventually(Duration::from_secs(10), || module.unload().is_ok());
    assert!(unloaded, "the host module unloads");
    host_log.check().expect("the host's kernel log is clean");
    println!("ended well");
}

/// Runs the fuzzer in the guest for that long, in slices.
fn fuzz(guest: &mut Guest, what: &str, seconds: u64) {
    let mut left = seconds;
    while left > 0 {
        let slice = left.min(SLICE);
        left -= slice;
        let said = guest.run(&format!(
            "mkdir -p /tmp/corpus /tmp/finds; \
             for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \
             dd if=/dev/urandom of=/tmp/corpus/seed$n bs=900 count=1; done 2>/dev/null; \
             guest-fuzz -max_total_time={slice} -max_len=2048 \
             -len_control=0 -timeout=80 -rss_limit_mb=160 -artifact_prefix=/tmp/finds/ \
             /tmp/corpus >/tmp/fuzz.log 2>&1"
        ));
        let log = guest.shell("grep -a '^so far: ' /tmp/fuzz.log | tail -n 1");
        let learned = log.trim().trim_start_matches("so far: ");
        println!("{FIGURE}the driver, fuzzed with {what}: {learned}");
        if said.status != 0 {
            let tail = guest.shell("tail -n 40 /tmp/fuzz.log");
            let inputs = guest.shell("for f in /tmp/finds/*; do echo $f; od -An -v -tx1 $f; done");
            panic!("find, status {}:\n{tail}\n{inputs}", said.status);
        }
        guest.check_log();
    }
}
