// SPDX-License-Identifier: MIT OR Apache-2.0

//! Making a VM: its region, its eventfds, and the VMM that inherits them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::io::{fcntl_setfd, Errno, FdFlags};
use serde_json::json;

use super::{Control, Error, Geometry, Qmp, QmpError};

/// A VM with everything that a VMM needs, set but not started.
///
/// Every descriptor is close-on-exec, save in the program that it is
/// [handed over](Vm::hand_over) to.
#[derive(Debug)]
pub struct Vm {
    control: Control,
    region: OwnedFd,
    region_size: u32,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
}

impl Vm {
    /// Makes `control` a VM of that geometry: SET_GEOMETRY, SET_REGION,
    /// SET_KICK for every ring and SET_CALL for every call. It remains to
    /// [`start`](Control::start) it.
    ///
    /// # Errors
    ///
    /// Those of the calls, and [`Error::System`].
    pub fn create(control: Control, geometry: Geometry) -> Result<Self, Error> {
        let region_size = control.set_geometry(geometry)?;
        let region = sealed_memfd(region_size.into())?;
        control.set_region(&region)?;

        let kicks = event_fds(geometry.rings)?;
        for (ring, kick) in (0..).zip(&kicks) {
            control.set_kick(ring, kick)?;
        }
        let calls = event_fds(geometry.rings)?;
        for (index, call) in (0..).zip(&calls) {
            control.set_call(index, call)?;
        }
        Ok(Self {
            control,
            region,
            region_size,
            kicks,
            calls,
        })
    }

    /// The file that is the VM.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The sealed memfd of the region.
    pub fn region(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }

    /// Bytes of the region.
    pub fn region_size(&self) -> u32 {
        self.region_size
    }

    /// The doorbells' eventfds, by ring.
    pub fn kicks(&self) -> &[OwnedFd] {
        &self.kicks
    }

    /// The eventfds that the host module signals, by call.
    pub fn calls(&self) -> &[OwnedFd] {
        &self.calls
    }

    /// What QEMU's `-device` takes: `stopwatch,vm=3,region=4,kicks=5:6,calls=7:8`.
    pub fn device_argument(&self) -> String {
        device_argument(
            self.control.as_fd().as_raw_fd(),
            self.region.as_raw_fd(),
            &self.kicks,
            &self.calls,
        )
    }

    /// Puts `-device` and the VM's device at the end of `command`'s arguments, and lets
    /// it inherit the VM's descriptors.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn hand_over(&self, command: &mut Command) -> Result<(), Error> {
        let own = [self.control.as_fd(), self.region.as_fd()];
        let eventfds = self.kicks.iter().chain(&self.calls).map(AsFd::as_fd);
        for fd in own.into_iter().chain(eventfds) {
            fcntl_setfd(fd, FdFlags::empty()).map_err(|source| Error::System {
                what: "let the VMM inherit a descriptor",
                source,
            })?;
        }
        command.arg("-device").arg(self.device_argument());
        Ok(())
    }

    /// Becomes `command`, with what [`Vm::hand_over`] gives it. Process ID, signals and
    /// exit status are the VMM's own from then on.
    ///
    /// # Errors
    ///
    /// This returns only with an error: [`Error::Exec`] or [`Error::System`].
    pub fn exec(self, mut command: Command) -> Error {
        if let Err(error) = self.hand_over(&mut command) {
            return error;
        }
        let error = command.exec();
        Error::Exec {
            program: command.get_program().to_string_lossy().into_owned(),
            error,
        }
    }
}

