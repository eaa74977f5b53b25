// SPDX-License-Identifier: MIT OR Apache-2.0

//! Everything that begins and ends, in loops: VMs, the module, processors, guests,
//! drivers, devices. A stopwatch that runs meanwhile is compared with this host's
//! `CLOCK_MONOTONIC_RAW` after each round; at the end what was taken has to be back,
//! and the modules have to unload.
//!
//! `STOPWATCH_LOOPS` says how often; `make test-lifecycle` says 100.

use std::fmt::Write as _;
use std::fs;
use std::ops::RangeBounds;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::{setrlimit, Resource, Rlimit};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use rustix::time::{clock_gettime, ClockId};
use serde_json::json;
use stopwatch::host::{map_region, Control, Geometry, Qmp, Region, DEVICE};
use stopwatch::{Act, Which};
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{Request, Status};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::harness::{control, kick, Vm, SMALL};
use stopwatch_tests::program::host_json;
use stopwatch_tests::suite::{environment, eventually, figure, host_module, run, watched};
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
        ("lifecycle::guest_boots_by_kexec", guest_kexec),
        ("lifecycle::qemu_killed_in_a_burst", qemu_killed),
        ("lifecycle::nothing_is_held", nothing_is_held),
    ];
    let trials: Vec<Trial> = tests
        .into_iter()
        .map(|(name, test)| watched(name, test))
        .collect();
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
        let _ = host.command(vm, &which, Act::Reset);
        let before = raw_ns();
        host.command(vm, &which, Act::Start).expect("it was reset");
        Self {
            vm,
            which,
            started: (before, raw_ns()),
            worst: 0,
            rounds: 0,
        }
    }

    /// What it shows, in ns.
    fn read(&self) -> u64 {
        let (_, reading) = control()
            .command(self.vm, &self.which, Act::Read)
            .expect("it is there");
        reading.elapsed_ns
    }

    /// Fails if it shows what it cannot by the other clock.
    fn check(&mut self) {
        let before = raw_ns();
        let elapsed_ns = self.read();
        let after = raw_ns();
        let least = before - self.started.1;
        let most = after - self.started.0;
        // CLOCK_MONOTONIC may be adjusted, by at most 500 in a million.
        let slack = most / 2000;
        assert!(
            elapsed_ns + slack >= least && elapsed_ns <= most + slack,
            "the stopwatch shows {elapsed_ns} ns; by CLOCK_MONOTONIC_RAW it is {least} to {most} ns"
        );
        let middle = least.midpoint(most);
        self.worst = self.worst.max(elapsed_ns.abs_diff(middle));
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

/// What a machine holds.
#[derive(Clone, Copy)]
struct Held {
    /// kB of each of [`KINDS`].
    memory: [u64; KINDS.len()],
    /// Pages of memfds, in hardware's or a module's hands. Always 0 of a guest.
    pinned: u64,
    /// Always 0 of a guest.
    vms: usize,
}

impl Held {
    /// By this host.
    fn here() -> Self {
        let read =
            |path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // Each processor counts for itself until it is asked.
        read("/proc/sys/vm/stat_refresh");
        let counts = read("/proc/vmstat");
        let count = |name: &str| {
            let mut lines = counts.lines().filter_map(|line| line.split_once(' '));
            let (_, count) = lines
                .find(|(key, _)| *key == name)
                .expect("Linux counts it");
            count.parse::<u64>().expect("a number")
        };
        let vms = match host_module().is_loaded() {
            true => control().vms().expect("a list").len(),
            false => 0,
        };
        Self {
            memory: memory(&read("/proc/meminfo")),
            pinned: count("nr_foll_pin_acquired") - count("nr_foll_pin_released"),
            vms,
        }
    }

    /// By a guest.
    fn there(guest: &mut Guest) -> Self {
        Self {
            memory: memory(&guest.shell("cat /proc/meminfo")),
            pinned: 0,
            vms: 0,
        }
    }

    /// Whether that is less than `slack` kB more than `before`, and nothing that can
    /// be counted.
    fn is_back(&self, before: &Self, slack: u64) -> bool {
        let mut kinds = before.memory.iter().zip(&self.memory);
        kinds.all(|(before, now)| now.saturating_sub(*before) < slack)
            && self.pinned <= before.pinned
            && self.vms <= before.vms
    }

    fn since(&self, before: &Self) -> String {
        let mut table = String::new();
        for ((kind, before), now) in KINDS.iter().zip(before.memory).zip(self.memory) {
            let _ = write!(table, " {kind} {:+} kB", now as i64 - before as i64);
        }
        let pinned = self.pinned as i64 - before.pinned as i64;
        let vms = self.vms as i64 - before.vms as i64;
        let _ = write!(table, " pinned: {pinned:+} pages, VMs: {vms:+}");
        table
    }
}

/// kB of each of [`KINDS`].
fn memory(meminfo: &str) -> [u64; KINDS.len()] {
    KINDS.map(|kind| {
        let line = meminfo.lines().find(|line| line.starts_with(kind));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        word.and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("there is no {kind} in /proc/meminfo"))
    })
}

