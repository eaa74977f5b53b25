// SPDX-License-Identifier: MIT OR Apache-2.0

//! Opening a device node, and saying why it could not be.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

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
    /// Anything else that open(2) says.
    #[error("cannot open {}", path.display())]
    System {
        /// The node.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },
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
        .map_err(|source| {
            let path = path.to_owned();
            match Errno::from_io_error(&source) {
                Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
                    OpenError::Missing { path, advice }
                }
                Some(Errno::ACCESS | Errno::PERM) => OpenError::Permission { path },
                _ => OpenError::System { path, source },
            }
        })
}
