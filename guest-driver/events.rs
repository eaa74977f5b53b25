// SPDX-License-Identifier: GPL-2.0

//! Events: from the event ring, in the interrupt handler, to a queue for each open file, to those
//! who read it.
//!
//! Everything is under one lock, [`Events::state`], which the interrupt handler takes too. Nothing
//! is allocated under it: a queue has room for all that it may hold from when it is made.

use kernel::{
    new_poll_condvar,
    new_spinlock_irq,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sync::{
        poll::PollCondVar,
        SpinLockIrq, //
    }, //
};

use crate::{
    access::{
        User,
        Want, //
    },
    engine::{
        guest::{
            EventRing,
            Ownership, //
        },
        Event,
        Memory,
        Slots, //
    },
    uapi::{
        stopwatch_event_record,
        STOPWATCH_FILE_EVENTS, //
    }, //
};

/// The number of a queue, never used twice.
pub(crate) type QueueId = u64;

/// Who reads a queue.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    /// Who has opened the file.
    pub(crate) user: User,
    /// Whether that was root.
    pub(crate) is_root: bool,
}

/// The newest events of one open file, that its user may see.
///
/// # Invariants
///
/// `records` has [`Queue::SIZE`] entries. Of these `count`, from `first` on and round, are queued.
struct Queue {
    reader: Reader,
    records: KVVec<stopwatch_event_record>,
    first: usize,
    count: usize,
    /// Events that were pushed out by newer ones, all of them older than those queued.
    dropped: u32,
}

impl Queue {
    const SIZE: usize = STOPWATCH_FILE_EVENTS as usize;

    fn new(reader: Reader) -> Result<Self> {
        // INVARIANT: So many entries, of which none is queued.
        Ok(Self {
            reader,
            records: KVVec::from_elem(Default::default(), Self::SIZE, GFP_KERNEL_ACCOUNT)?,
            first: 0,
            count: 0,
            dropped: 0,
        })
    }

    /// Whether events of a stopwatch are for it: `None` is everybody's.
    fn wants(&self, ownership: Option<&Ownership>) -> bool {
        let Reader { user, is_root } = self.reader;

        is_root || ownership.is_none_or(|ownership| user.may(Want::See, ownership))
    }

    /// Appends an event, in the place of the oldest one if need be.
    fn push(&mut self, event: &Event) {
        if self.count == Self::SIZE {
            self.first = (self.first + 1) % Self::SIZE;
            self.count -= 1;
            self.dropped = self.dropped.saturating_add(1);
        }
        if let Some(record) = self.records.get_mut((self.first + self.count) % Self::SIZE) {
            *record = stopwatch_event_record {
                type_: u32::from(event.kind),
                watch: event.watch,
                sequence: event.sequence,
                deadline_ns: event.deadline_ns,
                time_ns: event.time_ns,
                timeouts: event.timeouts,
                count: event.count,
                ..Default::default()
            };
        }
        self.count += 1;
    }

    /// Takes the oldest event.
    fn pop(&mut self) -> Option<stopwatch_event_record> {
        if self.count == 0 {
            return None;
        }
        let record = *self.records.get(self.first)?;
        self.first = (self.first + 1) % Self::SIZE;
        self.count -= 1;
        Some(stopwatch_event_record {
            dropped: self.dropped,
            ..record
        })
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

struct State {
    ring: EventRing,
    queues: RBTree<QueueId, Queue>,
    next_queue: QueueId,
    counters: Counters,
    closed: bool,
}

/// The events of a device.
#[pin_data]
pub(crate) struct Events {
    #[pin]
    state: SpinLockIrq<State>,
    /// `state` has changed. One for all files, since most get every event.
    #[pin]
    changed: PollCondVar,
    /// Slots of the event ring.
    slots: u32,
}

impl Events {
    /// An initialiser; `slots` are those of the event ring, which is empty.
    pub(crate) fn new(slots: Slots) -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock_irq!(State {
                ring: EventRing::new(slots),
                queues: RBTree::new(),
                next_queue: 0,
                counters: Counters::default(),
                closed: false,
            }, "stopwatch::Events::state"),
            changed <- new_poll_condvar!("stopwatch::Events::changed"),
            slots: slots.count(),
        })
    }

    /// Makes a queue, which gets all events from now on that its reader may see. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ENOMEM`.
    pub(crate) fn subscribe(&self, reader: Reader) -> Result<QueueId> {
        let queue = Queue::new(reader)?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let mut state = self.state.lock();

        if state.closed {
            return Err(ENODEV);
        }
        let id = state.next_queue;
        state.next_queue += 1;
        state.queues.insert(reservation.into_node(id, queue));
        Ok(id)
    }

    /// Throws a queue away. May sleep.
    pub(crate) fn unsubscribe(&self, id: QueueId) {
        // Freed when the lock is not held any more.
        let _queue: Option<RBTreeNode<_, _>> = self.state.lock().queues.remove_node(&id);
    }

    /// Takes all that is in the event ring, for an interrupt. `ownership` says whose a stopwatch is,
    /// `None` if it is everybody's. Usable in hard interrupt context.
    pub(crate) fn interrupt(
        &self,
        memory: &impl Memory,
        ownership: impl Fn(u32) -> Option<Ownership>,
    ) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let before = state.counters.events;

        state.counters.interrupts += 1;
        // Not more than fit in the ring: an event that comes later has its own interrupt, and a
        // host that goes on putting events does not keep this CPU here.
        for _ in 0..self.slots {
            let Some(event) = state.ring.next(memory) else {
                break;
            };
            let ownership = ownership(event.watch);
            state.counters.events += 1;
            for queue in state.queues.values_mut() {
                if queue.wants(ownership.as_ref()) {
                    queue.push(&event);
                }
            }
        }
        let changed = state.counters.events != before;
        drop(guard);
        if changed {
            self.changed.notify_all();
        }
    }

    /// Counts an interrupt of a device that is gone. Usable in hard interrupt context.
    pub(crate) fn count_interrupt(&self) {
        self.state.lock().counters.interrupts += 1;
    }

    /// Takes the oldest event of a queue; waits for one unless `nonblocking`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `EAGAIN` if there is none and `nonblocking`, `ERESTARTSYS`
    /// if a signal came first.
    pub(crate) fn next(&self, id: QueueId, nonblocking: bool) -> Result<stopwatch_event_record> {
        let mut state = self.state.lock();

        loop {
            if state.closed {
                return Err(ENODEV);
            }
            if let Some(record) = state.queues.get_mut(&id).and_then(Queue::pop) {
                return Ok(record);
            }
            if nonblocking {
                return Err(EAGAIN);
            }
            if self.changed.wait_interruptible(&mut state) {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// What poll() waits for.
    pub(crate) fn changed(&self) -> &PollCondVar {
        &self.changed
    }

    /// Whether a queue has something; `ENODEV` if the device is gone.
    pub(crate) fn ready(&self, id: QueueId) -> Result<bool> {
        let state = self.state.lock();

        if state.closed {
            return Err(ENODEV);
        }
        Ok(state.queues.get(&id).is_some_and(|queue| queue.count != 0))
    }

    /// What has been counted.
    pub(crate) fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    /// The device is gone: who waits is woken up, and nobody waits any more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}
