// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A device against a model of the header's words that is as plain as can be:
//! wide integers, linear searches, no rings.

mod common;

use std::collections::VecDeque;

use proptest::prelude::*;

use common::{device, Guest};
use stopwatch_engine::guest::{read_record, Record};
use stopwatch_engine::{uapi, Event, Geometry, Reading, Reply, Request, Status, FEATURES};

#[derive(Clone, Default)]
struct Watch {
    elapsed: u128,
    started: Option<u128>,
    lap: u128,
    laps: u32,
    timeouts: u32,
    deadline: Option<u128>,
}

#[derive(Clone)]
struct Model {
    watches: Vec<Watch>,
    features: u64,
    now: u128,
    events: VecDeque<Event>,
    room: usize,
    sequence: u64,
}

impl Model {
    fn reading(&self, watch: u32) -> Reading {
        let it = &self.watches[watch as usize];
        let running = it.started.map_or(0, |started| self.now - started);
        Reading {
            elapsed_ns: (it.elapsed + running) as u64,
            time_ns: self.now as u64,
            lap_ns: it.lap as u64,
            deadline_ns: it.deadline.unwrap_or(0) as u64,
            running: it.started.is_some(),
            laps: it.laps,
            timeouts: it.timeouts,
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        let status = self.execute(request);
        let bad = status.to_wire() >= uapi::STOPWATCH_S_BAD_OP;
        Reply {
            status: Ok(status),
            reading: if bad {
                Reading::default()
            } else {
                self.reading(request.watch)
            },
        }
    }

    fn execute(&mut self, Request { op, watch, arg }: Request) -> Status {
        let op = u32::from(op);
        if !(1..=7).contains(&op) || op == uapi::STOPWATCH_OP_TIMEOUT && self.features & 1 == 0 {
            return Status::BadOp;
        }
        if watch as usize >= self.watches.len()
            || op == uapi::STOPWATCH_OP_SET_FEATURES && watch != 0
        {
            return Status::BadWatch;
        }
        let limit = match op {
            uapi::STOPWATCH_OP_TIMEOUT => uapi::STOPWATCH_MAX_TIMEOUT_NS,
            uapi::STOPWATCH_OP_SET_FEATURES => FEATURES,
            _ => 0,
        };
        if arg > limit {
            return Status::BadArg;
        }
        let now = self.now;
        let elapsed = u128::from(self.reading(watch).elapsed_ns);
        let it = &mut self.watches[watch as usize];
        let running = it.started.is_some();
        match op {
            uapi::STOPWATCH_OP_START if running => return Status::Already,
            uapi::STOPWATCH_OP_START => it.started = Some(now),
            uapi::STOPWATCH_OP_PAUSE if !running => return Status::Already,
            uapi::STOPWATCH_OP_PAUSE => {
                it.elapsed = elapsed;
                it.started = None;
            }
            uapi::STOPWATCH_OP_LAP if !running => return Status::Stopped,
            uapi::STOPWATCH_OP_LAP => {
                it.lap = elapsed;
                it.laps += 1;
            }
            uapi::STOPWATCH_OP_RESET => *it = Watch::default(),
            uapi::STOPWATCH_OP_READ => {}
            uapi::STOPWATCH_OP_TIMEOUT => it.deadline = (arg > 0).then(|| now + u128::from(arg)),
            _ => {
                self.features = arg;
                if arg == 0 {
                    self.disarm();
                }
            }
        }
        Status::Ok
    }

    fn disarm(&mut self) {
        for it in &mut self.watches {
            it.deadline = None;
        }
    }

    fn next(&self) -> Option<(u128, u32)> {
        (0u32..)
            .zip(&self.watches)
            .filter_map(|(watch, it)| Some((it.deadline?, watch)))
            .min()
    }

    fn expire(&mut self) {
        while let Some((deadline, watch)) = self.next().filter(|next| next.0 <= self.now) {
            let it = &mut self.watches[watch as usize];
            it.deadline = None;
            it.timeouts += 1;
            if self.events.len() < self.room {
                self.events.push_back(Event {
                    kind: uapi::STOPWATCH_EVENT_TIMEOUT as u16,
                    watch,
                    sequence: self.sequence,
                    deadline_ns: deadline as u64,
                    time_ns: self.now as u64,
                    timeouts: it.timeouts,
                });
            }
            self.sequence += 1;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Posts all of these, then serves by budgets until all are answered.
    Kick {
        ring: u32,
        requests: Vec<Request>,
        budget: u32,
    },
    Wait(u64),
    Expire {
        budget: u32,
    },
    Events(usize),
    Reset,
}

const GEOMETRY: Geometry = Geometry {
    stopwatches: 5,
    rings: 3,
    ring_slots: 16,
    event_slots: 8,
};

fn requests() -> impl Strategy<Value = Request> {
    let arg = prop_oneof![
        6 => Just(0),
        3 => 1..200u64,
        1 => Just(uapi::STOPWATCH_MAX_TIMEOUT_NS),
        1 => any::<u64>(),
    ];
    let op = prop_oneof![20 => 1..7u16, 2 => Just(7), 1 => any::<u16>()];
    let watch = prop_oneof![20 => 0..5u32, 1 => any::<u32>()];
    (op, watch, arg).prop_map(|(op, watch, arg)| {
        // Most of the time with an argument that fits, or little would happen.
        let arg = if op < 6 && arg < 200 { 0 } else { arg };
        Request { op, watch, arg }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3u32, prop::collection::vec(requests(), 1..=16), 1..20u32)
            .prop_map(|(ring, requests, budget)| Step::Kick { ring, requests, budget }),
        6 => prop_oneof![8 => 0..300u64, 1 => 0..1u64 << 40].prop_map(Step::Wait),
        4 => (1..10u32).prop_map(|budget| Step::Expire { budget }),
        3 => (1..10usize).prop_map(Step::Events),
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
        let mut model = Model {
            watches: vec![Watch::default(); GEOMETRY.stopwatches as usize],
            features: 0,
            now: 0,
            events: VecDeque::new(),
            room: GEOMETRY.event_slots as usize,
            sequence: 0,
        };
        guest.negotiate(&mut device, &mem);
        model.features = FEATURES;
        let mut resets = 0;

        for step in steps {
            let now = model.now as u64;
            match step {
                Step::Wait(ns) => model.now += u128::from(ns),
                Step::Kick { ring, requests, budget } => {
                    let end = &mut guest.rings[ring as usize];
                    let tokens: Vec<_> = requests
                        .iter()
                        .map(|&request| end.post(&mem, request).unwrap())
                        .collect();
                    let mut left = requests.len() as u32;
                    while left > 0 {
                        let served = device.serve(&mem, ring, now, budget);
                        prop_assert_eq!(served.answered, left.min(budget));
                        left -= served.answered;
                        prop_assert_eq!(served.more, left > 0);
                    }
                    for (request, token) in requests.into_iter().zip(tokens) {
                        let reply = end.poll(&mem, token);
                        prop_assert_eq!(reply, Some(model.answer(request)), "{:?}", request);
                    }
                }
                Step::Expire { budget } => {
                    loop {
                        let expired = device.expire(&mem, now, budget);
                        if expired.next.is_none_or(|next| next > now) {
                            break;
                        }
                        prop_assert_eq!(expired.put + expired.lost, budget);
                    }
                    model.expire();
                }
                Step::Events(count) => {
                    for _ in 0..count {
                        prop_assert_eq!(guest.events.next(&mem), model.events.pop_front());
                    }
                }
                Step::Reset => {
                    device.reset(&mem);
                    guest = Guest::new(&layout);
                    model.features = 0;
                    model.events.clear();
                    model.disarm();
                    resets += 1;
                }
            }

            let now = model.now as u64;
            for watch in 0..GEOMETRY.stopwatches {
                let reading = model.reading(watch);
                prop_assert_eq!(device.read(watch, now), Some(reading));
                let it = &model.watches[watch as usize];
                let record = Record {
                    running: reading.running,
                    elapsed_ns: it.elapsed as u64,
                    started_ns: it.started.unwrap_or(0) as u64,
                    lap_ns: reading.lap_ns,
                    deadline_ns: reading.deadline_ns,
                    laps: reading.laps,
                    timeouts: reading.timeouts,
                };
                prop_assert_eq!(read_record(&mem, layout.record(watch).unwrap()), Some(record));
            }
            prop_assert_eq!(device.read(GEOMETRY.stopwatches, now), None);
            prop_assert_eq!(device.next_deadline(), model.next().map(|next| next.0 as u64));
            prop_assert_eq!(device.features(), model.features);
            let stats = device.stats();
            prop_assert_eq!(stats.events + stats.events_lost, model.sequence);
            prop_assert_eq!(stats.resets, resets);
        }
    }
}
