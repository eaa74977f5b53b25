// SPDX-License-Identifier: GPL-2.0

//! `/dev/stopwatch`: what a program does with the device, by `<linux/stopwatch.h>`.

use kernel::{
    bindings,
    fs::{
        file::flags,
        File, //
    },
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    sync::{
        poll::PollTable,
        Arc,
        Mutex, //
    },
    uaccess::UserSliceWriter, //
};

use crate::{
    abstractions::{
        capability,
        miscdevice::{
            AddressSpace,
            MiscFile,
            PageFault, //
        },
        user,
        user_struct::{
            write_array,
            UserCopy, //
        }, //
    },
    access::{
        self,
        User, //
    },
    device::{
        Created,
        StopwatchDevice, //
    },
    events::{
        Reader,
        Subscription, //
    },
    protocol::{
        name::Name,
        ownership::Access,
        record::Laps,
        slot::{
            Creation,
            Request, //
        }, //
    },
    scripts::Scripts,
    uapi, //
};

/// What files are opened through.
pub(crate) struct Opened {
    pub(crate) device: Arc<StopwatchDevice>,
    pub(crate) scripts: Arc<Scripts>,
}

/// An open file.
#[pin_data(PinnedDrop)]
pub(crate) struct StopwatchFile {
    device: Arc<StopwatchDevice>,
    scripts: Arc<Scripts>,
    events: Arc<Subscription>,
    /// Stopwatches without a name that go with this file.
    #[pin]
    anonymous: Mutex<KVVec<Created>>,
    /// Nothing of the program's memory is touched under this lock.
    #[pin]
    binding: Mutex<Option<Binding>>,
}

/// The post ring of a file, and the stopwatch that it was bound to.
#[derive(Clone, Copy)]
struct Binding {
    ring: u32,
    watch: u32,
}

/// No stopwatch.
const NONE: u32 = u32::MAX;

/// What of a stopwatch is needed for an operation that a program may ask for, and the flags that it
/// takes.
///
/// # Errors
///
/// `EOPNOTSUPP` if there is no such operation, `EPERM` if it is not for the current task.
fn operation(op: u32) -> Result<(Access, u32)> {
    const POSTED: u32 = uapi::STOPWATCH_REQUEST_POSTED;

    Ok(match op {
        uapi::STOPWATCH_OP_START
        | uapi::STOPWATCH_OP_PAUSE
        | uapi::STOPWATCH_OP_LAP
        | uapi::STOPWATCH_OP_RESET => (Access::Control, POSTED),
        uapi::STOPWATCH_OP_READ_RESET => (Access::Control, 0),
        uapi::STOPWATCH_OP_READ => (Access::See, 0),
        uapi::STOPWATCH_OP_TIMEOUT => (Access::Control, uapi::STOPWATCH_TIMEOUT_ELAPSED),
        uapi::STOPWATCH_OP_DELETE | uapi::STOPWATCH_OP_SET_MODE => (Access::Own, 0),
        // No stopwatch's: it comes with number 0, which is everybody's.
        uapi::STOPWATCH_OP_POWER_OFF if !capability::sys_boot() => return Err(EPERM),
        uapi::STOPWATCH_OP_POWER_OFF => (Access::Control, 0),
        // The driver's own operations are not the program's.
        _ => return Err(EOPNOTSUPP),
    })
}

impl StopwatchFile {
    fn command(&self, arg: usize) -> Result<isize> {
        let mut command = UserCopy::<uapi::stopwatch_command>::of(arg);
        let uapi::stopwatch_command {
            op,
            watch,
            flags,
            arg,
            interval,
            ..
        } = *command.read()?;

        let (mut access, allowed) = operation(op)?;
        let is_timeout = op == uapi::STOPWATCH_OP_TIMEOUT;
        let is_set_mode = op == uapi::STOPWATCH_OP_SET_MODE;
        if flags & !allowed != 0
            || interval != 0 && !is_timeout
            || arg != 0 && !is_timeout && !is_set_mode
        {
            return Err(EINVAL);
        }
        let mut request = Request {
            // CAST: One of those that `operation` knows.
            op: op as u16,
            watch,
            flags: flags & !uapi::STOPWATCH_REQUEST_POSTED,
            arg,
            interval,
            generation: 0,
        };
        if flags & uapi::STOPWATCH_REQUEST_POSTED != 0 && self.device.post(request.op, watch)? {
            return Ok(0);
        }
        if is_set_mode {
            let uid = Self::new_owner(arg)?;

            request.arg = arg >> 32 << 32 | u64::from(uid);
            access = Access::Give(uid);
        }
        let reading = &mut command.value.reading;
        let outcome = self.device.command(access, request, reading)?;

        if op == uapi::STOPWATCH_OP_DELETE {
            self.scripts.refresh(watch);
        }
        if outcome.has_reading {
            command.write_back()?;
        }
        outcome.result.map(|()| 0)
    }

