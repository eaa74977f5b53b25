// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM that the host module serves, behind a carrier that the module does not know.

use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::words::{field, Field};
use stopwatch_uapi as uapi;

use super::super::{Control, Region};

/// The smallest geometry that has all that is asked for and whose region is a power of two
/// in size, as QEMU wants it: the module takes no region but one of exactly its size, so
/// what is over is spent on stopwatches and slots. `None` if there is no such one.
pub(super) fn filling(asked: Geometry) -> Option<Geometry> {
    let least = Layout::new(asked).ok()?.region_size().next_power_of_two();
    let slots =
        |from: u32| (from.ilog2()..=uapi::STOPWATCH_MAX_SLOTS.ilog2()).map(|log| 1u32 << log);
    let sizes = (0..8).filter_map(|log| least.checked_shl(log));
    sizes.into_iter().find_map(|size| {
        slots(asked.event_slots).find_map(|event_slots| {
            slots(asked.ring_slots).find_map(|ring_slots| {
                let with = |stopwatches| Geometry {
                    stopwatches,
                    event_slots,
                    ring_slots,
                    ..asked
                };
                let fits = |stopwatches| {
                    let layout = Layout::new(with(stopwatches));
                    layout.is_ok_and(|layout| layout.region_size() <= size)
                };
                // It grows with the stopwatches: the most that fit are it, or none.
                let (mut low, mut high) = (asked.stopwatches, uapi::STOPWATCH_MAX_STOPWATCHES);
                if !fits(low) {
                    return None;
                }
                while low < high {
                    let middle = low + (high - low).div_ceil(2);
                    if fits(middle) {
                        low = middle;
                    } else {
                        high = middle - 1;
                    }
                }
                let geometry = with(low);
                let layout = Layout::new(geometry).ok()?;
                (layout.region_size() == size).then_some(geometry)
            })
        })
    })
}

/// A VM of the host module.
pub(super) struct ModuleVm {
    control: Control,
    region: Region,
    /// Of the last reset that was asked for.
    generation: u32,
}

impl ModuleVm {
    /// `region` is mapped of what `control` has as its region.
    pub(super) fn new(control: Control, region: Region) -> Self {
        let generation = reset_generation().get32_of(region.load(uapi::STOPWATCH_VMM_OFFSET));
        Self {
            control,
            region,
            generation,
        }
    }

    /// The file that is the VM.
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// The guest rings for a reset of the device: asks for it as the VMM of another
    /// carrier would. What is to follow is a kick of ring 0.
    pub(super) fn reset(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        // RUNNING is what the other half says.
        let mut word = [u64::from(uapi::STOPWATCH_VMM_RUNNING)];
        reset_generation().set(&mut word, self.generation);
        self.region
            .store_release(uapi::STOPWATCH_VMM_OFFSET, word[0]);
    }
}

fn reset_generation() -> Field {
    field!(stopwatch_vmm.reset_generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every geometry of the defaults' kind has one that fills its region.
    #[test]
    fn what_a_power_of_two_adds_is_used() {
        for rings in uapi::STOPWATCH_MIN_RINGS..=uapi::STOPWATCH_MAX_RINGS {
            for stopwatches in [1, 64, 128, 1024, 2048] {
                let asked = Geometry {
                    stopwatches,
                    rings,
                    ring_slots: 64,
                    event_slots: 64,
                };
                let got = filling(asked).unwrap_or_else(|| panic!("{asked:?}"));
                let size = Layout::new(got).unwrap().region_size();
                assert!(size.is_power_of_two(), "{asked:?}: {size:#x}");
                assert!(
                    size <= 2 * Layout::new(asked)
                        .unwrap()
                        .region_size()
                        .next_power_of_two()
                );
                assert_eq!(got.rings, rings);
                assert!(got.stopwatches >= stopwatches);
                assert!(got.ring_slots >= 64 && got.event_slots >= 64);
            }
        }
    }

    #[test]
    fn the_largest_region_cannot_be_filled() {
        let asked = Geometry {
            stopwatches: 4096,
            rings: 1,
            ring_slots: 8,
            event_slots: 8,
        };
        assert_eq!(filling(asked), None);
    }
}
