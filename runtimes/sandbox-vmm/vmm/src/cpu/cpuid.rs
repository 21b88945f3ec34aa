//! What a guest's CPUID instruction answers: what the host's KVM can give, cut to a named model,
//! with the topology as asked.
//!
//! Sources: Intel's Software Developer's Manual, volume 2 (CPUID); AMD's Architecture Programmer's
//! Manual, volume 3, appendix E; the x86-64 psABI for the levels; Linux's
//! `Documentation/virt/kvm/x86/cpuid.rst`.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use super::Failure;
pub use crate::client::configuration::Model;

/// The processors of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// All virtual CPUs, spare ones too.
    pub cpus: u8,
    /// How many of them share a core.
    pub threads_per_core: u8,
}

/// The most entries KVM has ever needed, with room.
const ENTRIES: usize = 256;

const SSE3: u32 = 1;
const SSSE3: u32 = 1 << 9;
const CX16: u32 = 1 << 13;
const SSE4_1: u32 = 1 << 19;
const SSE4_2: u32 = 1 << 20;
const POPCNT: u32 = 1 << 23;
const FMA: u32 = 1 << 12;
const MOVBE: u32 = 1 << 22;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const AVX: u32 = 1 << 28;
const F16C: u32 = 1 << 29;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
const BMI1: u32 = 1 << 3;
const AVX2: u32 = 1 << 5;
const BMI2: u32 = 1 << 8;
const VMX: u32 = 1 << 5;
const SMX: u32 = 1 << 6;
const SVM: u32 = 1 << 2;
const LAHF: u32 = 1;
const LZCNT: u32 = 1 << 5;

/// Leaf 1's ECX in the second level.
const V2_BASIC: u32 = SSE3 | SSSE3 | CX16 | SSE4_1 | SSE4_2 | POPCNT;
/// And in the third, with what an operating system needs to use it.
const V3_BASIC: u32 = V2_BASIC | FMA | MOVBE | XSAVE | AVX | F16C;
/// Leaf 7's EBX in the third level.
const V3_EXTENDED: u32 = BMI1 | AVX2 | BMI2;
/// What a model that is not the host's may keep of leaf 1's ECX besides: AES, PCLMUL, PCID, x2APIC,
/// RDRAND, the deadline timer, and that there is a hypervisor. No level names them, yet every host
/// of the last ten years has them.
const ALWAYS_BASIC: u32 =
    1 << 25 | 1 << 1 | 1 << 17 | 1 << 21 | 1 << 30 | TSC_DEADLINE | HYPERVISOR;
/// And of leaf 7's EBX: FSGSBASE, SMEP, ERMS, INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT, SHA.
const ALWAYS_EXTENDED: u32 =
    1 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 29;
/// And of leaf 7's ECX: UMIP, RDPID; of its EDX: MD_CLEAR, IBRS, STIBP, L1D_FLUSH, ARCH_CAPABILITIES,
/// SSBD: defences are never masked.
const ALWAYS_EXTENDED_C: u32 = 1 << 2 | 1 << 22;
const ALWAYS_EXTENDED_D: u32 = 1 << 10 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 31;

/// What all virtual CPUs answer alike.
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    topology: Topology,
}

impl Template {
    /// What the host can give, cut to the model. An error names what the host lacks for it.
    pub fn new(kvm: &Kvm, model: Model, topology: Topology) -> Result<Self, Failure> {
        let doing = "ask KVM what processor it can give";
        let mut entries = kvm
            .get_supported_cpuid(ENTRIES)
            .map_err(|why| Failure::new(doing, why))?
            .as_slice()
            .to_vec();
        restrict(&mut entries, model)?;
        Ok(Self { entries, topology })
    }

    /// The answers of the virtual CPU with this number, which is its APIC's id.
    pub fn of(&self, cpu: u8) -> Result<CpuId, Failure> {
        let mut entries = self.entries.clone();
        number(&mut entries, cpu, self.topology);
        CpuId::from_entries(&entries)
            .map_err(|why| Failure::new("set what the processor is", format!("{why:?}")))
    }
}

