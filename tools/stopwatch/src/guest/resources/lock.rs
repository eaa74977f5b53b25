// SPDX-License-Identifier: MIT OR Apache-2.0

//! One program at a time has a device without a driver.
//!
//! It holds flock() on the resource that it has mapped, the region: there is no other file to
//! agree upon or to clean up, and the kernel lets go of it when the program ends, however that
//! ends. Programs in containers with a sysfs of another network namespace have other inodes,
//! and so another lock.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process;
use std::time::{Duration, Instant};

use rustix::fs::{flock, major, minor, FlockOperation};
use rustix::io::Errno;
use stopwatch_uapi as uapi;

use super::naps::Naps;
use super::pci::Resource;
use crate::{OpenError, Roots};

/// How long to wait for another program: most have it for a moment.
const PATIENCE: Duration = Duration::from_millis(uapi::STOPWATCH_ANSWER_MS as u64);

/// Takes the lock, waiting for it a while.
pub(super) fn take(resource: &Resource, roots: &Roots) -> Result<(), OpenError> {
    let since = Instant::now();
    let mut naps = Naps::new();
    loop {
        match flock(resource, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if since.elapsed() > PATIENCE => {
                return Err(OpenError::InUse {
                    by: holder(&resource.file, roots).unwrap_or_else(|| "another program".into()),
                })
            }
            Err(Errno::WOULDBLOCK) => naps.nap(),
            Err(errno) => {
                return Err(OpenError::System {
                    path: resource.path.clone(),
                    source: errno.into(),
                })
            }
        }
    }
}

/// Lets go of it.
pub(super) fn release(resource: &Resource) {
    // There is nothing that could fail but for a bad file.
    let _ = flock(resource, FlockOperation::Unlock);
}

/// Who has the lock of a file.
fn holder(file: &File, roots: &Roots) -> Option<String> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let locks = fs::read_to_string(roots.proc.join("locks")).ok()?;
    let pid = pid_of(&locks, (major(device), minor(device), inode))?;
    if pid == process::id() {
        return Some("this program itself, by another open device,".into());
    }
    let name = fs::read_to_string(roots.proc.join(format!("{pid}/comm"))).ok();
    Some(match name {
        Some(name) => format!("process {pid} ({})", name.trim()),
        None => format!("process {pid}"),
    })
}

/// The process whose flock() of that file is among `locks`, which is what /proc/locks says.
fn pid_of(locks: &str, (major, minor, inode): (u32, u32, u64)) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        // Those that wait have an arrow before the kind.
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some("FLOCK")).then_some(())?;
        let mut words = words.skip(2);
        let pid = words.next()?.parse().ok()?;
        (words.next() == Some(file.as_str())).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_the_locks() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 00:16:4242 0 EOF
2: FLOCK  ADVISORY  WRITE 12 00:17:4242 0 EOF
3: FLOCK  ADVISORY  WRITE 13 00:16:4242 0 EOF
3: -> FLOCK  ADVISORY  WRITE 14 00:16:4242 0 EOF
";
        assert_eq!(pid_of(locks, (0, 0x16, 4242)), Some(13));
        assert_eq!(pid_of(locks, (0, 0x16, 4243)), None);
        assert_eq!(pid_of("nonsense\n\n", (0, 0x16, 4242)), None);
    }
}
