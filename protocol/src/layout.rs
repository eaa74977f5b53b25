// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Where in a region everything lies, and what a device says of itself.

use core::fmt;
use core::mem::offset_of;

use super::geometry::Geometry;
use super::geometry::GeometryError;
use super::ring::Slots;
use super::words::field;
use super::words::words_of;
use super::words::Field;
use super::words::WORD;
use crate::uapi;

const PAGE: u64 = uapi::STOPWATCH_PAGE_SIZE as u64;
const STATE_SIZE: u64 = size_of::<uapi::stopwatch_state>() as u64;
const RECORD_SIZE: u64 = size_of::<uapi::stopwatch_record>() as u64;
/// What a host of this engine fills in of `struct stopwatch_info`.
const INFO_SIZE: u32 = offset_of!(uapi::stopwatch_info, reserved) as u32;
/// Of the laps of one stopwatch.
const LAPS_SIZE: u64 = uapi::STOPWATCH_LAP_SLOTS as u64 * WORD as u64;

/// `struct stopwatch_info`, as words.
pub type InfoWords = [u64; words_of::<uapi::stopwatch_info>()];

/// What keeps a driver from using a device that says this of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfoError {
    /// It is something else.
    Magic(u32),
    /// It is of another version.
    Version(u32),
    /// It has what no device of this version has.
    Geometry(GeometryError),
    /// The named part is not within its place, or not aligned.
    Place(&'static str),
    /// Another number of calls than of rings.
    Calls(u32, u32),
    /// More post rings than any device has.
    PostRings(u32),
    /// Less of `struct stopwatch_info` than devices of this version fill in.
    InfoSize(u32),
    /// Records smaller than those of this version, or not whole cache lines.
    RecordSize(u32),
}

impl fmt::Display for InfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(got) => write!(
                f,
                "not a stopwatch device: magic must be {:#x}, got {got:#x}",
                uapi::STOPWATCH_MAGIC
            ),
            Self::Version(got) => write!(
                f,
                "device of version {got}, but this driver is for version {}: update the {}",
                uapi::STOPWATCH_VERSION,
                if *got > uapi::STOPWATCH_VERSION {
                    "driver in the guest"
                } else {
                    "stopwatch module and QEMU of the host"
                }
            ),
            Self::Geometry(error) => error.fmt(f),
            Self::Place(part) => write!(f, "the device's {part} is out of place"),
            Self::Calls(calls, rings) => write!(
                f,
                "the device has {calls} calls for {rings} rings, expected as many"
            ),
            Self::PostRings(got) => write!(
                f,
                "post rings must be at most {}, got {got}",
                uapi::STOPWATCH_MAX_POST_RINGS
            ),
            Self::InfoSize(got) => write!(
                f,
                "the device says {got} bytes of itself, expected {INFO_SIZE} or more"
            ),
            Self::RecordSize(got) => write!(
                f,
                "record size must be a multiple of {} from {RECORD_SIZE} on, got {got}",
                uapi::STOPWATCH_SLOT_SIZE
            ),
        }
    }
}

impl core::error::Error for InfoError {}

/// Where everything lies, in bytes from the start of the region.
///
/// # Invariants
///
/// Each part is within the region, starts at a multiple of 64 and has room for
/// what `geometry` says; no two overlap. The counts are within the limits of
/// the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    geometry: Geometry,
    region_size: u32,
    state_offset: u32,
    state_size: u32,
    record_offset: u32,
    record_size: u32,
    lap_offset: u32,
    rings_offset: u32,
    rings_size: u32,
    ring_offset: u32,
    ring_stride: u32,
    post_offset: u32,
    post_rings: u32,
}

impl Layout {
    /// The layout that the host gives to a device.
    pub fn new(geometry: Geometry) -> Result<Self, GeometryError> {
        geometry.check()?;
        let page = uapi::STOPWATCH_PAGE_SIZE;
        let pages = |size: u32| size.next_multiple_of(page);

        // INVARIANT: each part begins where the one before it ends, rounded up
        // to a page. At the limits all this is 25 MiB and fits easily.
        let state_offset = page;
        // `struct stopwatch_state` has a page of its own.
        let record_offset = state_offset + page;
        let records = pages(geometry.stopwatches * RECORD_SIZE as u32);
        let lap_offset = record_offset + records;
        let laps = pages(geometry.stopwatches * LAPS_SIZE as u32);
        let rings_offset = lap_offset + laps;
        let ring_offset = rings_offset + pages(Geometry::ring_size(geometry.event_slots));
        let ring_stride = pages(Geometry::ring_size(geometry.ring_slots));
        let post_offset = ring_offset + geometry.rings * ring_stride;
        let post_rings = uapi::STOPWATCH_MAX_POST_RINGS;
        let region_size = post_offset + post_rings * page;
        Ok(Self {
            geometry,
            region_size,
            state_offset,
            state_size: rings_offset - state_offset,
            record_offset,
            record_size: RECORD_SIZE as u32,
            lap_offset,
            rings_offset,
            rings_size: region_size - rings_offset,
            ring_offset,
            ring_stride,
            post_offset,
            post_rings,
        })
    }

