// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tables, in Markdown and in HTML.

use std::fmt::Write;

use super::instructions::{GUEST_KERNEL, GUEST_PROGRAM, HOST_KERNEL, HOST_PROGRAMS};
use crate::results::{Function, GuestPart, Instructions, Results, Row, Target};

const BEGIN: &str = "<!-- Written by `make bench` from here -->";
const END: &str = "<!-- to here -->";

/// What stands between the marks of a document, replaced.
pub(super) fn replace_section(document: &str, section: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

/// A table, to become Markdown or HTML.
struct Table {
    head: Vec<&'static str>,
    lines: Vec<Vec<String>>,
}

impl Table {
    fn markdown(&self, out: &mut String) {
        let _ = writeln!(out, "| {} |", self.head.join(" | "));
        let rules: Vec<_> = (0..self.head.len())
            .map(|n| if n == 0 { "---" } else { "---:" })
            .collect();
        let _ = writeln!(out, "| {} |", rules.join(" | "));
        for line in &self.lines {
            let _ = writeln!(out, "| {} |", line.join(" | "));
        }
        out.push('\n');
    }

    fn html(&self, out: &mut String) {
        let line = |out: &mut String, tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            out.push_str("<tr>");
            for cell in cells {
                let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell));
            }
            out.push_str("</tr>\n");
        };
        out.push_str("<table>\n");
        line(out, "th", &mut self.head.iter().copied());
        for cells in &self.lines {
            line(out, "td", &mut cells.iter().map(String::as_str));
        }
        out.push_str("</table>\n");
    }
}

/// Everything measured, for a reader.
pub(super) fn markdown(results: &Results) -> String {
    let mut out = String::new();
    for (title, table, note) in sections(results) {
        if table.lines.is_empty() {
            continue;
        }
        let _ = writeln!(out, "**{title}.** {note}\n");
        table.markdown(&mut out);
    }
    out
}

/// What the guest measured, for a terminal.
pub fn guest_table(part: &GuestPart) -> String {
    let mut out = String::new();
    let width = part.timings.iter().map(|timing| timing.row.len()).max();
    let width = width.unwrap_or(0);
    let _ = writeln!(
        out,
        "{:width$}  {:>10} {:>10} {:>8}",
        "", "p50", "p99", "samples"
    );
    for timing in &part.timings {
        let _ = writeln!(
            out,
            "{:width$}  {:>10} {:>10} {:>8}",
            timing.row,
            time(timing.p50),
            time(timing.p99),
            timing.samples
        );
    }
    for missing in &part.missing {
        let _ = writeln!(out, "not measured: {}: {}", missing.row, missing.reason);
    }
    out
}

/// The same and the chart, in one file that needs no other.
pub(super) fn page(results: &Results, chart: &str) -> String {
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <title>What each way across the boundary of a VM costs</title>\n<style>\n\
         body { font: 15px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }\n\
         table { border-collapse: collapse; margin: 1em 0 }\n\
         th, td { padding: .2em .8em; border-bottom: 1px solid #ccc; text-align: right }\n\
         th:first-child, td:first-child { text-align: left }\n\
         svg { max-width: 100%; height: auto }\n</style>\n\
         <h1>What each way across the boundary of a VM costs</h1>\n",
    );
    out.push_str(chart);
    for (title, table, note) in sections(results) {
        if table.lines.is_empty() {
            continue;
        }
        let _ = writeln!(out, "<h2>{}</h2>\n<p>{}</p>", escape(title), escape(&note));
        table.html(&mut out);
    }
    out.push_str("</html>\n");
    out
}

fn sections(results: &Results) -> Vec<(&'static str, Table, String)> {
    let wall = &results.detail.wall;
    let machine = Table {
        head: vec!["", ""],
        lines: results
            .machine
            .iter()
            .map(|(key, value)| vec![key.clone(), value.clone()])
            .collect(),
    };
    let rows = Table {
        head: vec![
            "operation",
            "side",
            "instructions",
            "of them in the guest",
            "on the host",
            "p50",
            "p99",
            "exits",
            "of them to QEMU",
            "samples",
        ],
        lines: results
            .rows
            .iter()
            .map(|row| row_cells(results, row))
            .collect(),
    };
    let parts = Table {
        head: PARTS.iter().map(|(name, _)| *name).collect(),
        lines: results
            .detail
            .instructions
            .iter()
            .flat_map(|part| results.rows.iter().map(|row| (row, &part.instructions)))
            .filter_map(|(row, counted)| Some(part_cells(&row.row, counted.get(&row.row)?)))
            .collect(),
    };
    let targets = |targets: &[Target]| Table {
        head: vec!["figure", "value", "limit", "met", "by"],
        lines: targets.iter().map(target_cells).collect(),
    };
    let missing = Table {
        head: vec!["operation", "why"],
        lines: results
            .missing
            .iter()
            .map(|missing| vec![missing.row.clone(), missing.reason.clone()])
            .collect(),
    };
    let throughput = Table {
        head: vec!["operations a second", "1 vCPU", "2 vCPUs", "4 vCPUs"],
        lines: wall
            .throughput
            .iter()
            .map(|row| {
                let cell = |vcpus| {
                    row.by_vcpus
                        .get(&vcpus)
                        .map_or("-".to_owned(), |rate| count(*rate))
                };
                vec![row.row.clone(), cell(1), cell(2), cell(4)]
            })
            .collect(),
    };
    let lateness = Table {
        head: vec!["lateness", "p50", "p99", "p99.9"],
        lines: wall
            .lateness
            .iter()
            .flat_map(|lateness| &lateness.timings)
            .map(|timing| {
                vec![
                    timing.row.clone(),
                    time(timing.p50),
                    time(timing.p99),
                    time(timing.p999),
                ]
            })
            .collect(),
    };
    let lateness_note = wall.lateness.as_ref().map_or(String::new(), |lateness| {
        format!(
            "From the deadline to the return of read(). The device's deadline is of the host's \
             clock, known to the guest up to {}.",
            time(lateness.clock_error_ns as f64)
        )
    });
    let scale = Table {
        head: vec![
            "VMs open",
            "p50 of a kick",
            "p99",
            "bytes a VM beyond its region",
            "wake-ups a second, idle",
        ],
        lines: wall
            .scale
            .iter()
            .map(|scale| {
                vec![
                    scale.vms.to_string(),
                    time(scale.kick.p50),
                    time(scale.kick.p99),
                    count(scale.bytes_per_vm),
                    scale.wakeups_per_second.to_string(),
                ]
            })
            .collect(),
    };
    vec![
        ("The machine", machine, String::new()),
        (
            "One operation",
            rows,
            "Instructions are those of level 1 as a whole, guest, host kernel and QEMU together; \
             wall time is of the other run, with the machine as it was. The first two rows are \
             what is known beforehand."
                .to_owned(),
        ),
        (
            "Where the instructions are",
            parts,
            "By the module that a function is in. `build/bench/profile.md` has the functions."
                .to_owned(),
        ),
        (
            "Targets",
            targets(&results.targets),
            "Ratios within this run; (i) of instructions.".to_owned(),
        ),
        (
            "The same by other rows",
            targets(&results.other_readings),
            "No targets, but what one could also compare.".to_owned(),
        ),
        ("Not measured", missing, String::new()),
        ("Throughput", throughput, "All vCPUs at once.".to_owned()),
        ("Timeouts", lateness, lateness_note),
        (
            "Many VMs",
            scale,
            "A process on the host plays the guest of each; a kick is one command from post to \
             answer. Memory is what processes and the kernel have taken, by /proc/meminfo and without \
             caches of files; of few VMs it says nothing. Wake-ups are timers and \
             work items of the host module, over 3 s."
                .to_owned(),
        ),
    ]
}