/// Fails if much of what `rounds` have taken since `before` is not given back: what is
/// lost in each of them shows.
fn is_back(what: &str, rounds: u32, before: &Held, mut ask: impl FnMut() -> Held) {
    // Freed by RCU, in per-CPU caches, or of an inode that ends a moment later.
    let slack = 4096 + u64::from(rounds);
    let mut now = ask();
    let back = now.is_back(before, slack)
        || eventually(Duration::from_secs(20), || {
            sleep(Duration::from_millis(200));
            now = ask();
            now.is_back(before, slack)
        });
    let table = now.since(before);
    assert!(
        back,
        "{what}: not all is back after {rounds} rounds:{table}"
    );
    figure(format_args!("{what}: held after {rounds} rounds:{table}"));
}

/// Fails if this host does not get back what `act` took.
fn given_back(what: &str, rounds: u32, act: impl FnOnce()) {
    let before = Held::here();
    act();
    is_back(what, rounds, &before, Held::here);
}

fn load() {
    if !host_module().is_loaded() {
        host_module().load().expect("it loads");
    }
}

fn module_loaded() {
    let module = host_module();
    given_back("module", loops(), || {
        for _ in 0..loops() {
            module.load().expect("it loads");
            drop(Vm::with_timeouts(SMALL));
            let unloaded = eventually(Duration::from_secs(10), || module.unload().is_ok());
            assert!(unloaded, "it is in use {} times", module.uses());
        }
    });
}

/// What a VM has that is under load.
const LOADED: Geometry = Geometry { rings: 3, ..SMALL };

/// Requests on all rings of a VM but the first.
struct Load {
    rings: Vec<RequestRing>,
    region: Region,
    answered: AtomicU64,
}

/// Says that it is over, to threads that would go on for ever.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Load {
    fn new(vm: &Vm) -> Self {
        let layout = &vm.guest.layout;
        let rings = 1..layout.geometry().rings;
        Self {
            rings: rings
                .map(|ring| RequestRing::new(layout.ring(ring).expect("of the geometry")))
                .collect(),
            region: map_region(&vm.memfd, layout.region_size()).unwrap(),
            answered: AtomicU64::new(0),
        }
    }

    /// Asks from a thread for each ring until `act` returns. Each request has to be
    /// answered once.
    fn during(&mut self, kicks: &[OwnedFd], act: impl FnOnce(&AtomicU64)) {
        let (over, region, answered) = (AtomicBool::new(false), &self.region, &self.answered);
        thread::scope(|scope| {
            for (ring, eventfd) in self.rings.iter_mut().zip(&kicks[1..]) {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let request = Request {
                            op: STOPWATCH_OP_LAP as u16,
                            watch: 0,
                            ..Request::default()
                        };
                        let token = ring.post(region, request).expect("all others are answered");
                        // A VM that is stopped does not take what is written.
                        let mut reply = None;
                        let came = eventually(PATIENCE, || {
                            kick(eventfd);
                            reply = ring.poll(region, token);
                            reply.is_some()
                        });
                        assert!(came, "a request was not answered");
                        assert_eq!(reply.map(|reply| reply.status), Some(Ok(Status::Ok)));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let _end = End(&over);
            act(answered);
        });
    }
}

