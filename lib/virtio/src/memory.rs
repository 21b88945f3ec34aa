//! The guest's memory, as devices see it.

use vm_memory::GuestMemoryMmap;

/// The guest's memory, mapped: who has it can read and write it, and needs not know what it is made
/// of or whose it is.
pub type Ram = GuestMemoryMmap<()>;
