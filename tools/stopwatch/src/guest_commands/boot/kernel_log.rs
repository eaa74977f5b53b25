// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's log, by /dev/kmsg. Its stamps are of the scheduler's clock, which is
//! neither CLOCK_MONOTONIC nor related to it in any interface: a line that is written
//! and read back relates the two. (The crates for it are no longer kept, or bring an
//! executor.)

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::Errno;
use stopwatch_timeline::{Event, Moment, Side, Span, SpanEnd, Step, Timeline};

use super::relation::Relation;
use crate::clocks::now;

const NODE: &str = "/dev/kmsg";
const SOURCE: &str = "kernel log";

/// The most lines that are kept, and the most initcalls.
const MOST: usize = 20_000;

/// The kernel takes ten lines in five seconds from programs.
const PROBES: u32 = 3;

/// A record of /dev/kmsg: `6,339,5140900,-;NET: Registered ...`.
#[derive(Debug, PartialEq)]
struct Record {
    sequence: u64,
    /// By the scheduler's clock.
    us: i64,
    text: String,
}

pub(super) fn gather(relation: &Relation, to: &mut Timeline) {
    let log = match read_all() {
        Ok(log) => log,
        Err(error) => {
            to.notes.push(format!(
                "the kernel log cannot be read ({NODE}: {error}): run as root"
            ));
            return;
        }
    };
    match probe() {
        Ok(offset) => tell(&log, offset, relation, to),
        Err(error) => to.notes.push(format!(
            "a line written to {NODE} has to relate the kernel log's clock to the others, and that \
             failed ({error}): the log is left out; writing takes root"
        )),
    }
}

fn open() -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(NODE)
}

/// All records that the kernel has kept, and how many it has not.
fn read_all() -> io::Result<Log> {
    let mut log = Log::default();
    let mut file = open()?;
    while let Some(record) = next(&mut file)? {
        log.take(record);
    }
    Ok(log)
}

/// The next record; none if there is none yet. The outer of the two: that it could be
/// read, the inner: that it made sense.
fn next(file: &mut File) -> io::Result<Option<Option<Record>>> {
    let mut buffer = [0; 8192];
    loop {
        return match file.read(&mut buffer) {
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(parse(&String::from_utf8_lossy(&buffer[..length])))),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => Ok(None),
                // Overwritten before it was read; the next number tells how many.
                Some(Errno::PIPE | Errno::INTR) => continue,
                _ => Err(error),
            },
        };
    }
}

#[derive(Default)]
struct Log {
    records: Vec<Record>,
    missing: u64,
    strange: u64,
    next: u64,
}

impl Log {
    fn take(&mut self, record: Option<Record>) {
        let Some(record) = record else {
            self.strange += 1;
            return;
        };
        self.missing += record.sequence.saturating_sub(self.next);
        self.next = record.sequence.saturating_add(1);
        if self.records.len() < MOST {
            self.records.push(record);
        } else {
            self.missing += 1;
        }
    }
}

fn parse(text: &str) -> Option<Record> {
    let (head, rest) = text.split_once(';')?;
    let mut fields = head.split(',');
    let sequence = fields.nth(1)?.parse().ok()?;
    let us: i64 = fields.next()?.parse().ok()?;
    let line = rest.lines().next().unwrap_or_default();
    Some(Record {
        sequence,
        us: (us >= 0).then_some(us)?,
        text: unescape(line).chars().take(500).collect(),
    })
}

