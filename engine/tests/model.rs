// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A device against a model of the header's words that is as plain as can be:
//! wide integers, linear searches, a map of names, no rings.

mod common;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use common::{budget_for, command, command_of, device, env, read, Clocks, Guest, POLICY};
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::Target;
use stopwatch_engine::policy::FEATURES;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::name::Name;
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::slot::{Creation, Event, Message, Reply, Request, Status};
use stopwatch_protocol::state::State;
use stopwatch_protocol::uapi;

const NUMBERED: u32 = uapi::STOPWATCH_NUMBERED;

const GEOMETRY: Geometry = Geometry {
    stopwatches: NUMBERED + 5,
    rings: 3,
    ring_slots: 16,
    event_slots: 8,
};

#[derive(Clone, Copy, Debug)]
struct Timeout {
    /// `None` while it waits for the stopwatch to run.
    deadline: Option<u128>,
    target: Option<u128>,
    interval: u128,
}

#[derive(Clone, Default)]
struct Watch {
    exists: bool,
    about: Creation,
    generation: u32,
    elapsed: u128,
    started: Option<u128>,
    laps: Vec<u128>,
    timeouts: u32,
    timeout: Option<Timeout>,
}

impl Watch {
    fn skips_paused(&self) -> bool {
        self.about.flags & uapi::STOPWATCH_CREATE_SKIP_PAUSED != 0
    }

    fn shows(&self, own: u128) -> u128 {
        self.elapsed + self.started.map_or(0, |started| own - started)
    }

    fn reset(&mut self) {
        *self = Self {
            exists: self.exists,
            about: self.about,
            generation: self.generation,
            ..Self::default()
        };
    }

    /// Gives a timeout that waits for elapsed the deadline that it has now.
    fn follow(&mut self, own: u128) {
        let shows = self.shows(own);
        let (started, elapsed) = (self.started, self.elapsed);
        if let Some(timeout) = &mut self.timeout {
            if let Some(target) = timeout.target {
                timeout.deadline = if shows >= target {
                    Some(timeout.deadline.map_or(own, |deadline| deadline.min(own)))
                } else {
                    started.map(|started| started + target - elapsed)
                };
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Plain(Request),
    Create(Creation),
}

impl From<Ask> for Message {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Plain(request) => request.into(),
            Ask::Create(creation) => creation.into(),
        }
    }
}

struct Model {
    watches: Vec<Watch>,
    names: BTreeMap<Name, u32>,
    features: u64,
    clocks: [u128; 3],
    paused: [u128; 3],
    paused_at: Option<[u128; 3]>,
    last_pause: u128,
    pauses: u64,
    events: VecDeque<Event>,
    lost: u64,
    sequence: u64,
}

impl Model {
    fn new() -> Self {
        let mut watches = vec![Watch::default(); GEOMETRY.stopwatches as usize];
        for watch in &mut watches[..NUMBERED as usize] {
            watch.exists = true;
        }
        Self {
            watches,
            names: BTreeMap::new(),
            features: FEATURES,
            clocks: [0; 3],
            paused: [0; 3],
            paused_at: None,
            last_pause: 0,
            pauses: 0,
            events: VecDeque::new(),
            lost: 0,
            sequence: 0,
        }
    }

    fn now(&self) -> Clocks {
        let [monotonic, monotonic_raw, boottime] = self.clocks.map(|ns| ns as u64);
        Clocks {
            monotonic,
            monotonic_raw,
            boottime,
        }
    }

    /// The own time of a stopwatch.
    fn own(&self, watch: u32) -> u128 {
        let it = &self.watches[watch as usize];
        let clock = it.about.clock as usize;
        let mut own = self.clocks[clock];
        if it.skips_paused() {
            own -= self.paused[clock];
            if let Some(since) = self.paused_at {
                own -= self.clocks[clock] - since[clock];
            }
        }
        own
    }

    fn reading(&self, watch: u32) -> Reading {
        let it = &self.watches[watch as usize];
        let deadline = it.timeout.and_then(|timeout| timeout.deadline);
        Reading {
            elapsed_ns: it.shows(self.own(watch)) as u64,
            time_ns: self.clocks[0] as u64,
            lap_ns: it.laps.last().copied().unwrap_or(0) as u64,
            deadline_ns: deadline.unwrap_or(0) as u64,
            running: it.started.is_some(),
            laps: it.laps.len() as u32,
            timeouts: it.timeouts,
        }
    }

