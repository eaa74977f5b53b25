// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guests, and what is done to them at last.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{mpsc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::Value;
use stopwatch::host::{Control, DEVICE};
use stopwatch::{Act, Name, Which};
use stopwatch_tests::guest::{log_directory, Guest};
use stopwatch_tests::suite::{eventually, host_module, Test};
use stopwatch_tests::{kmsg, tests};

struct Guests {
    one: Mutex<Guest>,
    two: Mutex<Guest>,
    strangers: Mutex<Guest>,
    host_log: Mutex<kmsg::Cursor>,
}

static GUESTS: OnceLock<Guests> = OnceLock::new();

/// The file in which strace notes the ioctls of guest two's QEMU.
pub(crate) fn trace() -> PathBuf {
    log_directory().join("guest-two.ioctls")
}

/// The socket on which the QEMU of a guest takes commands.
pub(crate) fn monitor(guest: &str) -> String {
    format!("{}/{guest}.monitor", env::temp_dir().display())
}

/// QEMU's argument to `-qmp` for it.
pub(crate) fn monitor_argument(guest: &str) -> String {
    format!("unix:{},server=on,wait=off", monitor(guest))
}

/// How guest two came up: its stopwatch "boot" was started by the host with the
/// VM, and paused by the guest when it was ready.
pub(crate) struct Launch {
    /// What the stopwatch showed when it was paused.
    pub(crate) elapsed: Duration,
    /// Not less than that, by the host's clock: from when it was seen to run
    /// until the guest was told to pause it.
    pub(crate) least: Duration,
    /// Not more: from before the VM was made until the guest had paused it.
    pub(crate) most: Duration,
    /// What the host read of it then.
    pub(crate) read: u64,
}

static LAUNCH: OnceLock<Launch> = OnceLock::new();

/// How guest two came up.
pub(crate) fn launch() -> &'static Launch {
    drop(two());
    LAUNCH.get().expect("guest two came up")
}

/// Loads the host module and starts all guests.
pub(crate) fn boot() {
    let host_log = kmsg::Cursor::now();
    host_module().load().expect("the host module loads");
    let monitor = monitor_argument("one");
    let one = Guest::boot("one", &["--doorbells", "memory"], &[], &["-qmp", &monitor]);
    let trace = trace()
        .into_os_string()
        .into_string()
        .expect("a path in UTF-8");
    let strace = [
        "strace",
        "-f",
        "-y",
        "--seccomp-bpf",
        "-e",
        "trace=execve,ioctl",
        "-o",
        &trace,
    ];
    let monitor = monitor_argument("two");
    let options = ["--stopwatches", "4096", "--auto-start", "boot"];
    let launched = Instant::now();
    // Traced, a guest does not come up if it or its host is on the debug kernel. What needs the
    // trace is not run then.
    let is_debug = |kernel| env::var(kernel).is_ok_and(|kernel| kernel == "debug");
    let is_slow = is_debug("STOPWATCH_KERNEL") || is_debug("STOPWATCH_KERNEL2");
    let before: &[&str] = if is_slow { &[] } else { &strace };
    let two = Guest::boot("two", &options, before, &["-qmp", &monitor]);
    let mut command = Command::new(env::current_exe().expect("it runs"));
    command.arg("child-strangers");
    let monitor = monitor_argument("strangers");
    let strangers = Guest::boot_with("strangers", command, &["-qmp", &monitor]);
    let guests = Guests {
        one: Mutex::new(one),
        two: Mutex::new(two),
        strangers: Mutex::new(strangers),
        host_log: Mutex::new(host_log),
    };
    assert!(GUESTS.set(guests).is_ok(), "guests boot once");
    // Each is listened to from its boot on, so that one that does not come up
    // is known before its first test, to which it then says why.
    thread::spawn(|| lock(|it| &it.one).ready());
    thread::spawn(|| lock(|it| &it.strangers).ready());
    let (locked, is_locked) = mpsc::channel();
    thread::spawn(move || {
        let mut two = lock(|it| &it.two);
        // Nobody else comes first.
        let _ = locked.send(());
        let launch = watch_launch(&mut two, launched);
        assert!(LAUNCH.set(launch).is_ok(), "it boots once");
    });
    is_locked.recv().expect("the thread runs");
}

fn watch_launch(two: &mut Guest, launched: Instant) -> Launch {
    let host = Control::open(DEVICE).expect("the host module is loaded");
    let boot = Which::Name("boot".parse::<Name>().expect("a name"));
    let read = || {
        let vm = host.find("two").ok()?.vm;
        let (_, reading) = host.command(vm, &boot, Act::Read).ok()?;
        Some(reading)
    };
    let runs = || read().is_some_and(|reading| reading.running);
    assert!(eventually(Duration::from_secs(60), runs), "boot runs");
    let seen = Instant::now();
    two.ready();
    two.load_driver();
    let ready = Instant::now();
    let paused = two.json("stopwatch pause boot --json");
    let done = Instant::now();
    let reading = read().expect("it stays");
    // No other test looks for it.
    two.shell("stopwatch delete boot");
    Launch {
        elapsed: Duration::from_nanos(elapsed_ns(&paused)),
        least: ready - seen,
        most: done - launched,
        read: reading.elapsed_ns,
    }
}

