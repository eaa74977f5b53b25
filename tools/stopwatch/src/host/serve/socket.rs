// SPDX-License-Identifier: MIT OR Apache-2.0

//! The socket at which VMs' VMMs connect: one server has it, and what a server that died
//! has left there is in nobody's way.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{
    bind, connect, getsockname, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::umask;

use super::error::{system, ServeError};

/// So many clients may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Who connects to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// VMMs, each for a VM.
    Vmms,
    /// Programs that look at the VMs: [`Control`](crate::host::Control).
    Control,
}

impl For {
    fn socket_type(self) -> SocketType {
        match self {
            Self::Vmms => SocketType::STREAM,
            Self::Control => SocketType::SEQPACKET,
        }
    }
}

/// A socket that is listened to.
#[derive(Debug)]
pub struct Listening {
    socket: OwnedFd,
    path: PathBuf,
    /// If it was made here: its inode, and the lock that says whose it is.
    own: Option<(u64, File)>,
}

impl Listening {
    /// Makes the socket, with these permissions from the first moment on. What no server
    /// listens to any more is replaced. Not for a program of several threads: for a moment
    /// it changes the mode that new files have.
    ///
    /// # Errors
    ///
    /// [`ServeError::InUse`], [`ServeError::NoSocket`], [`ServeError::Path`].
    pub fn bind(path: &Path, mode: u32, whom: For) -> Result<Self, ServeError> {
        let failed = |what| {
            let path = path.to_owned();
            move |source: io::Error| ServeError::Path { what, path, source }
        };
        let in_use = || ServeError::InUse {
            path: path.to_owned(),
        };
        let address = SocketAddrUnix::new(path).map_err(|errno| failed("name")(errno.into()))?;
        let make = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::UNIX, whom.socket_type(), flags, None)
                .map_err(system("make a socket"))
        };
        // It stays when the server goes: who removes a lock takes it from whoever waits.
        let lock = lock_of(path);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&lock)
            .map_err(failed("make the lock beside"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(in_use()),
            result => result.map_err(|errno| failed("lock")(errno.into()))?,
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ServeError::NoSocket {
                    path: path.to_owned(),
                })
            }
            // It may be that of a server of another kind, which takes no lock.
            Ok(_) => match connect(&make()?, &address) {
                Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed("replace"))?,
                _ => return Err(in_use()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at")(error)),
        }
        let socket = make()?;
        let former = umask(Mode::from_raw_mode(0o177));
        let bound = bind(&socket, &address);
        umask(former);
        bound.map_err(|errno| failed("make")(errno.into()))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(failed("set the mode of"))?;
        listen(&socket, BACKLOG).map_err(|errno| failed("listen to")(errno.into()))?;
        let inode = fs::symlink_metadata(path).map_err(failed("look at"))?.ino();
        Ok(Self {
            socket,
            path: path.to_owned(),
            own: Some((inode, lock)),
        })
    }

    /// Takes a socket that the service manager listens with.
    ///
    /// # Errors
    ///
    /// [`ServeError::System`].
    pub fn inherit(socket: OwnedFd) -> Result<Self, ServeError> {
        let path = getsockname(&socket)
            .and_then(SocketAddrUnix::try_from)
            .map_err(system("see where the inherited socket is"))?
            .path()
            .map(|path| PathBuf::from(path.to_string_lossy().into_owned()))
            .unwrap_or_default();
        rustix::io::ioctl_fionbio(&socket, true).map_err(system("use the inherited socket"))?;
        Ok(Self {
            socket,
            path,
            own: None,
        })
    }

    /// Whom a descriptor is for, if it is a socket that is listened to.
    pub(super) fn whom(fd: impl AsFd) -> Option<For> {
        let listens = socket_acceptconn(&fd).unwrap_or(false);
        let kinds = [For::Vmms, For::Control].into_iter();
        let found = socket_type(fd).ok().filter(|_| listens)?;
        kinds.into_iter().find(|whom| whom.socket_type() == found)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some((inode, _lock)) = &self.own {
            // Somebody may have put another one there.
            let found = fs::symlink_metadata(&self.path);
            if found.is_ok_and(|found| found.ino() == *inode) {
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}

/// The file beside a socket that whoever serves there has locked.
fn lock_of(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}