    /// What a device says of itself, held against what the header promises.
    /// The second value is the features that it offers.
    pub fn from_info(info: &InfoWords) -> Result<(Self, u64), InfoError> {
        let get = |field: Field| field.get32(info);

        let magic = get(field!(stopwatch_info.magic));
        if magic != uapi::STOPWATCH_MAGIC {
            return Err(InfoError::Magic(magic));
        }
        let version = get(field!(stopwatch_info.version));
        if version != uapi::STOPWATCH_VERSION {
            return Err(InfoError::Version(version));
        }
        let geometry = Geometry {
            stopwatches: get(field!(stopwatch_info.stopwatches)),
            rings: get(field!(stopwatch_info.rings)),
            ring_slots: get(field!(stopwatch_info.ring_slots)),
            event_slots: get(field!(stopwatch_info.event_slots)),
        };
        geometry.check().map_err(InfoError::Geometry)?;
        let info_size = get(field!(stopwatch_info.info_size));
        if info_size < INFO_SIZE {
            return Err(InfoError::InfoSize(info_size));
        }
        let record_size = get(field!(stopwatch_info.record_size));
        if u64::from(record_size) < RECORD_SIZE || record_size % uapi::STOPWATCH_SLOT_SIZE != 0 {
            return Err(InfoError::RecordSize(record_size));
        }
        let calls = get(field!(stopwatch_info.calls));
        if calls != geometry.rings {
            return Err(InfoError::Calls(calls, geometry.rings));
        }
        let post_offset = get(field!(stopwatch_info.post_offset));
        let post_rings = if post_offset == 0 {
            0
        } else {
            get(field!(stopwatch_info.post_rings))
        };
        if post_rings > uapi::STOPWATCH_MAX_POST_RINGS {
            return Err(InfoError::PostRings(post_rings));
        }
        let layout = Self {
            geometry,
            region_size: get(field!(stopwatch_info.region_size)),
            state_offset: get(field!(stopwatch_info.state_offset)),
            state_size: get(field!(stopwatch_info.state_size)),
            record_offset: get(field!(stopwatch_info.record_offset)),
            record_size,
            lap_offset: get(field!(stopwatch_info.lap_offset)),
            rings_offset: get(field!(stopwatch_info.rings_offset)),
            rings_size: get(field!(stopwatch_info.rings_size)),
            ring_offset: get(field!(stopwatch_info.ring_offset)),
            ring_stride: get(field!(stopwatch_info.ring_stride)),
            post_offset,
            post_rings,
        };
        // INVARIANT: checked here.
        layout.check().map_err(InfoError::Place)?;
        Ok((layout, field!(stopwatch_info.features).get(info)))
    }

    /// Checks the invariants, of counts that are within the limits. Returns
    /// the part that breaks them.
    fn check(&self) -> Result<(), &'static str> {
        let slot = u64::from(uapi::STOPWATCH_SLOT_SIZE);
        let [region_size, state, state_size, record, lap, rings, rings_size, ring, stride, post] =
            [
                self.region_size,
                self.state_offset,
                self.state_size,
                self.record_offset,
                self.lap_offset,
                self.rings_offset,
                self.rings_size,
                self.ring_offset,
                self.ring_stride,
                self.post_offset,
            ]
            .map(u64::from);
        let counts = self.geometry;
        let records_size = u64::from(counts.stopwatches) * u64::from(self.record_size);
        let laps_size = u64::from(counts.stopwatches) * LAPS_SIZE;
        let events_size = u64::from(Geometry::ring_size(counts.event_slots));
        let ring_size = u64::from(Geometry::ring_size(counts.ring_slots));
        let posts_size = u64::from(self.post_rings) * PAGE;
        // Where there are none, nothing of them is where it must not be.
        let post = if post == 0 { rings + rings_size } else { post };

