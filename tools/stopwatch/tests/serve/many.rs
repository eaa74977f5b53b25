// SPDX-License-Identifier: MIT OR Apache-2.0

//! Many VMs in one process.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_uapi as uapi;

use crate::qemu::{request, wait_for, Qemu};
use crate::server::{Directory, Server};

const VMS: usize = 1000;

#[test]
fn a_thousand_vms_in_one_process() {
    // This process has the clients' descriptors: six for each.
    let limit = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let limit = limit.unwrap_or(u64::MAX);
    if limit < 7 * VMS as u64 {
        println!("skipped: the limit of open files is {limit}");
        return;
    }

    let directory = Directory::new();
    let server = Server::start(
        &directory.socket(),
        "--backend program --rings 1 --stopwatches 1024 --max-vms 1000",
    );
    assert_eq!(server.serving["max_vms"], VMS);
    let since = Instant::now();
    let clients: Vec<_> = (0..VMS)
        .map(|_| UnixStream::connect(directory.socket()).unwrap())
        .collect();
    let qemus: Vec<_> = clients
        .into_iter()
        .map(|client| Qemu::realize(client).unwrap())
        .collect();
    println!(
        "{} us to connect one",
        since.elapsed().as_micros() / VMS as u128
    );
    for _ in &qemus {
        server.expect("connected");
    }
    println!("{} KiB resident", server.status("VmRSS"));
    assert_eq!(server.status("Threads"), 1);

    // Each works, and they are not one another's.
    let mut tokens = Vec::new();
    for (number, qemu) in qemus.iter().enumerate() {
        let mut ring = RequestRing::new(qemu.layout.ring(0).unwrap());
        let start = request(uapi::STOPWATCH_OP_START, number as u32 % 64, 0);
        let token = ring.post(&qemu.bar2, start).unwrap();
        qemu.ring(0);
        tokens.push((ring, token));
    }
    for (qemu, (ring, token)) in qemus.iter().zip(&mut tokens) {
        wait_for("a reply", || ring.poll(&qemu.bar2, *token).is_some());
    }
    for (number, qemu) in qemus.iter().enumerate().step_by(97) {
        let mut guest = qemu.bind();
        for watch in [number as u32 % 64, (number as u32 + 1) % 64] {
            let shown = guest.call(0, request(uapi::STOPWATCH_OP_READ, watch, 0));
            let runs = shown.reading.state() == uapi::STOPWATCH_RUNNING;
            assert_eq!(runs, watch == number as u32 % 64);
        }
    }

    // Idle ones cost no wake-ups.
    std::thread::sleep(Duration::from_millis(100));
    let woken = || server.status("voluntary_ctxt_switches");
    let before = woken();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(woken(), before);

    drop(qemus);
    for _ in 0..VMS {
        server.expect("ended");
    }
    assert!(server.status("FDSize") > 0);
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    assert!(open.count() < 32, "what was theirs is closed");
}
