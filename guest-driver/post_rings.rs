// SPDX-License-Identifier: GPL-2.0

//! The post rings of a device: whose they are, and whether there is something in them. What is
//! posted there passes by this driver.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    }, //
};

use crate::{
    abstractions::shared_memory::SharedMemory,
    access::{
        self,
        User, //
    },
    protocol::{
        layout::Layout,
        post_ring, //
    },
    uapi, //
};

/// As many as a device can have.
const MOST: usize = uapi::STOPWATCH_MAX_POST_RINGS as usize;

/// Those of a device.
#[pin_data]
pub(crate) struct PostRings {
    layout: Layout,
    /// Who has each one.
    #[pin]
    users: Mutex<[Option<User>; MOST]>,
    /// A bit for each one that somebody has. Written under the lock of `users`.
    taken: Atomic<u32>,
    /// The next ticket.
    ticket: Atomic<u64>,
}

impl PostRings {
    /// None is in use.
    pub(crate) fn new(layout: Layout) -> impl PinInit<Self> {
        pin_init!(Self {
            layout,
            users <- new_mutex!([None; MOST], "stopwatch::PostRings::users"),
            taken: Atomic::new(0),
            ticket: Atomic::new(1),
        })
    }

    /// Takes one that nobody has, for the current task. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is none; `EDQUOT` if its user has as many as a user without privileges may
    /// have, a quarter of all.
    pub(crate) fn take(&self) -> Result<u32> {
        let rings = self.layout.post_rings() as usize;
        let user = User::current();
        let mut users = self.users.lock();
        let has = users.iter().filter(|of| **of == Some(user)).count();

        if has >= access::quota(rings) && !access::is_root() {
            return Err(EDQUOT);
        }
        let mut free = users.iter_mut().take(rings).enumerate();
        let (ring, of) = free.find(|(_, of)| of.is_none()).ok_or(ENOSPC)?;
        *of = Some(user);
        // Relaxed: see `any_waits()`.
        self.taken.store(Self::mask(&users), Relaxed);
        // CAST: There are at most `MOST`.
        Ok(ring as u32)
    }

    /// The ticket of the next request that binds a ring or ends that. To be taken by the one who
    /// has the ring, so that of two for a ring that of the later one is larger. Usable in any
    /// context.
    pub(crate) fn next_ticket(&self) -> u64 {
        // Relaxed: tickets of a ring are taken one after the other by those who have it; across
        // rings they need no order.
        self.ticket.fetch_add(1, Relaxed)
    }

    /// Gives one back, which is not bound. May sleep.
    pub(crate) fn give_back(&self, ring: u32) {
        let mut users = self.users.lock();

        if let Some(of) = users.get_mut(ring as usize) {
            *of = None;
        }
        // Relaxed: see `any_waits()`.
        self.taken.store(Self::mask(&users), Relaxed);
    }

    fn mask(users: &[Option<User>; MOST]) -> u32 {
        (0..)
            .zip(users)
            .filter(|(_, of)| of.is_some())
            .fold(0, |mask, (ring, _)| mask | 1 << ring)
    }

    /// Whether there is something for the host in any of them. Usable in any context.
    pub(crate) fn any_waits(&self, memory: &SharedMemory<'_>) -> bool {
        // Relaxed: who posts in a ring was told of it after it was taken.
        post_ring::posts_wait(memory, &self.layout, self.taken.load(Relaxed))
    }
}
