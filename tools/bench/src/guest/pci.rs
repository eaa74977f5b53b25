// SPDX-License-Identifier: MIT OR Apache-2.0

//! PCI devices that no driver has, by their files in sysfs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};

use super::system::{self, Mapping};

/// A function of a PCI device.
pub(super) struct Function {
    path: PathBuf,
}

impl Function {
    /// The one of that identity with so many before it, enabled.
    pub(super) fn find(vendor: u16, device: u16, index: usize) -> Result<Self> {
        let directory = "/sys/bus/pci/devices";
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)
            .context(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.sort();
        let mut found = paths.into_iter().filter(|path| {
            let is = |file: &str, value: u16| {
                system::text(path.join(file)).is_ok_and(|text| text == format!("{value:#06x}"))
            };
            is("vendor", vendor) && is("device", device)
        });
        let path = found.nth(index).with_context(|| {
            format!("this VM has no PCI device {vendor:04x}:{device:04x} number {index}")
        })?;
        // Refused where it is enabled already.
        let _ = fs::write(path.join("enable"), "1");
        Ok(Self { path })
    }

    /// A memory BAR, by its resource file.
    pub(super) fn memory(&self, bar: usize) -> Result<Mapping> {
        Mapping::read_write(self.path.join(format!("resource{bar}")), 4096)
    }

    /// An I/O BAR, by its resource file. The kernel makes the access, within a
    /// system call: programs may not rely on port instructions of their own, which
    /// an emulated AMD CPU refuses to programs of a nested guest.
    fn ports(&self, bar: usize) -> Result<File> {
        let path = self.path.join(format!("resource{bar}"));
        let file = File::options().read(true).write(true).open(&path);
        file.with_context(|| path.display().to_string())
    }

    /// Selects one of the tests of QEMU's test device.
    pub(super) fn select(&self, test: Test) -> Result<Selected> {
        const SELECT: usize = 0;
        const OFFSET: usize = 4;
        let number = |eventfd: bool| u8::from(eventfd);
        match test {
            Test::Mmio { eventfd } => {
                let memory = self.memory(0)?;
                memory.write(SELECT, number(eventfd));
                let offset: [u8; 4] = std::array::from_fn(|byte| memory.read(OFFSET + byte));
                let offset = u32::from_le_bytes(offset) as usize;
                ensure!((2048..4096).contains(&offset), "no MMIO test at {offset}");
                Ok(Selected::Memory(memory, offset))
            }
            Test::Portio { eventfd } => {
                let ports = self.ports(1)?;
                ports
                    .write_at(&[number(eventfd)], SELECT as u64)
                    .context("select a test")?;
                let mut offset = [0; 4];
                for (byte, place) in (OFFSET as u64..).zip(offset.chunks_mut(1)) {
                    ports.read_at(place, byte).context("read where a test is")?;
                }
                let offset = u32::from_le_bytes(offset);
                ensure!((128..256).contains(&offset), "no port I/O test at {offset}");
                Ok(Selected::Ports(ports, offset.into()))
            }
        }
    }
}

/// A test of QEMU's `pci-testdev`: a byte is written, and an eventfd takes it
/// (`wildcard-eventfd`) or the device model in QEMU does (`no-eventfd`).
#[derive(Clone, Copy)]
pub(super) enum Test {
    /// To memory.
    Mmio { eventfd: bool },
    /// To an I/O port.
    Portio { eventfd: bool },
}

/// A selected test.
pub(super) enum Selected {
    Memory(Mapping, usize),
    Ports(File, u64),
}

impl Selected {
    /// Writes the byte.
    pub(super) fn write(&self) -> Result<()> {
        match self {
            Self::Memory(memory, offset) => memory.write(*offset, 0u8),
            Self::Ports(ports, offset) => {
                ports
                    .write_at(&[0], *offset)
                    .context("write to an I/O port")?;
            }
        }
        Ok(())
    }

    /// Makes the system call of an I/O port's write, with nothing to write.
    pub(super) fn write_nothing(&self) -> Result<()> {
        if let Self::Ports(ports, offset) = self {
            ports
                .write_at(&[], *offset)
                .context("write nothing to an I/O port")?;
        }
        Ok(())
    }
}
