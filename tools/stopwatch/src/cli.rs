// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line, and the help that a newcomer reads.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use stopwatch::Nanoseconds;
use stopwatch_uapi as uapi;

const EXAMPLES: &str = "\
Examples, in a guest:
  stopwatch start                   start stopwatch 0
  stopwatch show 3 --json           what stopwatch 3 shows, for a script
  stopwatch timeout 0 1.5s --wait   an interrupt in 1.5 s, and wait for it
  stopwatch list                    every stopwatch that is in use

Examples, on a host:
  stopwatch host run --name build -- qemu-system-x86_64 -accel kvm -m 1G disk.img
  stopwatch host list
  stopwatch host show build
";

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the message says why, and what to do
  2  the command line makes no sense
  3  no device, or no permission to open it
";

/// Stopwatches that the host kernel keeps for its virtual machines.
///
/// A guest starts, pauses and reads stopwatches that live in the kernel of its
/// host; a timeout arrives as an interrupt. Each VM has its own, numbered
/// from 0. Durations are shown as seconds with every digit of the nanoseconds:
/// 1.000 123 456 s.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    /// Device node [default: /dev/stopwatch, or /dev/vhost-stopwatch for `host`]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) device: Option<PathBuf>,

    /// Print the result as JSON; times are then whole nanoseconds
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Guest(GuestCommand),

    /// On a host: run VMs that have stopwatches, and look at them
    #[command(subcommand)]
    Host(HostCommand),
}

/// In a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Start a stopwatch, or let it go on from where it was paused
    Start(Watch),

    /// Pause a running stopwatch
    Pause(Watch),

    /// Note a lap of a running stopwatch, which goes on
    Lap(Watch),

    /// Stop a stopwatch, set it to zero, disarm its timeout
    Reset(Watch),

    /// Show what a stopwatch shows, and change nothing
    Show(Watch),

    /// Arm a stopwatch's timeout: one event, a while from now
    ///
    /// It expires whether the stopwatch runs or not, and replaces a timeout
    /// that was armed.
    Timeout {
        /// Number of the stopwatch, from 0
        #[arg(value_name = "N")]
        watch: u32,

        /// How long from now, such as 1s, 250ms or 1.5s; `off` or 0 disarms
        #[arg(value_name = "DURATION", value_parser = timeout)]
        duration: Nanoseconds,

        /// Wait for the event, and print how late it was
        #[arg(long)]
        wait: bool,
    },

    /// List the stopwatches that are in use: not stopped at zero
    List {
        /// List the unused ones, too
        #[arg(long)]
        all: bool,
    },

    /// Show what the device offers, and what it has done
    Info,

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
        #[arg(long, default_value = "10000", value_parser = even)]
        count: usize,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Watch {
    /// Number of the stopwatch, from 0
    #[arg(value_name = "N", default_value_t = 0)]
    pub(crate) watch: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Run QEMU with a stopwatch device
    ///
    /// Makes the VM's region and eventfds, gives them to the host module, and
    /// then becomes QEMU, which inherits them: process ID, signals and exit
    /// status are QEMU's. `-device stopwatch,...` goes to the end of its
    /// arguments. The VM is gone when QEMU is.
    #[command(after_help = "\
Example:
  stopwatch host run --name build --rings 2 -- qemu-system-x86_64 -accel kvm -smp 2 -m 1G disk.img
")]
    Run(Run),

    /// List the VMs that you may see: your own, or as root all
    List,

    /// Show one VM, and its stopwatches that are in use
    Show {
        /// The VM, by number or by name
        #[arg(value_name = "VM")]
        vm: String,

        /// Show just this stopwatch of it, in use or not
        #[arg(long = "stopwatch", value_name = "N")]
        watch: Option<u32>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name of the VM, for people
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// How many stopwatches the VM has
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = range(uapi::STOPWATCH_MIN_STOPWATCHES, uapi::STOPWATCH_MAX_STOPWATCHES)
    )]
    pub(crate) stopwatches: u32,

    /// Request rings, best one for each vCPU [default: as many as the host has CPUs, at most 64]
    #[arg(
        long,
        value_name = "N",
        value_parser = range(uapi::STOPWATCH_MIN_RINGS, uapi::STOPWATCH_MAX_RINGS)
    )]
    pub(crate) rings: Option<u32>,

    /// Slots of each request ring, a power of two
    #[arg(long, value_name = "N", default_value = "64", value_parser = slots)]
    pub(crate) ring_slots: u32,

    /// Slots of the event ring, a power of two
    #[arg(long, value_name = "N", default_value = "64", value_parser = slots)]
    pub(crate) event_slots: u32,

    /// QEMU and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "QEMU")]
    pub(crate) qemu: Vec<OsString>,
}

