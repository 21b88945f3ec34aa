//! What the init and the agent of a guest have in common: the kernel's log, where both say what goes
//! wrong, and the place of what the host shares, where both look.

pub mod kernel_log;
pub mod share;
