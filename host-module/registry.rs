// SPDX-License-Identifier: GPL-2.0

//! All VMs, and who may see them.

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
    abstractions::{
        capability,
        memfd::{
            Memfd,
            MemfdId, //
        }, //
    },
    vm::Vm, //
};

struct Entries {
    /// Sorted by number, as numbers only grow.
    vms: KVVec<Arc<Vm>>,
    next: u64,
}

/// The VMs of this module, by number.
///
/// Lock order: the setup of a file ([`crate::control`]), then `entries`, then `regions`.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    entries: Mutex<Entries>,
    /// The memfds and owners of all VMs, also of those that are not in `entries` yet, or any more.
    #[pin]
    regions: Mutex<KVVec<(MemfdId, Kuid)>>,
}

/// The right to be a VM, with a region that no other VM has.
///
/// # Invariants
///
/// The identity of `memfd` is in the registry once, for this.
pub(crate) struct Admission {
    registry: Arc<Registry>,
    // As long as it is open, no other memfd has its identity.
    memfd: Memfd,
}

impl Admission {
    /// The memfd of the region.
    pub(crate) fn memfd(&self) -> &Memfd {
        &self.memfd
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut regions = self.registry.regions.lock();

        regions.retain(|(region, _)| *region != self.memfd.id());
    }
}

impl Registry {
    /// An initialiser of an empty registry.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            entries <- new_mutex!(Entries {
                vms: KVVec::new(),
                next: 1,
            }),
            regions <- new_mutex!(KVVec::new()),
        })
    }

    /// Admits a VM of `owner` with that region. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` if a VM has that region, `ENOSPC` if there are `max_vms` VMs, `EDQUOT` if a quarter of
    /// that are the owner's and the current task has no `CAP_SYS_ADMIN`, `ENOMEM`.
    pub(crate) fn admit(self: &Arc<Self>, memfd: Memfd, owner: Kuid) -> Result<Admission> {
        let most = crate::module_parameters::max_vms.value() as usize;
        let mut regions = self.regions.lock();

        if regions.iter().any(|(region, _)| *region == memfd.id()) {
            return Err(EBUSY);
        }
        if regions.len() >= most {
            return Err(ENOSPC);
        }
        let own = regions.iter().filter(|(_, other)| *other == owner).count();
        if own >= most.div_ceil(4) && !capability::sys_admin() {
            return Err(EDQUOT);
        }
        // This memory is the module's, and bounded just now.
        regions.push((memfd.id(), owner), GFP_KERNEL)?;
        drop(regions);
        // INVARIANT: Entered just now.
        Ok(Admission {
            registry: self.clone(),
            memfd,
        })
    }

    /// Enters the VM that `make` makes of its number. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no room for it, and those of `make`.
    pub(crate) fn add(&self, make: impl FnOnce(u64) -> Result<Arc<Vm>>) -> Result<Arc<Vm>> {
        let number = {
            let mut entries = self.entries.lock();

            entries.next += 1;
            entries.next - 1
        };
        // Without the lock: what is charged to the caller may make it wait, and nobody else.
        let vm = make(number)?;
        let mut entries = self.entries.lock();
        // Mostly at the end; those that came later may have been quicker.
        let at = entries.vms.partition_point(|other| other.number() < number);

        // This memory is the module's, and bounded by `max_vms`.
        entries.vms.push(vm.clone(), GFP_KERNEL)?;
        if let Some(later) = entries.vms.get_mut(at..) {
            later.rotate_right(1);
        }
        Ok(vm)
    }

    /// Takes a VM out. Those who have looked it up may still hold it.
    pub(crate) fn remove(&self, vm: &Vm) {
        let mut entries = self.entries.lock();

        entries.vms.retain(|other| other.number() != vm.number());
    }

    /// The VM of that number, if the current task may see it.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none, or none that the task may see.
    pub(crate) fn get(&self, number: u64) -> Result<Arc<Vm>> {
        self.find(|vm| vm.number() == number)
    }

    /// The first VM whose number is not below `number` and which the current task may see.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none.
    pub(crate) fn next(&self, number: u64) -> Result<Arc<Vm>> {
        self.find(|vm| vm.number() >= number)
    }

    fn find(&self, mut matches: impl FnMut(&Vm) -> bool) -> Result<Arc<Vm>> {
        let caller = Kuid::current_euid();
        // Asked for at most once a call: each use of the privilege may be audited.
        let mut privileged = None;
        let entries = self.entries.lock();

        entries
            .vms
            .iter()
            .filter(|vm| matches(vm))
            .find(|vm| {
                vm.owner() == caller || *privileged.get_or_insert_with(capability::sys_admin)
            })
            .cloned()
            .ok_or(ENOENT)
    }
}
