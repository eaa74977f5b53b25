// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the server answers to programs that look at its VMs, in place of the host module:
//! the calls of `<linux/vhost_stopwatch.h>` about VMs and their stopwatches, with its
//! structs, as messages of [`Ioctl::ask`].

use std::collections::BTreeMap;

use rustix::io::Errno;
use stopwatch_engine::device::{Settle, Target};
use stopwatch_engine::policy::FEATURES;
use stopwatch_protocol::command::Command;
use stopwatch_protocol::name::Name;
use stopwatch_protocol::record::Laps;
use stopwatch_protocol::slot::{Creation, Status};
use stopwatch_uapi as uapi;

use super::super::control::{GET_FEATURES, GET_VM};
use super::super::stopwatches::{COMMAND, DESCRIBE, LAPS};
use super::program::ProgramVm;
use super::vm::Vm;
use crate::raw::{self, Ioctl};

/// A message, and what was done for it.
#[derive(Debug)]
pub(super) struct Asked {
    message: Vec<u8>,
    settle: Settle,
    /// The VM that it is about, once that is known.
    pub(super) vm: Option<u64>,
}

impl Asked {
    pub(super) fn new(message: &[u8]) -> Self {
        Self {
            message: message.to_vec(),
            settle: Settle::default(),
            vm: None,
        }
    }

    /// Answers it. `None` if what the guest has posted is to be done before, and a section
    /// of that was.
    pub(super) fn answer(&mut self, vms: &mut BTreeMap<u64, Vm>) -> Option<Vec<u8>> {
        let Some((number, body)) = raw::split(&self.message) else {
            return Some(refusal(Errno::INVAL));
        };
        if number == GET_FEATURES.number() {
            return answer(&GET_FEATURES, body, |it| {
                it.features = FEATURES;
                Ok(())
            });
        }
        if number == GET_VM.number() {
            return answer(&GET_VM, body, |it| get_vm(vms, it));
        }
        let body = body.to_vec();
        if number == COMMAND.number() {
            return self.with_vm(&COMMAND, &body, vms, |it| it.vm, command);
        }
        if number == DESCRIBE.number() {
            return self.with_vm(&DESCRIBE, &body, vms, |it| it.vm, describe);
        }
        if number == LAPS.number() {
            return self.with_vm(&LAPS, &body, vms, |it| it.vm, laps);
        }
        Some(refusal(Errno::NOTTY))
    }

    /// Has a VM that this program serves do it, after what its guest has posted.
    fn with_vm<T>(
        &mut self,
        ioctl: &Ioctl<T>,
        body: &[u8],
        vms: &mut BTreeMap<u64, Vm>,
        vm: impl FnOnce(&T) -> u64,
        act: impl FnOnce(&mut ProgramVm, &mut T, &mut Vec<u64>) -> Result<(), Errno>,
    ) -> Option<Vec<u8>> {
        let Some(mut it) = ioctl.read(body) else {
            return Some(refusal(Errno::INVAL));
        };
        let mut tail = Vec::new();
        let number = vm(&it);
        self.vm = Some(number);
        let vm = vms.get_mut(&number).and_then(Vm::program);
        let result = match vm {
            None => Err(Errno::NOENT),
            Some(vm) => {
                if !vm.settle(&mut self.settle) {
                    return None;
                }
                act(vm, &mut it, &mut tail)
            }
        };
        Some(ioctl.message(errno_of(result), &it, &tail))
    }
}

fn refusal(errno: Errno) -> Vec<u8> {
    let mut message = vec![0; raw::HEADER];
    message[..4].copy_from_slice(&errno.raw_os_error().to_le_bytes());
    message
}

fn errno_of(result: Result<(), Errno>) -> u32 {
    result.map_or_else(|errno| errno.raw_os_error().unsigned_abs(), |()| 0)
}

fn answer<T>(
    ioctl: &Ioctl<T>,
    body: &[u8],
    act: impl FnOnce(&mut T) -> Result<(), Errno>,
) -> Option<Vec<u8>> {
    let Some(mut it) = ioctl.read(body) else {
        return Some(refusal(Errno::INVAL));
    };
    let errno = errno_of(act(&mut it));
    Some(ioctl.message(errno, &it, &[]))
}

