// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the CPU says of its counter, and the hypervisor of itself.

use serde::Serialize;

use crate::counter::cpuid;

/// What CPUID says that matters to the reading of clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The counter runs at one rate whatever the CPU does ("invariant TSC").
    pub invariant_counter: bool,
    /// How the hypervisor signs itself: `KVMKVMKVM`.
    pub hypervisor: Option<String>,
    /// The hypervisor, KVM, tells the time that it took from the vCPUs.
    pub steal_time: bool,
}

impl Cpu {
    /// Asks the CPU.
    pub fn ask() -> Self {
        /// In leaf 1, ECX: there is a hypervisor, and its leaves.
        const HYPERVISOR: u32 = 1 << 31;
        /// In leaf 0x80000007, EDX.
        const INVARIANT_TSC: u32 = 1 << 8;
        /// In KVM's leaf 0x40000001, EAX.
        const KVM_FEATURE_STEAL_TIME: u32 = 1 << 5;

        let bit = |leaf, register: usize, mask| {
            cpuid(leaf).is_some_and(|registers| registers[register] & mask != 0)
        };
        let hypervisor = bit(1, 2, HYPERVISOR)
            .then(|| cpuid(0x4000_0000))
            .flatten()
            .map(|[_, signature @ ..]| {
                let bytes: Vec<u8> = signature.into_iter().flat_map(u32::to_le_bytes).collect();
                let text = String::from_utf8_lossy(&bytes);
                text.trim_end_matches('\0').to_owned()
            });
        let mut cpu = Self {
            invariant_counter: bit(0x8000_0007, 3, INVARIANT_TSC),
            steal_time: false,
            hypervisor,
        };
        cpu.steal_time = cpu.is_kvm() && bit(0x4000_0001, 0, KVM_FEATURE_STEAL_TIME);
        cpu
    }

    /// Whether the hypervisor is KVM, under which the counter goes on while the VM is paused.
    pub fn is_kvm(&self) -> bool {
        self.hypervisor.as_deref() == Some("KVMKVMKVM")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_kernel_says() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |flag| cpuinfo.split_whitespace().any(|word| word == flag);
        let cpu = Cpu::ask();
        assert_eq!(cpu.hypervisor.is_some(), has("hypervisor"));
        if has("nonstop_tsc") {
            assert!(cpu.invariant_counter);
        }
    }
}
