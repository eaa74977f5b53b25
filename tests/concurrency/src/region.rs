// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region of loom's atomics, a device in it, and the exploration of a model.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::AtomicU64 as Counter;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{fence, AtomicU64, Ordering};
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::Device;
use stopwatch_engine::environment::{Clock, Environment};
use stopwatch_engine::policy::{Policy, FEATURES};
use stopwatch_engine::storage::Storage;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{Reply, Request, Status};
use stopwatch_protocol::uapi;

/// What is left out of the orderings that the engine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weak {
    /// Nothing.
    No,
    /// Stores with release semantics have none.
    Release,
    /// Loads with acquire semantics have none.
    Acquire,
    /// The fence between stores is not there.
    FenceRelease,
    /// The fence between loads is not there.
    FenceAcquire,
    /// An exchange is two steps.
    Exchange,
}

/// A region. The words of some ranges are loom's; the others are of one thread at a
/// time, and nothing is explored there.
pub(crate) struct Region {
    shared: BTreeMap<u32, AtomicU64>,
    private: Mutex<Vec<u64>>,
    weak: Weak,
    turn: Turn,
    exchanged: std::sync::atomic::AtomicBool,
}

/// Where any thread may have its turn. Loom looks for other orders only where the
/// last access to the same word was another thread's, so that it finds none if a
/// thread has read the word that it writes. A store that nobody reads is such an
/// access, and orders nothing.
#[derive(Default)]
pub(crate) struct Turn(AtomicU64);

impl Turn {
    pub(crate) fn give(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Region {
    /// A region that is all zero.
    pub(crate) fn new(layout: &Layout, shared: &[Range<u32>], weak: Weak) -> Self {
        let words = shared.iter().flat_map(|range| range.clone().step_by(8));
        Self {
            shared: words.map(|offset| (offset, AtomicU64::new(0))).collect(),
            private: Mutex::new(vec![0; layout.region_size() as usize / 8]),
            weak,
            turn: Turn::default(),
            exchanged: false.into(),
        }
    }

    /// To be said where words are exchanged. Loom does not know that nothing comes between
    /// what an exchange has read and what it has written, unless a store is one, too.
    pub(crate) fn is_exchanged(&self) {
        self.exchanged
            .store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn read(&self, offset: u32, ordering: Ordering) -> u64 {
        match self.shared.get(&offset) {
            Some(word) => {
                self.turn.give();
                word.load(ordering)
            }
            None => self.private.lock().unwrap()[offset as usize / 8],
        }
    }

    fn write(&self, offset: u32, value: u64, ordering: Ordering) {
        match self.shared.get(&offset) {
            Some(word) => {
                self.turn.give();
                if self.exchanged.load(std::sync::atomic::Ordering::SeqCst) {
                    word.swap(value, ordering);
                } else {
                    word.store(value, ordering);
                }
            }
            None => self.private.lock().unwrap()[offset as usize / 8] = value,
        }
    }

    fn unless(&self, weak: Weak, ordering: Ordering) -> Ordering {
        if self.weak == weak {
            Ordering::Relaxed
        } else {
            ordering
        }
    }
}

impl Memory for Region {
    fn load(&self, offset: u32) -> u64 {
        self.read(offset, Ordering::Relaxed)
    }
    fn load_acquire(&self, offset: u32) -> u64 {
        self.read(offset, self.unless(Weak::Acquire, Ordering::Acquire))
    }
    fn store(&self, offset: u32, value: u64) {
        self.write(offset, value, Ordering::Relaxed);
    }
    fn store_release(&self, offset: u32, value: u64) {
        let ordering = self.unless(Weak::Release, Ordering::Release);
        self.write(offset, value, ordering);
    }
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        let Some(word) = self.shared.get(&offset) else {
            let word = &mut self.private.lock().unwrap()[offset as usize / 8];
            return *word == old && std::mem::replace(word, new) == old;
        };
        self.turn.give();
        if self.weak != Weak::Exchange {
            let (ok, relaxed) = (Ordering::Release, Ordering::Relaxed);
            return word.compare_exchange(old, new, ok, relaxed).is_ok();
        }
        let is = word.load(Ordering::Acquire) == old;
        if is {
            self.turn.give();
            word.store(new, Ordering::Release);
        }
        is
    }
    fn fence_release(&self) {
        if self.weak != Weak::FenceRelease {
            fence(Ordering::Release);
        }
    }
    fn fence_acquire(&self) {
        if self.weak != Weak::FenceAcquire {
            fence(Ordering::Acquire);
        }
    }
}

/// The engine's arrays.
pub(crate) struct Heap;

impl Storage for Heap {
    type Slice<T: Copy> = Vec<T>;
    type Error = Infallible;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Infallible> {
        Ok(vec![value; len])
    }
}

/// Clocks that go on by 1 ns with each look, and order nothing else.
#[derive(Clone, Default)]
pub(crate) struct Ticks(Arc<Counter>);

impl Ticks {
    /// They show so much from now on.
    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, std::sync::atomic::Ordering::SeqCst);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
    }
}

