// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs in a guest that use its device as much as they can. What needs no host to play
//! along is `guest-check abuse::`.

use std::thread::sleep;
use std::time::Duration;

use stopwatch_tests::ioctl::ioctl;
use stopwatch_tests::suite::figures_of;
use stopwatch_tests::tests;
use stopwatch_uapi::{STOPWATCH_ANSWER_MS, VHOST_STOPWATCH_START, VHOST_STOPWATCH_STOP};

use crate::driver::control_of;
use crate::guests::one;

tests![calls_given_up_by_many, a_program_that_ends_without_a_host];

/// A host that does not serve for a while, and again: what many programs have given up
/// happens to nobody, and holds nothing.
fn calls_given_up_by_many() {
    let mut guest = one();
    let control = control_of(&guest);
    guest.shell(
        "rm -f /tmp/enough; guest-check given-up /tmp/enough >/tmp/said 2>&1 & \
         n=0; until grep -q flooding /tmp/said; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done",
    );
    for _ in 0..3 {
        ioctl(&control, VHOST_STOPWATCH_STOP, 0).unwrap();
        sleep(Duration::from_millis(STOPWATCH_ANSWER_MS.into()) + Duration::from_millis(500));
        ioctl(&control, VHOST_STOPWATCH_START, 0).unwrap();
        sleep(Duration::from_millis(500));
    }
    let said = guest.shell(
        "touch /tmp/enough; n=0; while pidof guest-check >/dev/null; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 600 ] || exit 1; done; cat /tmp/said",
    );
    assert!(said.contains("calls done"), "{said}");
    figures_of(&said);
    guest.shell("stopwatch timeout 6 5ms --wait");
    guest.check_log();
}

/// The driver deletes each stopwatch of a program that ends, by a call. It does not wait for each
/// of these calls if the host does not serve.
fn a_program_that_ends_without_a_host() {
    let mut guest = one();
    let control = control_of(&guest);
    let said = guest.shell(
        "rm -f /tmp/enough; guest-check unnamed 30 /tmp/enough >/tmp/said 2>&1 & \
         n=0; until grep -q made: /tmp/said; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done; cat /tmp/said",
    );
    let watches = said.trim().strip_prefix("made: ").expect("it says which");
    ioctl(&control, VHOST_STOPWATCH_STOP, 0).unwrap();
    // One wait is STOPWATCH_ANSWER_MS, 30 of them are longer than this.
    let ended = guest.run(
        "touch /tmp/enough; n=0; while pidof guest-check >/dev/null; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 200 ] || exit 1; done",
    );
    ioctl(&control, VHOST_STOPWATCH_START, 0).unwrap();
    // Those that are left are deleted, for the tests that follow; others are not there.
    for watch in watches.split(' ') {
        guest.run(&format!("stopwatch delete {watch}"));
    }
    assert_eq!(ended.status, 0, "it still waits");
    guest.shell("stopwatch timeout 6 5ms --wait");
    guest.check_log();
}
