// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The state of the whole device, as the host publishes it.

use super::layout::Layout;
use super::memory::Memory;
use super::words::field;
use super::words::load_from;
use super::words::words_of;
use crate::uapi;
use core::mem::offset_of;

/// `struct stopwatch_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Put into the event ring, since the region was set.
    pub events: u64,
    /// Not put there because it was full.
    pub events_lost: u64,
    /// `STOPWATCH_VMM_*`.
    pub vmm_status: u32,
    /// Of the last reset of the device that is complete.
    pub reset_generation: u32,
    /// Of VM time in which the VM was paused, up to the last resume.
    pub paused_ns: u64,
    /// Pauses and resumes so far: odd while the VM is paused.
    pub pauses: u64,
    /// VM time of the last pause.
    pub paused_since_ns: u64,
    /// The host's `CLOCK_MONOTONIC` at VM time 0, if the guest may know; else 0.
    pub epoch_ns: u64,
}

impl State {
    /// Reads it; the fields need not be of the same moment.
    pub fn read(mem: &impl Memory, layout: &Layout) -> Self {
        let mut words = [0; words_of::<uapi::stopwatch_state>()];
        load_from(mem, layout.state(), &mut words, 0);
        Self {
            events: field!(stopwatch_state.events).get(&words),
            events_lost: field!(stopwatch_state.events_lost).get(&words),
            vmm_status: field!(stopwatch_state.vmm_status).get32(&words),
            reset_generation: field!(stopwatch_state.reset_generation).get32(&words),
            paused_ns: field!(stopwatch_state.paused_ns).get(&words),
            pauses: field!(stopwatch_state.pauses).get(&words),
            paused_since_ns: field!(stopwatch_state.paused_since_ns).get(&words),
            epoch_ns: field!(stopwatch_state.epoch_ns).get(&words),
        }
    }
}

/// Of the last reset that is complete. Whatever the reset did is seen by what is read
/// after that.
pub fn reset_generation(mem: &impl Memory, layout: &Layout) -> u32 {
    let generation = field!(stopwatch_state.reset_generation);
    // Pairs with the release in `Device::publish_state()`.
    generation.get32_of(mem.load_acquire(layout.state() + generation.offset()))
}

/// How often the VM was paused and resumed, and for how long it was paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Pauses and resumes so far: odd while the VM is paused.
    pub count: u64,
    /// Of VM time in which it was paused, up to the last resume. It goes with `count`,
    /// or with a later one.
    pub paused_ns: u64,
}

impl Pauses {
    /// Whether the VM is paused.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.count % 2 != 0
    }
}

/// Reads of the state how often the VM was paused and resumed.
#[inline]
pub fn count_pauses(mem: &impl Memory, layout: &Layout) -> u64 {
    const PAUSES: u32 = offset_of!(uapi::stopwatch_state, pauses) as u32;
    const { assert!(PAUSES % 8 == 0) };
    // Acquire: pairs with the release in `Device::publish_state()`.
    mem.load_acquire(layout.state() + PAUSES)
}

/// Reads of the state what it says of pauses.
#[inline]
pub fn read_pauses(mem: &impl Memory, layout: &Layout) -> Pauses {
    const PAUSED: u32 = offset_of!(uapi::stopwatch_state, paused_ns) as u32;
    const { assert!(PAUSED % 8 == 0) };
    // In this order: a count that is still so later had this time with it.
    let count = count_pauses(mem, layout);
    Pauses {
        count,
        paused_ns: mem.load(layout.state() + PAUSED),
    }
}
