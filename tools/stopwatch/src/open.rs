// SPDX-License-Identifier: MIT OR Apache-2.0

//! Opening a device node, and saying why it could not be.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::guest::PciDevice;
use crate::Roots;

/// Why there is no device to work with.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such node, or nothing behind it.
    #[error("there is no {}: {advice}", path.display())]
    Missing {
        /// The node.
        path: PathBuf,
        /// What to do about it.
        advice: &'static str,
    },
    /// The node is there, but not for this user.
    #[error(
        "no permission to open {}: run as root, or as a user whom the owner or mode of the node admits",
        path.display()
    )]
    Permission {
        /// The node.
        path: PathBuf,
    },
    /// The node belongs to something else.
    #[error("{} is some other device or file; expected one like {expected}", path.display())]
    OtherDevice {
        /// The node.
        path: PathBuf,
        /// The usual node.
        expected: &'static str,
    },
    /// There is neither a driver's node nor a device without a driver.
    #[error(
        "there is no {}, and no PCI device {} among those under {}: this machine has no stopwatch \
         device; start it on its host with `stopwatch host run`",
        node.display(), PciDevice::identities(), devices.display()
    )]
    NoDevice {
        /// The node that was looked for.
        node: PathBuf,
        /// Where PCI devices were looked for.
        devices: PathBuf,
    },
    /// That directory is not that of a PCI device of ours.
    #[error(
        "{} is not a directory of a PCI device {}; those of this machine are under \
         /sys/bus/pci/devices",
        path.display(), PciDevice::identities()
    )]
    OtherPciDevice {
        /// The directory.
        path: PathBuf,
    },
    /// The device has a driver, and so no program has its resources.
    #[error(
        "the PCI device {address} has the driver {driver}, and is used by that{}",
        binding_advice(address, driver)
    )]
    Bound {
        /// Its address.
        address: String,
        /// Its driver.
        driver: String,
    },
    /// The device has no driver, and its resources are root's.
    #[error(
        "no permission to use {}: without a driver the device is root's; run as root, or load the \
         driver (insmod stopwatch.ko)",
        path.display()
    )]
    Resources {
        /// The resource.
        path: PathBuf,
    },
    /// The kernel lets no program map a device (`EPERM`).
    #[error(
        "this kernel is locked down, and so lets no program map {}; load the driver (insmod \
         stopwatch.ko, signed by a key that the kernel trusts), or boot without lockdown: without \
         `lockdown=` and with Secure Boot off",
        path.display()
    )]
    Lockdown {
        /// The resource.
        path: PathBuf,
    },
    /// Another program has the device.
    #[error(
        "{by} has the device, which without a driver is for one program at a time; wait until that \
         has ended, or load the driver (insmod stopwatch.ko)"
    )]
    InUse {
        /// Who has it.
        by: String,
    },
    /// The device is not as one is that this program is for.
    #[error("this is no device that this program can use: {what}")]
    Strange {
        /// What is wrong with it.
        what: String,
    },
    /// Anything else that open(2) says.
    #[error("cannot open {}", path.display())]
    System {
        /// The node.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn no_device(roots: &Roots) -> Self {
        Self::NoDevice {
            node: roots.node(),
            devices: roots.pci_devices(),
        }
    }

    pub(crate) fn strange(what: impl ToString) -> Self {
        Self::Strange {
            what: what.to_string(),
        }
    }
}

fn binding_advice(address: &str, driver: &str) -> String {
    match driver {
        "stopwatch" => ": open /dev/stopwatch; if that is not there, mount devtmpfs".into(),
        _ => format!(
            "; to have it, unbind that: echo {address} >/sys/bus/pci/drivers/{driver}/unbind"
        ),
    }
}

/// Opens `path`; `advice` is for when it is not there. For reading and writing
/// or, if `path` does not let this user write, for reading: every ioctl goes
/// with that, too.
pub(crate) fn open(path: &Path, advice: &'static str) -> Result<File, OpenError> {
    let open = |write| OpenOptions::new().read(true).write(write).open(path);
    open(true)
        .or_else(|error| match Errno::from_io_error(&error) {
            Some(Errno::ACCESS) => open(false),
            _ => Err(error),
        })
        .map_err(|source| OpenError::of(source, path, advice))
}

impl OpenError {
    /// Why `path` cannot be opened; `advice` is for when nothing is there.
    pub(crate) fn of(source: io::Error, path: &Path, advice: &'static str) -> Self {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::CONNREFUSED) => {
                Self::Missing { path, advice }
            }
            Some(Errno::ACCESS | Errno::PERM) => Self::Permission { path },
            Some(Errno::PROTOTYPE) => Self::OtherDevice {
                path,
                expected: "the socket for control of `stopwatch host serve`",
            },
            _ => Self::System { path, source },
        }
    }
}
