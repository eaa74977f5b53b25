// SPDX-License-Identifier: MIT OR Apache-2.0

//! PCI devices as sysfs shows them: which there are, whose they are, and their resources.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::carrier::{Kind, KINDS};
use crate::mapping::{Access, Mapping};
use crate::{OpenError, Roots};

/// A PCI device that may be a stopwatch device, by its identity.
#[derive(Clone, Debug)]
pub struct PciDevice {
    path: PathBuf,
    pub(super) kind: &'static Kind,
}

impl PciDevice {
    /// All there are, in the order of their addresses.
    pub fn all(roots: &Roots) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(roots.pci_devices()) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect();
        paths.sort_unstable();
        paths.into_iter().filter_map(Self::at).collect()
    }

    /// The device of a directory, if it may be one of ours.
    pub(super) fn at(path: PathBuf) -> Option<Self> {
        let (vendor, device) = (number(&path, "vendor")?, number(&path, "device")?);
        let kind = KINDS
            .iter()
            .find(|kind| (kind.vendor, kind.device) == (vendor, device))?;
        Some(Self { path, kind })
    }

    /// The PCI identities that such devices have, in words.
    pub fn identities() -> String {
        let all: Vec<_> = KINDS
            .iter()
            .map(|kind| format!("{:04x}:{:04x}", kind.vendor, kind.device))
            .collect();
        all.join(" or ")
    }

    /// Its directory in sysfs.
    pub fn directory(&self) -> &Path {
        &self.path
    }

    /// Its address on the bus, such as `0000:00:04.0`.
    pub fn address(&self) -> String {
        self.path.file_name().map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// What carries the stopwatches: the name of a kind of device.
    pub fn carrier(&self) -> &'static str {
        self.kind.name
    }

    /// The driver that is bound to it.
    pub fn driver(&self) -> Option<String> {
        let driver = fs::read_link(self.path.join("driver")).ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    }

    /// Opens one of its resources.
    pub(super) fn resource(&self, number: u32) -> Result<Resource, OpenError> {
        let path = self.path.join(format!("resource{number}"));
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|source| failed(path.clone(), source))?;
        let size = file
            .metadata()
            .map_err(|source| failed(path.clone(), source))?
            .len();
        Ok(Resource { path, file, size })
    }
}

/// The number in hexadecimal that a file of a device has.
fn number(device: &Path, file: &str) -> Option<u32> {
    let text = fs::read_to_string(device.join(file)).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn failed(path: PathBuf, source: io::Error) -> OpenError {
    match Errno::from_io_error(&source) {
        Some(Errno::ACCESS | Errno::PERM) => OpenError::Resources { path },
        Some(Errno::NOENT) => OpenError::strange(format!("it has no {}", path.display())),
        _ => OpenError::System { path, source },
    }
}

/// A resource of a device, open.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) path: PathBuf,
    pub(super) file: File,
    size: u64,
}

impl AsFd for Resource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Resource {
    /// Maps all of it.
    pub(super) fn map(&self) -> Result<Arc<Mapping>, OpenError> {
        self.map_part(self.size)
    }

    /// Maps its first `size` bytes.
    pub(super) fn map_part(&self, size: u64) -> Result<Arc<Mapping>, OpenError> {
        let bytes = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 || size > self.size {
            return Err(OpenError::strange(format!(
                "{} has {} bytes, expected {} or more",
                self.path.display(),
                self.size,
                size.max(1)
            )));
        }
        Mapping::new(self.file.as_fd(), 0, bytes, Access::ReadWrite).map_err(|errno| match errno {
            // Who may open it may map it, but for this.
            Errno::PERM => OpenError::Lockdown {
                path: self.path.clone(),
            },
            // Kernels with CONFIG_IO_STRICT_DEVMEM, while a driver has it.
            Errno::INVAL => OpenError::strange(format!(
                "{} cannot be mapped; a driver may have it for itself",
                self.path.display()
            )),
            errno => OpenError::System {
                path: self.path.clone(),
                source: errno.into(),
            },
        })
    }
}

/// That a device is enabled. The kernel counts who wants that, so this leaves the count as it
/// found it. A program that is killed leaves it one higher, which does no harm: the device
/// then answers while nobody uses it.
#[derive(Debug)]
pub(super) struct Enabled {
    path: PathBuf,
}

impl Enabled {
    pub(super) fn new(device: &PciDevice) -> Result<Self, OpenError> {
        let path = device.path.join("enable");
        match write(&path, "1") {
            Ok(()) => Ok(Self { path }),
            // What the kernel says of a device that has a driver.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                Err(OpenError::Bound {
                    address: device.address(),
                    driver: device.driver().unwrap_or_else(|| "some driver".into()),
                })
            }
            Err(source) => Err(failed(path, source)),
        }
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        // It may be gone, or have a driver by now, whose business it is then.
        let _ = write(&self.path, "0");
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}