    fn record(&self, watch: u32) -> Record {
        let it = &self.watches[watch as usize];
        let reading = self.reading(watch);
        let timeout = it.timeout;
        Record {
            exists: it.exists,
            running: reading.running,
            elapsed_ns: it.elapsed as u64,
            base_ns: it
                .started
                .map_or(0, |started| it.elapsed.wrapping_sub(started) as u64),
            lap_ns: reading.lap_ns,
            deadline_ns: reading.deadline_ns,
            laps: reading.laps,
            timeouts: reading.timeouts,
            name: it.about.name,
            uid: it.about.uid,
            mode: it.about.mode,
            clock: it.about.clock,
            skip_paused: it.skips_paused(),
            target_ns: timeout.and_then(|timeout| timeout.target).unwrap_or(0) as u64,
            interval_ns: timeout.map_or(0, |timeout| timeout.interval) as u64,
            generation: it.generation,
        }
    }

    fn answer(&mut self, ask: Ask, host: bool) -> Reply {
        let (watch, generation, status, reading) = match ask {
            Ask::Create(creation) => {
                let (watch, status) = self.create(creation);
                let generation = match status {
                    Status::Ok | Status::Exists => self.watches[watch as usize].generation,
                    _ => 0,
                };
                (watch, generation, status, None)
            }
            Ask::Plain(request) => {
                let before = (u32::from(request.op) == uapi::STOPWATCH_OP_READ_RESET
                    && self.exists(request.watch))
                .then(|| self.reading(request.watch));
                (request.watch, 0, self.execute(request, host), before)
            }
        };
        Reply {
            status: Ok(status),
            watch,
            generation,
            reading: if status.to_wire() >= uapi::STOPWATCH_S_REFUSED {
                Reading::default()
            } else {
                reading.unwrap_or_else(|| self.reading(watch))
            },
        }
    }

    fn exists(&self, watch: u32) -> bool {
        self.watches
            .get(watch as usize)
            .is_some_and(|watch| watch.exists)
    }

    fn create(&mut self, creation: Creation) -> (u32, Status) {
        if creation.flags > 1 {
            return (0, Status::BadFlags);
        }
        if creation.mode > 3 || creation.clock > 2 {
            return (0, Status::BadArg);
        }
        let named = creation.name != Name::NONE;
        if let Some(&other) = self.names.get(&creation.name).filter(|_| named) {
            return (other, Status::Exists);
        }
        let Some(free) = self.watches.iter().position(|watch| !watch.exists) else {
            return (0, Status::Full);
        };
        let it = &mut self.watches[free];
        it.exists = true;
        it.about = creation;
        it.generation += 1;
        if named {
            self.names.insert(creation.name, free as u32);
        }
        (free as u32, Status::Ok)
    }

    fn delete(&mut self, watch: u32) {
        let it = &mut self.watches[watch as usize];
        self.names.remove(&it.about.name);
        *it = Watch {
            generation: it.generation,
            ..Watch::default()
        };
    }

