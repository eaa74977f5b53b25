// SPDX-License-Identifier: MIT OR Apache-2.0

//! What QEMU's `ivshmem-doorbell` is told of a VM, once: the messages of
//! `<linux/stopwatch_ivshmem.h>`, in their order.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use stopwatch_uapi as uapi;

use crate::raw;

/// `SIOCOUTQ` of <linux/sockios.h>.
const SIOCOUTQ: u32 = 0x5411;

/// What goes with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    Nothing,
    Kick(usize),
    Region,
    Call(usize),
}

/// The message of that number, for so many kicks and calls. `None` behind the last one.
fn message(number: usize, kicks: usize, calls: usize) -> Option<(i64, With)> {
    let host = i64::from(uapi::STOPWATCH_IVSHMEM_PEER_HOST);
    let guest = i64::from(uapi::STOPWATCH_IVSHMEM_PEER_GUEST);
    Some(match number {
        0 => (i64::from(uapi::STOPWATCH_IVSHMEM_PROTOCOL), With::Nothing),
        1 => (guest, With::Nothing),
        _ if number < 2 + kicks => (host, With::Kick(number - 2)),
        _ if number == 2 + kicks => (i64::from(uapi::STOPWATCH_IVSHMEM_MEMORY), With::Region),
        _ if number < 3 + kicks + calls => (guest, With::Call(number - 3 - kicks)),
        _ => return None,
    })
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handshake {
    sent: usize,
}

/// What [`Handshake::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The client has not read all of it yet.
    Waits,
    /// It has.
    Taken,
}

impl Handshake {
    /// Sends what the socket takes.
    ///
    /// # Errors
    ///
    /// The client is gone, or, with `TOOMANYREFS`, others have not read so much yet that no
    /// descriptor more may be on its way.
    pub(super) fn advance(
        &mut self,
        socket: BorrowedFd<'_>,
        region: &OwnedFd,
        kicks: &[OwnedFd],
        calls: &[OwnedFd],
    ) -> Result<Progress, Errno> {
        while let Some((value, with)) = message(self.sent, kicks.len(), calls.len()) {
            let fd = match with {
                With::Nothing => None,
                With::Kick(ring) => Some(kicks[ring].as_fd()),
                With::Region => Some(region.as_fd()),
                With::Call(call) => Some(calls[call].as_fd()),
            };
            match send(socket, value, fd) {
                Ok(()) => self.sent += 1,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Progress::Waits),
                Err(errno) => return Err(errno),
            }
        }
        Ok(match unread(socket)? {
            0 => Progress::Taken,
            _ => Progress::Waits,
        })
    }
}

/// Sends a message; all of it, or nothing.
fn send(socket: BorrowedFd<'_>, value: i64, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = value.to_le_bytes();
    let fds = fd.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
    // The kernel has room for a message, or has not: a page holds many of them.
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// Bytes of memory that what the client has not read takes up.
fn unread(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    /// Less than any message takes. The kernel counts one byte more for a moment, while it
    /// tells that a message was read.
    const NONE: i32 = 64;
    let mut bytes = 0i32;
    // SAFETY: SIOCOUTQ writes an int to where its argument points.
    unsafe { raw::ioctl(socket, SIOCOUTQ, (&raw mut bytes).expose_provenance()) }?;
    Ok(if bytes < NONE { 0 } else { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{event_fd, sealed_memfd};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_messages_are_those_of_the_header() {
        let all: Vec<_> = (0..).map_while(|number| message(number, 3, 2)).collect();
        assert_eq!(
            all,
            [
                (0, With::Nothing),
                (1, With::Nothing),
                (0, With::Kick(0)),
                (0, With::Kick(1)),
                (0, With::Kick(2)),
                (-1, With::Region),
                (1, With::Call(0)),
                (1, With::Call(1)),
            ]
        );
    }

    #[test]
    fn it_is_known_when_all_is_read() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let region = sealed_memfd(4096).unwrap();
        let kicks: Vec<_> = (0..65).map(|_| event_fd().unwrap()).collect();
        let calls: Vec<_> = (0..65).map(|_| event_fd().unwrap()).collect();
        let mut handshake = Handshake::default();
        let mut advance = || handshake.advance(server.as_fd(), &region, &kicks, &calls);
        assert_eq!(advance(), Ok(Progress::Waits));
        let mut bytes = [0; 8 * (65 + 65 + 3)];
        let (most, last) = bytes.split_at_mut(8 * 132);
        let mut read = 0;
        while read < most.len() {
            read += client.read(&mut most[read..]).unwrap();
            assert_eq!(advance(), Ok(Progress::Waits));
        }
        client.read_exact(last).unwrap();
        assert_eq!(advance(), Ok(Progress::Taken));
        drop(client);
        let mut again = Handshake::default();
        assert_eq!(
            again.advance(server.as_fd(), &region, &kicks, &calls),
            Err(Errno::PIPE)
        );
    }
}