        let checks = [
            ("state", state % PAGE == 0 && state >= PAGE),
            ("first record", record % slot == 0),
            ("first record", record >= state + STATE_SIZE),
            ("first lap", lap % slot == 0),
            ("last record", record + records_size <= lap),
            ("last lap", lap + laps_size <= state + state_size),
            ("event ring", rings % PAGE == 0),
            ("event ring", rings >= state + state_size),
            ("first request ring", ring % PAGE == 0),
            ("first request ring", ring >= rings + events_size),
            ("ring stride", stride % PAGE == 0 && stride >= ring_size),
            (
                "last request ring",
                ring + u64::from(counts.rings) * stride <= post,
            ),
            ("first post ring", post % PAGE == 0),
            ("last post ring", post + posts_size <= rings + rings_size),
            ("region size", rings + rings_size <= region_size),
        ];
        match checks.iter().find(|(_, good)| !good) {
            Some((part, _)) => Err(part),
            None => Ok(()),
        }
    }

    /// What the device says of itself, if it offers `features`.
    pub fn info(&self, features: u64) -> InfoWords {
        let mut info = InfoWords::default();
        let mut set = |field: Field, value: u32| field.set(&mut info, value);
        set(field!(stopwatch_info.magic), uapi::STOPWATCH_MAGIC);
        set(field!(stopwatch_info.version), uapi::STOPWATCH_VERSION);
        set(field!(stopwatch_info.region_size), self.region_size);
        set(field!(stopwatch_info.state_offset), self.state_offset);
        set(field!(stopwatch_info.state_size), self.state_size);
        set(field!(stopwatch_info.rings_offset), self.rings_offset);
        set(field!(stopwatch_info.rings_size), self.rings_size);
        set(field!(stopwatch_info.record_offset), self.record_offset);
        set(field!(stopwatch_info.record_size), self.record_size);
        set(field!(stopwatch_info.info_size), INFO_SIZE);
        set(
            field!(stopwatch_info.stopwatches),
            self.geometry.stopwatches,
        );
        set(
            field!(stopwatch_info.event_slots),
            self.geometry.event_slots,
        );
        set(field!(stopwatch_info.ring_offset), self.ring_offset);
        set(field!(stopwatch_info.ring_stride), self.ring_stride);
        set(field!(stopwatch_info.ring_slots), self.geometry.ring_slots);
        set(field!(stopwatch_info.rings), self.geometry.rings);
        set(field!(stopwatch_info.calls), self.geometry.rings);
        set(field!(stopwatch_info.lap_offset), self.lap_offset);
        set(field!(stopwatch_info.post_offset), self.post_offset);
        set(field!(stopwatch_info.post_rings), self.post_rings);
        field!(stopwatch_info.features).set(&mut info, features);
        info
    }

    /// How much the device has.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes of the region.
    pub fn region_size(&self) -> u32 {
        self.region_size
    }

    /// Where `struct stopwatch_vmm` is.
    pub fn vmm(&self) -> u32 {
        uapi::STOPWATCH_VMM_OFFSET
    }

    /// Where `struct stopwatch_state` is.
    pub fn state(&self) -> u32 {
        self.state_offset
    }

    /// Bytes of the state pages, which begin at [`Self::state`].
    pub fn state_size(&self) -> u32 {
        self.state_size
    }

    /// Where the part begins that host and guest write.
    pub fn rings(&self) -> u32 {
        self.rings_offset
    }

    /// Where the record of a stopwatch is.
    pub fn record(&self, watch: u32) -> Option<u32> {
        (watch < self.geometry.stopwatches).then(|| self.record_offset + watch * self.record_size)
    }

    /// Bytes from one record to the next.
    pub fn record_size(&self) -> u32 {
        self.record_size
    }

    /// Where the records begin.
    pub fn record_offset(&self) -> u32 {
        self.record_offset
    }

    /// Where the laps begin.
    pub fn lap_offset(&self) -> u32 {
        self.lap_offset
    }

    /// Where a lap of a stopwatch is, while it is kept.
    pub fn lap(&self, watch: u32, lap: u32) -> Option<u32> {
        let slot = lap % uapi::STOPWATCH_LAP_SLOTS;
        (watch < self.geometry.stopwatches)
            .then(|| self.lap_offset + watch * LAPS_SIZE as u32 + slot * WORD)
    }

    /// The slots of a request ring.
    pub fn ring(&self, ring: u32) -> Option<Slots> {
        (ring < self.geometry.rings).then(|| {
            Slots::new(
                self.ring_offset + ring * self.ring_stride,
                self.geometry.ring_slots,
            )
        })
    }

    /// How many post rings there are.
    pub fn post_rings(&self) -> u32 {
        self.post_rings
    }

    /// Where the `struct stopwatch_post_ring` of a post ring is.
    pub fn post_ring(&self, ring: u32) -> Option<u32> {
        (ring < self.post_rings).then(|| self.post_offset + ring * uapi::STOPWATCH_PAGE_SIZE)
    }

    /// The slots of the event ring.
    pub fn events(&self) -> Slots {
        Slots::new(self.rings_offset, self.geometry.event_slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const SMALL: Geometry = Geometry {
        stopwatches: 64,
        rings: 4,
        ring_slots: 64,
        event_slots: 128,
    };

    #[test]
    fn parts_follow_each_other_by_pages() {
        let layout = Layout::new(SMALL).unwrap();
        assert_eq!(layout.state(), 0x1000);
        assert_eq!(layout.record(0), Some(0x2000));
        assert_eq!(layout.record(63), Some(0x2000 + 63 * 128));
        assert_eq!(layout.record(64), None);
        assert_eq!(layout.lap(0, 0), Some(0x4000));
        assert_eq!(layout.lap(63, 257), Some(0x4000 + 63 * 2048 + 8));
        assert_eq!(layout.lap(64, 0), None);
        assert_eq!(layout.rings(), 0x24000);
        assert_eq!(layout.events().slot(0), 0x24000);
        assert_eq!(layout.ring(0).unwrap().slot(0), 0x26000);
        assert_eq!(layout.ring(3).unwrap().slot(63), 0x29000 + 63 * 64);
        assert_eq!(layout.ring(4), None);
        assert_eq!(layout.post_ring(0), Some(0x2a000));
        assert_eq!(layout.post_ring(31), Some(0x49000));
        assert_eq!(layout.post_ring(32), None);
        assert_eq!(layout.region_size(), 0x4a000);
    }

    #[test]
    fn counts_out_of_range_are_named() {
        let said = |geometry| Layout::new(geometry).unwrap_err().to_string();
        assert_eq!(
            said(Geometry {
                ring_slots: 100,
                ..SMALL
            }),
            "ring slots must be a power of two from 8 to 4096, got 100"
        );
        assert_eq!(
            said(Geometry {
                event_slots: 8192,
                ..SMALL
            }),
            "event slots must be a power of two from 8 to 4096, got 8192"
        );
        assert_eq!(
            said(Geometry { rings: 65, ..SMALL }),
            "rings must be from 1 to 64, got 65"
        );
        assert_eq!(
            said(Geometry {
                stopwatches: 0,
                ..SMALL
            }),
            "stopwatches must be from 1 to 4096, got 0"
        );
        for slots in [0, 4, u32::MAX, 1 << 31] {
            let geometry = Geometry {
                ring_slots: slots,
                ..SMALL
            };
            assert_eq!(Layout::new(geometry), Err(GeometryError::RingSlots(slots)));
        }
    }

    #[test]
    fn a_driver_finds_what_the_host_laid_out() {
        let largest = Geometry {
            stopwatches: 4096,
            rings: 64,
            ring_slots: 4096,
            event_slots: 4096,
        };
        let smallest = Geometry {
            stopwatches: 1,
            rings: 1,
            ring_slots: 8,
            event_slots: 8,
        };
        for geometry in [smallest, SMALL, largest] {
            let layout = Layout::new(geometry).unwrap();
            assert_eq!(layout.check(), Ok(()));
            assert_eq!(Layout::from_info(&layout.info(5)), Ok((layout, 5)));
        }
    }

    /// What a later host of this version may have: more in each part, and further
    /// parts behind, of which this driver knows nothing.
    #[test]
    fn a_driver_takes_more_than_it_knows() {
        let mut info = Layout::new(SMALL).unwrap().info(u64::MAX);
        let mut set = |field: Field, value: u32| field.set(&mut info, value);
        set(field!(stopwatch_info.info_size), 4096);
        set(field!(stopwatch_info.record_size), 192);
        set(field!(stopwatch_info.lap_offset), 0x5000);
        set(field!(stopwatch_info.rings_offset), 0x26000);
        set(field!(stopwatch_info.state_size), 0x25000);
        set(field!(stopwatch_info.ring_offset), 0x29000);
        set(field!(stopwatch_info.ring_stride), 0x3000);
        set(field!(stopwatch_info.post_offset), 0x40000);
        set(field!(stopwatch_info.rings_size), 0x80000);
        set(field!(stopwatch_info.region_size), 0x100000);
        set(Field::new(88, 4), 0x60000);
        set(Field::new(124, 4), u32::MAX);
        let (layout, features) = Layout::from_info(&info).unwrap();
        assert_eq!(features, u64::MAX);
        assert_eq!(layout.record_size(), 192);
        assert_eq!(layout.record(63), Some(0x2000 + 63 * 192));
        assert_eq!(layout.lap(1, 0), Some(0x5000 + 2048));
        assert_eq!(layout.ring(3).unwrap().slot(1), 0x29000 + 3 * 0x3000 + 64);
        assert_eq!(layout.post_ring(31), Some(0x40000 + 31 * 0x1000));

        // Records that are larger do not fit where the others did.
        field!(stopwatch_info.lap_offset).set(&mut info, 0x4000u32);
        let error = Layout::from_info(&info).unwrap_err();
        assert_eq!(error, InfoError::Place("last record"));
    }

    #[test]
    fn a_part_at_offset_zero_is_not_there() {
        let mut info = Layout::new(SMALL).unwrap().info(0);
        field!(stopwatch_info.post_offset).set(&mut info, 0u32);
        let (layout, _) = Layout::from_info(&info).unwrap();
        assert_eq!((layout.post_rings(), layout.post_ring(0)), (0, None));
        // The others always are.
        for field in [
            field!(stopwatch_info.state_offset),
            field!(stopwatch_info.record_offset),
            field!(stopwatch_info.lap_offset),
            field!(stopwatch_info.rings_offset),
            field!(stopwatch_info.ring_offset),
        ] {
            let mut info = info;
            field.set(&mut info, 0u32);
            assert!(Layout::from_info(&info).is_err());
        }
    }

    #[test]
    fn a_driver_refuses_what_it_does_not_know() {
        let good = Layout::new(SMALL).unwrap().info(0);
        let said = |field: Field, value: u32| {
            let mut info = good;
            field.set(&mut info, value);
            Layout::from_info(&info).unwrap_err().to_string()
        };
        assert_eq!(
            said(field!(stopwatch_info.magic), 0),
            "not a stopwatch device: magic must be 0x504f5453, got 0x0"
        );
        assert_eq!(
            said(field!(stopwatch_info.version), 1),
            "device of version 1, but this driver is for version 2: update the stopwatch module \
             and QEMU of the host"
        );
        assert_eq!(
            said(field!(stopwatch_info.version), 3),
            "device of version 3, but this driver is for version 2: update the driver in the guest"
        );
        assert_eq!(
            said(field!(stopwatch_info.info_size), 84),
            "the device says 84 bytes of itself, expected 88 or more"
        );
        for size in [0, 64, 120, 136] {
            assert_eq!(
                said(field!(stopwatch_info.record_size), size),
                std::format!("record size must be a multiple of 64 from 128 on, got {size}")
            );
        }
        assert_eq!(
            said(field!(stopwatch_info.rings), 0),
            "rings must be from 1 to 64, got 0"
        );
        assert_eq!(
            said(field!(stopwatch_info.calls), 1),
            "the device has 1 calls for 4 rings, expected as many"
        );
        assert_eq!(
            said(field!(stopwatch_info.post_rings), 33),
            "post rings must be at most 32, got 33"
        );
        for (field, value, part) in [
            (field!(stopwatch_info.state_offset), 0, "state"),
            (field!(stopwatch_info.record_offset), 0x1001, "first record"),
            (field!(stopwatch_info.record_offset), 0x2040, "last record"),
            (field!(stopwatch_info.lap_offset), 0x3fc0, "last record"),
            (field!(stopwatch_info.lap_offset), 0x4010, "first lap"),
            (field!(stopwatch_info.lap_offset), 0x4040, "last lap"),
            (field!(stopwatch_info.rings_offset), 0x23000, "event ring"),
            (
                field!(stopwatch_info.ring_offset),
                0x25000,
                "first request ring",
            ),
            (
                field!(stopwatch_info.ring_stride),
                0xffff_f000,
                "last request ring",
            ),
            (
                field!(stopwatch_info.post_offset),
                0x2a800,
                "first post ring",
            ),
            (
                field!(stopwatch_info.post_offset),
                0x2b000,
                "last post ring",
            ),
            (field!(stopwatch_info.region_size), 0x29000, "region size"),
        ] {
            assert_eq!(
                said(field, value),
                std::format!("the device's {part} is out of place")
            );
        }
    }
}
