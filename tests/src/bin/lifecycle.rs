// SPDX-License-Identifier: MIT OR Apache-2.0

//! Everything that begins and ends, in loops: VMs, the module, processors, guests,
//! drivers, devices. A stopwatch that runs meanwhile is compared with this host's
//! `CLOCK_MONOTONIC_RAW` after each round; at the end the memory has to be back and
//! the modules have to unload.
//!
//! `STOPWATCH_LOOPS` says how often; `make test-lifecycle` says 100.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::{setrlimit, Resource, Rlimit};
use rustix::time::{clock_gettime, ClockId};
use serde_json::json;
use stopwatch::host::{Control, Geometry, Operation, Qmp, DEVICE};
use stopwatch::Which;
use stopwatch_tests::guest::Guest;
use stopwatch_tests::harness::{control, kick, Vm, SMALL};
use stopwatch_tests::program::host_json;
use stopwatch_tests::suite::{eventually, figure, host_module, run, watched};
use stopwatch_uapi::*;

/// What a run of `make test` takes.
const FEW: u32 = 3;

const PATIENCE: Duration = Duration::from_secs(60);

/// Loops of a kind that takes no boot of a guest.
fn loops() -> u32 {
    std::env::var("STOPWATCH_LOOPS").map_or(FEW, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("STOPWATCH_LOOPS is {text:?}, expected a number"))
    })
}

/// Loops of a kind that boots a guest: each takes longer than all else.
fn boots() -> u32 {
    loops().div_ceil(FEW)
}

fn main() -> std::process::ExitCode {
    let tests: [(&str, fn()); 13] = [
        ("lifecycle::module_loaded_and_unloaded", module_loaded),
        ("lifecycle::stop_and_start_under_load", stop_and_start),
        ("lifecycle::vms_made_and_gone", vms_made_and_gone),
        ("lifecycle::host_processors_come_and_go", host_processors),
        ("lifecycle::guest_processors_come_and_go", guest_processors),
        ("lifecycle::driver_unbound_and_bound", driver_bound),
        ("lifecycle::vm_paused_and_resumed", vm_paused),
        ("lifecycle::device_unplugged_and_plugged", device_plugged),
        ("lifecycle::guest_reboots", guest_reboots),
        ("lifecycle::guest_panics", guest_panics),
        ("lifecycle::guest_has_a_clean_log", guest_log),
        ("lifecycle::qemu_killed_in_a_burst", qemu_killed),
        ("lifecycle::nothing_is_held", nothing_is_held),
    ];
    let mut trials: Vec<Trial> = tests
        .into_iter()
        .map(|(name, test)| watched(name, test))
        .collect();
    // The guest's initramfs has no kexec.
    trials.push(Trial::test("lifecycle::guest_kexec", || Ok(())).with_ignored_flag(true));
    let code = run(trials);
    if let Some(guest) = GUEST.get() {
        lock(guest).end();
    }
    code
}

