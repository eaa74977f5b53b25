// SPDX-License-Identifier: GPL-2.0

//! A request ring as this driver uses it: many callers, and commands that nobody waits for.
//!
//! How slots are posted and completed is in `protocol/`. What is added here is when the doorbell is
//! due: posted commands are left in the ring until then.

use core::ops::{
    Deref,
    DerefMut, //
};

use crate::protocol::{
    request_ring::RequestRing,
    ring::Slots, //
};

/// The guest's end of a request ring.
pub(crate) struct Ring {
    ring: RequestRing,
    /// Commands posted since the doorbell was rung last.
    posted: u32,
    /// As many as may be left in the ring: with half of it free, a host that is late is no reason
    /// to wait.
    pressure: u32,
}

impl Ring {
    /// An empty ring in `slots`.
    pub(crate) fn new(slots: Slots) -> Self {
        Self {
            ring: RequestRing::new(slots),
            posted: 0,
            pressure: slots.count() / 2,
        }
    }

    /// Notes that a command was posted. Whether the doorbell is due.
    #[inline]
    pub(crate) fn note_posted(&mut self) -> bool {
        self.posted += 1;
        self.posted >= self.pressure
    }

    /// Notes that the doorbell is going to be rung. Whether there was something for it.
    #[inline]
    pub(crate) fn note_doorbell(&mut self) -> bool {
        core::mem::take(&mut self.posted) != 0
    }
}

impl Deref for Ring {
    type Target = RequestRing;

    fn deref(&self) -> &RequestRing {
        &self.ring
    }
}

impl DerefMut for Ring {
    fn deref_mut(&mut self) -> &mut RequestRing {
        &mut self.ring
    }
}