    /// The owner that an argument of SET_MODE says, by the number that the initial user namespace
    /// has for it.
    fn new_owner(arg: u64) -> Result<u32> {
        // CAST: The lower half.
        let uid = user::current_to_initial(arg as u32);

        if uid == user::INVALID {
            return Err(EINVAL);
        }
        Ok(uid)
    }

    fn create(&self, file: &File, arg: usize) -> Result<isize> {
        let mut creation = UserCopy::<uapi::stopwatch_creation>::of(arg);
        let wanted = creation.read()?;

        if wanted.reserved != 0 || wanted.flags & !uapi::STOPWATCH_CREATE_SKIP_PAUSED != 0 {
            return Err(EINVAL);
        }
        let name = Name::new(wanted.name).map_err(|_| EINVAL)?;
        access::may_take(file)?;
        let (result, created) = self.device.create(Creation {
            name,
            flags: wanted.flags,
            uid: User::current().0,
            mode: wanted.mode,
            clock: wanted.clock,
        })?;
        match result {
            Ok(()) => {
                self.scripts.refresh(created.watch);
                if name.is_none() {
                    self.keep(created).inspect_err(|_| {
                        let _ = self.delete(created);
                    })?;
                }
                creation.value.watch = created.watch;
            }
            Err(error) if error == EEXIST => {
                let other = self.device.describe(created.watch);
                let is_seen = other.is_ok_and(|it| it.generation == created.generation);
                creation.value.watch = if is_seen { created.watch } else { NONE };
            }
            Err(error) => return Err(error),
        }
        creation.write_back()?;
        result.map(|()| 0)
    }

    /// Remembers a stopwatch that goes with this file.
    fn keep(&self, created: Created) -> Result {
        let mut anonymous = self.anonymous.lock();

        // Those that were deleted otherwise are forgotten when it matters.
        if anonymous.len() >= self.device.stopwatches() as usize {
            anonymous.retain(|created| self.device.exists(*created));
        }
        Ok(anonymous.push(created, GFP_KERNEL_ACCOUNT)?)
    }

    fn delete(&self, created: Created) -> Result {
        let result = self.device.delete_created(created);

        self.scripts.refresh(created.watch);
        result
    }

    fn find(&self, arg: usize) -> Result<isize> {
        let mut find = UserCopy::<uapi::stopwatch_find>::of(arg);

        let wanted = find.read()?;
        if wanted.flags != 0 || wanted.reserved != 0 {
            return Err(EINVAL);
        }
        // What is no name is nobody's.
        let name = Name::new(wanted.name).map_err(|_| ENOENT)?;
        wanted.watch = self.device.find(name)?.watch;
        find.write_back()?;
        Ok(0)
    }

    fn describe(&self, arg: usize) -> Result<isize> {
        let mut description = UserCopy::<uapi::stopwatch_description>::of(arg);
        let uapi::stopwatch_description {
            size, flags, watch, ..
        } = *description.read()?;

        if flags & !uapi::STOPWATCH_DESCRIBE_NEXT != 0 {
            return Err(EINVAL);
        }
        let (watch, record) = if flags & uapi::STOPWATCH_DESCRIBE_NEXT != 0 {
            self.device.describe_next(watch)?
        } else {
            (watch, self.device.describe(watch)?)
        };
        description.value = uapi::stopwatch_description {
            size,
            flags,
            uid: user::initial_to_current(record.uid),
            ..record.describe(watch)
        };
        description.write_back()?;
        Ok(0)
    }

    fn laps(&self, arg: usize) -> Result<isize> {
        let mut laps = UserCopy::<uapi::stopwatch_laps>::of(arg);
        let wanted = laps.read()?;

        let first = Laps::first_of(wanted).map_err(|_| EINVAL)?;
        let room = wanted.count.min(uapi::STOPWATCH_LAP_SLOTS) as usize;
        let mut values = KVec::from_elem(0, room, GFP_KERNEL_ACCOUNT)?;
        let kept = self.device.laps(wanted.watch, first, &mut values)?;

        write_array(
            wanted.laps,
            values.get(..kept.count as usize).unwrap_or(&[]),
        )?;
        kept.describe(wanted);
        laps.write_back()?;
        if kept.first < kept.oldest {
            return Err(ENODATA);
        }
        Ok(0)
    }

    fn bind(&self, file: &File, arg: usize) -> Result<isize> {
        let mut wanted = UserCopy::<uapi::stopwatch_binding>::of(arg);
        let uapi::stopwatch_binding {
            flags,
            watch,
            reserved,
            ..
        } = *wanted.read()?;

        if flags != 0 || reserved != 0 {
            return Err(EINVAL);
        }
        access::may_take(file)?;
        let mut binding = self.binding.lock();
        // Who has mapped it is not known, and may not be who may control the other stopwatch.
        if binding.is_some() {
            return Err(EBUSY);
        }
        let ring = self.device.bind(watch)?;
        *binding = Some(Binding { ring, watch });
        Ok(0)
    }

