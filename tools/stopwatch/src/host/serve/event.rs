// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a server tells of what happens.

use std::fmt;

use serde::Serialize;

use super::Peer;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A client has a VM.
    Connected {
        /// The VM's number.
        vm: u64,
        /// The client.
        #[serde(flatten)]
        peer: Peer,
    },
    /// The client of a server before this one goes on.
    TakenOver {
        /// The VM's number.
        vm: u64,
        /// The client.
        #[serde(flatten)]
        peer: Peer,
    },
    /// The client is gone, and the VM with it.
    Ended {
        /// The VM's number.
        vm: u64,
        /// The client.
        #[serde(flatten)]
        peer: Peer,
    },
    /// The client did not keep to the protocol, and the VM is gone.
    Dropped {
        /// The VM's number.
        vm: u64,
        /// The client.
        #[serde(flatten)]
        peer: Peer,
        /// What it did, and what was expected.
        why: String,
    },
    /// The client gets no VM.
    Refused {
        /// The client.
        #[serde(flatten)]
        peer: Peer,
        /// Why, and what to do.
        why: String,
    },
    /// Something does not work, and the server goes on.
    Trouble {
        /// What.
        what: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { vm, peer } => write!(f, "VM {vm}: {peer} is connected"),
            Self::TakenOver { vm, peer } => write!(f, "VM {vm}: taken over, of {peer}"),
            Self::Ended { vm, peer } => write!(f, "VM {vm}: ended with {peer}"),
            Self::Dropped { vm, peer, why } => write!(f, "VM {vm}: dropped {peer}: {why}"),
            Self::Refused { peer, why } => write!(f, "refused {peer}: {why}"),
            Self::Trouble { what } => f.write_str(what),
        }
    }
}
