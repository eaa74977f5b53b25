// SPDX-License-Identifier: GPL-2.0

//! PCI devices of vendors that `kernel::pci::Vendor` has no name for.

use kernel::pci;

/// The id by which a driver matches a device.
pub(crate) const fn pci_device_id(vendor: u16, device: u16) -> pci::DeviceId {
    // SAFETY: `Vendor` is a transparent wrapper of a `u16`, of which every value is valid.
    let vendor = unsafe { core::mem::transmute::<u16, pci::Vendor>(vendor) };

    // CAST: Widening, which `From` cannot do in a constant.
    pci::DeviceId::from_id(vendor, device as u32)
}