fn stop_and_start() {
    load();
    given_back("STOP and START under load", loops() * 10, || {
        let mut vm = Vm::with_timeouts(LOADED);
        for watch in 1..8 {
            vm.ok(STOPWATCH_OP_TIMEOUT, watch, 1_000_000 * u64::from(watch));
        }
        let mut clock = Independent::start(vm.info().vm, Which::Number(0));
        Load::new(&vm).during(&vm.kicks, |answered| {
            for _ in 0..loops() * 10 {
                vm.control.stop().expect("it was started");
                let before = answered.load(Ordering::Relaxed);
                sleep(Duration::from_micros(300));
                vm.control.start().expect("it was stopped");
                // Two may have been answered before, and not been counted yet.
                let goes_on =
                    eventually(PATIENCE, || answered.load(Ordering::Relaxed) > before + 2);
                assert!(goes_on, "nothing is answered after START");
                clock.check();
            }
        });
        let mut told = 0;
        eventually(PATIENCE, || {
            let info = vm.info();
            told = info.events + info.events_lost;
            told >= 7
        });
        assert_eq!(told, 7, "each timeout expires once");
        clock.tell("STOP and START under load");
    });
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
    let round = || {
        let mut all: Vec<Vm> = (0..vms).map(|_| Vm::with_timeouts(geometry)).collect();
        for vm in &mut all {
            vm.ok(STOPWATCH_OP_START, 0, 0);
            vm.ok(STOPWATCH_OP_TIMEOUT, 1, 2_000_000);
        }
        assert_eq!(control().vms().expect("a list").len(), vms as usize);
        drop(all);
        assert_eq!(control().vms().expect("a list"), []);
    };
    // What the kernel keeps of the first for the next is no loss.
    round();
    given_back("VMs made and gone", rounds - 1, || {
        for _ in 1..rounds {
            round();
        }
    });
    figure(format_args!("VMs made and gone: {vms} VMs, {rounds} times"));
}

/// Takes processor 1 away, or brings it back.
fn processor(online: bool) {
    let file = "/sys/devices/system/cpu/cpu1/online";
    fs::write(file, if online { "1" } else { "0" })
        .unwrap_or_else(|error| panic!("{file}: {error}"));
}

/// Does that on processor 1.
fn on_processor_1(act: impl FnOnce()) {
    let all = sched_getaffinity(None).expect("of this thread");
    let mut one = CpuSet::new();
    one.set(1);
    sched_setaffinity(None, &one).expect("processor 1 is there");
    act();
    sched_setaffinity(None, &all).expect("all processors are there");
}