impl Clock for Ticks {
    fn now(&self, _: ClockId) -> u64 {
        self.read()
    }
}

/// What is around the host's end.
struct Around<'a>(&'a Region, &'a Ticks);

impl Environment for Around<'_> {
    fn memory(&self) -> &impl Memory {
        self.0
    }
    fn clock(&self) -> &impl Clock {
        self.1
    }
}

/// The host's end.
pub(crate) struct Host {
    device: Device<Heap>,
    pub(crate) mem: Arc<Region>,
    pub(crate) clock: Ticks,
}

/// As small as a device gets.
pub(crate) fn layout(rings: u32) -> Layout {
    Layout::new(Geometry {
        stopwatches: 1,
        rings,
        ring_slots: uapi::STOPWATCH_MIN_SLOTS,
        event_slots: uapi::STOPWATCH_MIN_SLOTS,
    })
    .unwrap()
}

impl Host {
    /// A device, published, of which the words of some ranges are looked at.
    pub(crate) fn new(layout: Layout, shared: &[Range<u32>], weak: Weak) -> Self {
        let policy = Policy {
            features: FEATURES,
            min_interval_ns: 1,
            epoch_ns: 0,
        };
        let mem = Arc::new(Region::new(&layout, shared, weak));
        let Ok(mut device) = Device::new(layout, policy);
        device.publish_all(&*mem);
        Self {
            device,
            mem,
            clock: Ticks::default(),
        }
    }

    /// Serves a kick. How many requests it answered.
    pub(crate) fn kick(&mut self, ring: u32) -> u32 {
        let around = Around(&self.mem, &self.clock);
        let served = self.device.serve(&around, ring, &mut Budget::new(u32::MAX));
        assert_eq!(served.bad, 0, "half a request: nobody posted that");
        served.answered
    }

    /// The timer runs. How many events it put, and how many were lost.
    pub(crate) fn expire(&mut self) -> (u32, u32) {
        let around = Around(&self.mem, &self.clock);
        let expired = self.device.expire(&around, &mut Budget::new(u32::MAX));
        (expired.put, expired.lost)
    }

    pub(crate) fn features(&self) -> u64 {
        self.device.features()
    }

    /// Has a request of the guest's answered, while nobody else is there.
    pub(crate) fn call(&mut self, ring: &mut RequestRing, number: u32, request: Request) -> Reply {
        let token = ring.post(&*self.mem, request).unwrap();
        self.kick(number);
        let reply = ring.poll(&*self.mem, token).unwrap();
        assert_eq!(reply.status, Ok(Status::Ok));
        reply
    }
}

pub(crate) fn request(op: u32, arg: u64) -> Request {
    Request {
        op: op as u16,
        arg,
        ..Request::default()
    }
}

/// A request that binds post ring 0 or ends that, with a ticket.
pub(crate) fn binding(op: u32, ticket: u64) -> Request {
    Request {
        interval: ticket,
        ..request(op, 0)
    }
}

/// Explores a model with up to so many preemptions.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let orders = Arc::new(Counter::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let counted = orders.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        model();
    });
    let orders = orders.load(std::sync::atomic::Ordering::SeqCst);
    assert!(orders > 20, "only {orders} orders were explored");
    println!("{orders} orders");
}

/// Explores a model in which something is wrong, which has to be found, in these
/// words.
pub(crate) fn finds(words: &str, preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| explore(preemptions, model)));
    let payload = found.expect_err("the fault was not found");
    let said = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|it| (*it).to_owned()))
        .unwrap_or_default();
    assert!(said.contains(words), "found something else: {said}");
}
