// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a trial is made of: a geometry, the contents of the region, and what then sets
//! the host off. It is made by chance, changed by chance, and written down as JSON.

use serde::{Deserialize, Serialize};
use stopwatch_uapi::*;

/// SplitMix64, the generator by Steele, Lea and Flood: 64 bits of state, so that an
/// input says all of its trial.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }

    pub(crate) fn one_in(&mut self, number: u32) -> bool {
        self.below(number) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }

    /// From 0 to `most`, small ones, large ones and powers of two more often.
    fn size(&mut self, most: u32) -> u32 {
        match self.below(4) {
            0 => most,
            1 => self.below(most + 1),
            2 => self.below(8.min(most) + 1),
            _ => (1 << self.below(most.max(1).ilog2() + 1)).min(most),
        }
    }
}

/// The VM times that posts are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stamps {
    /// Those of a ring after those of the ring before.
    ByRing,
    /// In turns: the next post of a ring is later than one of each other ring.
    Interleaved,
    /// All the same.
    Equal,
    /// Each before the last.
    Descending,
    /// All in the future.
    Future,
    /// By chance.
    Random,
}

/// What sets the host off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trigger {
    /// A kick of a ring.
    Kick,
    /// The VMM's word says another reset generation.
    Reset,
    /// It says another status.
    Status,
    /// The VM was stopped before it was filled; now it starts.
    Start,
    /// An operator reads a stopwatch.
    Look,
    /// An operator creates one, by name.
    Command,
    /// An operator lists all.
    List,
    /// The timeouts expire.
    Timers,
    /// An unposted SET_FEATURES.
    Features,
    /// An unposted DELETE of what all post rings are bound to.
    Delete,
    /// The file is closed.
    Close,
}

const TRIGGERS: [Trigger; 11] = [
    Trigger::Kick,
    Trigger::Reset,
    Trigger::Status,
    Trigger::Start,
    Trigger::Look,
    Trigger::Command,
    Trigger::List,
    Trigger::Timers,
    Trigger::Features,
    Trigger::Delete,
    Trigger::Close,
];

/// Operations that are put into request rings. The last is none.
const OPS: [u32; 15] = [
    STOPWATCH_OP_START,
    STOPWATCH_OP_PAUSE,
    STOPWATCH_OP_LAP,
    STOPWATCH_OP_RESET,
    STOPWATCH_OP_READ,
    STOPWATCH_OP_TIMEOUT,
    STOPWATCH_OP_SET_FEATURES,
    STOPWATCH_OP_READ_RESET,
    STOPWATCH_OP_CREATE,
    STOPWATCH_OP_DELETE,
    STOPWATCH_OP_SET_MODE,
    STOPWATCH_OP_BIND,
    STOPWATCH_OP_UNBIND,
    STOPWATCH_OP_POWER_OFF,
    0xffff,
];

/// A trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Input {
    /// For all that is by chance in it.
    pub(crate) seed: u64,
    pub(crate) stopwatches: u32,
    pub(crate) rings: u32,
    pub(crate) ring_slots: u32,
    pub(crate) event_slots: u32,
    /// How many stopwatches are created before.
    pub(crate) created: u32,
    /// Whether these have names.
    pub(crate) named: bool,
    /// Post rings that are bound.
    pub(crate) bound: u32,
    /// Whether all are bound to the same stopwatch.
    pub(crate) one_watch: bool,
    /// Posts in each of them.
    pub(crate) posts: u32,
    /// Requests in each request ring.
    pub(crate) requests: u32,
    /// Request rings that have some.
    pub(crate) filled: u32,
    pub(crate) stamps: Stamps,
    /// Of 256 requests so many are posted ones.
    pub(crate) posted: u32,
    /// The operations of the others, by bits of [`OPS`].
    pub(crate) ops: u32,
    /// Of 256 requests so many have a wrong bit somewhere.
    pub(crate) wrong: u32,
    /// Timeouts that are armed before.
    pub(crate) timers: u32,
    /// Whether these are periodic.
    pub(crate) periodic: bool,
    /// Whether calls and kicks have listeners in an epoll instance.
    pub(crate) epoll: bool,
    pub(crate) trigger: Trigger,
}

impl Input {
    /// One that is known to be hard, of those that this program begins with.
    pub(crate) fn known() -> Vec<Self> {
        let largest = Self {
            seed: 1,
            stopwatches: 4096,
            rings: 64,
            ring_slots: 4096,
            event_slots: 4096,
            created: 0,
            named: false,
            bound: 0,
            one_watch: false,
            posts: 0,
            requests: 0,
            filled: 64,
            stamps: Stamps::ByRing,
            posted: 256,
            ops: 1 << 4,
            wrong: 0,
            timers: 0,
            periodic: false,
            epoll: false,
            trigger: Trigger::Kick,
        };
        let small = Self {
            stopwatches: 128,
            rings: 1,
            ring_slots: 256,
            event_slots: 64,
            filled: 1,
            ..largest.clone()
        };
        let interleaved = Self {
            ring_slots: 64,
            bound: 32,
            posts: 256,
            requests: 64,
            stamps: Stamps::Interleaved,
            stopwatches: 128,
            ..largest.clone()
        };
        vec![
            small.clone(),
            Self {
                requests: 256,
                posted: 0,
                ..small.clone()
            },
            interleaved.clone(),
            Self {
                trigger: Trigger::Look,
                ..interleaved.clone()
            },
            Self {
                trigger: Trigger::Start,
                ..interleaved.clone()
            },
            Self {
                trigger: Trigger::Command,
                ..interleaved.clone()
            },
            Self {
                trigger: Trigger::Reset,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::Reset,
                created: 1024,
                timers: 1024,
                bound: 32,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::Features,
                created: 512,
                timers: 576,
                bound: 32,
                ring_slots: 64,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::Timers,
                created: 512,
                timers: 576,
                ring_slots: 64,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::Timers,
                timers: 64,
                stopwatches: 64,
                periodic: true,
                rings: 64,
                ring_slots: 8,
                ..small.clone()
            },
            Self {
                trigger: Trigger::Delete,
                created: 64,
                named: true,
                bound: 32,
                one_watch: true,
                ring_slots: 64,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::Status,
                posts: 256,
                bound: 32,
                ..small.clone()
            },
            Self {
                requests: 64,
                ops: 1 << 8,
                posted: 0,
                named: true,
                ring_slots: 64,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::List,
                created: 512,
                named: true,
                ring_slots: 64,
                ..largest.clone()
            },
            Self {
                trigger: Trigger::Close,
                created: 512,
                timers: 512,
                ring_slots: 64,
                ..largest
            },
        ]
    }

