// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host serve`, and `host run --carrier ivshmem`, which has a server of its own.

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::io::{stderr, stdin, stdout, BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{fcntl_setfd, FdFlags};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use stopwatch::host::serve::{
    vectors, Backend, Event, For, Inherited, Kind, Listening, Options, ServeError, Server,
};
use stopwatch::host::{Error, Geometry, NAME_SIZE};

use super::{geometry, policy};
use crate::cli::{BackendKind, NewVm, Run, Serve, Serving};
use crate::output::Output;

/// As many VMs as the host module takes.
const MOST_VMS: u32 = 4096;

/// What a server says when it serves.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Serves {
    event: String,
    socket: Option<PathBuf>,
    /// Where programs find its VMs, if that is not at the module.
    control: Option<PathBuf>,
    backend: String,
    /// Why it is that one, if that was left to the program and is news.
    because: Option<String>,
    vectors: u32,
    stopwatches: u32,
    rings: u32,
    ring_slots: u32,
    event_slots: u32,
    max_vms: u32,
    /// For QEMU's command line.
    arguments: Vec<String>,
}

impl Display for Serves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(because) = &self.because {
            writeln!(f, "{because}")?;
        }
        write!(f, "serving ")?;
        if let Some(socket) = &self.socket {
            write!(f, "{}, ", socket.display())?;
        }
        write!(
            f,
            "by the {}: VMs with {} stopwatches and {} rings, at most {}\nQEMU takes {}",
            self.backend,
            self.stopwatches,
            self.rings,
            self.max_vms,
            self.arguments.join(" ")
        )?;
        if let Some(control) = &self.control {
            write!(
                f,
                "\n`stopwatch host --device {} list` shows the VMs",
                control.display()
            )?;
        }
        Ok(())
    }
}

impl Serves {
    fn new(
        backend: &Backend,
        because: Option<String>,
        geometry: Geometry,
        max_vms: u32,
        socket: Option<&Path>,
    ) -> Self {
        let vectors = vectors(geometry);
        let arguments = socket.map_or_else(Vec::new, |socket| {
            let path = socket.display().to_string().replace(',', ",,");
            qemu_arguments(&format!("path={path}"), vectors)
        });
        Self {
            event: "serving".into(),
            socket: socket.map(Path::to_owned),
            control: None,
            backend: match backend.kind() {
                Kind::Module => "module",
                Kind::Program => "program",
            }
            .into(),
            because,
            vectors,
            stopwatches: geometry.stopwatches,
            rings: geometry.rings,
            ring_slots: geometry.ring_slots,
            event_slots: geometry.event_slots,
            max_vms,
            arguments,
        }
    }
}

/// What a QEMU's command line says of a device whose server is at `chardev`.
fn qemu_arguments(chardev: &str, vectors: u32) -> Vec<String> {
    vec![
        "-chardev".into(),
        format!("socket,id=stopwatch,{chardev}"),
        "-device".into(),
        format!("ivshmem-doorbell,vectors={vectors},chardev=stopwatch"),
    ]
}

