// SPDX-License-Identifier: MIT OR Apache-2.0

//! KVM's tracepoints of the VMM, by an instance of tracefs of our own: the first entry
//! and exit of each attempt, and of the exits to the VMM the first and last of each
//! reason. The first ones turn their tracepoint off, so that they cost nothing after.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use stopwatch_timeline::{ftrace, Event, Side, Step};

use super::recording::Recording;
use super::streams::Stream;
use crate::clocks::now;

pub(super) const ROOT: &str = "/sys/kernel/tracing";

/// Of each CPU. What does not fit is overwritten by the kernel, and counted.
const BUFFER_KB: &str = "256";

const FIRST_EXIT: &str = "first exit from the guest";
const FIRST_USER_EXIT: &str = "first exit to the VMM,";

const ENTRY: &str = "kvm_entry";
const EXIT: &str = "kvm_exit";
const USER_EXIT: &str = "kvm_userspace_exit";

pub(super) struct Tracefs {
    instance: PathBuf,
    pipe: Stream,
    seen: Seen,
}

/// What is kept of the tracepoints.
#[derive(Default)]
struct Seen {
    entered: bool,
    exited: bool,
    /// By reason: how many, the first and the last.
    user_exits: BTreeMap<String, (u64, Event, Event)>,
    strange: u64,
}

impl Tracefs {
    /// Traces what this process runs from now on. If that cannot be, it says why, and
    /// what would help.
    pub(super) fn begin(root: &Path, pid: u32) -> Result<Self, String> {
        if !root.join("instances").is_dir() {
            return Err(format!(
                "KVM's tracepoints would tell it to the microsecond, and there is no tracefs at {}: mount it, as root (mount -t tracefs tracefs {})",
                root.display(),
                root.display()
            ));
        }
        if !in_first_pid_namespace() {
            return Err("KVM's tracepoints would tell it to the microsecond, and know processes by \
                        their numbers in the first PID namespace: run this outside of the container"
                .into());
        }
        let instance = root.join(format!("instances/stopwatch-{pid}"));
        let result = Self::prepare(&instance, pid);
        if result.is_err() {
            let _ = fs::remove_dir(&instance);
        }
        result.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "KVM's tracepoints would tell it to the microsecond, and take the right to write to {}: that is root's, unless its mode says otherwise",
                root.display()
            ),
            io::ErrorKind::NotFound => "this kernel has no tracepoints of KVM: is its module loaded?".into(),
            _ => format!("KVM's tracepoints cannot be read: {error}"),
        })
    }

    fn prepare(instance: &Path, pid: u32) -> io::Result<Self> {
        // The kernel fills it, and has no events if it was not made by this.
        fs::create_dir(instance).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        let set = |file: &str, value: &str| {
            let file = OpenOptions::new().write(true).open(instance.join(file))?;
            io::Write::write_all(&mut &file, value.as_bytes())
        };
        set("trace_clock", "mono")?;
        set("buffer_size_kb", BUFFER_KB)?;
        // The VMM and its threads, and nobody else.
        set("options/event-fork", "1")?;
        set("set_event_pid", &pid.to_string())?;
        for event in [ENTRY, EXIT, USER_EXIT] {
            set(&format!("events/kvm/{event}/enable"), "1")?;
        }
        let pipe: OwnedFd = rustix::fs::open(
            instance.join("trace_pipe"),
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        Ok(Self {
            instance: instance.into(),
            pipe: Stream::new(pipe, now()),
            seen: Seen::default(),
        })
    }

    pub(super) fn look(&mut self, to: &mut Recording) {
        let at = now();
        let before = (self.seen.entered, self.seen.exited);
        for line in self.pipe.lines(at, at) {
            self.seen.notice(&line.text, to);
        }
        for (event, before, now) in [
            (ENTRY, before.0, self.seen.entered),
            (EXIT, before.1, self.seen.exited),
        ] {
            if now && !before {
                self.switch(event, false);
            }
        }
    }

    /// Of another attempt, there is another first entry.
    pub(super) fn again(&mut self) {
        self.seen.entered = false;
        self.seen.exited = false;
        self.switch(ENTRY, true);
        self.switch(EXIT, true);
    }

    fn switch(&self, event: &str, on: bool) {
        let file = self.instance.join(format!("events/kvm/{event}/enable"));
        let _ = fs::write(file, if on { "1" } else { "0" });
    }

    /// Tells what is known at the end only.
    pub(super) fn finish(&self, to: &mut Recording) {
        for (count, first, last) in self.seen.user_exits.values() {
            to.put(first.clone().with("count", count));
            if *count > 1 {
                to.put(last.clone().with("count", count));
            }
        }
        to.dropped(
            "lines of trace_pipe that could not be read",
            self.seen.strange,
        );
        to.dropped(
            "tracepoints that the kernel's buffer had no room for",
            self.overrun(),
        );
    }

    fn overrun(&self) -> u64 {
        let Ok(cpus) = fs::read_dir(self.instance.join("per_cpu")) else {
            return 0;
        };
        let stats = cpus
            .filter_map(Result::ok)
            .filter_map(|cpu| fs::read_to_string(cpu.path().join("stats")).ok());
        stats.map(|stats| overrun(&stats)).sum()
    }
}

