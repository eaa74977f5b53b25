// SPDX-License-Identifier: MIT OR Apache-2.0

//! Carries a trial out: this process plays VMM, guest and operator, and writes what it
//! likes into the region.

use std::mem::offset_of;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::epoll;
use stopwatch::host::{Control, Geometry, Region};
use stopwatch::{Act, Command, Creation, Which};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::ring::SlotWords;
use stopwatch_tests::harness::{control, RawRequest, Vm};
use stopwatch_uapi::*;

use crate::input::{Chance, Input, Stamps, Trigger};
use stopwatch_tests::counting::{Counted, Counter, Place, World};

/// Where our code runs with interrupts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Doorbell,
    Reset,
    Timer,
    TaskWork,
    Start,
    Look,
    Command,
    SetUp,
    Teardown,
    /// Of the guest.
    Interrupt,
    /// Of the guest.
    GuestTask,
}

impl Kind {
    /// Those of the host.
    pub(crate) const HOST: [Self; 9] = [
        Self::Doorbell,
        Self::Reset,
        Self::Timer,
        Self::TaskWork,
        Self::Start,
        Self::Look,
        Self::Command,
        Self::SetUp,
        Self::Teardown,
    ];

    /// Those of the guest.
    pub(crate) const GUEST: [Self; 2] = [Self::Interrupt, Self::GuestTask];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Doorbell => "doorbell",
            Self::Reset => "doorbell with a reset",
            Self::Timer => "timer",
            Self::TaskWork => "task work after a doorbell",
            Self::Start => "START",
            Self::Look => "look of the operator",
            Self::Command => "command of the operator",
            Self::SetUp => "set-up",
            Self::Teardown => "teardown",
            Self::Interrupt => "guest: interrupt",
            Self::GuestTask => "guest: program's call",
        }
    }
}

/// The longest section of each kind in a trial, and the function it began in.
pub(crate) type Longest = Vec<(Kind, u64, String)>;

/// How long what was left over may take, before the trial goes on.
const PATIENCE: Duration = Duration::from_millis(300);

/// A second by VM time: later than all that a trial takes, mostly.
const FUTURE_NS: u64 = 1 << 50;

/// How far ahead the timeouts are that a trial waits for.
const AHEAD: Duration = Duration::from_millis(60);

/// Runs it.
///
/// # Errors
///
/// The counting does not work.
pub(crate) fn run(input: &Input, counter: &mut Counter) -> Result<Longest> {
    let mut longest = Longest::new();
    counter.collect()?;
    let mut trial = Trial::new(input);
    note(&mut longest, &counter.collect()?, Kind::SetUp);
    trial.prepare();
    note(&mut longest, &counter.collect()?, Kind::TaskWork);
    trial.fill();
    trial.trigger();
    let kind = match input.trigger {
        Trigger::Start => Kind::Start,
        Trigger::Look | Trigger::List => Kind::Look,
        Trigger::Command => Kind::Command,
        Trigger::Close => Kind::Teardown,
        _ => Kind::TaskWork,
    };
    note_all(
        &mut longest,
        &counter.collect()?,
        kind,
        input.trigger == Trigger::Reset,
    );
    drop(trial);
    note(&mut longest, &counter.collect()?, Kind::Teardown);
    Ok(longest)
}

fn note(longest: &mut Longest, counted: &Counted, task: Kind) {
    note_all(longest, counted, task, false);
}

/// Sections by where they began: a doorbell's, a timer's, or `task`'s.
fn note_all(longest: &mut Longest, counted: &Counted, task: Kind, reset: bool) {
    let host = |place: &&Place| place.world == World::Host;
    for place in counted.sections.iter().filter(host) {
        let (kind, instructions) = if place.function.contains("::wake") {
            let kind = if reset { Kind::Reset } else { Kind::Doorbell };
            (kind, place.whole)
        } else if is_timer(&place.function) {
            // Below, by its entry.
            continue;
        } else {
            (task, place.whole)
        };
        longest.push((kind, instructions, place.function.clone()));
    }
    // Each run by itself: the next one is some time later, which may be over before the
    // emulation gets to it, and what else the interrupt does is not ours.
    let runs = counted.entries.iter().filter(host);
    for place in runs.filter(|place| is_timer(&place.function)) {
        longest.push((Kind::Timer, place.own, place.function.clone()));
    }
}

