// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device in files: what sysfs shows of it, and a host that serves it by the engine.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{sleep, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use stopwatch::host::{map_region, Geometry, Region};
use stopwatch::protocol::clock::ClockId;
use stopwatch::protocol::layout::Layout;
use stopwatch::protocol::memory::Memory;
use stopwatch::Roots;
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::Device;
use stopwatch_engine::environment::{Clock, Environment};
use stopwatch_engine::kept::Chunk;
use stopwatch_engine::policy::{Policy, FEATURES};
use stopwatch_engine::storage::Storage;
use stopwatch_uapi as uapi;

pub(crate) const GEOMETRY: Geometry = Geometry {
    stopwatches: 96,
    rings: 2,
    ring_slots: 8,
    event_slots: 8,
};

/// A machine with a device: directories of its own, as [`Roots`] has them.
pub(crate) struct Machine {
    root: PathBuf,
    pub(crate) layout: Layout,
}

impl Machine {
    /// One with a device that says this of itself; nobody serves it.
    pub(crate) fn new(geometry: Geometry) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = env::temp_dir().join(format!("stopwatch-{}-{number}", process::id()));
        let machine = Self {
            root,
            layout: Layout::new(geometry).unwrap(),
        };
        let device = machine.device();
        for directory in [&device, &machine.clock_source(), &machine.root.join("dev")] {
            fs::create_dir_all(directory).unwrap();
        }
        symlink("/proc", machine.root.join("proc")).unwrap();
        let clocks = machine.clock_source().join("available_clocksource");
        fs::write(clocks, "kvm-clock tsc acpi_pm \n").unwrap();
        fs::write(device.join("vendor"), "0x1234\n").unwrap();
        fs::write(device.join("device"), "0x5357\n").unwrap();
        fs::write(device.join("enable"), "0\n").unwrap();
        for (name, size) in [
            ("resource0", uapi::STOPWATCH_REGISTERS_SIZE),
            ("resource2", machine.layout.region_size()),
        ] {
            let file = File::create(device.join(name)).unwrap();
            file.set_len(size.into()).unwrap();
        }
        let registers = machine.registers();
        for (offset, word) in (0..).step_by(8).zip(machine.layout.info(FEATURES)) {
            registers.store(offset, word);
        }
        machine
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::under(&self.root)
    }

    /// The device's directory.
    pub(crate) fn device(&self) -> PathBuf {
        self.root.join("sys/bus/pci/devices/0000:00:04.0")
    }

    fn clock_source(&self) -> PathBuf {
        self.root
            .join("sys/devices/system/clocksource/clocksource0")
    }

    /// Its registers, as the VMM has them.
    pub(crate) fn registers(&self) -> Region {
        self.map("resource0", uapi::STOPWATCH_REGISTERS_SIZE)
    }

    /// Its region, as the host has it.
    pub(crate) fn region(&self) -> Region {
        self.map("resource2", self.layout.region_size())
    }

    fn map(&self, resource: &str, size: u32) -> Region {
        let path = self.device().join(resource);
        let file = OpenOptions::new().read(true).write(true).open(path);
        map_region(file.unwrap(), size).unwrap()
    }

    /// Says which driver has the device.
    pub(crate) fn bind(&self, driver: &str) {
        symlink(
            format!("../../drivers/{driver}"),
            self.device().join("driver"),
        )
        .unwrap();
    }

    pub(crate) fn unbind(&self) {
        fs::remove_file(self.device().join("driver")).unwrap();
    }

    /// The program, told to use this device.
    pub(crate) fn program(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stopwatch"));
        command.arg("--device").arg(self.device());
        command.args(line.split_whitespace());
        command
    }

    /// Runs it.
    pub(crate) fn run(&self, line: &str) -> Said {
        Said::of(self.program(line).output().unwrap())
    }

    /// Runs it, and takes its JSON.
    pub(crate) fn json(&self, line: &str) -> serde_json::Value {
        let said = self.run(&format!("{line} --json"));
        assert_eq!(said.status, Some(0), "{line}: {said:?}");
        serde_json::from_str(&said.output).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code(),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits for something, and says whether it came.
pub(crate) fn eventually(mut it: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    while !it() {
        if since.elapsed() > Duration::from_secs(20) {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

/// What the host was told, and whether it does anything.
#[derive(Default)]
pub(crate) struct Control {
    pub(crate) kicks: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) requests: AtomicU64,
    /// What it does not do any more: kicks are lost, and answers do not come.
    pub(crate) is_silent: AtomicBool,
    /// It falls silent after so many requests, if it is not 0.
    pub(crate) silent_after: AtomicU64,
    end: AtomicBool,
}

impl Control {
    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

/// A host that serves the device of a machine, on a thread of its own. It ends with this.
pub(crate) struct Host {
    pub(crate) control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn serve(machine: &Machine) -> Self {
        let control = Arc::new(Control::default());
        let policy = Policy {
            features: FEATURES,
            min_interval_ns: 1_000_000,
            epoch_ns: 123_456,
        };
        let Ok(device) = Device::new(machine.layout, policy);
        let mut server = Server {
            device,
            region: machine.region(),
            registers: machine.registers(),
            clock: Since(Instant::now()),
            control: control.clone(),
        };
        server.device.publish_all(&server.region);
        Self {
            control,
            thread: Some(thread::spawn(move || server.run())),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.control.end.store(true, Ordering::SeqCst);
        let result = self.thread.take().unwrap().join();
        if !thread::panicking() {
            result.unwrap();
        }
    }
}

struct Heap;

impl Storage for Heap {
    type Slice<T: Copy> = Vec<T>;
    type Error = Infallible;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Infallible> {
        Ok(vec![value; len])
    }
}

struct Since(Instant);

impl Clock for Since {
    fn now(&self, _: ClockId) -> u64 {
        // Not 0, which no VM has that was started.
        u64::try_from(self.0.elapsed().as_nanos()).unwrap() + 1_000_000
    }
}

/// What is around the device.
struct Around<'a>(&'a Region, &'a Since);

impl Environment for Around<'_> {
    fn memory(&self) -> &impl Memory {
        self.0
    }

    fn clock(&self) -> &impl Clock {
        self.1
    }
}

struct Server {
    device: Device<Heap>,
    region: Region,
    registers: Region,
    clock: Since,
    control: Arc<Control>,
}

impl Server {
    fn run(&mut self) {
        while !self.control.end.load(Ordering::SeqCst) {
            let told = self.look();
            if !told {
                sleep(Duration::from_micros(50));
            }
        }
    }

    /// What was written to the registers of a word, which are clear then.
    fn take(&self, offset: u32) -> bool {
        let written = self.registers.load(offset) != 0;
        if written {
            self.registers.store(offset, 0);
        }
        written
    }

    fn look(&mut self) -> bool {
        let reset = self.take(uapi::STOPWATCH_REG_RESET);
        let kick = self.take(uapi::STOPWATCH_REG_DOORBELL);
        let control = self.control.clone();
        if reset {
            // The VMM notes it, whatever the host does.
            control.resets.fetch_add(1, Ordering::SeqCst);
            let vmm = self.device.layout().vmm();
            let word = self.region.load(vmm).wrapping_add(1 << 32);
            self.region.store(vmm, word);
        }
        if kick {
            control.kicks.fetch_add(1, Ordering::SeqCst);
        }
        if control.is_silent.load(Ordering::SeqCst) {
            return reset || kick;
        }
        let Self {
            device,
            region,
            clock,
            ..
        } = self;
        let env = Around(region, clock);
        if reset || kick {
            let _ = device.vmm(&env, &mut Budget::section());
            while device.work(&env, &mut Budget::section()).more {}
            let requests = device.stats().requests;
            control.requests.store(requests, Ordering::SeqCst);
            let limit = Control::get(&control.silent_after);
            if limit != 0 && requests >= limit {
                control.is_silent.store(true, Ordering::SeqCst);
            }
        }
        if let Some(count) = device.wants_storage() {
            let Ok(chunk) = Chunk::new(count);
            drop(device.set_storage(chunk));
        }
        let now = clock.now(ClockId::Monotonic);
        if device.next_deadline(clock).is_some_and(|next| next <= now) {
            let _ = device.expire(&env, &mut Budget::section());
        }
        reset || kick
    }
}

/// Whether the device is enabled, as sysfs says it.
pub(crate) fn enabled(device: &Path) -> String {
    fs::read_to_string(device.join("enable")).unwrap()
}