/// Who executes what: the column, and whether a function belongs there.
type IsThere = fn(&Function) -> bool;
const PARTS: [(&str, IsThere); 8] = [
    ("operation", |_| false),
    ("guest: program", |f| f.place == GUEST_PROGRAM),
    ("our driver", |f| f.place == GUEST_KERNEL && ours(f)),
    ("rest of its kernel", |f| {
        f.place == GUEST_KERNEL && !ours(f)
    }),
    ("host: KVM", |f| f.place == HOST_KERNEL && kvm(f)),
    ("our module", |f| f.place == HOST_KERNEL && ours(f)),
    ("rest of its kernel", |f| {
        f.place == HOST_KERNEL && !ours(f) && !kvm(f)
    }),
    ("programs", |f| f.place == HOST_PROGRAMS),
];

fn ours(function: &Function) -> bool {
    function.name.ends_with("stopwatch]")
}

fn kvm(function: &Function) -> bool {
    ["[kvm]", "[kvm_amd]", "[kvm_intel]"]
        .iter()
        .any(|module| function.name.ends_with(module))
}

fn part_cells(row: &str, counted: &Instructions) -> Vec<String> {
    let sum = |(_, is_there): &(&str, IsThere)| {
        let there = counted.functions.iter().filter(|f| is_there(f));
        count(there.map(|function| function.instructions).sum())
    };
    let parts = PARTS.iter().skip(1).map(sum);
    std::iter::once(row.to_owned()).chain(parts).collect()
}

fn row_cells(results: &Results, row: &Row) -> Vec<String> {
    let exits = results.detail.wall.exits.get(&row.row);
    let rounded = |exits: f64| match exits {
        exits if exits < 0.00005 => "0".to_owned(),
        exits if exits < 0.1 => format!("{exits:.4}"),
        exits => format!("{exits:.2}"),
    };
    let insns = |insns: Option<u64>| insns.map_or("-".to_owned(), |insns| count(insns as f64));
    vec![
        row.row.clone(),
        row.side.name().to_owned(),
        insns(row.insns),
        insns(row.insns_guest),
        insns(row.insns_host),
        time(row.wall_ns_p50),
        time(row.wall_ns_p99),
        row.exits_per_op.map_or("-".to_owned(), rounded),
        exits.map_or("-".to_owned(), |exits| rounded(exits.to_vmm_per_operation)),
        row.samples.to_string(),
    ]
}

fn target_cells(target: &Target) -> Vec<String> {
    let number = |value: f64| {
        if value >= 1000.0 {
            count(value)
        } else {
            format!("{value:.2}")
        }
    };
    let met = target
        .met
        .map_or("not measured", |met| if met { "yes" } else { "no" });
    vec![
        target.figure.clone(),
        target.value.map_or("-".to_owned(), number),
        number(target.limit),
        met.to_owned(),
        target.note.clone(),
    ]
}

/// A duration in ns, in the unit that suits it.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e5 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

/// A number with its thousands apart.
fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value <= -0.5 {
        "-".to_owned()
    } else {
        String::new()
    };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(999.4), "999");
        assert_eq!(count(1234567.0), "1,234,567");
        assert_eq!(count(-1234.0), "-1,234");
        assert_eq!(time(12.4), "12 ns");
        assert_eq!(time(2500.0), "2.5 µs");
        assert_eq!(time(2.5e6), "2.50 ms");
    }

    #[test]
    fn only_the_section_is_replaced() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replace_section(&document, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(replace_section(&new, "new\n").unwrap(), new);
        assert_eq!(replace_section("no marks", "new"), None);
    }
}
