// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lines of ftrace's text: of `trace` and `trace_pipe` in tracefs, and of `trace-cmd
//! report`. Whoever runs a guest decides what its lines say.

use crate::model::{Moment, Process};

/// Stamps with six digits are rounded to the us.
const ROUNDING: i64 = 1_000;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The thread that ran.
    pub process: Process,
    /// By the trace's clock, and by how much its digits are off.
    pub at: Moment,
    /// `kvm_entry`.
    pub name: &'a str,
    /// What comes after the name.
    pub fields: &'a str,
}

/// `CPU 0/KVM-4711  [001] d..1.   123.456789: kvm_entry: vcpu 0, rip 0xfff0`. The flags may
/// be missing, a process number in parentheses may be before the CPU, and the stamp may
/// have nine digits.
pub fn parse(line: &str) -> Option<Line<'_>> {
    // A thread's name may have ` [` in it, but has no room (15 bytes) for a number, a CPU
    // and a stamp. The fields have, so the first that fits is the one.
    line.match_indices(" [").find_map(|(at, _)| {
        let (cpu, rest) = line[at + 2..].split_once("] ")?;
        cpu.parse::<u32>().ok()?;
        let (first, after) = rest.trim_start().split_once(' ')?;
        let (stamp, rest) = match first.strip_suffix(':') {
            Some(stamp) => (stamp, after),
            None => after.trim_start().split_once(": ")?,
        };
        let (event, fields) = rest.split_once(':')?;
        Some(Line {
            process: process(line[..at].trim())?,
            at: moment(stamp)?,
            name: event.trim(),
            fields: fields.trim(),
        })
    })
}

fn process(head: &str) -> Option<Process> {
    let head = match head.strip_suffix(')') {
        Some(rest) => rest.rsplit_once('(')?.0.trim_end(),
        None => head,
    };
    let (name, pid) = head.rsplit_once('-')?;
    Some(Process {
        pid: pid.parse().ok()?,
        name: name.trim().into(),
    })
}

fn moment(stamp: &str) -> Option<Moment> {
    let (seconds, digits) = stamp.split_once('.')?;
    let (unit, error) = match digits.len() {
        6 => (1_000, ROUNDING),
        9 => (1, 0),
        _ => return None,
    };
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten()
    };
    let ns = number(seconds)?
        .checked_mul(1_000_000_000)?
        .checked_add(number(digits)? * unit)?;
    (ns <= crate::document::MAX_NS).then(|| Moment::around(ns, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_thread_is_called() {
        let line = "a [002] d..1. 1.5: x: -1 [000] ] b-99 [003] d..1.   7.000001: kvm_entry: vcpu 0, rip 0x1";
        let traced = parse(line).unwrap();
        assert_eq!(traced.process.pid, 99);
        assert_eq!((traced.at.ns, traced.at.error()), (7_000_001_000, 1_000));
        assert_eq!(
            (traced.name, traced.fields),
            ("kvm_entry", "vcpu 0, rip 0x1")
        );
        for bad in [
            "",
            "x",
            " [001] ",
            "x-1 [001] d..1. 1.5: kvm_entry: x",
            "x-1 [001] d..1. -1.000001: kvm_entry: x",
            "x-1 [001] d..1. 99999999999999999999.000001: a: b",
            "x-1 [001] d..1. 9000000000.000001: a: b",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_an_event_says_does_not_become_its_stamp() {
        let line = "sh-7 [000] ..... 1.000002: tracing_mark_write: -8 [001] ..... 9.000009: a: b";
        let traced = parse(line).unwrap();
        assert_eq!((traced.process.pid, traced.at.ns), (7, 1_000_002_000));
    }

    #[test]
    fn the_forms_of_trace_cmd_are_read() {
        for line in [
            "  bash-123   [000]  5.000000001: sched_switch: bash:123 [120] S ==> x:3 [120]",
            "  bash-123   [000] d..2.  5.000000001: sched_switch: bash:123 [120] S ==> x:3 [120]",
            "  bash-123   (  123) [000] d..2.  5.000000001: sched_switch: bash:123 [120] S ==> x:3",
        ] {
            let traced = parse(line).unwrap();
            assert_eq!(traced.at, Moment::exact(5_000_000_001), "{line}");
            assert_eq!((traced.process.pid, traced.name), (123, "sched_switch"));
        }
    }
}
