// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands of `stopwatch host` on VMs that the program serves.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde_json::Value;
use stopwatch::host::{Control, Error, Status, VmmStatus};
use stopwatch::{Act, Command, Which};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::slot::Stamped;
use stopwatch_uapi as uapi;

use crate::qemu::{request, Qemu};
use crate::server::{Directory, Server, OPTIONS, PROGRAM};

fn control_of(server: &Server) -> PathBuf {
    PathBuf::from(server.serving["control"].as_str().unwrap())
}

/// What `stopwatch host --json` prints.
fn host(control: &Path, arguments: &str) -> Value {
    let output = std::process::Command::new(PROGRAM)
        .args(["--json", "host", "--device"])
        .arg(control)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_host_s_commands_find_the_vms() {
    let directory = Directory::new();
    let server = Server::start(
        &directory.socket(),
        &format!("{OPTIONS} --name web --auto-start boot"),
    );
    let control = control_of(&server);
    assert_eq!(host(&control, "list").as_array().unwrap().len(), 0);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let _other = Qemu::connect(&directory.socket()).unwrap();
    let vms = host(&control, "list");
    let numbers: Vec<_> = vms.as_array().unwrap().iter().map(|vm| &vm["vm"]).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(vms[0]["name"], "web");
    assert_eq!(vms[0]["pid"], std::process::id());

    // One side starts and the other stops.
    let mut guest = qemu.bind();
    assert_eq!(host(&control, "start 1 5")["state"], "running");
    let stopped = guest.call(0, request(uapi::STOPWATCH_OP_PAUSE, 5, 0));
    let shown = host(&control, "read 1 5");
    assert_eq!(shown["elapsed_ns"], stopped.reading.elapsed_ns);
    assert_eq!(host(&control, "read 1 boot")["state"], "running");
    assert_eq!(host(&control, "create 1 disk")["name"], "disk");
    assert_eq!(host(&control, "delete 1 disk")["deleted"], true);
    let details = host(&control, "show 1");
    assert_eq!(details["watches"].as_array().unwrap().len(), 2);
    assert!(details["kicks"].as_u64().unwrap() >= 1);
    assert_eq!(details["resets"], 1);
}

#[test]
fn refusals_are_those_of_the_module() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let control = Control::open(control_of(&server)).unwrap();
    let _qemu = Qemu::connect(&directory.socket()).unwrap();
    let vm = control.find("1").unwrap();
    assert_eq!(vm.status, Status::Started);
    assert_eq!(vm.vmm_status, VmmStatus::Running);
    let watch = |number: u32| Which::Number(number);
    let command = |number, command: Command| control.command(1, &watch(number), command);
    command(2, Act::Start.into()).unwrap();
    assert!(matches!(
        command(2, Act::Start.into()),
        Err(Error::Running { .. })
    ));
    assert!(matches!(
        command(3, Act::Lap.into()),
        Err(Error::Stopped { .. })
    ));
    assert!(matches!(
        command(2, Command::Delete),
        Err(Error::Numbered { watch: 2 })
    ));
    assert!(matches!(
        command(100, Act::Read.into()),
        Err(Error::NoSuchWatch { .. })
    ));
    assert!(matches!(
        control.command(9, &watch(0), Act::Read),
        Err(Error::NoSuchWatch { vm: 9, .. })
    ));
    let name = "one".parse().unwrap();
    control.create(1, &name, Default::default()).unwrap();
    assert!(matches!(
        control.create(1, &name, Default::default()),
        Err(Error::NameTaken { watch: 64, .. })
    ));
    // Nobody tells the program of pauses.
    let skips = stopwatch::Creation {
        skip_paused: true,
        ..Default::default()
    };
    assert!(control.create(1, &"two".parse().unwrap(), skips).is_err());
    // What makes a VM is not for a socket.
    assert!(control.start().is_err());
    assert!(control.this_vm().unwrap().is_none());
}

