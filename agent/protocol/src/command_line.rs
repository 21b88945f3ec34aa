//! What a guest's kernel is told by its command line, whoever boots it.

/// The command line that a guest is booted with. Without a console: see [`CONSOLE`].
pub const COMMAND_LINE: &str = concat!(
    // A restart is a command to the keyboard controller: our VMM tells it from a triple fault,
    // which is a defect.
    "reboot=k",
    // No probing for a serial port that isn't there, and no log printed to one that is.
    " 8250.nr_uarts=0",
    // Waits for a grace period (whenever a mount, a namespace or a cgroup goes) take microseconds
    // instead of ticks.
    " rcupdate.rcu_expedited=1",
    // A guest that starts with one processor may get more: rewriting every locked instruction for
    // one alone costs millions of instructions, and again when the second comes.
    " noreplace-smp",
    // No dummy0, ifb0, gre0 or sit0 in every pod's network; the drivers are there for whoever adds one.
    " dummy.numdummies=0 ifb.numifbs=0 fb_tunnels=none",
);

/// What to append to [`COMMAND_LINE`] where the VMM has no keyboard controller: a restart is a
/// triple fault, which every VMM sees.
pub const TRIPLE_FAULT: &str = " reboot=t";

/// What to append to [`COMMAND_LINE`] where the VMM gives a serial port.
pub const CONSOLE: &str = " 8250.nr_uarts=1 console=ttyS0";

/// What to append to [`COMMAND_LINE`] for a kernel that knows PCI, which no machine of ours has: it would look
/// for it at the host's ports.
pub const NO_PCI: &str = " pci=off";

/// The word that says what protects a confidential guest: `simulated`, `snp` or `tdx` behind it. It is
/// measured, as all of the command line is.
pub const TEE: &str = "trefoil.tee=";

/// The word that stands in for the registers of a report where the TEE is simulated: behind it the launch
/// digest and the digest of the initdata, as hexadecimal digits with a comma between them. No TEE measures it, and
/// nothing protects it.
pub const SIMULATED_REPORT: &str = "trefoil.simulated=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_words_with_one_space_between() {
        let whole = format!("{COMMAND_LINE}{CONSOLE}");
        assert!(whole.split(' ').all(|word| !word.is_empty()));
        assert!([CONSOLE, NO_PCI].iter().all(|word| word.starts_with(' ')));
    }
}
