// SPDX-License-Identifier: GPL-2.0

//! The CPU's counter, from which time can be told without asking anybody: on x86 the TSC.

/// The counter now, not before what the program did earlier. Usable in any context.
#[cfg(CONFIG_X86)]
#[inline]
pub(crate) fn now() -> u64 {
    let low: u32;
    let high: u32;

    // SAFETY: It reads the TSC, which every 64-bit CPU has, and waits for earlier loads.
    unsafe {
        core::arch::asm!(
            "lfence",
            "rdtsc",
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        )
    };
    u64::from(high) << 32 | u64::from(low)
}

/// A mark for who counts instructions from outside the machine: does nothing, with `number` in rax.
/// What it is for is in `tools/bench/instructions.c`. Usable in any context.
#[cfg(CONFIG_X86)]
#[inline]
pub(crate) fn mark(number: u64) {
    // SAFETY: It is `nopl 0x504f5453(%rax)`, which accesses neither registers nor memory.
    unsafe {
        core::arch::asm!(
            ".byte 0x0f, 0x1f, 0x80, 0x53, 0x54, 0x4f, 0x50",
            in("rax") number,
            options(nostack, preserves_flags),
        )
    };
}

/// How fast the counter is, in kHz, about; 0 if this kernel has found out by now that it is not the
/// same on all CPUs or at all times. Usable in any context.
#[cfg(CONFIG_X86)]
#[inline]
pub(crate) fn khz() -> u32 {
    use kernel::bindings;

    // SAFETY: It has no requirements.
    if unsafe { bindings::check_tsc_unstable() } != 0 {
        return 0;
    }
    // SAFETY: It is a static of the kernel's, which writes it as one word when it has measured the
    // counter better.
    unsafe { (&raw const bindings::tsc_khz).read_volatile() }
}

/// There is no counter that this kernel crate knows how to read.
#[cfg(not(CONFIG_X86))]
pub(crate) fn now() -> u64 {
    0
}

/// Nobody counts.
#[cfg(not(CONFIG_X86))]
pub(crate) fn mark(_number: u64) {}

/// There is no counter.
#[cfg(not(CONFIG_X86))]
pub(crate) fn khz() -> u32 {
    0
}
