// SPDX-License-Identifier: MIT OR Apache-2.0

//! What [`Control`] does with the stopwatches of a VM, its own or another's.

use rustix::io::Errno;
use stopwatch_uapi as uapi;

use super::error::refused;
use super::{Control, Error};
use crate::raw::Ioctl;
use crate::{Act, Command, Creation, Description, Laps, Name, Reading, Which};

// SAFETY: <linux/vhost_stopwatch.h> gives each number this struct.
pub(super) const COMMAND: Ioctl<uapi::vhost_stopwatch_command> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_COMMAND) };
// SAFETY: as above.
pub(super) const DESCRIBE: Ioctl<uapi::vhost_stopwatch_description> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_DESCRIBE) };
// SAFETY: as above. The kernel also writes to the array that the struct tells
// the address and size of; `Laps::read()` gives it one.
pub(super) const LAPS: Ioctl<uapi::vhost_stopwatch_laps> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_LAPS) };

impl Control {
    /// COMMAND: has a stopwatch of VM `vm` do what `asked` says: an [`Act`],
    /// [`Command::ReadReset`] or [`Command::Delete`]. Says the number of the
    /// stopwatch, too. It works whether the VM is started or not.
    ///
    /// # Errors
    ///
    /// [`Error::Running`], [`Error::Stopped`], [`Error::NoSuchWatch`],
    /// [`Error::Numbered`].
    pub fn command(
        &self,
        vm: u64,
        which: &Which,
        asked: impl Into<Command>,
    ) -> Result<(u32, Reading), Error> {
        let asked = asked.into();
        let mut raw = uapi::vhost_stopwatch_command {
            vm,
            op: asked.op().into(),
            ..Default::default()
        };
        match which {
            Which::Number(number) => raw.watch = *number,
            Which::Name(name) => raw.name = name.bytes(),
        }
        let result = self.call(&COMMAND, &mut raw);
        let elapsed_ns = raw.reading.elapsed_ns;
        let which = || which.clone();
        result.map_err(|errno| match (errno, asked) {
            (Errno::ALREADY, Command::Act(Act::Start)) => Error::Running {
                which: which(),
                elapsed_ns,
            },
            (Errno::ALREADY | Errno::NODATA, _) => Error::Stopped {
                which: which(),
                asked,
                elapsed_ns,
            },
            (Errno::NOENT, _) => Error::NoSuchWatch { vm, which: which() },
            (Errno::INVAL, Command::Delete) => Error::Numbered { watch: raw.watch },
            (errno, _) => refused(format!("COMMAND {asked}"), &[])(errno),
        })?;
        Ok((raw.watch, raw.reading.into()))
    }

    /// COMMAND: makes a stopwatch in VM `vm`, stopped at 0, and says its number.
    /// It will belong to the guest's root.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`], [`Error::Full`], [`Error::NoSuchVm`].
    pub fn create(&self, vm: u64, name: &Name, creation: Creation) -> Result<u32, Error> {
        let mut raw = uapi::vhost_stopwatch_command {
            vm,
            op: uapi::STOPWATCH_OP_CREATE,
            flags: creation.flags(),
            clock: creation.clock.to_wire(),
            mode: creation.share.mode(),
            name: name.bytes(),
            ..Default::default()
        };
        self.call(&COMMAND, &mut raw).map_err(|errno| match errno {
            Errno::EXIST => Error::NameTaken {
                vm,
                name: *name,
                watch: raw.watch,
            },
            Errno::NOSPC => Error::Full { vm },
            Errno::NOENT => Error::NoSuchVm {
                wanted: vm.to_string(),
            },
            errno => refused("COMMAND create", &[])(errno),
        })?;
        Ok(raw.watch)
    }

    /// The number of that stopwatch of VM `vm`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn resolve(&self, vm: u64, which: &Which) -> Result<u32, Error> {
        match which {
            Which::Number(number) => Ok(*number),
            Which::Name(_) => Ok(self.command(vm, which, Act::Read)?.0),
        }
    }

    /// DESCRIBE: what stopwatch `watch` of VM `vm` is. `None` if there is no
    /// such VM that the caller may see, or no such stopwatch.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn describe(&self, vm: u64, watch: u32) -> Result<Option<Description>, Error> {
        self.describe_from(vm, watch, 0)
    }

    /// DESCRIBE: every stopwatch of VM `vm`, by rising number. None if there is
    /// no such VM that the caller may see.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn descriptions(&self, vm: u64) -> Result<Vec<Description>, Error> {
        let mut all = Vec::new();
        let mut from = 0;
        while let Some(next) = self.describe_from(vm, from, uapi::STOPWATCH_DESCRIBE_NEXT)? {
            from = next.watch + 1;
            all.push(next);
        }
        Ok(all)
    }

    /// LAPS: those of stopwatch `watch` of VM `vm` that are kept.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn laps(&self, vm: u64, watch: u32) -> Result<Laps, Error> {
        self.laps_with(vm, watch, uapi::STOPWATCH_LAPS_KEPT, 0)
    }

    /// LAPS: those of stopwatch `watch` of VM `vm` from lap `first` on.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`]; [`Error::LapGone`] if `first` is kept no longer.
    pub fn laps_from(&self, vm: u64, watch: u32, first: u32) -> Result<Laps, Error> {
        self.laps_with(vm, watch, 0, first)
    }

    fn laps_with(&self, vm: u64, watch: u32, flags: u32, first: u32) -> Result<Laps, Error> {
        let laps = Laps::read(watch, flags, first, |laps, array| {
            let mut raw = uapi::vhost_stopwatch_laps {
                vm,
                laps: *laps,
                ..Default::default()
            };
            let result = self.call_with(&LAPS, &mut raw, array);
            *laps = raw.laps;
            result
        });
        laps.map_err(|(errno, raw)| match errno {
            Errno::NODATA => Error::LapGone {
                first,
                oldest: raw.oldest,
                total: raw.total,
            },
            Errno::NOENT => Error::NoSuchWatch {
                vm,
                which: Which::Number(watch),
            },
            errno => refused("LAPS", &[])(errno),
        })
    }

    fn describe_from(&self, vm: u64, watch: u32, flags: u32) -> Result<Option<Description>, Error> {
        let mut raw = uapi::vhost_stopwatch_description {
            vm,
            description: uapi::stopwatch_description {
                flags,
                watch,
                ..Default::default()
            },
            ..Default::default()
        };
        match self.call(&DESCRIBE, &mut raw) {
            Ok(()) => Ok(Some(raw.description.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused("DESCRIBE", &[])(errno)),
        }
    }
}
