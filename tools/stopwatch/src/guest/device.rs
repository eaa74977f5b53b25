// SPDX-License-Identifier: MIT OR Apache-2.0

//! An open device: what it is told, and what it tells.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::resources::Resources;
use super::{Error, Event, Info, Poster, Reader};
use crate::{Act, Command, Creation, Description, Laps, Name, OpenError, Reading, Roots, Which};

/// What a burst of commands took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burst {
    /// All of it, by the guest's clock, in ns.
    pub wall_ns: u64,
    /// VM time of each answer, by the host's clock.
    pub answers: Vec<u64>,
}

/// An open device, by its driver or, where it has none, by its PCI resources. It sees every
/// event from when it was opened.
///
/// Without a driver it takes root, and one program at a time has the device: another one
/// waits for it, or is told who has it. [`Device::let_go`] is for programs that wait for
/// something else. There are no interrupts, so events are looked for each millisecond; posted
/// commands get their doorbell by a thread. Exit-free readings and posted commands are as with
/// the driver, a command costs no system call at all.
#[derive(Debug)]
pub struct Device {
    pub(super) way: By,
}

/// How a device is reached.
#[derive(Debug)]
pub(super) enum By {
    Driver(Driver),
    Resources(Box<Resources>),
}

impl Device {
    /// Opens the device that this machine has: by its driver or, if there is no
    /// `/dev/stopwatch`, by its PCI resources.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]; without a driver [`Error::NoAnswer`] and [`Error::StrangeAnswer`], as
    /// the device's features are turned on by a call.
    pub fn find() -> Result<Self, Error> {
        Self::find_in(&Roots::default())
    }

    /// [`Device::find`], where the kernel shows its devices elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Device::find`].
    pub fn find_in(roots: &Roots) -> Result<Self, Error> {
        match Self::open(roots.node()) {
            Err(Error::Open(OpenError::Missing { .. })) => Self::by(Resources::find(roots)?),
            result => result,
        }
    }