/// Whether the guest has run when this is seen. A run of a vCPU that was interrupted is
/// told as `restart`, and need not have.
pub(super) fn is_after_entry(event: &Event) -> bool {
    let name = &event.name;
    name == FIRST_EXIT || (name.starts_with(FIRST_USER_EXIT) && !name.ends_with(" restart"))
}

/// By the number that the kernel gives to the first one (PROC_PID_INIT_INO).
fn in_first_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new("pid:[4026531836]"))
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        // The pipe has to be closed before the instance can go.
        if let Ok(null) = File::open("/dev/null") {
            self.pipe.go_on(null.into(), 0);
        }
        let _ = fs::remove_dir(&self.instance);
    }
}

impl Seen {
    fn notice(&mut self, line: &str, to: &mut Recording) {
        if line.starts_with("CPU:") && line.ends_with("EVENTS]") {
            return; // That some were lost is counted by the kernel.
        }
        let Some(traced) = ftrace::parse(line) else {
            self.strange += 1;
            return;
        };
        let source = format!("tracefs kvm:{}", traced.name);
        let event = |name: &str| {
            let mut event = Event::new(name, traced.at, &source, Side::Host);
            event.process = Some(traced.process.clone());
            event
        };
        match traced.name {
            ENTRY if !self.entered => {
                self.entered = true;
                let rip = field(traced.fields, "rip").unwrap_or("unknown");
                let event = event("first entry into the guest").with("rip", rip);
                to.put(match to.find(Step::GuestEntry) {
                    None => event.step(Step::GuestEntry),
                    Some(_) => event,
                });
            }
            EXIT if !self.exited => {
                self.exited = true;
                let reason = field(traced.fields, "reason").unwrap_or("unknown");
                to.put(event(FIRST_EXIT).with("reason", reason));
            }
            USER_EXIT => {
                let reason = field(traced.fields, "reason").unwrap_or("unknown");
                let first = || event(&format!("{FIRST_USER_EXIT} {reason}"));
                let last = event(&format!("last exit to the VMM, {reason}"));
                // The kernel has some 40 reasons.
                if self.user_exits.len() < 100 || self.user_exits.contains_key(reason) {
                    let entry = self.user_exits.entry(reason.into());
                    let (count, _, newest) = entry.or_insert_with(|| (0, first(), last.clone()));
                    *count += 1;
                    *newest = last;
                }
            }
            _ => {}
        }
    }
}

/// The word after a name: `reason KVM_EXIT_IO (2)`, `vcpu 0, rip 0xfff0`.
fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    let mut words = fields.split([' ', ',']).filter(|word| !word.is_empty());
    words.find(|word| *word == name)?;
    words.next()
}

fn overrun(stats: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix("overrun:"));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;
    use std::io::Write;

    /// As Linux 6.18 prints them.
    const LINES: &str = "\
       CPU 0/KVM-4711    [001] d..1.   100.000100: kvm_entry: vcpu 0, rip 0xfff0
       CPU 0/KVM-4711    [001] .....   100.000220: kvm_exit: vcpu 0 reason npf rip 0xfff0 info1 0x14 info2 0xffff0
       CPU 0/KVM-4711    [001] d..1.   100.000300: kvm_entry: vcpu 0, rip 0xe05b
       CPU 0/KVM-4711    [000] .....   100.500000: kvm_userspace_exit: reason KVM_EXIT_IO (2)
       CPU 0/KVM-4711    [000] .....   100.600000: kvm_userspace_exit: reason KVM_EXIT_MMIO (6)
       CPU 0/KVM-4711    [000] .....   101.700000: kvm_userspace_exit: reason KVM_EXIT_IO (2)
