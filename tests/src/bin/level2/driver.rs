// SPDX-License-Identifier: MIT OR Apache-2.0

//! The driver in the guest: what a program finds at `/dev/stopwatch`, and that
//! it may come and go.

use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::ioctl::ioctl;
use stopwatch_tests::suite::{environment, figures_of, watched_with};
use stopwatch_tests::tests;
use stopwatch_uapi::{VHOST_STOPWATCH_START, VHOST_STOPWATCH_STOP};

use crate::guests::one;

tests![
    unloading_with_an_open_file,
    a_reload_while_a_timeout_is_pending,
    reloads_in_a_row,
    an_unbind_under_a_blocked_reader,
    a_blocked_reader_can_be_killed,
    a_file_that_outlives_a_rebind,
    a_request_that_was_given_up,
    a_number_that_was_given_away,
    a_file_whose_stopwatch_is_gone,
];

/// Each check that `guest-check` knows, as a test of its own.
pub(crate) fn checks() -> Vec<Trial> {
    let program = Path::new(&environment("STOPWATCH_BIN")).join("guest-check");
    let output = Command::new(&program).arg("--list").output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    String::from_utf8(output.stdout)
        .expect("names in UTF-8")
        .lines()
        .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
        .map(|check| {
            watched_with(format!("check::{check}"), move || {
                figures_of(&one().shell(&format!("guest-check --exact {check}")));
            })
        })
        .collect()
}

const INSMOD: &str = "insmod /modules/stopwatch.ko";

/// By nothing else: root's programs could do without the driver.
const BY_DRIVER: &str = "stopwatch --device /dev/stopwatch show";

/// The device's address on the guest's PCI bus.
pub(crate) const ADDRESS: &str = "basename $(ls -d /sys/bus/pci/drivers/stopwatch/0*)";

fn unloading_with_an_open_file() {
    let mut guest = one();
    guest.shell(
        "guest-check hold >/tmp/hold 2>&1 & while ! grep -q holding /tmp/hold; do sleep 0.1; done",
    );
    let said = guest.run("rmmod stopwatch");
    assert_ne!(said.status, 0, "rmmod is refused");
    guest.shell("stopwatch show");
    guest.shell("killall guest-check; sleep 0.2; rmmod stopwatch");
    assert_ne!(guest.run("test -e /dev/stopwatch").status, 0);
    assert_eq!(guest.run(BY_DRIVER).status, 3, "there is no driver");
    guest.shell(INSMOD);
    guest.shell("stopwatch show");
}

fn a_reload_while_a_timeout_is_pending() {
    let mut guest = one();
    guest.shell("stopwatch reset 5; stopwatch start 5; stopwatch reset 6");
    let before = guest.vm();
    guest.shell("stopwatch timeout 6 2s && rmmod stopwatch && sleep 2.5");
    let unloaded = guest.vm();
    assert!(
        unloaded.resets > before.resets,
        "the driver leaves the device reset"
    );
    assert_eq!(unloaded.features.0, 0);
    assert_eq!(unloaded.events, before.events, "its timeout was disarmed");
    guest.shell(INSMOD);
    let five = guest.json("stopwatch show 5 --json");
    assert_eq!(five["state"], "running");
    assert!(
        five["elapsed_ns"].as_u64().unwrap() > 1_000_000_000,
        "the host went on: {five}"
    );
    let six = guest.json("stopwatch show 6 --json");
    assert_eq!(
        (six["timeouts"].as_u64(), six["deadline_ns"].as_u64()),
        (Some(0), None)
    );
    let expired = guest.json("stopwatch timeout 6 20ms --wait --json");
    assert_eq!(expired["timeouts"], 1);

    // One that expires while the driver is on its way in or out.
    for ms in [1, 5, 20, 50] {
        guest.shell(&format!(
            "stopwatch timeout 6 {ms}ms && rmmod stopwatch && {INSMOD}"
        ));
        guest.shell("stopwatch timeout 6 5ms --wait");
    }
}

fn reloads_in_a_row() {
    let mut guest = one();
    guest.shell(&format!(
        "for n in 1 2 3 4 5 6 7 8; do rmmod stopwatch && {INSMOD} && stopwatch show || exit 1; done"
    ));
    guest.shell("stopwatch timeout 6 5ms --wait");
}

fn an_unbind_under_a_blocked_reader() {
    let mut guest = one();
    guest.shell("guest-check hold >/tmp/hold 2>&1 & while ! grep -q holding /tmp/hold; do sleep 0.1; done; sleep 0.5");
    let address = guest.shell(ADDRESS).trim().to_owned();
    let driver = "/sys/bus/pci/drivers/stopwatch";
    guest.shell(&format!("echo {address} >{driver}/unbind"));
    guest.shell("n=0; while pidof guest-check && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done");
    let said = guest.shell("cat /tmp/hold");
    let expected = "\
holding
read: ENODEV
poll: PollFlags(ERR | HUP)
command: ENODEV
info: ENODEV
map: ENODEV
read again: ENODEV
";
    assert_eq!(said, expected);
    assert_eq!(guest.run(BY_DRIVER).status, 3, "there is no driver");
    guest.shell(&format!("echo {address} >{driver}/bind"));
    guest.shell("stopwatch timeout 6 5ms --wait");
}

