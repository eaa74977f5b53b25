// SPDX-License-Identifier: MIT OR Apache-2.0

//! A real QEMU, if there is one: its CPU does not run, so it takes no guest and no KVM.
//! What a guest would do by its CPU, the test does by QEMU's own test protocol.

use std::cell::RefCell;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{json, Value};
use stopwatch::host::{Qmp, QmpError};
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::Record;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::Status;
use stopwatch_protocol::state;
use stopwatch_uapi as uapi;

use crate::qemu::{request, wait_for};
use crate::server::{Directory, Server, OPTIONS};

/// A QEMU that has the device: `$STOPWATCH_QEMU`, the lab's, or that of the distribution.
fn qemu() -> Option<PathBuf> {
    let named = env::var_os("STOPWATCH_QEMU").map(PathBuf::from);
    let labs = std::fs::read_dir("/cache").into_iter().flatten().flatten();
    let labs = labs
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("qemu-"))
        .map(|entry| entry.path().join("bin/qemu-system-x86_64"));
    let path = env::var_os("PATH").unwrap_or_default();
    let paths: Vec<_> = env::split_paths(&path)
        .map(|directory| directory.join("qemu-system-x86_64"))
        .collect();
    named.into_iter().chain(labs).chain(paths).find(|qemu| {
        let help = Command::new(qemu).args(["-device", "help"]).output();
        help.is_ok_and(|help| {
            String::from_utf8_lossy(&help.stdout).contains("\"ivshmem-doorbell\"")
        })
    })
}

/// What the server says that QEMU takes.
fn arguments(server: &Server) -> Vec<String> {
    let arguments = server.serving["arguments"].as_array().unwrap();
    let arguments = arguments.iter().map(|word| word.as_str().unwrap().into());
    arguments.collect()
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine whose CPU does not run.
const STOPPED: [&str; 8] = [
    "-M",
    "pc",
    "-accel",
    "tcg",
    "-S",
    "-display",
    "none",
    "-nodefaults",
];

/// A QEMU that runs, and its device.
struct Running {
    child: Ended,
    monitor: Qmp,
    port: RefCell<BufReader<UnixStream>>,
}

impl Running {
    /// Starts it, with these arguments and what the tests need.
    fn start(qemu: PathBuf, directory: &Directory, arguments: &[String]) -> Self {
        let [qmp, port] = ["qmp", "qtest"].map(|name| directory.path().join(name));
        let child = Command::new(qemu)
            .args(STOPPED)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()))
            .arg("-qtest")
            .arg(format!("unix:{},server=on,wait=off", port.display()))
            .args(["-qtest-log", "none"])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let child = Ended(child);
        wait_for("QEMU's sockets", || qmp.exists() && port.exists());
        let monitor = Qmp::connect(&qmp).unwrap();
        let port = UnixStream::connect(&port).unwrap();
        port.set_read_timeout(Some(crate::qemu::PATIENCE)).unwrap();
        Self {
            child,
            monitor,
            port: RefCell::new(BufReader::new(port)),
        }
    }

    /// What the device is to QEMU.
    fn device(&mut self) -> Value {
        let buses = self.monitor.execute("query-pci", json!({})).unwrap();
        let devices = buses[0]["devices"].as_array().unwrap();
        let device = devices.iter().find(|device| {
            device["id"]["vendor"] == uapi::STOPWATCH_IVSHMEM_PCI_VENDOR_ID
                && device["id"]["device"] == uapi::STOPWATCH_IVSHMEM_PCI_DEVICE_ID
        });
        device.expect("the device is there").clone()
    }

    /// A command of QEMU's test protocol, and the number that it answers with.
    fn port(&self, command: &str) -> u64 {
        let mut port = self.port.borrow_mut();
        writeln!(port.get_mut(), "{command}").unwrap();
        let mut answer = String::new();
        port.read_line(&mut answer).unwrap();
        let value = answer.strip_prefix("OK").expect(&answer).trim();
        let digits = value.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap_or(0)
    }

    /// Writes a register of a device's PCI configuration.
    fn configure(&self, slot: u64, register: u64, value: u64) {
        let address = (1 << 31) | (slot << 11) | register;
        self.port(&format!("outl 0xcf8 {address:#x}"));
        self.port(&format!("outl 0xcfc {value:#x}"));
    }
}