CPU:0 [LOST 12 EVENTS]
";

    #[test]
    fn first_and_last_of_a_kind_are_kept() {
        let mut to = recording();
        let mut seen = Seen::default();
        for line in LINES.lines() {
            seen.notice(line, &mut to);
        }
        let entry = to.find(Step::GuestEntry).unwrap();
        assert_eq!(
            (entry.at.ns, entry.at.hi),
            (100_000_100_000, 100_000_101_000)
        );
        assert_eq!(entry.detail["rip"], "0xfff0");
        assert_eq!(entry.process.as_ref().unwrap().name, "CPU 0/KVM");
        let (count, first, last) = &seen.user_exits["KVM_EXIT_IO"];
        assert_eq!(
            (*count, first.at.ns, last.at.ns),
            (2, 100_500_000_000, 101_700_000_000)
        );
        assert_eq!((seen.user_exits.len(), seen.strange), (2, 0));
        seen.notice("a truncat", &mut to);
        assert_eq!(seen.strange, 1);
    }

    #[test]
    fn an_exit_bounds_an_entry_that_was_not_seen() {
        let mut to = recording();
        let mut seen = Seen::default();
        for line in [
            "CPU 0/KVM-4711 [000] .....     0.040000: kvm_userspace_exit: reason restart (4)",
            "CPU 0/KVM-4711 [000] .....     0.050000: kvm_userspace_exit: reason KVM_EXIT_IO (2)",
        ] {
            seen.notice(line, &mut to);
        }
        for (_, first, _) in seen.user_exits.into_values() {
            to.put(first);
        }
        let done = to.finish(None);
        let entry = done
            .events
            .iter()
            .find(|one| one.step == Some(Step::GuestEntry))
            .unwrap();
        assert_eq!((entry.at.lo, entry.at.hi), (0, 50_001_000));
    }

    /// A tracefs of files.
    fn fake(name: &str) -> PathBuf {
        let root =
            std::env::temp_dir().join(format!("stopwatch-tracefs-{}-{name}", std::process::id()));
        let instance = root.join("instances/stopwatch-42");
        for event in [ENTRY, EXIT, USER_EXIT] {
            fs::create_dir_all(instance.join("events/kvm").join(event)).unwrap();
            fs::write(instance.join("events/kvm").join(event).join("enable"), "0").unwrap();
        }
        fs::create_dir_all(instance.join("options")).unwrap();
        for file in [
            "trace_clock",
            "buffer_size_kb",
            "options/event-fork",
            "set_event_pid",
            "trace_pipe",
        ] {
            fs::write(instance.join(file), "").unwrap();
        }
        for cpu in 0..2 {
            let cpu = instance.join(format!("per_cpu/cpu{cpu}"));
            fs::create_dir_all(&cpu).unwrap();
            fs::write(
                cpu.join("stats"),
                "entries: 1\noverrun: 6\ncommit overrun: 9\n",
            )
            .unwrap();
        }
        root
    }

    #[test]
    fn the_first_entry_turns_its_tracepoint_off() {
        let root = fake("run");
        let instance = root.join("instances/stopwatch-42");
        let mut pipe = File::create(instance.join("trace_pipe")).unwrap();
        pipe.write_all(LINES.as_bytes()).unwrap();
        let mut tracefs = Tracefs::prepare(&instance, 42).unwrap();
        let enabled = |event: &str| {
            fs::read_to_string(instance.join("events/kvm").join(event).join("enable")).unwrap()
        };
        assert_eq!(
            fs::read_to_string(instance.join("trace_clock")).unwrap(),
            "mono"
        );
        assert_eq!(
            fs::read_to_string(instance.join("set_event_pid")).unwrap(),
            "42"
        );
        assert_eq!(enabled(ENTRY), "1");
        let mut to = recording();
        tracefs.look(&mut to);
        assert_eq!(
            (enabled(ENTRY), enabled(EXIT), enabled(USER_EXIT)),
            ("0".into(), "0".into(), "1".into())
        );
        tracefs.again();
        assert_eq!((enabled(ENTRY), enabled(EXIT)), ("1".into(), "1".into()));
        tracefs.finish(&mut to);
        let done = to.finish(None);
        done.check().unwrap();
        assert_eq!(done.dropped[0].count, 12, "of both CPUs");
        assert!(done
            .events
            .iter()
            .any(|event| event.name == "last exit to the VMM, KVM_EXIT_IO"));
        drop(tracefs);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_host_without_it_is_told_what_is_missing() {
        let error = Tracefs::begin(Path::new("/no/such/tracefs"), 42)
            .err()
            .unwrap();
        assert!(
            error.contains("mount -t tracefs tracefs /no/such/tracefs"),
            "{error}"
        );
        let root = fake("kvm");
        fs::remove_dir_all(root.join("instances/stopwatch-42/events/kvm")).unwrap();
        let error = Tracefs::begin(&root, 42).err().unwrap();
        let expected = match in_first_pid_namespace() {
            true => "no tracepoints of KVM",
            false => "outside of the container",
        };
        assert!(error.contains(expected), "{error}");
        fs::remove_dir_all(&root).unwrap();
    }
}
