// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! VM time from the guest's counter: learned from calls, with a bound on how
//! wrong it can be. Arithmetic only; where the counter is read is the guest's
//! business.
//!
//! A call says: when the host took the time, the counter was between what it
//! was before the call and after it. So VM time after the call is known to be
//! in an interval, which is as wide as the call was long. Until the next call
//! the interval moves on with the counter, and gets wider, as how fast the
//! counter is known only up to a bound, too; then it is intersected with that
//! of the call. Two intervals that are some time apart bound how fast the
//! counter is.
//!
//! Two intervals that have nothing in common mean that the counter is not what
//! it is taken for. What was learned is forgotten then.

use super::clock_page::Estimate;
use super::clock_page::POINT;
use super::state::Pauses;

const SECOND_NS: u64 = 1_000_000_000;

/// For how long an interval is good, and for how long the counter's speed is
/// watched at a time. Products of times up to twice that with a rate's fraction
/// fit in 64 bits.
const WINDOW_NS: u64 = SECOND_NS;

/// Parts are counted in 2^-30, so that nothing has to be divided; that is a
/// little less than 10^-9.
const PART_BITS: u32 = 30;

/// How far the counter may be from how fast the guest believes it to be: 5 %.
/// That was measured in a hurry, on some emulators badly.
const NOMINAL_PARTS: u64 = (1 << PART_BITS) / 20;

/// How much the host's clock may change its speed: 500 parts per million, which
/// is as far as `adjtimex()` sets it.
const SLEW_PARTS: u64 = (1 << PART_BITS) / 2000;

/// So many parts of a value.
fn parts_of(value: u64, parts: u64) -> u64 {
    ((u128::from(value) * u128::from(parts)) >> PART_BITS) as u64
}

/// A value between two bounds, both of which it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    low: u64,
    high: u64,
}

impl Interval {
    fn width(self) -> u64 {
        self.high.saturating_sub(self.low)
    }

    fn middle(self) -> u64 {
        self.low + self.width() / 2
    }

    /// What is in both; `None` if nothing is.
    fn and(self, other: Self) -> Option<Self> {
        let both = Self {
            low: self.low.max(other.low),
            high: self.high.min(other.high),
        };
        (both.low <= both.high).then_some(both)
    }

    /// All that is not farther from it than so many parts of it.
    fn widened(self, parts: u64) -> Self {
        let margin = parts_of(self.high, parts) + 1;
        Self {
            low: self.low.saturating_sub(margin),
            high: self.high.saturating_add(margin),
        }
    }
}

/// So many ticks at that rate, in ns.
fn ticks_to_ns(ticks: u64, rate: u64) -> u64 {
    ((u128::from(ticks) * u128::from(rate)) >> POINT) as u64
}

/// VM time at a moment of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    counter: u64,
    time: Interval,
}

impl Moment {
    /// The same time, seen when the counter has moved on by `ticks`.
    fn after(self, ticks: u64, rate: Interval) -> Self {
        Self {
            counter: self.counter + ticks,
            time: Interval {
                low: self.time.low.saturating_add(ticks_to_ns(ticks, rate.low)),
                high: self
                    .time
                    .high
                    .saturating_add(ticks_to_ns(ticks, rate.high).saturating_add(1)),
            },
        }
    }

    /// The rates by which one can get from here to there; `None` if there is no
    /// time between the two, or more than is good for the arithmetic.
    fn rate_to(self, there: Self) -> Option<Interval> {
        let ticks = there.counter.checked_sub(self.counter)?;
        let longest = there.time.high.checked_sub(self.time.low)?;
        let shortest = there.time.low.saturating_sub(self.time.high);
        if ticks == 0 || longest >= 1 << (u64::BITS - POINT) {
            return None;
        }
        Some(Interval {
            low: (shortest << POINT) / ticks,
            high: (longest << POINT) / ticks + 1,
        })
    }
}

