// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line in a guest.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use stopwatch::{ClockId, Creation, Name, Nanoseconds, Share, Which};

use super::values;

/// In a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Start a stopwatch, or let it go on from where it was paused
    #[command(visible_alias = "resume")]
    Start(Watch),

    /// Pause a running stopwatch
    Pause(Watch),

    /// Note a lap of a running stopwatch, which goes on
    Lap(Watch),

    /// Stop a stopwatch, set it to zero, disarm its timeout
    Reset(Watch),

    /// Show what a stopwatch shows, and change nothing
    Show(Watch),

    /// Reset a stopwatch, and show what it showed before, in one step
    ReadReset(Watch),

    /// Show the laps of a stopwatch
    Laps {
        #[command(flatten)]
        watch: Watch,

        /// From this lap on, counted from 0 [default: the oldest that is kept]
        #[arg(long, value_name = "LAP")]
        from: Option<u32>,
    },

    /// Arm a stopwatch's timeout: an event, a while from now
    ///
    /// It expires whether the stopwatch runs or not, and replaces a timeout
    /// that was armed.
    Timeout(Timeout),

    /// Make a stopwatch that has a name; it lasts until it is deleted
    Create {
        /// Its name: at most 31 bytes, not digits only, no `/`
        #[arg(value_name = "NAME", value_parser = values::name())]
        name: Name,

        #[command(flatten)]
        creation: NewWatch,
    },

    /// Delete a stopwatch that was created
    Delete(Named),

    /// Say what users other than its owner may do with a stopwatch
    Share {
        #[command(flatten)]
        watch: Named,

        /// Nothing, read it, or all but delete it and change this
        #[arg(value_name = "WHAT", value_parser = values::share())]
        share: Share,
    },

    /// List the stopwatches that are in use: created, or not stopped at zero
    List {
        /// List the unused numbered ones, too
        #[arg(long)]
        all: bool,
    },

    /// Follow the events: print each timeout as it expires
    Events {
        /// Only those of this stopwatch
        #[arg(value_name = "NAME|N", value_parser = values::which())]
        watch: Option<Which>,

        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },

    /// Run a command, and say how long it took by the host's clock and by the guest's
    ///
    /// The result goes to standard error, or to a file. The exit status is the
    /// command's: 126 if it cannot be run, 127 if there is none, 128 and the
    /// signal's number if one killed it.
    Run(RunCommand),

    /// Gather what this guest knows of its own start, on the device's clock
    ///
    /// The kernel log with its initcalls, and systemd's times, each with the bound of
    /// the way from the guest's clock to the device's. `stopwatch timeline merge` puts
    /// it onto the host's timeline. Needs root, and writes three lines to the kernel
    /// log, as messages for debugging. Without a device the times are the guest's own.
    Boot(Boot),

    /// Measure how this guest's CLOCK_MONOTONIC is related to VM time, for a trace
    ///
    /// Writes a point to the file, or adds one to those of this boot. With a command it
    /// measures before it, each interval while it runs, and after it, and has its exit
    /// status. The first and the last point are marked in the kernel's trace (`trace_marker`),
    /// if there is one, so that `stopwatch timeline trace` can tell that trace and file
    /// belong together. The trace has to be on the clock `mono`.
    #[command(after_help = "\
Example:
  stopwatch clock-relation --output relation.json -- trace-cmd record -C mono -e sched -- make
")]
    ClockRelation(ClockRelation),

    /// Watch the stopwatches live, in the terminal
    Watch {
        #[command(flatten)]
        refresh: Refresh,

        /// Show the unused numbered ones, too
        #[arg(long)]
        all: bool,
    },

    /// Show what the device offers, and what it has done
    Info,

    /// Say which pieces are there and what each missing one would bring, and check them
    Doctor,

    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Time synchronous calls: start and pause in turn, each answered by the host
    ///
    /// Between the calls the program does nothing, not even look at a clock:
    /// the answers carry the host's time. The stopwatch must be stopped, and
    /// ends so, with a little more on it.
    Call {
        #[command(flatten)]
        watch: Watch,

        /// How many commands; an even number, for the last is a pause
        #[arg(long, default_value = "10000", value_parser = values::even)]
        count: usize,
    },

    /// Time every way to the host that this guest has, in turns: the device's, and
    /// those of other devices and of the kernel
    ///
    /// Takes root, and the program stopwatch-bench beside this one.
    Rows {
        /// For so long
        #[arg(long, value_name = "N", default_value_t = 10)]
        seconds: u64,

        /// In at least so many rounds
        #[arg(long, value_name = "N", default_value_t = 20)]
        rounds: u32,
    },
}

/// A stopwatch, number 0 if nothing is said.
#[derive(Clone, Debug, Args)]
pub(crate) struct Watch {
    /// The stopwatch, by its name or by its number from 0
    #[arg(value_name = "NAME|N", default_value = "0", value_parser = values::which())]
    pub(crate) watch: Which,
}

/// A stopwatch that must be said.
#[derive(Clone, Debug, Args)]
pub(crate) struct Named {
    /// The stopwatch, by its name or by its number
    #[arg(value_name = "NAME|N", value_parser = values::which())]
    pub(crate) watch: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Timeout {
    #[command(flatten)]
    pub(crate) watch: Named,

    /// How long from now, such as 1s, 250ms or 1.5s; `off` or 0 disarms
    #[arg(value_name = "DURATION", value_parser = values::timeout)]
    pub(crate) duration: Nanoseconds,

    /// And again each so long after that
    #[arg(long, value_name = "DURATION", value_parser = values::interval)]
    pub(crate) every: Option<Nanoseconds>,

    /// When the stopwatch shows DURATION, instead of so long from now
    #[arg(long)]
    pub(crate) at_elapsed: bool,

    /// Wait for the first event, and print how late it was
    #[arg(long)]
    pub(crate) wait: bool,
}

/// What a new stopwatch shall be.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct NewWatch {
    /// The host's clock that it goes by: monotonic and raw do not count the
    /// host's suspend, boottime does; raw does not follow the host's NTP
    #[arg(long, default_value = "monotonic", value_parser = values::clock())]
    clock: ClockId,

    /// Let it stand still while the VMM has the VM paused
    #[arg(long)]
    skip_paused: bool,

    /// What users other than its owner may do with it
    #[arg(long, value_name = "WHAT", default_value = "none", value_parser = values::share())]
    share: Share,
}

impl From<NewWatch> for Creation {
    fn from(create: NewWatch) -> Self {
        Self {
            clock: create.clock,
            skip_paused: create.skip_paused,
            share: create.share,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunCommand {
    /// Keep the result in a stopwatch of this name, which is made if there is none
    #[arg(long, value_name = "NAME", value_parser = values::name())]
    pub(crate) name: Option<Name>,

    /// Take a lap at each line that the command writes to its standard output
    #[arg(long)]
    pub(crate) laps: bool,

    /// Write the result to this file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Boot {
    /// Show every event, and not only steps
    #[arg(long)]
    pub(crate) all: bool,

    /// Write the timeline to this file; with --json it goes to standard output as well
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ClockRelation {
    /// Write the points to this file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// From one point to the next, while the command runs
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = values::interval)]
    pub(crate) interval: Nanoseconds,

    /// The command and its arguments, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How often to look.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Refresh {
    /// From one look to the next
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = values::interval)]
    pub(crate) interval: Nanoseconds,
}
