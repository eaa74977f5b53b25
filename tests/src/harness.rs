// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM without a VMM: one process that plays VMM and guest on the memfd. A
//! doorbell is a write to its eventfd, as KVM's ioeventfd does it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use stopwatch::host::{event_fd, sealed_memfd, Control, Geometry, VmInfo, DEVICE};
use stopwatch::raw;
use stopwatch_protocol::event_ring::EventRing;
use stopwatch_protocol::layout::{InfoWords, Layout};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::request_ring::{RequestRing, Token};
use stopwatch_protocol::slot::{Creation, Event, Message, Reply, Request, Status};
use stopwatch_protocol::state::State;
use stopwatch_uapi as uapi;

/// The words of a slot.
pub type SlotWords = [u64; 8];

/// A mapping of a region, of all of it.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping belongs to the process, and is only accessed by atomics.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `size` bytes of a memfd.
    pub fn map(memfd: impl AsFd, size: u32) -> Self {
        let size = size as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                protection,
                MapFlags::SHARED,
                memfd,
                0,
            )
        };
        let base = base.expect("the memfd can be mapped").cast();
        Self {
            base: NonNull::new(base).expect("not at address zero"),
            size,
        }
    }

    fn word(&self, offset: u32) -> &AtomicU64 {
        let offset = offset as usize;
        assert!(
            offset % 8 == 0 && offset + 8 <= self.size,
            "offset {offset}"
        );
        // SAFETY: within the mapping, which lives as long as self; aligned, as
        // a mapping starts at a page. Everybody writes whole words here.
        unsafe { self.base.add(offset).cast::<AtomicU64>().as_ref() }
    }

    /// Where the word at `offset` is, for a system call that takes it for an argument.
    pub fn address(&self, offset: u32) -> usize {
        std::ptr::from_ref(self.word(offset)).expose_provenance()
    }

    /// The words of the slot at `offset`, the owner first.
    pub fn slot(&self, offset: u32) -> SlotWords {
        let mut words = [0; 8];
        for (index, word) in (0..).zip(&mut words) {
            *word = self.load_acquire(offset + 8 * index);
        }
        words
    }

    /// Writes a slot, the owner last.
    pub fn set_slot(&self, offset: u32, words: SlotWords) {
        for (index, &word) in (0..).zip(&words).skip(1) {
            self.store(offset + 8 * index, word);
        }
        self.store_release(offset, words[0]);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nobody borrows from it any more.
        unsafe { munmap(self.base.as_ptr().cast(), self.size) }.expect("a mapping can be unmapped");
    }
}

impl Memory for Region {
    fn load(&self, offset: u32) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    fn load_acquire(&self, offset: u32) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store(&self, offset: u32, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    fn store_release(&self, offset: u32, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        self.word(offset)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    fn fence_release(&self) {
        fence(Ordering::Release);
    }
}

/// A request as a guest with no manners may write it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawRequest {
    /// Ownership bits.
    pub owner: u16,
    /// `STOPWATCH_OP_*`.
    pub op: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// Should be zero.
    pub flags: u32,
    /// Should be zero.
    pub status: u32,
    /// As the operation says.
    pub arg: u64,
    /// Should be zero.
    pub reserved: [u64; 5],
}

impl RawRequest {
    /// The words of the slot.
    pub fn words(self) -> SlotWords {
        let [a, b, c, d, e] = self.reserved;
        let head =
            u64::from(self.owner) | (u64::from(self.op) << 16) | (u64::from(self.watch) << 32);
        let second = u64::from(self.flags) | (u64::from(self.status) << 32);
        [head, second, self.arg, a, b, c, d, e]
    }
}

/// Owner and status of a slot that the host completed.
pub fn owner_and_status(words: SlotWords) -> (u16, u32) {
    (words[0] as u16, (words[1] >> 32) as u32)
}

/// The guest's side: the region and the rings in it.
pub struct Guest {
    /// The region.
    pub region: Region,
    /// Where everything lies, by `struct stopwatch_info`.
    pub layout: Layout,
    /// The features that the host offers.
    pub offered: u64,
    rings: Vec<RequestRing>,
    events: EventRing,
    /// Of the last request that takes one.
    ticket: u64,
}

impl Guest {
    /// Finds out about the region as a driver would, from its first page.
    pub fn new(region: Region) -> Self {
        let mut info = InfoWords::default();
        for (index, word) in (0..).zip(&mut info) {
            *word = region.load(8 * index);
        }
        let (layout, offered) = Layout::from_info(&info).expect("the info page describes a device");
        let (rings, events) = Self::rings(&layout);
        Self {
            region,
            layout,
            offered,
            rings,
            events,
            ticket: 0,
        }
    }

    fn rings(layout: &Layout) -> (Vec<RequestRing>, EventRing) {
        let rings = (0..layout.geometry().rings)
            .map(|ring| RequestRing::new(layout.ring(ring).expect("of the geometry")))
            .collect();
        (rings, EventRing::new(layout.events()))
    }

