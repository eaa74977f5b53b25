// SPDX-License-Identifier: GPL-2.0

//! Events: from the event ring to one log, from there to those who read it.
//!
//! The log is filled by the interrupt's thread, by a [`Taker`], in slices. An open file is a
//! [`Subscription`]: a place in the log. With an event goes whose its stopwatch was, so that the
//! file's reader sees those that are for it; an event costs no more the more files there are.
//!
//! Whoever finds nothing left and waits is noted, and told of what comes next, once: by the thread,
//! without a lock. The hard interrupt counts and wakes the thread, and nothing else; interrupts are
//! never off here.
//!
//! Lock order: [`Events::ring`] or [`Subscription::place`], then [`Events::log`]. Nothing is
//! allocated under any of them, and of a stopwatch nothing is read under the last two.

use core::ops::RangeInclusive;
use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    static_lock_class,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::PollCondVarBox,
        Arc,
        Mutex,
        MutexGuard,
        SpinLock, //
    }, //
};

use crate::{
    access::User,
    protocol::{
        event_ring::EventRing,
        memory::Memory,
        ownership::{
            Access,
            Ownership, //
        },
        ring::Slots,
        slot::Event, //
    },
    uapi::{
        stopwatch_event_record,
        STOPWATCH_FILE_EVENTS, //
    }, //
};

/// Events of the log that are looked at, or put there, before a lock is released.
const SLICE: u32 = 32;

/// The number of a subscription, never used twice.
type SubscriptionId = u64;

/// Who reads events.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    /// Who has opened the file.
    pub(crate) user: User,
    /// Whether that was root.
    pub(crate) is_root: bool,
}

impl Reader {
    /// Whether events of a stopwatch are for this one: `None` is everybody's.
    fn may_see(&self, ownership: Option<&Ownership>) -> bool {
        self.is_root || ownership.is_none_or(|ownership| self.user.may(Access::See, ownership))
    }
}

/// How far a file has read.
#[derive(Clone, Copy)]
struct Place {
    /// The number of the event in the log that is next.
    next: u64,
    /// Events that the log has lost before they were read.
    dropped: u32,
}

/// The events of an open file.
#[pin_data]
pub(crate) struct Subscription {
    id: SubscriptionId,
    reader: Reader,
    #[pin]
    place: SpinLock<Place>,
    /// There are more events, or there will be none. Notified when it was noted in
    /// [`Log::waiting`].
    changed: PollCondVarBox,
}

impl Subscription {
    /// What poll() waits for.
    pub(crate) fn changed(&self) -> &PollCondVarBox {
        &self.changed
    }
}

/// An event, and whose its stopwatch was when it came.
#[derive(Clone, Copy, Default)]
struct Entry {
    record: stopwatch_event_record,
    /// `None` is everybody's.
    ownership: Option<Ownership>,
}

impl Entry {
    fn new(event: &Event, ownership: Option<Ownership>) -> Self {
        Self {
            record: stopwatch_event_record {
                type_: u32::from(event.kind),
                watch: event.watch,
                sequence: event.sequence,
                deadline_ns: event.deadline_ns,
                time_ns: event.time_ns,
                timeouts: event.timeouts,
                count: event.count,
                ..Default::default()
            },
            ownership,
        }
    }
}

/// The newest events of a device.
///
/// # Invariants
///
/// `entries` has [`Log::SIZE`] entries. Event number n, counted from 0, is or was at n modulo that.
struct Log {
    entries: KVVec<Entry>,
    /// So many events have been put there.
    written: u64,
    /// Those who are told of the next event, and those who are not.
    waiting: RBTree<SubscriptionId, Arc<Subscription>>,
    idle: RBTree<SubscriptionId, Arc<Subscription>>,
    next_id: SubscriptionId,
    closed: bool,
}

/// What there is at a place in the log.
enum Found {
    Event(stopwatch_event_record),
    /// Nothing for the reader that far; there may be more.
    Later,
    /// Nothing more.
    End,
}

impl Log {
    const SIZE: u64 = STOPWATCH_FILE_EVENTS as u64;

    fn put(&mut self, entry: Entry) {
        // CAST: It is below the size.
        if let Some(place) = self.entries.get_mut((self.written % Self::SIZE) as usize) {
            *place = entry;
        }
        self.written += 1;
    }

