// SPDX-License-Identifier: GPL-2.0

//! A request ring as this driver uses it: many callers, some of which give up.
//!
//! How slots are posted and completed is in `engine/`. What is added here is that a slot may be
//! left behind. The host may still answer it at any later time, so it stays taken until it does.

use kernel::prelude::*;

use crate::engine::{
    guest::{
        RequestRing,
        Token, //
    },
    Memory,
    Reply,
    Request,
    Slots, //
};

/// The guest's end of a request ring.
///
/// # Invariants
///
/// Every [`Token`] of a request whose reply was not taken is either with its caller or in
/// `abandoned`, never in both. `abandoned` has room for as many as the ring has slots.
pub(crate) struct Ring {
    ring: RequestRing,
    abandoned: KVVec<Token>,
}

impl Ring {
    /// An empty ring in `slots`. May sleep.
    pub(crate) fn new(slots: Slots) -> Result<Self> {
        // INVARIANT: There is no token yet.
        Ok(Self {
            ring: RequestRing::new(slots),
            abandoned: KVVec::with_capacity(slots.count() as usize, GFP_KERNEL)?,
        })
    }

    /// Posts a request; `None` if the ring is full.
    ///
    /// The token is for [`Self::take`], until that has given a reply, or for [`Self::abandon`].
    #[inline]
    pub(crate) fn post(&mut self, memory: &impl Memory, request: Request) -> Option<Token> {
        let ring = &mut self.ring;

        // Nobody waits for these replies; to take one is to have its slot back.
        self.abandoned
            .retain(|token| ring.poll(memory, *token).is_none());
        ring.post(memory, request)
    }

    /// Takes the reply to a request if it is there.
    #[inline]
    pub(crate) fn take(&mut self, memory: &impl Memory, token: Token) -> Option<Reply> {
        self.ring.poll(memory, token)
    }

    /// Gives up a request whose reply was not taken.
    pub(crate) fn abandon(&mut self, token: Token) {
        // INVARIANT: The caller had the token. There are never more of them than slots, so there
        // is room.
        let _ = self.abandoned.push_within_capacity(token);
    }
}
