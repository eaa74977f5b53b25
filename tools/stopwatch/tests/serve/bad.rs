// SPDX-License-Identifier: MIT OR Apache-2.0

//! Clients, guests and sockets that are not as they should be.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::Record;
use stopwatch_uapi as uapi;

use crate::qemu::{message, request, wait_for, Qemu};
use crate::server::{command, refusal, Directory, Server, OPTIONS, PROGRAM};
use crate::used::create;

/// A guest that works, to see that others do not disturb it.
fn works(qemu: &Qemu) {
    let mut guest = qemu.bind();
    guest.call(0, request(uapi::STOPWATCH_OP_READ, 0, 0));
    guest.call(1, request(uapi::STOPWATCH_OP_READ, 0, 0));
}

#[test]
fn a_client_may_die_anywhere_in_the_handshake() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let other = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    // Version, ID, three doorbells, the memory, three calls.
    for read in 0..9 {
        let client = UnixStream::connect(directory.socket()).unwrap();
        for _ in 0..read {
            message(&client).unwrap();
        }
        drop(client);
        let dropped = server.expect("dropped");
        let why = dropped["why"].as_str().unwrap();
        assert!(why.starts_with("it was gone before"), "{why}");
    }
    let client = UnixStream::connect(directory.socket()).unwrap();
    for _ in 0..9 {
        message(&client).unwrap();
    }
    server.expect("connected");
    drop(client);
    server.expect("ended");
    works(&other);
}

#[test]
fn a_client_that_says_something_is_dropped() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let other = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    let noise: &[&[u8]] = &[b"GET / HTTP/1.1\r\n\r\n", &[0], &[0xff; 100_000]];
    for noise in noise {
        let mut client = UnixStream::connect(directory.socket()).unwrap();
        // It may be dropped before all is written.
        let _ = client.write_all(noise);
        let dropped = server.expect("dropped");
        let why = dropped["why"].as_str().unwrap();
        assert!(why.contains("QEMU's ivshmem-doorbell never does"), "{why}");
    }
    // After the handshake, too.
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    (&qemu.socket).write_all(b"hello").unwrap();
    server.expect("dropped");
    assert!(qemu.is_dropped());
    works(&other);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), &format!("{OPTIONS} --patience 300ms"));
    let other = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    let silent: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(directory.socket()).unwrap())
        .collect();
    works(&other);
    for _ in &silent {
        let dropped = server.expect("dropped");
        let why = dropped["why"].as_str().unwrap();
        assert!(why.contains("has not read in 0.3 s"), "{why}");
    }
    works(&other);
    // Who has read all may take as long as he likes.
    assert!(server.is_silent());
}

#[test]
fn a_qemu_that_is_stopped_is_waited_for() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), &format!("{OPTIONS} --patience 300ms"));
    // It reads all that there is, and stops.
    let mut child = Command::new("bash")
        .args(["-c", "exec cat <&0 >/dev/null"])
        .stdin(std::os::fd::OwnedFd::from(
            UnixStream::connect(directory.socket()).unwrap(),
        ))
        .spawn()
        .unwrap();
    server.expect("connected");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    works(&Qemu::connect(&directory.socket()).unwrap());
    server.expect("connected");
    server.expect("ended");
    assert!(server.is_silent());
    child.kill().unwrap();
    child.wait().unwrap();
    server.expect("ended");
}

#[test]
fn a_qemu_that_connects_again_is_refused() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let qemu = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    // Another device of the same QEMU is no matter.
    let second = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");

    // `reconnect=`: the connection is gone, the device is not.
    qemu.socket.shutdown(std::net::Shutdown::Both).unwrap();
    server.expect("ended");
    for _ in 0..3 {
        let again = UnixStream::connect(directory.socket()).unwrap();
        assert!(
            message(&again).is_err(),
            "nothing is said that ends its doorbells"
        );
    }
    let refused = server.expect("refused");
    let why = refused["why"].as_str().unwrap();
    assert!(
        why.contains("remove `reconnect=` from the chardev"),
        "{why}"
    );
    assert!(server.is_silent(), "it is told once");
    works(&second);

    // A server that is started anew knows that as well.
    assert!(server.end(Signal::KILL).code().is_none());
    let server = Server::start(&directory.socket(), OPTIONS);
    let again = UnixStream::connect(directory.socket()).unwrap();
    assert!(message(&again).is_err());
    server.expect("refused");

    // Unplugged, both of them, and plugged in again.
    drop((qemu, second));
    let third = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    works(&third);
}

#[test]
fn a_socket_in_use_is_refused() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let (said, code) = refusal(command(&directory.socket(), OPTIONS));
    assert!(said.contains("another server is at"), "{said}");
    assert_eq!(code, Some(1));
    works(&Qemu::connect(&directory.socket()).unwrap());
    drop(server);

    // One that takes no lock.
    fs::remove_file(directory.socket()).unwrap();
    let foreign = UnixListener::bind(directory.socket()).unwrap();
    let (said, _) = refusal(command(&directory.socket(), OPTIONS));
    assert!(said.contains("another server is at"), "{said}");
    drop(foreign);

    // Nobody is there any more.
    drop(Server::start(&directory.socket(), OPTIONS));
    assert!(directory.socket().exists(), "it was killed");
    let _server = Server::start(&directory.socket(), OPTIONS);
    works(&Qemu::connect(&directory.socket()).unwrap());
}

