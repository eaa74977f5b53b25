// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `read()` of the device gives.

use std::mem::offset_of;
use std::ops::Deref;

use serde::{Serialize, Serializer};
use stopwatch_protocol::slot;
use stopwatch_uapi as uapi;

/// Something that happened to a stopwatch: the protocol's [`Event`](slot::Event), and
/// what the file knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What the host tells.
    pub told: slot::Event,
    /// Events that this open file has lost since it was opened.
    pub dropped: u32,
}

impl Deref for Event {
    type Target = slot::Event;

    fn deref(&self) -> &slot::Event {
        &self.told
    }
}

impl Event {
    pub(super) const SIZE: usize = size_of::<uapi::stopwatch_event_record>();

    pub(super) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        use uapi::stopwatch_event_record as Record;

        fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
            std::array::from_fn(|index| bytes[offset + index])
        }
        let u32_at = |offset| u32::from_ne_bytes(field(bytes, offset));
        let u64_at = |offset| u64::from_ne_bytes(field(bytes, offset));

        Self {
            told: slot::Event {
                kind: u32_at(offset_of!(Record, type_)) as u16,
                watch: u32_at(offset_of!(Record, watch)),
                sequence: u64_at(offset_of!(Record, sequence)),
                deadline_ns: u64_at(offset_of!(Record, deadline_ns)),
                time_ns: u64_at(offset_of!(Record, time_ns)),
                timeouts: u32_at(offset_of!(Record, timeouts)),
                count: u32_at(offset_of!(Record, count)),
                generation: 0,
            },
            dropped: u32_at(offset_of!(Record, dropped)),
        }
    }

    /// How late the host's timer was.
    pub fn late_ns(&self) -> u64 {
        self.time_ns.saturating_sub(self.deadline_ns)
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat {
            #[serde(rename = "type")]
            kind: String,
            watch: u32,
            sequence: u64,
            deadline_ns: u64,
            time_ns: u64,
            timeouts: u32,
            count: u32,
            dropped: u32,
        }
        Flat {
            kind: match self.kind.into() {
                uapi::STOPWATCH_EVENT_TIMEOUT => "timeout".into(),
                other => format!("event {other}"),
            },
            watch: self.watch,
            sequence: self.sequence,
            deadline_ns: self.deadline_ns,
            time_ns: self.time_ns,
            timeouts: self.timeouts,
            count: self.count,
            dropped: self.dropped,
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_by_the_header_s_layout() {
        let mut bytes = [0; Event::SIZE];
        bytes[0] = 1; // type
        bytes[4] = 7; // watch
        bytes[8] = 2; // sequence
        bytes[16] = 10; // deadline_ns
        bytes[24] = 12; // time_ns
        bytes[32] = 3; // timeouts
        bytes[36] = 5; // count
        bytes[40] = 4; // dropped
        let event = Event::from_bytes(&bytes);
        assert_eq!(event.late_ns(), 2);
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            serde_json::json!({
                "type": "timeout", "watch": 7, "sequence": 2, "deadline_ns": 10,
                "time_ns": 12, "timeouts": 3, "count": 5, "dropped": 4,
            })
        );
    }
}