    /// Opens a device node and makes sure that it is a stopwatch device; or the device of a
    /// directory of sysfs, such as `/sys/bus/pci/devices/0000:00:04.0`, by its PCI resources.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], and of a directory those of [`Device::find`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::by(Resources::at(path, &Roots::default())?);
        }
        Ok(Self {
            way: By::Driver(Driver::open(path)?),
        })
    }

    fn by(resources: Resources) -> Result<Self, Error> {
        Ok(Self {
            way: By::Resources(Box::new(resources)),
        })
    }

    /// What the device is.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn info(&self) -> Result<Info, Error> {
        match &self.way {
            By::Driver(driver) => driver.info(),
            By::Resources(resources) => Ok(resources.info()),
        }
    }

    /// Why the device was reset, if it was since it was opened: without a driver that is done
    /// where its rings are not as a program leaves them, and where the host has answered
    /// neither the last program nor this one. It disarms timeouts, and deletes stopwatches
    /// without a name.
    pub fn reset_reason(&self) -> Option<&'static str> {
        match &self.way {
            By::Driver(_) => None,
            By::Resources(resources) => resources.reset_reason(),
        }
    }

    /// Lets other programs have a device without a driver, until this one uses it next: a call
    /// then waits for them. Readings without a call go on meanwhile. Nothing is let go while
    /// there is a [`Poster`]. By a driver all programs have the device at once.
    pub fn let_go(&self) {
        if let By::Resources(resources) = &self.way {
            resources.let_go();
        }
    }

    /// Has stopwatch `watch` do what `asked` says. The host has done it when this
    /// returns; the reading is that after it.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    #[inline]
    pub fn command(&self, watch: u32, asked: impl Into<Command>) -> Result<Reading, Error> {
        match &self.way {
            By::Driver(driver) => driver.command(watch, asked.into()),
            By::Resources(resources) => resources.command(watch, asked.into()),
        }
    }

    /// Notes that stopwatch `watch` shall have started, paused, taken a lap or
    /// been reset now, and does not wait for the host: no exit. What comes of it,
    /// also that it was refused, shows in later readings. Where the host does not
    /// offer that ([`POSTED`](crate::Features::POSTED)), it is [`Device::command`].
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn post(&self, watch: u32, act: Act) -> Result<(), Error> {
        match &self.way {
            By::Driver(driver) => driver.post(watch, act),
            By::Resources(resources) => resources.post(watch, act),
        }
    }

    /// Makes a stopwatch, stopped at 0, and says its number. Without a name it
    /// lasts as long as this file is open anywhere, with one until it is deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`], [`Error::Full`], [`Error::ReadOnly`], [`Error::Quota`].
    pub fn create(&self, name: Option<&Name>, creation: Creation) -> Result<u32, Error> {
        match &self.way {
            By::Driver(driver) => driver.create(name, creation),
            By::Resources(resources) => resources.create(name, creation),
        }
    }

    /// The number of the stopwatch of that name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn number(&self, name: &Name) -> Result<u32, Error> {
        match &self.way {
            By::Driver(driver) => driver.number(name),
            By::Resources(resources) => resources.number(name),
        }
    }

    /// The number of that stopwatch, which for a number is itself.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn resolve(&self, which: &Which) -> Result<u32, Error> {
        match which {
            Which::Number(number) => Ok(*number),
            Which::Name(name) => self.number(name),
        }
    }

    /// What stopwatch `watch` is. Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn describe(&self, watch: u32) -> Result<Description, Error> {
        self.describe_or_next(watch, false)?
            .ok_or(Error::NoSuchWatch {
                which: Which::Number(watch),
            })
    }

    /// All stopwatches that the caller may see, by rising number. Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn descriptions(&self) -> Result<Vec<Description>, Error> {
        let mut all = Vec::new();
        let mut from = 0;
        while let Some(next) = self.describe_or_next(from, true)? {
            from = next.watch + 1;
            all.push(next);
        }
        Ok(all)
    }

    fn describe_or_next(&self, watch: u32, or_next: bool) -> Result<Option<Description>, Error> {
        match &self.way {
            By::Driver(driver) => driver.describe(watch, or_next),
            By::Resources(resources) => resources.describe(watch, or_next),
        }
    }

    /// The laps of stopwatch `watch` that are kept. Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn laps(&self, watch: u32) -> Result<Laps, Error> {
        self.laps_or_kept(watch, None)
    }

    /// The laps of stopwatch `watch` from lap `first` on, which counts from 0.
    /// Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`]; [`Error::LapGone`] if `first` is kept no longer.
    pub fn laps_from(&self, watch: u32, first: u32) -> Result<Laps, Error> {
        self.laps_or_kept(watch, Some(first))
    }

    fn laps_or_kept(&self, watch: u32, first: Option<u32>) -> Result<Laps, Error> {
        match &self.way {
            By::Driver(driver) => driver.laps(watch, first),
            By::Resources(resources) => resources.laps(watch, first),
        }
    }

    /// For readings that cost neither a system call nor an exit.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`]. That the pages cannot be mapped is no error: it reads by
    /// calls then. Without a driver, which would know the time, those of
    /// [`Device::command`].
    pub fn reader(&self) -> Result<Reader<'_>, Error> {
        Reader::new(self)
    }

    /// For commands to stopwatch `watch` that are posted without a system call.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`], [`Error::NotYours`], [`Error::Gone`]. That no post ring
    /// can be had is no error: it posts as [`Device::post`] does then.
    pub fn poster(&self, watch: u32) -> Result<Poster<'_>, Error> {
        Poster::new(self, watch)
    }

    /// Gives `2 * pairs` synchronous commands, start and pause in turn, and
    /// does nothing else in between: no other system call, no clock. When each
    /// was answered is in its reading, by the host's clock.
    ///
    /// # Errors
    ///
    /// [`Error::Running`] if `watch` is not stopped at the start, and what
    /// [`Device::command`] says. The stopwatch is left as the last answered
    /// command left it.
    pub fn burst(&self, watch: u32, pairs: usize) -> Result<Burst, Error> {
        let mut answers = Vec::with_capacity(2 * pairs);
        let begin = Instant::now();
        for _ in 0..pairs {
            answers.push(self.command(watch, Act::Start)?.time_ns);
            answers.push(self.command(watch, Act::Pause)?.time_ns);
        }
        let wall_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(Burst { wall_ns, answers })
    }

    /// Takes the next event, waiting for it until `limit` is over, or for ever.
    /// `None` means that none came.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`]; without a driver also those of [`Device::command`].
    pub fn next_event(&self, limit: Option<Duration>) -> Result<Option<Event>, Error> {
        match &self.way {
            By::Driver(driver) => driver.next_event(limit),
            By::Resources(resources) => resources.next_event(limit),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            By::Driver(driver) => driver.as_fd(),
            By::Resources(resources) => resources.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_node_says_which_and_what_to_load() {
        let error = Device::open("/dev/no-such-stopwatch").unwrap_err();
        assert!(matches!(error, Error::Open(OpenError::Missing { .. })));
        let text = error.to_string();
        assert!(text.contains("/dev/no-such-stopwatch"), "{text}");
        assert!(text.contains("insmod stopwatch.ko"), "{text}");
    }

    #[test]
    fn another_device_is_told_apart() {
        let error = Device::open("/dev/null").unwrap_err();
        assert_eq!(
            error.to_string(),
            "/dev/null is some other device or file; expected one like /dev/stopwatch"
        );
    }
}