#[test]
fn laps_are_the_host_s_own() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let control = Control::open(control_of(&server)).unwrap();
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    guest.call(0, request(uapi::STOPWATCH_OP_START, 1, 0));
    let taken: Vec<_> = (0..300)
        .map(|_| {
            guest
                .call(0, request(uapi::STOPWATCH_OP_LAP, 1, 0))
                .reading
                .lap_ns
        })
        .collect();
    // The guest changes what it sees of them, and everything else of the state pages.
    for offset in (qemu.layout.state()..qemu.layout.rings()).step_by(8) {
        qemu.bar2.store(offset, 0x4141_4141_4141_4141);
    }
    let laps = control.laps(1, 1).unwrap();
    assert_eq!((laps.total, laps.oldest), (300, 44));
    assert_eq!(laps.laps_ns, taken[44..]);
    assert_eq!(control.laps_from(1, 1, 298).unwrap().laps_ns, taken[298..]);
    assert!(matches!(
        control.laps_from(1, 1, 3),
        Err(Error::LapGone { oldest: 44, .. })
    ));
    let description = control.describe(1, 1).unwrap().unwrap();
    assert_eq!(description.laps, 300);
}

/// What was posted before a look is done before it.
#[test]
fn a_look_comes_after_what_was_posted() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let control = Control::open(control_of(&server)).unwrap();
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut guest = qemu.bind();
    guest.turn_on(u64::from(uapi::STOPWATCH_F_POSTED));
    let now = guest
        .call(0, request(uapi::STOPWATCH_OP_READ, 0, 0))
        .reading;
    for (op, after) in [
        (uapi::STOPWATCH_OP_START, 10),
        (uapi::STOPWATCH_OP_PAUSE, 35),
    ] {
        let posted = Stamped {
            op: op.try_into().unwrap(),
            watch: 4,
            generation: 0,
            stamp_ns: now.time_ns + after,
        };
        assert!(guest.rings[1].post_abandoned(&qemu.bar2, posted));
    }
    let (_, reading) = control.command(1, &Which::Number(4), Act::Read).unwrap();
    assert_eq!(reading.elapsed_ns, 25);
}

/// A connection that says whatever it likes.
fn caller(control: &Path) -> OwnedFd {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    connect(&socket, &SocketAddrUnix::new(control).unwrap()).unwrap();
    socket
}

#[test]
fn callers_that_talk_nonsense_harm_nobody() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let path = control_of(&server);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    let mut answer = [0; 4096];
    for message in [&b"x"[..], &[0; 8], &[0xff; 4096], &[0; 9]] {
        let caller = caller(&path);
        send(&caller, message, SendFlags::empty()).unwrap();
        let (_, size) = recv(&caller, &mut answer, RecvFlags::empty()).unwrap();
        assert!(size >= 8 && answer[..4] != [0; 4], "it is an error");
    }
    // A call that is cut short, of each that there is.
    for number in [
        uapi::VHOST_STOPWATCH_GET_VM,
        uapi::VHOST_STOPWATCH_COMMAND,
        uapi::VHOST_STOPWATCH_DESCRIBE,
        uapi::VHOST_STOPWATCH_LAPS,
    ] {
        let caller = caller(&path);
        let mut message = number.to_le_bytes().to_vec();
        message.resize(20, 0);
        send(&caller, &message, SendFlags::empty()).unwrap();
        let (_, size) = recv(&caller, &mut answer, RecvFlags::empty()).unwrap();
        assert!(size >= 8 && answer[..4] != [0; 4], "{number:#x}");
    }
    // One that asks and asks and does not read is dropped; so is who comes too many.
    let greedy = caller(&path);
    let mut message = uapi::VHOST_STOPWATCH_GET_FEATURES.to_le_bytes().to_vec();
    message.resize(24, 0);
    let asked = (0..100_000)
        .take_while(|_| send(&greedy, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok());
    assert!(asked.count() > 0);
    let many: Vec<_> = (0..100).map(|_| caller(&path)).collect();
    drop((greedy, many));
    let control = Control::open(&path).unwrap();
    assert_eq!(control.vms().unwrap().len(), 1);
    qemu.bind().call(1, request(uapi::STOPWATCH_OP_READ, 0, 0));
    drop(server);
    let error = control.vms().unwrap_err().to_string();
    assert!(error.contains("the server has ended"), "{error}");
    let error = Control::open(&path).unwrap_err().to_string();
    assert!(error.contains("start `stopwatch host serve`"), "{error}");
    let error = Control::open(directory.socket()).unwrap_err().to_string();
    assert!(error.contains("nobody serves there"), "{error}");
}

#[test]
fn the_other_socket_is_told_apart() {
    let directory = Directory::new();
    let _server = Server::start(&directory.socket(), OPTIONS);
    let error = Control::open(directory.socket()).unwrap_err().to_string();
    assert!(error.contains("the socket for control"), "{error}");
}
