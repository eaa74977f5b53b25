// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the device is, and how it is reached.

use std::fmt;

use serde::Serialize;
use stopwatch_uapi as uapi;

use crate::Features;

/// How a device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Way {
    /// By its driver, `/dev/stopwatch`.
    Driver,
    /// By its PCI resources: it has no driver.
    Resources,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "the driver",
            Self::Resources => "its PCI resources, without a driver",
        })
    }
}

/// What the device is and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Of device and driver.
    pub version: u32,
    /// Those that are on.
    pub features: Features,
    /// How many, numbered from 0.
    pub stopwatches: u32,
    /// Request rings that are used.
    pub rings: u32,
    /// Slots of each.
    pub ring_slots: u32,
    /// Taken by the driver since it was bound; without one there are none.
    pub interrupts: u64,
    /// Taken from the event ring since the driver was bound, or by this program.
    pub events: u64,
    /// That the host could not put into the event ring.
    pub events_lost: u64,
    /// The host's `CLOCK_MONOTONIC` at VM time 0, if the guest may know.
    pub epoch_ns: Option<u64>,
    /// How it is reached.
    pub way: Way,
}

impl From<uapi::stopwatch_device_info> for Info {
    fn from(raw: uapi::stopwatch_device_info) -> Self {
        Self {
            version: raw.version,
            features: Features(raw.features),
            stopwatches: raw.stopwatches,
            rings: raw.rings,
            ring_slots: raw.ring_slots,
            interrupts: raw.interrupts,
            events: raw.events,
            events_lost: raw.events_lost,
            epoch_ns: (raw.epoch_ns != 0).then_some(raw.epoch_ns),
            way: Way::Driver,
        }
    }
}
