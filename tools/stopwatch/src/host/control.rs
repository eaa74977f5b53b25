// SPDX-License-Identifier: MIT OR Apache-2.0

//! An open `/dev/vhost-stopwatch`: each of its ioctls, typed.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use stopwatch_uapi as uapi;

use super::vm_info::pick;
use super::{Error, Geometry, VmInfo, DEVICE};
use crate::open::open;
use crate::raw::{self, Request};
use crate::{Creation, Description, Features, Laps, Name, OpenError, Reading, Which};

const ADVICE: &str = "load the host module first (insmod vhost_stopwatch.ko)";

// SAFETY: <linux/vhost_stopwatch.h> gives each number this struct.
const GET_FEATURES: Request<uapi::vhost_stopwatch_features> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_GET_FEATURES) };
// SAFETY: as above.
const SET_FEATURES: Request<uapi::vhost_stopwatch_features> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_FEATURES) };
// SAFETY: as above.
const SET_GEOMETRY: Request<uapi::vhost_stopwatch_geometry> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_GEOMETRY) };
// SAFETY: as above.
const SET_REGION: Request<uapi::vhost_stopwatch_fd> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_REGION) };
// SAFETY: as above.
const SET_KICK: Request<uapi::vhost_stopwatch_fd> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_KICK) };
// SAFETY: as above.
const SET_CALL: Request<uapi::vhost_stopwatch_fd> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_CALL) };
// SAFETY: as above.
const SET_NAME: Request<uapi::vhost_stopwatch_name> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_NAME) };
// SAFETY: as above.
const GET_VM: Request<uapi::vhost_stopwatch_vm> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_GET_VM) };
// SAFETY: as above.
const SET_POLICY: Request<uapi::vhost_stopwatch_policy> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_SET_POLICY) };
// SAFETY: as above.
const COMMAND: Request<uapi::vhost_stopwatch_command> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_COMMAND) };
// SAFETY: as above.
const DESCRIBE: Request<uapi::vhost_stopwatch_description> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_DESCRIBE) };
// SAFETY: as above. The kernel also writes to the array that the struct tells
// the address and size of; `laps_from()` gives it one.
const LAPS: Request<uapi::vhost_stopwatch_laps> =
    unsafe { Request::new(uapi::VHOST_STOPWATCH_LAPS) };

/// The fastest periodic timeout that any VM may have, in ns.
pub const MIN_INTERVAL_NS: u64 = uapi::VHOST_STOPWATCH_MIN_INTERVAL_NS as u64;

/// What a guest may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it may know the host's uptime.
    pub allow_host_time: bool,
    /// Whether it may power the host off, if the host module was loaded so.
    pub allow_host_power: bool,
    /// The fastest periodic timeout that it may have, in ns; at least
    /// [`MIN_INTERVAL_NS`].
    pub min_interval_ns: u64,
}

impl Default for Policy {
    /// What a VM without a policy has.
    fn default() -> Self {
        Self {
            allow_host_time: false,
            allow_host_power: false,
            min_interval_ns: MIN_INTERVAL_NS,
        }
    }
}

/// What the host can do to a stopwatch of a VM; as in
/// [`guest::Operation`](crate::guest::Operation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Go on counting from where it stands.
    Start,
    /// Stand still.
    Pause,
    /// Note the elapsed time.
    Lap,
    /// Stop, go back to zero, forget laps and timeouts, disarm.
    Reset,
    /// Only say how it stands.
    Read,
    /// Reset, and say how it stood before.
    ReadReset,
    /// Be no more; only for one that was created.
    Delete,
}

impl Operation {
    fn number(self) -> u32 {
        match self {
            Self::Start => uapi::STOPWATCH_OP_START,
            Self::Pause => uapi::STOPWATCH_OP_PAUSE,
            Self::Lap => uapi::STOPWATCH_OP_LAP,
            Self::Reset => uapi::STOPWATCH_OP_RESET,
            Self::Read => uapi::STOPWATCH_OP_READ,
            Self::ReadReset => uapi::STOPWATCH_OP_READ_RESET,
            Self::Delete => uapi::STOPWATCH_OP_DELETE,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Lap => "lap",
            Self::Reset => "reset",
            Self::Read => "read",
            Self::ReadReset => "read and reset",
            Self::Delete => "delete",
        })
    }
}

/// An open `/dev/vhost-stopwatch`. It is a VM from
/// [`set_region`](Control::set_region) on, for as long as a copy of the
/// descriptor is open anywhere.
///
/// The calls are those of `<linux/vhost_stopwatch.h>`, which says in what order
/// they go. Each error is an [`Error::Refused`] with the errno of that header.
#[derive(Debug)]
pub struct Control {
    file: File,
}

