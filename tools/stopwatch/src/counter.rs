// SPDX-License-Identifier: MIT OR Apache-2.0

//! The CPU: its counter, and what it says of itself.

use std::arch::asm;

/// The CPU's counter, read after all loads before it. No load after it is moved
/// before it but by the CPU, which takes no interrupt and no exit in between then.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn counter() -> u64 {
    let (low, high): (u32, u32);
    // Not `_rdtsc()`: around that the compiler may move loads.
    // SAFETY: every x86-64 CPU has both instructions; they touch no memory.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    (u64::from(high) << 32) | u64::from(low)
}

/// Registers EAX to EDX of CPUID, if the CPU knows the leaf.
#[cfg(target_arch = "x86_64")]
pub(crate) fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    use std::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 CPU has the instruction, and it knows a leaf that is
    // not above what the first one of its range says.
    unsafe {
        (__cpuid(leaf & 0xffff_0000).eax >= leaf).then(|| {
            let registers = __cpuid(leaf);
            [registers.eax, registers.ebx, registers.ecx, registers.edx]
        })
    }
}
