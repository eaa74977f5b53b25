// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a VM gets, and what its guest does with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{fcntl_get_seals, SealFlags};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::slot::{Creation, Message, Request, Stamped, Status};
use stopwatch_protocol::words::{field, words_of};
use stopwatch_uapi as uapi;

use crate::qemu::{request, wait_for, Qemu};
use crate::server::{Directory, Server, OPTIONS, PROGRAM};

/// What a stopwatch of a name is made with.
pub(crate) fn create(name: &str) -> Message {
    Message::from(Creation {
        name: name.parse().unwrap(),
        uid: 1000,
        ..Creation::default()
    })
}

#[test]
fn the_handshake_is_qemu_s() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    assert_eq!(qemu.id, i64::from(uapi::STOPWATCH_IVSHMEM_PEER_GUEST));
    assert_eq!(qemu.doorbells.len(), 3, "two rings and a reset");
    assert_eq!(qemu.calls.len(), 3, "one for each vector");
    assert_eq!(server.serving["vectors"], 3);

    assert!(qemu.size.is_power_of_two());
    assert!(qemu.size >= qemu.layout.region_size());
    let seals = fcntl_get_seals(&qemu.memory).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW));
    assert_eq!(qemu.layout.geometry().stopwatches, 128);
    let ports = u64::from(uapi::STOPWATCH_F_PORT_DOORBELLS);
    let host_time = u64::from(uapi::STOPWATCH_F_HOST_TIME);
    assert_eq!(qemu.features & (ports | host_time), 0);

    let mut carrier = [0; words_of::<uapi::stopwatch_ivshmem>()];
    qemu.bar2
        .load_all(uapi::STOPWATCH_IVSHMEM_OFFSET, &mut carrier);
    assert_eq!(
        field!(stopwatch_ivshmem.backend).get32(&carrier),
        uapi::STOPWATCH_IVSHMEM_PROGRAM
    );
    assert_eq!(field!(stopwatch_ivshmem.flags).get(&carrier), 0);

    let connected = server.expect("connected");
    assert_eq!((connected["vm"].as_u64(), connected["pid"].as_u64()), {
        (Some(1), Some(std::process::id().into()))
    });
    drop(qemu);
    assert_eq!(server.expect("ended")["vm"], 1);
    let mode = fs::metadata(directory.socket()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert!(server.end(rustix::process::Signal::TERM).success());
    assert!(!directory.socket().exists(), "it is gone with the server");
}

#[test]
fn a_guest_uses_stopwatches() {
    let directory = Directory::new();
    let _server = Server::start(
        &directory.socket(),
        &format!("{OPTIONS} --auto-start boot --allow-host-time"),
    );
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    assert_ne!(qemu.features & u64::from(uapi::STOPWATCH_F_HOST_TIME), 0);
    let mut guest = qemu.bind();

    // The host started it, and the guest stops it.
    let boot = uapi::STOPWATCH_NUMBERED;
    let shown = guest.call(1, request(uapi::STOPWATCH_OP_PAUSE, boot, 0));
    assert!(shown.reading.elapsed_ns > 0);
    let record = Record::read(&qemu.bar2, qemu.layout.record(boot).unwrap()).unwrap();
    assert_eq!(record.elapsed_ns, shown.reading.elapsed_ns);
    assert_eq!(record.name.as_str(), "boot");

    // By both rings, one stopwatch.
    guest.call(0, request(uapi::STOPWATCH_OP_START, 3, 0));
    let lap = guest.call(1, request(uapi::STOPWATCH_OP_LAP, 3, 0)).reading;
    assert_eq!(lap.laps, 1);
    let mut laps = [0; 4];
    let got = Laps::read(&qemu.bar2, &qemu.layout, 3, None, &mut laps).unwrap();
    assert_eq!((got.count, laps[0]), (1, lap.lap_ns));
    let again = guest.ask(0, request(uapi::STOPWATCH_OP_START, 3, 0));
    assert_eq!(again.status, Ok(Status::Already));
    let none = guest.ask(0, request(uapi::STOPWATCH_OP_READ, 127, 0));
    assert_eq!(none.status, Ok(Status::BadWatch));
}

