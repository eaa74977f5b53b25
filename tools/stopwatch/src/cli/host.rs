// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line on a host.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use stopwatch::{Name, Nanoseconds, Which};
use stopwatch_uapi as uapi;

use super::values;
use super::{NewWatch, Recorded, Refresh};

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Run QEMU with a stopwatch device
    ///
    /// Makes the VM's region and eventfds, gives them to the host module, and
    /// then becomes QEMU, which inherits them: process ID, signals and exit
    /// status are QEMU's. `-device stopwatch,...` goes to the end of its
    /// arguments. The VM is gone when QEMU is.
    ///
    /// With `--carrier ivshmem` any QEMU will do: a server for this VM alone runs
    /// beside it, as by `stopwatch host serve`, and ends with it.
    #[command(after_help = "\
Example:
  stopwatch host run --name web1 --auto-start boot -- qemu-system-x86_64 -accel kvm -m 1G disk.img
")]
    Run(Run),

    /// Start a VM many times, and show how long each phase of its start takes
    ///
    /// One start after the other is recorded as by `stopwatch timeline record`, until the VM
    /// is ready or ends by itself; then its QEMU is ended, by SIGTERM, and 10 s later by
    /// SIGKILL. QEMU gets no standard input, and its standard output is dropped. The
    /// directory gets the timeline of each start, and all of them in one picture,
    /// `distribution.html`.
    #[command(after_help = "\
Example:
  stopwatch host bench-boot -n 20 --output boots --console console --ready-line login: -- \\
      qemu-system-x86_64 -accel kvm -m 1G -snapshot -serial file:console disk.img
")]
    BenchBoot(BenchBoot),

    /// Give every QEMU that connects to a socket a VM with stopwatches
    ///
    /// For a QEMU as distributions have it, and for libvirt: its own device
    /// `ivshmem-doorbell` connects to this server. The host module serves the VMs or,
    /// where there is none, this program itself. It serves until it is interrupted, and
    /// tells who comes and goes.
    #[command(after_help = "\
Example:
  stopwatch host serve --socket /run/stopwatch/ivshmem --rings 2
  qemu-system-x86_64 -accel kvm -m 1G disk.img \\
      -chardev socket,id=stopwatch,path=/run/stopwatch/ivshmem \\
      -device ivshmem-doorbell,vectors=3,chardev=stopwatch
")]
    Serve(Serve),

    /// List the VMs that you may see: your own, or as root all
    List,

    /// Show one VM, and its stopwatches that are in use
    Show {
        #[command(flatten)]
        vm: Vm,

        /// Show just this stopwatch of it, in use or not
        #[arg(
            long = "stopwatch",
            value_name = "NAME|N",
            value_parser = values::which(),
            conflicts_with = "all"
        )]
        watch: Option<Which>,

        /// Show the unused numbered ones, too
        #[arg(long)]
        all: bool,
    },

    /// Watch the VMs and their stopwatches live, in the terminal
    Watch(Refresh),

    /// Start a stopwatch of a VM, or let it go on from where it was paused
    #[command(visible_alias = "resume")]
    Start(VmWatch),

    /// Pause a running stopwatch of a VM
    Pause(VmWatch),

    /// Note a lap of a running stopwatch of a VM
    Lap(VmWatch),

    /// Stop a stopwatch of a VM, set it to zero, disarm its timeout
    Reset(VmWatch),

    /// Show what a stopwatch of a VM shows, and change nothing
    Read(VmWatch),

    /// Reset a stopwatch of a VM, and show what it showed before, in one step
    ReadReset(VmWatch),

    /// Show the laps of a stopwatch of a VM
    Laps {
        #[command(flatten)]
        watch: VmWatch,

        /// From this lap on, counted from 0 [default: the oldest that is kept]
        #[arg(long, value_name = "LAP")]
        from: Option<u32>,
    },

    /// Make a stopwatch in a VM; the guest's root will own it
    Create {
        #[command(flatten)]
        vm: Vm,

        /// Its name: at most 31 bytes, not digits only, no `/`
        #[arg(value_name = "NAME", value_parser = values::name())]
        name: Name,

        #[command(flatten)]
        creation: NewWatch,
    },

    /// Delete a stopwatch of a VM that was created
    Delete(VmWatch),

    /// Follow what changes: VMs, the state of their stopwatches, timeouts
    ///
    /// It looks at intervals, and tells what is different from the look before.
    /// Laps, timeouts and resets are counted by the host and none is missed; a
    /// stopwatch that starts and pauses again between two looks is not seen to,
    /// and the time is that of the look.
    Events {
        /// Only of this VM
        #[arg(value_name = "VM")]
        vm: Option<String>,

        #[command(flatten)]
        refresh: Refresh,

        /// End after so many events [default: go on until interrupted, or until that VM has ended]
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },

    /// Print every VM and its stopwatches that are in use as OpenMetrics text
    Metrics {
        /// Replace this file by it in one step, for a textfile collector
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },

    /// Plug a stopwatch device into a QEMU that runs already, by its QMP socket
    Attach(Attach),

    /// Unplug a device that `attach` plugged in
    Detach {
        #[command(flatten)]
        qemu: Qemu,

        /// How long the guest may take to give it up
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::interval)]
        wait: Nanoseconds,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Vm {
    /// The VM, by number or by name
    #[arg(value_name = "VM")]
    pub(crate) vm: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct VmWatch {
    #[command(flatten)]
    pub(crate) vm: Vm,

    /// The stopwatch, by its name or by its number from 0
    #[arg(value_name = "NAME|N", value_parser = values::which())]
    pub(crate) watch: Which,
}

/// What a VM shall have.
#[derive(Clone, Debug, Args)]
pub(crate) struct NewVm {
    /// Name of the VM, for people
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// How many stopwatches the VM has
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        value_parser = values::range(uapi::STOPWATCH_MIN_STOPWATCHES, uapi::STOPWATCH_MAX_STOPWATCHES)
    )]
    pub(crate) stopwatches: u32,

    /// Request rings, best one for each vCPU [default: as many as the host has CPUs, at most 64]
    #[arg(
        long,
        value_name = "N",
        value_parser = values::range(uapi::STOPWATCH_MIN_RINGS, uapi::STOPWATCH_MAX_RINGS)
    )]
    pub(crate) rings: Option<u32>,

    /// Slots of each request ring, a power of two
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::slots)]
    pub(crate) ring_slots: u32,

    /// Slots of the event ring, a power of two
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::slots)]
    pub(crate) event_slots: u32,

    /// Make a stopwatch of this name and start it; may be given again
    #[arg(long, value_name = "NAME", value_parser = values::name())]
    pub(crate) auto_start: Vec<Name>,

    /// Let the guest know the host's uptime
    #[arg(long)]
    pub(crate) allow_host_time: bool,

    /// Let the guest power the host off, if its module was loaded with host_power=1
    #[arg(long)]
    pub(crate) allow_host_power: bool,

    /// The fastest periodic timeout that the guest may have; at least 100us
    #[arg(long, value_name = "DURATION", default_value = "100us", value_parser = values::interval)]
    pub(crate) min_interval: Nanoseconds,
}