/// Of what `stopwatch --json` printed of a stopwatch.
pub(crate) fn elapsed_ns(shown: &Value) -> u64 {
    shown["elapsed_ns"].as_u64().expect("it shows a time")
}

fn lock(
    guest: impl FnOnce(&'static Guests) -> &'static Mutex<Guest>,
) -> MutexGuard<'static, Guest> {
    let guests = GUESTS.get().expect("the guests were booted");
    // A test that failed with it says nothing about the next one.
    guest(guests).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest, up and with its driver loaded.
fn with_driver(mut guest: MutexGuard<'static, Guest>) -> MutexGuard<'static, Guest> {
    guest.ready();
    if guest.run("test -e /dev/stopwatch").status != 0 {
        guest.load_driver();
    }
    guest
}

/// A guest as everybody has it.
pub(crate) fn one() -> MutexGuard<'static, Guest> {
    with_driver(lock(|guests| &guests.one))
}

/// A guest whose QEMU runs under strace, and that has 4,096 stopwatches.
pub(crate) fn two() -> MutexGuard<'static, Guest> {
    with_driver(lock(|guests| &guests.two))
}

/// A guest whose devices are none that the driver knows. The driver is not
/// loaded.
pub(crate) fn strangers() -> MutexGuard<'static, Guest> {
    let mut guest = lock(|guests| &guests.strangers);
    guest.ready();
    guest
}

tests![
    a_guest_that_reboots,
    the_guests_leaked_nothing,
    the_guests_kernel_logs_are_clean,
    qemu_killed_in_the_middle_of_a_burst,
    the_host_module_unloads,
    the_host_s_kernel_log_is_clean,
];

/// What ends guests, or looks back at all of it.
pub(crate) fn last_tests() -> Vec<Test> {
    tests()
}

/// Ends what the tests left.
pub(crate) fn end() {
    if let Some(guests) = GUESTS.get() {
        for guest in [&guests.one, &guests.two, &guests.strangers] {
            guest.lock().unwrap_or_else(PoisonError::into_inner).end();
        }
    }
}

fn a_guest_that_reboots() {
    let mut guest = one();
    guest.shell("stopwatch reset 7; stopwatch start 7; stopwatch timeout 8 1h");
    let elapsed = |guest: &mut Guest| {
        let reading = guest.json("stopwatch show 7 --json");
        assert_eq!(reading["state"], "running");
        elapsed_ns(&reading)
    };
    let before = elapsed(&mut guest);
    guest.check_log();
    let vm = guest.vm();
    guest.reboot();

    let after = guest.vm();
    assert_eq!(
        (after.vm, after.pid),
        (vm.vm, vm.pid),
        "the same VM, the same QEMU"
    );
    assert!(after.resets > vm.resets, "the host noticed a reset");
    assert_eq!(after.features.0, 0, "after a reset no feature is on");
    assert_eq!(after.status, vm.status);
    assert_eq!(
        (after.bad_requests, after.events_lost),
        (vm.bad_requests, vm.events_lost)
    );
    let host = Control::open(DEVICE).unwrap();
    let eight = host.describe(vm.vm, 8).unwrap().unwrap();
    assert!(!eight.is_armed(), "its timeout was disarmed");

    guest.load_driver();
    assert!(
        elapsed(&mut guest) > before + 1_000_000_000,
        "the stopwatch went on"
    );
    guest.shell("stopwatch timeout 9 10ms --wait");
}

fn the_guests_kernel_logs_are_clean() {
    one().check_log();
    two().check_log();
    strangers().check_log();
}

/// Where the guests have the debug kernel.
fn the_guests_leaked_nothing() {
    one().check_leaks();
}

fn qemu_killed_in_the_middle_of_a_burst() {
    for mut guest in [one(), two()] {
        guest.shell("stopwatch reset; stopwatch timeout 1 30ms; stopwatch timeout 2 1h");
        let before = guest.vm();
        guest.send("stopwatch bench call --count 10000000");
        let busy = eventually(Duration::from_secs(60), || {
            guest.vm().requests > before.requests + 1_000
        });
        assert!(busy, "the burst is under way");
        guest.kill();
        let host = Control::open(DEVICE).unwrap();
        let gone = eventually(Duration::from_secs(10), || {
            host.vm(before.vm).unwrap().is_none()
        });
        assert!(gone, "VM {} outlives its QEMU", before.vm);
    }
}

fn the_host_module_unloads() {
    end();
    let module = host_module();
    let unloaded = eventually(Duration::from_secs(10), || module.unload().is_ok());
    assert!(unloaded, "it is in use {} times", module.uses());
    // What would still be called has had its time.
    sleep(Duration::from_millis(500));
    module.load().expect("it loads again");
    assert_eq!(Control::open(DEVICE).unwrap().vms().unwrap(), []);
    module.unload().expect("it unloads again");
}

fn the_host_s_kernel_log_is_clean() {
    let guests = GUESTS.get().expect("the guests were booted");
    let mut log = guests
        .host_log
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let text = log.take();
    let _ = fs::write(log_directory().join("level2.kernel-log"), &text);
    assert_eq!(kmsg::trouble(&text), Vec::<&str>::new());
}
