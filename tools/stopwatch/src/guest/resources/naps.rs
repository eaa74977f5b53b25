// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waiting for something that nobody tells of.

use std::hint::spin_loop;
use std::thread::sleep;
use std::time::Duration;

/// Looks in a row at first, then naps that get longer.
pub(super) struct Naps {
    looks: u32,
    next: Duration,
}

impl Naps {
    /// So many looks take less time than the shortest nap.
    const LOOKS: u32 = 100;
    const FIRST: Duration = Duration::from_micros(20);
    /// So late what is waited for is noticed.
    const LONGEST: Duration = Duration::from_millis(2);

    pub(super) fn new() -> Self {
        Self {
            looks: Self::LOOKS,
            next: Self::FIRST,
        }
    }

    pub(super) fn nap(&mut self) {
        if self.looks != 0 {
            self.looks -= 1;
            spin_loop();
            return;
        }
        sleep(self.next);
        self.next = (self.next * 2).min(Self::LONGEST);
    }
}