fn is_timer(function: &str) -> bool {
    function.contains("DeadlineTimer") && function.contains("::run")
}

struct Trial<'a> {
    input: &'a Input,
    vm: Vm,
    host: Control,
    number: u64,
    chance: Chance,
    /// Requests written into each ring since the reset.
    written: Vec<u64>,
    ring_offset: u32,
    ring_stride: u32,
    post_offset: u32,
    ticket: u64,
    _epoll: Option<std::os::fd::OwnedFd>,
}

/// A word of 32 bits.
fn load32(region: &Region, offset: u32) -> u32 {
    let word = region.load(offset & !7);
    (word >> (8 * (offset & 7))) as u32
}

impl<'a> Trial<'a> {
    fn new(input: &'a Input) -> Self {
        let vm = Vm::stopped(Geometry {
            stopwatches: input.stopwatches,
            rings: input.rings,
            ring_slots: input.ring_slots,
            event_slots: input.event_slots,
        });
        let info = |offset: usize| load32(&vm.guest.region, offset as u32);
        let epoll = input.epoll.then(|| {
            let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
            for fd in vm.kicks.iter().chain(&vm.calls) {
                let data = epoll::EventData::new_u64(0);
                epoll::add(
                    &set,
                    fd,
                    data,
                    epoll::EventFlags::IN | epoll::EventFlags::ET,
                )
                .expect("an eventfd can be added");
            }
            set
        });
        let trial = Self {
            input,
            host: control(),
            number: vm.info().vm,
            chance: Chance::new(input.seed),
            written: vec![0; input.rings as usize],
            ring_offset: info(offset_of!(stopwatch_info, ring_offset)),
            ring_stride: info(offset_of!(stopwatch_info, ring_stride)),
            post_offset: info(offset_of!(stopwatch_info, post_offset)),
            ticket: 0,
            _epoll: epoll,
            vm,
        };
        trial.vm.control.start().expect("it can be started");
        trial
    }

    fn slot(&self, ring: u32, index: u64) -> u32 {
        let slot = (index % u64::from(self.input.ring_slots)) as u32;
        self.ring_offset + ring * self.ring_stride + slot * STOPWATCH_SLOT_SIZE
    }

    fn wrap(&self, index: u64) -> u16 {
        u16::from(index / u64::from(self.input.ring_slots) % 2 == 0)
    }

    /// Writes a request into the next slot, whatever is there.
    fn write(&mut self, ring: u32, mut words: SlotWords) {
        let index = self.written[ring as usize];
        let wrap = self.wrap(index);
        let owner =
            (STOPWATCH_OWNER_POSTED as u16 * wrap) | (STOPWATCH_OWNER_DONE as u16 * (1 - wrap));
        words[0] = words[0] & !0xffff | u64::from(owner);
        self.vm.guest.region.give(self.slot(ring, index), &words);
        self.written[ring as usize] += 1;
    }

    /// Whether the host has completed the last request of each ring.
    fn idle(&self) -> bool {
        (0..self.input.rings).all(|ring| {
            let Some(last) = self.written[ring as usize].checked_sub(1) else {
                return true;
            };
            let wrap = u64::from(self.wrap(last));
            let owner = self.vm.guest.region.load_acquire(self.slot(ring, last));
            (owner >> 1) & 1 == wrap
        })
    }

    fn settle(&self) {
        let begin = Instant::now();
        while !self.idle() && begin.elapsed() < PATIENCE {
            sleep(Duration::from_micros(200));
        }
    }

    /// Requests on ring 0, as many at a time as it holds, until they are answered.
    fn ask(&mut self, requests: impl IntoIterator<Item = SlotWords>) {
        let mut waiting = 0;
        for words in requests {
            self.write(0, words);
            waiting += 1;
            if waiting == self.input.ring_slots {
                waiting = 0;
                self.vm.kick(0);
                self.settle();
            }
        }
        if waiting != 0 {
            self.vm.kick(0);
            self.settle();
        }
    }

    fn request(op: u32, watch: u32, arg: u64) -> RawRequest {
        RawRequest {
            op: op as u16,
            watch,
            arg,
            ..RawRequest::default()
        }
    }

