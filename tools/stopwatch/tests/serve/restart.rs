// SPDX-License-Identifier: MIT OR Apache-2.0

//! A server that is started again, by a service manager that keeps descriptors: this test.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use rustix::io::{fcntl_setfd, FdFlags};
use rustix::net::{
    bind, listen, recvmsg, socket_with, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::Signal;
use stopwatch::host::Control;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_uapi as uapi;

use crate::qemu::{request, wait_for, Qemu, PATIENCE};
use crate::server::{command, refusal, Directory, Server, OPTIONS, PROGRAM};
use crate::used::create;

/// As much of systemd as it takes.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
    store: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new(directory: &Directory) -> Self {
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path,
            store: BTreeMap::new(),
        }
    }

    /// Takes a message, and does what it says. Its lines.
    fn take(&mut self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let text = String::from_utf8(bytes[..got.bytes].to_vec()).unwrap();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME="));
        let has = |wanted: &str| lines.iter().any(|line| line == wanted);
        if has("FDSTORE=1") {
            assert!(has("FDPOLL=0"), "{lines:?}");
            let fds = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let fd = fds.flatten().next().unwrap();
            self.store.insert(name.unwrap().into(), fd);
        }
        if has("FDSTOREREMOVE=1") {
            assert!(self.store.remove(name.unwrap()).is_some());
        }
        lines
    }

    fn expect(&mut self, line: &str) {
        while !self.take().iter().any(|got| got == line) {}
    }

    /// Has a server started, with what is kept, and a socket to listen with.
    fn start(&self, server: Command, listening: &[BorrowedFd<'_>]) -> Server {
        let mut script = String::from("exec ");
        let mut names = Vec::new();
        let kept = self
            .store
            .iter()
            .map(|(name, fd)| (name.as_str(), fd.as_fd()));
        let sockets = listening.iter().map(|socket| ("stopwatch.socket", *socket));
        for (name, fd) in kept.chain(sockets) {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
            // Out of the way of the numbers that they get.
            write!(script, "{}<&{} ", names.len() + 300, fd.as_raw_fd()).unwrap();
            names.push(name);
        }
        for number in 0..names.len() {
            write!(
                script,
                "{}<&{} {}<&- ",
                number + 3,
                number + 300,
                number + 300
            )
            .unwrap();
        }
        if !names.is_empty() {
            let (count, names) = (names.len(), names.join(":"));
            write!(
                script,
                "\nexport LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}"
            )
            .unwrap();
        }
        script += "\nexec \"$@\"";
        let mut bash = Command::new("bash");
        bash.args(["-c", &script, "bash"])
            .arg(server.get_program())
            .args(server.get_args())
            .env("NOTIFY_SOCKET", &self.path);
        let server = Server::spawn(bash);
        for fd in self.store.values() {
            fcntl_setfd(fd, FdFlags::CLOEXEC).unwrap();
        }
        server
    }
}