    fn execute(&mut self, request: Request, host: bool) -> Status {
        let Request {
            op,
            watch,
            flags,
            arg,
            interval,
            generation,
        } = request;
        let op = u32::from(op);
        let is_timeout = op == uapi::STOPWATCH_OP_TIMEOUT;
        if !(1..=11).contains(&op)
            || is_timeout && self.features & 1 == 0
            || host && [6, 7, 11].contains(&op)
        {
            return Status::BadOp;
        }
        let there = match op {
            uapi::STOPWATCH_OP_SET_FEATURES => watch == 0,
            uapi::STOPWATCH_OP_DELETE | uapi::STOPWATCH_OP_SET_MODE => {
                watch >= NUMBERED && self.exists(watch)
            }
            _ => self.exists(watch),
        };
        if !there {
            return Status::BadWatch;
        }
        // A program of the host cannot say which one it means.
        if !host && generation != 0 && generation != self.watches[watch as usize].generation {
            return Status::BadWatch;
        }
        if flags > u32::from(is_timeout) {
            return Status::BadFlags;
        }
        let fits = match op {
            uapi::STOPWATCH_OP_TIMEOUT => arg.max(interval) <= uapi::STOPWATCH_MAX_TIMEOUT_NS,
            uapi::STOPWATCH_OP_SET_FEATURES => arg & !FEATURES == 0 && interval == 0,
            uapi::STOPWATCH_OP_SET_MODE => arg >> 32 <= 3 && interval == 0,
            _ => arg == 0 && interval == 0,
        };
        if !fits {
            return Status::BadArg;
        }
        if interval > 0 && interval < POLICY.min_interval_ns {
            return Status::Denied;
        }

        let own = self.own(watch);
        let it = &mut self.watches[watch as usize];
        let running = it.started.is_some();
        match op {
            uapi::STOPWATCH_OP_START if running => return Status::Already,
            uapi::STOPWATCH_OP_START => {
                it.started = Some(own);
                it.follow(own);
            }
            uapi::STOPWATCH_OP_PAUSE if !running => return Status::Already,
            uapi::STOPWATCH_OP_PAUSE => {
                it.elapsed = it.shows(own);
                it.started = None;
                it.follow(own);
            }
            uapi::STOPWATCH_OP_LAP if !running => return Status::Stopped,
            uapi::STOPWATCH_OP_LAP => it.laps.push(it.shows(own)),
            uapi::STOPWATCH_OP_RESET | uapi::STOPWATCH_OP_READ_RESET => it.reset(),
            uapi::STOPWATCH_OP_READ => {}
            uapi::STOPWATCH_OP_TIMEOUT => {
                let elapsed = flags == uapi::STOPWATCH_TIMEOUT_ELAPSED;
                it.timeout = (arg > 0 || elapsed).then(|| Timeout {
                    deadline: (!elapsed).then(|| own + u128::from(arg)),
                    target: elapsed.then(|| arg.into()),
                    interval: interval.into(),
                });
                it.follow(own);
            }
            uapi::STOPWATCH_OP_DELETE => self.delete(watch),
            uapi::STOPWATCH_OP_SET_MODE => {
                it.about.uid = arg as u32;
                it.about.mode = (arg >> 32) as u32;
            }
            _ => {
                self.features = arg;
                if arg & u64::from(uapi::STOPWATCH_F_TIMEOUT) == 0 {
                    self.disarm();
                }
            }
        }
        Status::Ok
    }

    fn disarm(&mut self) {
        for it in &mut self.watches {
            it.timeout = None;
        }
    }

    fn reset(&mut self) {
        self.features = 0;
        self.events.clear();
        self.disarm();
        for watch in NUMBERED..GEOMETRY.stopwatches {
            if self.watches[watch as usize].about.name == Name::NONE {
                self.delete(watch);
            }
        }
    }

    /// Deadlines, with the number of the stopwatch and its own time.
    fn deadlines(&self) -> impl Iterator<Item = (u32, u128, u128)> + '_ {
        (0u32..)
            .zip(&self.watches)
            .filter_map(|(watch, it)| Some((watch, it.timeout?.deadline?, self.own(watch))))
    }

    /// The most overdue timeout.
    fn due(&self) -> Option<(u32, u128, u128)> {
        self.deadlines()
            .filter(|(_, deadline, own)| deadline <= own)
            .min_by_key(|&(watch, deadline, own)| {
                let it = &self.watches[watch as usize];
                (
                    Reverse(own - deadline),
                    it.about.clock,
                    it.skips_paused(),
                    watch,
                )
            })
    }

    fn expire(&mut self) {
        while let Some((watch, deadline, own)) = self.due() {
            let it = &mut self.watches[watch as usize];
            let shows = it.shows(own);
            let mut timeout = it.timeout.unwrap();
            let mut count = 1;
            if timeout.interval == 0 {
                it.timeout = None;
            } else {
                let over = match timeout.target {
                    Some(target) => shows - target,
                    None => own - deadline,
                };
                count += over / timeout.interval;
                let step = count * timeout.interval;
                match &mut timeout.target {
                    Some(target) => {
                        *target += step;
                        timeout.deadline = None;
                    }
                    None => timeout.deadline = Some(deadline + step),
                }
                it.timeout = Some(timeout);
                it.follow(own);
            }
            let count = count.min(u32::MAX.into()) as u32;
            it.timeouts = it.timeouts.saturating_add(count);
            if self.events.len() < GEOMETRY.event_slots as usize {
                self.events.push_back(Event {
                    kind: uapi::STOPWATCH_EVENT_TIMEOUT as u16,
                    watch,
                    sequence: self.sequence,
                    deadline_ns: deadline as u64,
                    time_ns: own as u64,
                    timeouts: it.timeouts,
                    count,
                    generation: it.generation,
                });
            } else {
                self.lost += 1;
            }
            self.sequence += 1;
        }
    }