/// The kernel writes what is not printable as `\x1b`.
fn unescape(line: &str) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match (first, after) {
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = &after[if code.is_some() { 3 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// CLOCK_MONOTONIC less the scheduler's clock, by lines that are written and read back.
fn probe() -> io::Result<Moment> {
    let mut write = OpenOptions::new().write(true).open(NODE)?;
    let mut best: Option<Moment> = None;
    for number in 0..PROBES {
        let mut read = open()?;
        read.seek(SeekFrom::End(0))?;
        let text = format!(
            "stopwatch: the clock of this log, {number} of process {}",
            std::process::id()
        );
        let before = now();
        // As a message for debugging. Without a newline the kernel would wait for its rest, and
        // show nothing until another line comes.
        write.write_all(format!("<7>{text}\n").as_bytes())?;
        let after = now();
        while let Some(record) = next(&mut read)? {
            if let Some(record) = record.filter(|record| record.text == text) {
                let at = stamp(record.us);
                let offset =
                    Moment::between(before.saturating_sub(at.hi), after.saturating_sub(at.lo));
                if best.is_none_or(|best| offset.error() < best.error()) {
                    best = Some(offset);
                }
            }
        }
    }
    best.ok_or_else(|| io::Error::other("the kernel did not keep the line that was written"))
}

/// The log's stamps are cut to the us.
fn stamp(us: i64) -> Moment {
    let ns = us.saturating_mul(1000);
    Moment::between(ns, ns.saturating_add(999))
}

fn tell(log: &Log, offset: Moment, relation: &Relation, to: &mut Timeline) {
    let at = |record: &Record| relation.map(stamp(record.us).shifted(offset));
    // Its clock begins at 0, in the kernel's first moments; the lines before have 0, too.
    if log.missing == 0 || log.records.first().is_some_and(|first| first.us == 0) {
        let zero = relation.map(Moment::exact(0).shifted(offset));
        let event = Event::new("the kernel's clock begins", zero, SOURCE, Side::Guest);
        to.events.push(event.step(Step::Kernel));
    } else {
        to.notes
            .push("the beginning of the kernel log is overwritten: log_buf_len=4M keeps it".into());
    }
    let mut initcalls = Initcalls::default();
    for record in &log.records {
        let at = at(record);
        if initcalls.take(&record.text, at) {
            continue;
        }
        let event = Event::new(&record.text, at, SOURCE, Side::Guest);
        to.events.push(match step_of(&record.text) {
            Some(step) if to.events.iter().all(|event| event.step != Some(step)) => {
                event.step(step)
            }
            _ => event,
        });
    }
    to.drop_some("lines of the kernel log", log.missing);
    to.drop_some(
        "lines of the kernel log that could not be read",
        log.strange,
    );
    initcalls.tell(to);
}

fn step_of(line: &str) -> Option<Step> {
    match line {
        "Run /init as init process" => Some(Step::Initramfs),
        line if line.starts_with("Run /") && line.ends_with(" as init process") => Some(Step::Root),
        _ => None,
    }
}

/// What `initcall_debug` has the kernel say of its initcalls.
#[derive(Default)]
struct Initcalls {
    open: HashMap<String, Moment>,
    done: Vec<(String, Moment, Moment)>,
    left_out: u64,
}

impl Initcalls {
    /// Whether the line is about one.
    fn take(&mut self, line: &str, at: Moment) -> bool {
        if let Some(name) = line.strip_prefix("calling  ").and_then(name_of) {
            if self.open.len() < MOST {
                self.open.insert(name.into(), at);
            }
            return true;
        }
        let returned = line
            .strip_prefix("initcall ")
            .filter(|rest| rest.contains(" returned "))
            .and_then(name_of);
        let Some(name) = returned else {
            return false;
        };
        match self.open.remove(name) {
            Some(begin) if self.done.len() < MOST => self.done.push((name.into(), begin, at)),
            _ => self.left_out += 1,
        }
        true
    }

    fn tell(self, to: &mut Timeline) {
        to.drop_some("initcalls", self.left_out);
        let end = |at| SpanEnd {
            at,
            side: Side::Guest,
            process: None,
        };
        let base = to.spans.len();
        for (id, (name, begin, until)) in (base..).zip(self.done) {
            to.spans.push(Span {
                id: u32::try_from(id).unwrap_or(u32::MAX),
                parent: None,
                name,
                source: "kernel log, initcall_debug".into(),
                begin: end(begin),
                end: Some(end(until)),
                attempt: 0,
            });
        }
    }
}

/// `pci_init+0x0/0x30 [module] @ 1`: up to the offset.
fn name_of(rest: &str) -> Option<&str> {
    let (name, _) = rest.split_once("+0x")?;
    (!name.is_empty() && !name.contains(' ')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stopwatch_timeline::Clock;

    /// As a kernel with `initcall_debug` writes it.
    const LOG: &str = "\
5,0,0,-;Linux version 7.3.4+deb13-amd64
6,1,0,-;Command line: initcall_debug
7,2,310000,-;calling  pci_arch_init+0x0/0x80 @ 1
6,3,320000,-;PCI: Using configuration type 1
7,4,350000,-;initcall pci_arch_init+0x0/0x80 returned 0 after 39000 usecs
7,5,360000,-;calling  virtio_pci_init+0x0/0x30 [virtio_pci] @ 77
6,6,400000,-;evil \\x1b[2J \\xe2\\x80\\xae \\\\x
6,9,900000,-;Run /init as init process
6,10,950000,-;Run /bin/sh as init process
7,11,990000,-;initcall late_one+0x0/0x30 returned 0 after 1 usecs";

    fn gathered(log: &str) -> Timeline {
        let mut read = Log::default();
        for line in log.lines() {
            read.take(parse(&format!("{line}\n SUBSYSTEM=x\n")));
        }
        let mut timeline = Timeline::new(Clock::GuestMonotonic, "", Moment::exact(0), "test");
        // The log's clock began 100 ms after the other.
        let offset = Moment::around(100_000_000, 5_000);
        tell(&read, offset, &Relation::none(0), &mut timeline);
        timeline.end = Moment::exact(2_000_000_000);
        timeline.check().unwrap();
        timeline
    }

    #[test]
    fn lines_are_events_and_initcalls_are_spans() {
        let timeline = gathered(LOG);
        let step = |step| {
            timeline
                .events
                .iter()
                .find(|event| event.step == Some(step))
                .unwrap()
        };
        assert_eq!(step(Step::Kernel).at, Moment::around(100_000_000, 5_000));
        let init = step(Step::Initramfs).at;
        assert_eq!((init.lo, init.hi), (999_995_000, 1_000_005_999));
        assert_eq!(step(Step::Root).name, "Run /bin/sh as init process");
        assert_eq!(timeline.spans.len(), 1);
        assert_eq!(timeline.spans[0].name, "pci_arch_init");
        let end = timeline.spans[0].end.as_ref().unwrap().at;
        assert_eq!(timeline.spans[0].begin.at.until(end).ns, 40_000_000);
        // Two records were overwritten; of one initcall only the end is there.
        let dropped: Vec<_> = timeline
            .dropped
            .iter()
            .map(|one| (one.what.as_str(), one.count))
            .collect();
        assert_eq!(dropped, [("lines of the kernel log", 2), ("initcalls", 1)]);
    }

    #[test]
    fn what_the_kernel_escaped_is_what_it_was() {
        let timeline = gathered(LOG);
        let name = "evil \u{1b}[2J \u{202e} \\\\x";
        assert!(
            timeline.events.iter().any(|event| event.name == name),
            "{timeline:?}"
        );
    }

    #[test]
    fn a_log_without_its_beginning_has_no_kernel_entry() {
        let timeline = gathered("6,500,7000000,-;late\nnonsense\n6,501,-3,-;before\n6,502,x,-;odd");
        assert!(timeline.events.iter().all(|event| event.step.is_none()));
        assert!(
            timeline.notes[0].contains("log_buf_len"),
            "{:?}",
            timeline.notes
        );
        assert_eq!(timeline.dropped[0].count, 500);
        assert_eq!(timeline.dropped[1].count, 3);
    }

    #[test]
    fn a_log_that_is_too_long_is_cut() {
        let mut log = Log::default();
        for sequence in 0..MOST as u64 + 7 {
            log.take(parse(&format!("6,{sequence},1,-;x\n")));
        }
        assert_eq!((log.records.len(), log.missing), (MOST, 7));
    }
}