    fn bind(&mut self, ring: u32, watch: u32) -> RawRequest {
        self.ticket += 1;
        let mut request = Self::request(STOPWATCH_OP_BIND, watch, ring.into());
        // Version 1 had no tickets.
        if STOPWATCH_VERSION >= 2 {
            request.reserved[0] = self.ticket;
        }
        request
    }

    /// Creates a stopwatch; its name, if it has one, is by `number`.
    fn create(&self, number: u32) -> SlotWords {
        let mut words = Self::request(STOPWATCH_OP_CREATE, 0, 0).words();
        if self.input.named {
            let mut name = [0; STOPWATCH_NAME_SIZE as usize];
            // The names come in no order that helps.
            let text = format!("{:08x}-{number:022}", number.wrapping_mul(0x9e37_79b9));
            name[..text.len()].copy_from_slice(text.as_bytes());
            for (word, bytes) in words[2..6].iter_mut().zip(name.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
            }
        }
        words
    }

    fn existing(&self) -> u32 {
        self.input.stopwatches.min(STOPWATCH_NUMBERED) + self.input.created
    }

    fn watch(&mut self, index: u32) -> u32 {
        match self.input.one_watch {
            true => self.existing() - 1,
            false => index % self.existing(),
        }
    }

    fn prepare(&mut self) {
        let features = u64::from(STOPWATCH_F_TIMEOUT | STOPWATCH_F_POSTED);
        let mut requests = vec![Self::request(STOPWATCH_OP_SET_FEATURES, 0, features).words()];
        requests.extend((0..self.input.created).map(|number| self.create(number)));
        for ring in 0..self.input.bound {
            let watch = self.watch(ring);
            requests.push(self.bind(ring, watch).words());
        }
        self.ask(requests);
        let (ahead, interval) = match self.input.trigger {
            Trigger::Timers => (AHEAD.as_nanos() as u64, 100_000),
            _ => (u64::from(u32::MAX) << 10, u64::from(u32::MAX)),
        };
        let begin = Instant::now();
        let mut requests = Vec::new();
        for watch in 0..self.input.timers {
            // For the same moment, about.
            let gone = begin.elapsed().as_nanos() as u64;
            let mut request = Self::request(
                STOPWATCH_OP_TIMEOUT,
                watch,
                ahead.saturating_sub(gone).max(1),
            );
            if self.input.periodic {
                request.reserved[0] = interval;
            }
            requests.push(request.words());
        }
        self.ask(requests);
    }

    /// VM time, by a call.
    fn now(&mut self) -> u64 {
        self.ask([Self::request(STOPWATCH_OP_READ, 0, 0).words()]);
        let slot = self.slot(0, self.written[0] - 1);
        let offset = offset_of!(stopwatch_reply, time_ns) as u32;
        self.vm.guest.region.load(slot + offset)
    }

    fn fill(&mut self) {
        let base = self.now();
        if self.input.trigger == Trigger::Start {
            self.vm.control.stop().expect("it was started");
        }
        let lists = u64::from(self.input.filled + self.input.bound);
        let longest = u64::from(self.input.requests.max(self.input.posts));
        let stamp = |chance: &mut Chance, list: u32, index: u32| {
            let (list, index) = (u64::from(list), u64::from(index));
            base + 1
                + match self.input.stamps {
                    Stamps::ByRing => list * longest + index,
                    Stamps::Interleaved => index * lists + list,
                    Stamps::Equal => 0,
                    Stamps::Descending => lists * longest - index * lists - list,
                    Stamps::Future => FUTURE_NS + index,
                    Stamps::Random => u64::from(chance.below(1 << 20)),
                }
        };
        for ring in 0..self.input.filled {
            for index in 0..self.input.requests {
                let mut request = if self.chance.below(256) < self.input.posted {
                    let op = Input::posted_op(&mut self.chance);
                    let which = self.chance.below(self.existing());
                    let mut request = Self::request(op, which, 0);
                    request.flags = STOPWATCH_REQUEST_POSTED;
                    request.reserved[1] = stamp(&mut self.chance, ring, index);
                    request
                } else {
                    self.unposted(ring * self.input.requests + index)
                };
                let mut words = match u32::from(request.op) {
                    STOPWATCH_OP_CREATE => {
                        request.flags = 0;
                        let number = (1 << 20) | self.chance.below(1 << 16);
                        self.create(number)
                    }
                    _ => request.words(),
                };
                if self.chance.below(256) < self.input.wrong {
                    let bit = self.chance.below(512);
                    words[bit as usize / 64] ^= 1 << (bit % 64);
                }
                self.write(ring, words);
            }
        }
        for ring in 0..self.input.bound {
            let offset = self.post_offset + ring * size_of::<stopwatch_post_ring>() as u32;
            let posts = offset + offset_of!(stopwatch_post_ring, posts) as u32;
            for index in 0..self.input.posts {
                let op = Input::posted_op(&mut self.chance);
                let at = stamp(&mut self.chance, self.input.filled + ring, index);
                let word = (at << STOPWATCH_POST_TIME_SHIFT)
                    | (u64::from(op) << STOPWATCH_POST_OP_SHIFT)
                    | u64::from(STOPWATCH_POST_WRAP);
                self.vm.guest.region.store_release(posts + 8 * index, word);
            }
        }
    }

