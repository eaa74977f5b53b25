// SPDX-License-Identifier: MIT OR Apache-2.0

//! The VMM's side: the open file, the eventfds and the region of a VM, with its guest.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use stopwatch::host::{event_fd, map_region, sealed_memfd, Control, Geometry, VmInfo, DEVICE};
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::request_ring::Token;
use stopwatch_protocol::slot::{Creation, Message, Reply, Status};
use stopwatch_uapi as uapi;

use super::Guest;

/// So many eventfds.
pub fn event_fds(count: u32) -> Vec<OwnedFd> {
    (0..count).map(|_| event_fd().unwrap()).collect()
}

/// All the pieces of a VM, each to be dropped when it suits the test.
pub struct Vm {
    /// The open file.
    pub control: Control,
    /// The region's memfd.
    pub memfd: OwnedFd,
    /// The doorbells, by ring.
    pub kicks: Vec<OwnedFd>,
    /// The calls, by ring.
    pub calls: Vec<OwnedFd>,
    /// The mapping.
    pub guest: Guest,
}

/// Opens the control device.
pub fn control() -> Control {
    Control::open(DEVICE).expect("the host module is loaded")
}

/// 8 stopwatches, 2 rings and small ring sizes.
pub const SMALL: Geometry = Geometry {
    stopwatches: 8,
    rings: 2,
    ring_slots: 8,
    event_slots: 8,
};

impl Vm {
    /// A VM that is set up, but not started.
    pub fn stopped(geometry: Geometry) -> Self {
        Self::of(control(), geometry)
    }

    /// Makes a VM of an open file, with eventfds of its own.
    pub fn of(control: Control, geometry: Geometry) -> Self {
        let (kicks, calls) = (event_fds(geometry.rings), event_fds(geometry.rings));
        Self::with_eventfds(control, geometry, kicks, calls)
    }

    /// Makes a VM of an open file and eventfds.
    pub fn with_eventfds(
        control: Control,
        geometry: Geometry,
        kicks: Vec<OwnedFd>,
        calls: Vec<OwnedFd>,
    ) -> Self {
        let size = control.set_geometry(geometry).unwrap();
        let memfd = sealed_memfd(size.into()).unwrap();
        control.set_region(&memfd).unwrap();
        for (ring, kick) in (0..).zip(&kicks) {
            control.set_kick(ring, kick).unwrap();
        }
        for (ring, call) in (0..).zip(&calls) {
            control.set_call(ring, call).unwrap();
        }
        let guest = Guest::new(map_region(&memfd, size).unwrap());
        Self {
            control,
            memfd,
            kicks,
            calls,
            guest,
        }
    }

    /// A started VM, as a guest finds it: no feature is on.
    pub fn new(geometry: Geometry) -> Self {
        let vm = Self::stopped(geometry);
        vm.control.start().unwrap();
        vm
    }

    /// A started VM whose guest has turned timeouts on.
    pub fn with_timeouts(geometry: Geometry) -> Self {
        let mut vm = Self::new(geometry);
        vm.turn_on_timeouts();
        vm
    }

    /// SET_FEATURES.
    pub fn turn_on_timeouts(&mut self) {
        self.ok(
            uapi::STOPWATCH_OP_SET_FEATURES,
            0,
            uapi::STOPWATCH_F_TIMEOUT as u64,
        );
    }

    /// Rings a doorbell.
    pub fn kick(&self, ring: u32) {
        kick(&self.kicks[ring as usize]);
    }

    /// One request and its reply, which has to be there when the doorbell's
    /// write returns.
    pub fn command(&mut self, ring: u32, op: u32, watch: u32, arg: u64) -> Reply {
        let token = self
            .guest
            .post(ring, op, watch, arg)
            .expect("the ring is not full");
        self.answer(ring, token)
    }

    /// A request of any kind on ring 0, and its reply.
    pub fn ask(&mut self, request: impl Into<Message>) -> Reply {
        let token = self
            .guest
            .post_any(0, request)
            .expect("the ring is not full");
        self.answer(0, token)
    }

    /// A new stopwatch. The task that kicks finds memory for it, if the host needs
    /// some, before the doorbell's write returns.
    pub fn create(&mut self, creation: Creation) -> Reply {
        let token = self
            .guest
            .post_any(0, creation)
            .expect("the ring is not full");
        self.answer(0, token)
    }

    fn answer(&mut self, ring: u32, token: Token) -> Reply {
        self.kick(ring);
        self.guest
            .poll(ring, token)
            .expect("the answer is in the slot when the write to the doorbell returns")
    }

    /// A request on ring 0 that has to be answered with [`Status::Ok`].
    pub fn ok(&mut self, op: u32, watch: u32, arg: u64) -> Reading {
        let reply = self.command(0, op, watch, arg);
        assert_eq!(
            reply.status,
            Ok(Status::Ok),
            "operation {op} of stopwatch {watch}"
        );
        reply.reading
    }

    /// Makes stopwatches without a name until there is one of every number.
    pub fn create_all(&mut self) {
        for watch in uapi::STOPWATCH_NUMBERED..self.guest.layout.geometry().stopwatches {
            let made = self.create(Creation::default());
            assert_eq!((made.status, made.watch), (Ok(Status::Ok), watch));
        }
    }

    /// A request on ring 0 that has to be answered with `status`.
    pub fn refused(&mut self, op: u32, watch: u32, arg: u64, status: Status) -> Reading {
        let reply = self.command(0, op, watch, arg);
        assert_eq!(
            reply.status,
            Ok(status),
            "operation {op} of stopwatch {watch}, {arg}"
        );
        reply.reading
    }

    /// The VM, as GET_VM tells.
    pub fn info(&self) -> VmInfo {
        self.control.this_vm().unwrap().expect("this is a VM")
    }

    /// Waits for the call of ring 0; `None` if none came within `limit`.
    pub fn called(&self, limit: Duration) -> Option<u64> {
        self.called_for(0, limit)
    }

    /// Waits for the call of a ring; `None` if none came within `limit`. How often it
    /// came.
    pub fn called_for(&self, ring: u32, limit: Duration) -> Option<u64> {
        let call = &self.calls[ring as usize];
        let mut fds = [PollFd::new(call, PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap();
        if poll(&mut fds, Some(&limit)).unwrap() == 0 {
            return None;
        }
        let mut count = [0; 8];
        rustix::io::read(call, &mut count).unwrap();
        Some(u64::from_ne_bytes(count))
    }
}

/// Rings the doorbell behind an eventfd.
pub fn kick(eventfd: impl AsFd) {
    rustix::io::write(eventfd, &1u64.to_ne_bytes()).expect("the eventfd has room");
}