/// One call: what the counter was, what the host said, what the counter was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The counter before the call.
    pub before: u64,
    /// The counter after it.
    pub after: u64,
    /// VM time, in between.
    pub time_ns: u64,
    /// What the device says of pauses, after the call. Another count than that of the
    /// sample before means that nothing is known of the counter in between.
    pub pauses: Pauses,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    /// Where the counter's speed is measured from.
    anchor: Moment,
    latest: Moment,
    /// How fast the counter was.
    rate: Interval,
    pauses: Pauses,
    samples: u64,
}

/// What is known of the counter.
#[derive(Debug, Default)]
pub struct GuestClock {
    nominal: Option<Interval>,
    learned: Option<Learned>,
}

impl GuestClock {
    /// Of a counter of about `khz`; of none, if it is 0.
    pub fn new(khz: u32) -> Self {
        let rate = (1_000_000u64 << POINT).checked_div(u64::from(khz));
        Self {
            nominal: rate.map(|rate| {
                let exactly = Interval {
                    low: rate,
                    high: rate,
                };
                exactly.widened(NOMINAL_PARTS)
            }),
            learned: None,
        }
    }

    /// Forgets what was learned.
    pub fn forget(&mut self) {
        self.learned = None;
    }

    /// Learns from a call.
    pub fn learn(&mut self, sample: &Sample) {
        let Some(nominal) = self.nominal else {
            return;
        };
        let follows = |learned: Learned| learned.follow(sample, nominal);
        match self.learned.map(follows) {
            Some(Next::Good(learned)) => self.learned = Some(learned),
            Some(Next::Late) => (),
            Some(Next::Contradiction) | None => {
                let moment = sample.moment(nominal);
                self.learned = moment.map(|moment| Learned {
                    anchor: moment,
                    latest: moment,
                    rate: nominal,
                    pauses: sample.pauses,
                    samples: 1,
                });
            }
        }
    }

    /// What is known; `None` if it is nothing.
    pub fn estimate(&self) -> Option<Estimate> {
        let learned = self.learned.as_ref()?;
        let Moment { counter, time } = learned.latest;
        let rate = learned.rate.middle();
        let spread = learned.rate.widened(SLEW_PARTS).width() / 2;
        Some(Estimate {
            counter_base: counter,
            valid_ticks: (WINDOW_NS << POINT) / rate.max(1) + 1,
            time_ns: time.middle(),
            mult: rate,
            // What is lost below the point, here and there, is less than 3 ns in all.
            error_ns: time.width() / 2 + 3,
            // Divided by less than the rate, so that it is no less than the spread.
            drift: (spread.min(rate) << 16) / (rate >> (POINT - 16)).max(1) + 1,
            pauses: learned.pauses,
            samples: learned.samples,
        })
    }
}

impl Sample {
    /// What the sample says of VM time after the call.
    fn moment(&self, rate: Interval) -> Option<Moment> {
        let ticks = self.after.checked_sub(self.before)?;
        let longest = ticks_to_ns(ticks, rate.high).saturating_add(1);
        // Where in its tick the counter was read is not known.
        let tick = ticks_to_ns(1, rate.high).saturating_add(1);
        (longest < WINDOW_NS).then_some(Moment {
            counter: self.after,
            time: Interval {
                low: self.time_ns.saturating_sub(tick),
                high: self.time_ns.saturating_add(longest).saturating_add(tick),
            },
        })
    }
}

/// What follows from a sample.
enum Next {
    Good(Learned),
    /// It is older than what is known; on another CPU another one was faster.
    Late,
    Contradiction,
}