    /// Looks for an event for a reader, in a slice of the log from `place` on, which goes on to
    /// where there is one.
    fn find(&self, reader: &Reader, place: &mut Place) -> Found {
        let lost = self
            .written
            .saturating_sub(Self::SIZE)
            .saturating_sub(place.next);

        place.next += lost;
        place.dropped = place
            .dropped
            .saturating_add(u32::try_from(lost).unwrap_or(u32::MAX));
        for _ in 0..SLICE {
            if place.next >= self.written {
                return Found::End;
            }
            // CAST: It is below the size.
            if let Some(entry) = self.entries.get((place.next % Self::SIZE) as usize) {
                if reader.may_see(entry.ownership.as_ref()) {
                    return Found::Event(stopwatch_event_record {
                        dropped: place.dropped,
                        ..entry.record
                    });
                }
            }
            place.next += 1;
        }
        Found::Later
    }

    /// Has a subscription told of the next event.
    fn wait(&mut self, id: SubscriptionId) {
        if let Some(node) = self.idle.remove_node(&id) {
            self.waiting.insert(node);
        }
    }

    /// The first one of those `among` that waits, which does so no more.
    fn next_waiting(&mut self, among: RangeInclusive<SubscriptionId>) -> Option<Arc<Subscription>> {
        let id = *self.waiting.cursor_lower_bound(among.start())?.current().0;

        if !among.contains(&id) {
            return None;
        }
        self.idle.insert(self.waiting.remove_node(&id)?);
        self.idle.get(&id).cloned()
    }
}

/// What has been counted since the driver was bound.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Interrupts.
    pub(crate) interrupts: u64,
    /// Events taken from the event ring.
    pub(crate) events: u64,
}

/// Takes events from the event ring to the log.
pub(crate) struct Taker<'a> {
    log: &'a SpinLock<Log>,
    ring: MutexGuard<'a, EventRing>,
    /// How many events there can be for an interrupt, less those that were taken: one that comes
    /// later has its own. So a host that goes on putting events does not keep the thread.
    left: u32,
}

impl Taker<'_> {
    /// Takes a slice. `ownership` says whose a stopwatch is, `None` if it is everybody's. Whether
    /// there may be more. Usable where one may not sleep.
    pub(crate) fn take(
        &mut self,
        memory: &impl Memory,
        mut ownership: impl FnMut(&Event) -> Option<Ownership>,
    ) -> bool {
        for _ in 0..SLICE.min(self.left) {
            let was_broken = self.ring.is_broken();
            let Some(event) = self.ring.next(memory) else {
                if self.ring.is_broken() && !was_broken {
                    pr_err!("the host has written a wrong owner into the event ring: no more events are told; unbind the driver and bind it again\n");
                }
                return false;
            };
            // Before the lock, which those who read wait for.
            let entry = Entry::new(&event, ownership(&event));

            self.log.lock().put(entry);
            self.left -= 1;
        }
        self.left != 0
    }
}

/// The events of a device.
#[pin_data]
pub(crate) struct Events {
    /// Held from the event ring to the log, so that events stay in order.
    #[pin]
    ring: Mutex<EventRing>,
    #[pin]
    log: SpinLock<Log>,
    interrupts: Atomic<u64>,
    /// Slots of the event ring.
    slots: u32,
}

impl Events {
    /// An initialiser; `slots` are those of the event ring, which is empty. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(slots: Slots) -> Result<impl PinInit<Self>> {
        let entries = KVVec::from_elem(Default::default(), Log::SIZE as usize, GFP_KERNEL)?;

