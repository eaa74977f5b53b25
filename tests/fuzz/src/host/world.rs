// SPDX-License-Identifier: MIT OR Apache-2.0

//! The objects of a run: open files, memfds and their mappings, eventfds, an epoll, an
//! io_uring and a pair of sockets.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::IoUring;
use rustix::event::{epoll, eventfd, EventfdFlags};
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};
use stopwatch::host::{map_region, Region};
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::request_ring::RequestRing;

use crate::feedback::call;
use crate::process::Process;
use crate::syscalls::{SEAL, URING};

pub(crate) const FILES: usize = 3;
pub(crate) const MEMFDS: usize = 3;
pub(crate) const EVENTS: usize = 12;

/// A memfd, and what a guest would have of it.
pub(crate) struct Memfd {
    pub(crate) fd: OwnedFd,
    pub(crate) size: u32,
    pub(crate) mapping: Option<(Arc<Region>, Layout, Vec<RequestRing>)>,
}

pub(crate) struct World<'a> {
    pub(crate) process: &'a Process,
    pub(crate) files: [Option<File>; FILES],
    pub(crate) sizes: [Option<Geometry>; FILES],
    pub(crate) memfds: [Option<Memfd>; MEMFDS],
    pub(crate) events: [Option<Arc<OwnedFd>>; EVENTS],
    pub(crate) epoll: OwnedFd,
    pub(crate) ring: IoUring,
    pub(crate) outstanding: u32,
    pub(crate) sockets: (OwnedFd, OwnedFd),
    pub(crate) ticket: u64,
    /// The newest VM that was seen.
    pub(crate) newest: u64,
}

pub(crate) fn new_event(value: u32, flags: EventfdFlags) -> Arc<OwnedFd> {
    let fd = eventfd(
        value,
        flags | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
    );
    Arc::new(fd.expect("an eventfd"))
}

impl<'a> World<'a> {
    pub(crate) fn new(process: &'a Process) -> Self {
        let sockets = socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::NONBLOCK,
            None,
        );
        Self {
            process,
            files: Default::default(),
            sizes: [None; FILES],
            memfds: Default::default(),
            events: std::array::from_fn(|_| Some(new_event(0, EventfdFlags::empty()))),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll"),
            ring: IoUring::new(8).expect("an io_uring"),
            outstanding: 0,
            sockets: sockets.expect("sockets"),
            ticket: 0,
            newest: 0,
        }
    }

    pub(crate) fn event(&self, event: u8) -> Option<&Arc<OwnedFd>> {
        self.events[usize::from(event) % EVENTS].as_ref()
    }

    /// A descriptor for an ioctl that takes one: an event's, mostly.
    pub(crate) fn event_number(&self, event: u8) -> i32 {
        match event {
            200..=219 => self.memfds[0]
                .as_ref()
                .map_or(-1, |memfd| memfd.fd.as_raw_fd()),
            220..=239 => self.files[0].as_ref().map_or(-1, |file| file.as_raw_fd()),
            240..=250 => self.epoll.as_raw_fd(),
            251.. => i32::from(event) - 256,
            _ => self.event(event).map_or(-1, |event| event.as_raw_fd()),
        }
    }

    pub(crate) fn memfd(&self, memfd: u8) -> Option<&Memfd> {
        self.memfds[usize::from(memfd) % MEMFDS].as_ref()
    }

    pub(crate) fn region(&self, memfd: u8) -> Option<(&Arc<Region>, &Layout)> {
        let mapping = self.memfd(memfd)?.mapping.as_ref()?;
        Some((&mapping.0, &mapping.1))
    }

    pub(crate) fn vm(&self, back: u8) -> u64 {
        self.newest.saturating_sub(u64::from(back % 4))
    }

    pub(crate) fn new_memfd(
        &mut self,
        memfd: u8,
        geometry: Option<Geometry>,
        size: u32,
        seals: SealFlags,
    ) {
        let fd =
            memfd_create("fuzz", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&fd, size.into()).expect("it has a size");
        let layout = geometry.and_then(|geometry| Layout::new(geometry).ok());
        let mapping = layout
            .filter(|layout| layout.region_size() <= size && !seals.contains(SealFlags::WRITE))
            .map(|layout| {
                let rings = (0..layout.geometry().rings)
                    .map(|ring| RequestRing::new(layout.ring(ring).expect("of the geometry")))
                    .collect();
                (Arc::new(map_region(&fd, size).unwrap()), layout, rings)
            });
        call(SEAL, || fcntl_add_seals(&fd, seals));
        self.memfds[usize::from(memfd) % MEMFDS] = Some(Memfd { fd, size, mapping });
    }

    pub(crate) fn write_to_region(&self, memfd: u8, write: impl FnOnce(&Region, &Layout)) {
        if let Some((region, layout)) = self.region(memfd) {
            write(region, layout);
        }
    }

    /// Closes everything.
    pub(crate) fn end(mut self) {
        self.process.rest();
        while self.outstanding != 0 {
            let ring = &self.ring;
            call(URING, || {
                ring.submit_and_wait(1)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            });
            self.reap();
        }
    }
}