/// The server, until a signal ends it.
pub(super) fn run(serve: Serve, device: &Path, output: Output) -> anyhow::Result<()> {
    let (backend, because) = choose(&serve.serving, device)?;
    let max_vms = serve.max_vms.unwrap_or(MOST_VMS);
    let options = options(&serve.vm, &serve.serving, max_vms, serve.patience.into())?;
    // Who does not read what this prints does not stop the VMs: it is lost.
    let mut report = |event: Event| {
        if output.json && has_room(stdout()) {
            let _ = output.write(&mut stdout().lock(), &event, "");
        } else if !output.json && has_room(stderr()) {
            eprintln!("{event}");
        }
    };

    if serve.inherited {
        // By whoever runs QEMU, who sees when it comes and goes.
        let mut report = |event: Event| match event {
            Event::Connected { .. } | Event::Ended { .. } => {}
            event if has_room(stderr()) => eprintln!("{event}"),
            _ => {}
        };
        let socket = stdin().as_fd().try_clone_to_owned()?;
        let mut server = Server::of_connection(socket, backend.clone(), options, &mut report)?;
        let mut serves = Serves::new(&backend, because, server.geometry(), 1, None);
        if let (Kind::Program, Some(path)) = (backend.kind(), &serve.serving.control) {
            server.answer_at(Listening::bind(path, serve.mode, For::Control)?)?;
            serves.control = Some(path.clone());
        }
        output.print(&serves, &serves)?;
        return Ok(server.run(&mut report)?);
    }

    // Before anything else is opened: it is told by numbers what is inherited.
    let mut inherited = Inherited::take()?;
    let listening = match (inherited.listening.take(), &serve.socket) {
        (Some(listening), _) => listening,
        (None, Some(path)) => Listening::bind(path, serve.mode, For::Vmms)?,
        (None, None) => {
            bail!("no socket is given; expected --socket PATH, or one of the service manager's")
        }
    };
    let (stop, stopper) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        pipe::register(signal, stopper.try_clone()?)?;
    }
    let path = listening.path().to_owned();
    let mut server = Server::new(listening, backend.clone(), options, &stop)?;
    let max_vms = server.max_vms();
    let mut serves = Serves::new(&backend, because, server.geometry(), max_vms, Some(&path));
    if backend.kind() == Kind::Program {
        let control = match inherited.control.take() {
            Some(control) => control,
            None => Listening::bind(&control_of(&serve, &path), serve.mode, For::Control)?,
        };
        serves.control = Some(control.path().to_owned());
        server.answer_at(control)?;
    }
    output.print(&serves, &serves)?;
    if let Some(wanted) = serve.max_vms.filter(|wanted| *wanted > max_vms) {
        eprintln!(
            "the limit of open files allows for {max_vms} VMs, not for {wanted}: raise it (`ulimit \
             -Hn`, LimitNOFILE= of a unit), or say --max-vms {max_vms}"
        );
    }
    server.take_over(inherited, &mut report);
    Ok(server.run(&mut report)?)
}

/// Whether a line can be written without waiting for somebody to read.
fn has_room(to: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&to, PollFlags::OUT)];
    // A pipe is said to have room if that is for a page, which no line fills.
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
        && fds[0].revents().contains(PollFlags::OUT)
}

/// Where a server answers programs that look at its VMs.
fn control_of(serve: &Serve, socket: &Path) -> PathBuf {
    serve.serving.control.clone().unwrap_or_else(|| {
        let mut path = socket.as_os_str().to_owned();
        path.push(".control");
        path.into()
    })
}

fn choose(serving: &Serving, device: &Path) -> Result<(Backend, Option<String>), Error> {
    let wanted = serving.backend.map(|kind| match kind {
        BackendKind::Module => Kind::Module,
        BackendKind::Program => Kind::Program,
    });
    Backend::choose(wanted, device)
}

fn options(
    vm: &NewVm,
    serving: &Serving,
    max_vms: u32,
    patience: Duration,
) -> Result<Options, ServeError> {
    if let Some(name) = vm.name.as_ref().filter(|name| name.len() >= NAME_SIZE) {
        return Err(Error::NameTooLong { name: name.clone() }.into());
    }
    Ok(Options {
        geometry: geometry(vm),
        policy: policy(vm),
        name: vm.name.clone(),
        auto_start: vm.auto_start.clone(),
        max_vms,
        patience,
        busy_poll: Duration::from_micros(serving.busy_poll.into()),
    })
}

