// SPDX-License-Identifier: MIT OR Apache-2.0

//! The server behind QEMU's own device `ivshmem-doorbell`: who connects gets a VM.
//!
//! One thread serves all of them. What it does for a VM at a time is a section of the
//! engine's, and VMs that have more to be done take turns. Nothing wakes it up for a VM
//! that is idle.
//!
//! The VMs of [`Backend::Module`] are served by the kernel; only a reset of the device comes
//! through here.

mod backend;
mod clock;
mod control;
mod error;
mod event;
mod handshake;
mod memory;
mod module;
mod peer;
mod program;
mod socket;
mod store;
mod vm;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};
use rustix::io::{read, write, Errno};
use rustix::net::{accept_with, recv, send, RecvFlags, SendFlags, SocketFlags};
use rustix::process::{getrlimit, setrlimit, Resource};
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
};

use self::control::Asked;
use self::error::system;
use self::handshake::Progress;
use self::vm::Vm;
use super::{Geometry, Policy};
use crate::{raw, Name};

pub use self::backend::{Backend, Kind};
pub use self::error::ServeError;
pub use self::event::Event;
pub use self::peer::Peer;
pub use self::socket::{For, Listening};
pub use self::store::Inherited;

/// What every VM of a server gets, and what all of them may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much each VM has.
    pub geometry: Geometry,
    /// What its guest may do.
    pub policy: Policy,
    /// Its name, for people.
    pub name: Option<String>,
    /// Stopwatches that are made and started with it.
    pub auto_start: Vec<Name>,
    /// So many VMs there may be at a time.
    pub max_vms: u32,
    /// How long a client may take to read what it is told.
    pub patience: Duration,
    /// For so long after a kick the next one is looked for before this program sleeps.
    pub busy_poll: Duration,
}

/// The most that [`Options::busy_poll`] may be.
pub const MAX_BUSY_POLL: Duration = Duration::from_millis(10);

/// Descriptors of the server itself, and some that come and go.
const OWN_FDS: u64 = 32 + MAX_CONTROLS as u64;

/// So many former clients are known before those that have ended are forgotten.
const MOST_FORMER: usize = 4096;

/// Descriptors of a VM: its kicks and calls, one more of each, and three others.
fn fds_of(geometry: Geometry) -> u64 {
    2 * (u64::from(geometry.rings) + 1) + 3
}

// Tokens of the events that are waited for: these, and those of VMs.
const LISTENING: u64 = 0;
const STOP: u64 = 1;
const TIMER: u64 = 2;
const CONTROL: u64 = 3;

/// Where the numbers of connections for control begin; no VM's gets so high.
const CONTROL_BASE: u64 = 1 << 48;

/// So many of these there may be.
const MAX_CONTROLS: usize = 64;

/// What an event of a VM is about: its connection, or one of its doorbells.
const CONNECTION: u64 = 0xff;

fn token(vm: u64, what: u64) -> u64 {
    (vm << 8) | what
}

/// Whether a server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Until it is told to stop.
    Serves,
    /// Until its last VM ends.
    WithItsVms,
}

/// A server, and its VMs.
#[derive(Debug)]
pub struct Server {
    epoll: OwnedFd,
    timer: OwnedFd,
    listening: Option<Listening>,
    control: Option<Listening>,
    controls: BTreeMap<u64, Caller>,
    life: Life,
    stopped: bool,
    backend: Backend,
    options: Options,
    /// What the regions are called in the kernel, by which they are told from others'.
    region_name: String,
    /// By number. That of the first is 1: those below are for tokens.
    vms: BTreeMap<u64, Vm>,
    next: u64,
    /// When VMs want to be looked at, of the host's `CLOCK_MONOTONIC` in ns.
    deadlines: BTreeSet<(u64, u64)>,
    /// What the timer is set to.
    timer_at: Option<u64>,
    /// VMs that have more to be done, in turn.
    busy: VecDeque<u64>,
    /// Connections whose call waits for what a guest has posted, in turn.
    asking: VecDeque<u64>,
    /// Processes that had a connection, and outlived it.
    former: BTreeSet<(u32, Option<u64>)>,
    /// Of these, those whose next one was refused, and told of.
    refused: BTreeSet<(u32, Option<u64>)>,
    /// Given up for a moment when there is no descriptor for a client that is refused.
    spare: Option<OwnedFd>,
    poll_until: Option<Instant>,
}