/// The engine begins with storage for 128, and gets more from the program.
#[test]
fn more_stopwatches_are_made_than_there_was_storage_for() {
    let directory = Directory::new();
    let _server = Server::start(
        &directory.socket(),
        "--backend program --stopwatches 600 --rings 1",
    );
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    for number in uapi::STOPWATCH_NUMBERED..600 {
        let made = guest.call(0, create(&format!("watch-{number}")));
        assert_eq!(made.watch, number);
    }
    let full = guest.ask(0, create("one-more"));
    assert_eq!(full.status, Ok(Status::Full));
}

#[test]
fn a_timeout_is_an_event_and_a_call() {
    let directory = Directory::new();
    let _server = Server::start(&directory.socket(), OPTIONS);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    guest.turn_on(u64::from(uapi::STOPWATCH_F_TIMEOUT));
    let arm = |watch, ns, interval| Request {
        interval,
        ..request(uapi::STOPWATCH_OP_TIMEOUT, watch, ns)
    };
    let armed = guest.call(1, arm(5, 20_000_000, 0)).reading;
    assert!(qemu.called(1, crate::qemu::PATIENCE), "by ring 1's vector");
    let event = guest.events.next(&qemu.bar2).unwrap();
    assert_eq!((event.watch, event.deadline_ns), (5, armed.deadline_ns));
    assert!(event.time_ns >= event.deadline_ns);
    assert!(!qemu.called(0, Duration::ZERO));

    // One that is disarmed in time does not come; one that is periodic does, again and again.
    guest.call(0, arm(6, 50_000_000, 0));
    guest.call(0, arm(7, 1_000_000, 1_000_000));
    guest.call(0, arm(6, 0, 0));
    let mut seen = 0;
    wait_for("three timeouts", || {
        while let Some(event) = guest.events.next(&qemu.bar2) {
            assert_eq!(event.watch, 7);
            seen += event.count;
        }
        seen >= 3
    });
}

#[test]
fn what_is_posted_is_done_in_order() {
    let directory = Directory::new();
    let _server = Server::start(&directory.socket(), OPTIONS);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    guest.turn_on(u64::from(uapi::STOPWATCH_F_POSTED));
    let now = guest
        .call(0, request(uapi::STOPWATCH_OP_READ, 0, 0))
        .reading
        .time_ns;
    let posted = |op: u32, stamp_ns| Stamped {
        op: op.try_into().unwrap(),
        watch: 9,
        generation: 0,
        stamp_ns,
    };
    // The later one in the ring that is looked at first; no doorbell for either.
    let pause = posted(uapi::STOPWATCH_OP_PAUSE, now + 3_000);
    let start = posted(uapi::STOPWATCH_OP_START, now + 1_000);
    guest.rings[0].post(&qemu.bar2, pause).unwrap();
    guest.rings[1].post(&qemu.bar2, start).unwrap();
    let shown = guest
        .call(0, request(uapi::STOPWATCH_OP_READ, 9, 0))
        .reading;
    assert_eq!(shown.elapsed_ns, 2_000);
}

#[test]
fn a_reset_leaves_what_the_header_says() {
    let directory = Directory::new();
    let _server = Server::start(&directory.socket(), OPTIONS);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    guest.turn_on(u64::from(uapi::STOPWATCH_F_TIMEOUT));
    let named = guest.call(0, create("kept")).watch;
    guest.call(0, request(uapi::STOPWATCH_OP_START, named, 0));
    let nameless = guest.call(0, Creation::default()).watch;
    let mut guest = qemu.bind();
    let kept = guest.call(0, request(uapi::STOPWATCH_OP_READ, named, 0));
    assert_eq!(kept.reading.state(), uapi::STOPWATCH_RUNNING);
    let gone = guest.ask(0, request(uapi::STOPWATCH_OP_READ, nameless, 0));
    assert_eq!(gone.status, Ok(Status::BadWatch));
    let timeout = guest.ask(0, request(uapi::STOPWATCH_OP_TIMEOUT, 0, 1));
    assert_eq!(timeout.status, Ok(Status::BadOp), "its feature is off");
}