impl Vm {
    /// Plugs the device into a QEMU that runs already: sends it the descriptors
    /// and has it add the device as `id`, on `bus` if it is not to choose. QEMU
    /// holds the VM from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Qmp`].
    pub fn attach(&self, qemu: &mut Qmp, id: &str, bus: Option<&str>) -> Result<(), Error> {
        let name = |what: &str| format!("{id}-{what}");
        let numbered = |what: &str, fds: &[OwnedFd]| -> Vec<String> {
            let numbers = 0..fds.len();
            numbers.map(|n| name(&format!("{what}{n}"))).collect()
        };
        let (vm, region) = (name("vm"), name("region"));
        let kicks = numbered("kick", &self.kicks);
        let calls = numbered("call", &self.calls);
        let mut device = json!({
            "driver": "stopwatch",
            "id": id,
            "vm": vm,
            "region": region,
            "kicks": kicks.join(":"),
            "calls": calls.join(":"),
        });
        if let Some(bus) = bus {
            device["bus"] = bus.into();
        }

        let own = [(vm, self.control.as_fd()), (region, self.region.as_fd())];
        let eventfds = self.kicks.iter().chain(&self.calls).map(AsFd::as_fd);
        let eventfds = kicks.into_iter().chain(calls).zip(eventfds);
        let descriptors: Vec<_> = own.into_iter().chain(eventfds).collect();

        let add = |qemu: &mut Qmp| -> Result<(), QmpError> {
            for (name, fd) in &descriptors {
                qemu.get_fd(name, *fd)?;
            }
            qemu.execute("device_add", device)?;
            Ok(())
        };
        add(qemu).map_err(|error| {
            // Some QEMU never got, or has closed with the device: it says so,
            // which is not news.
            for (name, _) in &descriptors {
                let _ = qemu.execute("closefd", json!({ "fdname": name }));
            }
            error.into()
        })
    }
}

/// A memfd fit to be a region: of that size for good, and writable.
///
/// # Errors
///
/// [`Error::System`].
pub fn sealed_memfd(size: u64) -> Result<OwnedFd, Error> {
    memfd("stopwatch", size)
}

/// [`sealed_memfd`], by a name that the kernel shows with its mappings.
pub(super) fn memfd(name: &str, size: u64) -> Result<OwnedFd, Error> {
    let make = || {
        let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, size)?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(memfd)
    };
    make().map_err(|source: Errno| Error::System {
        what: "make the memfd of the region",
        source,
    })
}

/// An eventfd fit to be a kick or a call.
///
/// # Errors
///
/// [`Error::System`]; the limit of open files is the usual one.
pub fn event_fd() -> Result<OwnedFd, Error> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|source| Error::System {
        what: "make an eventfd",
        source,
    })
}

pub(super) fn event_fds(count: u32) -> Result<Vec<OwnedFd>, Error> {
    (0..count).map(|_| event_fd()).collect()
}

fn device_argument(vm: i32, region: i32, kicks: &[OwnedFd], calls: &[OwnedFd]) -> String {
    let list = |fds: &[OwnedFd]| {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        fds.join(":")
    };
    format!(
        "stopwatch,vm={vm},region={region},kicks={},calls={}",
        list(kicks),
        list(calls)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{fcntl_get_seals, fstat};
    use rustix::io::{fcntl_getfd, read, write};

    #[test]
    fn the_region_s_memfd_is_sealed_in_size_only() {
        let memfd = sealed_memfd(3 * 4096).unwrap();
        let seals = fcntl_get_seals(&memfd).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW));
        assert!(!seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE));
        assert_eq!(fstat(&memfd).unwrap().st_size, 3 * 4096);
        assert_eq!(ftruncate(&memfd, 4096), Err(Errno::PERM));
        assert_eq!(ftruncate(&memfd, 4 * 4096), Err(Errno::PERM));
        assert_eq!(write(&memfd, b"writable"), Ok(8));
        assert!(fcntl_getfd(&memfd).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn an_eventfd_counts_and_never_blocks() {
        let eventfd = event_fd().unwrap();
        let mut count = [0; 8];
        assert_eq!(read(&eventfd, &mut count), Err(Errno::AGAIN));
        write(&eventfd, &2u64.to_ne_bytes()).unwrap();
        write(&eventfd, &3u64.to_ne_bytes()).unwrap();
        read(&eventfd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 5);
        assert!(fcntl_getfd(&eventfd).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn the_device_argument_lists_every_descriptor() {
        let kicks = event_fds(2).unwrap();
        let calls = event_fds(1).unwrap();
        assert_eq!(
            device_argument(3, 4, &kicks, &calls),
            format!(
                "stopwatch,vm=3,region=4,kicks={}:{},calls={}",
                kicks[0].as_raw_fd(),
                kicks[1].as_raw_fd(),
                calls[0].as_raw_fd()
            )
        );
    }
}