impl Server {
    /// A server at a socket. `stop` becomes readable when it is to end.
    ///
    /// The limit of open files is raised as far as this user may. If it allows for fewer
    /// VMs than the options do, there will be so many: see [`Self::max_vms`].
    ///
    /// # Errors
    ///
    /// [`ServeError`].
    pub fn new(
        listening: Listening,
        backend: Backend,
        options: Options,
        stop: impl AsFd,
    ) -> Result<Self, ServeError> {
        let mut server = Self::make(backend, options, Life::Serves, listening.path())?;
        server.watch(&listening, LISTENING, epoll::EventFlags::IN)?;
        server.watch(stop, STOP, epoll::EventFlags::IN)?;
        server.listening = Some(listening);
        Ok(server)
    }

    /// A server of one VM, for a client that is connected already. It ends with that.
    ///
    /// # Errors
    ///
    /// [`ServeError`].
    pub fn of_connection(
        socket: OwnedFd,
        backend: Backend,
        options: Options,
        report: &mut dyn FnMut(Event),
    ) -> Result<Self, ServeError> {
        let mut server = Self::make(backend, options, Life::WithItsVms, Path::new(""))?;
        let peer = Peer::of(&socket).map_err(system("see who is connected"))?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(system("use the connection"))?;
        server.add(socket, peer, report)?;
        Ok(server)
    }

