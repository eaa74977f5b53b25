// SPDX-License-Identifier: MIT OR Apache-2.0

//! An open `/dev/vhost-stopwatch`: what makes a VM of it, and which VMs there are.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use stopwatch_uapi as uapi;

use super::error::refused;
use super::vm_info::pick;
use super::{Error, Geometry, Policy, VmInfo, DEVICE, NAME_SIZE};
use crate::open::open;
use crate::raw::{self, Ioctl};
use crate::{Features, OpenError};

const ADVICE: &str = "load the host module first (insmod vhost_stopwatch.ko)";

/// How long a server may take to answer. It answers at once, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

// SAFETY: <linux/vhost_stopwatch.h> gives each number this struct.
pub(super) const GET_FEATURES: Ioctl<uapi::vhost_stopwatch_features> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_GET_FEATURES) };
// SAFETY: as above.
const SET_FEATURES: Ioctl<uapi::vhost_stopwatch_features> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_FEATURES) };
// SAFETY: as above.
const SET_GEOMETRY: Ioctl<uapi::vhost_stopwatch_geometry> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_GEOMETRY) };
// SAFETY: as above.
const SET_REGION: Ioctl<uapi::vhost_stopwatch_fd> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_REGION) };
// SAFETY: as above.
const SET_KICK: Ioctl<uapi::vhost_stopwatch_fd> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_KICK) };
// SAFETY: as above.
const SET_CALL: Ioctl<uapi::vhost_stopwatch_fd> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_CALL) };
// SAFETY: as above.
const SET_NAME: Ioctl<uapi::vhost_stopwatch_name> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_NAME) };
// SAFETY: as above.
pub(super) const GET_VM: Ioctl<uapi::vhost_stopwatch_vm> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_GET_VM) };
// SAFETY: as above.
const SET_POLICY: Ioctl<uapi::vhost_stopwatch_policy> =
    unsafe { Ioctl::new(uapi::VHOST_STOPWATCH_SET_POLICY) };

/// An open `/dev/vhost-stopwatch`. It is a VM from
/// [`set_region`](Control::set_region) on, for as long as a copy of the
/// descriptor is open anywhere.
///
/// The calls are those of `<linux/vhost_stopwatch.h>`, which says in what order
/// they go. Each error is an [`Error::Refused`] with the errno of that header.
///
/// It may be a socket instead, at which `stopwatch host serve` answers for the VMs that it
/// serves by itself. It answers the calls that look at VMs, and those about their
/// stopwatches.
#[derive(Debug)]
pub struct Control {
    file: File,
    is_socket: bool,
}

impl Control {
    /// Opens a device node and makes sure that it is the host module's.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path: PathBuf = path.as_ref().to_owned();
        let is_socket = fs::metadata(&path).is_ok_and(|it| it.file_type().is_socket());
        let file = match is_socket {
            true => {
                connect(&path).map_err(|errno| OpenError::of(errno.into(), &path, NO_SERVER))?
            }
            false => open(&path, ADVICE)?,
        };
        let control = Self { file, is_socket };
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
        self.call(&GET_FEATURES, &mut raw)
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
        self.call(&SET_FEATURES, &mut raw).map_err(refused(
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
        self.call(&SET_GEOMETRY, &mut raw).map_err(refused(
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
            .filter(|field| field.len() < NAME_SIZE)
            .ok_or_else(|| Error::NameTooLong { name: name.into() })?
            .copy_from_slice(name.as_bytes());
        self.call(&SET_NAME, &mut raw).map_err(refused(
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
        let mut raw = policy.into();
        self.call(&SET_POLICY, &mut raw).map_err(refused(
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

    /// Has whoever has the VMs do what a struct says.
    pub(super) fn call<T>(&self, request: &Ioctl<T>, argument: &mut T) -> Result<(), Errno> {
        match self.is_socket {
            true => request.ask(self.as_fd(), argument, &mut []),
            false => request.call(self.as_fd(), argument),
        }
    }

    /// [`Self::call`], of one that also fills in `array`, whose address is in the struct.
    pub(super) fn call_with<T>(
        &self,
        request: &Ioctl<T>,
        argument: &mut T,
        array: &mut [u64],
    ) -> Result<(), Errno> {
        match self.is_socket {
            true => request.ask(self.as_fd(), argument, array),
            false => request.call(self.as_fd(), argument),
        }
    }

    fn get_vm(&self, vm: u64, flags: u32) -> Result<Option<VmInfo>, Error> {
        let mut raw = uapi::vhost_stopwatch_vm {
            vm,
            flags,
            ..Default::default()
        };
        match self.call(&GET_VM, &mut raw) {
            Ok(()) => Ok(Some(raw.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused("GET_VM", &[])(errno)),
        }
    }

    fn set_fd(
        &self,
        request: &Ioctl<uapi::vhost_stopwatch_fd>,
        index: u32,
        fd: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let mut raw = uapi::vhost_stopwatch_fd {
            index,
            fd: fd.as_raw_fd(),
            ..Default::default()
        };
        self.call(request, &mut raw)
    }
}

/// A file that was opened before, maybe by another process.
impl From<OwnedFd> for Control {
    fn from(file: OwnedFd) -> Self {
        Self {
            file: file.into(),
            is_socket: false,
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

const NO_SERVER: &str = "nobody serves there any more; start `stopwatch host serve`";

/// A connection to a server that keeps messages apart.
fn connect(path: &Path) -> Result<File, Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long() {
        let name = "x".repeat(NAME_SIZE - 1);
        let control = Control {
            file: File::open("/dev/null").unwrap(),
            is_socket: false,
        };
        assert_eq!(
            control
                .set_name(&"x".repeat(NAME_SIZE))
                .unwrap_err()
                .to_string(),
            format!("the name \"{name}x\" has 32 bytes; expected at most 31")
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