/// The clock that nothing here adjusts, in ns.
fn raw_ns() -> u64 {
    let time = clock_gettime(ClockId::MonotonicRaw);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A stopwatch that runs, and what it has to show by [`raw_ns`].
struct Independent {
    vm: u64,
    which: Which,
    /// Before and after it was started.
    started: (u64, u64),
    worst: u64,
    rounds: u32,
}

impl Independent {
    /// Starts a stopwatch from the host.
    fn start(vm: u64, which: Which) -> Self {
        let host = control();
        let _ = host.command(vm, &which, Operation::Reset);
        let before = raw_ns();
        host.command(vm, &which, Operation::Start)
            .expect("it was reset");
        Self {
            vm,
            which,
            started: (before, raw_ns()),
            worst: 0,
            rounds: 0,
        }
    }

    /// Fails if it shows what it cannot by the other clock.
    fn check(&mut self) {
        let before = raw_ns();
        let (_, reading) = control()
            .command(self.vm, &self.which, Operation::Read)
            .expect("it is there");
        let after = raw_ns();
        let least = before - self.started.1;
        let most = after - self.started.0;
        // CLOCK_MONOTONIC may be adjusted, by at most 500 in a million.
        let slack = most / 2000;
        assert!(
            reading.elapsed_ns + slack >= least && reading.elapsed_ns <= most + slack,
            "the stopwatch shows {} ns; by CLOCK_MONOTONIC_RAW it is {least} to {most} ns",
            reading.elapsed_ns
        );
        let middle = least.midpoint(most);
        self.worst = self.worst.max(reading.elapsed_ns.abs_diff(middle));
        self.rounds += 1;
    }

    /// Says how it went.
    fn tell(&self, what: &str) {
        figure(format_args!(
            "{what}: {} rounds, at most {} us off CLOCK_MONOTONIC_RAW, the reading's own duration included",
            self.rounds,
            self.worst / 1000
        ));
    }
}

/// Kinds of `/proc/meminfo` in which something of ours would be missed.
const KINDS: [&str; 6] = [
    "SUnreclaim:",
    "KernelStack:",
    "PageTables:",
    "VmallocUsed:",
    "Unevictable:",
    "Shmem:",
];

/// kB of each of [`KINDS`].
fn memory() -> [u64; KINDS.len()] {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    KINDS.map(|kind| {
        let line = text.lines().find(|line| line.starts_with(kind));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    })
}

/// Fails if much of what `act` took is not given back. `each` is what one round takes,
/// in kB: what is lost in each of `rounds` shows.
fn memory_is_back(what: &str, rounds: u32, act: impl FnOnce()) {
    let before = memory();
    act();
    // Freed by RCU, in per-CPU caches, or of an inode that ends a moment later.
    let slack = 4096 + u64::from(rounds);
    let mut now = memory();
    let back = eventually(Duration::from_secs(20), || {
        sleep(Duration::from_millis(200));
        now = memory();
        before
            .iter()
            .zip(&now)
            .all(|(b, n)| n.saturating_sub(*b) < slack)
    });
    let mut table = String::new();
    for ((kind, before), now) in KINDS.iter().zip(before).zip(now) {
        let _ = write!(table, " {kind} {:+} kB", now as i64 - before as i64);
    }
    assert!(
        back,
        "{what}: memory is not back after {rounds} rounds:{table}"
    );
    figure(format_args!("{what}: memory after {rounds} rounds:{table}"));
}

fn load() {
    if !host_module().is_loaded() {
        host_module().load().expect("it loads");
    }
}

fn module_loaded() {
    let module = host_module();
    memory_is_back("module", loops(), || {
        for _ in 0..loops() {
            module.load().expect("it loads");
            drop(Vm::with_timeouts(SMALL));
            let unloaded = eventually(Duration::from_secs(10), || module.unload().is_ok());
            assert!(unloaded, "it is in use {} times", module.uses());
        }
    });
}

/// Rings doorbells from a thread for each until `act` returns.
fn under_load(kicks: &[OwnedFd], act: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for eventfd in kicks {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // A VM that is stopped does not take what is written.
                    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
                }
            });
        }
        act();
        done.store(true, Ordering::Relaxed);
    });
}

fn stop_and_start() {
    load();
    let mut vm = Vm::with_timeouts(SMALL);
    for watch in 1..8 {
        vm.ok(STOPWATCH_OP_TIMEOUT, watch, 1_000_000 * u64::from(watch));
    }
    let mut clock = Independent::start(vm.info().vm, Which::Number(0));
    under_load(&vm.kicks, || {
        for _ in 0..loops() * 10 {
            vm.control.stop().expect("it was started");
            sleep(Duration::from_micros(300));
            vm.control.start().expect("it was stopped");
            clock.check();
        }
    });
    clock.tell("STOP and START under load");
}

fn vms_made_and_gone() {
    load();
    let limit = Rlimit {
        current: Some(1 << 16),
        maximum: Some(1 << 16),
    };
    setrlimit(Resource::Nofile, limit).expect("root may have more files");
    let geometry = Geometry { rings: 1, ..SMALL };
    // 1,000 VMs 20 times are 100 loops of 200.
    let (vms, rounds) = (10 * loops(), loops().div_ceil(5).max(2));
    // What the first one makes for good is no loss.
    drop(Vm::with_timeouts(geometry));
    memory_is_back("VMs made and gone", rounds * vms / 10, || {
        for _ in 0..rounds {
            let mut all: Vec<Vm> = (0..vms).map(|_| Vm::with_timeouts(geometry)).collect();
            for vm in &mut all {
                vm.ok(STOPWATCH_OP_START, 0, 0);
                vm.ok(STOPWATCH_OP_TIMEOUT, 1, 2_000_000);
            }
            assert_eq!(control().vms().expect("a list").len(), vms as usize);
            drop(all);
            assert_eq!(control().vms().expect("a list"), []);
        }
    });
    figure(format_args!("VMs made and gone: {vms} VMs, {rounds} times"));
}