        Ok(pin_init!(Self {
            ring <- new_mutex!(EventRing::new(slots), "stopwatch::Events::ring"),
            // INVARIANT: So many entries, none of them with an event.
            log <- new_spinlock!(Log {
                entries,
                written: 0,
                waiting: RBTree::new(),
                idle: RBTree::new(),
                next_id: 0,
                closed: false,
            }, "stopwatch::Events::log"),
            interrupts: Atomic::new(0),
            slots: slots.count(),
        }))
    }

    /// Makes a subscription to all events from now on that its reader may see. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ENOMEM`.
    pub(crate) fn subscribe(&self, reader: Reader) -> Result<Arc<Subscription>> {
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let changed =
            PollCondVarBox::new(c"stopwatch::Subscription::changed", static_lock_class!())?;
        let (id, next) = {
            let mut log = self.log.lock();
            log.next_id += 1;
            (log.next_id, log.written)
        };
        let subscription = Arc::pin_init(
            pin_init!(Subscription {
                id,
                reader,
                place <- new_spinlock!(Place { next, dropped: 0 }, "stopwatch::Subscription::place"),
                changed,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let node = reservation.into_node(id, subscription.clone());
        let mut log = self.log.lock();

        if log.closed {
            return Err(ENODEV);
        }
        log.idle.insert(node);
        Ok(subscription)
    }

    /// Ends a subscription. May sleep.
    pub(crate) fn unsubscribe(&self, subscription: &Subscription) {
        let mut log = self.log.lock();
        let node: Option<RBTreeNode<_, _>> = log
            .idle
            .remove_node(&subscription.id)
            .or_else(|| log.waiting.remove_node(&subscription.id));

        // Freed when the lock is not held any more.
        drop(log);
        drop(node);
    }

    /// Counts an interrupt. Usable in hard interrupt context.
    pub(crate) fn count_interrupt(&self) {
        // Relaxed: a count, which orders nothing.
        self.interrupts.fetch_add(1, Relaxed);
    }

    /// Begins to take what is in the event ring, while nobody else does. May sleep.
    pub(crate) fn taker(&self) -> Taker<'_> {
        Taker {
            log: &self.log,
            ring: self.ring.lock(),
            left: self.slots,
        }
    }

    /// Tells those who wait that there are more events, or that the device is gone; each one once.
    /// Who comes meanwhile has seen that. May sleep.
    pub(crate) fn tell(&self) {
        let last = self.log.lock().next_id;
        let mut from = 0;

        loop {
            // Released before the one who waits is told.
            let next = self.log.lock().next_waiting(from..=last);
            let Some(subscription) = next else {
                return;
            };
            from = subscription.id + 1;
            // A reader that was noted, and does not sleep yet, has this lock until it does.
            drop(subscription.place.lock());
            subscription.changed.notify_all();
        }
    }

    /// Takes the oldest event of a subscription; waits for one unless `nonblocking`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `EAGAIN` if there is none and `nonblocking`, `ERESTARTSYS`
    /// if a signal came first.
    pub(crate) fn next(
        &self,
        subscription: &Subscription,
        nonblocking: bool,
    ) -> Result<stopwatch_event_record> {
        loop {
            let mut place = subscription.place.lock();

            match self.look(subscription, &mut place, !nonblocking)? {
                Found::Event(record) => {
                    place.next += 1;
                    return Ok(record);
                }
                Found::Later => (),
                Found::End if nonblocking => return Err(EAGAIN),
                Found::End => {
                    if subscription.changed.wait_interruptible(&mut place) {
                        return Err(ERESTARTSYS);
                    }
                }
            }
        }
    }

    /// Looks at a slice of the log. If there is nothing more, and it is to be, notes that the
    /// subscription waits.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    fn look(&self, subscription: &Subscription, place: &mut Place, waits: bool) -> Result<Found> {
        let mut log = self.log.lock();

        if log.closed {
            return Err(ENODEV);
        }
        let found = log.find(&subscription.reader, place);
        if waits && matches!(found, Found::End) {
            log.wait(subscription.id);
        }
        Ok(found)
    }

    /// Whether a subscription has something, for poll(), which is told of the next event in any
    /// case.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    pub(crate) fn ready(&self, subscription: &Subscription) -> Result<bool> {
        // An edge-triggered one wants to be told of more than there is now.
        self.log.lock().wait(subscription.id);
        loop {
            let mut place = subscription.place.lock();

            match self.look(subscription, &mut place, true)? {
                Found::Event(_) => return Ok(true),
                Found::Later => (),
                Found::End => return Ok(false),
            }
        }
    }

    /// What has been counted.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            // Relaxed: it orders nothing.
            interrupts: self.interrupts.load(Relaxed),
            events: self.log.lock().written,
        }
    }

    /// The device is gone: who waits is woken up, and nobody waits any more. May sleep.
    pub(crate) fn close(&self) {
        self.log.lock().closed = true;
        self.tell();
    }
}
