//! How a machine ended.

use std::fmt;

use serde::{Deserialize, Serialize};
use trefoil_jail::Done;

/// A virtual CPU's registers when it could not go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "named as in the processor's manuals")]
pub struct Registers {
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub gdt_base: u64,
    pub idt_base: u64,
}

impl Registers {
    /// Whether they are those of a virtual CPU that has just been reset: at the reset vector, in
    /// real mode.
    pub(crate) fn are_of_reset(&self) -> bool {
        const PROTECTED: u64 = 1;
        self.rip == 0xfff0 && self.cr0 & PROTECTED == 0 && self.cr3 == 0 && self.efer == 0
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rip {:#x}, rsp {:#x}, rflags {:#x}, cr0 {:#x}, cr2 {:#x}, cr3 {:#x}, cr4 {:#x}, \
             efer {:#x}, gdt {:#x}, idt {:#x}",
            self.rip,
            self.rsp,
            self.rflags,
            self.cr0,
            self.cr2,
            self.cr3,
            self.cr4,
            self.efer,
            self.gdt_base,
            self.idt_base
        )
    }
}

/// How a machine ended.
pub type Exit = trefoil_jail::Exit<Stop>;

/// Why a guest runs no more, where the VMM goes on until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Stop {
    /// The guest, or the parent, powered the machine off.
    PoweredOff,
    /// The guest asked for a restart, which it doesn't get.
    Reset,
    /// The guest could not handle a fault.
    TripleFault {
        /// Where it was. On AMD's processors KVM has reset the virtual CPU before it tells.
        registers: Option<Registers>,
    },
}

impl Done for Stop {
    const PROCESS: &'static str = "VMM";

    fn code(&self) -> i32 {
        match self {
            Self::PoweredOff => 0,
            Self::Reset => 11,
            Self::TripleFault { .. } => 12,
        }
    }

    fn of_code(code: i32) -> Option<Self> {
        [
            Self::PoweredOff,
            Self::Reset,
            Self::TripleFault { registers: None },
        ]
        .into_iter()
        .find(|stop| stop.code() == code)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(f, "the machine was powered off"),
            Self::Reset => write!(f, "the guest asked for a restart"),
            Self::TripleFault {
                registers: Some(registers),
            } => write!(f, "the guest could not handle a fault: {registers}"),
            Self::TripleFault { registers: None } => {
                write!(f, "the guest could not handle a fault")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_leaves_nothing_to_tell() {
        let reset = Registers {
            rip: 0xfff0,
            rflags: 2,
            cr0: 0x6000_0010,
            ..Registers::default()
        };
        assert!(reset.are_of_reset());
        let paged = Registers {
            cr0: 0x8005_0033,
            ..reset
        };
        assert!(!paged.are_of_reset());
        let elsewhere = Registers { rip: 0, ..reset };
        assert!(!elsewhere.are_of_reset());
    }

    #[test]
    fn an_exit_code_says_as_much_as_it_can() {
        for (code, stop) in [
            (0, Stop::PoweredOff),
            (11, Stop::Reset),
            (12, Stop::TripleFault { registers: None }),
        ] {
            assert_eq!(stop.code(), code);
            assert_eq!(Exit::of_code(code), Some(Exit::Done(stop)));
        }
        assert_eq!(Stop::of_code(13), None);
    }
}