impl Learned {
    fn follow(self, sample: &Sample, nominal: Interval) -> Next {
        if sample.pauses.count != self.pauses.count {
            return Next::Contradiction;
        }
        let rate = self.rate.widened(SLEW_PARTS);
        let Some(moment) = sample.moment(rate) else {
            return Next::Late;
        };
        let window = (WINDOW_NS << POINT) / nominal.low.max(1);
        let Some(ticks) = moment.counter.checked_sub(self.latest.counter) else {
            // Not so much older that the counter must have gone back.
            return if self.latest.counter - moment.counter < window {
                Next::Late
            } else {
                Next::Contradiction
            };
        };
        let samples = self.samples + 1;
        if ticks > window {
            // Too long ago to say anything but how fast the counter was.
            return Next::Good(Self {
                anchor: moment,
                latest: moment,
                samples,
                ..self
            });
        }
        let expected = self.latest.after(ticks, rate);
        let Some(time) = expected.time.and(moment.time) else {
            return Next::Contradiction;
        };
        let latest = Moment { time, ..moment };
        let watched = latest.counter - self.anchor.counter;
        let measured = self.anchor.rate_to(latest);
        // Of the same window each is better than the one before. Of the one before, it counts
        // until that is so.
        let rate = match measured {
            Some(measured) if measured.width() < self.rate.width() || watched > window => {
                match measured.and(nominal) {
                    Some(rate) => rate,
                    None => return Next::Contradiction,
                }
            }
            _ => self.rate,
        };
        Next::Good(Self {
            anchor: if watched > window {
                latest
            } else {
                self.anchor
            },
            latest,
            rate,
            samples,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_words::AtomicWords;
    use crate::clock_page::publish;
    use crate::clock_page::ClockPage;
    use crate::clock_page::Now;
    use crate::memory::Memory;
    use crate::part::Part;
    use crate::words::field;
    use core::sync::atomic::AtomicU64;

    /// A counter of that speed, in ticks a microsecond, and calls that take so
    /// many ns, with the host's stamp somewhere in them.
    struct World {
        mhz: u64,
        now_ns: u64,
        seed: u64,
    }

    const EPOCH_NS: u64 = 7 * SECOND_NS;

    /// What a page that has this says, in a VM that was not paused since.
    fn tell(estimate: &Estimate, counter: u64) -> Option<Now> {
        let words: [AtomicU64; 32] = Default::default();
        let mem = AtomicWords(&words);
        publish(&mem, 0, Some(estimate));
        let pauses = field!(stopwatch_state.pauses).offset();
        mem.store(128 + pauses, estimate.pauses.count);
        ClockPage::new(Part::new(mem, 0), Part::new(mem, 128)).now(&|| counter)
    }

    fn time(estimate: &Estimate, counter: u64) -> Option<u64> {
        tell(estimate, counter).map(|now| now.time_ns)
    }

    impl World {
        fn new(mhz: u64) -> Self {
            Self {
                mhz,
                now_ns: 1000 * SECOND_NS,
                seed: 1,
            }
        }

        fn random(&mut self, below: u64) -> u64 {
            self.seed = self
                .seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.seed >> 33) % below
        }

        fn counter(&self) -> u64 {
            (u128::from(self.now_ns) * u128::from(self.mhz) / 1000) as u64
        }

        fn vm_time(&self) -> u64 {
            self.now_ns - EPOCH_NS
        }

        fn call(&mut self, longest_ns: u64) -> Sample {
            let before = self.counter();
            let there = self.random(longest_ns);
            self.now_ns += there;
            let time_ns = self.vm_time();
            let back = self.random(longest_ns);
            self.now_ns += back;
            Sample {
                before,
                after: self.counter(),
                time_ns,
                pauses: Pauses::default(),
            }
        }

        fn check(&self, estimate: &Estimate) {
            let said = tell(estimate, self.counter()).unwrap();
            let off = said.time_ns.abs_diff(self.vm_time());
            assert!(off <= said.error_ns, "{off} off: {estimate:?}");
        }
    }

    #[test]
    fn the_bound_holds_and_shrinks() {
        for mhz in [25, 999, 1000, 1001, 2450, 5000] {
            // What the guest believes is up to 4 % wrong.
            for khz in [mhz * 960, mhz * 1000, mhz * 1040] {
                let mut world = World::new(mhz);
                let mut clock = GuestClock::new(khz as u32);
                let (mut first, mut best) = (0, u64::MAX);
                for round in 0..3000 {
                    clock.learn(&world.call(20_000));
                    let estimate = clock.estimate().unwrap();
                    assert_eq!(estimate.samples, round + 1);
                    if round == 0 {
                        first = estimate.error_ns;
                    }
                    best = best.min(estimate.error_ns);
                    world.check(&estimate);
                    world.now_ns += 1_000_000;
                    world.check(&estimate);
                }
                let estimate = clock.estimate().unwrap();
                assert!(best < first / 4 || best < 1000, "{first} {best}");
                assert!(estimate.drift < (1 << POINT) / 1500, "{estimate:?}");
                world.now_ns += 900_000_000;
                world.check(&estimate);
            }
        }
    }

    #[test]
    fn it_says_nothing_before_its_base_and_after_its_end() {
        let mut world = World::new(2000);
        let mut clock = GuestClock::new(2_000_000);
        assert_eq!(clock.estimate(), None);
        clock.learn(&world.call(1000));
        let estimate = clock.estimate().unwrap();
        assert_eq!(time(&estimate, estimate.counter_base - 1), None);
        assert_eq!(time(&estimate, 0), None);
        assert_eq!(
            time(&estimate, estimate.counter_base),
            Some(estimate.time_ns)
        );
        let end = estimate.counter_base + estimate.valid_ticks;
        let last = time(&estimate, end - 1).unwrap();
        assert!(last.abs_diff(estimate.time_ns + SECOND_NS) < 10);
        assert_eq!(time(&estimate, end), None);
    }

    #[test]
    fn a_counter_that_changes_its_speed_is_found_out() {
        let mut world = World::new(2000);
        let mut clock = GuestClock::new(2_000_000);
        for _ in 0..2000 {
            clock.learn(&world.call(2000));
            world.now_ns += 1_000_000;
        }
        let before = clock.estimate().unwrap();
        // Twice as fast; the count goes on from where it was.
        let switch = world.counter();
        let at = world.now_ns;
        let faster = |world: &World| switch + (world.now_ns - at) * 4000 / 1000;
        world.now_ns += 1_000_000;
        let sample = Sample {
            before: faster(&world),
            after: faster(&world) + 2000,
            time_ns: world.vm_time(),
            pauses: Pauses::default(),
        };
        clock.learn(&sample);
        let after = clock.estimate().unwrap();
        assert_eq!(after.samples, 1);
        assert!(after.drift > before.drift);
    }

    #[test]
    fn a_pause_and_a_counter_that_starts_again_make_it_forget() {
        let mut world = World::new(3000);
        let mut clock = GuestClock::new(3_000_000);
        for _ in 0..10 {
            clock.learn(&world.call(2000));
        }
        let paused = Sample {
            pauses: Pauses {
                count: 2,
                paused_ns: 5,
            },
            ..world.call(2000)
        };
        clock.learn(&paused);
        assert_eq!(clock.estimate().unwrap().samples, 1);
        assert_eq!(clock.estimate().unwrap().pauses.paused_ns, 5);
        let restarted = Sample {
            before: 1000,
            after: 2000,
            ..paused
        };
        clock.learn(&restarted);
        assert_eq!(clock.estimate().unwrap().counter_base, 2000);
        clock.forget();
        assert_eq!(clock.estimate(), None);
    }

    #[test]
    fn a_late_sample_changes_nothing() {
        let mut world = World::new(3000);
        let mut clock = GuestClock::new(3_000_000);
        clock.learn(&world.call(2000));
        let late = world.call(2000);
        clock.learn(&world.call(2000));
        let before = clock.estimate();
        clock.learn(&late);
        assert_eq!(clock.estimate(), before);
    }

    #[test]
    fn a_long_silence_keeps_the_speed_only() {
        let mut world = World::new(3000);
        let mut clock = GuestClock::new(3_000_000);
        for _ in 0..1000 {
            clock.learn(&world.call(2000));
            world.now_ns += 1_000_000;
        }
        let before = clock.estimate().unwrap();
        world.now_ns += 3600 * SECOND_NS;
        assert_eq!(time(&before, world.counter()), None);
        clock.learn(&world.call(2000));
        let after = clock.estimate().unwrap();
        world.check(&after);
        assert_eq!(after.drift, before.drift);
    }

    #[test]
    fn without_a_counter_nothing_is_known() {
        let mut clock = GuestClock::new(0);
        clock.learn(&World::new(1000).call(1000));
        assert_eq!(clock.estimate(), None);
    }
}
