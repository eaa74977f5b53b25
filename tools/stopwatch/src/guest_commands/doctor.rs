// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch doctor`: which pieces there are and what each missing one would bring, whether
//! everything is as it should be and, if not, what to do. It changes nothing.

mod pieces;

use std::fmt::{self, Display};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use stopwatch::guest::{Cpu, Device, Error, Info, Reader, Unavailable, Way};
use stopwatch::{Act, Features, Nanoseconds, Roots};
use stopwatch_uapi as uapi;

use crate::output::Output;

/// The least of so many calls is what one takes without a disturbance.
const CALLS: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// It works, but not as well as it could.
    Note,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    advice: Option<&'static str>,
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        check,
        verdict: Verdict::Good,
        found: found.into(),
        advice: None,
    }
}

fn note(check: &'static str, found: impl Into<String>, advice: &'static str) -> Finding {
    Finding {
        check,
        verdict: Verdict::Note,
        found: found.into(),
        advice: Some(advice),
    }
}

fn bad(check: &'static str, error: &Error) -> Finding {
    Finding {
        check,
        verdict: Verdict::Bad,
        found: error.to_string(),
        advice: None,
    }
}

pub(super) fn run(path: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let roots = Roots::default();
    let device = super::open(path);
    let misses_none = path.is_none() && pieces::is_host_only(&roots);
    let mut report = Report(vec![device_found(&device, misses_none)]);
    report.0.extend(pieces::look(&roots));
    if let Ok(device) = &device {
        let info = device.info()?;
        report.0.push(version(&info));
        report.0.push(features(&info));
        report.0.push(events(&info));
        report.0.push(answers(device));
        let reader = device.reader()?;
        report.0.push(exit_free(&reader));
        report.0.push(mapping(reader.load_ticks(), info.way));
        report.0.push(posting(device.poster(0)?.has_ring()));
    }
    let cpu = Cpu::ask();
    report.0.push(counter(&cpu));
    report.0.push(steal(&cpu));
    output.print(&report, &report)?;
    Ok(match (&device, report.is_bad()) {
        (_, false) => ExitCode::SUCCESS,
        (Err(Error::Open(_)), true) => ExitCode::from(3),
        (_, true) => ExitCode::FAILURE,
    })
}

/// A machine that is a host, and nothing else, misses none.
fn device_found(device: &Result<Device, Error>, misses_none: bool) -> Finding {
    const CHECK: &str = "device";
    match device {
        Ok(device) => match (device.info().map(|info| info.way), device.reset_reason()) {
            (Ok(way), None) => good(CHECK, format!("reached by {way}")),
            (Ok(way), Some(reason)) => note(
                CHECK,
                format!("reached by {way}; it was reset, since {reason}"),
                "timeouts were disarmed, and stopwatches without a name deleted",
            ),
            (Err(error), _) => bad(CHECK, &error),
        },
        Err(_) if misses_none => note(
            CHECK,
            "none: this machine is a host",
            "`stopwatch host list` shows its VMs",
        ),
        Err(error) => bad(CHECK, error),
    }
}

fn version(info: &Info) -> Finding {
    let found = match info.way {
        Way::Resources => format!("{}, of the device", info.version),
        _ => format!("{}, of device and driver", info.version),
    };
    match info.version == uapi::STOPWATCH_VERSION {
        true => good("version", found),
        false => note(
            "version",
            format!("{found}; this program is of {}", uapi::STOPWATCH_VERSION),
            "use a program and a driver of one version",
        ),
    }
}

fn features(info: &Info) -> Finding {
    let found = format!(
        "{}; {} stopwatches, {} rings",
        info.features, info.stopwatches, info.rings
    );
    match info.features.contains(Features::TIMEOUT) {
        true => good("features", found),
        false => note(
            "features",
            found,
            "there are no timeouts; use a host module that offers them",
        ),
    }
}

fn events(info: &Info) -> Finding {
    let found = format!(
        "{} by {} interrupts, {} lost",
        info.events, info.interrupts, info.events_lost
    );
    match info.events_lost {
        0 => good("events", found),
        _ => note(
            "events",
            found,
            "the stopwatches counted them all the same; start the VM with more event slots \
             (`stopwatch host run --event-slots N`)",
        ),
    }
}

/// The least `error_ns` is how long a call took.
fn answers(device: &Device) -> Finding {
    let times: Result<Vec<_>, _> = (0..CALLS)
        .map(|_| device.command(0, Act::Read).map(|reading| reading.error_ns))
        .collect();
    match times {
        Ok(times) => {
            let least = times.into_iter().min().unwrap_or(0);
            good("call", format!("answered within {}", Nanoseconds(least)))
        }
        Err(error) => bad("call", &error),
    }
}

