// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which stopwatch has a number, and whose it is: parts of a record, read without the
//! others.

use super::memory::Memory;
use super::words::field;
use crate::uapi;

/// Reads of the record at `offset` the first word, and what `others` reads beside
/// it. `None` if the host was writing it.
#[inline(always)]
fn glimpse<T>(mem: &impl Memory, offset: u32, others: impl FnOnce(u64) -> T) -> Option<T> {
    // Acquire, and the fence: the others are read after the count, and before it
    // is read again. Pairs with the release and the fence in `Record::publish()`.
    let first = mem.load_acquire(offset);
    let others = others(first);
    mem.fence_acquire();
    let is_odd = field!(stopwatch_record.seq).of(first) % 2 != 0;
    (!is_odd && mem.load(offset) == first).then_some(others)
}

/// Reads the word of the record at `offset` that has a field.
macro_rules! load {
    ($mem:ident, $offset:ident, $field:ident) => {
        $mem.load($offset.wrapping_add(field!(stopwatch_record.$field).offset()))
    };
}

// Those that come in one word.
const _: () = assert!(field!(stopwatch_record.uid).is_beside(field!(stopwatch_record.mode)));
const _: () = assert!(field!(stopwatch_record.seq).is_beside(field!(stopwatch_record.flags)));

/// Which stopwatch has a number, whose it is, and what others may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Whether there is a stopwatch of that number.
    pub exists: bool,
    /// The guest's user who created it.
    pub uid: u32,
    /// `STOPWATCH_MODE_*`.
    pub mode: u32,
    /// Which of those that had its number.
    pub generation: u32,
}

/// What somebody wants of a stopwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it, and know that it exists.
    See,
    /// All that changes it, but what its owner only may.
    Control,
    /// To delete it, or say what others may.
    Own,
    /// That, and that it is this user's from then on.
    Give(u32),
}

impl Ownership {
    /// Whether owner and mode let a user without privileges.
    #[inline]
    pub fn lets(&self, uid: u32, access: Access) -> bool {
        let modes = match access {
            Access::See => uapi::STOPWATCH_MODE_READ | uapi::STOPWATCH_MODE_CONTROL,
            Access::Control => uapi::STOPWATCH_MODE_CONTROL,
            Access::Own => 0,
            // Who has it may not be made to have it: it would count for that user's quota.
            Access::Give(to) => return self.exists && self.uid == uid && to == uid,
        };
        self.exists && (self.uid == uid || self.mode & modes != 0)
    }
}

/// Reads of the record at `offset` only whose it is. `None` if the host was
/// writing it: try again.
#[inline]
pub fn read_ownership(mem: &impl Memory, offset: u32) -> Option<Ownership> {
    glimpse(mem, offset, |first| {
        let user = load!(mem, offset, uid);
        let generation = load!(mem, offset, generation);
        let flags = field!(stopwatch_record.flags).get32_of(first);
        Ownership {
            exists: flags & uapi::STOPWATCH_RECORD_EXISTS != 0,
            uid: field!(stopwatch_record.uid).of(user) as u32,
            mode: field!(stopwatch_record.mode).of(user) as u32,
            generation: field!(stopwatch_record.generation).of(generation) as u32,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use crate::atomic_words::AtomicWords;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn owner_and_mode_let_whom_the_header_says() {
        const OWNER: u32 = 1000;
        const OTHER: u32 = 1001;
        let all = [Access::See, Access::Control, Access::Own];
        for (mode, others) in [
            (0, [false, false, false]),
            (uapi::STOPWATCH_MODE_READ, [true, false, false]),
            (uapi::STOPWATCH_MODE_CONTROL, [true, true, false]),
        ] {
            let ownership = Ownership {
                exists: true,
                uid: OWNER,
                mode,
                generation: 1,
            };
            assert_eq!(all.map(|access| ownership.lets(OWNER, access)), [true; 3]);
            assert_eq!(all.map(|access| ownership.lets(OTHER, access)), others);
            // Nobody gives a stopwatch to another one, or takes it.
            for (uid, to) in [(OWNER, OTHER), (OTHER, OWNER), (OTHER, OTHER)] {
                assert!(!ownership.lets(uid, Access::Give(to)));
            }
            assert!(ownership.lets(OWNER, Access::Give(OWNER)));
            let gone = Ownership {
                exists: false,
                ..ownership
            };
            assert_eq!(all.map(|access| gone.lets(OWNER, access)), [false; 3]);
            assert!(!gone.lets(OWNER, Access::Give(OWNER)));
        }
    }

    #[test]
    fn parts_of_a_record_say_what_all_of_it_says() {
        let words: [AtomicU64; 32] = Default::default();
        let memory = AtomicWords(&words);
        let mut seq = 0;
        for skip_paused in [false, true] {
            for running in [false, true] {
                let record = Record {
                    exists: running,
                    running,
                    elapsed_ns: 100,
                    base_ns: 100u64.wrapping_sub(2000),
                    uid: 1000,
                    mode: 3,
                    clock: 2 * u32::from(skip_paused),
                    skip_paused,
                    generation: 7,
                    ..Record::default()
                };
                record.publish(&memory, 64, &mut seq);
                assert_eq!(Record::read(&memory, 64), Some(record));
                let ownership = Ownership {
                    exists: running,
                    uid: 1000,
                    mode: 3,
                    generation: 7,
                };
                assert_eq!(read_ownership(&memory, 64), Some(ownership));
            }
        }
        // Being written.
        memory.store(64, memory.load(64) + 1);
        assert_eq!(read_ownership(&memory, 64), None);
    }
}
