// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host metrics`: OpenMetrics text, of kinds that the older
//! Prometheus text format, which textfile collectors read, has as well.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context;
use stopwatch::host::{Control, VmInfo, VmmStatus};
use stopwatch::Name;

use super::watches;
use crate::output::{Output, Shown};

pub(super) fn print(control: &Control, file: Option<&Path>, output: Output) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for vm in control.vms()? {
        all.push((watches(control, vm.vm, false)?, vm));
    }
    let text = text(&all);
    match file {
        Some(file) => replace(file, &text),
        // It is a format for programs by itself; as JSON it is a string.
        None => output.print(&text, text.trim_end()),
    }
}

/// Whoever reads the file sees all of the old or all of the new.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}", process::id()));
    let new = PathBuf::from(new);
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
        .with_context(|| format!("cannot write {}", file.display()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
}

/// A family of one sample for each VM or stopwatch.
struct Family<T> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&T) -> String,
}

const VM: &[Family<VmInfo>] = &[
    Family {
        name: "stopwatch_vm_running",
        kind: Kind::Gauge,
        help: "Whether the VM runs, as its VMM said last.",
        value: |vm| u8::from(vm.vmm_status == VmmStatus::Running).to_string(),
    },
    Family {
        name: "stopwatch_vm_stopwatches",
        kind: Kind::Gauge,
        help: "How many stopwatches the VM has room for.",
        value: |vm| vm.stopwatches.to_string(),
    },
    Family {
        name: "stopwatch_vm_rings",
        kind: Kind::Gauge,
        help: "Request rings of the VM.",
        value: |vm| vm.rings.to_string(),
    },
    Family {
        name: "stopwatch_vm_age_seconds",
        kind: Kind::Gauge,
        help: "Time since the VM was made.",
        value: |vm| seconds(vm.time_ns),
    },
    Family {
        name: "stopwatch_vm_paused_seconds",
        kind: Kind::Counter,
        help: "Time in which the VMM had the VM paused.",
        value: |vm| seconds(vm.paused_ns),
    },
    Family {
        name: "stopwatch_vm_kicks",
        kind: Kind::Counter,
        help: "Doorbells that were served.",
        value: |vm| vm.kicks.to_string(),
    },
    Family {
        name: "stopwatch_vm_over_budget_kicks",
        kind: Kind::Counter,
        help: "Doorbells that left requests to the workqueue.",
        value: |vm| vm.over_budget.to_string(),
    },
    Family {
        name: "stopwatch_vm_timed_kicks",
        kind: Kind::Counter,
        help: "Doorbells of which the service was timed.",
        value: |vm| vm.timed_kicks.to_string(),
    },
    Family {
        name: "stopwatch_vm_service_seconds",
        kind: Kind::Counter,
        help: "Time spent in the timed doorbells.",
        value: |vm| seconds(vm.service_ns),
    },
    Family {
        name: "stopwatch_vm_requests",
        kind: Kind::Counter,
        help: "Requests that were answered, and posts that were taken from post rings.",
        value: |vm| vm.requests.to_string(),
    },
    Family {
        name: "stopwatch_vm_bad_requests",
        kind: Kind::Counter,
        help: "Of these, those that broke the rules.",
        value: |vm| vm.bad_requests.to_string(),
    },
    Family {
        name: "stopwatch_vm_events",
        kind: Kind::Counter,
        help: "Events that were put into the event ring.",
        value: |vm| vm.events.to_string(),
    },
    Family {
        name: "stopwatch_vm_lost_events",
        kind: Kind::Counter,
        help: "Events that found the event ring full.",
        value: |vm| vm.events_lost.to_string(),
    },
    Family {
        name: "stopwatch_vm_resets",
        kind: Kind::Counter,
        help: "Resets of the device, by the guest or the VMM.",
        value: |vm| vm.resets.to_string(),
    },
];

/// All are gauges, for a reset of the stopwatch sets them to 0.
const WATCH: &[Family<Shown>] = &[
    Family {
        name: "stopwatch_elapsed_seconds",
        kind: Kind::Gauge,
        help: "What the stopwatch shows.",
        value: |shown| seconds(shown.reading.elapsed_ns),
    },
    Family {
        name: "stopwatch_running",
        kind: Kind::Gauge,
        help: "Whether the stopwatch runs.",
        value: |shown| u8::from(shown.reading.running).to_string(),
    },
    Family {
        name: "stopwatch_laps",
        kind: Kind::Gauge,
        help: "Laps since the last reset of the stopwatch.",
        value: |shown| shown.reading.laps.to_string(),
    },
    Family {
        name: "stopwatch_timeouts",
        kind: Kind::Gauge,
        help: "Timeouts that expired since the last reset of the stopwatch.",
        value: |shown| shown.reading.timeouts.to_string(),
    },
];

