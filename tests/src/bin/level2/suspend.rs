// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that suspends: its stopwatches, timeouts and files go on.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::{json, Value};
use stopwatch::host::{Control, Qmp, VmInfo, DEVICE};
use stopwatch::{Act, Which};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::harness::{Vm, SMALL};
use stopwatch_tests::suite::{environment, eventually, figure};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::guests::{elapsed_ns, monitor, monitor_argument, one};
use crate::strangers::device_argument;

tests![
    to_idle,
    to_memory,
    waking_up_from_memory_is_no_reset,
    hibernation_is_refused
];

/// The guest that suspends to memory.
const SLEEPER: &str = "deep-sleeper";

/// What is there before a guest suspends, and has to be there after it.
struct Before {
    vm: VmInfo,
    far: Value,
    suspended: Instant,
}

/// Starts number 40, arms 41 for an hour and 42 for a moment of the suspend, and
/// has a program wait for that.
fn prepare(guest: &mut Guest) -> Before {
    guest.shell("for n in 40 41 42; do stopwatch reset $n; done; stopwatch start 40");
    let far = guest.json("stopwatch timeout 41 1h --json")["deadline_ns"].clone();
    guest.shell("stopwatch events 42 --count 1 --json >/tmp/event 2>&1 & sleep 0.3");
    guest.shell("stopwatch timeout 42 5s");
    assert_eq!(guest.shell("cat /tmp/event"), "", "not before");
    Before {
        vm: guest.vm(),
        far,
        suspended: Instant::now(),
    }
}

/// The host goes on: it operates the stopwatches, and the timeout expires.
fn while_it_sleeps(before: &Before) {
    let host = Control::open(DEVICE).unwrap();
    let vm = before.vm.vm;
    let timeouts = || host.describe(vm, 42).unwrap().unwrap().timeouts;
    assert!(eventually(Duration::from_secs(30), || timeouts() == 1));
    sleep(Duration::from_millis(500));
    host.command(vm, &Which::Number(40), Act::Lap).unwrap();
}

/// Looks at all that while the guest is awake again.
fn check(guest: &mut Guest, before: &Before, how: &str) {
    let vm = guest.vm();
    assert_eq!(vm.resets, before.vm.resets, "the device was not reset");
    assert_eq!(vm.features, before.vm.features);
    assert_eq!(vm.bad_requests, before.vm.bad_requests);

    let host = Control::open(DEVICE).unwrap();
    let read = || {
        let (_, reading) = host.command(vm.vm, &Which::Number(40), Act::Read).unwrap();
        reading.elapsed_ns
    };
    // The first reading is a call, the next ones can be exit-free: what the guest
    // knew of the time before is not what it knows now.
    for _ in 0..3 {
        let least = read();
        let shown = guest.json("stopwatch show 40 --json");
        assert_eq!(
            (&shown["state"], &shown["laps"]),
            (&"running".into(), &1.into())
        );
        let elapsed = elapsed_ns(&shown);
        assert!(
            least <= elapsed && elapsed <= read(),
            "host and guest agree: {shown}"
        );
    }
    // Mapped readings are possible again, unless the kernel has lost its trust in the
    // CPU's counter, which where it is emulated may happen.
    let mut sample = String::new();
    let exit_free = eventually(Duration::from_secs(20), || {
        sample = guest.shell("stopwatch-sample-c");
        sample.contains("\nexit-free ")
    });
    let log = guest.shell("dmesg | grep -i tsc");
    assert!(exit_free || log.contains("nstable"), "{sample}{log}");
    let shown = guest.json("stopwatch show 41 --json");
    assert_eq!(shown["deadline_ns"], before.far, "it is armed as it was");
    let told = eventually(Duration::from_secs(20), || {
        guest.shell("cat /tmp/event").contains('}')
    });
    let event = guest.shell("cat /tmp/event");
    assert!(told, "the event came: {event}");
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(
        (&event["watch"], &event["timeouts"]),
        (&42.into(), &1.into())
    );
    let expired = guest.json("stopwatch timeout 43 10ms --wait --json");
    assert_eq!(expired["watch"], 43);
    figure(format_args!(
        "a guest suspended {how}: all as it was {:.1} s after, a timeout in between {:.6} s late \
         by the host's timer",
        before.suspended.elapsed().as_secs_f64(),
        event["late_ns"].as_u64().unwrap() as f64 / 1e9
    ));
    guest.shell("for n in 40 41 42 43; do stopwatch reset $n; done");
    guest.check_log();
}

/// How often the guest has suspended like that, by its kernel's log.
fn suspends(guest: &mut Guest, how: &str) -> usize {
    let log = guest.shell("dmesg");
    log.matches(&format!("PM: suspend entry ({how})")).count()
}

fn to_idle() {
    let mut guest = one();
    let suspends_before = suspends(&mut guest, "s2idle");
    let before = prepare(&mut guest);
    guest.shell("[ -d /sys/module/button ] || insmod /modules/button.ko");
    guest.send("echo freeze >/sys/power/state; echo $? >/tmp/status");
    // The timeout expires meanwhile, which does not wake it up.
    while_it_sleeps(&before);
    let mut qemu = Qmp::connect(monitor("one")).unwrap();
    guest.awake(|| {
        qemu.execute("system_powerdown", json!({})).unwrap();
    });
    assert_eq!(guest.shell("cat /tmp/status"), "0\n");
    assert_eq!(suspends(&mut guest, "s2idle"), suspends_before + 1);
    check(&mut guest, &before, "to idle");
}

