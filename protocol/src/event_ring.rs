// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The guest's end of the event ring.

use super::memory::Memory;
use super::ring::Consumer;
use super::ring::Posted;
use super::ring::Slots;
use super::slot::Event;

/// The guest's end of the event ring, after a reset of the device.
pub struct EventRing {
    consumer: Consumer,
    is_broken: bool,
}

impl EventRing {
    /// The guest's end of the ring in `slots`, of [`Layout::events`](super::layout::Layout::events).
    pub fn new(slots: Slots) -> Self {
        Self {
            consumer: Consumer::new(slots),
            is_broken: false,
        }
    }

    /// The guest's end of a ring that another one has left. `None` if its slots do not tell how
    /// far that came, or if the host put something there meanwhile: then try again.
    pub fn resume(mem: &impl Memory, slots: Slots) -> Option<Self> {
        Consumer::resume(mem, slots).map(|consumer| Self {
            consumer,
            is_broken: false,
        })
    }

    /// Whether an owner was found in it that no host writes. There is no event any
    /// more then.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Takes the next event, and gives its slot back to the host.
    pub fn next(&mut self, mem: &impl Memory) -> Option<Event> {
        let mut posted = Posted::default();
        if self.is_broken || !self.consumer.next(mem, &mut posted) {
            return None;
        }
        if posted.bad_owner {
            self.is_broken = true;
            return None;
        }
        self.consumer.give_back(mem, &posted.words);
        Some(Event::decode(&posted.words))
    }
}
