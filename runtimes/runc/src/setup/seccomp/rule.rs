//! What a profile says of one system call.

use libseccomp::ScmpAction;
use oci_spec::runtime::LinuxSeccompArg;

/// What becomes of a call, for libseccomp and as the value that a filter returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Action {
    /// As libseccomp calls it.
    pub(super) library: ScmpAction,
    /// As the filter returns it.
    pub(super) returned: u32,
    /// Whether the call goes on, so that the kernel itself answers for calls it does not know.
    pub(super) is_permissive: bool,
}

/// One name of the profile with what it says of it. Any of `alternatives` suffices, in which all
/// conditions must hold; with no alternatives the rule always holds.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) name: &'a str,
    pub(super) action: Action,
    pub(super) alternatives: Vec<&'a [LinuxSeccompArg]>,
}
