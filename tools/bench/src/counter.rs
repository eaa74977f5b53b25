// SPDX-License-Identifier: MIT OR Apache-2.0

//! The CPU's counter, which every duration here is measured with: no system
//! call, and under KVM no exit.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// The counter, read after all that came before and before all that comes after.
pub fn now() -> u64 {
    // SAFETY: x86-64 has SSE2 and a counter that programs may read.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Ticks in a nanosecond, by the kernel's clock.
pub fn ticks_per_ns() -> f64 {
    const WINDOW: Duration = Duration::from_millis(100);
    let (begin, from) = (Instant::now(), now());
    while begin.elapsed() < WINDOW {
        std::hint::spin_loop();
    }
    let (to, elapsed) = (now(), begin.elapsed());
    (to - from) as f64 / elapsed.as_nanos() as f64
}
