// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The guest's end: posting requests, taking replies and events, reading
//! records without asking the host. What it reads was written by the host, but
//! nothing of it is used as an index here.

use super::geometry::Layout;
use super::memory::Memory;
use super::posts;
use super::posts::Post;
use super::posts::PostPlace;
use super::record;
use super::record::Laps;
use super::record::Record;
use super::ring::Completer;
use super::ring::Place;
use super::ring::Posted;
use super::ring::Poster;
use super::ring::Slots;
use super::slot::Event;
use super::slot::Message;
use super::slot::Reply;
use super::words::field;
use super::words::load_from;
use super::words::words_of;
use crate::uapi;
use core::mem::offset_of;

/// A page that programs map of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The clock page, which is the guest's own.
    Clock,
    /// That at an offset of the region, which the host reads and writes, too.
    Region(u32),
}

impl Page {
    /// What is shown at an offset of a file that has the post ring `ring`, if it has one.
    /// Offset and size of the clock page are the page size.
    pub fn at(layout: &Layout, ring: Option<u32>, offset: u64) -> Option<Self> {
        const CLOCK: u64 = uapi::STOPWATCH_CLOCK_PAGE_SIZE as u64;
        const RING: u64 = uapi::STOPWATCH_POST_RING_OFFSET as u64;
        match offset {
            0..CLOCK => Some(Self::Clock),
            RING => Some(Self::Region(layout.post_ring(ring?)?)),
            _ => {
                let offset = u32::try_from(offset - CLOCK).ok()?;
                (offset < layout.state_size()).then(|| Self::Region(layout.state() + offset))
            }
        }
    }

    /// Whether it has to be mapped decrypted where the guest's memory is encrypted
    /// (SEV, TDX): the host does not have the key, nor is its memory the guest's.
    pub fn is_shared_with_host(self) -> bool {
        match self {
            Self::Clock => false,
            Self::Region(_) => true,
        }
    }
}

/// A request that was posted, and whose reply was not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(Place);

/// The guest's end of a request ring, after a reset of the device.
///
/// Requests may be posted before earlier ones are completed. Each has to be
/// polled until it is, or abandoned: its slot is not used again before.
pub struct RequestRing {
    poster: Poster,
    /// A bit for each slot whose reply is waited for.
    waiting: [u64; uapi::STOPWATCH_MAX_SLOTS as usize / 64],
    /// How many bits of `waiting` are set: mostly none.
    waits: u32,
}

impl RequestRing {
    /// The guest's end of the ring in `slots`, of [`Layout::ring`].
    pub fn new(slots: Slots) -> Self {
        Self {
            poster: Poster::new(slots),
            waiting: [0; uapi::STOPWATCH_MAX_SLOTS as usize / 64],
            waits: 0,
        }
    }

    /// The word of `waiting` for a place, and the bit in it.
    fn waiting(&mut self, place: Place) -> (Option<&mut u64>, u64) {
        let index = place.index(self.poster.slots());
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
        if self.waits != 0 && self.is_waited_for(self.poster.place()) {
            return None;
        }
        self.poster.post(mem, *message.words())
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
        match self.poster.completed(mem, place) {
            Some(words) => Ok(Reply::decode(&words)),
            None => Err(Some(self.wait_for(place))),
        }
    }

    /// Posts a request whose reply nobody will take: one that is
    /// [`Stamped`](super::Stamped), mostly. Whether there was room.
    #[inline]
    pub fn post_abandoned(&mut self, mem: &impl Memory, request: impl Into<Message>) -> bool {
        self.place(mem, &request.into()).is_some()
    }

    /// Whether the host has carried out all that was posted. If not, what is in
    /// the state pages may be of before.
    #[inline]
    pub fn is_idle(&self, mem: &impl Memory) -> bool {
        self.poster.is_idle(mem)
    }

    /// Takes back a request whose reply was not taken. Returns the reply if the host
    /// was faster. Else the host does not carry it out, unless it has copied it
    /// already: then it does so now and not later. The slot is used again once it has
    /// been completed.
    pub fn abandon(&mut self, mem: &impl Memory, token: Token) -> Option<Reply> {
        let taken_back = self
            .poster
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
        let words = self.poster.completed(mem, token.0)?;
        self.end_wait(token.0).then(|| Reply::decode(&words))
    }
}