/// Takes processor 1 away, and brings it back.
fn processor(online: bool) {
    let file = "/sys/devices/system/cpu/cpu1/online";
    fs::write(file, if online { "1" } else { "0" })
        .unwrap_or_else(|error| panic!("{file}: {error}"));
}

fn host_processors() {
    load();
    if fs::metadata("/sys/devices/system/cpu/cpu1/online").is_err() {
        figure("host processors: there is one, nothing was taken away");
        return;
    }
    let mut vm = Vm::with_timeouts(SMALL);
    let mut clock = Independent::start(vm.info().vm, Which::Number(0));
    for _ in 0..loops() {
        // Armed on the processor that goes.
        for watch in 1..8 {
            vm.ok(STOPWATCH_OP_TIMEOUT, watch, 5_000_000);
        }
        let before = vm.info();
        under_load(&vm.kicks[1..], || {
            processor(false);
            clock.check();
            processor(true);
        });
        let told = eventually(PATIENCE, || {
            let now = vm.info();
            now.events + now.events_lost >= before.events + before.events_lost + 7
        });
        assert!(
            told,
            "7 timeouts were armed, {:?} after {before:?}",
            vm.info()
        );
        while vm.guest.event().is_some() {}
        clock.check();
    }
    clock.tell("host processor 1 taken and given back");
}

static GUEST: OnceLock<Mutex<Guest>> = OnceLock::new();

fn lock(guest: &Mutex<Guest>) -> std::sync::MutexGuard<'_, Guest> {
    guest.lock().unwrap_or_else(PoisonError::into_inner)
}

const NAME: &str = "life";

fn monitor(name: &str) -> String {
    format!("{}/{name}.monitor", std::env::temp_dir().display())
}

fn boot(name: &str) -> Guest {
    load();
    let _ = fs::remove_file(monitor(name));
    let argument = format!("unix:{},server=on,wait=off", monitor(name));
    Guest::boot(name, &[], &[], &["-qmp", &argument])
}

/// The guest of most tests, up and with its driver.
fn guest() -> std::sync::MutexGuard<'static, Guest> {
    let mut guest = lock(GUEST.get_or_init(|| Mutex::new(boot(NAME))));
    guest.ready();
    if guest.run("test -e /dev/stopwatch").status != 0 {
        guest.load_driver();
    }
    guest
}

fn guest_processors() {
    let mut guest = guest();
    let online = "/sys/devices/system/cpu/cpu1/online";
    let mut clock = Independent::start(guest.vm().vm, Which::Number(20));
    for _ in 0..loops() {
        guest.shell(&format!(
            "echo 0 >{online}; stopwatch timeout 1 10ms --wait"
        ));
        clock.check();
        guest.shell(&format!(
            "echo 1 >{online}; stopwatch timeout 1 10ms --wait"
        ));
        clock.check();
    }
    clock.tell("guest processor 1 taken and given back");
}

fn driver_bound() {
    let mut guest = guest();
    let directory = "/sys/bus/pci/drivers/stopwatch";
    let device = guest
        .shell(&format!("ls {directory} | grep :"))
        .trim()
        .to_owned();
    let mut clock = Independent::start(guest.vm().vm, Which::Number(20));
    for _ in 0..loops() {
        guest.shell(&format!(
            "stopwatch timeout 1 1h; echo {device} >{directory}/unbind; test ! -e /dev/stopwatch"
        ));
        clock.check();
        guest.shell(&format!(
            "echo {device} >{directory}/bind; stopwatch timeout 1 10ms --wait"
        ));
        clock.check();
    }
    clock.tell("driver unbound and bound");
}

fn vm_paused() {
    let mut guest = guest();
    let vm = guest.vm().vm;
    let mut clock = Independent::start(vm, Which::Number(20));
    let mut qemu = Qmp::connect(monitor(NAME)).expect("QEMU listens");
    for _ in 0..loops() {
        let before = guest.vm().paused_ns;
        qemu.execute("stop", json!({})).expect("QEMU stops the VM");
        let begin = Instant::now();
        sleep(Duration::from_millis(30));
        clock.check();
        let least = begin.elapsed();
        qemu.execute("cont", json!({})).expect("QEMU goes on");
        let paused = guest.vm().paused_ns - before;
        assert!(
            u128::from(paused) >= least.as_nanos(),
            "{paused} ns paused by the host, at least {least:?} by its clock"
        );
        clock.check();
        guest.shell("stopwatch timeout 1 10ms --wait");
    }
    clock.tell("VM paused and resumed");
}

