// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device without a driver, by its PCI resources, which are root's: what `/dev/stopwatch`
//! does, less interrupts and users.
//!
//! A program comes and goes, the device stays as it is: whoever comes next goes on in the
//! rings where the last one was, which their slots tell, and turns the same features on. So
//! timeouts stay armed, and nothing is forgotten. What a program asked for that was killed
//! meanwhile is taken back. Only where the slots do not tell, and where the host has answered
//! neither the last program nor this one, the device is reset. [`Resources::reset_reason`]
//! says so.
//!
//! One program at a time has the device ([`lock`]). Nothing that the host writes is used as
//! an index or a length unless it was checked, and no wait for it is without a limit.

mod carrier;
mod flusher;
mod ivshmem;
mod lock;
mod naps;
mod pci;
mod region;
mod stub;
mod time;

use std::fmt;
use std::hint::spin_loop;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::geteuid;
use stopwatch_protocol::command::Binding;
use stopwatch_protocol::event_ring::EventRing;
use stopwatch_protocol::guest_clock::Sample;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::ownership::read_ownership;
use stopwatch_protocol::record;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{self, Message, Reply, Request, Stamped, Status};
use stopwatch_protocol::state;
use stopwatch_uapi as uapi;

use self::carrier::Carrier;
use self::flusher::Flusher;
use self::naps::Naps;
pub use self::pci::PciDevice;
use self::pci::{Enabled, Resource};
use self::region::Region;
use self::time::Time;
use super::cpu::Cpu;
use super::error::explain;
use super::info::Way;
use super::pages::Pages;
use super::{Error, Event, Info};
use crate::counter::counter;
use crate::mapping::{Mapping, View};
use crate::{
    Act, Command, Creation, Description, Features, Laps, Name, OpenError, Reading, Roots, Source,
    Which,
};

/// The one request ring that is used: a program has the device for itself.
const RING: u32 = 0;

/// How long the host may take to answer.
const PATIENCE: Duration = Duration::from_millis(uapi::STOPWATCH_ANSWER_MS as u64);

/// From one look for an event to the next.
const EVENT_LOOK: Duration = Duration::from_millis(1);

/// How often something is read again that the host is writing, for all that is read by one
/// call: some ms.
const TRIES: u32 = 100_000;

/// Calls that teach the time before the first reading without one.
const LESSONS: usize = 4;

/// The features that are turned on where they are offered. Doorbells at I/O ports would take a
/// system call each.
const FEATURES: u64 =
    Features::TIMEOUT.0 | Features::HOST_TIME.0 | Features::POSTED.0 | Features::HOST_POWER.0;

/// Words of the clock page.
const CLOCK_WORDS: usize = size_of::<uapi::stopwatch_clock_page>() / size_of::<u64>();

/// What is mapped of a device, and the clock page of this program.
#[derive(Debug)]
struct Hardware {
    carrier: Box<dyn Carrier>,
    layout: Layout,
    mapping: Arc<Mapping>,
    region: Region,
    page: Arc<Mapping>,
    clock: View<[AtomicU64; CLOCK_WORDS]>,
}

impl Hardware {
    /// Has the host carry out what is in the rings: it takes all, whichever it is told of.
    #[inline]
    fn ring_doorbell(&self) {
        self.carrier.ring_doorbell(RING);
    }

    fn reset_generation(&self) -> u32 {
        state::reset_generation(&self.region, &self.layout)
    }

    /// Resets the device, and waits for that.
    fn reset(&self) -> Result<(), Error> {
        let before = self.reset_generation();
        let since = Instant::now();
        let mut naps = Naps::new();
        self.carrier.reset();
        while self.reset_generation() == before {
            if since.elapsed() > PATIENCE {
                return Err(Error::NoAnswer);
            }
            naps.nap();
        }
        Ok(())
    }
}

/// The guest's ends of the rings, as they are since a reset.
struct Ends {
    generation: u32,
    ring: RequestRing,
    events: EventRing,
    /// Commands posted since the last doorbell.
    posted: u32,
    /// Whether something was left that the host had not answered.
    was_waiting: bool,
}

impl Ends {
    /// After a reset.
    fn new(hardware: &Hardware) -> Result<Self, Error> {
        let slots = hardware.layout.ring(RING).ok_or(Error::StrangeAnswer)?;
        Ok(Self {
            generation: hardware.reset_generation(),
            ring: RequestRing::new(slots),
            events: EventRing::new(hardware.layout.events()),
            posted: 0,
            was_waiting: false,
        })
    }