    fn doorbell(&self, arg: usize) -> Result<isize> {
        let now = match u32::try_from(arg) {
            Ok(uapi::STOPWATCH_DOORBELL_SOON) => false,
            Ok(uapi::STOPWATCH_DOORBELL_NOW) => true,
            _ => return Err(EINVAL),
        };

        self.device.doorbell(now).map(|()| 0)
    }

    fn info(&self, arg: usize) -> Result<isize> {
        let mut info = UserCopy::<uapi::stopwatch_device_info>::of(arg);

        let asked = info.read()?;
        if asked.flags != 0 {
            return Err(EINVAL);
        }
        *asked = uapi::stopwatch_device_info {
            size: asked.size,
            ..self.device.info()?
        };
        info.write_back()?;
        Ok(0)
    }
}

#[vtable]
impl MiscFile for StopwatchFile {
    type Context = Opened;

    type Link = ();

    fn open(opened: &Opened, file: &File, _link: &()) -> Result<Arc<Self>> {
        let device = &opened.device;
        let events = device.events().subscribe(Reader {
            user: User::opener(file),
            is_root: access::is_root(),
        })?;
        let subscription = events.clone();
        let file = pin_init!(Self {
            device: device.clone(),
            scripts: opened.scripts.clone(),
            events,
            anonymous <- new_mutex!(KVVec::new(), "stopwatch::StopwatchFile::anonymous"),
            binding <- new_mutex!(None, "stopwatch::StopwatchFile::binding"),
        });

        // There is no file to unsubscribe when it is dropped, if there is no memory for it.
        Arc::pin_init(file, GFP_KERNEL_ACCOUNT)
            .inspect_err(|_| device.events().unsubscribe(&subscription))
    }

    fn release(&self) {
        let binding = self.binding.lock().take();
        if let Some(binding) = binding {
            self.device.unbind(binding.ring);
        }
        let mut anonymous = core::mem::take(&mut *self.anonymous.lock());

        // The host need not be asked for those that were deleted otherwise.
        anonymous.retain(|created| self.device.exists(*created));
        // Nothing ends this early. So a host that does not answer is asked twice, and not once for
        // each stopwatch. Those that are left exist until the device is reset.
        let mut patience = 2;
        for created in anonymous.iter() {
            while self.delete(*created) == Err(ETIMEDOUT) {
                patience -= 1;
                if patience == 0 {
                    return;
                }
            }
        }
    }

    fn ioctl(&self, file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::STOPWATCH_IOC_COMMAND => self.command(arg),
            uapi::STOPWATCH_IOC_CREATE => self.create(file, arg),
            uapi::STOPWATCH_IOC_FIND => self.find(arg),
            uapi::STOPWATCH_IOC_DESCRIBE => self.describe(arg),
            uapi::STOPWATCH_IOC_LAPS => self.laps(arg),
            uapi::STOPWATCH_IOC_INFO => self.info(arg),
            uapi::STOPWATCH_IOC_BIND => self.bind(file, arg),
            uapi::STOPWATCH_IOC_DOORBELL => self.doorbell(arg),
            _ => Err(ENOTTY),
        }
    }

    fn read(&self, file: &File, buffer: &mut UserSliceWriter) -> Result<usize> {
        const SIZE: usize = size_of::<uapi::stopwatch_event_record>();

        if buffer.len() < SIZE {
            return Err(EINVAL);
        }
        let mut bytes = 0;
        while buffer.len() >= SIZE {
            // Only the first one is waited for. One that a bad pointer keeps from arriving is lost.
            let nonblocking = bytes != 0 || file.flags() & flags::O_NONBLOCK != 0;
            let result = self
                .device
                .events()
                .next(&self.events, nonblocking)
                .and_then(|record| buffer.write(&record));

            match result {
                Ok(()) => bytes += SIZE,
                Err(error) if bytes == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(bytes)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        let events = self.device.events();

        // Before the look, so that nothing that changes after it is missed.
        table.register_wait(file, self.events.changed());
        match events.ready(&self.events) {
            Ok(true) => bindings::POLLIN | bindings::POLLRDNORM,
            Ok(false) => 0,
            Err(_) => bindings::POLLHUP | bindings::POLLERR,
        }
    }

    fn mmap(&self, file: &File, area: &VmaNew, offset: usize) -> Result {
        let posts = (*self.binding.lock()).map(|binding| binding.watch);

        self.device.map(file, area, offset, posts)
    }

    fn pages(&self) -> &AddressSpace {
        self.device.pages()
    }

    fn fault(&self, offset: usize, fault: PageFault<'_>) -> Result {
        let ring = (*self.binding.lock()).map(|binding| binding.ring);

        self.device.fault(offset, ring, fault)
    }
}

#[pinned_drop]
impl PinnedDrop for StopwatchFile {
    fn drop(self: Pin<&mut Self>) {
        self.device.events().unsubscribe(&self.events);
    }
}
