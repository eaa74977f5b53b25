// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `read()` of the device gives.

use std::mem::offset_of;

use serde::Serialize;
use stopwatch_uapi as uapi;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A timeout expired.
    Timeout,
    /// Of a newer driver than this library knows.
    Other(u32),
}

/// Something that happened to a stopwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// To which stopwatch.
    pub watch: u32,
    /// Of the event, counted by the host; a gap means events that were lost, or
    /// that the file's user may not see.
    pub sequence: u64,
    /// The stopwatch's own time for which it was armed; of several timeouts the
    /// first one's.
    pub deadline_ns: u64,
    /// Its own time at which the host's timer ran.
    pub time_ns: u64,
    /// Timeouts of that stopwatch since its last reset, these included.
    pub timeouts: u32,
    /// How many timeouts this tells of: more than one if a periodic one was too
    /// fast to be told each time.
    pub count: u32,
    /// Events that this open file has lost since it was opened.
    pub dropped: u32,
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
            event_type: match u32_at(offset_of!(Record, type_)) {
                uapi::STOPWATCH_EVENT_TIMEOUT => EventType::Timeout,
                other => EventType::Other(other),
            },
            watch: u32_at(offset_of!(Record, watch)),
            sequence: u64_at(offset_of!(Record, sequence)),
            deadline_ns: u64_at(offset_of!(Record, deadline_ns)),
            time_ns: u64_at(offset_of!(Record, time_ns)),
            timeouts: u32_at(offset_of!(Record, timeouts)),
            count: u32_at(offset_of!(Record, count)),
            dropped: u32_at(offset_of!(Record, dropped)),
        }
    }

    /// How late the host's timer was.
    pub fn late_ns(&self) -> u64 {
        self.time_ns.saturating_sub(self.deadline_ns)
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
        assert_eq!(
            event,
            Event {
                event_type: EventType::Timeout,
                watch: 7,
                sequence: 2,
                deadline_ns: 10,
                time_ns: 12,
                timeouts: 3,
                count: 5,
                dropped: 4,
            }
        );
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
