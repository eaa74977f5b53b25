// SPDX-License-Identifier: MIT OR Apache-2.0

//! What outlasts this process: the service manager keeps the descriptors of each VM, so
//! that a server that is started again goes on with them.
//!
//! For each VM systemd keeps one descriptor: a socket in which a message waits that has all
//! of the VM's descriptors and says what they are. It is looked at and left there, so it is
//! as good for the server after the next one.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{fcntl_setfd, FdFlags};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use stopwatch_uapi as uapi;

use super::clock::VmClock;
use super::error::{system, ServeError};
use super::peer::Peer;
use super::socket::{For, Listening};

/// What a VM's descriptors are called, with the VM's number behind it.
const NAME: &str = "vm-";

/// Kicks and calls, one more of each than there are rings, and the three before them.
const MOST_FDS: usize = 2 * (uapi::STOPWATCH_MAX_RINGS as usize + 1) + 3;

/// No message about a VM is nearly as long.
const MOST_BYTES: usize = 4096;

/// What is said of a VM. Beside it go, in this order: the connection to its VMM, the
/// region, the host's own copy of the state pages or the module's file, the kicks, the
/// calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parcel {
    pub(super) vm: u64,
    pub(super) name: String,
    pub(super) peer: Peer,
    /// The clock of a program's VM; the module keeps that of its own.
    pub(super) clock: Option<VmClock>,
    pub(super) stopwatches: u32,
    pub(super) rings: u32,
    pub(super) ring_slots: u32,
    pub(super) event_slots: u32,
    pub(super) features: u64,
    pub(super) min_interval_ns: u64,
}

/// Has the service manager keep a VM's descriptors, if there is one that does.
///
/// # Errors
///
/// [`ServeError::System`]: the VM goes on, and will not outlast this process.
pub(super) fn keep(parcel: &Parcel, fds: &[BorrowedFd<'_>]) -> Result<(), ServeError> {
    if !is_there() {
        return Ok(());
    }
    let held = pack(parcel, fds)?;
    let name = format!("{NAME}{}", parcel.vm);
    let states = [
        NotifyState::FdStore,
        // There is nobody at the other end, which is no reason to drop it.
        NotifyState::Custom("FDPOLL=0"),
        NotifyState::FdName(&name),
    ];
    notify(sd_notify::notify_with_fds(&states, &[held.as_fd()]))
}

/// The VM has ended.
pub(super) fn forget(vm: u64) -> Result<(), ServeError> {
    let name = format!("{NAME}{vm}");
    let states = [NotifyState::FdStoreRemove, NotifyState::FdName(&name)];
    notify(sd_notify::notify(&states))
}

/// Says that the server serves.
pub(super) fn ready(status: &str) -> Result<(), ServeError> {
    let states = [NotifyState::Ready, NotifyState::Status(status)];
    notify(sd_notify::notify(&states))
}

/// Says that it ends.
pub(super) fn stopping() -> Result<(), ServeError> {
    notify(sd_notify::notify(&[NotifyState::Stopping]))
}

fn notify(result: std::io::Result<()>) -> Result<(), ServeError> {
    result.map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error);
        system("tell the service manager")(errno.unwrap_or(rustix::io::Errno::IO))
    })
}

/// Whether a service manager keeps descriptors for this program.
pub(super) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
        && std::env::var_os("FDSTORE").is_none_or(|most| most != "0")
}

fn pack(parcel: &Parcel, fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, ServeError> {
    let (to, held) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(system("make a socket for a VM's descriptors"))?;
    let text = serde_json::to_vec(parcel).unwrap_or_default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(fds));
    sendmsg(
        &to,
        &[IoSlice::new(&text)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map_err(system("put a VM's descriptors aside"))?;
    Ok(held)
}

/// What [`pack`] packed, and what it packed that with.
fn unpack(held: impl AsFd) -> Result<(Parcel, Vec<OwnedFd>), String> {
    let mut text = [0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        held,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )
    .map_err(|errno| format!("what was kept of it cannot be read: {errno}"))?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err("its descriptors are more than may be open: raise the limit".into());
    }
    let parcel = serde_json::from_slice(&text[..got.bytes])
        .map_err(|error| format!("what was kept of it is not of this version: {error}"))?;
    Ok((parcel, fds))
}

/// What the service manager passes to this process.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket for VMMs that it listens with.
    pub listening: Option<Listening>,
    /// That for programs that look at the VMs.
    pub control: Option<Listening>,
    /// VMs that a server before this one has had, by the names that they are kept under.
    pub(super) vms: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes it, if there is any. To be called once, early: the descriptors are taken for
    /// those that the environment tells of.
    ///
    /// # Errors
    ///
    /// [`ServeError::System`].
    pub fn take() -> Result<Self, ServeError> {
        let mut inherited = Self::default();
        let passed = sd_notify::listen_fds_with_names().map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error);
            system("take what the service manager passes")(
                errno.unwrap_or(rustix::io::Errno::INVAL),
            )
        })?;
        for (fd, name) in passed {
            // SAFETY: the service manager has opened it for this process, which the
            // environment names by its ID; nothing else here knows its number.
            let fd = unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) };
            fcntl_setfd(&fd, FdFlags::CLOEXEC)
                .map_err(system("use what the service manager passes"))?;
            if name.starts_with(NAME) {
                inherited.vms.push((name, fd));
                continue;
            }
            match Listening::whom(&fd) {
                Some(For::Vmms) => inherited.listening = Some(Listening::inherit(fd)?),
                Some(For::Control) => inherited.control = Some(Listening::inherit(fd)?),
                None => {}
            }
        }
        Ok(inherited)
    }

    /// The VMs, as they were packed.
    pub(super) fn unpack(self) -> impl Iterator<Item = Result<(Parcel, Vec<OwnedFd>), ServeError>> {
        self.vms
            .into_iter()
            .map(|(vm, held)| unpack(&held).map_err(|why| ServeError::Kept { vm, why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::event_fd;
    use rustix::io::{read, write};

    #[test]
    fn a_parcel_can_be_opened_again_and_again() {
        let parcel = Parcel {
            vm: 7,
            name: "web".into(),
            peer: Peer {
                pid: 1,
                uid: 2,
                program: "qemu".into(),
                started: Some(3),
            },
            clock: Some(VmClock::new()),
            stopwatches: 64,
            rings: 64,
            ring_slots: 8,
            event_slots: 8,
            features: 5,
            min_interval_ns: 6,
        };
        let fds: Vec<_> = (0..MOST_FDS).map(|_| event_fd().unwrap()).collect();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let held = pack(&parcel, &borrowed).unwrap();
        for round in 1..=2u64 {
            let (got, copies) = unpack(&held).unwrap();
            assert_eq!(got, parcel);
            assert_eq!(copies.len(), MOST_FDS);
            for (copy, fd) in copies.iter().zip(&fds) {
                write(copy, &round.to_ne_bytes()).unwrap();
                let mut count = [0; 8];
                read(fd, &mut count).unwrap();
                assert_eq!(u64::from_ne_bytes(count), round, "it is the same eventfd");
            }
        }
    }

    #[test]
    fn what_is_no_parcel_is_told_so() {
        let held = event_fd().unwrap();
        assert!(unpack(&held).is_err());
        let (to, held) = std::os::unix::net::UnixDatagram::pair().unwrap();
        to.send(b"{}").unwrap();
        let error = unpack(&held).unwrap_err();
        assert!(error.contains("not of this version"), "{error}");
    }
}
