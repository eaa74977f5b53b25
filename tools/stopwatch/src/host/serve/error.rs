// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why a server does not serve, or not that client, in words.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use stopwatch_protocol::geometry::GeometryError;
use thiserror::Error;

use super::super::{Error, Geometry};

/// Why there is no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// What makes VMs said no.
    #[error(transparent)]
    Host(#[from] Error),
    /// No device has that.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Another server has the socket.
    #[error(
        "another server is at {}: stop that one first, or give this one another --socket",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has its place.
    #[error(
        "{} is there, and is no socket: remove it, or give another --socket",
        path.display()
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot {what} {}: {source}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host module would not take a region that QEMU takes.
    #[error(
        "QEMU takes a region only if its size is a power of two, and the host module only if it \
         has exactly what {geometry} need; no geometry with at least as much is both: take fewer \
         stopwatches, or --backend program"
    )]
    NotFilling {
        /// What was asked for.
        geometry: Geometry,
    },
    /// The program has no function of the host.
    #[error(
        "a program cannot power the host off for a guest; take --backend module, or leave out \
         --allow-host-power"
    )]
    HostPower,
    /// Not one VM could be made.
    #[error(
        "the limit of open files, {limit}, is below the {need} of a server with one VM: raise it \
         (`ulimit -Hn`, LimitNOFILE= of a unit)"
    )]
    Descriptors {
        /// The limit that there is.
        limit: u64,
        /// For the server and one VM.
        need: u64,
    },
    /// What was kept cannot be used.
    #[error("VM {vm} cannot be taken over: {why}")]
    Kept {
        /// By the name that it was kept under.
        vm: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// Puts an errno into words.
pub(super) fn system(what: &'static str) -> impl FnOnce(Errno) -> ServeError {
    move |source| ServeError::System { what, source }
}