    /// Where the last program left them, or why the device has to be reset.
    fn resume(hardware: &Hardware) -> Result<Self, &'static str> {
        const UNKNOWN: &str = "its rings are not as a program leaves them";

        let Hardware { region, layout, .. } = hardware;
        let generation = hardware.reset_generation();
        let slots = layout.ring(RING).ok_or(UNKNOWN)?;
        let ring = RequestRing::resume(region, slots).ok_or(UNKNOWN)?;
        // It would be carried out now, which nobody waits for any more.
        let was_waiting = ring.take_back_all(region);
        // The host may be putting something there.
        let events = (0..8).find_map(|_| EventRing::resume(region, layout.events()));
        Ok(Self {
            generation,
            ring,
            events: events.ok_or(UNKNOWN)?,
            posted: 0,
            was_waiting,
        })
    }
}

/// What the host answered.
struct Answer {
    reply: Reply,
    /// The counter before the call and after it.
    before: u64,
    after: u64,
    /// How long the call took.
    error_ns: u64,
}

/// What changes.
#[derive(Default)]
struct State {
    /// Whether this program has the device.
    is_held: bool,
    /// Not there if it has to be found out.
    ends: Option<Ends>,
    /// Not there until somebody wants to know the time without a call.
    time: Option<Time>,
    /// VM time of the latest answer.
    latest_ns: u64,
    /// Of the last BIND. That of the next one is larger, also after this program.
    ticket: u64,
    /// A bit for each post ring that is bound.
    post_rings: u32,
    /// Stopwatches that go with this program.
    anonymous: Vec<u32>,
    /// Events taken.
    events: u64,
    reset_reason: Option<&'static str>,
}

/// An open device.
pub(super) struct Resources {
    state: Mutex<State>,
    flusher: Flusher,
    hardware: Arc<Hardware>,
    features: u64,
    _enabled: Enabled,
    /// Locked while the device is held.
    file: Resource,
    device: PciDevice,
    roots: Roots,
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resources")
            .field("device", &self.device)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Resources {
    /// Opens the device that there is.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`OpenError::NoDevice`].
    pub(super) fn find(roots: &Roots) -> Result<Self, Error> {
        let mut devices = PciDevice::all(roots);
        // First those whose identity is nobody else's, and of these the ones to be had.
        devices.sort_by_key(|device| (device.kind.is_shared, device.driver().is_some()));
        for device in devices {
            match Self::open(device.clone(), roots) {
                // It is somebody else's, and so is its driver.
                Err(Error::Open(OpenError::Strange { .. } | OpenError::Bound { .. }))
                    if device.kind.is_shared => {}
                result => return result,
            }
        }
        Err(Error::Open(OpenError::no_device(roots)))
    }

    /// Opens the device whose directory in sysfs that is.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub(super) fn at(path: &Path, roots: &Roots) -> Result<Self, Error> {
        let device = PciDevice::at(path.to_owned()).ok_or_else(|| OpenError::OtherPciDevice {
            path: path.to_owned(),
        })?;
        Self::open(device, roots)
    }

    /// Opens a device, and waits for another program that has it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::NoAnswer`], [`Error::StrangeAnswer`].
    fn open(device: PciDevice, roots: &Roots) -> Result<Self, Error> {
        check_driver(&device)?;
        let registers = device.resource(device.kind.registers)?;
        let file = device.resource(device.kind.region)?;
        lock::take(&file, roots)?;
        let enabled = Enabled::new(&device)?;
        let carrier = (device.kind.map)(registers.map()?, &file)?;
        let (layout, offered) = Layout::from_info(&carrier.info()).map_err(OpenError::strange)?;
        let mapping = file.map_part(layout.region_size().into())?;
        let page_size = uapi::STOPWATCH_CLOCK_PAGE_SIZE as usize;
        let page = Mapping::own(page_size).map_err(Error::system("map a page"))?;
        let resources = Self {
            state: Mutex::new(State {
                is_held: true,
                ..State::default()
            }),
            flusher: Flusher::default(),
            hardware: Arc::new(Hardware {
                carrier,
                layout,
                region: Region::new(mapping.all()),
                mapping,
                clock: page.words(0),
                page,
            }),
            features: offered & FEATURES,
            _enabled: enabled,
            file,
            device,
            roots: roots.clone(),
        };
        {
            let mut state = resources.state();
            let events = &mut resources.ready(&mut state)?.events;
            // Those from before are not this program's.
            for _ in 0..layout.geometry().event_slots {
                events.next(&resources.hardware.region);
            }
        }
        Ok(resources)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the device was reset, if it was.
    pub(super) fn reset_reason(&self) -> Option<&'static str> {
        self.state().reset_reason
    }