    fn make(
        backend: Backend,
        mut options: Options,
        life: Life,
        path: &Path,
    ) -> Result<Self, ServeError> {
        options.geometry = backend.geometry(options.geometry)?;
        backend.check(&options.policy)?;
        let each = fds_of(options.geometry);
        let limit = raise_descriptor_limit();
        let room = limit.saturating_sub(OWN_FDS) / each;
        if room == 0 {
            return Err(ServeError::Descriptors {
                limit,
                need: OWN_FDS + each,
            });
        }
        options.max_vms = options.max_vms.min(u32::try_from(room).unwrap_or(u32::MAX));
        options.busy_poll = options.busy_poll.min(MAX_BUSY_POLL);

        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("make an epoll"))?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(system("make a timer"))?;
        let server = Self {
            epoll,
            timer,
            listening: None,
            control: None,
            controls: BTreeMap::new(),
            life,
            stopped: false,
            backend,
            options,
            region_name: vm::region_name(path),
            vms: BTreeMap::new(),
            next: 1,
            deadlines: BTreeSet::new(),
            timer_at: None,
            busy: VecDeque::new(),
            asking: VecDeque::new(),
            former: BTreeSet::new(),
            refused: BTreeSet::new(),
            spare: super::event_fd().ok(),
            poll_until: None,
        };
        server.watch(&server.timer, TIMER, epoll::EventFlags::IN)?;
        Ok(server)
    }

    fn watch(&self, fd: impl AsFd, token: u64, flags: epoll::EventFlags) -> Result<(), ServeError> {
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, fd, data, flags).map_err(system("wait for events"))
    }

    /// How much each VM has: at least what was asked for.
    pub fn geometry(&self) -> Geometry {
        self.options.geometry
    }

    /// So many VMs there may be at a time.
    pub fn max_vms(&self) -> u32 {
        self.options.max_vms
    }

    /// What QEMU's `-device ivshmem-doorbell,vectors=` has to say.
    pub fn vectors(&self) -> u32 {
        vectors(self.options.geometry)
    }

    /// Answers programs at that socket, in place of the host module: those that are served
    /// by this program are not known there.
    ///
    /// # Errors
    ///
    /// [`ServeError::System`].
    pub fn answer_at(&mut self, control: Listening) -> Result<(), ServeError> {
        self.watch(&control, CONTROL, epoll::EventFlags::IN)?;
        self.control = Some(control);
        Ok(())
    }

    /// Takes over the VMs that a server before this one has had. Those that cannot be are
    /// told of.
    pub fn take_over(&mut self, inherited: Inherited, report: &mut dyn FnMut(Event)) {
        for kept in inherited.unpack() {
            let vm = kept.and_then(|(parcel, fds)| {
                Vm::restore(&self.backend, parcel, fds).and_then(|vm| {
                    self.register(&vm)?;
                    Ok(vm)
                })
            });
            match vm {
                Ok(vm) => {
                    let number = vm.number;
                    self.next = self.next.max(number + 1);
                    report(Event::TakenOver {
                        vm: number,
                        peer: vm.peer.clone(),
                    });
                    self.settle_in(vm);
                    // A program's device was reset: the driver is to see that.
                    if let Some(vm) = self.vms.get_mut(&number) {
                        let calls = vm.all_calls();
                        if vm.program().is_some() {
                            self.call(number, calls);
                        }
                    }
                }
                Err(error) => report(Event::Trouble {
                    what: error.to_string(),
                }),
            }
        }
    }

    /// Serves until it is told to stop, or, if it has but one VM, until that ends.
    ///
    /// # Errors
    ///
    /// [`ServeError::System`]: the kernel failed this program.
    pub fn run(&mut self, report: &mut dyn FnMut(Event)) -> Result<(), ServeError> {
        let status = format!("serves {}", self.backend);
        told(store::ready(&status), report);
        let mut events = Vec::with_capacity(256);
        while !self.stopped && (self.life == Life::Serves || !self.vms.is_empty()) {
            self.set_timer()?;
            let now = Timespec::default();
            let waits = self.busy.is_empty() && self.asking.is_empty();
            let polls = waits && self.polls();
            let timeout = (!waits || polls).then_some(&now);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(system("wait for events")(errno)),
            }
            if polls && events.is_empty() {
                // A vCPU that shares this CPU is not kept from kicking.
                thread::yield_now();
            }
            for event in events.drain(..) {
                self.handle(event.data.u64(), event.flags, report);
            }
            self.work();
        }
        told(store::stopping(), report);
        if !self.vms.is_empty() && !store::is_there() {
            report(Event::Trouble {
                what: format!(
                    "{} VMs have no host any more: their stopwatches stand still until their \
                     QEMU is started again; under systemd they would go on",
                    self.vms.len()
                ),
            });
        }
        Ok(())
    }

    /// Whether the next kick is looked for without sleeping.
    fn polls(&mut self) -> bool {
        let polls = self.poll_until.is_some_and(|until| Instant::now() < until);
        if !polls {
            self.poll_until = None;
        }
        polls
    }

    fn handle(&mut self, token: u64, flags: epoll::EventFlags, report: &mut dyn FnMut(Event)) {
        match (token >> 8, token & 0xff) {
            (0, LISTENING) => self.accept(report),
            (0, STOP) => self.stopped = true,
            (0, TIMER) => self.expire(report),
            (0, CONTROL) => self.accept_control(),
            (number, CONNECTION) if number >= CONTROL_BASE => self.asked(number),
            (vm, CONNECTION) => self.hear(vm, flags, report),
            (vm, doorbell) => self.kicked(vm, doorbell),
        }
    }

    /// A doorbell of a VM was rung.
    fn kicked(&mut self, number: u64, doorbell: u64) {
        let Some(vm) = self.vms.get_mut(&number) else {
            return;
        };
        vm.kicked(doorbell as u32);
        if !self.options.busy_poll.is_zero() {
            self.poll_until = Some(Instant::now() + self.options.busy_poll);
        }
        self.follow(number);
    }

    /// After anything that was done for a VM: notes when it is to be looked at, and that
    /// there is more to be done.
    fn follow(&mut self, number: u64) {
        let Some(vm) = self.vms.get_mut(&number) else {
            return;
        };
        let wanted = vm.wanted_at();
        if wanted != vm.noted {
            if let Some(noted) = vm.noted {
                self.deadlines.remove(&(noted, number));
            }
            if let Some(wanted) = wanted {
                self.deadlines.insert((wanted, number));
            }
            vm.noted = wanted;
        }
        if vm.has_work() && !vm.queued {
            vm.queued = true;
            self.busy.push_back(number);
        }
    }

    /// Does a section for each VM that had more to be done.
    fn work(&mut self) {
        for _ in 0..self.busy.len() {
            let Some(number) = self.busy.pop_front() else {
                return;
            };
            if let Some(vm) = self.vms.get_mut(&number) {
                vm.queued = false;
                vm.work();
                self.follow(number);
            }
        }
        for _ in 0..self.asking.len() {
            if let Some(number) = self.asking.pop_front() {
                self.answer(number);
            }
        }
    }

    /// Looks at the VMs for which it is time.
    fn expire(&mut self, report: &mut dyn FnMut(Event)) {
        let _ = read(&self.timer, &mut [0; 8]);
        self.timer_at = None;
        let now = clock::now();
        let due: Vec<_> = self.deadlines.range(..=(now, u64::MAX)).copied().collect();
        for (_, number) in due {
            let Some(vm) = self.vms.get_mut(&number) else {
                continue;
            };
            if vm.handshake_until().is_some_and(|until| until <= now) {
                let seconds = self.options.patience.as_secs_f32();
                let why = format!(
                    "it has not read in {seconds} s what it was told; expected QEMU's \
                     ivshmem-doorbell; if it is that, remove `reconnect=` from its chardev, with \
                     which QEMU waits for ever"
                );
                self.end(number, Some(why), report);
                continue;
            }
            let calls = vm.expire(now);
            self.call(number, calls);
            self.follow(number);
        }
    }

    /// Calls a guest, by each call whose bit is set.
    fn call(&self, number: u64, mut calls: u64) {
        let Some(vm) = self.vms.get(&number) else {
            return;
        };
        while calls != 0 {
            if let Some(call) = vm.calls.get(calls.trailing_zeros() as usize) {
                // It fails only if nobody has read for 2^64 calls.
                let _ = write(call, &1u64.to_ne_bytes());
            }
            calls &= calls - 1;
        }
    }

    fn set_timer(&mut self) -> Result<(), ServeError> {
        let next = self.deadlines.first().map(|(at, _)| *at);
        if next == self.timer_at {
            return Ok(());
        }
        const SECOND: u64 = 1_000_000_000;
        // Zero would disarm it.
        let at = next.map_or(0, |at| at.max(1));
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: (at / SECOND) as _,
                tv_nsec: (at % SECOND) as _,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)
            .map_err(system("set the timer"))?;
        self.timer_at = next;
        Ok(())
    }
}

