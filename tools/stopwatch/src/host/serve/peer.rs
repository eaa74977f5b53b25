// SPDX-License-Identifier: MIT OR Apache-2.0

//! Who is at the other end of a socket.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A process that has connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number, in this program's pid namespace; 0 if it is not there.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What it calls itself; empty if that is not known.
    pub program: String,
    /// When it was started, in the kernel's ticks: which process of that number it is.
    pub(super) started: Option<u64>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if !self.program.is_empty() {
            write!(f, " ({})", self.program)?;
        }
        Ok(())
    }
}

impl Peer {
    /// That of a connected socket.
    pub(super) fn of(socket: impl AsFd) -> Result<Self, Errno> {
        // Not by rustix, to which a process that is in no namespace of ours cannot be.
        let credentials = getsockopt(&socket, PeerCredentials)
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Self {
            pid,
            uid: credentials.uid(),
            // It may call itself anything.
            program: program.chars().filter(|c| !c.is_control()).collect(),
            started: started(pid),
        })
    }

    /// Which process it is, for as long as the machine is up.
    pub(super) fn identity(&self) -> (u32, Option<u64>) {
        (self.pid, self.started)
    }

    /// Whether it has not ended yet.
    pub(super) fn is_alive(&self) -> bool {
        is_alive(self.identity())
    }

    /// The inodes of the memfds of that name that it has mapped.
    ///
    /// # Errors
    ///
    /// This program may not look at that one.
    pub(super) fn regions(&self, name: &str) -> io::Result<BTreeSet<u64>> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        Ok(regions(&maps, name))
    }
}

/// Whether the process of that [`Peer::identity`] has not ended yet.
pub(super) fn is_alive((pid, since): (u32, Option<u64>)) -> bool {
    since.is_some() && started(pid) == since
}

fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may have anything in it, up to the last parenthesis; what is asked
    // for is the twenty-second.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn regions(maps: &str, name: &str) -> BTreeSet<u64> {
    let path = format!("/memfd:{name} (deleted)");
    maps.lines()
        .filter_map(|line| {
            let (fields, _) = line.split_once(&path)?;
            fields.split_whitespace().nth(4)?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_process_knows_itself() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(one).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.started.is_some() && peer.is_alive());
        assert!(peer.regions("no such").unwrap().is_empty());
        let gone = Peer {
            started: Some(1),
            ..peer
        };
        assert!(!gone.is_alive());
    }

    #[test]
    fn regions_are_told_by_name() {
        let maps = "\
7f0000000000-7f0000001000 rw-s 00000000 00:01 11  /memfd:stopwatch:/run/a (deleted)
7f0000001000-7f0000002000 rw-s 00001000 00:01 11  /memfd:stopwatch:/run/a (deleted)
7f0000002000-7f0000003000 rw-s 00000000 00:01 12  /memfd:stopwatch:/run/ab (deleted)
7f0000003000-7f0000004000 r-xp 00000000 08:01 13  /usr/bin/qemu-system-x86_64
";
        assert_eq!(regions(maps, "stopwatch:/run/a"), BTreeSet::from([11]));
        assert_eq!(regions(maps, "stopwatch:/run"), BTreeSet::new());
    }
}