fn range(min: u32, max: u32) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(min)..=i64::from(max))
}

fn slots(text: &str) -> Result<u32, String> {
    let (min, max) = (uapi::STOPWATCH_MIN_SLOTS, uapi::STOPWATCH_MAX_SLOTS);
    text.parse()
        .ok()
        .filter(|slots: &u32| slots.is_power_of_two() && (min..=max).contains(slots))
        .ok_or_else(|| format!("expected a power of two from {min} to {max}"))
}

fn even(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count: &usize| (2..=10_000_000).contains(count) && count % 2 == 0)
        .ok_or_else(|| "expected an even number from 2 to 10000000".into())
}

fn timeout(text: &str) -> Result<Nanoseconds, String> {
    match text {
        "off" | "0" => Ok(Nanoseconds(0)),
        _ => text
            .parse()
            .map_err(|error: stopwatch::ParseError| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn message(line: &str) -> String {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_number_may_be_left_out() {
        let Command::Guest(GuestCommand::Start(watch)) = parse("stopwatch start").unwrap().command
        else {
            panic!("not start");
        };
        assert_eq!(watch.watch, 0);
    }

    #[test]
    fn device_and_json_go_anywhere() {
        for line in [
            "stopwatch --json --device /dev/x show 3",
            "stopwatch show 3 --json --device /dev/x",
            "stopwatch host list --json --device /dev/x",
        ] {
            let cli = parse(line).unwrap();
            assert!(cli.json, "{line}");
            assert_eq!(cli.device, Some("/dev/x".into()), "{line}");
        }
    }

    #[test]
    fn timeouts_are_durations_or_off() {
        for (text, ns) in [
            ("1s", 1_000_000_000),
            ("250ms", 250_000_000),
            ("off", 0),
            ("0", 0),
        ] {
            let cli = parse(&format!("stopwatch timeout 5 {text} --wait")).unwrap();
            let Command::Guest(GuestCommand::Timeout {
                watch: 5,
                duration,
                wait: true,
            }) = cli.command
            else {
                panic!("{text}");
            };
            assert_eq!(duration, Nanoseconds(ns), "{text}");
        }
        let text = message("stopwatch timeout 5 10");
        assert!(text.contains("such as 1s, 250ms"), "{text}");
    }

    #[test]
    fn everything_after_the_dashes_is_qemu_s() {
        let cli = parse("stopwatch host run --rings 3 -- qemu --json -m 1G -- x").unwrap();
        assert!(!cli.json);
        let Command::Host(HostCommand::Run(run)) = cli.command else {
            panic!("not run");
        };
        assert_eq!(run.qemu, ["qemu", "--json", "-m", "1G", "--", "x"]);
        assert_eq!(
            (run.stopwatches, run.rings, run.ring_slots, run.event_slots),
            (64, Some(3), 64, 64)
        );
    }

    #[test]
    fn bad_values_say_what_was_expected() {
        for (line, expected) in [
            (
                "host run --ring-slots 100 -- qemu",
                "power of two from 8 to 4096",
            ),
            (
                "host run --event-slots 4 -- qemu",
                "power of two from 8 to 4096",
            ),
            ("host run --rings 65 -- qemu", "1..=64"),
            ("host run --stopwatches 0 -- qemu", "1..=4096"),
            ("host run", "QEMU"),
            ("bench call --count 3", "an even number"),
            ("show x", "invalid digit"),
        ] {
            let text = message(&format!("stopwatch {line}"));
            assert!(text.contains(expected), "{line}: {text}");
        }
    }

    #[test]
    fn help_and_version_are_there() {
        assert_eq!(
            parse("stopwatch --version").unwrap_err().kind(),
            ErrorKind::DisplayVersion
        );
        let help = parse("stopwatch --help").unwrap_err().to_string();
        for part in ["Examples, in a guest:", "stopwatch host run", "Exit codes:"] {
            assert!(help.contains(part), "{help}");
        }
    }
}