/// A program that looks at the VMs.
#[derive(Debug)]
struct Caller {
    socket: OwnedFd,
    asked: Option<Asked>,
}

impl Server {
    fn accept_control(&mut self) {
        let Some(control) = &self.control else {
            return;
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = accept_with(control, flags) else {
            return;
        };
        // Who finds no room is told so by the end of the connection.
        if self.controls.len() < MAX_CONTROLS {
            let last = self.controls.last_key_value();
            let number = last.map_or(CONTROL_BASE, |(last, _)| last + 1);
            let watched = self.watch(&socket, token(number, CONNECTION), epoll::EventFlags::IN);
            if watched.is_ok() {
                let asked = None;
                self.controls.insert(number, Caller { socket, asked });
            }
        }
    }

    /// A call came, or the end of the connection.
    fn asked(&mut self, number: u64) {
        let Some(caller) = self.controls.get_mut(&number) else {
            return;
        };
        if caller.asked.is_some() {
            return;
        }
        let mut message = [0; raw::MOST];
        match recv(&caller.socket, &mut message, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok((_, 0)) | Err(_) => drop(self.controls.remove(&number)),
            Ok((_, size)) => {
                caller.asked = Some(Asked::new(&message[..size]));
                self.answer(number);
            }
        }
    }

    /// Answers a call, or does a section of what is to be done before.
    fn answer(&mut self, number: u64) {
        let Some(caller) = self.controls.get_mut(&number) else {
            return;
        };
        let Some(asked) = &mut caller.asked else {
            return;
        };
        let answer = asked.answer(&mut self.vms);
        let vm = asked.vm;
        match answer {
            None => self.asking.push_back(number),
            Some(answer) => {
                caller.asked = None;
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                // Who does not read gets no more.
                if send(&caller.socket, &answer, flags).is_err() {
                    self.controls.remove(&number);
                }
            }
        }
        if let Some(vm) = vm {
            self.follow(vm);
        }
    }
}

/// Clients that come and go.
impl Server {
    fn accept(&mut self, report: &mut dyn FnMut(Event)) {
        /// So many at a time: the VMs that there are have their turn in between.
        const AT_ONCE: u32 = 16;
        for _ in 0..AT_ONCE {
            let Some(listening) = &self.listening else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(listening, flags) {
                Ok(socket) => self.welcome(socket, report),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    // It would be there again and again: it is taken and dropped.
                    self.spare = None;
                    drop(accept_with(listening, flags));
                    self.spare = super::event_fd().ok();
                    report(Event::Trouble {
                        what: "a client was dropped, as there are too many open files; raise the \
                               limit, or lower --max-vms"
                            .into(),
                    });
                }
                Err(_) => return,
            }
        }
    }