/// A whole guest. It boots the compressed kernel, from the ROM of which nothing is
/// left when it wakes up: that of the lab's other guests QEMU loads from an ELF file,
/// and does so again at the reset by which the machine wakes up.
fn to_memory() {
    let kernel = environment("STOPWATCH_GUEST_BZIMAGE");
    let monitor_at = monitor_argument(SLEEPER);
    let arguments = ["-qmp", &monitor_at, "-kernel", &kernel];
    let mut guest = Guest::boot(SLEEPER, &[], &[], &arguments);
    guest.ready();
    guest.load_driver();
    let before = prepare(&mut guest);
    guest.send("echo deep >/sys/power/mem_sleep; echo mem >/sys/power/state; echo $? >/tmp/status");
    let mut qemu = Qmp::connect(monitor(SLEEPER)).unwrap();
    reaches(&mut qemu, "suspended");
    while_it_sleeps(&before);
    qemu.execute("system_wakeup", json!({})).unwrap();
    guest.awake(|| ());
    assert_eq!(guest.shell("cat /tmp/status"), "0\n");
    assert_eq!(suspends(&mut guest, "deep"), 1);
    check(&mut guest, &before, "to memory");
    guest.power_off();
}

/// A QEMU, ended with this.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// For the BIOS to boot: has the machine suspend to memory, by the register that
/// a `pc` has for that.
const SLEEPER_CODE: [u8; 10] = [
    0xba, 0x04, 0x06, // mov $0x604, %dx: PM1 control
    0xb8, 0x00, 0x24, // mov $0x2400, %ax: to memory, now
    0xef, // out %ax, %dx
    0xf4, 0xeb, 0xfd, // hlt, and again
];

/// The host's half of a suspend to memory: the reset by which the machine wakes
/// up is none of the device, any other one is. This process plays the driver, who
/// goes on in his rings.
fn waking_up_from_memory_is_no_reset() {
    let disk = env::temp_dir().join("sleeper.img");
    let mut sectors = vec![0; 1440 << 10];
    sectors[..SLEEPER_CODE.len()].copy_from_slice(&SLEEPER_CODE);
    sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&disk, sectors).unwrap();

    let mut vm = Vm::new(SMALL);
    let socket = env::temp_dir().join("sleeper.monitor");
    let qemu = Command::new(environment("STOPWATCH_QEMU"))
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-S",
            "-m",
            "32M",
        ])
        .args(["-machine", "pc,accel=kvm", "-cpu", "host", "-drive"])
        .arg(format!(
            "if=floppy,format=raw,readonly=on,file={}",
            disk.display()
        ))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        // What the BIOS does when it finds nobody to wake up: that ends it.
        .args(["-action", "reboot=shutdown,shutdown=pause"])
        .args(["-device", &device_argument(&vm)])
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU can be run");
    let _qemu = Qemu(qemu);
    let mut monitor = None;
    eventually(Duration::from_secs(60), || {
        monitor = Qmp::connect(&socket).ok();
        monitor.is_some()
    });
    let mut monitor = monitor.expect("QEMU listens");

    // The reset with which a machine begins was before.
    vm.guest.forget();
    vm.turn_on_timeouts();
    vm.ok(STOPWATCH_OP_START, 3, 0);
    let armed = vm.ok(STOPWATCH_OP_TIMEOUT, 4, 3_600_000_000_000);
    let before = vm.info();
    monitor.execute("cont", json!({})).unwrap();
    reaches(&mut monitor, "suspended");
    monitor.execute("system_wakeup", json!({})).unwrap();
    reaches(&mut monitor, "shutdown");

    let after = vm.info();
    assert_eq!(after.resets, before.resets, "none of the device");
    assert_eq!(after.features, before.features);
    assert!(vm.ok(STOPWATCH_OP_READ, 3, 0).running, "the rings go on");
    assert_eq!(
        vm.ok(STOPWATCH_OP_READ, 4, 0).deadline_ns,
        armed.deadline_ns
    );

    // Any other reset is one.
    let action = json!({ "reboot": "reset" });
    monitor.execute("set-action", action).unwrap();
    monitor.execute("system_reset", json!({})).unwrap();
    let reset = || vm.info().resets > after.resets;
    assert!(eventually(Duration::from_secs(10), reset));
    assert_eq!(vm.info().features.0, 0);
}

/// Waits until QEMU says that of its machine.
fn reaches(monitor: &mut Qmp, wanted: &str) {
    let mut last = Value::Null;
    let reached = eventually(Duration::from_secs(60), || {
        sleep(Duration::from_millis(20));
        last = monitor.execute("query-status", json!({})).unwrap()["status"].clone();
        last == wanted
    });
    assert!(reached, "the machine is {last}, expected {wanted}");
}

fn hibernation_is_refused() {
    let mut guest = one();
    // The one way into it that needs no swap space.
    let said = guest.run("exec 7</dev/snapshot");
    assert_ne!(said.status, 0);
    assert!(said.text.contains("not supported"), "{}", said.text);
    assert!(
        guest.shell("dmesg").contains("cannot hibernate"),
        "it says why"
    );
    guest.shell("stopwatch show");
    guest.shell("rmmod stopwatch && sh -c 'exec 7</dev/snapshot' && insmod /modules/stopwatch.ko");
    guest.shell("stopwatch show");
}