    /// The earliest and the latest VM time at which a timer may be set, if one
    /// has to be.
    fn next(&self) -> Option<(u128, u128)> {
        let now = self.clocks[0];
        let bounds = self.deadlines().filter_map(|(watch, deadline, own)| {
            let it = &self.watches[watch as usize];
            if it.skips_paused() && self.paused_at.is_some() && deadline > own {
                return None;
            }
            let left = deadline.saturating_sub(own);
            if it.about.clock == uapi::STOPWATCH_CLOCK_MONOTONIC {
                // While it stands still, only one that is late.
                let exact = (now + left).saturating_sub(own.saturating_sub(deadline));
                return Some(if left == 0 { (0, now) } else { (exact, exact) });
            }
            let longest = left.min(1_000_000_000);
            Some((now + longest - longest.div_ceil(512), now + longest))
        });
        bounds.reduce(|(low, high), (a, b)| (low.min(a), high.min(b)))
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Posts all of these, then serves by budgets until all are answered.
    Kick {
        ring: u32,
        asks: Vec<Ask>,
        budget: u32,
    },
    /// The host's own.
    Host(Ask),
    Laps {
        watch: u32,
        laps: u32,
    },
    /// Each clock goes as it likes.
    Wait([u64; 3]),
    Expire {
        budget: u32,
    },
    Events(usize),
    Vmm {
        paused: bool,
    },
    Reset,
}

fn watches() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 0..3u32,
        20 => NUMBERED..GEOMETRY.stopwatches,
        1 => any::<u32>(),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let ns = || {
        prop_oneof![
            4 => Just(0),
            6 => 1..200u64,
            1 => Just(uapi::STOPWATCH_MAX_TIMEOUT_NS),
            1 => any::<u64>(),
        ]
    };
    let op = prop_oneof![20 => 1..6u16, 10 => Just(6), 1 => Just(7), 3 => Just(8), 2 => Just(10),
        1 => Just(11), 1 => any::<u16>()];
    let flags = prop_oneof![10 => Just(0), 10 => Just(1), 1 => any::<u32>()];
    let wild = prop::bool::weighted(0.03);
    let generation = prop_oneof![10 => Just(0), 4 => 1..3u32, 1 => any::<u32>()];
    let all = (op, watches(), flags, ns(), ns(), generation, wild);
    all.prop_map(|(op, watch, flags, arg, interval, generation, wild)| {
        // CREATE has a form of its own, and of bindings the model knows nothing.
        let op = if matches!(op, 9 | 12 | 13) { 8 } else { op };
        // Most of the time with what fits, or little would happen.
        let (flags, arg, interval) = match op {
            _ if wild => (flags, arg, interval),
            6 => (flags, arg, if interval % 3 == 0 { 0 } else { interval }),
            7 => (0, if arg == 0 { 0 } else { FEATURES }, 0),
            11 => (0, arg & 0x3_ffff_ffff, 0),
            _ => (0, 0, 0),
        };
        let watch = if op == 7 && !wild { 0 } else { watch };
        Request {
            op,
            watch,
            flags,
            arg,
            interval,
            // Of those that are there from the beginning, mostly.
            generation: if watch < NUMBERED && !wild {
                0
            } else {
                generation
            },
        }
    })
}

