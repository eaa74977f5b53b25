// SPDX-License-Identifier: GPL-2.0

//! The post rings of a device: whose they are, and whether there is something in them. What is
//! posted there passes by this driver.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    abstractions::shared_memory::SharedMemory,
    engine::{
        guest,
        Layout, //
    }, //
};

/// Those of a device.
pub(crate) struct PostRings {
    layout: Layout,
    /// A bit for each one that a file has.
    taken: Atomic<u32>,
    /// The next ticket.
    ticket: Atomic<u64>,
}

impl PostRings {
    /// None is in use.
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            taken: Atomic::new(0),
            ticket: Atomic::new(1),
        }
    }

    /// Takes one that nobody has. Usable in any context.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut taken = self.taken.load(Relaxed);

        loop {
            let ring = taken.trailing_ones();
            if ring >= self.layout.post_rings() {
                return None;
            }
            match self.taken.cmpxchg(taken, taken | (1 << ring), Relaxed) {
                Ok(_) => return Some(ring),
                Err(now) => taken = now,
            }
        }
    }

    /// The ticket of the next request that binds a ring or ends that. To be taken by the one who has
    /// the ring, so that of two for a ring that of the later one is larger. Usable in any context.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.ticket.fetch_add(1, Relaxed)
    }

    /// Gives one back, which is not bound. Usable in any context.
    pub(crate) fn give_back(&self, ring: u32) {
        let mut taken = self.taken.load(Relaxed);

        while let Err(now) = self.taken.cmpxchg(taken, taken & !(1 << ring), Relaxed) {
            taken = now;
        }
    }

    /// Whether there is something for the host in any of them. Usable in any context.
    pub(crate) fn any_waits(&self, memory: &SharedMemory<'_>) -> bool {
        guest::posts_wait(memory, &self.layout, self.taken.load(Relaxed))
    }
}