/// Takes away what the model does not have.
fn restrict(entries: &mut Vec<kvm_cpuid_entry2>, model: Model) -> Result<(), Failure> {
    // Counters of performance are the host's; without a leaf they don't exist.
    entries.retain(|entry| entry.function != 0xa && entry.function != 0x8000_0022);
    for entry in entries.iter_mut() {
        hide_virtualization(entry);
    }
    let (basic, extended) = match model {
        Model::Host => return Ok(()),
        Model::V2 => (V2_BASIC, 0),
        Model::V3 => (V3_BASIC, V3_EXTENDED),
    };
    for entry in entries.iter_mut() {
        match (entry.function, entry.index) {
            (1, _) => {
                needs(model, "leaf 1, ECX", entry.ecx, basic)?;
                entry.ecx &= basic | ALWAYS_BASIC;
            }
            (7, 0) => {
                needs(model, "leaf 7, EBX", entry.ebx, extended)?;
                entry.eax = 0;
                entry.ebx &= extended | ALWAYS_EXTENDED;
                entry.ecx &= ALWAYS_EXTENDED_C;
                entry.edx &= ALWAYS_EXTENDED_D;
            }
            (7, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            (0x8000_0001, _) => {
                let level = if model == Model::V3 {
                    LZCNT | LAHF
                } else {
                    LAHF
                };
                needs(model, "leaf 0x80000001, ECX", entry.ecx, level)?;
                entry.ecx &= level;
            }
            // x87, SSE and, in the third level, AVX; of XSAVE's variants the compact one.
            (0xd, 0) => {
                entry.eax &= if model == Model::V3 { 0b111 } else { 0 };
                entry.edx = 0;
                (entry.ebx, entry.ecx) = if entry.eax == 0 { (0, 0) } else { (832, 832) };
            }
            (0xd, 1) => {
                entry.eax &= if model == Model::V3 { 0b111 } else { 0 };
                (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
            }
            (0xd, 2) if model == Model::V3 => {}
            (0xd, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    Ok(())
}

/// Machines within the guest would be KVM's work on the host, in code that has had the worst of its holes,
/// and no container needs them. KVM lets a guest have the model-specific registers of what it has in CPUID:
/// those of VMX (`IA32_FEATURE_CONTROL` and from 0x480 on) and SVM (`EFER.SVME`, `VM_HSAVE_PA`) go with the
/// bits.
fn hide_virtualization(entry: &mut kvm_cpuid_entry2) {
    match entry.function {
        1 => entry.ecx &= !(VMX | SMX),
        0x8000_0001 => entry.ecx &= !SVM,
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

fn needs(model: Model, register: &str, has: u32, wanted: u32) -> Result<(), Failure> {
    match wanted & !has {
        0 => Ok(()),
        missing => Err(Failure::new(
            "give the guest the processor asked for",
            format!("this host lacks bits {missing:#x} of {register} for {model:?}"),
        )),
    }
}

/// Writes who the virtual CPU is and how it lies among the others.
fn number(entries: &mut Vec<kvm_cpuid_entry2>, cpu: u8, topology: Topology) {
    let threads = u32::from(topology.threads_per_core.max(1));
    let cpus = u32::from(topology.cpus.max(1));
    let id = u32::from(cpu);
    let bits = |count: u32| count.next_power_of_two().trailing_zeros();
    for entry in entries.iter_mut() {
        match entry.function {
            1 => {
                entry.ecx |= HYPERVISOR | TSC_DEADLINE;
                entry.ecx &= !OSXSAVE;
                entry.ebx = entry.ebx & 0xffff | cpus.next_power_of_two() << 16 | id << 24;
                match cpus {
                    1 => entry.edx &= !HTT,
                    _ => entry.edx |= HTT,
                }
            }
            // Caches: the first two levels are a core's, the others everybody's.
            4 if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level < 3 {
                    threads
                } else {
                    cpus.next_power_of_two()
                };
                let cores = (cpus / threads).max(1).next_power_of_two();
                entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14 | (cores - 1) << 26;
            }
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level < 3 { threads } else { cpus };
                entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14;
            }
            0x8000_0008 => {
                entry.ecx = entry.ecx & !0xf0ff | (cpus - 1) | bits(cpus) << 12;
            }
            0x8000_001e => {
                entry.eax = id;
                entry.ebx = (id / threads) | (threads - 1) << 8;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    // The topology's own leaves: threads of a core, then all.
    let extended = entries.iter().any(|entry| entry.function == 0x1f);
    entries.retain(|entry| entry.function != 0xb && entry.function != 0x1f);
    for function in [0xb, 0x1f].into_iter().take(1 + usize::from(extended)) {
        for (index, kind, shift, count) in [
            (0, 1, bits(threads), threads),
            (1, 2, bits(cpus.max(threads)), cpus),
            (2, 0, 0, 0),
        ] {
            entries.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: count,
                ecx: index | kind << 8,
                edx: id,
                ..Default::default()
            });
        }
    }
    for entry in entries.iter_mut() {
        if entry.function == 0 {
            entry.eax = entry.eax.max(0xb);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
            .expect("the leaf")
    }

    #[test]
    fn a_topology_is_told_alike_by_all_leaves() {
        let mut entries = vec![
            leaf(0, [0xd, 0, 0, 0]),
            leaf(1, [0, 0xff, 0, 0]),
            leaf(4, [1 << 5 | 1, 0, 0, 0]),
            leaf(0x8000_0008, [0x30, 0, 0, 0]),
        ];
        let topology = Topology {
            cpus: 6,
            threads_per_core: 2,
        };
        number(&mut entries, 5, topology);
        let basic = find(&entries, 1, 0);
        assert_eq!(basic.ebx, 0x0508_00ff);
        assert_ne!(basic.edx & HTT, 0);
        assert_eq!(find(&entries, 4, 0).eax, 1 << 5 | 1 | 1 << 14 | 3 << 26);
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx, 5 | 3 << 12);
        let [threads, all] = [0, 1].map(|index| find(&entries, 0xb, index));
        assert_eq!(
            (threads.eax, threads.ebx, threads.ecx, threads.edx),
            (1, 2, 0x100, 5)
        );
        assert_eq!((all.eax, all.ebx, all.ecx, all.edx), (3, 6, 0x201, 5));
        assert!(!entries.iter().any(|entry| entry.function == 0x1f));
    }

    #[test]
    fn no_model_can_run_machines() {
        for model in [Model::Host, Model::V2, Model::V3] {
            let mut entries = vec![
                leaf(1, [u32::MAX; 4]),
                leaf(0x8000_0001, [u32::MAX; 4]),
                leaf(0x8000_000a, [u32::MAX; 4]),
            ];
            restrict(&mut entries, model).expect("has all");
            assert_eq!(find(&entries, 1, 0).ecx & (VMX | SMX), 0, "{model:?}");
            let extended = find(&entries, 0x8000_0001, 0);
            assert_eq!(extended.ecx & SVM, 0, "{model:?}");
            let svm = find(&entries, 0x8000_000a, 0);
            assert_eq!((svm.eax, svm.ebx, svm.ecx, svm.edx), (0, 0, 0, 0));
            // Nothing else of the host's is taken away.
            if model == Model::Host {
                assert_eq!(find(&entries, 1, 0).ecx, !(VMX | SMX));
                assert_eq!(extended.ecx, !SVM);
            }
        }
    }

    #[test]
    fn a_model_masks_what_it_lacks_and_names_what_the_host_lacks() {
        let host = || {
            vec![
                leaf(1, [0, 0, u32::MAX, u32::MAX]),
                leaf(7, [0, u32::MAX, u32::MAX, u32::MAX]),
                leaf(0xd, [0b1110_0111, 2696, 2696, 0]),
            ]
        };
        let mut entries = host();
        restrict(&mut entries, Model::V2).expect("has all");
        assert_eq!(find(&entries, 1, 0).ecx & AVX, 0);
        assert_eq!(find(&entries, 7, 0).ebx & AVX2, 0);
        assert_eq!(find(&entries, 0xd, 0).eax, 0);
        let mut entries = host();
        restrict(&mut entries, Model::V3).expect("has all");
        assert_ne!(find(&entries, 7, 0).ebx & AVX2, 0);
        assert_eq!(find(&entries, 7, 0).ebx & 1 << 16, 0, "AVX-512");
        assert_eq!(find(&entries, 0xd, 0).eax, 0b111);
        let mut small = vec![leaf(1, [0, 0, V2_BASIC, 0])];
        let why = restrict(&mut small, Model::V3).expect_err("no AVX");
        assert!(why.to_string().contains("lacks bits"), "{why}");
    }
}
