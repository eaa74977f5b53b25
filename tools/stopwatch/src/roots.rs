// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the kernel shows itself to programs.

use std::path::{Path, PathBuf};

/// The directories in which devices, and what the kernel says of them, are found: those of
/// the machine or, for a test, others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/dev`.
    pub dev: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Roots {
    /// `dev`, `sys` and `proc` under `root`.
    pub fn under(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref();
        Self {
            dev: root.join("dev"),
            sys: root.join("sys"),
            proc: root.join("proc"),
        }
    }

    /// The driver's node.
    pub fn node(&self) -> PathBuf {
        self.dev.join("stopwatch")
    }

    /// Where sysfs has the PCI devices.
    pub(crate) fn pci_devices(&self) -> PathBuf {
        self.sys.join("bus/pci/devices")
    }
}

impl Default for Roots {
    /// Those of the machine.
    fn default() -> Self {
        Self::under("/")
    }
}
