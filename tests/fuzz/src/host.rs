// SPDX-License-Identifier: MIT OR Apache-2.0

//! The loaded host module, by all that a program on the host may do with it: its
//! ioctls, with any field; eventfds, memfds, epoll and io_uring; files that are
//! duplicated, in flight in a socket, closed and used again; and a region that another
//! thread writes to meanwhile. A doorbell is a write to its eventfd, whose service is
//! done in this thread, so that KCOV notes it.
//!
//! What is checked, besides that calls return in time: the kernel's log has no trouble;
//! no VM outlives its files; no page stays locked.

#![no_main]

mod feedback;

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use io_uring::{opcode, squeue, types, IoUring};
use libfuzzer_sys::fuzz_target;
use rustix::event::{epoll, eventfd, EventfdFlags, Timespec};
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{mmap_anonymous, mprotect, MapFlags, MprotectFlags, ProtFlags};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
use stopwatch::raw;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::Request;
use stopwatch_tests::harness::{control, open_node, RawRequest, Region};
use stopwatch_tests::kmsg;
use stopwatch_uapi as uapi;

use feedback::call;

const FILES: usize = 3;
const MEMFDS: usize = 3;
const EVENTS: usize = 12;

/// Numbers of calls that are no ioctls.
const WRITE: u32 = 1;
const READ: u32 = 2;
const EPOLL: u32 = 3;
const URING: u32 = 4;
const SEAL: u32 = 5;
const TRUNCATE: u32 = 6;
const SEND: u32 = 7;
const RECEIVE: u32 = 8;

/// Where the argument of an ioctl lies.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Memory,
    /// So many bytes before the end of what is mapped.
    Edge(u8),
    /// In a region, which somebody may write to.
    Region {
        memfd: u8,
        offset: u16,
    },
    Nowhere,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    /// A VM that is complete, started, and has its features on.
    SetUp {
        file: u8,
        memfd: u8,
        events: u8,
        rings: u8,
        watches: u8,
    },
    Open {
        file: u8,
    },
    Close {
        file: u8,
    },
    Duplicate {
        from: u8,
        to: u8,
    },
    /// Into a socket, where it stays until somebody receives it.
    Send {
        file: u8,
        close: bool,
    },
    Receive {
        file: u8,
    },
    NewEvent {
        event: u8,
        value: u8,
        semaphore: bool,
    },
    CloseEvent {
        event: u8,
        by_ring: bool,
    },
    NewMemfd {
        memfd: u8,
        like: u8,
        more: i8,
        seals: u8,
        pages: u16,
    },
    CloseMemfd {
        memfd: u8,
    },
    Seal {
        memfd: u8,
        seals: u8,
    },
    Grow {
        memfd: u8,
        bytes: u16,
    },
    Geometry {
        file: u8,
        watches: u16,
        rings: u8,
        slots: u8,
        events: u8,
        exact: bool,
    },
    Features {
        file: u8,
        set: bool,
        features: u8,
    },
    Policy {
        file: u8,
        flags: u8,
        interval: u32,
    },
    Name {
        file: u8,
        name: [u8; 6],
    },
    SetRegion {
        file: u8,
        memfd: u8,
        index: u8,
    },
    SetKick {
        file: u8,
        ring: u8,
        event: u8,
    },
    SetCall {
        file: u8,
        ring: u8,
        event: u8,
    },
    Start {
        file: u8,
    },
    Stop {
        file: u8,
    },
    GetVm {
        file: u8,
        flags: u8,
        vm: u8,
    },
    /// By the host; `vm` counts from the newest back.
    Command {
        file: u8,
        vm: u8,
        op: u8,
        watch: u8,
        flags: u8,
        clock: u8,
        mode: u8,
        name: Option<u8>,
    },
    Describe {
        file: u8,
        vm: u8,
        watch: u8,
        flags: u8,
    },
    Laps {
        file: u8,
        vm: u8,
        watch: u8,
        first: u8,
        room: u16,
        place: u8,
    },
    /// Any ioctl, with any size and any words.
    Ioctl {
        file: u8,
        number: u8,
        size: u16,
        words: [u32; 6],
        place: Place,
    },
    /// Rings a doorbell, or whatever the eventfd is.
    Kick {
        event: u8,
        value: u8,
    },
    /// The same by a thread that ends at once.
    KickByThread {
        event: u8,
    },
    /// The same by io_uring, perhaps by a thread of the kernel.
    KickByRing {
        event: u8,
        later: bool,
    },
    ReadEvent {
        event: u8,
    },
    Epoll {
        event: u8,
        add: bool,
    },
    Wait {
        ms: u8,
    },
    /// A request in the slot that is due, and the doorbell of its ring.
    Ask {
        memfd: u8,
        ring: u8,
        op: u8,
        watch: u8,
        flags: u8,
        arg: u32,
        interval: u32,
        event: u8,
    },
    /// A request in any slot.
    Request {
        memfd: u8,
        ring: u8,
        slot: u8,
        owner: u8,
        op: u8,
        watch: u8,
        flags: u16,
        arg: u64,
        interval: u32,
        stamp: u32,
    },
    /// Posts in the next slots that the host will take of a post ring.
    Refill {
        memfd: u8,
        ring: u8,
        posts: u8,
        op: u8,
        stamp: u32,
    },
    Vmm {
        memfd: u8,
        status: u8,
        generation: u8,
    },
    Word {
        memfd: u8,
        index: u32,
        value: u64,
    },
    /// From now on somebody else writes to the region, or rings a doorbell.
    Beside {
        memfd: u8,
        event: u8,
        kicks: bool,
        seed: u32,
    },
}