    /// One by chance.
    pub(crate) fn random(chance: &mut Chance) -> Self {
        let mut input = Self::known().swap_remove(0);
        for _ in 0..40 {
            input.change(chance);
        }
        input.seed = chance.next();
        input.fitting()
    }

    /// Another one, not far from it.
    pub(crate) fn changed(&self, chance: &mut Chance) -> Self {
        let mut input = self.clone();
        for _ in 0..=chance.below(3) {
            input.change(chance);
        }
        input.fitting()
    }

    fn change(&mut self, chance: &mut Chance) {
        let many = if chance.one_in(4) { 4096 } else { 256 };
        match chance.below(20) {
            0 => self.seed = chance.next(),
            1 => self.stopwatches = chance.size(STOPWATCH_MAX_STOPWATCHES).max(1),
            2 => self.rings = chance.size(STOPWATCH_MAX_RINGS).max(1),
            // Large ones take long to be made, and most is the same with smaller ones.
            3 => self.ring_slots = 8 << chance.of(&[0, 1, 2, 3, 3, 3, 4, 5, 5, 6, 9]),
            4 => self.event_slots = 8 << chance.below(10),
            5 => self.created = chance.size(many),
            6 => self.named = !self.named,
            7 => self.bound = chance.size(STOPWATCH_MAX_POST_RINGS),
            8 => self.one_watch = !self.one_watch,
            9 => self.posts = chance.size(STOPWATCH_POST_SLOTS),
            10 => self.requests = chance.size(self.ring_slots),
            11 => self.filled = chance.size(self.rings).max(1),
            12 => {
                self.stamps = chance.of(&[
                    Stamps::ByRing,
                    Stamps::Interleaved,
                    Stamps::Interleaved,
                    Stamps::Equal,
                    Stamps::Descending,
                    Stamps::Future,
                    Stamps::Random,
                ]);
            }
            13 => self.posted = chance.of(&[0, 128, 192, 250, 255, 256]),
            14 => self.ops ^= 1 << chance.below(OPS.len() as u32),
            15 => self.ops = 1 << chance.below(OPS.len() as u32),
            16 => self.wrong = chance.of(&[0, 0, 4, 64, 256]),
            17 => self.timers = chance.size(many),
            18 => self.periodic = !self.periodic,
            _ => match chance.below(4) {
                0 => self.epoll = !self.epoll,
                _ => self.trigger = chance.of(&TRIGGERS),
            },
        }
    }

    /// With nothing in it that the geometry has no place for.
    fn fitting(mut self) -> Self {
        // Memory for a second of zeroing, not for ten.
        if self.rings > 16 && self.ring_slots > 512 && self.stopwatches > 256 {
            self.ring_slots = 64;
        }
        self.filled = self.filled.clamp(1, self.rings);
        self.requests = self.requests.min(self.ring_slots);
        self.created = self
            .created
            .min(self.stopwatches.saturating_sub(STOPWATCH_NUMBERED));
        self.timers = self
            .timers
            .min(self.stopwatches.min(STOPWATCH_NUMBERED) + self.created);
        self
    }

    /// An operation that is not posted.
    pub(crate) fn op(&self, chance: &mut Chance) -> u32 {
        let all: Vec<u32> = (0..OPS.len())
            .filter(|index| (self.ops >> index) & 1 != 0)
            .map(|index| OPS[index])
            .collect();
        if all.is_empty() {
            return STOPWATCH_OP_READ;
        }
        chance.of(&all)
    }

    /// A posted operation.
    pub(crate) fn posted_op(chance: &mut Chance) -> u32 {
        chance.of(&[
            STOPWATCH_OP_START,
            STOPWATCH_OP_PAUSE,
            STOPWATCH_OP_LAP,
            STOPWATCH_OP_RESET,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_says_all_of_its_trial() {
        let mut chance = Chance::new(7);
        for _ in 0..200 {
            let input = Input::random(&mut chance).changed(&mut chance);
            assert!(input.filled <= input.rings && input.requests <= input.ring_slots);
            assert!(input.ring_slots.is_power_of_two() && input.event_slots.is_power_of_two());
            let text = serde_json::to_string(&input).unwrap();
            assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), input);
        }
    }
}
