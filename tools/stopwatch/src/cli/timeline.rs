// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line for the timeline of a VM's start.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use stopwatch::Nanoseconds;

use super::values;

#[derive(Debug, Subcommand)]
pub(crate) enum TimelineCommand {
    /// Run QEMU and record its start; `stopwatch host run --timeline` does so with a
    /// stopwatch device
    ///
    /// A monitor of the recorder's own goes to the end of QEMU's arguments, and what
    /// the options ask for. Signals and the exit status are passed on.
    Record(Record),

    /// Show a timeline as a table: phases, steps, marks and the longest spans
    Show {
        #[command(flatten)]
        file: TimelineFile,

        /// Show every event, and not only steps and marks
        #[arg(long)]
        all: bool,
    },

    /// Draw a timeline: one page of HTML that needs nothing else
    Html(Export),

    /// Make a trace of it for Perfetto (ui.perfetto.dev, trace_processor)
    Perfetto(Export),

    /// Make a table of it for spreadsheets, a row for each phase, event and span
    Csv(Export),

    /// Make OpenTelemetry spans of it: OTLP as JSON, a line for a start
    Otlp(Export),

    /// Put traces of the host's and the guest's kernel into one trace for Perfetto
    ///
    /// Both are text: `trace` or `trace_pipe` of tracefs, or what `trace-cmd report -t` says,
    /// each on its kernel's clock `mono`. It says by how much the two can be apart.
    Trace(Trace),

    /// Put what `stopwatch boot` gathered in a guest onto its host's timeline
    Merge {
        /// The host's timeline
        #[arg(value_name = "HOST")]
        host: PathBuf,

        /// The guest's
        #[arg(value_name = "GUEST")]
        guest: PathBuf,

        /// Write it to this file [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TimelineFile {
    /// The timeline; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) file: TimelineFile,

    /// Write it to this file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The timeline of that VM, of `stopwatch host run --timeline`
    #[arg(value_name = "TIMELINE")]
    pub(crate) timeline: PathBuf,

    /// The host's trace
    #[arg(long, value_name = "FILE")]
    pub(crate) host: PathBuf,

    /// The guest's trace
    #[arg(long, value_name = "FILE")]
    pub(crate) guest: PathBuf,

    /// What `stopwatch clock-relation` wrote in the guest meanwhile
    #[arg(long, value_name = "FILE")]
    pub(crate) relation: PathBuf,

    /// Write the trace to this file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The baseline's timelines, then those to compare with it
    #[arg(value_name = "FILE", num_args = 2.., required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// So many of the files are the baseline
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) baseline: usize,

    /// A phase has moved if its median did by more than this part of the baseline's
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = values::percent)]
    pub(crate) threshold: f64,
}

/// What is recorded of a start, beside what always is.
#[derive(Debug, Args)]
pub(crate) struct Recorded {
    /// Give the VM SeaBIOS's debug port (`isa-debugcon` at 0x402), and record what it says
    #[arg(long)]
    pub(crate) firmware_log: bool,

    /// Give the VM a device at port 0x80, and record the codes that are written to it
    #[arg(long)]
    pub(crate) post_codes: bool,

    /// Record the lines of the VM's serial console: a socket that QEMU listens at
    /// (`-serial unix:PATH,server=on,wait=off`), or a file that it writes
    /// (`-serial file:PATH`)
    #[arg(long, value_name = "PATH")]
    pub(crate) console: Option<PathBuf>,

    /// The service is ready when the console has a line with this in it
    #[arg(long, value_name = "TEXT", requires = "console")]
    pub(crate) ready_line: Option<String>,

    /// Record for so long at the most, if nothing says that it is ready before
    #[arg(long, value_name = "DURATION", default_value = "10min", value_parser = values::interval)]
    pub(crate) limit: Nanoseconds,
}

impl Recorded {
    /// Whether anything is said that makes no sense without a recording.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.firmware_log || self.post_codes || self.console.is_some()
    }
}

/// A recording without a stopwatch device.
#[derive(Debug, Args)]
pub(crate) struct Record {
    /// Write the timeline to this file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Name of the VM, for people
    #[arg(long)]
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) recorded: Recorded,

    /// QEMU and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "QEMU")]
    pub(crate) qemu: Vec<OsString>,
}