    /// The ends of the rings of a device that this program has, and that has its features on.
    fn ready<'a>(&self, state: &'a mut State) -> Result<&'a mut Ends, Error> {
        let generation = self.hardware.reset_generation();
        let is_ready = |ends: &Ends| ends.generation == generation;
        if !state.is_held || !state.ends.as_ref().is_some_and(is_ready) {
            self.connect(state)?;
        }
        state.ends.as_mut().ok_or(Error::StrangeAnswer)
    }

    #[cold]
    fn connect(&self, state: &mut State) -> Result<(), Error> {
        if !state.is_held {
            lock::take(&self.file, &self.roots)?;
            state.is_held = true;
        }
        // A driver resets what it binds to, so this is seen before its rings are used.
        check_driver(&self.device)?;
        let reason = match Ends::resume(&self.hardware) {
            Ok(ends) => {
                // Another program, or none, had a reset: what went with this one is gone.
                if state
                    .ends
                    .take()
                    .is_some_and(|was| was.generation != ends.generation)
                {
                    state.anonymous.clear();
                }
                let was_waiting = ends.was_waiting;
                match self.turn_on_features(state, ends) {
                    Err(Error::NoAnswer) if was_waiting => {
                        "the host has answered neither the last program nor this one"
                    }
                    result => return result,
                }
            }
            Err(reason) => reason,
        };
        state.reset_reason = Some(reason);
        state.anonymous.clear();
        self.hardware.reset()?;
        self.turn_on_features(state, Ends::new(&self.hardware)?)
    }

    fn turn_on_features(&self, state: &mut State, mut ends: Ends) -> Result<(), Error> {
        let request = Request::new(0, Command::SetFeatures(self.features)).into();
        let answer = self.exchange(&mut ends, &request)?;
        if answer.reply.status != Ok(Status::Ok) {
            return Err(Error::StrangeAnswer);
        }
        state.ends = Some(ends);
        self.note(state, &answer);
        Ok(())
    }

    /// Has the host carry out a request, and waits for the answer.
    fn exchange(&self, ends: &mut Ends, message: &Message) -> Result<Answer, Error> {
        let Hardware { region, .. } = &*self.hardware;
        let since = Instant::now();
        let mut naps = Naps::new();
        loop {
            let (begin, before) = (Instant::now(), counter());
            let called = ends
                .ring
                .call(region, message, || self.hardware.ring_doorbell());
            ends.posted = 0;
            let mut reply = called.ok();
            let token = called.err().flatten();
            loop {
                if let Some(reply) = reply {
                    return Ok(Answer {
                        reply,
                        before,
                        after: counter(),
                        error_ns: u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
                    });
                }
                // Before the last look: this program may have been away for long.
                let is_over = since.elapsed() > PATIENCE;
                naps.nap();
                match token {
                    Some(token) => reply = ends.ring.poll(region, token),
                    // The ring was full.
                    None if !is_over => break,
                    None => {}
                }
                if reply.is_none() && is_over {
                    // So it is not carried out later. It may have come just now.
                    reply = token.and_then(|token| ends.ring.abandon(region, token));
                    if reply.is_none() {
                        return Err(Error::NoAnswer);
                    }
                }
            }
        }
    }

    /// Learns from an answer.
    fn note(&self, state: &mut State, answer: &Answer) {
        let time_ns = answer.reply.reading.time_ns;
        let is_refused = answer.reply.status.is_ok_and(Status::is_refused);
        if is_refused || answer.reply.status.is_err() {
            return;
        }
        state.latest_ns = state.latest_ns.max(time_ns);
        if let Some(time) = &mut state.time {
            let sample = Sample {
                before: answer.before,
                after: answer.after,
                time_ns,
                pauses: state::read_pauses(&self.hardware.region, &self.hardware.layout),
            };
            time.learn(&sample, &self.hardware.clock[..]);
        }
    }

    fn call_with(&self, state: &mut State, message: &Message) -> Result<Answer, Error> {
        let ends = self.ready(state)?;
        let answer = self.exchange(ends, message)?;
        self.note(state, &answer);
        Ok(answer)
    }

    fn call(&self, message: impl Into<Message>) -> Result<Answer, Error> {
        self.call_with(&mut self.state(), &message.into())
    }

    pub(super) fn command(&self, watch: u32, asked: Command) -> Result<Reading, Error> {
        let answer = self.call(Request::new(watch, asked))?;
        let shown = answer.reply.reading;
        match errno(answer.reply.status) {
            None => Ok(Reading {
                shown,
                error_ns: answer.error_ns,
                source: Source::Call,
            }),
            Some(errno) => Err(explain(watch, asked, errno, shown.elapsed_ns)),
        }
    }

    pub(super) fn post(&self, watch: u32, act: Act) -> Result<(), Error> {
        let posted = Features::POSTED.0 & self.features != 0 && act.can_be_posted();
        if !posted || !self.try_post(watch, act)? {
            return self.command(watch, act.into()).map(drop);
        }
        Ok(())
    }

    /// Whether that could be done.
    fn try_post(&self, watch: u32, act: Act) -> Result<bool, Error> {
        if watch >= self.hardware.layout.geometry().stopwatches {
            return Err(no_such_watch(watch));
        }
        let mut state = self.state();
        self.learn_time(&mut state)?;
        let ends = self.ready(&mut state)?;
        let Some(stamp_ns) = self.pages().clock().time(&counter) else {
            return Ok(false);
        };
        let request = Stamped {
            op: act.to_wire(),
            watch,
            // Root may do all with whichever has the number.
            generation: 0,
            stamp_ns,
        };
        if !ends.ring.post_abandoned(&self.hardware.region, request) {
            return Ok(false);
        }
        ends.posted += 1;
        // With half of it free, a host that is late is no reason to wait.
        if ends.posted >= self.hardware.layout.geometry().ring_slots / 2 {
            ends.posted = 0;
            self.hardware.ring_doorbell();
        } else {
            self.flush_soon()?;
        }
        Ok(true)
    }

    /// Sees to it that the time is known without a call, if it can be.
    fn learn_time(&self, state: &mut State) -> Result<(), Error> {
        if state.time.is_none() {
            self.ready(state)?;
            // Where nobody tells of a pause, the counter has to go on in it.
            let is_known = self.hardware.carrier.tells_pauses() || Cpu::ask().is_kvm();
            state.time = Some(Time::new(&self.roots, is_known));
            let read = Request::new(0, Act::Read).into();
            for _ in 0..LESSONS {
                self.call_with(state, &read)?;
            }
        }
        Ok(())
    }

    /// What is read without a call.
    pub(super) fn pages_with_time(&self) -> Result<Pages, Error> {
        self.learn_time(&mut self.state())?;
        Ok(self.pages())
    }

    fn pages(&self) -> Pages {
        let Hardware {
            page,
            mapping,
            layout,
            ..
        } = &*self.hardware;
        Pages::of(page, mapping, layout)
    }

    /// Has the host carry out what is posted, before this returns.
    pub(super) fn flush(&self) {
        self.hardware.ring_doorbell();
    }

    /// Has the host carry out what is posted, soon.
    pub(super) fn flush_soon(&self) -> Result<(), Error> {
        self.flusher
            .soon(&self.hardware)
            .map_err(Error::system("have the host told of what is posted"))
    }

    /// Before the host's state is looked at: what is posted shall show there.
    fn settle(&self) {
        if self.flusher.is_due() {
            self.flush();
        }
    }

    /// Binds a post ring to a stopwatch; `None` if there is none to be had.
    pub(super) fn bind(&self, watch: u32) -> Result<Option<u32>, Error> {
        let mut state = self.state();
        let rings = self.hardware.layout.post_rings();
        let free = (!state.post_rings).trailing_zeros();
        if Features::POSTED.0 & self.features == 0 || free >= rings {
            return Ok(None);
        }
        // So that the time of the latest answer is that of this program, which is later than
        // any that one before had.
        self.ready(&mut state)?;
        let ticket = state.latest_ns.max(state.ticket + 1);
        let bind = Command::Bind(Binding { ring: free, ticket });
        let answer = self.call_with(&mut state, &Request::new(watch, bind).into())?;
        match answer.reply.status {
            Ok(Status::Ok) => {
                state.ticket = ticket;
                state.post_rings |= 1 << free;
                Ok(Some(free))
            }
            Ok(Status::BadWatch) => Err(no_such_watch(watch)),
            _ => Ok(None),
        }
    }

    /// The post ring of that number.
    pub(super) fn post_ring<const WORDS: usize>(
        &self,
        ring: u32,
    ) -> Option<View<[AtomicU64; WORDS]>> {
        let offset = self.hardware.layout.post_ring(ring)?;
        Some(self.hardware.mapping.words(offset as usize))
    }

    /// Ends a binding, when what is posted there is carried out.
    pub(super) fn unbind(&self, ring: u32) {
        let mut state = self.state();
        state.post_rings &= !(1 << ring);
        let ticket = state.ticket;
        let unbind = Command::Unbind(Binding { ring, ticket });
        // If there is no host to do it, nothing is done for what is posted either.
        let _ = self.call_with(&mut state, &Request::new(0, unbind).into());
    }

    pub(super) fn create(&self, name: Option<&Name>, creation: Creation) -> Result<u32, Error> {
        if creation.skip_paused && !self.hardware.carrier.tells_pauses() {
            return Err(Error::PausesUnknown);
        }
        let mut state = self.state();
        let request = slot::Creation {
            name: name.copied().unwrap_or_default(),
            flags: creation.flags(),
            uid: geteuid().as_raw(),
            mode: creation.share.mode(),
            clock: creation.clock.to_wire(),
        };
        let reply = self.call_with(&mut state, &request.into())?.reply;
        match (reply.status, name) {
            (Ok(Status::Ok), None) => {
                state.anonymous.push(reply.watch);
                Ok(reply.watch)
            }
            (Ok(Status::Ok), Some(_)) => Ok(reply.watch),
            (Ok(Status::Exists), Some(name)) => Err(Error::NameTaken {
                name: *name,
                watch: Some(reply.watch),
            }),
            (Ok(Status::Full), _) => Err(Error::Full {
                stopwatches: self.hardware.layout.geometry().stopwatches,
            }),
            (status, _) => Err(Error::system("create a stopwatch")(
                errno(status).unwrap_or(Errno::IO),
            )),
        }
    }

    pub(super) fn number(&self, name: &Name) -> Result<u32, Error> {
        self.search(uapi::STOPWATCH_NUMBERED, u32::MAX, |record| {
            record.name == *name
        })?
        .map(|(watch, _)| watch)
        .ok_or(Error::NoSuchWatch {
            which: Which::Name(*name),
        })
    }

    /// The first stopwatch that exists and is wanted, of those from `from` on, before `end`.
    fn search(
        &self,
        from: u32,
        end: u32,
        wanted: impl Fn(&record::Record) -> bool,
    ) -> Result<Option<(u32, record::Record)>, Error> {
        let Hardware { region, layout, .. } = &*self.hardware;
        let mut tries = TRIES;
        for watch in from..end.min(layout.geometry().stopwatches) {
            let Some(offset) = layout.record(watch) else {
                break;
            };
            // Most do not exist, which takes two loads.
            if !settled(&mut tries, || read_ownership(region, offset))?.exists {
                continue;
            }
            let record = settled(&mut tries, || record::Record::read(region, offset))?;
            if record.exists && wanted(&record) {
                return Ok(Some((watch, record)));
            }
        }
        Ok(None)
    }

    /// The stopwatch of that number, or the next one.
    pub(super) fn describe(&self, watch: u32, or_next: bool) -> Result<Option<Description>, Error> {
        self.settle();
        let end = if or_next {
            u32::MAX
        } else {
            watch.saturating_add(1)
        };
        let found = self.search(watch, end, |_| true)?;
        Ok(found.map(|(watch, record)| record.describe(watch).into()))
    }

    /// The laps of a stopwatch from `first` on, or all that are kept.
    pub(super) fn laps(&self, watch: u32, first: Option<u32>) -> Result<Laps, Error> {
        if self.describe(watch, false)?.is_none() {
            return Err(no_such_watch(watch));
        }
        let Hardware { region, layout, .. } = &*self.hardware;
        let mut laps_ns = vec![0; uapi::STOPWATCH_LAP_SLOTS as usize];
        let laps = settled(&mut { TRIES }, || {
            record::Laps::read(region, layout, watch, first, &mut laps_ns)
        })?;
        if laps.first < laps.oldest {
            return Err(Error::LapGone {
                watch,
                first: laps.first,
                oldest: laps.oldest,
                total: laps.total,
            });
        }
        laps_ns.truncate(laps.count as usize);
        Ok(Laps {
            total: laps.total,
            oldest: laps.oldest,
            first: laps.first,
            laps_ns,
        })
    }

    pub(super) fn info(&self) -> Info {
        let Hardware { region, layout, .. } = &*self.hardware;
        let geometry = layout.geometry();
        let state = state::State::read(region, layout);
        Info {
            version: uapi::STOPWATCH_VERSION,
            features: Features(self.features),
            stopwatches: geometry.stopwatches,
            rings: 1,
            ring_slots: geometry.ring_slots,
            interrupts: 0,
            events: self.state().events,
            events_lost: state.events_lost,
            epoch_ns: (state.epoch_ns != 0).then_some(state.epoch_ns),
            way: Way::Resources,
        }
    }

    pub(super) fn next_event(&self, limit: Option<Duration>) -> Result<Option<Event>, Error> {
        let since = Instant::now();
        loop {
            let is_over = limit.is_some_and(|limit| since.elapsed() >= limit);
            {
                let mut state = self.state();
                let events = &mut self.ready(&mut state)?.events;
                if let Some(told) = events.next(&self.hardware.region) {
                    state.events += 1;
                    return Ok(Some(Event { told, dropped: 0 }));
                }
                if events.is_broken() {
                    return Err(Error::StrangeAnswer);
                }
            }
            if is_over {
                return Ok(None);
            }
            sleep(EVENT_LOOK);
        }
    }

    /// Lets other programs have the device, until this one needs it.
    pub(super) fn let_go(&self) {
        let mut state = self.state();
        // A post ring is one program's for as long as it is bound.
        if !state.is_held || state.post_rings != 0 {
            return;
        }
        self.settle();
        state.is_held = false;
        lock::release(&self.file);
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        self.settle();
        let anonymous = std::mem::take(&mut self.state().anonymous);
        for watch in anonymous {
            // A host that does not answer is not asked for each one.
            if let Err(Error::NoAnswer | Error::Open(_)) = self.command(watch, Command::Delete) {
                break;
            }
        }
        // What is mapped may be in use for longer, and has the file open.
        lock::release(&self.file);
    }
}

