// SPDX-License-Identifier: GPL-2.0

//! `/dev/stopwatch`: what a program does with the device, by `<linux/stopwatch.h>`.

use kernel::{
    bindings,
    fs::{
        file::flags,
        File, //
    },
    prelude::*,
    sync::{
        poll::PollTable,
        Arc, //
    },
    transmute::AsBytes,
    uaccess::UserSliceWriter, //
};

use crate::{
    abstractions::{
        errno::{
            ealready,
            enodata,
            eopnotsupp, //
        },
        miscdevice::MiscFile,
        user_struct::UserCopy, //
    },
    device::StopwatchDevice,
    engine::{
        Reading,
        Request,
        Status, //
    },
    events::QueueId,
    uapi, //
};

/// An open file.
pub(crate) struct StopwatchFile {
    device: Arc<StopwatchDevice>,
    queue: QueueId,
}

impl StopwatchFile {
    fn command(&self, arg: usize) -> Result<isize> {
        let mut command = UserCopy::<uapi::stopwatch_command>::read(arg)?;

        if command.value.flags != 0 {
            return Err(EINVAL);
        }
        // The driver's own operations are not the program's.
        let op = match command.value.op {
            op @ (uapi::STOPWATCH_OP_START
            | uapi::STOPWATCH_OP_PAUSE
            | uapi::STOPWATCH_OP_LAP
            | uapi::STOPWATCH_OP_RESET
            | uapi::STOPWATCH_OP_READ
            | uapi::STOPWATCH_OP_TIMEOUT) => op as u16,
            _ => return Err(eopnotsupp()),
        };
        let reply = self.device.call(Request {
            op,
            watch: command.value.watch,
            arg: command.value.arg,
        })?;

        let result = match reply.status {
            Ok(Status::Ok) => Ok(0),
            Ok(Status::Already) => Err(ealready()),
            Ok(Status::Stopped) => Err(enodata()),
            // The others have no reading.
            Ok(Status::BadOp) => return Err(eopnotsupp()),
            Ok(Status::BadWatch) => return Err(ENOENT),
            Ok(Status::BadArg) => return Err(EINVAL),
            // Flags and owner are the driver's.
            Ok(Status::BadFlags | Status::BadOwner) | Err(_) => return Err(EIO),
        };
        command.value.reading = reading(&reply.reading);
        command.write_back()?;
        result
    }

    fn info(&self, arg: usize) -> Result<isize> {
        let mut info = UserCopy::<uapi::stopwatch_device_info>::read(arg)?;

        if info.value.flags != 0 {
            return Err(EINVAL);
        }
        info.value = uapi::stopwatch_device_info {
            size: info.value.size,
            ..self.device.info()?
        };
        info.write_back()?;
        Ok(0)
    }
}

fn reading(reading: &Reading) -> uapi::stopwatch_reading {
    uapi::stopwatch_reading {
        elapsed_ns: reading.elapsed_ns,
        time_ns: reading.time_ns,
        lap_ns: reading.lap_ns,
        deadline_ns: reading.deadline_ns,
        state: if reading.running {
            uapi::STOPWATCH_RUNNING
        } else {
            uapi::STOPWATCH_STOPPED
        },
        laps: reading.laps,
        timeouts: reading.timeouts,
        reserved: 0,
    }
}

#[vtable]
impl MiscFile for StopwatchFile {
    type Context = Arc<StopwatchDevice>;

    const OWNER: &'static ThisModule = &crate::THIS_MODULE;

    fn open(device: &Arc<StopwatchDevice>, _file: &File) -> Result<Arc<Self>> {
        let queue = device.events().subscribe()?;
        // Unsubscribed by its drop, also if there is no memory for the `Arc`.
        let file = Self {
            device: device.clone(),
            queue,
        };

        Ok(Arc::new(file, GFP_KERNEL_ACCOUNT)?)
    }

    fn ioctl(&self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::STOPWATCH_IOC_COMMAND => self.command(arg),
            uapi::STOPWATCH_IOC_INFO => self.info(arg),
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
                .next(self.queue, nonblocking)
                .and_then(|record| buffer.write_slice(record.as_bytes()));

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
        table.register_wait(file, events.changed());
        match events.ready(self.queue) {
            Ok(true) => bindings::POLLIN | bindings::POLLRDNORM,
            Ok(false) => 0,
            Err(_) => bindings::POLLHUP | bindings::POLLERR,
        }
    }
}

impl Drop for StopwatchFile {
    fn drop(&mut self) {
        self.device.events().unsubscribe(self.queue);
    }
}
