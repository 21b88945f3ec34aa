//! What a request is about, as far as that can be told before it is done.

use std::ffi::CStr;

use super::inodes::Inode;
use super::tables::{Files, Tables};
use super::trees::{Belongs, Names, Top};
use crate::fuse::request::Request;
use crate::fuse::wire::{Opcode, ReadIn, WriteIn};

/// Who may hang while a request is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// Nobody: only tables are looked at, or the root.
    None,
    /// The beginning of a tree, by its number.
    Tree(u32),
    /// A filesystem, by its number.
    Filesystem(u64),
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request's number.
    pub unique: u64,
    /// The file's number.
    pub node: u64,
    /// What is asked for, if it is known.
    pub opcode: Option<Opcode>,
    /// Of which tree; 0 is the root, or none.
    pub tree: u32,
    /// Who may hang.
    pub domain: Domain,
    /// A server or a daemon answers for the filesystem, so that it can take for ever.
    pub remote: bool,
    /// It can be answered before it is done: whoever does it does not touch the guest's memory any more.
    pub early: bool,
}

impl Asked {
    /// Whether it can't be done any more, now that a tree is gone.
    pub fn is_lost(&self, tree: u32, files: &Files) -> bool {
        if self.domain == Domain::Tree(tree) {
            return true;
        }
        let is_open = |node| files.locked().inodes.get(node).is_ok_and(Inode::is_open);
        self.tree == tree && !is_open(self.node)
    }
}

/// Looks at a request.
pub fn about(request: Request<'_>, tables: &Tables) -> Asked {
    let opcode = Opcode::new(request.header.opcode);
    let (tree, domain) = place(opcode, request, tables);
    let kind = match domain {
        Domain::Filesystem(device) => tables.kinds.known(device),
        _ => None,
    };
    Asked {
        unique: request.header.unique,
        node: request.header.nodeid,
        opcode,
        tree,
        domain,
        // What is at the beginning of a tree is found out by looking.
        remote: matches!(domain, Domain::Tree(_)) || kind.is_some_and(|kind| !kind.local),
        early: is_early(opcode, request, tables),
    }
}

fn place(opcode: Option<Opcode>, mut request: Request<'_>, tables: &Tables) -> (u32, Domain) {
    let node = request.header.nodeid;
    match opcode {
        None
        | Some(
            Opcode::Init
            | Opcode::Destroy
            | Opcode::Forget
            | Opcode::BatchForget
            | Opcode::Interrupt,
        ) => (0, Domain::None),
        Some(opcode) => {
            let Ok(inode) = tables.inodes.get(node) else {
                return (0, Domain::None);
            };
            match (inode.names, inode.belongs()) {
                (Names::Files, Ok(belongs)) => {
                    let domain = Domain::Filesystem(inode.key.device);
                    (belongs.tree, domain)
                }
                (Names::Files, Err(_)) => (0, Domain::None),
                (top, _) if opcode == Opcode::Lookup => {
                    let name = request.name().map(CStr::to_bytes).unwrap_or_default();
                    match tables.trees.find(top, name) {
                        Ok(Top::Tree(Belongs { tree, .. })) => (tree, Domain::Tree(tree)),
                        _ => (0, Domain::None),
                    }
                }
                _ => (0, Domain::None),
            }
        }
    }
}

/// Only content goes between file and guest, and not that of each file.
fn is_early(opcode: Option<Opcode>, mut request: Request<'_>, tables: &Tables) -> bool {
    let fh = match opcode {
        Some(Opcode::Read) => request.take().map(|ReadIn { fh, .. }| fh),
        Some(Opcode::Write) => request.take().map(|WriteIn { fh, .. }| fh),
        _ => return true,
    };
    let handle = fh.ok().and_then(|fh| tables.handles.get(fh));
    handle.is_none_or(|handle| handle.kind.apart())
}