/// Where the test puts the BARs.
const REGISTERS: u64 = 0xe000_0000;
const REGION: u64 = 0xe800_0000;

/// BAR2, as a guest's CPU would reach it.
struct Bar2<'a>(&'a Running);

impl Memory for Bar2<'_> {
    fn load(&self, offset: u32) -> u64 {
        self.0
            .port(&format!("readq {:#x}", REGION + u64::from(offset)))
    }

    fn load_acquire(&self, offset: u32) -> u64 {
        self.load(offset)
    }

    fn store(&self, offset: u32, value: u64) {
        let address = REGION + u64::from(offset);
        self.0.port(&format!("writeq {address:#x} {value:#x}"));
    }

    fn store_release(&self, offset: u32, value: u64) {
        self.store(offset, value);
    }

    fn exchange(&self, _: u32, _: u64, _: u64) -> bool {
        unreachable!("nothing is taken back here")
    }

    fn fence_release(&self) {}
}

#[test]
fn a_real_qemu_carries_the_device() {
    let Some(qemu) = qemu() else {
        println!("skipped: no QEMU with ivshmem-doorbell; $STOPWATCH_QEMU names one");
        return;
    };
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), &format!("{OPTIONS} --auto-start boot"));
    let mut qemu = Running::start(qemu, &directory, &arguments(&server));
    let connected = server.expect("connected");
    assert_eq!(connected["pid"], qemu.child.0.id());
    assert!(connected["program"].as_str().unwrap().starts_with("qemu"));

    let device = qemu.device();
    let size = |bar: u32| {
        let regions = device["regions"].as_array().unwrap();
        let region = regions.iter().find(|region| region["bar"] == bar);
        region.unwrap()["size"].as_u64().unwrap()
    };
    assert_eq!(
        size(uapi::STOPWATCH_IVSHMEM_BAR_REGISTERS),
        u64::from(uapi::STOPWATCH_IVSHMEM_REGISTERS_SIZE)
    );
    assert!(size(uapi::STOPWATCH_IVSHMEM_BAR_REGION).is_power_of_two());

    // What firmware does.
    let slot = device["slot"].as_u64().unwrap();
    qemu.configure(slot, 0x10, REGISTERS);
    qemu.configure(slot, 0x18, REGION);
    qemu.configure(slot, 0x1c, 0);
    qemu.configure(slot, 0x04, 2);

    // What a driver does: it looks what it is, resets it, calls.
    let bar2 = Bar2(&qemu);
    let mut info = [0; 16];
    bar2.load_all(0, &mut info);
    let (layout, _) = Layout::from_info(&info).unwrap();
    let register = |offset: u32| REGISTERS + u64::from(offset);
    let position = register(uapi::STOPWATCH_IVSHMEM_REG_POSITION);
    assert_eq!(
        qemu.port(&format!("readl {position:#x}")),
        u64::from(uapi::STOPWATCH_IVSHMEM_PEER_GUEST)
    );
    let ring = |vector: u32| {
        let value =
            (uapi::STOPWATCH_IVSHMEM_PEER_HOST << uapi::STOPWATCH_IVSHMEM_PEER_SHIFT) | vector;
        let doorbell = register(uapi::STOPWATCH_IVSHMEM_REG_DOORBELL);
        qemu.port(&format!("writel {doorbell:#x} {value:#x}"));
    };
    let rings = layout.geometry().rings;
    let before = state::reset_generation(&bar2, &layout);
    ring(rings);
    wait_for("a reset", || {
        state::reset_generation(&bar2, &layout) != before
    });
    let boot = uapi::STOPWATCH_NUMBERED;
    for number in 0..rings {
        let mut end = RequestRing::new(layout.ring(number).unwrap());
        let op = [uapi::STOPWATCH_OP_PAUSE, uapi::STOPWATCH_OP_READ][number as usize];
        let token = end.post(&bar2, request(op, boot, 0)).unwrap();
        ring(number);
        let mut reply = None;
        wait_for("a reply", || {
            reply = end.poll(&bar2, token);
            reply.is_some()
        });
        let reply = reply.unwrap();
        assert_eq!(reply.status, Ok(Status::Ok));
        let record = Record::read(&bar2, layout.record(boot).unwrap()).unwrap();
        assert!(!record.running && record.elapsed_ns > 0);
        assert_eq!(reply.reading.elapsed_ns, record.elapsed_ns);
    }

    // It is what blocks a migration, which nobody could take the stopwatches along in.
    let refused = qemu
        .monitor
        .execute("migrate", json!({ "uri": "exec:cat >/dev/null" }));
    assert!(
        matches!(refused, Err(QmpError::Refused { .. })),
        "{refused:?}"
    );
    let _ = qemu.monitor.execute("quit", json!({}));
    assert_eq!(server.expect("ended")["pid"], connected["pid"]);
}

