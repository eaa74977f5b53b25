// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device without a driver, by its PCI resources: files in place of sysfs, and a thread in
//! place of the host.

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use stopwatch::guest::{Device, Error, Way};
use stopwatch::protocol::memory::Memory;
use stopwatch::{Act, Creation, Name, OpenError, Roots, Source, Timeout};
use stopwatch_uapi as uapi;

use common::{enabled, eventually, Control, Host, Machine, GEOMETRY};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A machine whose device is served, and the device, open.
fn open() -> (Machine, Host, Device) {
    let machine = Machine::new(GEOMETRY);
    let host = Host::serve(&machine);
    let device = Device::find_in(&machine.roots()).unwrap();
    (machine, host, device)
}

#[test]
fn commands_are_answered_and_names_kept() {
    let (machine, host, device) = open();
    let info = device.info().unwrap();
    assert_eq!((info.way, info.stopwatches), (Way::Resources, 96));
    assert_eq!(enabled(&machine.device()), "1\n");

    let boot = device
        .create(Some(&name("boot")), Creation::default())
        .unwrap();
    assert_eq!(device.number(&name("boot")).unwrap(), boot);
    assert!(matches!(
        device.create(Some(&name("boot")), Creation::default()),
        Err(Error::NameTaken { watch: Some(watch), .. }) if watch == boot
    ));
    assert!(device.command(boot, Act::Start).unwrap().running);
    assert!(matches!(
        device.command(boot, Act::Start),
        Err(Error::Running { .. })
    ));
    for lap in 1..=20 {
        assert_eq!(device.command(boot, Act::Lap).unwrap().laps, lap);
    }
    let paused = device.command(boot, Act::Pause).unwrap();
    assert_eq!((paused.running, paused.source), (false, Source::Call));
    assert!(matches!(
        device.command(boot, Act::Lap),
        Err(Error::Stopped { .. })
    ));
    let laps = device.laps(boot).unwrap();
    assert_eq!((laps.total, laps.laps_ns.len()), (20, 20));
    assert!(laps.laps_ns.is_sorted());
    assert_eq!(
        device.laps_from(boot, 18).unwrap().laps_ns,
        laps.laps_ns[18..]
    );
    let description = device.describe(boot).unwrap();
    assert_eq!(
        (description.name, description.laps),
        (Some(name("boot")), 20)
    );
    assert_eq!(device.descriptions().unwrap().len(), 65);
    for (watch, expected) in [(95, "no stopwatch 95"), (4096, "no stopwatch 4096")] {
        for error in [
            device.command(watch, Act::Read).unwrap_err(),
            device.describe(watch).unwrap_err(),
            device.laps(watch).unwrap_err(),
            device
                .post(watch, Act::Start)
                .and(device.command(watch, Act::Read).map(drop))
                .unwrap_err(),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    assert!(matches!(
        device.command(3, stopwatch::Command::Delete),
        Err(Error::Numbered { watch: 3 })
    ));
    drop(device);
    assert_eq!(enabled(&machine.device()), "0\n", "as it was before");
    assert_eq!(Control::get(&host.control.resets), 0);
}

#[test]
fn readings_ring_no_doorbell() {
    let (_machine, host, device) = open();
    device.command(7, Act::Start).unwrap();
    let reader = device.reader().unwrap();
    // A call that was disturbed teaches too little; the next one does.
    let known = eventually(|| {
        let _ = device.command(7, Act::Read);
        reader.read_exit_free(7).is_ok()
    });
    assert!(known, "{:?}", reader.read_exit_free(7));
    let kicks = Control::get(&host.control.kicks);
    let mut before = 0;
    for _ in 0..1000 {
        // It is known for a second, unless this machine has stopped for so long.
        let Ok(reading) = reader.read_exit_free(7) else {
            continue;
        };
        assert_eq!((reading.running, reading.source), (true, Source::ExitFree));
        assert!(reading.elapsed_ns >= before);
        before = reading.elapsed_ns;
    }
    assert_eq!(Control::get(&host.control.kicks), kicks);
    // A call agrees with it.
    let called = device.command(7, Act::Read).unwrap();
    let read = reader.read(7).unwrap();
    assert!(read.elapsed_ns + read.error_ns + called.error_ns >= called.elapsed_ns);
}

#[test]
fn posted_laps_are_carried_out_by_few_doorbells() {
    const LAPS: u32 = 2000;

    let (_machine, host, device) = open();
    device.command(7, Act::Start).unwrap();
    let mut poster = device.poster(7).unwrap();
    assert!(poster.has_ring());
    let before = Control::get(&host.control.kicks);
    for _ in 0..LAPS {
        poster.post(Act::Lap).unwrap();
    }
    // Without any call, by the thread.
    let carried_out = eventually(|| device.describe(7).unwrap().laps == LAPS);
    assert!(carried_out, "{:?}", device.describe(7));
    let kicks = Control::get(&host.control.kicks) - before;
    assert!(kicks < u64::from(LAPS) / 2, "{kicks} doorbells");
    drop(poster);
    // The request ring does the same, with a system call now and then.
    for _ in 0..20 {
        device.post(7, Act::Lap).unwrap();
    }
    assert_eq!(device.command(7, Act::Read).unwrap().laps, LAPS + 20);
    // Two at a time have a ring each, and one that is let go of is had again.
    let (mut one, mut two) = (device.poster(7).unwrap(), device.poster(8).unwrap());
    assert!(one.has_ring() && two.has_ring());
    one.post(Act::Lap).unwrap();
    two.post(Act::Start).unwrap();
    assert_eq!(device.command(7, Act::Read).unwrap().laps, LAPS + 21);
    assert!(device.command(8, Act::Read).unwrap().running);
    let many: Vec<_> = (0..uapi::STOPWATCH_MAX_POST_RINGS)
        .map(|_| device.poster(9).unwrap())
        .collect();
    let rings = many.iter().filter(|poster| poster.has_ring()).count();
    assert_eq!(rings, uapi::STOPWATCH_MAX_POST_RINGS as usize - 2);
    drop((many, one, two));
    assert!(device.poster(9).unwrap().has_ring());
}

#[test]
fn timeouts_are_looked_for() {
    let (_machine, _host, device) = open();
    assert!(device.next_event(Some(Duration::ZERO)).unwrap().is_none());
    let timeout = Timeout {
        ns: 2_000_000,
        interval_ns: 2_000_000,
        at_elapsed: false,
    };
    device.command(5, timeout).unwrap();
    // More than the ring has slots.
    for number in 0..20 {
        let event = device
            .next_event(Some(Duration::from_secs(20)))
            .unwrap()
            .unwrap();
        assert_eq!(event.watch, 5);
        assert!(event.timeouts > number);
    }
}

#[test]
fn a_script_uses_stopwatches_by_name() {
    let machine = Machine::new(GEOMETRY);
    let host = Host::serve(&machine);
    machine.json("create boot");
    assert_eq!(machine.json("start boot")["state"], "running");
    assert_eq!(machine.json("lap boot")["laps"], 1);
    machine.json("timeout boot 1h");
    // The next program leaves it armed: it does not reset the device.
    assert!(machine.json("show boot")["deadline_ns"].is_u64());
    // Several times around the ring.
    for lap in 2..30 {
        assert_eq!(machine.json("lap boot")["laps"], lap);
    }
    let stopped = machine.json("pause boot");
    assert_eq!(
        machine.json("show boot")["elapsed_ns"],
        stopped["elapsed_ns"]
    );
    assert_eq!(machine.json("list")[0]["name"], "boot");
    let expired = machine.json("timeout boot 5ms --wait");
    assert_eq!(
        (&expired["name"], &expired["timeouts"]),
        (&"boot".into(), &1.into())
    );
    machine.json("delete boot");
    let said = machine.run("show boot");
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.errors.contains("create boot"), "{said:?}");
    assert_eq!(Control::get(&host.control.resets), 0);
    assert_eq!(enabled(&machine.device()), "0\n");

    // An anonymous one goes with its program, and the command may use the device itself.
    let mut run = machine.program("run --");
    let inner = machine.program("start 3");
    run.arg(inner.get_program()).args(inner.get_args());
    let said = common::Said::of(run.output().unwrap());
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.errors.contains("difference"), "{said:?}");
    assert!(said.output.contains("stopwatch 3: running"), "{said:?}");
    assert_eq!(machine.json("list").as_array().unwrap().len(), 1);
}