/// The kind of doorbells that a guest is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Doorbells {
    /// A register in memory: as good as a port where the CPU helps KVM
    Memory,
    /// An I/O port: cheap on every CPU
    Port,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) vm: NewVm,

    /// What shows the device to the guest
    #[arg(long, value_enum, default_value_t = Carrier::Stopwatch)]
    pub(crate) carrier: Carrier,

    /// How the guest rings: by memory or by I/O port
    #[arg(long, value_enum, default_value_t = Doorbells::Port)]
    pub(crate) doorbells: Doorbells,

    #[command(flatten)]
    pub(crate) serving: Serving,

    /// Record the VM's start, and write its timeline to this file
    ///
    /// The program then stays, and QEMU is its child: signals and the exit status are
    /// passed on. QEMU gets a monitor of the recorder's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) timeline: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) recorded: Recorded,

    /// QEMU and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "QEMU")]
    pub(crate) qemu: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchBoot {
    /// How often
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) starts: u32,

    /// Write the timelines and the picture into this directory; it must be empty or new
    #[arg(long, short, value_name = "DIRECTORY")]
    pub(crate) output: PathBuf,

    /// Give each VM a device, as `stopwatch host run` does [default: none, which needs
    /// neither the host module nor our QEMU]
    #[arg(long, value_enum)]
    pub(crate) carrier: Option<Carrier>,

    #[command(flatten)]
    pub(crate) vm: NewVm,

    /// How the guest rings: by memory or by I/O port
    #[arg(long, value_enum, default_value_t = Doorbells::Port)]
    pub(crate) doorbells: Doorbells,

    #[command(flatten)]
    pub(crate) recorded: Recorded,

    /// QEMU and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "QEMU")]
    pub(crate) qemu: Vec<OsString>,
}

/// What shows a device to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Carrier {
    /// `-device stopwatch`, of a QEMU that has it: the fastest
    Stopwatch,
    /// `-device ivshmem-doorbell`, of any QEMU
    Ivshmem,
}

/// What serves VMs behind ivshmem-doorbell.
#[derive(Debug, Args)]
pub(crate) struct Serving {
    /// What serves the VMs behind ivshmem-doorbell [default: the module, if it is loaded]
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendKind>,

    /// Look for the next kick for so many microseconds before sleeping; at most 10000
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = values::range(0, 10_000))]
    pub(crate) busy_poll: u32,

    /// Where `stopwatch host --device PATH list` and its like find the VMs that this program
    /// serves [default: of `host serve` the other socket's path, with .control behind it; of
    /// `host run` nowhere]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BackendKind {
    /// The host module: a call is answered in the guest's own exit
    Module,
    /// This program: needs no module; a call takes a wake-up
    Program,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The socket to make; may be left out where the service manager passes one
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Permissions of the sockets, in octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = values::mode)]
    pub(crate) mode: u32,

    #[command(flatten)]
    pub(crate) serving: Serving,

    /// So many VMs at a time [default: as the limit of open files allows, up to 4096]
    #[arg(long, value_name = "N", value_parser = values::range(1, 1 << 20))]
    pub(crate) max_vms: Option<u32>,

    /// How long a client may take to read what it is told
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::interval)]
    pub(crate) patience: Nanoseconds,

    #[command(flatten)]
    pub(crate) vm: NewVm,

    /// Serve the one client that is connected as standard input, and end with it
    #[arg(long, hide = true, conflicts_with = "socket")]
    pub(crate) inherited: bool,
}

/// A device of a QEMU that runs.
#[derive(Debug, Args)]
pub(crate) struct Qemu {
    /// Socket that QEMU was given with `-qmp unix:PATH,server=on,wait=off`
    #[arg(long, value_name = "PATH")]
    pub(crate) qmp: PathBuf,

    /// The device's id in QEMU
    #[arg(long, default_value = "stopwatch0")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    pub(crate) qemu: Qemu,

    /// How the guest rings: by memory or by I/O port
    #[arg(long, value_enum, default_value_t = Doorbells::Port)]
    pub(crate) doorbells: Doorbells,

    /// QEMU's bus to plug it into, such as a root port of a q35 machine
    #[arg(long)]
    pub(crate) bus: Option<String>,

    #[command(flatten)]
    pub(crate) vm: NewVm,
}