    /// An operation that is not posted, mostly one that is carried out.
    fn unposted(&mut self, index: u32) -> RawRequest {
        let op = self.input.op(&mut self.chance);
        let watch = self.chance.below(self.existing());
        match op {
            STOPWATCH_OP_TIMEOUT => {
                Self::request(op, watch, 1 + u64::from(self.chance.below(1 << 30)) * 1000)
            }
            STOPWATCH_OP_SET_FEATURES => Self::request(op, 0, u64::from(self.chance.below(2)) * 5),
            STOPWATCH_OP_BIND => {
                let ring = index % STOPWATCH_MAX_POST_RINGS;
                self.bind(ring, watch)
            }
            STOPWATCH_OP_UNBIND => {
                let mut request = Self::request(op, 0, u64::from(index % STOPWATCH_MAX_POST_RINGS));
                if STOPWATCH_VERSION >= 2 {
                    request.reserved[0] = self.ticket;
                }
                request
            }
            STOPWATCH_OP_SET_MODE => {
                Self::request(op, watch, u64::from(self.chance.below(4)) << 32)
            }
            STOPWATCH_OP_POWER_OFF => Self::request(op, 0, 0),
            _ => Self::request(op, watch, 0),
        }
    }

    fn trigger(&mut self) {
        let last = self.existing() - 1;
        let which = Which::Number(last);
        match self.input.trigger {
            Trigger::Kick => {
                let ring = self.chance.below(self.input.rings);
                self.vm.kick(ring);
            }
            Trigger::Reset => {
                for generation in 1..3 {
                    self.vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, generation);
                    self.vm.kick(0);
                }
                self.written.fill(0);
            }
            Trigger::Status => {
                for status in [STOPWATCH_VMM_PAUSED, 77, STOPWATCH_VMM_RUNNING, 78] {
                    self.vm.guest.set_vmm(status, 0);
                    self.vm.kick(0);
                }
            }
            Trigger::Start => self.vm.control.start().expect("it was stopped"),
            Trigger::Look => {
                let _ = self.host.command(self.number, &which, Act::Read);
                let _ = self.host.laps(self.number, last);
            }
            Trigger::Command => {
                let name = format!("{}", self.input.seed | 1) + "x";
                let name = name.parse().expect("a name");
                let _ = self.host.create(self.number, &name, Creation::default());
                let _ = self
                    .host
                    .command(self.number, &Which::Name(name), Command::Delete);
            }
            Trigger::List => {
                let _ = self.host.descriptions(self.number);
            }
            Trigger::Timers => sleep(AHEAD + Duration::from_millis(40)),
            Trigger::Features => {
                self.write(0, Self::request(STOPWATCH_OP_SET_FEATURES, 0, 0).words());
                self.vm.kick(0);
            }
            Trigger::Delete => {
                self.write(0, Self::request(STOPWATCH_OP_DELETE, last, 0).words());
                self.vm.kick(0);
            }
            Trigger::Close => {}
        }
        if self.input.trigger != Trigger::Close {
            self.settle();
        }
    }
}

/// What a trial was about, if it fails.
pub(crate) fn run_or_say(input: &Input, counter: &mut Counter) -> Result<Longest> {
    run(input, counter)
        .with_context(|| serde_json::to_string(input).unwrap_or_else(|error| error.to_string()))
}
