// SPDX-License-Identifier: GPL-2.0

//! One VM, as others see it: from the setting of its region to the closing of its file.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    task::Kuid, //
};

use crate::{
    abstractions::process_id::ProcessId,
    protocol::geometry::Geometry,
    server::Server,
    uapi, //
};

const NAME_SIZE: usize = uapi::VHOST_STOPWATCH_NAME_SIZE as usize;

/// A VM's name, for people.
///
/// # Invariants
///
/// UTF-8 without control characters, padded with zeros, one at least.
#[derive(Clone, Copy, Default)]
pub(crate) struct VmName([u8; NAME_SIZE]);

impl VmName {
    /// Judges a name that a program gave.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is empty, not UTF-8, has a control character, or is not padded with zeros, one
    /// at least.
    pub(crate) fn new(bytes: [u8; NAME_SIZE]) -> Result<Self> {
        let end = bytes.iter().position(|&b| b == 0).ok_or(EINVAL)?;
        let (name, padding) = bytes.split_at(end);
        let name = core::str::from_utf8(name).map_err(|_| EINVAL)?;

        if name.is_empty() || name.contains(char::is_control) || padding.iter().any(|&b| b != 0) {
            return Err(EINVAL);
        }
        // INVARIANT: Checked above.
        Ok(Self(bytes))
    }
}

/// Who opened the file that became a VM.
#[derive(Clone)]
pub(crate) struct Opener {
    /// The effective user.
    pub(crate) user: Kuid,
    /// The process.
    pub(crate) process: Arc<ProcessId>,
}

/// A VM.
#[pin_data]
pub(crate) struct Vm {
    number: u64,
    opener: Opener,
    geometry: Geometry,
    #[pin]
    name: Mutex<VmName>,
    server: Arc<Server>,
}

impl Vm {
    /// An initialiser.
    pub(crate) fn new(
        number: u64,
        opener: Opener,
        geometry: Geometry,
        name: VmName,
        server: Arc<Server>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            number,
            opener,
            geometry,
            name <- new_mutex!(name),
            server,
        })
    }

    /// Its number, from 1, never used twice.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> Kuid {
        self.opener.user
    }

    /// What serves it.
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Gives it another name.
    pub(crate) fn set_name(&self, name: VmName) {
        *self.name.lock() = name;
    }

    /// Fills in what GET_VM tells.
    pub(crate) fn describe(&self, vm: &mut uapi::vhost_stopwatch_vm) {
        let now = self.server.snapshot();

        vm.vm = self.number;
        vm.name = self.name.lock().0;
        vm.uid = self.opener.user.into_uid_in_current_ns();
        vm.pid = self.opener.process.number() as u32;
        vm.status = if now.started {
            uapi::VHOST_STOPWATCH_VM_STARTED
        } else {
            uapi::VHOST_STOPWATCH_VM_STOPPED
        };
        vm.vmm_status = now.vmm_status;
        vm.stopwatches = self.geometry.stopwatches;
        vm.rings = self.geometry.rings;
        vm.ring_slots = self.geometry.ring_slots;
        vm.event_slots = self.geometry.event_slots;
        vm.features = now.features;
        vm.time_ns = now.time_ns;
        vm.resets = now.stats.resets;
        vm.kicks = now.kicks;
        vm.requests = now.stats.requests;
        vm.bad_requests = now.stats.bad_requests;
        vm.over_budget = now.over_budget;
        vm.events = now.stats.events;
        vm.events_lost = now.stats.events_lost;
        vm.paused_ns = now.paused_ns;
        vm.timed_kicks = now.timed_kicks;
        vm.service_ns = now.service_ns;
    }
}
