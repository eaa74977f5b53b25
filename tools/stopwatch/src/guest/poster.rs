// SPDX-License-Identifier: MIT OR Apache-2.0

//! Posted commands that cost neither a system call nor an exit: a word stored in a
//! mapped post ring. The C header has the same as `stopwatch_post_mapped()`.

use std::os::fd::AsFd;
use std::sync::atomic::{fence, AtomicU64, Ordering};

use rustix::io::Errno;
use stopwatch_protocol::atomic_words::AtomicWords;
use stopwatch_protocol::post_ring::{NotPosted, PostProducer};
use stopwatch_uapi as uapi;

use super::device::By;
use super::driver::Driver;
use super::error::explain;
use super::pages::Pages;
use super::resources::Resources;
use super::{Device, Error};
use crate::counter::counter;
use crate::mapping::{Access, Mapping, View};
use crate::raw::Ioctl;
use crate::Act;

// SAFETY: <linux/stopwatch.h> gives the number this struct.
const BIND: Ioctl<uapi::stopwatch_binding> = unsafe { Ioctl::new(uapi::STOPWATCH_IOC_BIND) };

const RING_SIZE: usize = size_of::<uapi::stopwatch_post_ring>();

/// Posts commands for one stopwatch: without a system call where that is possible,
/// as [`Device::post`] does where it is not.
///
/// ```no_run
/// use stopwatch::guest::{Device, DEVICE};
/// use stopwatch::Act;
///
/// let device = Device::open(DEVICE)?;
/// let mut poster = device.poster(0)?;
/// poster.post(Act::Start)?;
/// for _ in 0..1000 {
///     poster.post(Act::Lap)?;
/// }
/// # Ok::<(), stopwatch::guest::Error>(())
/// ```
#[derive(Debug)]
pub struct Poster<'a> {
    device: &'a Device,
    watch: u32,
    /// `None` if there is no ring to be had.
    ring: Option<Ring<'a>>,
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

/// Who has a ring bound, and rings the doorbell for it.
#[derive(Debug)]
enum Owner<'a> {
    /// The driver, for the one file that has this ring.
    Driver(Driver),
    /// This program, where there is no driver; and the number of the ring.
    Resources(&'a Resources, u32),
}

impl Owner<'_> {
    /// Has the host carry out what is posted: before this returns if `now`, else within some
    /// milliseconds.
    fn doorbell(&self, now: bool) -> Result<(), Error> {
        match self {
            Self::Driver(file) => file.doorbell(now),
            Self::Resources(resources, _) if now => {
                resources.flush();
                Ok(())
            }
            Self::Resources(resources, _) => resources.flush_soon(),
        }
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        // The driver does it when its file is closed.
        if let Self::Resources(resources, ring) = self {
            resources.unbind(*ring);
        }
    }
}

/// A bound post ring, and the time.
#[derive(Debug)]
struct Ring<'a> {
    owner: Owner<'a>,
    pages: Pages,
    words: View<[AtomicU64; RING_SIZE / 8]>,
    producer: PostProducer,
}

impl<'a> Ring<'a> {
    /// Binds a ring for `watch`. `Ok(None)` if there is none, or if it cannot be
    /// mapped.
    fn new(device: &'a Device, watch: u32) -> Result<Option<Self>, Error> {
        match &device.way {
            By::Driver(driver) => Self::of_driver(driver, watch),
            By::Resources(resources) => Self::of_resources(resources, watch),
        }
    }

    fn of_driver(device: &Driver, watch: u32) -> Result<Option<Self>, Error> {
        let Ok(file) = Driver::open(&device.path) else {
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
            owner: Owner::Driver(file),
            pages,
            words,
            producer: PostProducer::default(),
        }))
    }

    fn of_resources(resources: &'a Resources, watch: u32) -> Result<Option<Self>, Error> {
        let pages = resources.pages_with_time()?;
        let Some(ring) = resources.bind(watch)? else {
            return Ok(None);
        };
        let owner = Owner::Resources(resources, ring);
        let words = resources.post_ring(ring);
        Ok(words.map(|words| Self {
            owner,
            pages,
            words,
            producer: PostProducer::default(),
        }))
    }

    #[inline]
    fn post(&mut self, op: u16, counter: impl Fn() -> u64) -> Posted {
        let clock = self.pages.clock();
        let time = || clock.time(&counter);
        match self
            .producer
            .post(&AtomicWords(&self.words[..]), 0, op, time)
        {
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
fn bind(file: &Driver, watch: u32) -> Result<bool, Error> {
    let mut binding = uapi::stopwatch_binding {
        watch,
        ..Default::default()
    };
    match BIND.call(file.as_fd(), &mut binding) {
        Ok(()) => Ok(true),
        Err(errno @ (Errno::NOENT | Errno::ACCESS | Errno::NODEV)) => {
            Err(explain(watch, Act::Lap.into(), errno, 0))
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
    pub fn post(&mut self, act: Act) -> Result<(), Error> {
        if let (Some(ring), true) = (&mut self.ring, act.can_be_posted()) {
            match ring.post(act.to_wire(), counter) {
                Posted::Done => return Ok(()),
                other => return self.post_slowly(act, other),
            }
        }
        self.device.post(self.watch, act)
    }

    #[cold]
    fn post_slowly(&mut self, act: Act, mut posted: Posted) -> Result<(), Error> {
        while let Some(ring) = &mut self.ring {
            match posted {
                Posted::Done => return Ok(()),
                Posted::Tell => return ring.owner.doorbell(false),
                Posted::Full => return ring.owner.doorbell(true),
                Posted::Not => break,
                Posted::Unbound => {
                    // Another one, which who has this one mapped knows nothing of.
                    self.ring = None;
                    self.ring = Ring::new(self.device, self.watch)?;
                    if let Some(ring) = &mut self.ring {
                        posted = ring.post(act.to_wire(), counter);
                    }
                }
            }
        }
        self.device.post(self.watch, act)
    }
}
