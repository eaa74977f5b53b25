// SPDX-License-Identifier: MIT OR Apache-2.0

//! A client that does what QEMU's `ivshmem-doorbell` does, and a guest behind it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::fstat;
use rustix::io::{read, write};
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use stopwatch::host::{map_region, Region};
use stopwatch_protocol::event_ring::EventRing;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{Message, Reply, Request, Status};
use stopwatch_protocol::state;
use stopwatch_uapi as uapi;

/// Nothing here takes nearly as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A message of the server.
pub(crate) fn message(socket: &UnixStream) -> io::Result<(i64, Option<OwnedFd>)> {
    let mut bytes = [0; 8];
    let mut got = 0;
    let mut fd = None;
    while got < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes[got..])],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got += received.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fd.or(fds.into_iter().next());
            }
        }
    }
    Ok((i64::from_le_bytes(bytes), fd))
}

/// What such a QEMU has.
pub(crate) struct Qemu {
    pub(crate) socket: UnixStream,
    pub(crate) id: i64,
    /// By vector, of the host's peer.
    pub(crate) doorbells: Vec<OwnedFd>,
    pub(crate) memory: OwnedFd,
    pub(crate) size: u32,
    /// BAR2, all of it.
    pub(crate) bar2: Region,
    pub(crate) layout: Layout,
    pub(crate) features: u64,
    pub(crate) calls: Vec<OwnedFd>,
}

impl Qemu {
    /// Connects, as `realize` does.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Self::realize(socket)
    }

    pub(crate) fn realize(socket: UnixStream) -> io::Result<Self> {
        assert_eq!(message(&socket)?.0, 0, "the version of the protocol");
        let (id, fd) = message(&socket)?;
        assert!(fd.is_none(), "nothing goes with the client's id");
        let mut doorbells = Vec::new();
        let memory = loop {
            match message(&socket)? {
                (-1, Some(memory)) => break memory,
                (0, Some(doorbell)) => doorbells.push(doorbell),
                other => panic!("unexpected before the memory: {other:?}"),
            }
        };
        let size = u32::try_from(fstat(&memory)?.st_size).unwrap();
        let bar2 = map_region(&memory, size).unwrap();
        let mut info = [0; 16];
        bar2.load_all(0, &mut info);
        let (layout, features) = Layout::from_info(&info).unwrap();
        let mut calls = Vec::new();
        for _ in 0..=layout.geometry().rings {
            match message(&socket)? {
                (to, Some(call)) if to == id => calls.push(call),
                other => panic!("unexpected after the memory: {other:?}"),
            }
        }
        Ok(Self {
            socket,
            id,
            doorbells,
            memory,
            size,
            bar2,
            layout,
            features,
            calls,
        })
    }

    /// A store of that vector to BAR0's doorbell.
    pub(crate) fn ring(&self, vector: u32) {
        write(&self.doorbells[vector as usize], &1u64.to_ne_bytes()).unwrap();
    }

    pub(crate) fn reset_generation(&self) -> u32 {
        state::reset_generation(&self.bar2, &self.layout)
    }

    /// A driver that binds: resets the device, and waits for it.
    pub(crate) fn bind(&self) -> Guest<'_> {
        let before = self.reset_generation();
        self.ring(self.layout.geometry().rings);
        wait_for("a reset", || self.reset_generation() != before);
        Guest {
            qemu: self,
            rings: (0..self.layout.geometry().rings)
                .map(|ring| RequestRing::new(self.layout.ring(ring).unwrap()))
                .collect(),
            events: EventRing::new(self.layout.events()),
        }
    }

    /// Whether a call was made, within that time; it is taken.
    pub(crate) fn called(&self, call: usize, within: Duration) -> bool {
        let mut fds = [PollFd::new(&self.calls[call], PollFlags::IN)];
        let timeout = Timespec::try_from(within).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap() == 1 && read(&self.calls[call], &mut [0; 8]).is_ok()
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_dropped(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec::try_from(PATIENCE).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap() == 1
            && !matches!(read(self.socket.as_fd(), &mut [0; 8]), Ok(1..))
    }
}

/// A driver, bound.
pub(crate) struct Guest<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) rings: Vec<RequestRing>,
    pub(crate) events: EventRing,
}

impl Guest<'_> {
    /// A call that may be refused.
    pub(crate) fn ask(&mut self, ring: u32, message: impl Into<Message>) -> Reply {
        let end = &mut self.rings[ring as usize];
        let token = end.post(&self.qemu.bar2, message).expect("there is room");
        self.qemu.ring(ring);
        let mut reply = None;
        wait_for("a reply", || {
            reply = end.poll(&self.qemu.bar2, token);
            reply.is_some()
        });
        reply.unwrap()
    }

    /// A call that is good.
    pub(crate) fn call(&mut self, ring: u32, message: impl Into<Message>) -> Reply {
        let reply = self.ask(ring, message);
        assert_eq!(reply.status, Ok(Status::Ok), "{reply:?}");
        reply
    }

    pub(crate) fn turn_on(&mut self, features: u64) {
        self.call(0, request(uapi::STOPWATCH_OP_SET_FEATURES, 0, features));
    }
}

/// A request that takes no more than that.
pub(crate) fn request(op: u32, watch: u32, arg: u64) -> Request {
    Request {
        op: op.try_into().unwrap(),
        watch,
        arg,
        ..Request::default()
    }
}

/// Waits until it is so.
pub(crate) fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    let mut nap = Duration::from_micros(20);
    while !is() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(5));
    }
}
