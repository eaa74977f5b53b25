// SPDX-License-Identifier: MIT OR Apache-2.0

//! Recording the start of a VM on its host: runs the VMM and notes what can be seen of
//! it from outside, each with the interval in which it was.
//!
//! | file | what it sees |
//! |---|---|
//! | `streams` | bytes that come through a descriptor, by lines, and when |
//! | `firmware`, `console` | what firmware and kernel say |
//! | `monitor` | the VMM's monitor: QMP |
//! | `process` | threads, by /proc |
//! | `device` | what the host module and the region tell |
//! | `tracefs` | KVM's tracepoints, where the user may |
//!
//! One loop looks at everything, at least each [`LOOK`]: that is the error of what
//! has no stamp of its own.

mod console;
mod device;
mod firmware;
mod monitor;
mod process;
mod recording;
mod streams;
mod tracefs;

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{fcntl_setfd, FdFlags};
use rustix::process::{kill_process, Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use stopwatch::host::{Control, Vm, DEVICE};
use stopwatch_timeline::{self as timeline, Event, Moment, Process, Side, Step};

use super::make_vm;
use crate::cli::{Carrier, Record, Recorded, Run};
use crate::clocks::now;
use crate::output::exit_code;
use crate::timeline_commands::put;
use console::Console;
use device::Device;
use firmware::Firmware;
use monitor::Monitor;
use recording::Recording;
use streams::Stream;
use tracefs::Tracefs;

/// The longest from one look to the next.
const LOOK: Duration = Duration::from_millis(1);

/// How long a VMM that is to end has for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// `stopwatch host run --timeline`.
pub(crate) fn run_with_device(run: Run, device: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let file = run
        .timeline
        .context("no file is given; expected `--timeline FILE`")?;
    if run.carrier != Carrier::Stopwatch {
        bail!("--timeline is for --carrier stopwatch; with another carrier use `stopwatch timeline record`");
    }
    let control = Control::open(device.unwrap_or_else(|| DEVICE.into()))?;
    let name = run.vm.name.clone();
    let (vm, _) = make_vm(control, run.vm, run.doorbells)?;
    let start = Start {
        name: name.as_deref(),
        command: &run.qemu,
        recorded: &run.recorded,
        file: &file,
    };
    start.record(Some(vm), Afterwards::Outlast).map(exit_code)
}

/// `stopwatch timeline record`.
pub(crate) fn run_without_device(of: &Record) -> anyhow::Result<ExitCode> {
    let start = Start {
        name: of.name.as_deref(),
        command: &of.qemu,
        recorded: &of.recorded,
        file: &of.output,
    };
    start.record(None, Afterwards::Outlast).map(exit_code)
}

/// What becomes of the VMM when its start has been recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It runs until it ends by itself.
    Outlast,
    /// It is ended. It has nobody's standard input, and nobody sees its standard output.
    End,
}

/// A start that is to be recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    pub(super) name: Option<&'a str>,
    /// The VMM and its arguments.
    pub(super) command: &'a [OsString],
    pub(super) recorded: &'a Recorded,
    /// Where the timeline goes.
    pub(super) file: &'a Path,
}

