// SPDX-License-Identifier: MIT OR Apache-2.0

//! The carrier that is made for it: QEMU's `-device stopwatch`. Registers in BAR0, the region
//! in BAR2.

use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use stopwatch_protocol::layout::InfoWords;
use stopwatch_uapi as uapi;

use super::carrier::{Carrier, Kind};
use crate::mapping::{Mapping, View};
use crate::OpenError;

pub(super) const KIND: Kind = Kind {
    name: "stopwatch",
    vendor: uapi::STOPWATCH_PCI_VENDOR_ID,
    device: uapi::STOPWATCH_PCI_DEVICE_ID,
    is_shared: false,
    registers: uapi::STOPWATCH_BAR_REGISTERS,
    region: uapi::STOPWATCH_BAR_REGION,
    map: |registers, _| Ok(Box::new(Stub::new(&registers)?)),
};

const INFO_WORDS: usize = size_of::<InfoWords>() / size_of::<u64>();
const DOORBELLS: usize = uapi::STOPWATCH_MAX_RINGS as usize;

// They follow each other.
const _: () = assert!(uapi::STOPWATCH_DOORBELL_STRIDE as usize == size_of::<u32>());

#[derive(Debug)]
struct Stub {
    info: View<[AtomicU64; INFO_WORDS]>,
    reset: View<[AtomicU32; 1]>,
    doorbells: View<[AtomicU32; DOORBELLS]>,
}

impl Stub {
    fn new(registers: &Arc<Mapping>) -> Result<Self, OpenError> {
        if registers.size() < uapi::STOPWATCH_REGISTERS_SIZE as usize {
            return Err(OpenError::strange(format!(
                "its registers take {} bytes, expected {}",
                registers.size(),
                uapi::STOPWATCH_REGISTERS_SIZE
            )));
        }
        Ok(Self {
            info: registers.words(0),
            reset: registers.registers(uapi::STOPWATCH_REG_RESET as usize),
            doorbells: registers.registers(uapi::STOPWATCH_REG_DOORBELL as usize),
        })
    }
}

/// Writes anything to a register.
#[inline]
fn write(register: &AtomicU32) {
    // What is in the region before that. On x86 it is one plain store.
    fence(Ordering::Release);
    register.store(1, Ordering::Relaxed);
}

impl Carrier for Stub {
    fn info(&self) -> InfoWords {
        std::array::from_fn(|index| u64::from_le(self.info[index].load(Ordering::Relaxed)))
    }

    #[inline]
    fn ring_doorbell(&self, ring: u32) {
        if let Some(doorbell) = self.doorbells.get(ring as usize) {
            write(doorbell);
        }
    }

    fn reset(&self) {
        write(&self.reset[0]);
    }

    fn tells_pauses(&self) -> bool {
        true
    }
}