/// The guest's end of a post ring, after it was bound. Programs have their own.
pub struct PostRing {
    offset: u32,
    place: PostPlace,
}

impl PostRing {
    /// The guest's end of the ring at `offset`, of [`Layout::post_ring`].
    pub fn new(offset: u32) -> Self {
        Self {
            offset,
            place: PostPlace::at(offset, 0),
        }
    }

    /// Posts an operation as of a VM time. `None` if the ring is not bound, else
    /// whether there was room.
    pub fn post(&mut self, mem: &impl Memory, op: u16, stamp_ns: u64) -> Option<bool> {
        // Acquire: a slot is not overwritten before the host has read it.
        let words = [mem.load_acquire(self.offset)];
        let taken = field!(stopwatch_post_ring.taken).get32(&words);
        if field!(stopwatch_post_ring.bound).get32(&words) == 0 {
            return None;
        }
        let waiting = self.place.number().wrapping_sub(taken);
        let has_room = waiting < uapi::STOPWATCH_POST_SLOTS;
        if has_room {
            self.place.post(mem, Post::new(op, stamp_ns));
            self.place = self.place.next(self.offset);
        }
        Some(has_room)
    }
}

/// Whether something waits for the host in any of the post rings whose bits are set in
/// `rings`. Who writes a ring can make this wrong; it concerns what is in there, and
/// nothing else.
pub fn posts_wait(mem: &impl Memory, layout: &Layout, rings: u32) -> bool {
    let waits = |offset| {
        let words = [mem.load_acquire(offset)];
        let place = PostPlace::at(offset, field!(stopwatch_post_ring.taken).get32(&words));
        field!(stopwatch_post_ring.bound).get32(&words) != 0 && place.look(mem).is_some()
    };
    posts::bits(rings)
        .filter_map(|ring| layout.post_ring(ring))
        .any(waits)
}

/// The guest's end of the event ring, after a reset of the device.
pub struct EventRing {
    completer: Completer,
    is_broken: bool,
}

impl EventRing {
    /// The guest's end of the ring in `slots`, of [`Layout::events`].
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

/// Reads the record at `offset`, of [`Layout::record`]. `None` if the host was
/// writing it: try again.
pub fn read_record(mem: &impl Memory, offset: u32) -> Option<Record> {
    Record::read(mem, offset)
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

/// What it takes to say what a stopwatch shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// `STOPWATCH_RECORD_*`.
    flags: u32,
    elapsed_ns: u64,
    base_ns: u64,
}

impl Glance {
    /// Whether there is a stopwatch of that number.
    #[inline]
    pub fn exists(&self) -> bool {
        self.flags & uapi::STOPWATCH_RECORD_EXISTS != 0
    }

    /// Whether it runs.
    #[inline]
    pub fn running(&self) -> bool {
        self.flags & uapi::STOPWATCH_RECORD_RUNNING != 0
    }

    /// Whether it goes by VM time.
    #[inline]
    pub fn is_monotonic(&self) -> bool {
        record::clock_of(self.flags) == uapi::STOPWATCH_CLOCK_MONOTONIC
    }

    /// What it shows if it stands.
    #[inline]
    pub fn elapsed_ns(&self) -> u64 {
        self.elapsed_ns
    }

    /// What it shows at a VM time, if it runs and goes by that, in a VM that was paused
    /// for `paused_ns` in all.
    #[inline]
    pub fn elapsed_at(&self, time_ns: u64, paused_ns: u64) -> u64 {
        let mut own = time_ns;
        if self.flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED != 0 {
            own = own.wrapping_sub(paused_ns);
        }
        let shown = self.base_ns.wrapping_add(own);
        // So far as the time can be off, it can be before the start.
        if shown.wrapping_sub(self.elapsed_ns) as i64 >= 0 {
            shown
        } else {
            self.elapsed_ns
        }
    }
}

/// Reads of the record at `offset` only what the stopwatch shows. `None` if the
/// host was writing it: try again.
#[inline]
pub fn read_glance(mem: &impl Memory, offset: u32) -> Option<Glance> {
    glimpse(mem, offset, |first| Glance {
        flags: field!(stopwatch_record.flags).get32_of(first),
        elapsed_ns: load!(mem, offset, elapsed_ns),
        base_ns: load!(mem, offset, base_ns),
    })
}

/// Reads the laps of a stopwatch, from lap `first` on, as many as there are and
/// fit. `None` if the host was writing its record, or if it has no such
/// stopwatch: hold `watch` against the layout, and try again.
pub fn read_laps(
    mem: &impl Memory,
    layout: &Layout,
    watch: u32,
    first: u32,
    into: &mut [u64],
) -> Option<Laps> {
    Laps::read(mem, layout, watch, first, into)
}

#[cfg(test)]
mod tests {
    use super::super::geometry::Geometry;
    use super::*;
    use core::cell::Cell;