    /// Begins with empty rings, as after a reset of the device.
    pub fn forget(&mut self) {
        (self.rings, self.events) = Self::rings(&self.layout);
    }

    /// Posts a request, with the next ticket if it takes one; `None` if the ring is full.
    pub fn post(&mut self, ring: u32, op: u32, watch: u32, arg: u64) -> Option<Token> {
        let mut request = Request {
            op: op.try_into().expect("an operation has 16 bits"),
            watch,
            arg,
            ..Request::default()
        };
        if matches!(op, uapi::STOPWATCH_OP_BIND | uapi::STOPWATCH_OP_UNBIND) {
            self.ticket += 1;
            request.interval = self.ticket;
        }
        self.post_any(ring, request)
    }

    /// Posts what `post()` has no words for.
    pub fn post_any(&mut self, ring: u32, request: impl Into<Message>) -> Option<Token> {
        self.rings[ring as usize].post(&self.region, request)
    }

    /// Takes a reply, if it is there.
    pub fn poll(&mut self, ring: u32, token: Token) -> Option<Reply> {
        self.rings[ring as usize].poll(&self.region, token)
    }

    /// Takes an event, if there is one.
    pub fn event(&mut self) -> Option<Event> {
        self.events.next(&self.region)
    }

    /// Reads a record, as often as it takes.
    pub fn record(&self, watch: u32) -> Record {
        let offset = self.layout.record(watch).expect("a stopwatch of this VM");
        loop {
            if let Some(record) = Record::read(&self.region, offset) {
                return record;
            }
        }
    }

    /// The published laps from `first` on, as many as `into` has room for.
    pub fn laps(&self, watch: u32, first: u32, into: &mut [u64]) -> Laps {
        loop {
            if let Some(laps) = Laps::read(&self.region, &self.layout, watch, Some(first), into) {
                return laps;
            }
        }
    }

    /// The counters of events.
    pub fn state(&self) -> State {
        State::read(&self.region, &self.layout)
    }

    /// `vmm_status` and `reset_generation`, as the host published them.
    pub fn vmm_state(&self) -> (u32, u32) {
        let offset = std::mem::offset_of!(uapi::stopwatch_state, vmm_status) as u32;
        let word = self.region.load(self.layout.state() + offset);
        (word as u32, (word >> 32) as u32)
    }

    /// The VMM's part: says `status` and `reset_generation` in the VMM page.
    pub fn set_vmm(&self, status: u32, reset_generation: u32) {
        let word = u64::from(status) | (u64::from(reset_generation) << 32);
        self.region.store_release(uapi::STOPWATCH_VMM_OFFSET, word);
    }
}

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
        let guest = Guest::new(Region::map(&memfd, size));
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

/// The argument of an ioctl, as bytes: a struct and then zeros, with room for
/// whatever the struct says of its size.
#[derive(Clone)]
pub struct Argument(Vec<u8>);

impl Argument {
    const ROOM: usize = 16 << 10;

    /// A struct that begins with its size, which is filled in.
    pub fn new<T: Copy>(value: &T) -> Self {
        let size = size_of::<T>();
        // SAFETY: the structs of include/uapi have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size) };
        let mut bytes: Vec<u8> = <[u8]>::to_vec(bytes);
        bytes.resize(Self::ROOM, 0);
        Self(bytes).with_u32(0, size as u32)
    }

    /// With another field.
    pub fn with_u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// With another size.
    pub fn with_size(self, size: usize) -> Self {
        assert!(size <= Self::ROOM);
        self.with_u32(0, size as u32)
    }

    /// Makes the call.
    pub fn call(&mut self, fd: impl AsFd, number: u32) -> Result<(), Errno> {
        let argument = self.0.as_mut_ptr();
        // SAFETY: the kernel keeps to the size in the first field, and the
        // buffer has room for all that it can be set to.
        unsafe { raw::ioctl(fd, number, argument.expose_provenance()) }
    }

    /// What the kernel left in a struct of integers.
    pub fn value<T: Copy>(&self) -> T {
        assert!(size_of::<T>() <= self.0.len());
        // SAFETY: the structs of include/uapi are integers, and arrays of them.
        unsafe { self.0.as_ptr().cast::<T>().read_unaligned() }
    }

    /// The bytes, to look at what the kernel wrote.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An ioctl with an argument that is no address.
pub fn ioctl(fd: impl AsFd, number: u32, argument: usize) -> Result<(), Errno> {
    assert!(
        argument == 0 || Region::is_bad_address(argument),
        "{argument:#x}"
    );
    // SAFETY: nothing of this process is there.
    unsafe { raw::ioctl(fd, number, argument) }
}

impl Region {
    /// Whether nothing can be mapped there: the first page, or the kernel's half.
    fn is_bad_address(address: usize) -> bool {
        address < 4096 || address > isize::MAX as usize
    }
}

/// The node, open for reading and writing, without asking it anything.
pub fn open_node() -> File {
    File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .expect("the host module is loaded")
}