#[test]
fn a_restart_keeps_the_vms() {
    let directory = Directory::new();
    let mut manager = Manager::new(&directory);
    let socket = directory.socket();
    let server = manager.start(command(&socket, OPTIONS), &[]);
    manager.expect("READY=1");
    let qemu = Qemu::connect(&socket).unwrap();
    let other = Qemu::connect(&socket).unwrap();
    server.expect("connected");
    server.expect("connected");
    manager.expect("FDNAME=vm-1");
    manager.expect("FDNAME=vm-2");

    let mut guest = qemu.bind();
    guest.turn_on(u64::from(uapi::STOPWATCH_F_TIMEOUT));
    let first = guest.call(0, create("first")).watch;
    let second = guest.call(0, create("second")).watch;
    let third = guest.call(1, create("third")).watch;
    guest.call(0, request(uapi::STOPWATCH_OP_DELETE, second, 0));
    guest.call(0, request(uapi::STOPWATCH_OP_START, third, 0));
    guest.call(0, request(uapi::STOPWATCH_OP_START, 3, 0));
    for _ in 0..300 {
        guest.call(0, request(uapi::STOPWATCH_OP_LAP, 3, 0));
    }
    let stopped = guest
        .call(0, request(uapi::STOPWATCH_OP_PAUSE, 3, 0))
        .reading;
    let running = guest
        .call(0, request(uapi::STOPWATCH_OP_READ, third, 0))
        .reading;
    let mut laps = [0; 256];
    Laps::read(&qemu.bar2, &qemu.layout, 3, None, &mut laps).unwrap();
    let generation = qemu.reset_generation();
    while qemu.called(0, std::time::Duration::ZERO) {}

    assert_eq!(server.end(Signal::KILL).code(), None);
    for round in 1..=2 {
        let server = manager.start(command(&socket, OPTIONS), &[]);
        let taken = [server.expect("taken-over"), server.expect("taken-over")];
        assert_eq!([&taken[0]["vm"], &taken[1]["vm"]], [1, 2]);
        // The driver sees that its device was reset, and is called to look.
        wait_for("a reset by the server", || {
            qemu.reset_generation() == generation.wrapping_add(2 * round - 1)
        });
        assert!(qemu.called(0, PATIENCE) && qemu.called(1, PATIENCE));

        let mut guest = qemu.bind();
        let shown = guest
            .call(0, request(uapi::STOPWATCH_OP_READ, 3, 0))
            .reading;
        assert_eq!(shown.elapsed_ns, stopped.elapsed_ns);
        assert_eq!((shown.laps, shown.lap_ns), (256, stopped.lap_ns));
        let mut now = [0; 256];
        Laps::read(&qemu.bar2, &qemu.layout, 3, None, &mut now).unwrap();
        assert_eq!(now, laps);
        // VM time went on, and so did what ran.
        let shown = guest
            .call(0, request(uapi::STOPWATCH_OP_READ, third, 0))
            .reading;
        assert_eq!(shown.state(), uapi::STOPWATCH_RUNNING);
        assert_eq!(
            shown.time_ns - shown.elapsed_ns,
            running.time_ns - running.elapsed_ns
        );
        let record = |watch| Record::read(&qemu.bar2, qemu.layout.record(watch).unwrap()).unwrap();
        assert_eq!(record(first).name.as_str(), "first");
        assert_eq!(record(third).name.as_str(), "third");
        assert_eq!((record(third).uid, record(second).exists), (1000, false));

        // A new one is none of theirs.
        let newcomer = Qemu::connect(&socket).unwrap();
        let vm = server.expect("connected")["vm"].as_u64().unwrap();
        assert!(vm > 2);
        drop(newcomer);
        server.expect("ended");
        manager.expect("FDSTOREREMOVE=1");
        other.bind().call(1, request(uapi::STOPWATCH_OP_READ, 0, 0));
        assert!(server.end(Signal::TERM).success());
    }

    // One that ends while there is no server is seen to have.
    drop(other);
    let server = manager.start(command(&socket, OPTIONS), &[]);
    server.expect("taken-over");
    server.expect("taken-over");
    assert_eq!(server.expect("ended")["vm"], 2);
    manager.expect("FDSTOREREMOVE=1");
    assert_eq!(manager.store.keys().collect::<Vec<_>>(), ["vm-1"]);
    qemu.bind().call(0, request(uapi::STOPWATCH_OP_READ, 0, 0));
}

#[test]
fn the_manager_s_sockets_are_used() {
    let directory = Directory::new();
    let mut manager = Manager::new(&directory);
    let vmms = UnixListener::bind(directory.socket()).unwrap();
    let path = directory.path().join("elsewhere");
    let control = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    bind(&control, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&control, 8).unwrap();
    let mut serve = Command::new(PROGRAM);
    serve
        .args(["--json", "host", "serve"])
        .args(OPTIONS.split_whitespace());
    let server = manager.start(serve, &[control.as_fd(), vmms.as_fd()]);
    assert_eq!(
        server.serving["socket"],
        directory.socket().to_str().unwrap()
    );
    assert_eq!(server.serving["control"], path.to_str().unwrap());
    manager.expect("READY=1");
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    qemu.bind().call(0, request(uapi::STOPWATCH_OP_READ, 0, 0));
    assert_eq!(Control::open(&path).unwrap().vms().unwrap().len(), 1);
    assert!(server.end(Signal::TERM).success());
    assert!(directory.socket().exists(), "it is not the server's");
    let (said, code) = refusal({
        let mut serve = Command::new(PROGRAM);
        serve.args(["host", "serve", "--backend", "program"]);
        serve
    });
    assert!(said.contains("expected --socket PATH"), "{said}");
    assert_eq!(code, Some(1));
}

#[test]
fn what_cannot_be_taken_over_is_told() {
    let directory = Directory::new();
    let mut manager = Manager::new(&directory);
    let (_, nothing) = UnixDatagram::pair().unwrap();
    manager.store.insert("vm-9".into(), nothing.into());
    let server = manager.start(command(&directory.socket(), OPTIONS), &[]);
    let trouble = server.expect("trouble");
    let what = trouble["what"].as_str().unwrap();
    assert!(what.starts_with("VM vm-9 cannot be taken over"), "{what}");
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    qemu.bind().call(0, request(uapi::STOPWATCH_OP_READ, 0, 0));
}
