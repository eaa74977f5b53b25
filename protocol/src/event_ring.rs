// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The guest's end of the event ring.

use super::memory::Memory;
use super::ring::Completer;
use super::ring::Posted;
use super::ring::Slots;
use super::slot::Event;

/// The guest's end of the event ring, after a reset of the device.
pub struct EventRing {
    completer: Completer,
    is_broken: bool,
}

impl EventRing {
    /// The guest's end of the ring in `slots`, of [`Layout::events`](super::layout::Layout::events).
    pub fn new(slots: Slots) -> Self {
        Self {
            completer: Completer::new(slots),
            is_broken: false,
        }
    }

    /// Whether an owner was found in it that no host writes. There is no event any
    /// more then.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Takes the next event, and gives its slot back to the host.
    pub fn next(&mut self, mem: &impl Memory) -> Option<Event> {
        let mut posted = Posted::default();
        if self.is_broken || !self.completer.next(mem, &mut posted) {
            return None;
        }
        if posted.bad_owner {
            self.is_broken = true;
            return None;
        }
        self.completer.give_back(mem, &posted.words);
        Some(Event::decode(&posted.words))
    }
}
