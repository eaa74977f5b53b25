// SPDX-License-Identifier: GPL-2.0

//! `/dev/vhost-stopwatch`: an open file, its ioctls and the order that they keep.
//!
//! What each ioctl does and which errors it has is in `include/uapi/linux/vhost_stopwatch.h`; this
//! is in the same order.

use kernel::{
    fs::File,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use crate::{
    abstractions::{
        capability,
        eventfd::{
            EventFdFile,
            EventFdListener, //
        },
        memfd::{
            Memfd,
            PinnedMemfd, //
        },
        miscdevice::MiscFile,
        process_id::ProcessId,
        user_struct::{
            write_array,
            UserCopy,
            UserStruct, //
        },
        weak_file::WeakFile, //
    },
    engine::{
        device::Target,
        policy::{
            Policy,
            FEATURES, //
        }, //
    },
    functions,
    protocol::{
        command::Command,
        geometry::Geometry,
        layout::Layout,
        name::Name,
        record::Laps,
        slot::{
            Creation,
            Status, //
        }, //
    },
    registry::Registry,
    server::{
        self,
        Doorbell, //
    },
    uapi,
    vm::{
        Opener,
        Vm,
        VmName, //
    }, //
};

/// The features that this module can offer now.
fn all_features() -> u64 {
    FEATURES | functions::features()
}

/// Those that need the policy's leave, whether the module has them now or not.
fn by_policy() -> u64 {
    u64::from(uapi::STOPWATCH_F_HOST_TIME) | functions::all_features()
}

/// How far the set-up of a file has come.
struct Setup {
    features: u64,
    name: VmName,
    policy: Policy,
    layout: Option<Layout>,
    vm: Option<Arc<Vm>>,
    /// By ring, once there is a VM. Each holds the VM's server.
    doorbells: KVec<Option<Pin<KBox<EventFdListener<Doorbell>>>>>,
}

impl Setup {
    /// The VM, whose region has to be set.
    fn vm(&self) -> Result<&Arc<Vm>> {
        self.vm.as_ref().ok_or(ENXIO)
    }

    /// Refuses what may only be done before the region is set.
    fn before_region(&self) -> Result {
        if self.vm.is_some() {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// The VM, which may not be started.
    fn stopped_vm(&self) -> Result<&Arc<Vm>> {
        let vm = self.vm()?;

        if vm.server().snapshot().started {
            return Err(EBUSY);
        }
        Ok(vm)
    }
}

/// An open file: a VM, or on the way to one.
///
/// Lock order: `setup`, the registry's, a VM's name, the server's state.
#[pin_data]
pub(crate) struct ControlFile {
    registry: Arc<Registry>,
    opener: Opener,
    link: Arc<WeakFile>,
    #[pin]
    setup: Mutex<Setup>,
}

#[vtable]
impl MiscFile for ControlFile {
    type Context = Arc<Registry>;
    type Link = Arc<WeakFile>;

    fn open(registry: &Arc<Registry>, file: &File, link: &Arc<WeakFile>) -> Result<Arc<Self>> {
        let opener = Opener {
            user: file.cred().euid(),
            process: Arc::new(ProcessId::current()?, GFP_KERNEL_ACCOUNT)?,
        };
        let setup = Setup {
            features: all_features(),
            name: VmName::default(),
            policy: Policy {
                min_interval_ns: u64::from(uapi::VHOST_STOPWATCH_MIN_INTERVAL_NS),
                ..Policy::default()
            },
            layout: None,
            vm: None,
            doorbells: KVec::new(),
        };

        Arc::pin_init(
            try_pin_init!(Self {
                registry: registry.clone(),
                opener,
                link: link.clone(),
                setup <- new_mutex!(setup),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn release(&self) {
        let mut setup = self.setup.lock();

        // First nobody finds it, then nobody kicks it; then it ends, unless somebody who looked
        // it up before holds it for another moment.
        if let Some(vm) = setup.vm.take() {
            self.registry.remove(&vm);
            setup.doorbells.clear();
            // It is no error if it was not started.
            let _ = vm.server().stop();
        }
    }

    fn ioctl(&self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::VHOST_STOPWATCH_GET_FEATURES => answer(arg, |it| self.get_features(it)),
            uapi::VHOST_STOPWATCH_SET_FEATURES => take(arg, |it| self.set_features(it)),
            uapi::VHOST_STOPWATCH_SET_GEOMETRY => self.set_geometry(arg),
            uapi::VHOST_STOPWATCH_SET_REGION => take(arg, |it| self.set_region(it)),
            uapi::VHOST_STOPWATCH_SET_KICK => take(arg, |it| self.set_kick(it)),
            uapi::VHOST_STOPWATCH_SET_CALL => take(arg, |it| self.set_call(it)),
            uapi::VHOST_STOPWATCH_SET_NAME => take(arg, |it| self.set_name(it)),
            uapi::VHOST_STOPWATCH_START => self.start(arg),
            uapi::VHOST_STOPWATCH_STOP => self.stop(arg),
            uapi::VHOST_STOPWATCH_GET_VM => answer(arg, |it| self.get_vm(it)),
            uapi::VHOST_STOPWATCH_SET_POLICY => take(arg, |it| self.set_policy(it)),
            uapi::VHOST_STOPWATCH_COMMAND => self.command(arg),
            uapi::VHOST_STOPWATCH_DESCRIBE => answer(arg, |it| self.describe(it)),
            uapi::VHOST_STOPWATCH_LAPS => self.laps(arg),
            _ => return Err(ENOTTY),
        }?;
        Ok(0)
    }
}

/// An ioctl that takes a struct.
fn take<T: UserStruct>(arg: usize, act: impl FnOnce(&T) -> Result) -> Result {
    act(UserCopy::of(arg).read()?)
}

/// An ioctl that takes a struct and fills it in.
fn answer<T: UserStruct>(arg: usize, act: impl FnOnce(&mut T) -> Result) -> Result {
    let mut copy = UserCopy::of(arg);

    act(copy.read()?)?;
    copy.write_back()
}

/// Refuses flags, and reserved fields, that are not zero.
fn zero(field: u32) -> Result {
    if field != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

impl ControlFile {
    fn get_features(&self, it: &mut uapi::vhost_stopwatch_features) -> Result {
        zero(it.flags)?;
        it.features = all_features();
        Ok(())
    }

    fn set_features(&self, it: &uapi::vhost_stopwatch_features) -> Result {
        zero(it.flags)?;
        if it.features & !all_features() != 0 {
            return Err(EINVAL);
        }
        let mut setup = self.setup.lock();

        setup.before_region()?;
        setup.features = it.features;
        Ok(())
    }

    fn set_geometry(&self, arg: usize) -> Result {
        let mut copy = UserCopy::<uapi::vhost_stopwatch_geometry>::of(arg);
        let it = copy.read()?;

        zero(it.flags)?;
        zero(it.reserved)?;
        let geometry = Geometry {
            stopwatches: it.stopwatches,
            rings: it.rings,
            ring_slots: it.ring_slots,
            event_slots: it.event_slots,
        };
        let layout = Layout::new(geometry).map_err(|_| EINVAL)?;
        it.region_size = layout.region_size();
        let mut setup = self.setup.lock();

        setup.before_region()?;
        // First the answer: if it cannot be given, nothing is changed.
        copy.write_back()?;
        setup.layout = Some(layout);
        Ok(())
    }

    fn set_region(&self, it: &uapi::vhost_stopwatch_fd) -> Result {
        zero(it.flags)?;
        zero(it.index)?;
        let mut setup = self.setup.lock();

        setup.before_region()?;
        let layout = setup.layout.ok_or(ENXIO)?;
        let geometry = layout.geometry();
        let memfd = Memfd::get(it.fd)?;
        let admission = self.registry.admit(memfd, self.opener.user)?;
        let region = PinnedMemfd::new(admission.memfd(), layout.region_size() as usize)?;
        let mut doorbells = KVec::with_capacity(geometry.rings as usize, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..geometry.rings {
            doorbells.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        let policy = Policy {
            // The policy has the features that it allows; the others need no leave.
            features: setup.features & (setup.policy.features | !by_policy()),
            ..setup.policy
        };
        // Who may see all VMs may make one for another user.
        let payer = (!capability::sys_admin()).then_some(self.opener.user);
        let server = server::serve_region(layout, policy, region, admission, payer)?;
        let vm = self.registry.add(|number| {
            Arc::pin_init(
                Vm::new(number, self.opener.clone(), geometry, setup.name, server),
                GFP_KERNEL_ACCOUNT,
            )
        })?;

        setup.doorbells = doorbells;
        setup.vm = Some(vm);
        Ok(())
    }

    fn set_kick(&self, it: &uapi::vhost_stopwatch_fd) -> Result {
        zero(it.flags)?;
        let mut setup = self.setup.lock();
        let server = setup.stopped_vm()?.server().clone();
        let doorbell = setup.doorbells.get_mut(it.index as usize).ok_or(EINVAL)?;
        let file = EventFdFile::get(it.fd)?;

        if doorbell.as_ref().is_some_and(|set| set.listens_to(&file)) {
            return Ok(());
        }
        *doorbell = Some(EventFdListener::attach(
            &file,
            Doorbell::new(server, it.index, self.link.clone())?,
        )?);
        Ok(())
    }

    fn set_call(&self, it: &uapi::vhost_stopwatch_fd) -> Result {
        zero(it.flags)?;
        let setup = self.setup.lock();
        let vm = setup.stopped_vm()?;
        let eventfd = EventFdFile::get(it.fd)?.eventfd()?;

        vm.server()
            .set_call(it.index, Arc::new(eventfd, GFP_KERNEL_ACCOUNT)?)
    }

    fn set_name(&self, it: &uapi::vhost_stopwatch_name) -> Result {
        zero(it.flags)?;
        let name = VmName::new(it.name)?;
        let mut setup = self.setup.lock();

        setup.name = name;
        if let Some(vm) = &setup.vm {
            vm.set_name(name);
        }
        Ok(())
    }

    fn start(&self, arg: usize) -> Result {
        zero(u32::try_from(arg).map_err(|_| EINVAL)?)?;
        let vm = {
            let setup = self.setup.lock();
            let vm = setup.vm()?;

            if setup.doorbells.iter().any(Option::is_none) || !vm.server().has_calls() {
                return Err(ENXIO);
            }
            vm.server().start()?;
            vm.clone()
        };

        vm.server().catch_up();
        Ok(())
    }

    fn stop(&self, arg: usize) -> Result {
        zero(u32::try_from(arg).map_err(|_| EINVAL)?)?;
        let setup = self.setup.lock();

        setup.vm()?.server().stop()
    }

    fn get_vm(&self, it: &mut uapi::vhost_stopwatch_vm) -> Result {
        let vm = match it.flags {
            0 => self.registry.get(it.vm)?,
            uapi::VHOST_STOPWATCH_VM_NEXT => self.registry.next(it.vm)?,
            uapi::VHOST_STOPWATCH_VM_SELF => self.setup.lock().vm.clone().ok_or(ENOENT)?,
            _ => return Err(EINVAL),
        };

        vm.describe(it);
        Ok(())
    }

    fn set_policy(&self, it: &uapi::vhost_stopwatch_policy) -> Result {
        zero(it.flags & !(uapi::VHOST_STOPWATCH_ALLOW_HOST_TIME | functions::policy_flags()))?;
        let intervals = u64::from(uapi::VHOST_STOPWATCH_MIN_INTERVAL_NS)
            ..=uapi::VHOST_STOPWATCH_MAX_INTERVAL_NS;
        if !intervals.contains(&it.min_interval_ns) {
            return Err(EINVAL);
        }
        functions::may_be_allowed(it.flags)?;
        let host_time = if it.flags & uapi::VHOST_STOPWATCH_ALLOW_HOST_TIME != 0 {
            u64::from(uapi::STOPWATCH_F_HOST_TIME)
        } else {
            0
        };
        let mut setup = self.setup.lock();

        setup.before_region()?;
        setup.policy = Policy {
            features: host_time | functions::allowed_by(it.flags),
            min_interval_ns: it.min_interval_ns,
            ..Policy::default()
        };
        Ok(())
    }

    fn command(&self, arg: usize) -> Result {
        let mut copy = UserCopy::<uapi::vhost_stopwatch_command>::of(arg);
        let it = copy.read()?;
        let op = u16::try_from(it.op).map_err(|_| EOPNOTSUPP)?;
        let name = Name::new(it.name).map_err(|_| EINVAL)?;
        let vm = self.registry.get(it.vm)?;
        let server = vm.server();

        let (target, command) = if it.op == uapi::STOPWATCH_OP_CREATE {
            // The host has no file with which a stopwatch without a name could go.
            if name.is_none() || it.watch != 0 {
                return Err(EINVAL);
            }
            let creation = Creation {
                name,
                flags: it.flags,
                uid: 0,
                mode: it.mode,
                clock: it.clock,
            };

            (
                Target::Number(0),
                Command::Create(creation.try_into().map_err(|_| EINVAL)?),
            )
        } else {
            zero(it.flags | it.clock | it.mode)?;
            let target = if name.is_none() {
                Target::Number(it.watch)
            } else {
                Target::Name(name)
            };

            (target, Command::plain(op).ok_or(EOPNOTSUPP)?)
        };
        let reply = server.command(target, command)?;

        let result = match reply.status {
            Ok(Status::Ok) => Ok(()),
            Ok(Status::Already) => Err(EALREADY),
            Ok(Status::Stopped) => Err(ENODATA),
            Ok(Status::Exists) => Err(EEXIST),
            // From here on nothing was done, and there is no reading.
            Ok(Status::BadOp) => return Err(EOPNOTSUPP),
            // One that exists and is no good to delete is numbered.
            Ok(Status::BadWatch) if server.describe(reply.watch)?.is_some() => return Err(EINVAL),
            Ok(Status::BadWatch) => return Err(ENOENT),
            Ok(Status::Full) => return Err(ENOSPC),
            Ok(Status::Denied) => return Err(EPERM),
            _ => return Err(EINVAL),
        };
        it.watch = reply.watch;
        it.reading = reply.reading.into();
        copy.write_back()?;
        result
    }

    fn describe(&self, it: &mut uapi::vhost_stopwatch_description) -> Result {
        zero(it.reserved)?;
        let vm = self.registry.get(it.vm)?;
        let server = vm.server();
        let asked = it.description.watch;
        let (watch, record) = match it.description.flags {
            0 => (asked, server.describe(asked)?.ok_or(ENOENT)?),
            uapi::STOPWATCH_DESCRIBE_NEXT => server.describe_next(asked)?.ok_or(ENOENT)?,
            _ => return Err(EINVAL),
        };

        it.description = uapi::stopwatch_description {
            size: it.description.size,
            flags: it.description.flags,
            ..record.describe(watch)
        };
        Ok(())
    }

    fn laps(&self, arg: usize) -> Result {
        let mut copy = UserCopy::<uapi::vhost_stopwatch_laps>::of(arg);
        let asked = copy.read()?;
        let vm = self.registry.get(asked.vm)?;

        zero(asked.reserved)?;
        let it = &mut asked.laps;
        let first = Laps::first_of(it).map_err(|_| EINVAL)?;
        let room = it.count.min(uapi::STOPWATCH_LAP_SLOTS) as usize;
        let mut elapsed = KVec::from_elem(0u64, room, GFP_KERNEL_ACCOUNT)?;
        let laps = vm
            .server()
            .laps(it.watch, first, &mut elapsed)?
            .ok_or(ENOENT)?;

        write_array(it.laps, elapsed.get(..laps.count as usize).unwrap_or(&[]))?;
        laps.describe(it);
        copy.write_back()?;
        if laps.first < laps.oldest {
            return Err(ENODATA);
        }
        Ok(())
    }
}
