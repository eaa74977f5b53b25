// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM of a server: a client's connection, what it was given, and what serves it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;
use rustix::io::{read, write, Errno};
use stopwatch_engine::device::Target;
use stopwatch_engine::environment::Clock;
use stopwatch_engine::policy::{Policy as Grants, FEATURES};
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::command::{Act, Command, Identity};
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::slot::Status;
use stopwatch_protocol::words::{field, words_of};
use stopwatch_uapi as uapi;

use super::super::{
    event_fds, map_region, memfd, Control, Error, Geometry, Policy, Region, NAME_SIZE,
};
use super::backend::Backend;
use super::clock::VmClock;
use super::error::{system, ServeError};
use super::handshake::{Handshake, Progress};
use super::memory::Guarded;
use super::module::ModuleVm;
use super::program::ProgramVm;
use super::store::{self, Parcel};
use super::{Options, Peer};
use crate::{Features, Name};

/// The features that a device behind this carrier does not have.
const WITHOUT: u64 = uapi::STOPWATCH_F_PORT_DOORBELLS as u64;

/// What the regions of a server at `path` are called.
pub(super) fn region_name(path: &Path) -> String {
    /// What the kernel takes, less what the name begins with.
    const MOST: usize = 200;
    let mut name = format!("stopwatch:{}", path.display());
    let end = (0..=MOST.min(name.len()))
        .rev()
        .find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

/// What serves a VM.
pub(super) enum Served {
    Module(ModuleVm),
    Program(Box<ProgramVm>, OwnedFd),
}

/// A VM.
pub(super) struct Vm {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) peer: Peer,
    pub(super) socket: OwnedFd,
    region: OwnedFd,
    /// Which region it is.
    pub(super) inode: u64,
    /// By ring; the last one is that of a reset.
    kicks: Vec<OwnedFd>,
    /// By vector. The last one is never made: QEMU ends if a guest unmasks a vector that
    /// has no eventfd.
    pub(super) calls: Vec<OwnedFd>,
    pub(super) served: Served,
    geometry: Geometry,
    /// Those that are offered.
    features: u64,
    min_interval_ns: u64,
    /// How far the handshake has come, and until when it has to be over; `None` once it is.
    handshake: Option<(Handshake, u64)>,
    /// What the server has noted of [`Self::wanted_at`].
    pub(super) noted: Option<u64>,
    /// Whether it waits for its turn to work.
    pub(super) queued: bool,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("number", &self.number)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// A new VM, for a client that is connected and has until then to read what it is told.
    pub(super) fn create(
        number: u64,
        backend: &Backend,
        options: &Options,
        region_name: &str,
        (socket, peer): (OwnedFd, Peer),
        until: u64,
    ) -> Result<Self, ServeError> {
        let geometry = options.geometry;
        let layout = Layout::new(geometry)?;
        let size = layout.region_size().next_power_of_two();
        let region = memfd(region_name, size.into())?;
        let mapped = map_region(&region, layout.region_size())?;
        let kicks = event_fds(geometry.rings + 1)?;
        let calls = event_fds(geometry.rings + 1)?;
        let name = options.name.clone().unwrap_or_default();

        let (served, features) = match backend {
            Backend::Module(node) => {
                let control = Control::open(node)?;
                let vm = module_vm(control, options, &region, mapped, &kicks, &calls)?;
                // The module says by itself what it offers.
                (Served::Module(vm), 0)
            }
            Backend::Program => {
                let own = memfd("stopwatch-own", Guarded::own_size(&layout).into())?;
                let grants = grants(&options.policy);
                let memory = guarded(&layout, mapped, &own)?;
                let mut vm = ProgramVm::new(layout, grants, memory, VmClock::new());
                describe(vm.memory(), uapi::STOPWATCH_IVSHMEM_PROGRAM);
                for name in &options.auto_start {
                    start(&mut vm, *name)?;
                }
                (Served::Program(Box::new(vm), own), grants.features)
            }
        };
        Ok(Self {
            number,
            name,
            peer,
            socket,
            inode: inode(&region)?,
            region,
            kicks,
            calls,
            served,
            geometry,
            features,
            min_interval_ns: options.policy.min_interval_ns,
            handshake: Some((Handshake::default(), until)),
            noted: None,
            queued: false,
        })
    }

    /// A VM that another server has had, by what that has kept.
    pub(super) fn restore(
        backend: &Backend,
        parcel: Parcel,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, ServeError> {
        let failed = |why: String| ServeError::Kept {
            vm: parcel.vm.to_string(),
            why,
        };
        let geometry = Geometry {
            stopwatches: parcel.stopwatches,
            rings: parcel.rings,
            ring_slots: parcel.ring_slots,
            event_slots: parcel.event_slots,
        };
        let layout = Layout::new(geometry)?;
        let rings = geometry.rings as usize;
        let mut fds = fds.into_iter();
        let mut take = |count| fds.by_ref().take(count).collect::<Vec<_>>();
        let [first, kicks, calls] = [take(3), take(rings + 1), take(rings + 1)];
        let Ok([socket, region, own]) = <[OwnedFd; 3]>::try_from(first) else {
            return Err(failed("descriptors are missing".into()));
        };
        if calls.len() != rings + 1 {
            return Err(failed("descriptors are missing".into()));
        }
        let mapped = map_region(&region, layout.region_size())?;
        let served = match (backend, parcel.clock) {
            (_, Some(clock)) => {
                let grants = Grants {
                    features: parcel.features,
                    min_interval_ns: parcel.min_interval_ns,
                    ..Grants::default()
                };
                let memory = guarded(&layout, mapped, &own)?;
                let vm = ProgramVm::restore(layout, grants, memory, clock);
                describe(vm.memory(), uapi::STOPWATCH_IVSHMEM_PROGRAM);
                Served::Program(Box::new(vm), own)
            }
            (_, None) => Served::Module(ModuleVm::new(Control::from(own), mapped)),
        };
        Ok(Self {
            number: parcel.vm,
            name: parcel.name,
            peer: parcel.peer,
            socket,
            inode: inode(&region)?,
            region,
            kicks,
            calls,
            served,
            geometry,
            features: parcel.features,
            min_interval_ns: parcel.min_interval_ns,
            handshake: None,
            noted: None,
            queued: false,
        })
    }

    /// Has the service manager keep it.
    pub(super) fn keep(&self) -> Result<(), ServeError> {
        let (own, clock) = match &self.served {
            Served::Module(vm) => (vm.control().as_fd(), None),
            Served::Program(vm, own) => (own.as_fd(), Some(vm.clock())),
        };
        let parcel = Parcel {
            vm: self.number,
            name: self.name.clone(),
            peer: self.peer.clone(),
            clock,
            stopwatches: self.geometry.stopwatches,
            rings: self.geometry.rings,
            ring_slots: self.geometry.ring_slots,
            event_slots: self.geometry.event_slots,
            features: self.features,
            min_interval_ns: self.min_interval_ns,
        };
        let first = [self.socket.as_fd(), self.region.as_fd(), own];
        let eventfds = self.kicks.iter().chain(&self.calls).map(AsFd::as_fd);
        let fds: Vec<BorrowedFd<'_>> = first.into_iter().chain(eventfds).collect();
        store::keep(&parcel, &fds)
    }

    /// The doorbells that this program answers, with their numbers.
    pub(super) fn doorbells(&self) -> impl Iterator<Item = (u64, &OwnedFd)> {
        let first = match self.served {
            // The others the module listens to.
            Served::Module(_) => self.geometry.rings as usize,
            Served::Program(..) => 0,
        };
        (0..).zip(&self.kicks).skip(first)
    }

    /// All calls that may be made, a bit for each.
    pub(super) fn all_calls(&self) -> u64 {
        u64::MAX >> (u64::BITS - self.geometry.rings)
    }

    /// One of them was rung.
    pub(super) fn kicked(&mut self, doorbell: u32) {
        let is_reset = doorbell == self.geometry.rings;
        if let Some(kick) = self.kicks.get(doorbell as usize).filter(|_| is_reset) {
            // So that the server after this one does not take it for one that is to be done.
            let _ = read(kick, &mut [0; 8]);
        }
        match &mut self.served {
            Served::Program(vm, _) if is_reset => vm.reset(),
            Served::Program(vm, _) => vm.kick(doorbell),
            Served::Module(vm) => {
                vm.reset();
                // The module looks at what it is asked for, and does it, in this write.
                if let Some(kick) = self.kicks.first() {
                    let _ = write(kick, &1u64.to_ne_bytes());
                }
            }
        }
    }

    /// Goes on with the handshake.
    pub(super) fn tell(&mut self) -> Result<Progress, Errno> {
        let Some((handshake, _)) = &mut self.handshake else {
            return Ok(Progress::Taken);
        };
        let progress =
            handshake.advance(self.socket.as_fd(), &self.region, &self.kicks, &self.calls)?;
        if progress == Progress::Taken {
            self.handshake = None;
        }
        Ok(progress)
    }

    /// What serves it, if that is this program.
    pub(super) fn program(&mut self) -> Option<&mut ProgramVm> {
        match &mut self.served {
            Served::Module(_) => None,
            Served::Program(vm, _) => Some(vm),
        }
    }

    /// Fills in what GET_VM tells.
    pub(super) fn describe(&self, it: &mut uapi::vhost_stopwatch_vm) {
        it.vm = self.number;
        it.name = [0; NAME_SIZE];
        // Its length was looked at.
        for (to, from) in it.name.iter_mut().zip(self.name.as_bytes()) {
            *to = *from;
        }
        it.uid = self.peer.uid;
        it.pid = self.peer.pid;
        it.status = uapi::VHOST_STOPWATCH_VM_STARTED;
        it.stopwatches = self.geometry.stopwatches;
        it.rings = self.geometry.rings;
        it.ring_slots = self.geometry.ring_slots;
        it.event_slots = self.geometry.event_slots;
        if let Served::Program(vm, _) = &self.served {
            let (engine, counts) = (vm.engine(), vm.counts());
            let stats = engine.stats();
            it.vmm_status = engine.vmm_status();
            it.features = engine.features();
            it.time_ns = vm.clock().now(ClockId::Monotonic);
            it.resets = stats.resets;
            it.kicks = counts.kicks;
            it.requests = stats.requests;
            it.bad_requests = stats.bad_requests;
            it.over_budget = counts.over_budget;
            it.events = stats.events;
            it.events_lost = stats.events_lost;
            it.paused_ns = engine.paused_ns(&vm.clock());
            it.timed_kicks = counts.timed_kicks;
            it.service_ns = counts.service_ns;
        }
    }

    /// Until when the handshake has to be over; `None` once it is.
    pub(super) fn handshake_until(&self) -> Option<u64> {
        self.handshake.map(|(_, until)| until)
    }

    /// When to look at it, of the host's `CLOCK_MONOTONIC` in ns.
    pub(super) fn wanted_at(&self) -> Option<u64> {
        let deadline = match &self.served {
            Served::Program(vm, _) => vm.deadline(),
            Served::Module(_) => None,
        };
        [self.handshake_until(), deadline]
            .into_iter()
            .flatten()
            .min()
    }

    /// Notes what has expired by now. Says which calls are to be made.
    pub(super) fn expire(&mut self, now: u64) -> u64 {
        match &mut self.served {
            Served::Program(vm, _) if vm.deadline().is_some_and(|at| at <= now) => vm.expire(),
            _ => 0,
        }
    }

    /// Whether [`Self::work`] is to be called.
    pub(super) fn has_work(&self) -> bool {
        matches!(&self.served, Served::Program(vm, _) if vm.has_work())
    }

    /// Does a section of what is left over.
    pub(super) fn work(&mut self) {
        if let Served::Program(vm, _) = &mut self.served {
            vm.work();
        }
    }
}

fn inode(region: &OwnedFd) -> Result<u64, ServeError> {
    let stat = fstat(region).map_err(system("look at the region"))?;
    Ok(stat.st_ino)
}

fn guarded(layout: &Layout, shared: Region, own: &OwnedFd) -> Result<Guarded, ServeError> {
    let own = map_region(own, Guarded::own_size(layout))?;
    Ok(Guarded::new(shared, own, layout))
}

/// What a policy grants a guest of this program's.
fn grants(policy: &Policy) -> Grants {
    let by_leave = u64::from(uapi::STOPWATCH_F_HOST_TIME);
    let leave = if policy.allow_host_time { by_leave } else { 0 };
    Grants {
        features: FEATURES & !WITHOUT & (leave | !by_leave),
        min_interval_ns: policy.min_interval_ns,
        ..Grants::default()
    }
}

/// Has a stopwatch of that name run.
fn start(vm: &mut ProgramVm, name: Name) -> Result<(), ServeError> {
    let identity = Identity {
        name,
        ..Identity::default()
    };
    let made = vm.command(Target::Number(0), Command::Create(identity));
    let refused = match made.status {
        Ok(Status::Ok) => None,
        Ok(Status::Exists) => Some(Error::NameTaken {
            vm: 0,
            name,
            watch: made.watch,
        }),
        _ => Some(Error::Full { vm: 0 }),
    };
    if let Some(error) = refused {
        return Err(error.into());
    }
    vm.command(Target::Number(made.watch), Command::Act(Act::Start));
    Ok(())
}

/// Writes what a guest finds of the carrier.
fn describe(memory: &impl Memory, backend: u32) {
    let mut words = [0; words_of::<uapi::stopwatch_ivshmem>()];
    let size = size_of::<uapi::stopwatch_ivshmem>() as u32;
    field!(stopwatch_ivshmem.size).set(&mut words, size);
    field!(stopwatch_ivshmem.backend).set(&mut words, backend);
    memory.store_all(uapi::STOPWATCH_IVSHMEM_OFFSET, &words);
}

/// A VM of the host module, started.
fn module_vm(
    control: Control,
    options: &Options,
    region: &OwnedFd,
    mapped: Region,
    kicks: &[OwnedFd],
    calls: &[OwnedFd],
) -> Result<ModuleVm, ServeError> {
    if let Some(name) = &options.name {
        control.set_name(name)?;
    }
    if options.policy != Policy::default() {
        control.set_policy(options.policy)?;
    }
    let features = control.features()?.without(Features(WITHOUT));
    control.set_features(features)?;
    control.set_geometry(options.geometry)?;
    control.set_region(region)?;
    let rings = options.geometry.rings as usize;
    for (ring, kick) in (0..).zip(kicks).take(rings) {
        control.set_kick(ring, kick)?;
    }
    for (index, call) in (0..).zip(calls).take(rings) {
        control.set_call(index, call)?;
    }
    describe(&mapped, uapi::STOPWATCH_IVSHMEM_MODULE);
    control.start()?;
    if let Some(info) = control.this_vm()? {
        for name in &options.auto_start {
            let number = control.create(info.vm, name, Default::default())?;
            control.command(info.vm, &number.into(), Act::Start)?;
        }
    }
    Ok(ModuleVm::new(control, mapped))
}