fn get_vm(vms: &BTreeMap<u64, Vm>, it: &mut uapi::vhost_stopwatch_vm) -> Result<(), Errno> {
    let vm = match it.flags {
        0 => vms.get(&it.vm),
        uapi::VHOST_STOPWATCH_VM_NEXT => vms.range(it.vm..).next().map(|(_, vm)| vm),
        // A connection is no VM.
        uapi::VHOST_STOPWATCH_VM_SELF => None,
        _ => return Err(Errno::INVAL),
    };
    vm.ok_or(Errno::NOENT)?.describe(it);
    Ok(())
}

fn command(
    vm: &mut ProgramVm,
    it: &mut uapi::vhost_stopwatch_command,
    _: &mut Vec<u64>,
) -> Result<(), Errno> {
    let op = u16::try_from(it.op).map_err(|_| Errno::OPNOTSUPP)?;
    let name = Name::new(it.name).map_err(|_| Errno::INVAL)?;
    let (target, command) = if it.op == uapi::STOPWATCH_OP_CREATE {
        let creation = Creation {
            name,
            flags: it.flags,
            uid: 0,
            mode: it.mode,
            clock: it.clock,
        };
        if name.is_none() || it.watch != 0 || !may_be_created(&creation) {
            return Err(Errno::INVAL);
        }
        let identity = creation.try_into().map_err(|_| Errno::INVAL)?;
        (Target::Number(0), Command::Create(identity))
    } else {
        if it.flags | it.clock | it.mode != 0 {
            return Err(Errno::INVAL);
        }
        let target = match name.is_none() {
            true => Target::Number(it.watch),
            false => Target::Name(name),
        };
        (target, Command::plain(op).ok_or(Errno::OPNOTSUPP)?)
    };
    let reply = vm.command(target, command);
    let result = match reply.status {
        Ok(Status::Ok) => Ok(()),
        Ok(Status::Already) => Err(Errno::ALREADY),
        Ok(Status::Stopped) => Err(Errno::NODATA),
        Ok(Status::Exists) => Err(Errno::EXIST),
        // From here on nothing was done, and there is no reading.
        Ok(Status::BadOp) => return Err(Errno::OPNOTSUPP),
        // One that exists and is no good to delete is numbered.
        Ok(Status::BadWatch) if vm.engine().describe(reply.watch).is_some() => {
            return Err(Errno::INVAL)
        }
        Ok(Status::BadWatch) => return Err(Errno::NOENT),
        Ok(Status::Full) => return Err(Errno::NOSPC),
        Ok(Status::Denied) => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    };
    it.watch = reply.watch;
    it.reading = reply.reading.into();
    result
}

/// Nobody tells this program of pauses, so it makes no stopwatch that leaves them out.
fn may_be_created(creation: &Creation) -> bool {
    creation.flags & uapi::STOPWATCH_CREATE_SKIP_PAUSED == 0
}

fn describe(
    vm: &mut ProgramVm,
    it: &mut uapi::vhost_stopwatch_description,
    _: &mut Vec<u64>,
) -> Result<(), Errno> {
    let asked = it.description.watch;
    let watch = match it.description.flags {
        0 => asked,
        uapi::STOPWATCH_DESCRIBE_NEXT => vm.engine().next_existing(asked).ok_or(Errno::NOENT)?,
        _ => return Err(Errno::INVAL),
    };
    let record = vm.engine().describe(watch).ok_or(Errno::NOENT)?;
    it.description = uapi::stopwatch_description {
        size: it.description.size,
        flags: it.description.flags,
        ..record.describe(watch)
    };
    Ok(())
}

fn laps(
    vm: &mut ProgramVm,
    it: &mut uapi::vhost_stopwatch_laps,
    tail: &mut Vec<u64>,
) -> Result<(), Errno> {
    let asked = &mut it.laps;
    let first = Laps::first_of(asked).map_err(|_| Errno::INVAL)?;
    let most = asked.count.min(uapi::STOPWATCH_LAP_SLOTS) as usize;
    tail.resize(most, 0);
    let laps = vm.laps(asked.watch, first, tail).ok_or(Errno::NOENT)?;
    tail.truncate(laps.count as usize);
    laps.describe(asked);
    if laps.first < laps.oldest {
        return Err(Errno::NODATA);
    }
    Ok(())
}