/// A memfd, and what a guest would have of it.
struct Memfd {
    fd: OwnedFd,
    size: u32,
    mapping: Option<(Arc<Region>, Layout, Vec<RequestRing>)>,
}

/// What another thread does, until it is stopped.
enum Beside {
    Write(Arc<Region>, Layout, u32),
    Kick(Arc<OwnedFd>),
    /// Says when it is here.
    Rest(Sender<()>),
}

static STOP: AtomicBool = AtomicBool::new(false);

fn be_beside(jobs: &Receiver<Beside>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Beside::Write(region, layout, seed) => {
                let mut random = u64::from(seed) | 1;
                let words = layout.region_size() / 8;
                // A part of the region, in which it hits more often.
                let first = seed % words;
                let some = 1 + (seed >> 16) % words;
                while !STOP.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let word = (first + (random >> 32) as u32 % some) % words;
                        let small = random >> (random % 64);
                        region.store(word * 8, small);
                    }
                    thread::yield_now();
                }
            }
            Beside::Kick(event) => {
                while !STOP.load(Ordering::Relaxed) {
                    let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
                    let _ = rustix::io::read(&*event, &mut [0; 8]);
                    thread::yield_now();
                }
            }
            Beside::Rest(here) => {
                let _ = here.send(());
            }
        }
    }
}

/// Calls, as many as the input has bytes for: a `Vec` would end at each element with a
/// probability of one half.
#[derive(Clone, Debug)]
struct Calls(Vec<Call>);

impl<'a> Arbitrary<'a> for Calls {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut calls = Vec::new();
        while !input.is_empty() && calls.len() < 48 {
            calls.push(Call::arbitrary(input)?);
        }
        Ok(Self(calls))
    }
}

/// What stays from run to run.
struct Process {
    log: kmsg::Cursor,
    beside: Sender<Beside>,
    /// Three pages, of which the last cannot be accessed.
    argument: usize,
    runs: u64,
}

const PAGE: usize = 4096;

impl Process {
    fn new() -> Self {
        // The host stays up, whatever a policy allows.
        let mut capabilities_now = capabilities(None).expect("of this thread");
        for set in [
            &mut capabilities_now.effective,
            &mut capabilities_now.permitted,
        ] {
            set.remove(CapabilitySet::SYS_BOOT);
        }
        set_capabilities(None, capabilities_now).expect("fewer are allowed");
        let (beside, jobs) = channel();
        thread::spawn(move || be_beside(&jobs));
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let argument = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                3 * PAGE,
                protection,
                MapFlags::PRIVATE,
            )
        };
        let argument = argument.expect("three pages");
        // SAFETY: the last page of that mapping, in which nothing is.
        unsafe { mprotect(argument.byte_add(2 * PAGE), PAGE, MprotectFlags::empty()) }
            .expect("it can be protected");
        Self {
            log: kmsg::Cursor::now(),
            beside,
            argument: argument.expose_provenance(),
            runs: 0,
        }
    }
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

extern "C" fn at_exit() {
    feedback::tell();
}

unsafe extern "C" {
    safe fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
}

struct World<'a> {
    process: &'a Process,
    files: [Option<File>; FILES],
    sizes: [Option<Geometry>; FILES],
    memfds: [Option<Memfd>; MEMFDS],
    events: [Option<Arc<OwnedFd>>; EVENTS],
    epoll: OwnedFd,
    ring: IoUring,
    outstanding: u32,
    sockets: (OwnedFd, OwnedFd),
    ticket: u64,
    /// The newest VM that was seen.
    newest: u64,
}