fn a_blocked_reader_can_be_killed() {
    let mut guest = one();
    let said = guest.run(
        "guest-check hold >/tmp/hold 2>&1 & pid=$!; \
         while ! grep -q holding /tmp/hold; do sleep 0.1; done; sleep 0.3; \
         kill -TERM $pid; wait $pid",
    );
    assert_eq!(said.status, 128 + 15, "{}", said.text);
}

/// It stays with the device that it was opened for.
fn a_file_that_outlives_a_rebind() {
    let mut guest = one();
    guest.shell(
        "sh -c 'exec 7<>/dev/stopwatch; sleep 1000' >/dev/null 2>&1 & echo $! >/tmp/pid; sleep 0.3",
    );
    let address = guest.shell(ADDRESS).trim().to_owned();
    let driver = "/sys/bus/pci/drivers/stopwatch";
    for _ in 0..3 {
        guest.shell(&format!(
            "echo {address} >{driver}/unbind; echo {address} >{driver}/bind"
        ));
        guest.shell("stopwatch timeout 6 5ms --wait");
    }
    assert_ne!(
        guest.run("rmmod stopwatch").status,
        0,
        "the old file still has the module"
    );
    guest.shell("kill $(cat /tmp/pid); sleep 0.2; rmmod stopwatch");
    guest.shell(INSMOD);
}

/// The file by which the QEMU of a guest holds its VM in the host module.
pub(crate) fn control_of(guest: &Guest) -> OwnedFd {
    let pid = guest.pid();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let fd = fds.map(Result::unwrap).find(|fd| {
        fs::read_link(fd.path()).is_ok_and(|link| link == Path::new("/dev/vhost-stopwatch"))
    });
    let fd = fd.expect("QEMU has it open").file_name();
    let fd: RawFd = fd.to_str().unwrap().parse().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).unwrap()
}

/// A host that does not serve: what one program has given up does not happen to
/// another one, when the host serves again. Its request is in the ring of the second
/// processor, that of the other program in the ring of the first, which the host takes
/// first.
fn a_request_that_was_given_up() {
    let mut guest = one();
    for watch in [44, 45] {
        guest.shell(&format!("stopwatch reset {watch}; stopwatch start {watch}"));
    }
    let control = control_of(&guest);
    // In a guest that is slow, the second one may have been given up, too.
    let done = (0..20).any(|_| given_up_and_done(&mut guest, &control));
    assert!(done, "the host serves too late each time");
    // The device is as before.
    assert_eq!(
        guest.shell("guest-check bind 44"),
        "binding\nbind: ok, 3 laps, None of the other\n"
    );
    guest.shell("stopwatch timeout 6 5ms --wait");
    guest.check_log();
}

/// What was asked of a stopwatch while the host did not serve does not happen to
/// another one, which has its number when the host serves again: the host takes the
/// ring of the first processor before that of the second.
fn a_number_that_was_given_away() {
    let mut guest = one();
    let control = control_of(&guest);
    let expected =
        "made\nasking\nstart: ENOENT\ndelete: ok\ncreate: ok, the same number\nruns: false\n";
    // In a guest that is slow, some may have been given up.
    let done = (0..20).any(|_| {
        guest.shell(
            "rm -f /tmp/enough; guest-check replaced /tmp/enough >/tmp/replaced 2>&1 & \
             until grep -q made /tmp/replaced; do sleep 0.05; done",
        );
        ioctl(&control, VHOST_STOPWATCH_STOP, 0).unwrap();
        guest.shell("touch /tmp/enough; until grep -q asking /tmp/replaced; do sleep 0.05; done; sleep 0.4");
        ioctl(&control, VHOST_STOPWATCH_START, 0).unwrap();
        let said = guest.shell(
            "n=0; until grep -q runs /tmp/replaced || [ $n -gt 200 ]; do sleep 0.05; n=$((n + 1)); done; \
             cat /tmp/replaced",
        );
        let given_up = said.contains("ETIMEDOUT");
        assert!(given_up || said == expected, "{said}");
        !given_up
    });
    assert!(done, "the host serves too late each time");
    guest.check_log();
}

/// The end of a file asks the host for nothing that is not there.
fn a_file_whose_stopwatch_is_gone() {
    let mut guest = one();
    let before = guest.vm();
    guest.shell("guest-check deleted");
    let after = guest.vm();
    assert_eq!(after.requests, before.requests + 2, "CREATE and DELETE");
    assert_eq!(after.bad_requests, before.bad_requests);
}

/// Whether the second request was not given up.
fn given_up_and_done(guest: &mut Guest, control: &OwnedFd) -> bool {
    ioctl(control, VHOST_STOPWATCH_STOP, 0).unwrap();
    let said = guest.run(
        "rm -f /tmp/first /tmp/second; touch /tmp/second; taskset 2 guest-check bind 44 >/tmp/first 2>&1; \
         taskset 1 guest-check bind 45 44 >/tmp/second 2>&1 & \
         until grep -q binding /tmp/second; do sleep 0.05; done; sleep 0.3; cat /tmp/first",
    );
    ioctl(control, VHOST_STOPWATCH_START, 0).unwrap();
    assert_eq!(said.text, "binding\nbind: ETIMEDOUT\n");
    let second = guest.shell(
        "n=0; until grep -q : /tmp/second || [ $n -gt 200 ]; do sleep 0.05; n=$((n + 1)); done; \
         cat /tmp/second",
    );
    let given_up = second == "binding\nbind: ETIMEDOUT\n";
    assert!(
        given_up || second == "binding\nbind: ok, 3 laps, Some(0) of the other\n",
        "{second}"
    );
    !given_up
}
