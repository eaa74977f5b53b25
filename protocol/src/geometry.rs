// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! How much a device has.

use core::fmt;

use crate::uapi;

/// How much a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Stopwatches.
    pub stopwatches: u32,
    /// Request rings.
    pub rings: u32,
    /// Slots of each request ring.
    pub ring_slots: u32,
    /// Slots of the event ring.
    pub event_slots: u32,
}

/// A count that no device of this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// Of stopwatches.
    Stopwatches(u32),
    /// Of request rings.
    Rings(u32),
    /// Of slots of a request ring.
    RingSlots(u32),
    /// Of slots of the event ring.
    EventSlots(u32),
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = (uapi::STOPWATCH_MIN_SLOTS, uapi::STOPWATCH_MAX_SLOTS);
        let (what, (min, max), got) = match *self {
            Self::Stopwatches(got) => (
                "stopwatches must be",
                (
                    uapi::STOPWATCH_MIN_STOPWATCHES,
                    uapi::STOPWATCH_MAX_STOPWATCHES,
                ),
                got,
            ),
            Self::Rings(got) => (
                "rings must be",
                (uapi::STOPWATCH_MIN_RINGS, uapi::STOPWATCH_MAX_RINGS),
                got,
            ),
            Self::RingSlots(got) => ("ring slots must be a power of two", slots, got),
            Self::EventSlots(got) => ("event slots must be a power of two", slots, got),
        };
        write!(f, "{what} from {min} to {max}, got {got}")
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// Holds the counts against the limits of the header.
    pub fn check(self) -> Result<(), GeometryError> {
        let slots_fit = |slots: u32| {
            slots.is_power_of_two()
                && (uapi::STOPWATCH_MIN_SLOTS..=uapi::STOPWATCH_MAX_SLOTS).contains(&slots)
        };
        let watches = uapi::STOPWATCH_MIN_STOPWATCHES..=uapi::STOPWATCH_MAX_STOPWATCHES;
        if !watches.contains(&self.stopwatches) {
            return Err(GeometryError::Stopwatches(self.stopwatches));
        }
        if !(uapi::STOPWATCH_MIN_RINGS..=uapi::STOPWATCH_MAX_RINGS).contains(&self.rings) {
            return Err(GeometryError::Rings(self.rings));
        }
        if !slots_fit(self.ring_slots) {
            return Err(GeometryError::RingSlots(self.ring_slots));
        }
        if !slots_fit(self.event_slots) {
            return Err(GeometryError::EventSlots(self.event_slots));
        }
        Ok(())
    }

    /// The bytes of a ring of `slots`.
    pub fn ring_size(slots: u32) -> u32 {
        slots * uapi::STOPWATCH_SLOT_SIZE
    }
}