/// Whoever started the server may not read what it prints.
#[test]
fn a_server_that_nobody_listens_to_goes_on() {
    let directory = Directory::new();
    let mut child = command(&directory.socket(), OPTIONS)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the server", || {
        UnixStream::connect(directory.socket()).is_ok()
    });
    // More than a pipe holds.
    for _ in 0..600 {
        let client = UnixStream::connect(directory.socket()).unwrap();
        message(&client).unwrap();
    }
    works(&Qemu::connect(&directory.socket()).unwrap());
    child.kill().unwrap();
    let mut said = String::new();
    let _ = child.stdout.take().unwrap().read_to_string(&mut said);
    assert!(said.len() > 50_000, "{}", said.len());
    child.wait().unwrap();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    fs::write(directory.socket(), "precious").unwrap();
    let (said, _) = refusal(command(&directory.socket(), OPTIONS));
    assert!(said.contains("is there, and is no socket"), "{said}");
    assert_eq!(fs::read(directory.socket()).unwrap(), b"precious");
    let (said, _) = refusal(command(&directory.path().join("no/such"), OPTIONS));
    assert!(said.contains("cannot make the lock beside"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let directory = Directory::new();
    for (options, expected) in [
        (
            "--backend program --allow-host-power",
            "cannot power the host off",
        ),
        ("--backend program --min-interval 1us", "from 100us to 1h"),
        (
            "--backend program --name a-name-that-is-much-too-long-for-one",
            "expected at most 31",
        ),
    ] {
        let (said, code) = refusal(command(&directory.socket(), options));
        assert!(said.contains(expected), "{options}: {said}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn a_limit_of_open_files_is_told_and_kept() {
    let directory = Directory::new();
    let mut limited = Command::new("bash");
    limited
        .args([
            "-c",
            "ulimit -n 114 && exec \"$@\"",
            "bash",
            PROGRAM,
            "--json",
        ])
        .args(["host", "serve", "--socket"])
        .arg(directory.socket())
        .args(OPTIONS.split_whitespace());
    let server = Server::spawn(limited);
    assert_eq!(server.serving["max_vms"], 2);
    let one = Qemu::connect(&directory.socket()).unwrap();
    let two = Qemu::connect(&directory.socket()).unwrap();
    server.expect("connected");
    server.expect("connected");
    let third = UnixStream::connect(directory.socket()).unwrap();
    assert!(message(&third).is_err());
    let refused = server.expect("refused");
    let why = refused["why"].as_str().unwrap();
    assert!(
        why.contains("raise --max-vms, or the limit of open files"),
        "{why}"
    );
    works(&one);
    works(&two);
    drop(one);
    server.expect("ended");
    works(&Qemu::connect(&directory.socket()).unwrap());
}

/// Writes `value` into every word of what a guest can write.
fn scribble(qemu: &Qemu, value: u64) {
    for offset in (0..qemu.size).step_by(8) {
        qemu.bar2.store(offset, value);
    }
}

/// Nothing changes that is the host's, nor another VM: what it has written into its state
/// pages the host does not look at.
#[test]
fn a_guest_that_writes_everywhere_harms_itself_only() {
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let other = Qemu::connect(&directory.socket()).unwrap();
    let mut peaceful = other.bind();
    peaceful.call(0, request(uapi::STOPWATCH_OP_START, 1, 0));

    let hostile = Qemu::connect(&directory.socket()).unwrap();
    let layout = hostile.layout;
    let mut guest = hostile.bind();
    let named = guest.call(0, create("mine")).watch;
    guest.call(0, request(uapi::STOPWATCH_OP_START, named, 0));
    let before = guest
        .call(0, request(uapi::STOPWATCH_OP_PAUSE, named, 0))
        .reading
        .elapsed_ns;

    let mut noise = 0x9e37_79b9_7f4a_7c15u64;
    for value in [0, 1, u64::MAX, 0x0101_0101_0101_0101, 0, 0] {
        for vector in 0..3 {
            scribble(&hostile, value);
            hostile.ring(vector);
        }
        for offset in (0..hostile.size).step_by(8) {
            noise = noise.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            hostile.bar2.store(offset, noise);
        }
        for vector in [0, 1, 2, 0, 1] {
            hostile.ring(vector);
        }
        let running = peaceful.call(1, request(uapi::STOPWATCH_OP_READ, 1, 0));
        assert_eq!(running.reading.state(), uapi::STOPWATCH_RUNNING);
    }
    // A reset counts from what the host knows, whatever stands in the region.
    scribble(&hostile, u64::MAX);
    hostile.ring(2);
    wait_for("the generation of a reset", || {
        (1..200).contains(&hostile.reset_generation())
    });
    let mut guest = crate::qemu::Guest {
        qemu: &hostile,
        rings: (0..2)
            .map(|ring| {
                stopwatch_protocol::request_ring::RequestRing::new(layout.ring(ring).unwrap())
            })
            .collect(),
        events: stopwatch_protocol::event_ring::EventRing::new(layout.events()),
    };
    let kept = guest.call(0, request(uapi::STOPWATCH_OP_READ, named, 0));
    assert_eq!(kept.reading.elapsed_ns, before);
    // What it does next is published, over what it has written.
    guest.call(0, request(uapi::STOPWATCH_OP_START, 2, 0));
    guest.call(0, request(uapi::STOPWATCH_OP_PAUSE, 2, 0));
    let record = Record::read(&hostile.bar2, layout.record(2).unwrap());
    assert!(record.is_some_and(|record| !record.running));
    server.expect("connected");
    server.expect("connected");
    assert!(server.is_silent());
}