fn text(vms: &[(Vec<Shown>, VmInfo)]) -> String {
    let mut out = String::new();
    // Rates join what is about a VM with this by the number.
    heading(&mut out, "stopwatch_vm_info", Kind::Gauge, "A VM.");
    for (_, vm) in vms {
        let _ = writeln!(
            out,
            "stopwatch_vm_info{{vm=\"{}\",name=\"{}\",uid=\"{}\",pid=\"{}\"}} 1",
            vm.vm,
            escaped(&vm.name),
            vm.uid,
            vm.pid
        );
    }
    for family in VM {
        let labelled = vms.iter().map(|(_, vm)| (format!("vm=\"{}\"", vm.vm), vm));
        samples(&mut out, family, labelled);
    }
    for family in WATCH {
        let labelled = vms.iter().flat_map(|(watches, vm)| {
            watches.iter().map(|shown| {
                let name = shown.description.name.as_ref().map_or("", Name::as_str);
                let labels = format!(
                    "vm=\"{}\",stopwatch=\"{}\",name=\"{}\"",
                    vm.vm,
                    shown.description.watch,
                    escaped(name)
                );
                (labels, shown)
            })
        });
        samples(&mut out, family, labelled);
    }
    out.push_str("# EOF\n");
    out
}

fn samples<'a, T: 'a>(
    out: &mut String,
    family: &Family<T>,
    labelled: impl Iterator<Item = (String, &'a T)>,
) {
    heading(out, family.name, family.kind, family.help);
    let suffix = match family.kind {
        Kind::Counter => "_total",
        Kind::Gauge => "",
    };
    for (labels, of) in labelled {
        let _ = writeln!(
            out,
            "{}{suffix}{{{labels}}} {}",
            family.name,
            (family.value)(of)
        );
    }
}

fn heading(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    let _ = writeln!(out, "# TYPE {name} {kind}");
    if name.ends_with("_seconds") {
        let _ = writeln!(out, "# UNIT {name} seconds");
    }
    let _ = writeln!(out, "# HELP {name} {help}");
}

/// All digits, where a float would drop some.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// A label's value, as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::examples::vm;
    use super::*;
    use crate::output::examples::{named, numbered};

    #[test]
    fn families_stand_together_and_the_end_is_said() {
        let other = VmInfo {
            vm: 4,
            name: "a \"b\"\\".into(),
            ..vm()
        };
        let text = text(&[(vec![numbered(), named()], vm()), (vec![], other)]);
        for part in [
            "# TYPE stopwatch_vm_info gauge\n# HELP stopwatch_vm_info A VM.\n\
             stopwatch_vm_info{vm=\"3\",name=\"build\",uid=\"0\",pid=\"1234\"} 1\n\
             stopwatch_vm_info{vm=\"4\",name=\"a \\\"b\\\"\\\\\",uid=\"0\",pid=\"1234\"} 1\n",
            "# TYPE stopwatch_vm_kicks counter\n",
            "\nstopwatch_vm_kicks_total{vm=\"3\"} 10012\nstopwatch_vm_kicks_total{vm=\"4\"} 10012\n",
            "# UNIT stopwatch_vm_service_seconds seconds\n",
            "\nstopwatch_vm_service_seconds_total{vm=\"3\"} 0.006140000\n",
            "\nstopwatch_elapsed_seconds{vm=\"3\",stopwatch=\"7\",name=\"\"} 1.000123456\n\
             stopwatch_elapsed_seconds{vm=\"3\",stopwatch=\"70\",name=\"boot\"} 1.000123456\n",
        ] {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        assert!(text.lines().all(|line| !line.is_empty()));
    }

    #[test]
    fn the_file_is_replaced_or_left_alone() {
        let directory = std::env::temp_dir().join(format!("stopwatch-metrics-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("stopwatch.prom");
        replace(&file, "old\n").unwrap();
        replace(&file, "new\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new\n");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
        let error = replace(&file, "").unwrap_err();
        assert!(
            format!("{error:#}").starts_with("cannot write /"),
            "{error:#}"
        );
    }
}