    fn welcome(&mut self, socket: OwnedFd, report: &mut dyn FnMut(Event)) {
        let peer = match Peer::of(&socket) {
            Ok(peer) => peer,
            Err(errno) => {
                return report(Event::Trouble {
                    what: format!("a client was dropped, as nobody says who it is: {errno}"),
                })
            }
        };
        if self.vms.len() >= self.options.max_vms as usize {
            let why = format!(
                "there are {} VMs, and there may be no more; raise --max-vms, or the limit of \
                 open files",
                self.vms.len()
            );
            return report(Event::Refused { peer, why });
        }
        if self.had_one(&peer) {
            // QEMU tries again and again.
            if self.refused.insert(peer.identity()) {
                report(Event::Refused {
                    peer,
                    why: "it connects again for a device that it has already, and QEMU's ivshmem \
                          takes a second handshake for the end of all doorbells; remove \
                          `reconnect=` from the chardev, and start that QEMU again"
                        .into(),
                });
            }
            return;
        }
        if let Err(error) = self.add(socket, peer.clone(), report) {
            let why = error.to_string();
            report(Event::Refused { peer, why });
        }
    }

    /// Whether a process has a region of this server, or of one before it at the same
    /// socket, for which there is no connection any more.
    fn had_one(&self, peer: &Peer) -> bool {
        match peer.regions(&self.region_name) {
            Ok(regions) => {
                let live: BTreeSet<_> = self.vms.values().map(|vm| vm.inode).collect();
                !regions.is_subset(&live)
            }
            // This program may not look: it only knows what it has seen.
            Err(_) => self.former.contains(&peer.identity()),
        }
    }

    fn add(
        &mut self,
        socket: OwnedFd,
        peer: Peer,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), ServeError> {
        let until = clock::now()
            .saturating_add(u64::try_from(self.options.patience.as_nanos()).unwrap_or(u64::MAX));
        let vm = Vm::create(
            self.next,
            &self.backend,
            &self.options,
            &self.region_name,
            (socket, peer),
            until,
        )?;
        self.register(&vm)?;
        self.next += 1;
        let number = vm.number;
        self.settle_in(vm);
        self.tell(number, report);
        Ok(())
    }

    /// Waits for what comes from a VM.
    fn register(&self, vm: &Vm) -> Result<(), ServeError> {
        use epoll::EventFlags as Flags;

        let result = (|| {
            for (doorbell, kick) in vm.doorbells() {
                // By edge: each write is an event, and what was written need not be read.
                self.watch(kick, token(vm.number, doorbell), Flags::IN | Flags::ET)?;
            }
            let flags = match vm.handshake_until() {
                Some(_) => Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET,
                None => Flags::IN | Flags::RDHUP,
            };
            self.watch(&vm.socket, token(vm.number, CONNECTION), flags)
        })();
        if result.is_err() {
            self.unregister(vm);
        }
        result
    }

