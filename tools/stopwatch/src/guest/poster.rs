// SPDX-License-Identifier: MIT OR Apache-2.0

//! Posted commands that cost neither a system call nor an exit: a word stored in a
//! mapped post ring. The C header has the same as `stopwatch_post_mapped()`.

use std::os::fd::AsFd;
use std::sync::atomic::{fence, AtomicU64, Ordering};

use rustix::io::Errno;
use stopwatch_protocol::atomic_words::AtomicWords;
use stopwatch_protocol::post_ring::{NotPosted, PostProducer};
use stopwatch_uapi as uapi;

use super::pages::Pages;
use super::{explain, Device, Error, Operation};
use crate::raw::{counter, Access, Mapping, Request, View};

// SAFETY: <linux/stopwatch.h> gives the number this struct.
const BIND: Request<uapi::stopwatch_binding> = unsafe { Request::new(uapi::STOPWATCH_IOC_BIND) };

const RING_SIZE: usize = size_of::<uapi::stopwatch_post_ring>();

/// The number of an operation that can be posted.
#[inline]
fn number(operation: Operation) -> Option<u16> {
    Some(match operation {
        Operation::Start => uapi::STOPWATCH_OP_START,
        Operation::Pause => uapi::STOPWATCH_OP_PAUSE,
        Operation::Lap => uapi::STOPWATCH_OP_LAP,
        Operation::Reset => uapi::STOPWATCH_OP_RESET,
        _ => return None,
    } as u16)
}

/// Posts commands for one stopwatch: without a system call where that is possible,
/// as [`Device::post`] does where it is not.
///
/// ```no_run
/// use stopwatch::guest::{Device, Operation, DEVICE};
///
/// let device = Device::open(DEVICE)?;
/// let mut poster = device.poster(0)?;
/// poster.post(Operation::Start)?;
/// for _ in 0..1000 {
///     poster.post(Operation::Lap)?;
/// }
/// # Ok::<(), stopwatch::guest::Error>(())
/// ```
#[derive(Debug)]
pub struct Poster<'a> {
    device: &'a Device,
    watch: u32,
    /// `None` if there is no ring to be had.
    ring: Option<Ring>,
}

/// What came of an attempt to post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Posted {
    Done,
    /// It is, and the driver has to be told.
    Tell,
    /// It is, and there is no room for another one.
    Full,
    /// Not: the time is not known, or there is no room.
    Not,
    /// Not: the ring is not bound any more.
    Unbound,
}

/// A bound post ring, and the time.
#[derive(Debug)]
struct Ring {
    /// The one file that has this ring.
    file: Device,
    pages: Pages,
    words: View<[AtomicU64; RING_SIZE / 8]>,
    producer: PostProducer,
}

impl Ring {
    /// Binds a ring for `watch`. `Ok(None)` if there is none, or if it cannot be
    /// mapped.
    fn new(device: &Device, watch: u32) -> Result<Option<Self>, Error> {
        let Ok(file) = Device::open(&device.path) else {
            return Ok(None);
        };
        if !bind(&file, watch)? {
            return Ok(None);
        }
        let map = || {
            let info = file.raw_info().ok()?;
            let pages = Pages::map(file.as_fd(), &info).ok()?;
            let offset = uapi::STOPWATCH_POST_RING_OFFSET.into();
            let ring = Mapping::new(file.as_fd(), offset, RING_SIZE, Access::ReadWrite).ok()?;
            Some((pages, ring.words(0)))
        };
        let mapped = map();
        Ok(mapped.map(|(pages, words)| Self {
            file,
            pages,
            words,
            producer: PostProducer::default(),
        }))
    }

    #[inline]
    fn post(&mut self, op: u16, counter: impl Fn() -> u64) -> Posted {
        let clock = self.pages.clock();
        let time = || clock.time(&counter);
        match self.producer.post(&AtomicWords(&*self.words), 0, op, time) {
            Ok(true) => {}
            Ok(false) => return Posted::Full,
            Err(NotPosted::Unbound) => return Posted::Unbound,
            Err(NotPosted::Full | NotPosted::NoTime) => return Posted::Not,
        }
        // Either the driver sees the post, or it is seen here that it has looked.
        fence(Ordering::SeqCst);
        match self.pages.doorbell_is_set() {
            true => Posted::Done,
            false => Posted::Tell,
        }
    }
}

/// Binds the ring of a file. Whether there is one to be had.
fn bind(file: &Device, watch: u32) -> Result<bool, Error> {
    let none = uapi::stopwatch_reading::default();
    let mut binding = uapi::stopwatch_binding {
        watch,
        ..Default::default()
    };
    match BIND.call(file.as_fd(), &mut binding) {
        Ok(()) => Ok(true),
        Err(errno @ (Errno::NOENT | Errno::ACCESS | Errno::NODEV)) => {
            Err(explain(watch, Operation::Lap, errno, none.into()))
        }
        // None is free, or the host does not offer them.
        Err(_) => Ok(false),
    }
}

impl<'a> Poster<'a> {
    pub(super) fn new(device: &'a Device, watch: u32) -> Result<Self, Error> {
        Ok(Self {
            device,
            watch,
            ring: Ring::new(device, watch)?,
        })
    }

    /// Whether it posts without a system call.
    pub fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Notes that the stopwatch shall have started, paused, taken a lap or been reset
    /// now, and does not wait for the host. What comes of it, also that it was
    /// refused, shows in later readings.
    ///
    /// # Errors
    ///
    /// Those of [`Device::post`].
    #[inline]
    pub fn post(&mut self, operation: Operation) -> Result<(), Error> {
        if let (Some(ring), Some(op)) = (&mut self.ring, number(operation)) {
            match ring.post(op, counter) {
                Posted::Done => return Ok(()),
                other => return self.post_slowly(operation, op, other),
            }
        }
        self.device.post(self.watch, operation)
    }

    #[cold]
    fn post_slowly(
        &mut self,
        operation: Operation,
        op: u16,
        mut posted: Posted,
    ) -> Result<(), Error> {
        while let Some(ring) = &mut self.ring {
            match posted {
                Posted::Done => return Ok(()),
                Posted::Tell => return ring.file.doorbell(false),
                Posted::Full => return ring.file.doorbell(true),
                Posted::Not => break,
                Posted::Unbound => {
                    // Another one, which who has this one mapped knows nothing of.
                    self.ring = None;
                    self.ring = Ring::new(self.device, self.watch)?;
                    if let Some(ring) = &mut self.ring {
                        posted = ring.post(op, counter);
                    }
                }
            }
        }
        self.device.post(self.watch, operation)
    }
}