impl Start<'_> {
    /// Runs the VMM, with a VM's device or without, and writes the timeline of its start.
    pub(super) fn record(
        self,
        vm: Option<Vm>,
        afterwards: Afterwards,
    ) -> anyhow::Result<ExitStatus> {
        let Self {
            name,
            command,
            recorded: wanted,
            file,
        } = self;
        let (program, arguments) = command
            .split_first()
            .context("no VMM is given; expected `-- qemu-system-x86_64 ...`")?;
        // Nothing is worse than a recording with nowhere to go.
        put(Some(file), |_| Ok(()))?;
        let mut vmm = Command::new(program);
        vmm.args(arguments);
        if afterwards == Afterwards::End {
            vmm.stdin(Stdio::null()).stdout(Stdio::null());
        }
        if let Some(vm) = &vm {
            vm.hand_over(&mut vmm)?;
        }
        let mut added = Vec::new();
        let monitor = added_socket(&mut vmm, &mut added, |fd| {
            vec![
                "-chardev".into(),
                format!("socket,id=stopwatch-monitor,fd={fd}"),
                "-mon".into(),
                "chardev=stopwatch-monitor,mode=control".into(),
            ]
        })?;
        let mut port = |port: &str, id: &str| {
            added_socket(&mut vmm, &mut added, |fd| {
                vec![
                    "-chardev".into(),
                    format!("socket,id=stopwatch-{id},fd={fd}"),
                    "-device".into(),
                    format!("isa-debugcon,iobase={port},chardev=stopwatch-{id}"),
                ]
            })
        };
        let firmware = wanted
            .firmware_log
            .then(|| port("0x402", "firmware"))
            .transpose()?;
        let codes = wanted
            .post_codes
            .then(|| port("0x80", "codes"))
            .transpose()?;

        let console = wanted
            .console
            .as_deref()
            .map(|path| Console::new(path, wanted.ready_line.as_deref()));
        let signals = Signals::take()?;
        let tracefs = Tracefs::begin(Path::new(tracefs::ROOT), std::process::id());
        let before = now();
        let child = vmm
            .spawn()
            .with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
        // It returns when the program has been executed, or could not be.
        let exec = Moment::between(before, now());
        // Ends of sockets that are the VMM's: it alone shall hold them.
        drop(added);

        let program = Path::new(program)
            .file_name()
            .map_or("the VMM".into(), |name| name.to_string_lossy().into_owned());
        let process = Process {
            pid: child.id(),
            name: program.clone(),
        };
        let mut recording = Recording::new(name.unwrap_or_default(), command, exec, process);
        recording.step(
            Step::Exec,
            format!("exec of {program}"),
            exec,
            "spawned by the recorder",
        );
        let sources = Sources {
            monitor: Monitor::watch(monitor, exec),
            firmware: firmware.map(|fd| (Stream::new(fd, before), Firmware::default())),
            codes: codes.map(|fd| Stream::new(fd, before)),
            console,
            device: vm.map(Device::new).transpose()?,
            tracefs,
        };
        let mut watched = Watched {
            sources,
            recording,
            child,
            signals,
            file: file.into(),
            afterwards,
            until: before.saturating_add(i64::try_from(wanted.limit.0).unwrap_or(i64::MAX)),
        };
        let status = watched.record()?;
        // The VM's device lasted as long as its VMM.
        drop(watched);
        Ok(status)
    }
}

/// A socket of which the VMM gets one end, by its number in its arguments.
fn added_socket(
    vmm: &mut Command,
    added: &mut Vec<UnixStream>,
    arguments: impl FnOnce(i32) -> Vec<String>,
) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket for the VMM")?;
    fcntl_setfd(&theirs, FdFlags::empty()).context("cannot let the VMM inherit a socket")?;
    vmm.args(arguments(theirs.as_raw_fd()));
    added.push(theirs);
    Ok(ours.into())
}

/// All that is looked at.
struct Sources {
    monitor: Monitor,
    firmware: Option<(Stream, Firmware)>,
    codes: Option<Stream>,
    console: Option<Console>,
    device: Option<Device>,
    tracefs: Result<Tracefs, String>,
}

struct Watched {
    sources: Sources,
    recording: Recording,
    child: Child,
    signals: Signals,
    file: PathBuf,
    afterwards: Afterwards,
    until: i64,
}

impl Watched {
    /// Until the VM is ready, the limit is over or the VMM has ended. Then it writes
    /// the file, and waits for the VMM.
    fn record(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = loop {
            let looked = now();
            self.wait_for_bytes();
            let seen = now();
            self.look(looked, seen);
            self.signals.pass_on(&self.child);
            if let Some(status) = self.child.try_wait()? {
                self.last_words(Moment::between(looked, now()), status);
                break Some(status);
            }
            if self.recording.is_ready() {
                break None;
            }
            if seen >= self.until {
                self.recording.note(
                    "the limit of the recording was over before anything said that it is ready",
                );
                break None;
            }
        };
        if let Ok(tracefs) = &self.sources.tracefs {
            tracefs.finish(&mut self.recording);
        }
        let why = self.sources.tracefs.as_ref().err().map(String::as_str);
        let done = self.recording.finish(why);
        put(Some(&self.file), |to| timeline::write(&done, to))?;
        if self.afterwards == Afterwards::Outlast {
            eprintln!("the timeline of the start is in {}", self.file.display());
        }
        // Of what comes now nothing is kept; the tracepoints go, too.
        self.sources.tracefs = Err("the recording is over".into());
        match (ended, self.afterwards) {
            (Some(status), _) => Ok(status),
            (None, Afterwards::Outlast) => self.outlast(None),
            (None, Afterwards::End) => {
                signal(&self.child, Signal::TERM);
                self.outlast(Some(Instant::now() + PATIENCE))
            }
        }
    }

