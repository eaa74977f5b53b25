// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The guest's end: posting requests, taking replies and events, reading
//! records without asking the host. What it reads was written by the host, but
//! nothing of it is used as an index here.

use super::geometry::Layout;
use super::memory::Memory;
use super::ring::Completer;
use super::ring::Place;
use super::ring::Poster;
use super::ring::Slots;
use super::slot::Event;
use super::slot::Reply;
use super::slot::Request;
use super::words::field;
use super::words::words_of;
use super::words::WORD;
use crate::uapi;

/// A request that was posted, and whose reply was not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(Place);

/// The guest's end of a request ring, after a reset of the device.
///
/// Requests may be posted before earlier ones are completed. Each has to be
/// polled until it is: its slot is not used again before.
pub struct RequestRing {
    poster: Poster,
    /// A bit for each slot whose reply was not taken.
    waiting: [u64; uapi::STOPWATCH_MAX_SLOTS as usize / 64],
}

impl RequestRing {
    /// The guest's end of the ring in `slots`, of [`Layout::ring`].
    pub fn new(slots: Slots) -> Self {
        Self {
            poster: Poster::new(slots),
            waiting: [0; uapi::STOPWATCH_MAX_SLOTS as usize / 64],
        }
    }

    /// The word of `waiting` for a place, and the bit in it.
    fn waiting(&mut self, place: Place) -> (Option<&mut u64>, u64) {
        let index = place.index(self.poster.slots());
        let word = self.waiting.get_mut(index as usize / 64);
        (word, 1 << (index % 64))
    }

    /// Posts a request, which the host sees at the latest when the ring's
    /// doorbell is rung. `None` if the ring is full.
    pub fn post(&mut self, mem: &impl Memory, request: Request) -> Option<Token> {
        if let (Some(word), bit) = self.waiting(self.poster.place()) {
            if *word & bit != 0 {
                return None;
            }
        }
        let place = self.poster.post(mem, request.encode())?;
        if let (Some(word), bit) = self.waiting(place) {
            *word |= bit;
        }
        Some(Token(place))
    }

    /// Takes the reply to a request, if it is there. It can be taken once.
    pub fn poll(&mut self, mem: &impl Memory, token: Token) -> Option<Reply> {
        let words = self.poster.completed(mem, token.0)?;
        if let (Some(word), bit) = self.waiting(token.0) {
            if *word & bit == 0 {
                return None;
            }
            *word &= !bit;
        }
        Some(Reply::decode(&words))
    }
}

/// The guest's end of the event ring, after a reset of the device.
pub struct EventRing {
    completer: Completer,
}

impl EventRing {
    /// The guest's end of the ring in `slots`, of [`Layout::events`].
    pub fn new(slots: Slots) -> Self {
        Self {
            completer: Completer::new(slots),
        }
    }

    /// Takes the next event, and gives its slot back to the host.
    pub fn next(&mut self, mem: &impl Memory) -> Option<Event> {
        let posted = self.completer.next(mem)?;
        if posted.bad_owner {
            return None;
        }
        self.completer.give_back(mem, &posted.words);
        Some(Event::decode(&posted.words))
    }
}

/// `struct stopwatch_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Put into the event ring, since the region was set.
    pub events: u64,
    /// Not put there because it was full.
    pub events_lost: u64,
}

impl State {
    /// Reads it; the fields need not be of the same moment.
    pub fn read(mem: &impl Memory, layout: &Layout) -> Self {
        let at = |offset: usize| mem.load(layout.state() + offset as u32);
        Self {
            events: at(core::mem::offset_of!(uapi::stopwatch_state, events)),
            events_lost: at(core::mem::offset_of!(uapi::stopwatch_state, events_lost)),
        }
    }
}

/// A stopwatch, as the host published it last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Whether it runs.
    pub running: bool,
    /// What it shows, without the time since `started_ns` if it runs.
    pub elapsed_ns: u64,
    /// VM time of the last start; valid while it runs.
    pub started_ns: u64,
    /// What it showed at the last lap; 0 if there was none.
    pub lap_ns: u64,
    /// VM time at which its timeout expires; 0 if none is armed.
    pub deadline_ns: u64,
    /// Laps since its last reset.
    pub laps: u32,
    /// Timeouts that expired since its last reset.
    pub timeouts: u32,
}

/// Reads the record at `offset`, of [`Layout::record`]. `None` if the host was
/// writing it: try again.
pub fn read_record(mem: &impl Memory, offset: u32) -> Option<Record> {
    let mut words = [0; words_of::<uapi::stopwatch_record>()];
    // Each acquire keeps the loads after it behind it. So the last load of the
    // count comes after all others, and it sees the odd count, or a later one,
    // if one of them saw what was written after it: pairs with the fence and
    // the release in `Stopwatch::publish()`.
    for (index, word) in (0u32..).zip(words.iter_mut()) {
        *word = mem.load_acquire(offset + index * WORD);
    }
    let seq = field!(stopwatch_record.seq);
    if seq.get(&words) % 2 != 0 || seq.get(&[mem.load(offset)]) != seq.get(&words) {
        return None;
    }
    Some(Record {
        running: field!(stopwatch_record.state).get32(&words) == uapi::STOPWATCH_RUNNING,
        elapsed_ns: field!(stopwatch_record.elapsed_ns).get(&words),
        started_ns: field!(stopwatch_record.started_ns).get(&words),
        lap_ns: field!(stopwatch_record.lap_ns).get(&words),
        deadline_ns: field!(stopwatch_record.deadline_ns).get(&words),
        laps: field!(stopwatch_record.laps).get32(&words),
        timeouts: field!(stopwatch_record.timeouts).get32(&words),
    })
}
