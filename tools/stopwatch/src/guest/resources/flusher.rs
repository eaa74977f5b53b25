// SPDX-License-Identifier: MIT OR Apache-2.0

//! The doorbell for what is posted: a thread that rings it a while after the first post, as
//! the driver's timer does.

use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use stopwatch_uapi as uapi;

use super::Hardware;
use crate::mapping::View;

/// How long posted commands are left alone: half of what they may be, as threads are late.
const POSTED: Duration = Duration::from_millis(uapi::STOPWATCH_POSTED_MS as u64 / 2);

/// Whether the doorbell is going to be rung for what is posted by now, where
/// [`Pages::doorbell_is_set`](crate::guest::pages::Pages::doorbell_is_set) looks.
type Flag = View<[AtomicU64; 1]>;

/// Nothing until it is asked for the first time.
#[derive(Debug, Default)]
pub(super) struct Flusher(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    hardware: Arc<Hardware>,
    /// Set with the lock of `ends` held.
    flag: Flag,
    ends: Mutex<bool>,
    changed: Condvar,
}

impl Flusher {
    /// Sees to it that what is posted by now has its doorbell soon.
    pub(super) fn soon(&self, hardware: &Arc<Hardware>) -> Result<(), Errno> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = match &mut *running {
            Some(running) => running,
            none => none.insert(Running::new(hardware.clone())?),
        };
        let shared = &running.shared;
        let _ends = shared.ends();
        shared.flag[0].store(1, Ordering::Relaxed);
        shared.changed.notify_one();
        Ok(())
    }

    /// Whether there is something that it has not rung for yet.
    pub(super) fn is_due(&self) -> bool {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_some_and(|it| it.shared.is_due())
    }
}

impl Running {
    fn new(hardware: Arc<Hardware>) -> Result<Self, Errno> {
        let shared = Arc::new(Shared {
            flag: hardware
                .page
                .words(uapi::STOPWATCH_DOORBELL_OFFSET as usize),
            hardware,
            ends: Mutex::new(false),
            changed: Condvar::new(),
        });
        let of_thread = shared.clone();
        let thread = thread::Builder::new()
            .name("stopwatch".into())
            .spawn(move || of_thread.serve())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.shared.ends() = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn ends(&self) -> MutexGuard<'_, bool> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self) -> bool {
        // Relaxed: what is posted has its order by the fences here and in who posts.
        self.flag[0].load(Ordering::Relaxed) != 0
    }

    /// What the thread does. At the end nothing is left that is due.
    fn serve(&self) {
        let mut ends = self.ends();
        while !*ends || self.is_due() {
            if !self.is_due() {
                let changed = self.changed.wait(ends);
                ends = changed.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.changed.wait_timeout_while(ends, POSTED, |ends| !*ends);
            (ends, _) = waited.unwrap_or_else(PoisonError::into_inner);
            // Before the host looks at the rings: what is posted after that sets it again.
            self.flag[0].store(0, Ordering::Relaxed);
            // Pairs with the fence of a poster between its post and its look at the flag.
            fence(Ordering::SeqCst);
            self.hardware.ring_doorbell();
        }
    }
}
