// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line, and the help that a newcomer reads.

mod guest;
mod host;
mod timeline;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use guest::{
    BenchCommand, Boot, ClockRelation, GuestCommand, NewWatch, Refresh, RunCommand, Timeout,
};
pub(crate) use host::{
    Attach, BackendKind, BenchBoot, Carrier, Doorbells, HostCommand, NewVm, Qemu, Run, Serve,
    Serving, VmWatch,
};
pub(crate) use timeline::{Compare, Export, Record, Recorded, TimelineCommand, Trace};

const EXAMPLES: &str = "\
Examples, in a guest:
  stopwatch start                   start stopwatch 0
  stopwatch show 3 --json           what stopwatch 3 shows, for a script
  stopwatch create boot             make a stopwatch that has a name
  stopwatch pause boot              use it by that name
  stopwatch timeout 0 1.5s --wait   an interrupt in 1.5 s, and wait for it
  stopwatch run -- make             how long it takes, by the host's clock
  stopwatch list                    every stopwatch that is in use
  stopwatch doctor                  if something is not as it should be

Examples, on a host:
  stopwatch host run --name build -- qemu-system-x86_64 -accel kvm -m 1G disk.img
  stopwatch host list
  stopwatch doctor                  which pieces are there, on a host, too
  stopwatch host show build
  stopwatch host start build boot   what the guest's `pause boot` will stop
";

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the message says why, and what to do
  2  the command line makes no sense
  3  no device, or no permission to open it
  4  `compare`: a phase moved beyond the threshold
";

/// Stopwatches that the host kernel keeps for its virtual machines.
///
/// A guest starts, pauses and reads stopwatches that live in the kernel of its
/// host; a timeout arrives as an interrupt. Each VM has its own: 64 that are
/// numbered from 0, and those that are created. Durations are shown as seconds with every digit of the nanoseconds:
/// 1.000 123 456 s.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    /// Device node, or the directory in sysfs of a PCI device without a driver [default:
    /// /dev/stopwatch or, if that is not there, the PCI device; /dev/vhost-stopwatch for `host`];
    /// for `host` also the control socket of `host serve`
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

    /// Look at the timeline of a VM's start, or turn it into something else
    #[command(subcommand)]
    Timeline(TimelineCommand),

    /// Compare starts with those of a baseline: which phase moved
    ///
    /// A phase has moved if its median did by more than the threshold, by more than
    /// the error of both, beyond where the two spreads overlap, and by a hundredth
    /// of the whole.
    Compare(Compare),

    /// Print a shell's completions for this program
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write this program's man pages into a directory
    Man {
        /// The directory, which is made if there is none
        directory: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use clap::CommandFactory;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use stopwatch::{ClockId, Creation, Name, Nanoseconds, Share, Which};

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
        assert_eq!(watch.watch, 0.into());
    }

    #[test]
    fn a_stopwatch_is_meant_by_number_or_name() {
        for (text, which) in [
            ("7", Which::Number(7)),
            ("boot", Which::Name("boot".parse().unwrap())),
        ] {
            let cli = parse(&format!("stopwatch resume {text}")).unwrap();
            let Command::Guest(GuestCommand::Start(watch)) = cli.command else {
                panic!("{text}");
            };
            assert_eq!(watch.watch, which);
        }
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_told_so() {
        let arguments = [b"stopwatch" as &[u8], b"create", b"bo\xffot"];
        let error = Cli::try_parse_from(arguments.map(OsStr::from_bytes)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("is not UTF-8; expected"),
            "{error}"
        );
    }

    #[test]
    fn a_new_stopwatch_is_described() {
        let line = "stopwatch create t --clock boottime --skip-paused --share read";
        let Command::Guest(GuestCommand::Create { creation, .. }) = parse(line).unwrap().command
        else {
            panic!("not create");
        };
        assert_eq!(
            Creation::from(creation),
            Creation {
                clock: ClockId::Boottime,
                skip_paused: true,
                share: Share::Read,
            }
        );
    }

    #[test]
    fn a_vm_gets_what_is_asked_for() {
        let line = "stopwatch host run --auto-start boot --auto-start up --allow-host-time \
                    --min-interval 1ms -- qemu";
        let Command::Host(HostCommand::Run(run)) = parse(line).unwrap().command else {
            panic!("not run");
        };
        let names: Vec<_> = run.vm.auto_start.iter().map(Name::as_str).collect();
        assert_eq!(names, ["boot", "up"]);
        assert!(run.vm.allow_host_time);
        assert_eq!(run.vm.min_interval, Nanoseconds(1_000_000));
    }

    #[test]
    fn a_server_has_a_socket() {
        let line = "stopwatch host serve --socket /s --mode 660 --backend program --busy-poll 50 \
                    --rings 2 --name web";
        let Command::Host(HostCommand::Serve(serve)) = parse(line).unwrap().command else {
            panic!("not serve");
        };
        assert_eq!(serve.socket, Some("/s".into()));
        assert_eq!((serve.mode, serve.max_vms), (0o660, None));
        assert_eq!(serve.serving.backend, Some(BackendKind::Program));
        assert_eq!(serve.serving.busy_poll, 50);
        assert_eq!(serve.patience, Nanoseconds(30_000_000_000));
        assert_eq!(serve.vm.rings, Some(2));
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
            let Command::Guest(GuestCommand::Timeout(timeout)) = cli.command else {
                panic!("{text}");
            };
            assert!(timeout.wait && !timeout.at_elapsed, "{text}");
            assert_eq!(timeout.duration, Nanoseconds(ns), "{text}");
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
            (
                run.vm.stopwatches,
                run.vm.rings,
                run.vm.ring_slots,
                run.vm.event_slots
            ),
            (1024, Some(3), 64, 64)
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
            ("host serve --socket /s --mode 999", "an octal number"),
            ("host serve --socket /s --busy-poll 10001", "0..=10000"),
            ("bench call --count 3", "an even number"),
            ("show a/b", "expected no control characters"),
            ("create 42", "add a letter"),
            ("create t --clock real", "monotonic"),
            ("share t all", "control"),
            ("timeout t 1s --every 0s", "above 0"),
            ("run", "COMMAND"),
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

    /// The size of the region of a VM that is made with these options, as docs/host-control.md
    /// has it.
    fn region_size(options: &str) -> String {
        let cli = parse(&format!("stopwatch host run {options} -- qemu")).unwrap();
        let Command::Host(HostCommand::Run(Run { vm: new, .. })) = cli.command else {
            panic!("not run");
        };
        let layout =
            stopwatch_protocol::layout::Layout::new(stopwatch_protocol::geometry::Geometry {
                stopwatches: new.stopwatches,
                rings: new.rings.expect("it is given"),
                ring_slots: new.ring_slots,
                event_slots: new.event_slots,
            });
        let bytes = layout.unwrap().region_size();
        format!("{:.1} MiB", f64::from(bytes) / f64::from(1 << 20))
    }

    #[test]
    fn the_document_says_how_large_a_region_is() {
        let text = include_str!("../../../../docs/host-control.md").replace('\n', " ");
        let one = region_size("--rings 1");
        let most = region_size("--rings 64");
        let largest =
            region_size("--stopwatches 4096 --rings 64 --ring-slots 4096 --event-slots 4096");
        for said in [
            format!("the region has {one} with 1 ring and {most} with 64;"),
            format!("with the largest of everything it has {largest}."),
        ] {
            assert!(
                text.contains(&said),
                "docs/host-control.md should say: {said}"
            );
        }
    }
}
