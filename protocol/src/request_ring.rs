// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The guest's end of a request ring.

use super::memory::Memory;
use super::ring::Place;
use super::ring::Producer;
use super::ring::Slots;
use super::slot;
use super::slot::Message;
use super::slot::Reply;
use super::words::field;
use crate::uapi;

/// A request that was posted, and whose reply was not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(Place);

/// The guest's end of a request ring, after a reset of the device.
///
/// Requests may be posted before earlier ones are completed. Each has to be
/// polled until it is, or abandoned: its slot is not used again before.
pub struct RequestRing {
    producer: Producer,
    /// A bit for each slot whose reply is waited for.
    waiting: [u64; uapi::STOPWATCH_MAX_SLOTS as usize / 64],
    /// How many bits of `waiting` are set: mostly none.
    waits: u32,
}

impl RequestRing {
    /// The guest's end of the ring in `slots`, of [`Layout::ring`](super::layout::Layout::ring).
    pub fn new(slots: Slots) -> Self {
        Self {
            producer: Producer::new(slots),
            waiting: [0; uapi::STOPWATCH_MAX_SLOTS as usize / 64],
            waits: 0,
        }
    }

    /// The guest's end of a ring that another one has left. `None` if its slots do not tell how
    /// far that came; then it takes a reset of the device.
    pub fn resume(mem: &impl Memory, slots: Slots) -> Option<Self> {
        Producer::resume(mem, slots).map(|producer| Self {
            producer,
            ..Self::new(slots)
        })
    }

    /// Takes back the requests that the host has not answered yet, but for those that have a
    /// stamp, in a ring of which nobody waits for any. Whether it has not answered all.
    pub fn take_back_all(&self, mem: &impl Memory) -> bool {
        let mut any = false;
        for (place, words) in self.producer.waiting(mem) {
            any = true;
            if slot::stamp(&words) == slot::NOT_POSTED {
                // If not, it was answered just now.
                let _ = self
                    .producer
                    .take_back(mem, place, field!(stopwatch_request.op));
            }
        }
        any
    }

    /// The word of `waiting` for a place, and the bit in it.
    fn waiting(&mut self, place: Place) -> (Option<&mut u64>, u64) {
        let index = place.index(self.producer.slots());
        let word = self.waiting.get_mut(index as usize / 64);
        (word, 1 << (index % 64))
    }

    /// Whether the reply in a place is waited for.
    #[cold]
    fn is_waited_for(&mut self, place: Place) -> bool {
        let (word, bit) = self.waiting(place);
        word.is_some_and(|word| *word & bit != 0)
    }

    /// Posts a request into the next slot, if nobody waits for what is in it.
    #[inline]
    fn place(&mut self, mem: &impl Memory, message: &Message) -> Option<Place> {
        if self.waits != 0 && self.is_waited_for(self.producer.place()) {
            return None;
        }
        self.producer.post(mem, *message.words())
    }

    /// That the reply in a place will be taken. Nobody waits for it yet.
    fn wait_for(&mut self, place: Place) -> Token {
        if let (Some(word), bit) = self.waiting(place) {
            *word |= bit;
            self.waits += 1;
        }
        Token(place)
    }

    /// That the reply in a place is not waited for any more. Whether it was.
    fn end_wait(&mut self, place: Place) -> bool {
        let (Some(word), bit) = self.waiting(place) else {
            return false;
        };
        let waited = *word & bit != 0;
        *word &= !bit;
        self.waits -= u32::from(waited);
        waited
    }

    /// Posts a request, which the host sees at the latest when the ring's
    /// doorbell is rung. `None` if the ring is full.
    pub fn post(&mut self, mem: &impl Memory, request: impl Into<Message>) -> Option<Token> {
        let place = self.place(mem, &request.into())?;
        Some(self.wait_for(place))
    }

    /// Posts a request, has the doorbell rung, and takes the reply if it is there
    /// then, as it normally is.
    ///
    /// # Errors
    ///
    /// The request's token if the reply is not there, `None` if the ring is full.
    /// The doorbell was rung: the host makes room.
    #[inline(always)]
    pub fn call(
        &mut self,
        mem: &impl Memory,
        message: &Message,
        ring_doorbell: impl FnOnce(),
    ) -> Result<Reply, Option<Token>> {
        let place = self.place(mem, message);
        ring_doorbell();
        let place = place.ok_or(None)?;
        match self.producer.completed(mem, place) {
            Some(words) => Ok(Reply::decode(&words)),
            None => Err(Some(self.wait_for(place))),
        }
    }

    /// Posts a request whose reply nobody will take: one that is
    /// [`Stamped`](super::slot::Stamped), mostly. Whether there was room.
    #[inline]
    pub fn post_abandoned(&mut self, mem: &impl Memory, request: impl Into<Message>) -> bool {
        self.place(mem, &request.into()).is_some()
    }

    /// Whether the host has carried out all that was posted. If not, what is in
    /// the state pages may be of before.
    #[inline]
    pub fn is_idle(&self, mem: &impl Memory) -> bool {
        self.producer.is_idle(mem)
    }

    /// Takes back a request whose reply was not taken. Returns the reply if the host
    /// was faster. Else the host does not carry it out, unless it has copied it
    /// already: then it does so now and not later. The slot is used again once it has
    /// been completed.
    pub fn abandon(&mut self, mem: &impl Memory, token: Token) -> Option<Reply> {
        let taken_back = self
            .producer
            .take_back(mem, token.0, field!(stopwatch_request.op));
        if !taken_back {
            if let Some(reply) = self.poll(mem, token) {
                return Some(reply);
            }
        }
        self.end_wait(token.0);
        None
    }

    /// Takes the reply to a request, if it is there. It can be taken once.
    pub fn poll(&mut self, mem: &impl Memory, token: Token) -> Option<Reply> {
        let words = self.producer.completed(mem, token.0)?;
        self.end_wait(token.0).then(|| Reply::decode(&words))
    }
}
