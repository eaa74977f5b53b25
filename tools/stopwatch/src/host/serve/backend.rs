// SPDX-License-Identifier: MIT OR Apache-2.0

//! What serves the rings of the VMs: the host's kernel, or this program.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::super::{Control, Error, Geometry, Policy};
use super::error::ServeError;
use super::module;
use crate::OpenError;

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host's kernel module: a call is answered in the doorbell's exit.
    Module,
    /// This program: a call takes a wake-up.
    Program,
}

/// What serves the rings of a server's VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The host module, by this device node.
    Module(PathBuf),
    /// This program.
    Program,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(node) => write!(f, "by the host module ({})", node.display()),
            Self::Program => f.write_str("by this program"),
        }
    }
}

impl Backend {
    /// The one that is wanted or, if that is left open, the module where there is one. If
    /// it is the program for want of a module, the text says so.
    ///
    /// # Errors
    ///
    /// There is no such one, or there is a module that this user may not use.
    pub fn choose(wanted: Option<Kind>, node: &Path) -> Result<(Self, Option<String>), Error> {
        if wanted == Some(Kind::Program) {
            return Ok((Self::Program, None));
        }
        match Control::open(node) {
            Ok(_) => Ok((Self::Module(node.into()), None)),
            Err(Error::Open(OpenError::Missing { path, .. })) if wanted.is_none() => {
                let why = format!(
                    "there is no {}, so this program serves the VMs itself: a call takes a \
                     wake-up; load the host module (insmod vhost_stopwatch.ko) to have calls \
                     answered in the guest's own exit",
                    path.display()
                );
                Ok((Self::Program, Some(why)))
            }
            Err(error) => Err(error),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Module(_) => Kind::Module,
            Self::Program => Kind::Program,
        }
    }

    /// What a VM gets that is to have at least `asked`.
    pub(super) fn geometry(&self, asked: Geometry) -> Result<Geometry, ServeError> {
        asked.check()?;
        match self {
            Self::Module(_) => {
                module::filling(asked).ok_or(ServeError::NotFilling { geometry: asked })
            }
            Self::Program => Ok(asked),
        }
    }

    /// Refuses what it cannot let a guest do.
    pub(super) fn check(&self, policy: &Policy) -> Result<(), ServeError> {
        match self {
            Self::Program if policy.allow_host_power => Err(ServeError::HostPower),
            Self::Program if policy.min_interval_ns < super::super::MIN_INTERVAL_NS => {
                Err(Error::Refused {
                    call: "the policy".into(),
                    why: "expected a least interval from 100us to 1h",
                    errno: Errno::INVAL,
                }
                .into())
            }
            _ => Ok(()),
        }
    }
}
