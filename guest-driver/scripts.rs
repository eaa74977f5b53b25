// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/stopwatch`: the device for scripts, without a program.
//!
//! - `list` says what there is, a line each, the name last, if it has one;
//! - `create` and `delete` take a name: all that is written, less a newline at its end;
//! - `NAME/` is a stopwatch, by its name or else by its number, with
//!     - `control`, which takes `start`, `pause`, `lap` and `reset`;
//!     - `elapsed`, in ns;
//!     - `laps`, a line each: the lap's number from 0, and what was elapsed, in ns;
//!     - `timeout`, which takes `NS`, `elapsed NS`, either with `every NS` behind it, or `off`, and
//!       says what is armed and how many have expired.
//!
//! A stopwatch that a program or a script makes or deletes has its directory at once, or not any
//! more. Of those that the host makes or deletes nobody is told: reading `list` sees to them.
//!
//! Lock order: [`Scripts::directories`], then the locks of debugfs, then what the device has. A
//! file of a stopwatch does not take the first one: its removal, under that lock, waits for it.

use core::ops::Range;
use kernel::{
    alloc::KVVec,
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::{
    abstractions::debugfs::{
        has_overflowed,
        DebugDir,
        DebugEntry,
        DebugFile, //
    },
    access::User,
    bench::Bench,
    device::{
        Created,
        StopwatchDevice, //
    },
    protocol::{
        command::{
            Act,
            Command,
            Timeout, //
        },
        name::Name,
        ownership::Access,
        record::Record,
        slot::{
            Creation,
            Request, //
        }, //
    },
    uapi, //
};

const READ_ONLY: u16 = 0o400;
const WRITE_ONLY: u16 = 0o200;
const READ_WRITE: u16 = 0o600;

/// What a file of a stopwatch is.
#[derive(Clone, Copy)]
enum Kind {
    Control,
    Elapsed,
    Laps,
    Timeout,
}

impl Kind {
    const ALL: [(Self, &'static CStr, u16); 4] = [
        (Self::Control, c"control", WRITE_ONLY),
        (Self::Elapsed, c"elapsed", READ_ONLY),
        (Self::Laps, c"laps", READ_ONLY),
        (Self::Timeout, c"timeout", READ_WRITE),
    ];
}

/// A file of a stopwatch.
struct StopwatchScript {
    device: Arc<StopwatchDevice>,
    created: Created,
    kind: Kind,
}

/// A command of the current task.
fn command(
    device: &StopwatchDevice,
    access: Access,
    created: Created,
    asked: impl Into<Command>,
) -> Result<uapi::stopwatch_reading> {
    let mut reading = Default::default();
    let request = Request::new(created.watch, asked).for_generation(created.generation);

    device.command(access, request, &mut reading)?.result?;
    Ok(reading)
}

fn number(word: Option<&str>) -> Result<u64> {
    word.and_then(|word| word.parse().ok()).ok_or(EINVAL)
}

impl StopwatchScript {
    fn control(&self, text: &str) -> Result {
        let act = match text.trim_ascii() {
            "start" => Act::Start,
            "pause" => Act::Pause,
            "lap" => Act::Lap,
            "reset" => Act::Reset,
            _ => return Err(EINVAL),
        };

        command(&self.device, Access::Control, self.created, act).map(|_| ())
    }

    fn arm(&self, text: &str) -> Result {
        let mut timeout = Timeout::default();
        let mut words = text.split_ascii_whitespace();
        let mut word = words.next();

        if word != Some("off") {
            if word == Some("elapsed") {
                timeout.at_elapsed = true;
                word = words.next();
            }
            timeout.ns = number(word)?;
            word = words.next();
            if word == Some("every") {
                timeout.interval_ns = number(words.next())?;
            } else if word.is_some() {
                return Err(EINVAL);
            }
        }
        if words.next().is_some() {
            return Err(EINVAL);
        }
        command(&self.device, Access::Control, self.created, timeout).map(|_| ())
    }

    fn elapsed(&self, out: &SeqFile) -> Result {
        let reading = read(&self.device, self.created)?;

        seq_print!(out, "{}\n", reading.elapsed_ns);
        Ok(())
    }

    /// Checks that no other stopwatch has the number by now.
    fn check(&self) -> Result {
        if self.device.exists(self.created) {
            Ok(())
        } else {
            Err(ENOENT)
        }
    }

    fn laps(&self, out: &SeqFile) -> Result {
        self.check()?;
        let mut laps = KVec::from_elem(0, uapi::STOPWATCH_LAP_SLOTS as usize, GFP_KERNEL)?;
        let kept = self.device.laps(self.created.watch, None, &mut laps)?;

        // The laps come first: they end, while the number behind the last one may not exist.
        for (lap, number) in laps.iter().take(kept.count as usize).zip(kept.first..) {
            seq_print!(out, "{number} {lap}\n");
        }
        Ok(())
    }

    fn timeout(&self, out: &SeqFile) -> Result {
        self.check()?;
        let record = self.device.describe(self.created.watch)?;

        if record.target_ns != 0 {
            seq_print!(out, "elapsed {}", record.target_ns);
        } else if record.deadline_ns != 0 {
            seq_print!(out, "deadline {}", record.deadline_ns);
        } else {
            seq_print!(out, "off");
        }
        if record.interval_ns != 0 {
            seq_print!(out, " every {}", record.interval_ns);
        }
        seq_print!(out, "\nexpired {}\n", record.timeouts);
        Ok(())
    }
}

/// What a stopwatch shows.
fn read(device: &StopwatchDevice, created: Created) -> Result<uapi::stopwatch_reading> {
    command(device, Access::See, created, Act::Read)
}

#[vtable]
impl DebugFile for StopwatchScript {
    fn show(&self, out: &SeqFile) -> Result {
        match self.kind {
            Kind::Control => Err(EINVAL),
            Kind::Elapsed => self.elapsed(out),
            Kind::Laps => self.laps(out),
            Kind::Timeout => self.timeout(out),
        }
    }

    fn write(&self, text: &str) -> Result {
        match self.kind {
            Kind::Control => self.control(text),
            Kind::Timeout => self.arm(text),
            Kind::Elapsed | Kind::Laps => Err(EINVAL),
        }
    }
}

/// The directory of a stopwatch.
struct Directory {
    generation: u32,
    _files: KVec<DebugEntry<StopwatchScript>>,
}

/// What there is in debugfs. Files of the device may outlast the binding; this does not.
#[derive(Default)]
struct Directories {
    top: Option<DebugDir>,
    /// By the stopwatches' numbers.
    stopwatches: KVVec<Option<Directory>>,
}

/// The directories of all stopwatches.
#[pin_data]
pub(crate) struct Scripts {
    device: Arc<StopwatchDevice>,
    /// Empty once the driver is unbound.
    #[pin]
    directories: Mutex<Directories>,
}

impl Scripts {
    /// The names that stopwatches cannot have here.
    const TAKEN: [&'static str; 4] = ["list", "create", "delete", "bench"];

    /// Directories for the stopwatches that there are. May sleep.
    pub(crate) fn new(device: Arc<StopwatchDevice>) -> Result<Arc<Self>> {
        let mut directories = Directories {
            top: Some(DebugDir::new(c"stopwatch", None)?),
            ..Default::default()
        };
        for _ in 0..device.stopwatches() {
            directories.stopwatches.push(None, GFP_KERNEL)?;
        }
        let scripts = Arc::pin_init(
            pin_init!(Self {
                device,
                directories <- new_mutex!(directories, "stopwatch::Scripts::directories"),
            }),
            GFP_KERNEL,
        )?;
        scripts.refresh_all();
        Ok(scripts)
    }

    fn directory(&self, top: &DebugDir, watch: u32, record: &Record) -> Result<Directory> {
        let name = record.name.as_str();
        let name = if name.is_empty() || Self::TAKEN.contains(&name) {
            CString::try_from_fmt(fmt!("{watch}"))?
        } else {
            CString::try_from_fmt(fmt!("{name}"))?
        };
        let dir = DebugDir::new(&name, Some(top))?;
        let mut files = KVec::new();

        for (kind, name, mode) in Kind::ALL {
            let file = StopwatchScript {
                device: self.device.clone(),
                created: Created {
                    watch,
                    generation: record.generation,
                },
                kind,
            };
            files.push(DebugEntry::new(name, mode, &dir, file)?, GFP_KERNEL)?;
        }
        Ok(Directory {
            generation: record.generation,
            _files: files,
        })
    }

    /// Takes away what there is of a stopwatch that is not there any more, and says what to make.
    fn tidy(&self, watch: u32, entry: &mut Option<Directory>) -> Option<Record> {
        let record = self.device.record(watch).ok();
        let is = entry.as_ref().map(|directory| directory.generation);

        if is == record.as_ref().map(|record| record.generation) {
            return None;
        }
        *entry = None;
        record
    }

    /// Brings the directories of some stopwatches up to date. May sleep; not for files of
    /// stopwatches.
    fn refresh_some(&self, watches: Range<u32>) {
        let mut directories = self.directories.lock();
        let Directories { top, stopwatches } = &mut *directories;
        let Some(top) = top else {
            return;
        };
        let watches = watches.start as usize..watches.end as usize;
        let Some(entries) = stopwatches.get_mut(watches.clone()) else {
            return;
        };

        // First all that are gone, whose names others may have now.
        for (watch, entry) in watches.clone().zip(entries.iter_mut()) {
            self.tidy(watch as u32, entry);
        }
        for (watch, entry) in watches.zip(entries.iter_mut()) {
            if let Some(record) = self.tidy(watch as u32, entry) {
                // Scripts can do without one for which there was no memory.
                *entry = self.directory(top, watch as u32, &record).ok();
            }
        }
    }

    /// A stopwatch was made or deleted. May sleep; not for files of stopwatches.
    pub(crate) fn refresh(&self, watch: u32) {
        if watch < self.device.stopwatches() {
            self.refresh_some(watch..watch + 1);
        }
    }

    /// Some stopwatches may have been made or deleted. May sleep; not for files of stopwatches.
    fn refresh_all(&self) {
        self.refresh_some(0..self.device.stopwatches());
    }

    /// The driver is being unbound: takes everything away, and waits for those who use it.
    pub(crate) fn close(&self) {
        let directories = core::mem::take(&mut *self.directories.lock());

        drop(directories);
    }

    /// The files at the top. May sleep.
    pub(crate) fn top_files(self: &Arc<Self>) -> Result<TopFiles> {
        let top = self.directories.lock().top.clone().ok_or(ENODEV)?;
        let file = |name, mode, kind| {
            let file = TopScript {
                scripts: self.clone(),
                kind,
            };
            DebugEntry::new(name, mode, &top, file)
        };

        Ok(TopFiles {
            _scripts: [
                file(c"list", READ_ONLY, TopKind::List)?,
                file(c"create", WRITE_ONLY, TopKind::Create)?,
                file(c"delete", WRITE_ONLY, TopKind::Delete)?,
            ],
            _bench: {
                let bench = Bench::new(self.device.clone())?;
                DebugEntry::new(c"bench", READ_WRITE, &top, bench)?
            },
        })
    }
}

/// The files at the top; they go when this does. [`Scripts`] cannot have them, for they use it.
pub(crate) struct TopFiles {
    _scripts: [DebugEntry<TopScript>; 3],
    _bench: DebugEntry<Bench>,
}

#[derive(Clone, Copy)]
enum TopKind {
    List,
    Create,
    Delete,
}

/// A file at the top.
struct TopScript {
    scripts: Arc<Scripts>,
    kind: TopKind,
}

impl TopScript {
    fn name(text: &str) -> Result<Name> {
        Name::parse(text).map_err(|_| EINVAL)
    }

    fn list(&self, out: &SeqFile) -> Result {
        let device = &self.scripts.device;
        let mut watch = 0;

        self.scripts.refresh_all();
        seq_print!(out, "number state elapsed_ns laps timeouts uid name\n");
        // Where there is no room, all of this is done again with more; what does not fit is not done.
        while !has_overflowed(out) {
            if current!().signal_pending() {
                return Err(EINTR);
            }
            let Ok((found, record)) = device.describe_next(watch) else {
                break;
            };
            let name = record.name.as_str();
            watch = found + 1;
            let elapsed_ns = if record.running {
                let created = Created {
                    watch: found,
                    generation: record.generation,
                };
                match read(device, created) {
                    Ok(reading) => reading.elapsed_ns,
                    // It was deleted just now.
                    Err(error) if error == ENOENT => continue,
                    Err(error) => return Err(error),
                }
            } else {
                record.elapsed_ns
            };
            seq_print!(
                out,
                "{found} {} {elapsed_ns} {} {} {}",
                if record.running { "running" } else { "stopped" },
                record.laps,
                record.timeouts,
                record.uid
            );
            if !name.is_empty() {
                seq_print!(out, " {name}");
            }
            seq_print!(out, "\n");
        }
        Ok(())
    }

    fn create(&self, text: &str) -> Result {
        let (result, created) = self.scripts.device.create(Creation {
            name: Self::name(text)?,
            uid: User::current().0,
            ..Default::default()
        })?;

        self.scripts.refresh(created.watch);
        result
    }

    fn delete(&self, text: &str) -> Result {
        let watch = self.scripts.device.delete_named(Self::name(text)?)?;

        self.scripts.refresh(watch);
        Ok(())
    }
}

#[vtable]
impl DebugFile for TopScript {
    fn show(&self, out: &SeqFile) -> Result {
        match self.kind {
            TopKind::List => self.list(out),
            TopKind::Create | TopKind::Delete => Err(EINVAL),
        }
    }

    fn write(&self, text: &str) -> Result {
        match self.kind {
            TopKind::List => Err(EINVAL),
            TopKind::Create => self.create(text),
            TopKind::Delete => self.delete(text),
        }
    }
}