fn exit_free(reader: &Reader<'_>) -> Finding {
    match reader.error_ns() {
        Ok(error) => good(
            "exit-free",
            format!(
                "readings without a call, now known to {}",
                Nanoseconds(error)
            ),
        ),
        Err(why) => note("exit-free", why.to_string(), "readings take a call each"),
    }
}

fn mapping(ticks: Result<(f64, f64), Unavailable>, way: Way) -> Finding {
    const CHECK: &str = "mapping";
    let (mapped, memory) = match ticks {
        Ok(ticks) => ticks,
        Err(why) => return note(CHECK, why.to_string(), "readings take a call each"),
    };
    let found = format!("a load takes {mapped:.1} ticks, from ordinary memory {memory:.1}");
    if mapped < 4.0 * memory {
        good(CHECK, format!("{found}: cacheable, as far as that tells"))
    } else if mapped > 100.0 && mapped > 20.0 * memory {
        note(
            CHECK,
            format!("{found}: not cacheable"),
            match way {
                Way::Resources => {
                    "readings work but are slow: without a driver the region is mapped uncached, \
                     which this CPU heeds; the driver maps it cacheable"
                }
                _ => "readings work but are slow; does the host's VMM show the region as memory?",
            },
        )
    } else {
        good(
            CHECK,
            format!("{found}: that does not tell whether it is cacheable"),
        )
    }
}

fn posting(has_ring: bool) -> Finding {
    match has_ring {
        true => good("posting", "commands can be posted without a system call"),
        false => note(
            "posting",
            "there is no post ring to be had: the host does not offer them, all are in use, or \
             this user may not map the device",
            "posted commands take a system call each",
        ),
    }
}

fn counter(cpu: &Cpu) -> Finding {
    match cpu.invariant_counter {
        true => good("counter", "invariant"),
        false => note(
            "counter",
            "the CPU does not say that it is invariant",
            "its rate may change, so exit-free readings may be less exact; let the VM have the \
             host's CPU (`-cpu host,+invtsc`)",
        ),
    }
}

fn steal(cpu: &Cpu) -> Finding {
    match cpu.steal_time {
        true => good("steal", "the hypervisor tells it"),
        false => note(
            "steal",
            match &cpu.hypervisor {
                Some(hypervisor) => format!("the hypervisor ({hypervisor}) does not tell it"),
                None => "there is no hypervisor that could tell it".into(),
            },
            "`stopwatch run` shows none",
        ),
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Report(Vec<Finding>);

impl Report {
    fn is_bad(&self) -> bool {
        self.0.iter().any(|finding| finding.verdict == Verdict::Bad)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            let mark = match finding.verdict {
                Verdict::Good => "good",
                Verdict::Note => "note",
                Verdict::Bad => "BAD",
            };
            writeln!(f, "{mark:<4}  {:<11}  {}", finding.check, finding.found)?;
            if let Some(advice) = finding.advice {
                writeln!(f, "{:19}({advice})", "")?;
            }
        }
        f.write_str(match self.is_bad() {
            true => "something does not work",
            false => "all works",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_bad_but_on_a_host() {
        let missing = || super::super::open(Some(Path::new("/dev/no-such-stopwatch")));
        let report = Report(vec![device_found(&missing(), false)]);
        let text = report.to_string();
        assert!(
            text.starts_with("BAD   device       there is no /dev/no-such"),
            "{text}"
        );
        assert!(text.contains("insmod"), "{text}");
        assert!(text.ends_with("something does not work"), "{text}");
        let report = Report(vec![device_found(&missing(), true)]);
        assert!(!report.is_bad(), "{report}");
    }

    #[test]
    fn the_speed_of_loads_tells_the_mapping() {
        let verdict = |mapped, memory| mapping(Ok((mapped, memory)), Way::Driver);
        assert!(verdict(1.1, 1.0)
            .found
            .ends_with("cacheable, as far as that tells"));
        assert_eq!(verdict(700.0, 1.0).verdict, Verdict::Note);
        assert!(verdict(30.0, 1.0).found.contains("does not tell"));
        let slow = mapping(Ok((700.0, 1.0)), Way::Resources);
        assert!(slow.advice.unwrap().contains("uncached"));
        let none = stopwatch::protocol::unavailable::Unavailable::NoClock.into();
        assert_eq!(mapping(Err(none), Way::Driver).verdict, Verdict::Note);
    }

    #[test]
    fn findings_are_json() {
        let report = Report(vec![good("guest clock", "kvm-clock")]);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"[{"check":"guest clock","verdict":"good","found":"kvm-clock","advice":null}]"#
        );
        assert_eq!(
            report.to_string(),
            "good  guest clock  kvm-clock\nall works"
        );
    }
}
