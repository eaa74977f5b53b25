// SPDX-License-Identifier: MIT OR Apache-2.0

//! What carries a device: by which PCI device a guest finds it, where its parts are in that
//! one's resources, and how the host is told something. Each carrier is a file beside this
//! one, and a line in the table here.

use std::fmt;
use std::sync::Arc;

use stopwatch_protocol::layout::InfoWords;

use super::ivshmem;
use super::pci::Resource;
use super::stub;
use crate::mapping::Mapping;
use crate::OpenError;

/// A device that is mapped.
pub(super) trait Carrier: fmt::Debug + Send + Sync {
    /// What the device says of itself.
    fn info(&self) -> InfoWords;

    /// Tells the host of what is in the rings. What was stored in the region before is there
    /// when the host looks. Where the host serves in the doorbell, the answer is there when
    /// this returns.
    fn ring_doorbell(&self, ring: u32);

    /// Asks for a reset of the device, which may be complete only later.
    fn reset(&self);

    /// Whether the host learns of a pause of the VM before the guest runs again.
    fn tells_pauses(&self) -> bool;
}

/// A kind of carrier.
#[derive(Debug)]
pub(crate) struct Kind {
    /// What people know it by.
    pub(crate) name: &'static str,
    /// Its PCI identity.
    pub(crate) vendor: u32,
    /// The same.
    pub(crate) device: u32,
    /// Whether others have that identity, too: then only what the device says of itself
    /// tells whether it is one of ours.
    pub(crate) is_shared: bool,
    /// The number of the resource that has the registers, which is mapped whole.
    pub(super) registers: u32,
    /// The number of the one that has the region, at the region's own offsets.
    pub(super) region: u32,
    /// Makes one.
    pub(super) map: Map,
}

/// Of a device's registers, and of the resource that has its region, of which it maps what it
/// needs itself.
pub(super) type Map = fn(Arc<Mapping>, &Resource) -> Result<Box<dyn Carrier>, OpenError>;

/// All there are.
pub(crate) static KINDS: [Kind; 2] = [stub::KIND, ivshmem::KIND];