impl Control {
    /// Opens a device node and makes sure that it is the host module's.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path: PathBuf = path.as_ref().to_owned();
        let control = Self {
            file: open(&path, ADVICE)?,
        };
        match control.features() {
            Err(error) if error.errno() == Some(Errno::NOTTY) => {
                Err(Error::Open(OpenError::OtherDevice {
                    path,
                    expected: DEVICE,
                }))
            }
            Err(error) => Err(error),
            Ok(_) => Ok(control),
        }
    }

    /// GET_FEATURES: those that the host module can offer.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn features(&self) -> Result<Features, Error> {
        let mut raw = uapi::vhost_stopwatch_features::default();
        GET_FEATURES
            .call(self.as_fd(), &mut raw)
            .map_err(refused("GET_FEATURES", &[]))?;
        Ok(Features(raw.features))
    }

    /// SET_FEATURES: those that it shall offer to this VM.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_features(&self, features: Features) -> Result<(), Error> {
        let mut raw = uapi::vhost_stopwatch_features {
            features: features.0,
            ..Default::default()
        };
        SET_FEATURES.call(self.as_fd(), &mut raw).map_err(refused(
            format!("SET_FEATURES to {features}"),
            &[
                (Errno::INVAL, "the host module does not know one of them"),
                (Errno::BUSY, REGION_IS_SET),
            ],
        ))
    }

    /// SET_GEOMETRY: what the VM shall have. Returns how many bytes its region
    /// must have.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_geometry(&self, geometry: Geometry) -> Result<u32, Error> {
        let mut raw = uapi::vhost_stopwatch_geometry {
            stopwatches: geometry.stopwatches,
            rings: geometry.rings,
            ring_slots: geometry.ring_slots,
            event_slots: geometry.event_slots,
            ..Default::default()
        };
        SET_GEOMETRY.call(self.as_fd(), &mut raw).map_err(refused(
            format!("SET_GEOMETRY to {geometry}"),
            &[
                (
                    Errno::INVAL,
                    "a count is out of range; expected 1 to 4096 stopwatches, 1 to 64 rings, and \
                     slots that are a power of two from 8 to 4096",
                ),
                (Errno::BUSY, REGION_IS_SET),
            ],
        ))?;
        Ok(raw.region_size)
    }

    /// SET_REGION: makes this file a VM, with `memfd` as its region.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_region(&self, memfd: impl AsFd) -> Result<(), Error> {
        self.set_fd(&SET_REGION, 0, memfd.as_fd()).map_err(refused(
            "SET_REGION",
            &[
                (Errno::NXIO, "SET_GEOMETRY has to come first"),
                (
                    Errno::BUSY,
                    "the region is set, so this file is a VM already: open another one; or \
                     another VM has this memfd: make one for each VM",
                ),
                (
                    Errno::BADF,
                    "the descriptor is not open for reading and writing",
                ),
                (
                    Errno::INVAL,
                    "expected a memfd of the size that SET_GEOMETRY gave, sealed against \
                     shrinking and growing and not against writing",
                ),
                (
                    Errno::NOMEM,
                    "no memory to pin or map it, or the user has more locked memory in all VMs \
                     than `ulimit -l` allows: raise that, or take a smaller geometry",
                ),
                (
                    Errno::DQUOT,
                    "this user has a quarter of all VMs that there may be: end some, or raise \
                     the host module's parameter max_vms",
                ),
                (
                    Errno::NOSPC,
                    "too many VMs: the host module's parameter max_vms says how many there may be",
                ),
            ],
        ))
    }

    /// SET_KICK: the eventfd of the doorbell of ring `ring`.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_kick(&self, ring: u32, eventfd: impl AsFd) -> Result<(), Error> {
        self.set_fd(&SET_KICK, ring, eventfd.as_fd())
            .map_err(refused(format!("SET_KICK of ring {ring}"), EVENTFD))
    }

    /// SET_CALL: the eventfd that the kernel signals for call `call`.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_call(&self, call: u32, eventfd: impl AsFd) -> Result<(), Error> {
        self.set_fd(&SET_CALL, call, eventfd.as_fd())
            .map_err(refused(format!("SET_CALL of call {call}"), EVENTFD))
    }

    /// SET_NAME: a name for people.
    ///
    /// # Errors
    ///
    /// As the header says, and [`Error::NameTooLong`].
    pub fn set_name(&self, name: &str) -> Result<(), Error> {
        let mut raw = uapi::vhost_stopwatch_name::default();
        raw.name
            .get_mut(..name.len())
            .ok_or_else(|| Error::NameTooLong { name: name.into() })?
            .copy_from_slice(name.as_bytes());
        SET_NAME.call(self.as_fd(), &mut raw).map_err(refused(
            format!("SET_NAME to {name:?}"),
            &[(
                Errno::INVAL,
                "expected a name that is not empty and has no control characters",
            )],
        ))
    }

    /// START: serves kicks from now on, and one that came before.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn start(&self) -> Result<(), Error> {
        // SAFETY: the argument of START is zero, not an address.
        unsafe { raw::ioctl(self, uapi::VHOST_STOPWATCH_START, 0) }.map_err(refused(
            "START",
            &[
                (Errno::NXIO, "the region, a kick or a call is not set yet"),
                (Errno::ALREADY, "the VM is started already"),
            ],
        ))
    }

    /// STOP: serves no kicks until the next START.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn stop(&self) -> Result<(), Error> {
        // SAFETY: the argument of STOP is zero, not an address.
        unsafe { raw::ioctl(self, uapi::VHOST_STOPWATCH_STOP, 0) }.map_err(refused(
            "STOP",
            &[
                (Errno::NXIO, "the region, a kick or a call is not set yet"),
                (Errno::ALREADY, "the VM is stopped already"),
            ],
        ))
    }

    /// GET_VM by its number. `None` if there is none that the caller may see.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn vm(&self, vm: u64) -> Result<Option<VmInfo>, Error> {
        self.get_vm(vm, 0)
    }

    /// GET_VM of this very file. `None` if it is not a VM yet.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn this_vm(&self) -> Result<Option<VmInfo>, Error> {
        self.get_vm(0, uapi::VHOST_STOPWATCH_VM_SELF)
    }

    /// GET_VM of all that the caller may see, by rising number.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn vms(&self) -> Result<Vec<VmInfo>, Error> {
        let mut vms = Vec::new();
        let mut from = 0;
        while let Some(vm) = self.get_vm(from, uapi::VHOST_STOPWATCH_VM_NEXT)? {
            from = vm.vm + 1;
            vms.push(vm);
        }
        Ok(vms)
    }

    /// The one VM that `wanted` means: its number or, if no VM has that number,
    /// its name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVm`], [`Error::AmbiguousName`].
    pub fn find(&self, wanted: &str) -> Result<VmInfo, Error> {
        pick(self.vms()?, wanted)
    }

    /// SET_POLICY: what the guest may do.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_policy(&self, policy: Policy) -> Result<(), Error> {
        let flag = |on, flag| if on { flag } else { 0 };
        let mut raw = uapi::vhost_stopwatch_policy {
            flags: flag(
                policy.allow_host_time,
                uapi::VHOST_STOPWATCH_ALLOW_HOST_TIME,
            ) | flag(
                policy.allow_host_power,
                uapi::VHOST_STOPWATCH_ALLOW_HOST_POWER,
            ),
            min_interval_ns: policy.min_interval_ns,
            ..Default::default()
        };
        SET_POLICY.call(self.as_fd(), &mut raw).map_err(refused(
            "SET_POLICY",
            &[
                (Errno::INVAL, "expected a least interval from 100us to 1h"),
                (
                    Errno::PERM,
                    "only a process with CAP_SYS_BOOT may let a guest power the host off",
                ),
                (Errno::BUSY, REGION_IS_SET),
            ],
        ))
    }

    /// COMMAND: has a stopwatch of VM `vm` do `operation`. Says the number of
    /// the stopwatch, too. It works whether the VM is started or not.
    ///
    /// # Errors
    ///
    /// [`Error::Running`], [`Error::Stopped`], [`Error::NoSuchWatch`],
    /// [`Error::Numbered`].
    pub fn command(
        &self,
        vm: u64,
        which: &Which,
        operation: Operation,
    ) -> Result<(u32, Reading), Error> {
        let mut raw = uapi::vhost_stopwatch_command {
            vm,
            op: operation.number(),
            ..Default::default()
        };
        match which {
            Which::Number(number) => raw.watch = *number,
            Which::Name(name) => raw.name = name.to_field(),
        }
        let result = COMMAND.call(self.as_fd(), &mut raw);
        let reading = raw.reading.into();
        let which = || which.clone();
        result.map_err(|errno| match (errno, operation) {
            (Errno::ALREADY, Operation::Start) => Error::Running {
                which: which(),
                reading,
            },
            (Errno::ALREADY | Errno::NODATA, _) => Error::Stopped {
                which: which(),
                operation,
                reading,
            },
            (Errno::NOENT, _) => Error::NoSuchWatch { vm, which: which() },
            (Errno::INVAL, Operation::Delete) => Error::Numbered { watch: raw.watch },
            (errno, _) => refused(format!("COMMAND {operation}"), &[])(errno),
        })?;
        Ok((raw.watch, reading))
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
            clock: creation.clock.number(),
            mode: creation.share.mode(),
            name: name.to_field(),
            ..Default::default()
        };
        COMMAND
            .call(self.as_fd(), &mut raw)
            .map_err(|errno| match errno {
                Errno::EXIST => Error::NameTaken {
                    vm,
                    name: name.clone(),
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
            Which::Name(_) => Ok(self.command(vm, which, Operation::Read)?.0),
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
        let mut laps_ns = vec![0u64; uapi::STOPWATCH_LAP_SLOTS as usize];
        let mut raw = uapi::vhost_stopwatch_laps {
            vm,
            laps: uapi::stopwatch_laps {
                flags,
                watch,
                first,
                count: uapi::STOPWATCH_LAP_SLOTS,
                laps: laps_ns.as_mut_ptr().expose_provenance() as u64,
                ..Default::default()
            },
            ..Default::default()
        };
        let result = LAPS.call(self.as_fd(), &mut raw);
        let raw = raw.laps;
        match result {
            Ok(()) => {
                laps_ns.truncate(raw.count as usize);
                Ok(Laps {
                    total: raw.total,
                    oldest: raw.oldest,
                    first: raw.first,
                    laps_ns,
                })
            }
            Err(Errno::NODATA) => Err(Error::LapGone {
                first,
                oldest: raw.oldest,
                total: raw.total,
            }),
            Err(Errno::NOENT) => Err(Error::NoSuchWatch {
                vm,
                which: Which::Number(watch),
            }),
            Err(errno) => Err(refused("LAPS", &[])(errno)),
        }
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
        match DESCRIBE.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(Some(raw.description.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused("DESCRIBE", &[])(errno)),
        }
    }

    fn get_vm(&self, vm: u64, flags: u32) -> Result<Option<VmInfo>, Error> {
        let mut raw = uapi::vhost_stopwatch_vm {
            vm,
            flags,
            ..Default::default()
        };
        match GET_VM.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(Some(raw.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused("GET_VM", &[])(errno)),
        }
    }

    fn set_fd(
        &self,
        request: &Request<uapi::vhost_stopwatch_fd>,
        index: u32,
        fd: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let mut raw = uapi::vhost_stopwatch_fd {
            index,
            fd: fd.as_raw_fd(),
            ..Default::default()
        };
        request.call(self.as_fd(), &mut raw)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

const REGION_IS_SET: &str = "the region is set, so this file is a VM already; open another one";

const EVENTFD: &[(Errno, &str)] = &[
    (Errno::NXIO, "SET_REGION has to come first"),
    (
        Errno::BUSY,
        "the VM is started: STOP it first; or the eventfd is the kick of another ring, or has an \
         irqfd: take one of its own",
    ),
    (Errno::BADF, "the descriptor is not open"),
    (
        Errno::INVAL,
        "expected an eventfd, and a number below that of the geometry",
    ),
    (Errno::NOMEM, "no memory"),
];

/// Puts an errno into the words of `reasons`, or of the errors that every
/// ioctl has.
fn refused(
    call: impl Into<String>,
    reasons: &'static [(Errno, &'static str)],
) -> impl FnOnce(Errno) -> Error {
    let call = call.into();
    move |errno| {
        let why = reasons
            .iter()
            .find(|(reason, _)| *reason == errno)
            .map_or_else(
                || match errno {
                    Errno::INVAL | Errno::TOOBIG | Errno::NOTTY => {
                        "the host module does not know this call; use a module and a program of \
                         one version"
                    }
                    _ => "the host module gave an error that its header does not list",
                },
                |(_, why)| why,
            );
        Error::Refused { call, why, errno }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NAME_SIZE;
    use super::*;

    #[test]
    fn a_name_that_is_too_long() {
        let name = "x".repeat(NAME_SIZE);
        let control = Control {
            file: File::open("/dev/null").unwrap(),
        };
        assert_eq!(
            control
                .set_name(&"x".repeat(NAME_SIZE + 1))
                .unwrap_err()
                .to_string(),
            format!("the name \"{name}x\" has 33 bytes; expected at most 32")
        );
    }

    #[test]
    fn refusals_give_the_header_s_reason_and_the_errno() {
        assert_eq!(
            refused("SET_KICK of ring 3", EVENTFD)(Errno::BUSY).to_string(),
            "SET_KICK of ring 3: the VM is started: STOP it first; or the eventfd is the kick \
             of another ring, or has an irqfd: take one of its own \
             (Device or resource busy (os error 16))"
        );
        let unknown = refused("READ", &[])(Errno::TOOBIG);
        assert!(unknown.to_string().contains("of one version"), "{unknown}");
    }

    #[test]
    fn a_missing_module_says_which() {
        let error = Control::open("/dev/no-such-vhost-stopwatch").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no /dev/no-such-vhost-stopwatch: load the host module first \
             (insmod vhost_stopwatch.ko)"
        );
    }
}