/// A struct of include/uapi as bytes, its size filled in.
fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the structs of include/uapi have no padding.
    let bytes =
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) };
    let mut bytes: Vec<u8> = <[u8]>::to_vec(bytes);
    bytes[..4].copy_from_slice(&(size_of::<T>() as u32).to_ne_bytes());
    bytes
}

fn new_event(value: u32, flags: EventfdFlags) -> Arc<OwnedFd> {
    let fd = eventfd(
        value,
        flags | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
    );
    Arc::new(fd.expect("an eventfd"))
}

impl<'a> World<'a> {
    fn new(process: &'a Process) -> Self {
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

    fn event(&self, event: u8) -> Option<&Arc<OwnedFd>> {
        self.events[usize::from(event) % EVENTS].as_ref()
    }

    /// A descriptor for an ioctl that takes one: an event's, mostly.
    fn event_number(&self, event: u8) -> i32 {
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

    fn memfd(&self, memfd: u8) -> Option<&Memfd> {
        self.memfds[usize::from(memfd) % MEMFDS].as_ref()
    }

    fn region(&self, memfd: u8) -> Option<(&Arc<Region>, &Layout)> {
        let mapping = self.memfd(memfd)?.mapping.as_ref()?;
        Some((&mapping.0, &mapping.1))
    }

    /// An ioctl whose argument lies somewhere.
    fn ioctl(&self, file: u8, number: u32, bytes: &[u8], place: Place) -> Option<Vec<u8>> {
        let file = self.files[usize::from(file) % FILES].as_ref()?;
        let base = self.process.argument;
        let mut before_the_end = 2 * PAGE;
        let mut address = match place {
            Place::Memory => base,
            Place::Edge(before) => {
                before_the_end = usize::from(before);
                base + 2 * PAGE - before_the_end
            }
            Place::Region { memfd, offset } => {
                // Others may change the address that LAPS has in it.
                let region = self
                    .region(memfd)
                    .filter(|_| number != uapi::VHOST_STOPWATCH_LAPS);
                match region {
                    Some((region, layout)) => {
                        let words = layout.region_size() / 8 - 512;
                        let offset = u32::from(offset) % words * 8;
                        for (index, word) in (0..).zip(bytes.chunks_exact(8)) {
                            let word = word.try_into().expect("8 bytes");
                            region.store(offset + index * 8, u64::from_ne_bytes(word));
                        }
                        region.address(offset)
                    }
                    None => base,
                }
            }
            Place::Nowhere => 8,
        };
        if (base..base + 2 * PAGE).contains(&address) {
            let copied = bytes.len().min(before_the_end);
            // SAFETY: within the two pages, which nobody else has.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    std::ptr::with_exposed_provenance_mut(address),
                    copied,
                );
            }
        }
        // These take a number.
        if matches!(
            number,
            uapi::VHOST_STOPWATCH_START | uapi::VHOST_STOPWATCH_STOP
        ) {
            address = usize::from(bytes.len() > 8);
        }
        call(number, || {
            // SAFETY: the kernel writes to the argument no more than the caller's size,
            // and no more than its own struct: less than what is there of the two
            // pages and of the region, or it fails at the third page. LAPS also writes
            // to an array, which `laps()` and `any_ioctl()` choose.
            unsafe { raw::ioctl(file, number, address) }
        })?;
        let size = bytes.len().min(2 * PAGE);
        let mut back = vec![0; size];
        if address == base {
            // SAFETY: as above.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    std::ptr::with_exposed_provenance(base),
                    back.as_mut_ptr(),
                    size,
                );
            }
        }
        Some(back)
    }

    fn tell<T: Copy>(&self, file: u8, number: u32, argument: T) -> Option<Vec<u8>> {
        self.ioctl(file, number, &bytes_of(&argument), Place::Memory)
    }

    fn set_fd(&self, file: u8, number: u32, index: u32, fd: i32) {
        let argument = uapi::vhost_stopwatch_fd {
            index,
            fd,
            ..Default::default()
        };
        self.tell(file, number, argument);
    }

    fn set_geometry(&mut self, file: u8, geometry: Geometry) -> Option<u32> {
        let argument = uapi::vhost_stopwatch_geometry {
            stopwatches: geometry.stopwatches,
            rings: geometry.rings,
            ring_slots: geometry.ring_slots,
            event_slots: geometry.event_slots,
            ..Default::default()
        };
        self.tell(file, uapi::VHOST_STOPWATCH_SET_GEOMETRY, argument)?;
        self.sizes[usize::from(file) % FILES] = Some(geometry);
        Layout::new(geometry)
            .map(|layout| layout.region_size())
            .ok()
    }

    fn new_memfd(&mut self, memfd: u8, geometry: Option<Geometry>, size: u32, seals: SealFlags) {
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
                (Arc::new(Region::map(&fd, size)), layout, rings)
            });
        call(SEAL, || fcntl_add_seals(&fd, seals));
        self.memfds[usize::from(memfd) % MEMFDS] = Some(Memfd { fd, size, mapping });
    }

    fn set_up(&mut self, file: u8, memfd: u8, events: u8, rings: u8, watches: u8) {
        let geometry = Geometry {
            stopwatches: u32::from(watches) + 1,
            rings: 1 + u32::from(rings) % 3,
            ring_slots: 8,
            event_slots: 8,
        };
        self.files[usize::from(file) % FILES] = Some(open_node());
        let policy = uapi::vhost_stopwatch_policy {
            flags: uapi::VHOST_STOPWATCH_ALLOW_HOST_TIME,
            min_interval_ns: uapi::VHOST_STOPWATCH_MIN_INTERVAL_NS.into(),
            ..Default::default()
        };
        self.tell(file, uapi::VHOST_STOPWATCH_SET_POLICY, policy);
        let Some(size) = self.set_geometry(file, geometry) else {
            return;
        };
        self.new_memfd(
            memfd,
            Some(geometry),
            size,
            SealFlags::SHRINK | SealFlags::GROW,
        );
        let region = self.memfd(memfd).expect("just made").fd.as_raw_fd();
        self.set_fd(file, uapi::VHOST_STOPWATCH_SET_REGION, 0, region);
        for ring in 0..geometry.rings {
            let event = |which: u32| (u32::from(events) + 2 * ring + which) as usize % EVENTS;
            for which in [0, 1] {
                self.events[event(which)] = Some(new_event(0, EventfdFlags::empty()));
            }
            let number = |which| {
                let event = self.events[event(which)].as_ref();
                event.expect("just made").as_raw_fd()
            };
            self.set_fd(file, uapi::VHOST_STOPWATCH_SET_KICK, ring, number(0));
            self.set_fd(file, uapi::VHOST_STOPWATCH_SET_CALL, ring, number(1));
        }
        self.ioctl(file, uapi::VHOST_STOPWATCH_START, &[], Place::Memory);
        self.get_vm(file, uapi::VHOST_STOPWATCH_VM_SELF, 0);
        // What a driver turns on first.
        let features = u64::from(uapi::STOPWATCH_F_TIMEOUT | uapi::STOPWATCH_F_POSTED);
        let on = Request {
            op: uapi::STOPWATCH_OP_SET_FEATURES as u16,
            arg: features,
            ..Request::default()
        };
        self.ask(memfd, 0, on, events);
        for ring in 0..2 {
            self.ticket += 1;
            let bind = Request {
                op: uapi::STOPWATCH_OP_BIND as u16,
                arg: ring,
                interval: self.ticket,
                ..Request::default()
            };
            self.ask(memfd, 0, bind, events);
        }
    }

    fn ask(&mut self, memfd: u8, ring: u8, request: Request, event: u8) {
        let event = self.event(event).cloned();
        let mapping = self.memfds[usize::from(memfd) % MEMFDS]
            .as_mut()
            .and_then(|memfd| memfd.mapping.as_mut());
        let Some((region, _, rings)) = mapping else {
            return;
        };
        let ring = usize::from(ring) % rings.len();
        let token = rings[ring].post(&**region, request);
        if let Some(event) = event {
            write_event(&event, 1);
        }
        if let Some(token) = token {
            let _ = rings[ring].poll(&**region, token);
        }
    }

    fn get_vm(&mut self, file: u8, flags: u32, vm: u64) {
        let argument = uapi::vhost_stopwatch_vm {
            flags,
            vm,
            ..Default::default()
        };
        if let Some(back) = self.tell(file, uapi::VHOST_STOPWATCH_GET_VM, argument) {
            let at = std::mem::offset_of!(uapi::vhost_stopwatch_vm, vm);
            let vm = u64::from_ne_bytes(back[at..at + 8].try_into().expect("8 bytes"));
            self.newest = self.newest.max(vm);
        }
    }

    fn vm(&self, back: u8) -> u64 {
        self.newest.saturating_sub(u64::from(back % 4))
    }

    /// Makes an io_uring operation, and waits for it unless `later`.
    fn by_ring(&mut self, entry: squeue::Entry, later: bool) {
        // SAFETY: the buffers of all operations are static, and io_uring holds the
        // files.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            return;
        }
        self.outstanding += 1;
        let wait = usize::from(!later);
        let ring = &self.ring;
        call(URING, || {
            ring.submit_and_wait(wait)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        });
        self.reap();
    }

    fn reap(&mut self) {
        for done in self.ring.completion() {
            self.outstanding -= 1;
            call(URING, || match done.result() {
                error @ ..0 => Err(Errno::from_raw_os_error(-error)),
                _ => Ok(()),
            });
        }
    }

    fn laps(&self, file: u8, vm: u64, watch: u32, first: u32, room: u16, place: u8) {
        let mut argument = uapi::vhost_stopwatch_laps {
            vm,
            ..Default::default()
        };
        let base = self.process.argument;
        argument.laps.watch = watch;
        argument.laps.first = first;
        argument.laps.count = room.into();
        argument.laps.laps = match place {
            0..=99 => base + PAGE,
            100..=199 => base + 2 * PAGE - usize::from(place - 100),
            200..=229 => 0,
            _ => 0xffff_8000_0000_0000,
        } as u64;
        self.tell(file, uapi::VHOST_STOPWATCH_LAPS, argument);
    }

    fn any_ioctl(&self, file: u8, number: u8, size: u16, words: [u32; 6], place: Place) {
        let number = match number {
            // All that there are, and a few more.
            0..=239 => uapi::VHOST_STOPWATCH_GET_FEATURES + u32::from(number) % 16,
            _ => words[0],
        };
        let size = size % PAGE as u16;
        let mut bytes = vec![0; usize::from(size).max(32)];
        for (into, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            into.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[..4].copy_from_slice(&u32::from(size).to_ne_bytes());
        let array = std::mem::offset_of!(uapi::vhost_stopwatch_laps, laps)
            + std::mem::offset_of!(uapi::stopwatch_laps, laps);
        if number == uapi::VHOST_STOPWATCH_LAPS && bytes.len() >= array + 8 {
            let address = (self.process.argument + PAGE) as u64;
            bytes[array..array + 8].copy_from_slice(&address.to_ne_bytes());
        }
        self.ioctl(file, number, &bytes, place);
    }

    fn send(&mut self, file: u8, close: bool) {
        let file = &mut self.files[usize::from(file) % FILES];
        let Some(sent) = file else { return };
        let fds: [BorrowedFd<'_>; 1] = [sent.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let text = [IoSlice::new(b"f")];
        call(SEND, || {
            sendmsg(&self.sockets.0, &text, &mut ancillary, SendFlags::empty())
        });
        if close {
            *file = None;
        }
    }

    fn receive(&mut self, file: u8) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut text = [IoSliceMut::new(&mut byte)];
        let received = call(RECEIVE, || {
            recvmsg(
                &self.sockets.1,
                &mut text,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        if received.is_none() {
            return;
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    self.files[usize::from(file) % FILES] = Some(fd.into());
                }
            }
        }
    }

    fn write_to_region(&self, memfd: u8, write: impl FnOnce(&Region, &Layout)) {
        if let Some((region, layout)) = self.region(memfd) {
            write(region, layout);
        }
    }

    fn step(&mut self, step: Call) {
        match step {
            Call::SetUp {
                file,
                memfd,
                events,
                rings,
                watches,
            } => self.set_up(file, memfd, events, rings, watches),
            Call::Open { file } => self.files[usize::from(file) % FILES] = Some(open_node()),
            Call::Close { file } => self.files[usize::from(file) % FILES] = None,
            Call::Duplicate { from, to } => {
                let file = self.files[usize::from(from) % FILES].as_ref();
                let file = file.map(|file| file.try_clone().expect("a free descriptor"));
                self.files[usize::from(to) % FILES] = file;
                self.sizes[usize::from(to) % FILES] = self.sizes[usize::from(from) % FILES];
            }
            Call::Send { file, close } => self.send(file, close),
            Call::Receive { file } => self.receive(file),
            Call::NewEvent {
                event,
                value,
                semaphore,
            } => {
                let flags = if semaphore {
                    EventfdFlags::SEMAPHORE
                } else {
                    EventfdFlags::empty()
                };
                self.events[usize::from(event) % EVENTS] = Some(new_event(value.into(), flags));
            }
            Call::CloseEvent { event, by_ring } => {
                let fd = self.events[usize::from(event) % EVENTS].take();
                // Where it is ours alone.
                if let (true, Some(Ok(fd))) = (by_ring, fd.map(Arc::try_unwrap)) {
                    let fd = types::Fd(fd.into_raw_fd());
                    self.by_ring(opcode::Close::new(fd).build(), false);
                }
            }
            Call::NewMemfd {
                memfd,
                like,
                more,
                seals,
                pages,
            } => {
                let geometry = self.sizes[usize::from(like) % FILES];
                let size = geometry
                    .and_then(|geometry| Layout::new(geometry).ok())
                    .map_or(u32::from(pages) * PAGE as u32, |layout| {
                        layout.region_size()
                    });
                // As it has to be, mostly.
                let more = i32::from(more).max(-64);
                let more = if more > 100 { more } else { more.max(0) / 100 };
                let seals = match seals {
                    0..=199 => SealFlags::SHRINK | SealFlags::GROW,
                    _ => SealFlags::from_bits_retain(u32::from(seals & 0x1f)),
                };
                self.new_memfd(memfd, geometry, size.saturating_add_signed(more), seals);
            }
            Call::CloseMemfd { memfd } => self.memfds[usize::from(memfd) % MEMFDS] = None,
            Call::Seal { memfd, seals } => {
                if let Some(memfd) = self.memfd(memfd) {
                    let seals = SealFlags::from_bits_retain(u32::from(seals & 0x3f));
                    call(SEAL, || fcntl_add_seals(&memfd.fd, seals));
                }
            }
            Call::Grow { memfd, bytes } => {
                if let Some(memfd) = self.memfd(memfd) {
                    let size = u64::from(memfd.size) + u64::from(bytes);
                    call(TRUNCATE, || ftruncate(&memfd.fd, size));
                }
            }
            Call::Geometry {
                file,
                watches,
                rings,
                slots,
                events,
                exact,
            } => {
                let count = |log: u8| match log {
                    // As few as there may be, mostly, and whatever else.
                    0..=127 => 8,
                    128..=240 => 1 << (log % 14),
                    _ => log.into(),
                };
                let geometry = Geometry {
                    stopwatches: if exact {
                        watches.into()
                    } else {
                        1 + u32::from(watches) % 200
                    },
                    rings: if exact {
                        rings.into()
                    } else {
                        1 + u32::from(rings) % 4
                    },
                    ring_slots: count(slots),
                    event_slots: count(events),
                };
                self.set_geometry(file, geometry);
            }
            Call::Features {
                file,
                set,
                features,
            } => {
                let number = if set {
                    uapi::VHOST_STOPWATCH_SET_FEATURES
                } else {
                    uapi::VHOST_STOPWATCH_GET_FEATURES
                };
                let argument = uapi::vhost_stopwatch_features {
                    features: features.into(),
                    ..Default::default()
                };
                self.tell(file, number, argument);
            }
            Call::Policy {
                file,
                flags,
                interval,
            } => {
                let argument = uapi::vhost_stopwatch_policy {
                    flags: flags.into(),
                    min_interval_ns: interval.into(),
                    ..Default::default()
                };
                self.tell(file, uapi::VHOST_STOPWATCH_SET_POLICY, argument);
            }
            Call::Name { file, name } => {
                let mut argument = uapi::vhost_stopwatch_name::default();
                argument.name[..name.len()].copy_from_slice(&name);
                self.tell(file, uapi::VHOST_STOPWATCH_SET_NAME, argument);
            }
            Call::SetRegion { file, memfd, index } => {
                let fd = match memfd {
                    240.. => self.event_number(memfd),
                    _ => self.memfd(memfd).map_or(-1, |memfd| memfd.fd.as_raw_fd()),
                };
                let index = u32::from(index / 128);
                self.set_fd(file, uapi::VHOST_STOPWATCH_SET_REGION, index, fd);
                self.get_vm(file, uapi::VHOST_STOPWATCH_VM_SELF, 0);
            }
            Call::SetKick { file, ring, event } => {
                let fd = self.event_number(event);
                self.set_fd(
                    file,
                    uapi::VHOST_STOPWATCH_SET_KICK,
                    u32::from(ring) % 5,
                    fd,
                );
            }
            Call::SetCall { file, ring, event } => {
                let fd = self.event_number(event);
                self.set_fd(
                    file,
                    uapi::VHOST_STOPWATCH_SET_CALL,
                    u32::from(ring) % 5,
                    fd,
                );
            }
            Call::Start { file } => {
                self.ioctl(file, uapi::VHOST_STOPWATCH_START, &[], Place::Memory);
            }
            Call::Stop { file } => {
                self.ioctl(file, uapi::VHOST_STOPWATCH_STOP, &[], Place::Memory);
            }
            Call::GetVm { file, flags, vm } => {
                let vm = self.vm(vm);
                self.get_vm(file, u32::from(flags & 3), vm);
            }
            Call::Command {
                file,
                vm,
                op,
                watch,
                flags,
                clock,
                mode,
                name,
            } => {
                let mut argument = uapi::vhost_stopwatch_command {
                    vm: self.vm(vm),
                    op: u32::from(op % 16),
                    watch: watch.into(),
                    flags: u32::from(flags & 1),
                    clock: u32::from(clock & 3),
                    mode: u32::from(mode & 3),
                    ..Default::default()
                };
                if let Some(name) = name {
                    argument.name[0] = name;
                }
                self.tell(file, uapi::VHOST_STOPWATCH_COMMAND, argument);
            }
            Call::Describe {
                file,
                vm,
                watch,
                flags,
            } => {
                let mut argument = uapi::vhost_stopwatch_description {
                    vm: self.vm(vm),
                    ..Default::default()
                };
                argument.description.watch = watch.into();
                argument.description.flags = u32::from(flags & 1);
                self.tell(file, uapi::VHOST_STOPWATCH_DESCRIBE, argument);
            }
            Call::Laps {
                file,
                vm,
                watch,
                first,
                room,
                place,
            } => self.laps(
                file,
                self.vm(vm),
                watch.into(),
                first.into(),
                room % 600,
                place,
            ),
            Call::Ioctl {
                file,
                number,
                size,
                words,
                place,
            } => self.any_ioctl(file, number, size, words, place),
            Call::Kick { event, value } => {
                if let Some(event) = self.event(event) {
                    let value = if value < 250 {
                        value.into()
                    } else {
                        u64::MAX - 1
                    };
                    write_event(event, value);
                }
            }
            Call::KickByThread { event } => {
                if let Some(event) = self.event(event).cloned() {
                    let thread = thread::spawn(move || {
                        let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
                    });
                    thread.join().expect("it ends");
                }
            }
            Call::KickByRing { event, later } => {
                static ONE: [u8; 8] = 1u64.to_ne_bytes();
                if let Some(event) = self.event(event) {
                    let entry = opcode::Write::new(types::Fd(event.as_raw_fd()), ONE.as_ptr(), 8);
                    let flags = if later {
                        squeue::Flags::ASYNC
                    } else {
                        squeue::Flags::empty()
                    };
                    self.by_ring(entry.build().flags(flags), later);
                }
            }
            Call::ReadEvent { event } => {
                if let Some(event) = self.event(event) {
                    call(READ, || rustix::io::read(&**event, &mut [0; 8]));
                }
            }
            Call::Epoll { event, add } => {
                if let Some(event) = self.event(event) {
                    let data = epoll::EventData::new_u64(0);
                    call(EPOLL, || {
                        if add {
                            epoll::add(&self.epoll, &**event, data, epoll::EventFlags::IN)
                        } else {
                            epoll::delete(&self.epoll, &**event)
                        }
                    });
                }
            }
            Call::Wait { ms } => {
                let limit = Timespec::try_from(Duration::from_millis(u64::from(ms % 4)));
                let limit = limit.expect("a short time");
                let mut events = Vec::with_capacity(4);
                call(EPOLL, || {
                    epoll::wait(
                        &self.epoll,
                        rustix::buffer::spare_capacity(&mut events),
                        Some(&limit),
                    )
                });
            }
            Call::Ask {
                memfd,
                ring,
                op,
                watch,
                flags,
                arg,
                interval,
                event,
            } => {
                self.ticket += 1;
                let op = u32::from(op % 15);
                let is_bind = matches!(op, uapi::STOPWATCH_OP_BIND | uapi::STOPWATCH_OP_UNBIND);
                let request = Request {
                    op: op as u16,
                    watch: watch.into(),
                    flags: u32::from(flags / 128),
                    arg: arg.into(),
                    interval: match interval {
                        _ if is_bind => self.ticket,
                        0..0x8000_0000 => 0,
                        _ => interval.into(),
                    },
                };
                self.ask(memfd, ring, request, event);
            }
            Call::Request {
                memfd,
                ring,
                slot,
                owner,
                op,
                watch,
                flags,
                arg,
                interval,
                stamp,
            } => self.write_to_region(memfd, |region, layout| {
                let Some(ring) = layout.ring(u32::from(ring) % layout.geometry().rings) else {
                    return;
                };
                let request = RawRequest {
                    owner: (owner & 3).into(),
                    op: (op % 20).into(),
                    watch: watch.into(),
                    flags: flags.into(),
                    arg,
                    reserved: [interval.into(), stamp.into(), 0, 0, 0],
                    ..RawRequest::default()
                };
                let slot = u32::from(slot) % ring.count();
                region.set_slot(ring.slot(slot), request.words());
            }),
            Call::Refill {
                memfd,
                ring,
                posts,
                op,
                stamp,
            } => self.write_to_region(memfd, |region, layout| {
                let Some(head) = layout.post_ring(u32::from(ring % 4)) else {
                    return;
                };
                let first = std::mem::offset_of!(uapi::stopwatch_post_ring, posts) as u32;
                let taken = region.load(head) as u32;
                for number in (0..u32::from(posts)).map(|post| taken.wrapping_add(post)) {
                    let is_first = number & uapi::STOPWATCH_POST_SLOTS == 0;
                    let word = u64::from(stamp) << uapi::STOPWATCH_POST_TIME_SHIFT
                        | u64::from(op & 7) << uapi::STOPWATCH_POST_OP_SHIFT
                        | u64::from(is_first);
                    let slot = number % uapi::STOPWATCH_POST_SLOTS;
                    region.store_release(head + first + slot * 8, word);
                }
            }),
            Call::Vmm {
                memfd,
                status,
                generation,
            } => self.write_to_region(memfd, |region, layout| {
                let word = u64::from(status % 4) | u64::from(generation) << 32;
                region.store_release(layout.vmm(), word);
            }),
            Call::Word {
                memfd,
                index,
                value,
            } => self.write_to_region(memfd, |region, layout| {
                region.store(index % (layout.region_size() / 8) * 8, value);
            }),
            Call::Beside {
                memfd,
                event,
                kicks,
                seed,
            } => {
                let region = self.region(memfd);
                let job = if kicks {
                    self.event(event).cloned().map(Beside::Kick)
                } else {
                    region.map(|(region, layout)| Beside::Write(Arc::clone(region), *layout, seed))
                };
                // One at a time.
                if let Some(job) = job {
                    self.rest();
                    self.process.beside.send(job).expect("the thread runs");
                }
            }
        }
    }

    /// Waits until nobody does anything beside.
    fn rest(&self) {
        STOP.store(true, Ordering::Relaxed);
        let (here, is_here) = channel();
        self.process
            .beside
            .send(Beside::Rest(here))
            .expect("the thread runs");
        let rested = is_here.recv_timeout(Duration::from_secs(10));
        rested.expect("a write to an eventfd by the other thread does not return");
        STOP.store(false, Ordering::Relaxed);
    }

    /// Closes everything.
    fn end(mut self) {
        self.rest();
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

fn write_event(event: &OwnedFd, value: u64) {
    call(WRITE, || rustix::io::write(event, &value.to_ne_bytes()));
}

/// KiB that this process has locked.
fn locked() -> u64 {
    fs::read_to_string("/proc/self/status")
        .expect("of this process")
        .lines()
        .filter(|line| line.starts_with("VmLck:") || line.starts_with("VmPin:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Whether it is so before long.
fn soon(mut is: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if is() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

fuzz_target!(init: {
    atexit(at_exit);
}, |input: (bool, Calls)| {
    let (is_set_up, Calls(calls)) = input;
    let mut process = PROCESS.lock().expect("nobody panics with it");
    let process = process.get_or_insert_with(Process::new);
    feedback::begin();
    let mut world = World::new(process);
    if is_set_up {
        world.set_up(0, 0, 0, 2, 66);
    }
    for step in &calls {
        world.step(*step);
    }
    world.end();
    feedback::end();

    let control = control();
    // io_uring and the other thread may let go of a file a moment later.
    let gone = soon(|| control.vms().expect("VMs can be listed").is_empty());
    assert!(gone, "a VM outlives its files: {:?}", control.vms());
    process.runs += 1;
    if process.runs % 16 == 0 {
        assert!(soon(|| locked() == 0), "{} KiB stay locked", locked());
    }
    if let Err(trouble) = process.log.check() {
        panic!("{trouble}");
    }
});