/// Starts a server for one VM, and becomes QEMU; returns only if that fails.
pub(super) fn run_qemu(run: Run, device: &Path) -> anyhow::Result<()> {
    let (program, arguments) = run
        .qemu
        .split_first()
        .context("no QEMU is given; expected `-- qemu-system-x86_64 ...`")?;
    let (ours, qemus) = UnixStream::pair()?;
    let mut server = Command::new(std::env::current_exe()?);
    server
        .args(["host", "serve", "--inherited", "--json", "--device"])
        .arg(device)
        .args(server_options(&run))
        .stdin(OwnedFd::from(ours))
        .stdout(Stdio::piped())
        // What ends QEMU by the terminal ends the server with it, and not before.
        .process_group(0);
    let mut server = server.spawn().context("cannot start the server")?;
    let mut line = String::new();
    if let Some(stdout) = server.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let Ok(serves) = serde_json::from_str::<Serves>(&line) else {
        let status = server.wait()?;
        bail!("the server of the VM ended, {status}; it has said why");
    };
    if let Some(because) = &serves.because {
        eprintln!("{because}");
    }
    eprintln!(
        "a VM with {} stopwatches and {} rings, served by the {} as process {}: running {}",
        serves.stopwatches,
        serves.rings,
        serves.backend,
        server.id(),
        program.to_string_lossy()
    );
    fcntl_setfd(&qemus, FdFlags::empty())?;
    let chardev = format!("fd={}", qemus.as_raw_fd());
    let error = Command::new(program)
        .args(arguments)
        .args(qemu_arguments(&chardev, serves.vectors))
        .exec();
    Err(Error::Exec {
        program: program.to_string_lossy().into_owned(),
        error,
    }
    .into())
}

/// The options of `host run` that are the server's, as it takes them.
fn server_options(run: &Run) -> Vec<OsString> {
    let vm = &run.vm;
    let rings = geometry(vm).rings;
    let mut options: Vec<OsString> = [
        format!("--stopwatches={}", vm.stopwatches),
        format!("--rings={rings}"),
        format!("--ring-slots={}", vm.ring_slots),
        format!("--event-slots={}", vm.event_slots),
        format!("--min-interval={}ns", vm.min_interval.0),
        format!("--busy-poll={}", run.serving.busy_poll),
    ]
    .map(Into::into)
    .into();
    let flags = [
        (vm.allow_host_time, "--allow-host-time"),
        (vm.allow_host_power, "--allow-host-power"),
    ];
    options.extend(
        flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, flag)| (*flag).into()),
    );
    options.extend(vm.name.iter().map(|name| format!("--name={name}").into()));
    let names = vm.auto_start.iter();
    options.extend(names.map(|name| format!("--auto-start={name}").into()));
    let control = run.serving.control.iter();
    options.extend(control.map(|path| {
        let mut option = OsString::from("--control=");
        option.push(path);
        option
    }));
    options.extend(run.serving.backend.map(|kind| {
        match kind {
            BackendKind::Module => "--backend=module",
            BackendKind::Program => "--backend=program",
        }
        .into()
    }));
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as CliCommand, HostCommand};
    use clap::Parser;
    use std::ffi::OsStr;

    fn host(line: &str) -> HostCommand {
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            CliCommand::Host(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_server_of_one_vm_gets_all_that_its_vm_is_to_have() {
        let HostCommand::Run(run) = host(
            "stopwatch host run --carrier ivshmem --backend program --busy-poll 7 --control /c --stopwatches 99 \
             --rings 3 --ring-slots 16 --event-slots 32 --min-interval 1ms --allow-host-time \
             --name web --auto-start boot --auto-start up -- qemu",
        ) else {
            panic!("not run");
        };
        let options = server_options(&run).join(OsStr::new(" "));
        let line = format!(
            "stopwatch host serve --inherited {}",
            options.to_string_lossy()
        );
        let HostCommand::Serve(serve) = host(&line) else {
            panic!("not serve");
        };
        assert_eq!(format!("{:?}", serve.vm), format!("{:?}", run.vm));
        assert_eq!(format!("{:?}", serve.serving), format!("{:?}", run.serving));
    }

    #[test]
    fn it_says_what_qemu_takes() {
        let geometry = Geometry {
            stopwatches: 128,
            rings: 2,
            ring_slots: 64,
            event_slots: 64,
        };
        let path = Path::new("/run/a,b");
        let because = Some("there is no module".into());
        let serves = Serves::new(&Backend::Program, because, geometry, 9, Some(path));
        assert_eq!(
            serves.to_string(),
            "there is no module\n\
             serving /run/a,b, by the program: VMs with 128 stopwatches and 2 rings, at most 9\n\
             QEMU takes -chardev socket,id=stopwatch,path=/run/a,,b -device \
             ivshmem-doorbell,vectors=3,chardev=stopwatch"
        );
        let json = serde_json::to_value(&serves).unwrap();
        assert_eq!(json["vectors"], 3);
        assert_eq!(json["event"], "serving");
    }
}