    /// Sleeps until there is something to read, or the next look is due.
    fn wait_for_bytes(&self) {
        let of = &self.sources;
        let streams = [
            of.firmware.as_ref().and_then(|(stream, _)| stream.fd()),
            of.codes.as_ref().and_then(Stream::fd),
            of.console.as_ref().and_then(Console::fd),
        ];
        let mut fds: Vec<_> = streams
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let limit = Timespec::try_from(LOOK).ok();
        // A signal wakes it as well, and is looked at next.
        let _ = poll(&mut fds, limit.as_ref());
    }

    fn look(&mut self, looked: i64, seen: i64) {
        let (of, to) = (&mut self.sources, &mut self.recording);
        of.monitor.look(to);
        if to.has_new_attempt() {
            if let Some((_, firmware)) = &mut of.firmware {
                *firmware = Firmware::default();
            }
            if let Ok(tracefs) = &mut of.tracefs {
                tracefs.again();
            }
        }
        if let Some((stream, firmware)) = &mut of.firmware {
            for line in stream.lines(looked, seen) {
                firmware.say(line, to);
            }
        }
        if let Some(stream) = &mut of.codes {
            for (code, at) in stream.bytes(looked, seen) {
                firmware::post_code(code, at, to);
            }
        }
        if let Some(console) = &mut of.console {
            console.look(looked, seen, to);
        }
        if let Some(device) = &mut of.device {
            device.look(looked, to);
        }
        if let Ok(tracefs) = &mut of.tracefs {
            tracefs.look(to);
        }
    }

    /// What was said before the VMM ended and is not read yet.
    fn last_words(&mut self, at: Moment, status: ExitStatus) {
        self.sources.monitor.finish();
        self.look(at.lo, at.hi);
        let (of, to) = (&mut self.sources, &mut self.recording);
        if let Some((stream, firmware)) = &mut of.firmware {
            if let Some(line) = stream.rest() {
                firmware.say(line, to);
            }
        }
        if let Some(console) = &mut of.console {
            console.finish(to);
        }
        let event = Event::new("the VMM ended", at, "wait", Side::Host);
        self.recording.put(event.with("status", status));
    }

    /// Waits for the VMM, which is killed at `until`.
    fn outlast(&mut self, until: Option<Instant>) -> anyhow::Result<ExitStatus> {
        loop {
            self.signals.pass_on(&self.child);
            if until.is_some_and(|until| Instant::now() >= until) {
                self.child.kill()?;
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            // The VMM would wait for whoever does not read what it says.
            self.drain();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn drain(&mut self) {
        let of = &mut self.sources;
        let at = now();
        if let Some((stream, _)) = &mut of.firmware {
            stream.lines(at, at);
        }
        if let Some(stream) = &mut of.codes {
            stream.bytes(at, at);
        }
        of.console = None;
    }
}

/// Signals to the recorder are for the VMM.
struct Signals([(i32, Signal, Arc<AtomicBool>); 4]);

impl Signals {
    fn take() -> anyhow::Result<Self> {
        let signals = [
            (SIGINT, Signal::INT),
            (SIGTERM, Signal::TERM),
            (SIGHUP, Signal::HUP),
            (SIGQUIT, Signal::QUIT),
        ];
        let signals = signals.map(|(number, signal)| (number, signal, Arc::default()));
        for (number, _, flag) in &signals {
            signal_hook::flag::register(*number, Arc::clone(flag))?;
        }
        Ok(Self(signals))
    }

    fn pass_on(&self, to: &Child) {
        for (_, number, flag) in &self.0 {
            if flag.swap(false, Ordering::Relaxed) {
                signal(to, *number);
            }
        }
    }
}

fn signal(to: &Child, signal: Signal) {
    let pid = i32::try_from(to.id()).ok().and_then(Pid::from_raw);
    // It may have ended already: a terminal's signals go to both.
    let _ = pid.map(|pid| kill_process(pid, signal));
}