    /// The VMM has copies of the descriptors: to close them does not end the waiting.
    fn unregister(&self, vm: &Vm) {
        for (_, kick) in vm.doorbells() {
            let _ = epoll::delete(&self.epoll, kick);
        }
        let _ = epoll::delete(&self.epoll, &vm.socket);
    }

    fn settle_in(&mut self, vm: Vm) {
        let number = vm.number;
        self.vms.insert(number, vm);
        self.follow(number);
    }

    /// Goes on telling a client what its VM is.
    fn tell(&mut self, number: u64, report: &mut dyn FnMut(Event)) {
        let Some(vm) = self.vms.get_mut(&number) else {
            return;
        };
        match vm.tell() {
            Ok(Progress::Waits) => {}
            Ok(Progress::Taken) => {
                let data = epoll::EventData::new_u64(token(number, CONNECTION));
                let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
                if let Err(errno) = epoll::modify(&self.epoll, &vm.socket, data, flags) {
                    return self.end(number, Some(errno.to_string()), report);
                }
                report(Event::Connected {
                    vm: number,
                    peer: vm.peer.clone(),
                });
                told(vm.keep(), report);
                self.follow(number);
            }
            Err(Errno::PIPE | Errno::CONNRESET) => {
                let why = "it was gone before it had read what it was told".into();
                self.end(number, Some(why), report);
            }
            Err(Errno::TOOMANYREFS) => {
                let why = "too many descriptors are on their way to clients that do not read; \
                           raise the limit of open files";
                self.end(number, Some(why.into()), report);
            }
            Err(errno) => self.end(number, Some(errno.to_string()), report),
        }
    }

    /// Something came by a VM's connection: its end, mostly.
    fn hear(&mut self, number: u64, flags: epoll::EventFlags, report: &mut dyn FnMut(Event)) {
        use epoll::EventFlags as Flags;

        let Some(vm) = self.vms.get_mut(&number) else {
            return;
        };
        if flags.intersects(Flags::IN | Flags::RDHUP | Flags::HUP | Flags::ERR) {
            match read(&vm.socket, &mut [0; 64]) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(0) | Err(_) => {
                    let why = vm
                        .handshake_until()
                        .map(|_| "it was gone before it had read what it was told".to_string());
                    return self.end(number, why, report);
                }
                Ok(_) => {
                    let why = "it says something, and QEMU's ivshmem-doorbell never does; \
                               expected one as this socket's only client";
                    return self.end(number, Some(why.into()), report);
                }
            }
        }
        if vm.handshake_until().is_some() {
            self.tell(number, report);
        }
    }

    /// Ends a VM; `why` if it is not its VMM that did.
    fn end(&mut self, number: u64, why: Option<String>, report: &mut dyn FnMut(Event)) {
        let Some(vm) = self.vms.remove(&number) else {
            return;
        };
        self.unregister(&vm);
        if let Some(noted) = vm.noted {
            self.deadlines.remove(&(noted, number));
        }
        if vm.handshake_until().is_none() {
            told(store::forget(number), report);
        }
        if vm.peer.is_alive() {
            if self.former.len() >= MOST_FORMER {
                self.former.retain(|former| peer::is_alive(*former));
                self.refused.retain(|former| peer::is_alive(*former));
            }
            self.former.insert(vm.peer.identity());
        }
        self.refused.remove(&vm.peer.identity());
        report(match why {
            Some(why) => Event::Dropped {
                vm: number,
                peer: vm.peer.clone(),
                why,
            },
            None => Event::Ended {
                vm: number,
                peer: vm.peer.clone(),
            },
        });
    }
}

/// What QEMU's `vectors=` has to be for a device.
pub fn vectors(geometry: Geometry) -> u32 {
    // One for each ring, and one for a reset.
    geometry.rings + 1
}

/// Reports what went wrong, where nothing depends on it.
fn told(result: Result<(), ServeError>, report: &mut dyn FnMut(Event)) {
    if let Err(error) = result {
        report(Event::Trouble {
            what: error.to_string(),
        });
    }
}

/// Raises the limit of open files as far as it goes. Says how far that is.
fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        limit = raised;
    }
    limit.current.unwrap_or(u64::MAX)
}
