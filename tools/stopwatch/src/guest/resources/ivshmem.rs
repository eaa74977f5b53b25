// SPDX-License-Identifier: MIT OR Apache-2.0

//! The carrier that every QEMU has: `-device ivshmem-doorbell`, behind which there is
//! `stopwatch host serve`. One register for all doorbells in BAR0, the region in BAR2. See
//! `<linux/stopwatch_ivshmem.h>`.

use std::mem::offset_of;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use stopwatch_protocol::layout::{InfoWords, Layout};
use stopwatch_uapi as uapi;

use super::carrier::{Carrier, Kind};
use super::pci::Resource;
use crate::mapping::{Mapping, View};
use crate::OpenError;

pub(super) const KIND: Kind = Kind {
    name: "ivshmem-doorbell",
    vendor: uapi::STOPWATCH_IVSHMEM_PCI_VENDOR_ID,
    device: uapi::STOPWATCH_IVSHMEM_PCI_DEVICE_ID,
    is_shared: true,
    registers: uapi::STOPWATCH_IVSHMEM_BAR_REGISTERS,
    region: uapi::STOPWATCH_IVSHMEM_BAR_REGION,
    map: |registers, region| Ok(Box::new(Ivshmem::new(&registers, region)?)),
};

const INFO_WORDS: usize = size_of::<InfoWords>() / size_of::<u64>();
const CARRIER_WORDS: usize = size_of::<uapi::stopwatch_ivshmem>() / size_of::<u64>();
/// What the host says of device and carrier is in the first page.
const FIRST_PAGE: u64 = 4096;

// They are in words of their own.
const _: () = assert!(offset_of!(uapi::stopwatch_ivshmem, flags) == size_of::<u64>());

#[derive(Debug)]
struct Ivshmem {
    info: View<[AtomicU64; INFO_WORDS]>,
    carrier: View<[AtomicU64; CARRIER_WORDS]>,
    doorbell: View<[AtomicU32; 1]>,
    /// The doorbell behind those of the rings.
    reset: u32,
}

fn read<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| u64::from_le(words[index].load(Ordering::Relaxed)))
}

impl Ivshmem {
    fn new(registers: &Arc<Mapping>, region: &Resource) -> Result<Self, OpenError> {
        if registers.size() < uapi::STOPWATCH_IVSHMEM_REGISTERS_SIZE as usize {
            return Err(OpenError::strange(format!(
                "its registers take {} bytes, expected {}",
                registers.size(),
                uapi::STOPWATCH_IVSHMEM_REGISTERS_SIZE
            )));
        }
        let page = region.map_part(FIRST_PAGE)?;
        let info: View<[AtomicU64; INFO_WORDS]> = page.words(0);
        // Others use such devices for something else.
        let (layout, _) = Layout::from_info(&read(&info)).map_err(OpenError::strange)?;
        Ok(Self {
            info,
            carrier: page.words(uapi::STOPWATCH_IVSHMEM_OFFSET as usize),
            doorbell: registers.registers(uapi::STOPWATCH_IVSHMEM_REG_DOORBELL as usize),
            reset: layout.geometry().rings,
        })
    }

    /// Rings the doorbell of that number.
    #[inline]
    fn ring(&self, number: u32) {
        let host = uapi::STOPWATCH_IVSHMEM_PEER_HOST << uapi::STOPWATCH_IVSHMEM_PEER_SHIFT;
        // What is in the region before that. On x86 it is one plain store.
        fence(Ordering::Release);
        self.doorbell[0].store(host | number, Ordering::Relaxed);
    }
}

impl Carrier for Ivshmem {
    fn info(&self) -> InfoWords {
        read(&self.info)
    }

    #[inline]
    fn ring_doorbell(&self, ring: u32) {
        self.ring(ring);
    }

    fn reset(&self) {
        self.ring(self.reset);
    }

    fn tells_pauses(&self) -> bool {
        read(&self.carrier)[1] & u64::from(uapi::STOPWATCH_IVSHMEM_PAUSES) != 0
    }
}
