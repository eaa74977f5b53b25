// SPDX-License-Identifier: GPL-2.0

//! BAR0: the registers of the device, at the places that `<linux/stopwatch_device.h>` gives them.

use kernel::{
    io::{
        register,
        register::{
            Array,
            Register,
            RegisterArray, //
        },
        Io, //
    },
    pci,
    prelude::*, //
};

use crate::{
    protocol::layout::InfoWords,
    uapi, //
};

/// BAR0, mapped.
pub(crate) type Registers<'a> = pci::Bar<'a, { uapi::STOPWATCH_REGISTERS_SIZE as usize }>;

register! {
    /// `struct stopwatch_info`, half a word after the other. Read-only, and always the same.
    pub(crate) INFO(u32)[32, stride = 4] @ 0x000 {
        31:0 half;
    }

    /// Any write resets the device; that is complete when the reset generation in the state has
    /// changed.
    pub(crate) RESET(u32) @ 0x080 {
        31:0 any;
    }

    /// Any write has the host serve the request ring of that number; it has done so when the write
    /// retires, unless the ring holds more than it serves at a time.
    pub(crate) DOORBELL(u32)[64, stride = 4] @ 0x800 {
        31:0 any;
    }
}

// `register!` takes literals only.
static_assert!(INFO::SIZE * INFO::STRIDE == size_of::<uapi::stopwatch_info>());
static_assert!(INFO::SIZE * INFO::STRIDE == size_of::<InfoWords>());
static_assert!(RESET::OFFSET == uapi::STOPWATCH_REG_RESET as usize);
static_assert!(DOORBELL::OFFSET == uapi::STOPWATCH_REG_DOORBELL as usize);
static_assert!(DOORBELL::STRIDE == uapi::STOPWATCH_DOORBELL_STRIDE as usize);
static_assert!(DOORBELL::SIZE == uapi::STOPWATCH_MAX_RINGS as usize);

/// What the device says of itself.
pub(crate) fn read_info(registers: &Registers<'_>) -> InfoWords {
    let half = |index| INFO::try_at(index).map_or(0, |half| registers.read(half).into_raw());

    core::array::from_fn(|index| {
        u64::from(half(2 * index)) | u64::from(half(2 * index + 1)) << u32::BITS
    })
}

/// Resets the device.
pub(crate) fn reset(registers: &Registers<'_>) {
    registers.write_reg(RESET::zeroed());
}

/// Rings the doorbell of a request ring. Orders earlier stores to the ring before it.
#[inline]
pub(crate) fn ring_doorbell(registers: &Registers<'_>, ring: usize) {
    if let Some(doorbell) = DOORBELL::try_at(ring) {
        registers.write(doorbell, DOORBELL::zeroed());
    }
}
