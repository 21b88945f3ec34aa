//! The few things of root's that the owner of other people's files must be able to do.

use crate::fuse::Outcome;

/// Give files to anybody.
const CHOWN: u32 = 0;
/// Reach all files: who may, the guest's kernel has decided. Not CAP_DAC_READ_SEARCH, which would
/// open any file of a filesystem by its handle, in a tree or not.
const DAC_OVERRIDE: u32 = 1;
/// Change the modes, times and attributes of other people's files.
const FOWNER: u32 = 3;
/// Keep set-user-id and set-group-id bits where root in the guest would; taken off and put on again.
pub const FSETID: u32 = 4;
/// Make files as a group's and as a user's: the ids are those of the guest's processes.
const SETGID: u32 = 6;
const SETUID: u32 = 7;
/// Make device nodes, as containers may. The mounts they are made on open none.
const MKNOD: u32 = 27;
/// Give programs capabilities, as packages do when they are installed.
const SETFCAP: u32 = 31;

/// Those that are kept, a bit each.
pub const KEPT: u64 = bit(CHOWN)
    | bit(DAC_OVERRIDE)
    | bit(FOWNER)
    | bit(FSETID)
    | bit(SETGID)
    | bit(SETUID)
    | bit(MKNOD)
    | bit(SETFCAP);

/// A capability's bit.
pub const fn bit(capability: u32) -> u64 {
    1 << capability
}

/// Of those that are kept, has only these for the time being.
pub fn set_effective(capabilities: u64) -> Outcome<()> {
    trefoil_jail::credentials::set_capabilities(KEPT, capabilities)
}