/// From the start, QEMU waits with `reconnect=` for a connection that only its main loop
/// would take, and so for ever.
#[test]
fn a_real_qemu_with_reconnect_is_told_of() {
    let Some(qemu) = qemu() else {
        println!("skipped: no QEMU with ivshmem-doorbell; $STOPWATCH_QEMU names one");
        return;
    };
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), &format!("{OPTIONS} --patience 1s"));
    let mut arguments = arguments(&server);
    arguments[1] += ",reconnect-ms=50";
    let child = Command::new(qemu)
        .args(STOPPED)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let _child = Ended(child);
    let dropped = server.expect("dropped");
    let why = dropped["why"].as_str().unwrap();
    assert!(why.contains("remove `reconnect=`"), "{why}");
}

/// Plugged in later it gets its device, and would break it when it connects again, if the
/// server let it.
#[test]
fn a_real_qemu_that_reconnects_is_refused() {
    let Some(qemu) = qemu() else {
        println!("skipped: no QEMU with ivshmem-doorbell; $STOPWATCH_QEMU names one");
        return;
    };
    let directory = Directory::new();
    let server = Server::start(&directory.socket(), OPTIONS);
    let mut qemu = Running::start(qemu, &directory, &[]);
    let socket = json!({
        "addr": { "type": "unix", "data": { "path": directory.socket() } },
        "server": false,
        "reconnect-ms": 50,
    });
    let backend = json!({ "type": "socket", "data": socket });
    let chardev = json!({ "id": "stopwatch", "backend": backend });
    qemu.monitor.execute("chardev-add", chardev).unwrap();
    wait_for("the chardev's connection", || {
        let chardevs = qemu.monitor.execute("query-chardev", json!({})).unwrap();
        let chardevs = chardevs.as_array().unwrap().iter();
        let mut chardev = chardevs.filter(|chardev| chardev["label"] == "stopwatch");
        let name = chardev.next().unwrap()["filename"]
            .as_str()
            .unwrap()
            .to_owned();
        !name.starts_with("disconnected")
    });
    let device = json!({ "driver": "ivshmem-doorbell", "vectors": 3, "chardev": "stopwatch" });
    qemu.monitor.execute("device_add", device).unwrap();
    let connected = server.expect("connected");
    assert!(server.end(Signal::KILL).code().is_none());

    let server = Server::start(&directory.socket(), OPTIONS);
    let refused = server.expect("refused");
    assert_eq!(refused["pid"], connected["pid"]);
    let why = refused["why"].as_str().unwrap();
    assert!(why.contains("remove `reconnect=`"), "{why}");
    // It tries again, and again, and goes on living.
    assert!(server.is_silent());
    assert_eq!(qemu.device()["bus"], 0);
}