#[test]
fn two_programs_have_it_one_after_the_other() {
    let (machine, _host, device) = open();
    device.command(3, Act::Start).unwrap();
    let said = machine.run("show 3");
    assert_eq!(said.status, Some(3), "{said:?}");
    let holder = format!("process {} (", std::process::id());
    assert!(said.errors.contains(&holder), "{said:?}");
    assert!(said.errors.contains("one program at a time"), "{said:?}");
    let reader = device.reader().unwrap();
    device.let_go();
    assert_eq!(machine.json("lap 3")["laps"], 1);
    // What needs no call goes on, what does takes the device back.
    let _ = reader.read_exit_free(3);
    assert_eq!(device.command(3, Act::Lap).unwrap().laps, 2);
    assert_eq!(machine.run("show 3").status, Some(3));
    // A post ring is not let go of.
    let poster = device.poster(3).unwrap();
    device.let_go();
    assert_eq!(machine.run("show 3").status, Some(3));
    drop(poster);

    // Who waits has it when the other one ends.
    let waiting = machine
        .program("lap 3 --json")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(100));
    drop(device);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn many_programs_at_once_lose_nothing() {
    const PROGRAMS: u32 = 4;

    let machine = Machine::new(GEOMETRY);
    let _host = Host::serve(&machine);
    machine.json("start 3");
    let all: Vec<_> = (0..PROGRAMS)
        .map(|_| {
            machine
                .program("lap 3")
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut program in all {
        assert!(program.wait().unwrap().success());
    }
    assert_eq!(machine.json("show 3")["laps"], PROGRAMS);
}

#[test]
fn a_program_that_is_killed_in_a_call_leaves_a_device_that_works() {
    let machine = Machine::new(GEOMETRY);
    let host = Host::serve(&machine);
    machine.json("create boot");
    machine.json("start boot");
    // The features are turned on; after that nobody answers.
    let requests = Control::get(&host.control.requests);
    host.control
        .silent_after
        .store(requests + 1, Ordering::SeqCst);
    let kicks = Control::get(&host.control.kicks);
    let mut killed = machine.program("start 3").spawn().unwrap();
    assert!(eventually(|| Control::get(&host.control.kicks) >= kicks + 2));
    killed.kill().unwrap();
    killed.wait().unwrap();
    host.control.silent_after.store(0, Ordering::SeqCst);
    host.control.is_silent.store(false, Ordering::SeqCst);

    // What it asked for is taken back, and nothing else is lost.
    let said = machine.run("show 3 --json");
    assert_eq!((said.status, said.errors.as_str()), (Some(0), ""));
    assert!(said.output.contains("stopped"), "{said:?}");
    assert_eq!(machine.json("show boot")["state"], "running");
    assert_eq!(Control::get(&host.control.resets), 0);
}

#[test]
fn what_a_killed_program_has_posted_is_carried_out() {
    let machine = Machine::new(GEOMETRY);
    let host = Host::serve(&machine);
    let resets;
    {
        let device = Device::find_in(&machine.roots()).unwrap();
        // Until the time is known, which it is for a second: else this is a call.
        let posted = eventually(|| {
            host.control.is_silent.store(false, Ordering::SeqCst);
            let _ = device
                .post(3, Act::Reset)
                .and(device.command(3, Act::Start).map(drop));
            // Its doorbells do not arrive.
            host.control.is_silent.store(true, Ordering::SeqCst);
            device.post(3, Act::Lap).is_ok()
        });
        assert!(posted);
        resets = Control::get(&host.control.resets);
    }
    host.control.is_silent.store(false, Ordering::SeqCst);
    let said = machine.run("show 3 --json");
    assert!(said.output.contains("\"laps\":1"), "{said:?}");
    assert_eq!(said.errors, "");
    assert_eq!(Control::get(&host.control.resets), resets);
}

#[test]
fn a_silent_host_is_waited_for_so_long_and_no_longer() {
    let (machine, host, device) = open();
    device.command(3, Act::Start).unwrap();
    host.control.is_silent.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    let error = device.command(3, Act::Pause).unwrap_err();
    assert!(matches!(error, Error::NoAnswer), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert!(error.to_string().contains("within 2000 ms"), "{error}");
    // What was given up is not carried out.
    host.control.is_silent.store(false, Ordering::SeqCst);
    assert!(device.command(3, Act::Read).unwrap().running);
    assert_eq!(Control::get(&host.control.resets), 0);

    host.control.is_silent.store(true, Ordering::SeqCst);
    device.command(3, Act::Pause).unwrap_err();
    drop(device);
    // It may be that the rings tell another place than the host's: so it is reset, once that is
    // possible.
    let said = machine.run("pause 3");
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.errors.contains("did not answer within"), "{said:?}");
    assert_eq!(Control::get(&host.control.resets), 1);
    host.control.is_silent.store(false, Ordering::SeqCst);
    assert_eq!(machine.json("show 3")["state"], "running");
}

/// Slots that tell a place, and not that of the host.
#[test]
fn rings_that_tell_the_wrong_place_are_reset() {
    let (machine, host, device) = open();
    device
        .create(Some(&name("boot")), Creation::default())
        .unwrap();
    device.command(3, Act::Start).unwrap();
    drop(device);
    let region = machine.region();
    let ring = machine.layout.ring(0).unwrap();
    for slot in 0..ring.count() {
        region.store(ring.slot(slot), 0);
    }
    // The first one cannot know that it is not for the host.
    assert_eq!(machine.run("show 3").status, Some(1));
    let said = machine.run("show 3 --json");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.output.contains("running"), "{said:?}");
    for part in [
        "the device was reset",
        "neither the last program nor this one",
    ] {
        assert!(said.errors.contains(part), "{said:?}");
    }
    // And those that tell none, at once.
    region.store(ring.slot(5), 1 << 9);
    let said = machine.run("show boot");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(
        said.errors.contains("not as a program leaves them"),
        "{said:?}"
    );
    assert_eq!(Control::get(&host.control.resets), 2);
    assert_eq!(machine.run("show boot").errors, "");
}

#[test]
fn a_driver_that_came_meanwhile_is_noticed() {
    let (machine, host, device) = open();
    device.command(3, Act::Start).unwrap();
    machine.bind("stopwatch");
    // As a driver does when it binds.
    machine.registers().store(uapi::STOPWATCH_REG_RESET, 1);
    assert!(eventually(|| Control::get(&host.control.resets) == 1));
    let bound = |error: Error| {
        assert!(
            matches!(error, Error::Open(OpenError::Bound { .. })),
            "{error}"
        );
        assert!(error.to_string().contains("/dev/stopwatch"), "{error}");
    };
    let noticed = eventually(|| device.command(3, Act::Lap).is_err());
    assert!(noticed);
    bound(device.command(3, Act::Lap).unwrap_err());
    bound(device.next_event(None).unwrap_err());
    bound(device.poster(3).unwrap_err());
    machine.unbind();
    // It is gone again, and the stopwatch was not its.
    assert!(device.command(3, Act::Read).unwrap().running);
}

#[test]
fn another_driver_is_not_disturbed() {
    let machine = Machine::new(GEOMETRY);
    machine.bind("vfio-pci");
    let error = Device::find_in(&machine.roots()).unwrap_err().to_string();
    for part in [
        "0000:00:04.0 has the driver vfio-pci",
        "drivers/vfio-pci/unbind",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(enabled(&machine.device()), "0\n", "it was not touched");
    let said = machine.run("show");
    assert_eq!(said.status, Some(3), "{said:?}");
}

#[test]
fn no_device_says_what_was_looked_for() {
    let error = Device::find_in(&Roots::under("/nowhere"))
        .unwrap_err()
        .to_string();
    for part in [
        "/nowhere/dev/stopwatch",
        "1234:5357",
        "/nowhere/sys/bus/pci/devices",
        "stopwatch host run",
    ] {
        assert!(error.contains(part), "no {part} in: {error}");
    }
    let machine = Machine::new(GEOMETRY);
    fs::write(machine.device().join("vendor"), "0x8086\n").unwrap();
    let said = machine.run("show");
    assert_eq!(said.status, Some(3), "{said:?}");
    assert!(
        said.errors
            .contains("not a directory of a PCI device 1234:5357"),
        "{said:?}"
    );
}

/// The driver's node comes first, whatever is behind it.
#[test]
fn the_driver_is_used_where_it_is() {
    let (machine, _host, device) = open();
    drop(device);
    symlink("/dev/null", machine.roots().node()).unwrap();
    let error = Device::find_in(&machine.roots()).unwrap_err();
    assert!(
        matches!(error, Error::Open(OpenError::OtherDevice { .. })),
        "{error}"
    );
}

/// Of the kernel's EPERM: a file that may be opened for writing, and not be mapped so.
#[test]
fn lockdown_is_named() {
    let machine = Machine::new(GEOMETRY);
    for resource in ["resource0", "resource2"] {
        let size = fs::metadata(machine.device().join(resource)).unwrap().len();
        let file = memfd_create("locked", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, size).unwrap();
        fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
        let path = machine.device().join(resource);
        let kept = path.with_extension("kept");
        fs::rename(&path, &kept).unwrap();
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &path).unwrap();
        let error = Device::find_in(&machine.roots()).unwrap_err();
        assert!(
            matches!(error, Error::Open(OpenError::Lockdown { .. })),
            "{error}"
        );
        for part in [
            "locked down",
            resource,
            "insmod stopwatch.ko",
            "Secure Boot",
        ] {
            assert!(error.to_string().contains(part), "no {part} in: {error}");
        }
        assert_eq!(enabled(&machine.device()), "0\n", "as it was before");
        fs::rename(&kept, &path).unwrap();
    }
}

#[test]
fn a_device_that_is_something_else_is_told_apart() {
    let machine = Machine::new(GEOMETRY);
    let strange = |expected: &str| {
        let error = Device::find_in(&machine.roots()).unwrap_err();
        assert!(
            matches!(error, Error::Open(OpenError::Strange { .. })),
            "{error}"
        );
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(enabled(&machine.device()), "0\n", "as it was before");
    };
    let registers = machine.registers();
    let info: Vec<_> = (0..16).map(|word| registers.load(8 * word)).collect();
    // What a device says that does not decode its memory.
    registers.store(0, u64::MAX);
    strange("magic must be 0x504f5453, got 0xffffffff");
    registers.store(0, info[0] + (1 << 32));
    strange("device of version 3");
    registers.store(0, info[0]);
    let region = machine.device().join("resource2");
    let file = fs::OpenOptions::new().write(true).open(&region).unwrap();
    file.set_len(4096).unwrap();
    strange("has 4096 bytes, expected");
    fs::remove_file(&region).unwrap();
    strange("it has no ");
}

/// A host that writes anything, into all of the region or a part of it: every command ends,
/// with a message if it fails.
#[test]
fn garbage_is_survived() {
    let machine = Machine::new(GEOMETRY);
    let region = machine.region();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || -> u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let end = machine.layout.region_size();
    let rings = machine.layout.rings();
    for (from, value) in [(0x1000, None), (0x1000, Some(u64::MAX)), (rings, Some(4))] {
        for offset in (from..end).step_by(8) {
            region.store(offset, value.unwrap_or_else(&mut next));
        }
        for command in ["list --all", "timeout 2 1ms --wait"] {
            let begin = Instant::now();
            let said = machine.run(command);
            assert_eq!(said.status, Some(1), "{command}: {said:?}");
            assert!(said.errors.starts_with("error: "), "{command}: {said:?}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{command}");
        }
    }
}

/// One that answers, and shows garbage where there is nothing to wait for.
#[test]
fn records_that_are_never_done_are_given_up() {
    let (machine, _host, device) = open();
    let region = machine.region();
    let offset = machine.layout.record(70).unwrap();
    // Being written, for ever; and a name that is none.
    region.store(offset, (u64::from(uapi::STOPWATCH_RECORD_EXISTS) << 32) | 1);
    for error in [
        device.describe(70).unwrap_err(),
        device.descriptions().unwrap_err(),
        device.number(&name("boot")).unwrap_err(),
        device.laps(70).unwrap_err(),
    ] {
        assert!(matches!(error, Error::StrangeAnswer), "{error}");
    }
    device.command(3, Act::Start).unwrap();
    // Events that no host writes.
    region.store(machine.layout.events().slot(0), 0xffff);
    let error = device.next_event(None).unwrap_err();
    assert!(matches!(error, Error::StrangeAnswer), "{error}");
}

/// The points of a clock relation's file.
fn points(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = fs::read(path).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    file["points"].as_array().unwrap().clone()
}

#[test]
fn a_clock_is_related_while_a_command_runs() {
    let machine = Machine::new(GEOMETRY);
    let _host = Host::serve(&machine);
    let path = machine.device().join("relation.json");
    let measure = |more: &[&str]| {
        let mut program = machine.program("clock-relation --interval 20ms --output");
        common::Said::of(program.arg(&path).args(more).output().unwrap())
    };
    let said = measure(&[]);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(
        said.output.starts_with("1 points, the last one ± "),
        "{said:?}"
    );
    assert_eq!(points(&path).len(), 1);

    // Its output is its own, and so is its exit status.
    let said = measure(&["--", "sh", "-c", "echo made; exit 7"]);
    assert_eq!(
        (said.status, said.output.as_str()),
        (Some(7), "made\n"),
        "{said:?}"
    );
    let measured = points(&path);
    assert!(measured.len() >= 3, "{measured:?}");
    for pair in measured.windows(2) {
        let [one, next] = [&pair[0], &pair[1]].map(|point| point["guest_ns"].as_i64().unwrap());
        assert!(one < next, "{measured:?}");
        // One clock here, so that the offset is the same within what is said of it.
        let ends = |point: &serde_json::Value, end: &str| point["offset"][end].as_i64().unwrap();
        assert!(ends(&pair[0], "lo") <= ends(&pair[1], "hi") + 1_000_000);
        assert!(ends(&pair[1], "lo") <= ends(&pair[0], "hi") + 1_000_000);
    }

    let other = r#"{"format": "stopwatch-clock-relation", "version": 1, "boot_id": "another",
        "points": [{"guest_ns": 1, "offset": {"ns": 0, "lo": 0, "hi": 0}}]}"#;
    fs::write(&path, other).unwrap();
    let said = measure(&[]);
    assert_eq!(said.status, Some(1));
    assert!(
        said.errors.contains("of another boot of this guest"),
        "{said:?}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), other);
}