fn creations() -> impl Strategy<Value = Creation> {
    let names = ["", "", "boot", "a", "b", "\u{fc}ber", "zzz"];
    (
        prop::sample::select(names.to_vec()),
        prop_oneof![20 => 0..2u32, 1 => any::<u32>()],
        any::<u32>(),
        prop_oneof![20 => 0..4u32, 1 => any::<u32>()],
        prop_oneof![20 => 0..3u32, 1 => any::<u32>()],
    )
        .prop_map(|(name, flags, uid, mode, clock)| Creation {
            name: Name::parse(name).unwrap_or_default(),
            flags,
            uid,
            mode,
            clock,
        })
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        6 => requests().prop_map(Ask::Plain),
        1 => creations().prop_map(Ask::Create),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let wait = || prop_oneof![16 => 0..300u64, 1 => 0..1u64 << 40, 1 => Just(0)];
    prop_oneof![
        12 => (0..3u32, prop::collection::vec(asks(), 1..=16), 1..20u32)
            .prop_map(|(ring, asks, budget)| Step::Kick { ring, asks, budget }),
        3 => asks().prop_map(Step::Host),
        1 => (watches(), 1..400u32).prop_map(|(watch, laps)| Step::Laps { watch, laps }),
        6 => [wait(), wait(), wait()].prop_map(Step::Wait),
        4 => (1..10u32).prop_map(|budget| Step::Expire { budget }),
        3 => (1..10usize).prop_map(Step::Events),
        2 => any::<bool>().prop_map(|paused| Step::Vmm { paused }),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn device_does_what_the_header_says(steps in prop::collection::vec(steps(), 1..60)) {
        let (mut device, mem) = device(GEOMETRY);
        let layout = *device.layout();
        let mut guest = Guest::new(&layout);
        let mut model = Model::new();
        guest.negotiate(&mut device, &mem);
        let mut resets = 0;

        for step in steps {
            let now = model.now();
            match step {
                Step::Wait(ns) => {
                    for (clock, ns) in model.clocks.iter_mut().zip(ns) {
                        *clock += u128::from(ns);
                    }
                }
                Step::Kick { ring, asks, budget } => {
                    let end = &mut guest.rings[ring as usize];
                    let tokens: Vec<_> =
                        asks.iter().map(|&ask| end.post(&mem, ask).unwrap()).collect();
                    let mut left = asks.len() as u32;
                    let before = device.next_deadline(&now);
                    let mut changed = false;
                    while left > 0 {
                        let served = device.serve(&env(&mem, &now), ring, &mut Budget::new(250 * budget));
                        prop_assert!(served.answered <= left);
                        if served.answered == 0 {
                            // A change of features, which is done in slices.
                            prop_assert!(served.more);
                            let worked = device.work(&env(&mem, &now), &mut Budget::section());
                            prop_assert_eq!(worked.answered, 0);
                            changed |= worked.deadline_changed;
                        }
                        left -= served.answered;
                        prop_assert_eq!(served.more, left > 0);
                        changed |= served.deadline_changed;
                    }
                    prop_assert!(changed || device.next_deadline(&now) == before);
                    for (ask, token) in asks.into_iter().zip(tokens) {
                        let reply = end.poll(&mem, token);
                        prop_assert_eq!(reply, Some(model.answer(ask, false)), "{:?}", ask);
                    }
                }
                Step::Host(ask) => {
                    let Some((watch, command)) = command_of(ask) else {
                        continue;
                    };
                    let before = device.next_deadline(&now);
                    let done = device.command(&env(&mem, &now), Target::Number(watch), command);
                    prop_assert_eq!(done.reply, model.answer(ask, true), "{:?}", ask);
                    prop_assert!(done.deadline_changed || device.next_deadline(&now) == before);
                }
                Step::Laps { watch, laps } => {
                    for _ in 0..laps {
                        let lap = Ask::Plain(Request {
                            op: uapi::STOPWATCH_OP_LAP as u16,
                            watch,
                            ..Request::default()
                        });
                        model.clocks[0] += 1;
                        let done = command(&mut device, &mem, &model.now(), lap);
                        prop_assert_eq!(done.reply, model.answer(lap, true));
                    }
                }
                Step::Expire { budget } => {
                    loop {
                        // Each timeout by itself, and none after the last.
                        let mut slice = Budget::new(250 * budget);
                        let expired = device.expire(&env(&mem, &now), &mut slice);
                        if expired.put + expired.lost == 0 {
                            break;
                        }
                    }
                    model.expire();
                }
                Step::Events(count) => {
                    for _ in 0..count {
                        prop_assert_eq!(guest.events.next(&mem), model.events.pop_front());
                    }
                }
                Step::Vmm { paused } => {
                    use stopwatch_protocol::memory::Memory as _;
                    let generation = mem.load(layout.vmm()) & !u64::from(u32::MAX);
                    mem.store(layout.vmm(), generation | u64::from(paused));
                    let change = device.vmm(&env(&mem, &now), &mut budget_for(u32::MAX));
                    prop_assert!(!change.reset);
                    prop_assert_eq!(change.status, paused != model.paused_at.is_some());
                    match model.paused_at {
                        None if paused => {
                            model.pauses += 1;
                            model.paused_at = Some(model.clocks);
                            model.last_pause = model.clocks[0];
                        }
                        Some(since) if !paused => {
                            for (clock, since) in since.into_iter().enumerate() {
                                model.paused[clock] += model.clocks[clock] - since;
                            }
                            model.pauses += 1;
                            model.paused_at = None;
                        }
                        _ => {}
                    }
                }
                Step::Reset => {
                    common::reset(&mut device, &mem, now);
                    guest = Guest::new(&layout);
                    model.reset();
                    resets += 1;
                }
            }

            let now = model.now();
            let mut existing = Vec::new();
            for watch in (0..3).chain(NUMBERED..GEOMETRY.stopwatches) {
                let it = &model.watches[watch as usize];
                let record = model.record(watch);
                prop_assert_eq!(Record::read(&mem, layout.record(watch).unwrap()), Some(record));
                prop_assert_eq!(
                    read(&mut device, &mem, watch, now),
                    it.exists.then(|| model.reading(watch))
                );
                prop_assert_eq!(device.describe(watch), it.exists.then_some(record));
                existing.extend(it.exists.then_some(watch));

                let total = it.laps.len();
                let oldest = total.saturating_sub(256);
                let mut laps = vec![0; total];
                let first = if watch % 2 == 0 { oldest } else { total / 2 };
                let read = Laps::read(&mem, &layout, watch, Some(first as u32), &mut laps);
                let count = if first < oldest { 0 } else { total - first };
                prop_assert_eq!(
                    read,
                    Some(Laps {
                        total: total as u32,
                        oldest: oldest as u32,
                        first: first as u32,
                        count: count as u32,
                    })
                );
                for (read, lap) in laps[..count].iter().zip(&it.laps[first..]) {
                    prop_assert_eq!(*read, *lap as u64);
                }
                let mut same = vec![0; total];
                prop_assert_eq!(
                    device.laps(&mem, watch, Some(first as u32), &mut same),
                    read.filter(|_| it.exists)
                );
                prop_assert!(!it.exists || laps == same);
            }
            prop_assert_eq!(read(&mut device, &mem, GEOMETRY.stopwatches, now), None);
            let listed: Vec<_> = std::iter::successors(device.next_existing(NUMBERED), |last| {
                device.next_existing(last + 1)
            })
            .collect();
            existing.retain(|&watch| watch >= NUMBERED);
            prop_assert_eq!(listed, existing);
            for (name, &watch) in &model.names {
                prop_assert_eq!(device.find(name), Some(watch));
            }
            let named = model.watches.iter().filter(|it| it.about.name != Name::NONE);
            prop_assert_eq!(named.count(), model.names.len());

            match (device.next_deadline(&now), model.next()) {
                (Some(next), Some((low, high))) => {
                    prop_assert!(
                        (low..=high).contains(&u128::from(next)),
                        "{} is not from {} to {}", next, low, high
                    );
                }
                (next, bounds) => prop_assert!(
                    next.is_none() && bounds.is_none(), "{:?}, but {:?}", next, bounds
                ),
            }
            prop_assert_eq!(device.features(), model.features);
            let stats = device.stats();
            prop_assert_eq!(stats.events + stats.events_lost, model.sequence);
            prop_assert_eq!(stats.resets, resets);
            let state = State::read(&mem, &layout);
            prop_assert_eq!(
                state,
                State {
                    events: model.sequence - model.lost,
                    events_lost: model.lost,
                    vmm_status: model.paused_at.is_some().into(),
                    reset_generation: resets as u32,
                    paused_ns: model.paused[0] as u64,
                    paused_since_ns: model.last_pause as u64,
                    pauses: model.pauses,
                    epoch_ns: POLICY.epoch_ns,
                }
            );
            let since = model.paused_at.map_or(0, |since| model.clocks[0] - since[0]);
            prop_assert_eq!(u128::from(device.paused_ns(&now)), model.paused[0] + since);
        }
    }
}