    #[derive(Default)]
    struct Page([Cell<u64>; 32]);

    impl Memory for Page {
        fn load(&self, offset: u32) -> u64 {
            self.0[offset as usize / 8].get()
        }

        fn load_acquire(&self, offset: u32) -> u64 {
            self.load(offset)
        }

        fn store(&self, offset: u32, value: u64) {
            self.0[offset as usize / 8].set(value);
        }

        fn store_release(&self, offset: u32, value: u64) {
            self.store(offset, value);
        }

        fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
            self.0[offset as usize / 8].replace(new) == old
        }

        fn fence_release(&self) {}
    }

    /// In an encrypted guest all that is the host's, too, is mapped decrypted, and the
    /// guest's own page is not.
    #[test]
    fn only_the_clock_page_is_private() {
        let layout = Layout::new(Geometry {
            stopwatches: 128,
            rings: 2,
            ring_slots: 64,
            event_slots: 64,
        })
        .unwrap();
        let size = u64::from(layout.state_size());
        let ring = u64::from(uapi::STOPWATCH_POST_RING_OFFSET);
        assert_eq!(super::Page::at(&layout, None, 0), Some(super::Page::Clock));
        assert!(!super::Page::Clock.is_shared_with_host());
        let posts = super::Page::at(&layout, Some(3), ring).unwrap();
        assert_eq!(Some(posts), layout.post_ring(3).map(super::Page::Region));
        assert!(posts.is_shared_with_host());
        for page in 0..size / 4096 {
            let shown = super::Page::at(&layout, None, 4096 + page * 4096).unwrap();
            let offset = layout.state() + page as u32 * 4096;
            assert_eq!(shown, super::Page::Region(offset));
            assert!(shown.is_shared_with_host());
        }
        // Nothing else is shown.
        assert_eq!(super::Page::at(&layout, None, ring), None);
        assert_eq!(
            super::Page::at(&layout, Some(layout.post_rings()), ring),
            None
        );
        for offset in [4096 + size, ring - 4096, ring + 4096, u64::MAX] {
            assert_eq!(
                super::Page::at(&layout, Some(3), offset),
                None,
                "{offset:#x}"
            );
        }
    }

    #[test]
    fn parts_of_a_record_say_what_all_of_it_says() {
        let memory = Page::default();
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
                assert_eq!(read_record(&memory, 64), Some(record));
                let ownership = Ownership {
                    exists: running,
                    uid: 1000,
                    mode: 3,
                };
                assert_eq!(read_ownership(&memory, 64), Some(ownership));
                let generation = running.then_some(7);
                assert_eq!(read_generation(&memory, 64), Some(generation));
                let glance = read_glance(&memory, 64).unwrap();
                assert_eq!((glance.exists(), glance.running()), (running, running));
                assert_eq!(glance.is_monotonic(), !skip_paused);
                assert_eq!(glance.elapsed_ns(), 100);
                let paused = if skip_paused { 50 } else { 0 };
                assert_eq!(glance.elapsed_at(2500 + paused, 50), 600);
                assert_eq!(glance.elapsed_at(2000 + paused, 50), 100);
                // The time may be off, up to before the start.
                assert_eq!(glance.elapsed_at(1999 + paused, 50), 100);
                assert_eq!(glance.elapsed_at(1500 + paused, 50), 100);
            }
        }
        // Being written.
        memory.store(64, memory.load(64) + 1);
        assert_eq!(read_ownership(&memory, 64), None);
        assert_eq!(read_generation(&memory, 64), None);
        assert_eq!(read_glance(&memory, 64), None);
    }
}