/// A device that comes and goes beside the guest's own, which its driver does not
/// serve meanwhile.
fn device_plugged() {
    let mut guest = guest();
    let own = guest
        .shell("ls /sys/bus/pci/drivers/stopwatch | grep :")
        .trim()
        .to_owned();
    let directory = "/sys/bus/pci/drivers/stopwatch";
    guest.shell(&format!("echo {own} >{directory}/unbind"));
    let socket = monitor(NAME);
    let there = "n=0; until [ -e /dev/stopwatch ]; do \
                 sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done";
    memory_is_back("device plugged and unplugged", loops(), || {
        for _ in 0..loops() {
            host_json(&["attach", "--qmp", &socket, "--name", "plugged"]);
            guest.shell(there);
            let vm = control().find("plugged").expect("it was attached").vm;
            let mut clock = Independent::start(vm, Which::Number(20));
            guest.shell("stopwatch timeout 1 10ms --wait");
            clock.check();
            let detached = host_json(&["detach", "--qmp", &socket]);
            assert_eq!(detached["detached"], true);
            let gone = eventually(PATIENCE, || control().find("plugged").is_err());
            assert!(gone, "the VM of a device that was unplugged is still there");
        }
    });
    guest.shell(&format!("echo {own} >{directory}/bind"));
}

fn guest_reboots() {
    let mut guest = guest();
    let mut clock = Independent::start(guest.vm().vm, Which::Number(20));
    for _ in 0..boots() {
        guest.shell("stopwatch timeout 1 1h");
        let resets = guest.vm().resets;
        guest.reboot();
        assert!(guest.vm().resets > resets, "the host noticed no reset");
        clock.check();
        guest.load_driver();
        guest.shell("stopwatch timeout 1 10ms --wait");
        clock.check();
    }
    clock.tell("guest rebooted");
}

fn guest_panics() {
    let mut guest = guest();
    let mut clock = Independent::start(guest.vm().vm, Which::Number(20));
    for _ in 0..boots() {
        guest.shell("stopwatch timeout 1 1h");
        let resets = guest.vm().resets;
        guest.panic();
        assert!(guest.vm().resets > resets, "the host noticed no reset");
        clock.check();
        guest.load_driver();
        guest.shell("stopwatch timeout 1 10ms --wait");
        clock.check();
    }
    clock.tell("guest panicked");
}

fn guest_log() {
    guest().check_log();
}

fn qemu_killed() {
    // The guest that is there is the first.
    drop(guest());
    let mut first = GUEST.get().map(lock);
    for round in 0..boots() {
        let mut other;
        let guest = match first.as_deref_mut().filter(|_| round == 0) {
            Some(guest) => guest,
            None => {
                other = boot(NAME);
                other.ready();
                other.load_driver();
                &mut other
            }
        };
        guest.shell("stopwatch reset; stopwatch timeout 1 30ms; stopwatch timeout 2 1h");
        let before = guest.vm();
        guest.send("stopwatch bench call --count 10000000");
        let busy = eventually(PATIENCE, || guest.vm().requests > before.requests + 1_000);
        assert!(busy, "the burst is under way");
        guest.kill();
        guest.end();
        let gone = eventually(Duration::from_secs(10), || {
            control().vm(before.vm).expect("an answer").is_none()
        });
        assert!(gone, "VM {} outlives its QEMU", before.vm);
    }
    figure(format_args!("QEMU killed in a burst: {} times", boots()));
}

fn nothing_is_held() {
    if let Some(guest) = GUEST.get() {
        lock(guest).end();
    }
    let module = host_module();
    load();
    assert_eq!(
        Control::open(DEVICE)
            .expect("it opens")
            .vms()
            .expect("a list"),
        []
    );
    let unloaded = eventually(Duration::from_secs(10), || module.unload().is_ok());
    assert!(unloaded, "it is in use {} times", module.uses());
    // Eventfds of before are nobody's: a kick of one does nothing.
    module.load().expect("it loads");
    let Vm { control, kicks, .. } = Vm::with_timeouts(SMALL);
    drop(control);
    let unloaded = eventually(Duration::from_secs(10), || module.unload().is_ok());
    assert!(unloaded, "it is in use {} times", module.uses());
    kick(&kicks[0]);
}
