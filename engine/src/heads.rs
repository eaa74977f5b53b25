// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The heads of all rings, of both kinds: where something waits, and what comes first. What a
//! ring says, and what is done for it, is not here.

use super::times::Times;
use crate::protocol::words::bits;
use crate::uapi;

/// A ring, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The request ring of that number.
    Requests(u32),
    /// The post ring of that number.
    Posts(u32),
}

/// So many rings there are at the most.
pub(super) const SOURCES: usize =
    (uapi::STOPWATCH_MAX_RINGS + uapi::STOPWATCH_MAX_POST_RINGS) as usize;

// A bit for each ring of a kind fits in a word.
const _: () = assert!(uapi::STOPWATCH_MAX_RINGS <= u64::BITS);
const _: () = assert!(uapi::STOPWATCH_MAX_POST_RINGS <= u64::BITS);

impl Source {
    /// The number among all rings, below [`SOURCES`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Requests(ring) => ring as usize,
            Self::Posts(ring) => (uapi::STOPWATCH_MAX_RINGS + ring) as usize,
        }
    }
}

/// A bit for each ring, of both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) requests: u64,
    pub(super) posts: u64,
}

impl Set {
    pub(super) const NONE: Self = Self {
        requests: 0,
        posts: 0,
    };

    pub(super) const ALL: Self = Self {
        requests: u64::MAX,
        posts: u64::MAX,
    };

    /// A ring alone.
    pub(super) fn of(source: Source) -> Self {
        match source {
            Source::Requests(ring) => Self {
                requests: bit(ring),
                ..Self::NONE
            },
            Source::Posts(ring) => Self {
                posts: bit(ring),
                ..Self::NONE
            },
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests & other.requests,
            posts: self.posts & other.posts,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self {
            requests: self.requests | other.requests,
            posts: self.posts | other.posts,
        }
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self {
            requests: self.requests & !other.requests,
            posts: self.posts & !other.posts,
        }
    }
}

/// The bit of a ring, among those of its kind.
pub(super) fn bit(ring: u32) -> u64 {
    1u64.checked_shl(ring).unwrap_or(0)
}

/// In which rings of a kind something was found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// A bit for each in which something waits.
    pub(super) waiting: u64,
    /// Of these, those in which it was found since the last look at all rings began.
    pub(super) fresh: u64,
}

impl Found {
    /// Notes what a look at a ring has shown.
    #[inline]
    pub(super) fn note(&mut self, ring: u32, waits: bool) {
        self.forget(ring);
        if waits {
            self.waiting |= bit(ring);
            self.fresh |= bit(ring);
        }
    }

    /// Nothing waits in a ring, or not for now.
    #[inline]
    pub(super) fn forget(&mut self, ring: u32) {
        self.waiting &= !bit(ring);
        self.fresh &= !bit(ring);
    }

    /// Adds those of the rings in which something waits to a choice, by their numbers.
    /// `stamp` knows what waits there.
    #[inline(always)]
    pub(super) fn among(
        self,
        rings: u64,
        choice: &mut Choice<'_>,
        source: impl Fn(u32) -> Source,
        stamp: impl Fn(u32) -> Option<u64>,
    ) {
        for ring in bits(self.waiting & rings) {
            if let Some(stamp) = stamp(ring) {
                choice.add(source(ring), stamp);
            }
        }
    }
}

/// The head of a ring: what may be taken next.
///
/// It may have been posted because of something in another ring that a CPU of the guest had
/// posted before. The two are not to be taken the other way round, so all rings are looked at
/// after it was found and before it is taken. One with a stamp before the present look needs
/// no further one: what was posted before its stamp was there by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) source: Source,
    /// The time as of which it is to be carried out.
    pub(super) at: u64,
    /// That of the earliest head of any other ring; the end of time if nothing waits there.
    pub(super) until: u64,
    /// The clock and all rings have to be looked at before it is taken.
    pub(super) look_again: bool,
}

/// The search for the earliest head. It looks at each ring once, so what is not needed of all
/// heads is found out of that one alone.
pub(super) struct Choice<'a> {
    times: &'a Times,
    earliest: Option<(Source, u64)>,
    at: u64,
    until: u64,
}

impl<'a> Choice<'a> {
    pub(super) fn new(times: &'a Times) -> Self {
        Self {
            times,
            earliest: None,
            at: u64::MAX,
            until: u64::MAX,
        }
    }

    /// Adds what waits in a ring. Of equal ones the first is the earliest.
    #[inline(always)]
    fn add(&mut self, source: Source, stamp: u64) {
        let at = self.times.nearest(stamp);
        if at < self.at || self.earliest.is_none() {
            self.until = self.at;
            self.at = at;
            self.earliest = Some((source, stamp));
        } else if at < self.until {
            self.until = at;
        }
    }

    /// The earliest head, if there is one. `fresh` are the rings in which something was found
    /// since the last look at all of them began.
    #[inline]
    pub(super) fn head(self, fresh: Set) -> Option<Head> {
        let (source, stamp) = self.earliest?;
        Some(Head {
            source,
            at: self.at,
            until: self.until,
            look_again: stamp >= self.times.now() && !fresh.and(Set::of(source)).is_empty(),
        })
    }
}
