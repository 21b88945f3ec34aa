//! What the parent and the server say to each other.
//!
//! First, over the control socket of a jailed process, who the server is to be ([`Launch`]), with two
//! descriptors: the connection to the front end, and another socket for packets. Over that one, each a
//! packet, what is to be shared and what no more ([`Change`]); the server answers each with [`DONE`].

use serde::{Deserialize, Serialize};

use crate::exit::HungUp;
use crate::tree::Shown;

/// What the server says over the control socket. It answers nothing there.
pub type Message = trefoil_jail::Message<(), HungUp>;

/// Who the server is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Launch {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// How many files it may hold open for the guest.
    pub files: u32,
    /// Of which closes the guest's kernel tells.
    pub flush: Flush,
}

/// Of which closes of a file the guest's kernel is to tell, by FLUSH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flush {
    /// Of each, where the file was opened to be written: Linux tells of all or of none.
    #[default]
    EachClose,
    /// Of those of files that somebody has locked, whatever it is asked for: `guest/kernel/flush.patch`.
    WhereLocked,
}

/// A name in the root of what is shared, or, as `filesystem/name`, in a directory of the root that
/// stands for a filesystem: it is there as long as it has trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Change {
    /// It will be a tree.
    Add(String, Shown),
    /// It is one no more.
    Remove(String),
    /// Whether what is asked of a filesystem that hangs is answered with an error, instead of waiting for it.
    Hurry(bool),
}

/// The most bytes of a change.
pub const MOST_BYTES: usize = 512;

/// The answer to a change.
pub const DONE: &[u8] = b"done";