fn host_processors() {
    load();
    if fs::metadata("/sys/devices/system/cpu/cpu1/online").is_err() {
        figure("host processors: there is one, nothing was taken away");
        return;
    }
    given_back("host processor 1 taken and given back", loops(), || {
        let mut vm = Vm::with_timeouts(LOADED);
        let mut clock = Independent::start(vm.info().vm, Which::Number(0));
        let mut load = Load::new(&vm);
        for _ in 0..loops() {
            let before = vm.info();
            // Set on the processor that goes. It takes some time: some expire while it
            // goes, some after.
            on_processor_1(|| {
                for watch in 1..8 {
                    vm.ok(STOPWATCH_OP_TIMEOUT, watch, 5_000_000 << watch);
                }
            });
            load.during(&vm.kicks, |_| {
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
    });
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
    // For kexec: two kernels at a time, and what they are loaded from.
    Guest::boot(name, &[], &[], &["-qmp", &argument, "-m", "512M"])
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
    given_back("guest processor 1 taken and given back", loops(), || {
        let mut clock = Independent::start(guest.vm().vm, Which::Number(20));
        for _ in 0..loops() {
            // A program waits on the processor that goes, for a timeout whose interrupt
            // is meant for that processor.
            guest.shell(&format!(
                "taskset 2 stopwatch timeout 1 1s --wait & sleep 0.2; echo 0 >{online}; wait $!"
            ));
            clock.check();
            guest.shell("stopwatch timeout 1 10ms --wait");
            guest.shell(&format!(
                "echo 1 >{online}; taskset 2 stopwatch timeout 1 10ms --wait"
            ));
            clock.check();
        }
        clock.tell("guest processor 1 taken and given back");
        guest.check_log();
    });
}

fn driver_bound() {
    let mut guest = guest();
    let directory = "/sys/bus/pci/drivers/stopwatch";
    let device = guest
        .shell(&format!("ls {directory} | grep :"))
        .trim()
        .to_owned();
    let before = Held::there(&mut guest);
    given_back("driver unbound and bound", loops(), || {
        let mut clock = Independent::start(guest.vm().vm, Which::Number(20));
        for _ in 0..loops() {
            let resets = guest.vm().resets;
            guest.shell(&format!(
                "stopwatch timeout 1 1h; echo {device} >{directory}/unbind; test ! -e /dev/stopwatch"
            ));
            clock.check();
            guest.shell(&format!(
                "echo {device} >{directory}/bind; stopwatch timeout 2 10ms --wait"
            ));
            assert_eq!(guest.vm().resets, resets + 2, "one by each of both");
            let forgotten = &guest.json("stopwatch show 1 --json")["deadline_ns"];
            assert!(forgotten.is_null(), "it is armed: {forgotten}");
            clock.check();
        }
        clock.tell("driver unbound and bound");
        guest.check_log();
    });
    let there = || Held::there(&mut guest);
    is_back(
        "driver unbound and bound, the guest",
        loops(),
        &before,
        there,
    );
}

fn vm_paused() {
    let mut guest = guest();
    let vm = guest.vm().vm;
    let mut qemu = Qmp::connect(monitor(NAME)).expect("QEMU listens");
    given_back("VM paused and resumed", loops(), || {
        let mut clock = Independent::start(vm, Which::Number(20));
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
        guest.check_log();
    });
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
    let before = Held::there(&mut guest);
    given_back("device plugged and unplugged", loops(), || {
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
        guest.check_log();
    });
    let there = || Held::there(&mut guest);
    is_back(
        "device plugged and unplugged, the guest",
        loops(),
        &before,
        there,
    );
    guest.shell(&format!("echo {own} >{directory}/bind"));
}

/// A guest that begins anew by `act`, again and again. A named stopwatch goes on
/// meanwhile, timeouts are forgotten; so many `resets` of the device come with the end
/// of the one system and the boot of the next, before the driver has its own.
fn booted(what: &str, resets: impl RangeBounds<u64>, mut act: impl FnMut(&mut Guest, u32)) {
    let mut guest = guest();
    guest.shell("stopwatch show kept 2>/dev/null || stopwatch create kept");
    given_back(what, boots(), || {
        let kept = "kept".parse().expect("a name");
        let mut clock = Independent::start(guest.vm().vm, kept);
        for round in 0..boots() {
            // What is armed interrupts the guest until the next driver resets the device.
            guest.shell(
                "stopwatch reset; stopwatch timeout 1 1h; stopwatch timeout 2 10ms --every 10ms",
            );
            guest.check_log();
            guest.shell("stopwatch bench call --count 10000000 >/dev/null 2>&1 &");
            let before = guest.vm();
            act(&mut guest, round);
            let booted = guest.vm();
            let by_boot = booted.resets - before.resets;
            assert!(resets.contains(&by_boot), "{by_boot} resets by the boot");
            clock.check();
            guest.load_driver();
            assert_eq!(guest.vm().resets, booted.resets + 1, "by the driver");
            let forgotten = &guest.json("stopwatch show 1 --json")["deadline_ns"];
            assert!(forgotten.is_null(), "it is armed: {forgotten}");
            let stray = guest.shell("dmesg | grep 'No irq handler' || true");
            assert_eq!(stray, "", "what was armed before interrupts this kernel");
            let least = clock.read();
            let shown = guest.json("stopwatch show kept --json");
            let (state, elapsed) = (&shown["state"], shown["elapsed_ns"].as_u64());
            assert_eq!(state, "running");
            assert!(
                elapsed >= Some(least) && elapsed <= Some(clock.read()),
                "{shown}"
            );
            // All rings, and more than a ring holds.
            guest.shell("stopwatch reset");
            for processors in [1, 2] {
                guest.shell(&format!(
                    "taskset {processors} stopwatch bench call --count 2000"
                ));
            }
            guest.shell("stopwatch timeout 1 10ms --wait");
            assert_eq!(guest.vm().bad_requests, before.bad_requests);
            clock.check();
        }
        guest.check_log();
        clock.tell(what);
    });
}

fn guest_reboots() {
    // One by the driver as it ends; QEMU may reset a machine twice.
    booted("guest rebooted", 2.., |guest, _| guest.reboot());
}

fn guest_panics() {
    booted("guest panicked", 1.., |guest, _| guest.panic());
}

/// The machine is not reset, so the kernel that comes finds the device as the driver of
/// the one before has left it.
fn guest_kexec() {
    let kernel = fs::read(environment("STOPWATCH_GUEST_BZIMAGE")).expect("a kernel");
    let initramfs = fs::read(environment("STOPWATCH_GUEST_INITRD")).expect("an initramfs");
    let mut guest = guest();
    let _qemu = plug_in(&[&kernel[..], &initramfs].concat());
    guest.shell(
        "n=0; until grep -q 0x1110 /sys/bus/pci/devices/*/device; do \
         sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done",
    );
    let line = guest.shell("cat /proc/cmdline");
    drop(guest);
    booted("guest booted by kexec", 1..=1, |guest, round| {
        guest.shell(&format!(
            "guest-kexec {} {} '{} round={round}'",
            kernel.len(),
            initramfs.len(),
            line.trim()
        ));
        guest.kexec();
        let line = guest.shell("cat /proc/cmdline");
        assert!(line.ends_with(&format!(" round={round}\n")), "{line}");
    });
}

/// Plugs memory with that in it into the guest of most tests.
fn plug_in(bytes: &[u8]) -> Qmp {
    let file = format!("{}/{NAME}.memory", std::env::temp_dir().display());
    let size = bytes.len().next_power_of_two();
    fs::write(&file, bytes).expect("there is room");
    let memory = fs::File::options().write(true).open(&file);
    memory
        .and_then(|memory| memory.set_len(size as u64))
        .expect("a file can grow");
    let mut qemu = Qmp::connect(monitor(NAME)).expect("QEMU listens");
    let memory = json!({
        "qom-type": "memory-backend-file", "id": "files", "mem-path": file, "size": size, "share": true,
    });
    qemu.execute("object-add", memory).expect("it has memory");
    fs::remove_file(&file).expect("it is there");
    let device = json!({ "driver": "ivshmem-plain", "id": "ivshmem", "memdev": "files" });
    qemu.execute("device_add", device)
        .expect("it is plugged in");
    qemu
}

fn qemu_killed() {
    // The guest that is there is the first.
    drop(guest());
    let mut first = GUEST.get().map(lock);
    kill(first.as_deref_mut().expect("it was booted"));
    drop(first);
    let rounds = boots() - 1;
    given_back("QEMU killed in a burst", rounds, || {
        for _ in 0..rounds {
            let mut guest = boot(NAME);
            guest.ready();
            guest.load_driver();
            kill(&mut guest);
        }
    });
    figure(format_args!("QEMU killed in a burst: {} times", boots()));
}

/// Kills QEMU while its guest makes calls and has timeouts armed.
fn kill(guest: &mut Guest) {
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