/// The module is not there, and the program says what it does about that.
#[test]
fn the_backend_is_chosen_and_said() {
    let directory = Directory::new();
    let server = Server::start(
        &directory.socket(),
        "--rings 1 --device /no/such/vhost-stopwatch",
    );
    assert_eq!(server.serving["backend"], "program");
    let because = server.serving["because"].as_str().unwrap();
    assert!(
        because.starts_with("there is no /no/such/vhost-stopwatch"),
        "{because}"
    );
    drop(server);
    let directory = Directory::new();
    let (said, code) = crate::server::refusal(crate::server::command(
        &directory.socket(),
        "--backend module --device /no/such/vhost-stopwatch",
    ));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("load the host module first"), "{said}");
    assert!(!directory.socket().exists());
}

#[test]
fn busy_polling_is_bounded() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), &format!("{OPTIONS} --busy-poll 2000"));
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    for _ in 0..100 {
        guest.call(0, request(uapi::STOPWATCH_OP_READ, 0, 0));
    }
    // Afterwards it sleeps, and nothing wakes it up.
    std::thread::sleep(Duration::from_millis(100));
    let woken =
        || server.status("voluntary_ctxt_switches") + server.status("nonvoluntary_ctxt_switches");
    let before = woken();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(woken(), before);
}

/// A QEMU that is a script: what it is given, and that there is a server behind it.
#[test]
fn host_run_serves_a_qemu_of_its_own() {
    const QEMU: &str = r#"
        printf '%s\n' "$@" >"$1/arguments"
        for word; do case $word in socket,id=*,fd=*) fd=${word##*fd=} ;; esac; done
        # The version, and the client's ID.
        head -c 16 <&$fd | od -An -td8 -w8 >"$1/messages"
        "$0" --json host --device "$1/control" list >"$1/vms"
        exit 7
    "#;
    let directory = Directory::new();
    let status = Command::new(PROGRAM)
        .args([
            "host",
            "run",
            "--carrier",
            "ivshmem",
            "--rings",
            "2",
            "--name",
            "web",
        ])
        .arg("--control")
        .arg(directory.path().join("control"))
        .args([
            "--device",
            "/no/such/vhost-stopwatch",
            "--",
            "bash",
            "-c",
            QEMU,
            PROGRAM,
        ])
        .arg(directory.path())
        .args(["-m", "1G"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7), "the exit status is QEMU's");
    let arguments = fs::read_to_string(directory.path().join("arguments")).unwrap();
    let arguments: Vec<_> = arguments.lines().skip(1).collect();
    assert_eq!(arguments[..2], ["-m", "1G"]);
    assert_eq!(arguments[2], "-chardev");
    assert_eq!(
        arguments[4..],
        ["-device", "ivshmem-doorbell,vectors=3,chardev=stopwatch"]
    );
    let messages = fs::read_to_string(directory.path().join("messages")).unwrap();
    let messages: Vec<_> = messages.split_whitespace().collect();
    assert_eq!(messages, ["0", "1"]);
    let vms = fs::read(directory.path().join("vms")).unwrap();
    let vms: serde_json::Value = serde_json::from_slice(&vms).unwrap();
    assert_eq!(vms[0]["name"], "web");
    wait_for("the server's end", || {
        !directory.path().join("control").exists()
    });
}

/// What a call costs by a program that sleeps, and by one that does not; printed, not
/// judged.
#[test]
fn a_call_takes_a_wake_up() {
    const CALLS: u32 = 500;
    for busy_poll in [0, 1000] {
        let directory = Directory::new();
        let options = format!("{OPTIONS} --busy-poll {busy_poll}");
        let _server = Server::start(&directory.socket(), &options);
        let qemu = Qemu::connect(&directory.socket()).unwrap();
        let mut guest = qemu.bind();
        let since = Instant::now();
        for _ in 0..CALLS {
            let end = &mut guest.rings[0];
            let read = request(uapi::STOPWATCH_OP_READ, 0, 0);
            let token = end.post(&qemu.bar2, read).unwrap();
            qemu.ring(0);
            while end.poll(&qemu.bar2, token).is_none() {
                std::thread::yield_now();
            }
        }
        let each = since.elapsed().as_nanos() / u128::from(CALLS);
        println!("{each} ns a call, with --busy-poll {busy_poll}");
    }
}