impl AsFd for Resources {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A device with a driver is that one's.
fn check_driver(device: &PciDevice) -> Result<(), OpenError> {
    match device.driver() {
        Some(driver) => Err(OpenError::Bound {
            address: device.address(),
            driver,
        }),
        None => Ok(()),
    }
}

fn no_such_watch(watch: u32) -> Error {
    Error::NoSuchWatch {
        which: Which::Number(watch),
    }
}

/// Reads until the host is not writing what is read.
fn settled<T>(tries: &mut u32, mut read: impl FnMut() -> Option<T>) -> Result<T, Error> {
    loop {
        if let Some(value) = read() {
            return Ok(value);
        }
        *tries = tries.checked_sub(1).ok_or(Error::StrangeAnswer)?;
        spin_loop();
    }
}

/// What the driver makes of a status.
fn errno(status: Result<Status, u32>) -> Option<Errno> {
    Some(match status {
        Ok(Status::Ok) => return None,
        Ok(Status::Already) => Errno::ALREADY,
        Ok(Status::Stopped) => Errno::NODATA,
        Ok(Status::Exists) => Errno::EXIST,
        Ok(Status::BadOp) => Errno::OPNOTSUPP,
        Ok(Status::BadWatch) => Errno::NOENT,
        Ok(Status::BadArg | Status::BadName) => Errno::INVAL,
        Ok(Status::Full) => Errno::NOSPC,
        Ok(Status::Denied) => Errno::PERM,
        Ok(Status::BadFlags | Status::BadOwner | Status::Stale | Status::Cancelled) | Err(_) => {
            Errno::IO
        }
    })
}
