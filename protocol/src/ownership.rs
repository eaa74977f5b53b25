// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Whose a stopwatch is, and which of those that have had its number: parts of a record,
//! read without the others.

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

/// Whose a stopwatch is, and what others may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Whether there is a stopwatch of that number.
    pub exists: bool,
    /// The guest's user who created it.
    pub uid: u32,
    /// `STOPWATCH_MODE_*`.
    pub mode: u32,
}

/// Reads of the record at `offset` only whose it is. `None` if the host was
/// writing it: try again.
#[inline]
pub fn read_ownership(mem: &impl Memory, offset: u32) -> Option<Ownership> {
    glimpse(mem, offset, |first| {
        let user = load!(mem, offset, uid);
        let flags = field!(stopwatch_record.flags).get32_of(first);
        Ownership {
            exists: flags & uapi::STOPWATCH_RECORD_EXISTS != 0,
            uid: field!(stopwatch_record.uid).of(user) as u32,
            mode: field!(stopwatch_record.mode).of(user) as u32,
        }
    })
}

/// Reads of the record at `offset` which stopwatch it is, of those that have had its
/// number: one more with each creation. `None` within if there is none now, `None` if
/// the host was writing it: try again.
pub fn read_generation(mem: &impl Memory, offset: u32) -> Option<Option<u32>> {
    glimpse(mem, offset, |first| {
        let flags = field!(stopwatch_record.flags).get32_of(first);
        let generation = load!(mem, offset, generation);
        (flags & uapi::STOPWATCH_RECORD_EXISTS != 0)
            .then(|| field!(stopwatch_record.generation).of(generation) as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use crate::atomic_words::AtomicWords;
    use core::sync::atomic::AtomicU64;

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
                };
                assert_eq!(read_ownership(&memory, 64), Some(ownership));
                let generation = running.then_some(7);
                assert_eq!(read_generation(&memory, 64), Some(generation));
            }
        }
        // Being written.
        memory.store(64, memory.load(64) + 1);
        assert_eq!(read_ownership(&memory, 64), None);
        assert_eq!(read_generation(&memory, 64), None);
    }
}
