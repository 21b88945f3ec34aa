//! Making names, changing and removing them.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags, readlinkat, renameat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::inodes::Known;
use super::{Passthrough, place};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{LinkIn, MkdirIn, MknodIn, Rename2In, RenameIn, Wire};

/// Of the permissions and set-id bits. What a user may not set, the guest's kernel has taken away.
pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

impl Passthrough {
    /// Answers with what was just made.
    pub(super) fn say_entry(&mut self, above: &Known, name: &CStr) -> Outcome<Answer> {
        self.entry(above, name)?.put(&mut self.said);
        Ok(Answer::Said)
    }

    /// New files are the asking user's.
    pub(super) fn create_as(&mut self, request: &Request<'_>, umask: u32) -> Outcome<()> {
        self.credentials.clear_suid(false)?;
        let header = request.header;
        self.credentials.create_as(header.uid, header.gid, umask)
    }

    pub(super) fn readlink(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let inode = self.inode(request.header.nodeid)?;
        if inode.kind != libc::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        let target = readlinkat(inode.file, c"")?;
        self.said.extend(target.as_bytes());
        Ok(Answer::Said)
    }

    pub(super) fn symlink(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let (name, target) = (request.name()?, request.text()?);
        self.check_room()?;
        self.create_as(request, 0)?;
        let above = self.inode(request.header.nodeid)?;
        symlinkat(target, &above.file, name)?;
        self.say_entry(&above, name)
    }

    pub(super) fn mknod(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let MknodIn {
            mode, rdev, umask, ..
        } = request.take()?;
        let name = request.name()?;
        let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
        self.check_room()?;
        self.create_as(request, umask)?;
        let above = self.inode(request.header.nodeid)?;
        mknodat(&above.file, name, kind, permissions(mode), rdev.into())?;
        self.say_entry(&above, name)
    }

    pub(super) fn mkdir(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let MkdirIn { mode, umask } = request.take()?;
        let name = request.name()?;
        self.check_room()?;
        self.create_as(request, umask)?;
        let above = self.inode(request.header.nodeid)?;
        mkdirat(&above.file, name, permissions(mode))?;
        self.say_entry(&above, name)
    }

    pub(super) fn unlink(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        self.remove_name(request, UnlinkatFlags::NoRemoveDir)
    }

    pub(super) fn rmdir(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        self.remove_name(request, UnlinkatFlags::RemoveDir)
    }

    fn remove_name(&mut self, request: &mut Request<'_>, how: UnlinkatFlags) -> Outcome<Answer> {
        let name = request.name()?;
        unlinkat(self.inode(request.header.nodeid)?.file, name, how)?;
        Ok(Answer::Said)
    }

    pub(super) fn rename(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let RenameIn { newdir } = request.take()?;
        self.change_name(request, newdir, RenameFlags::empty())
    }

    pub(super) fn rename2(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let Rename2In { newdir, flags, .. } = request.take()?;
        // A whiteout is a device without a number, which mknod(2) makes for anybody.
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        self.change_name(request, newdir, flags)
    }

    fn change_name(
        &mut self,
        request: &mut Request<'_>,
        newdir: u64,
        flags: RenameFlags,
    ) -> Outcome<Answer> {
        let (name, new) = (request.name()?, request.name()?);
        let (from, to) = self.both(request.header.nodeid, newdir)?;
        renameat2(from, name, to, new, flags)?;
        Ok(Answer::Said)
    }

    pub(super) fn link(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let LinkIn { oldnodeid } = request.take()?;
        let name = request.name()?;
        let parent = request.header.nodeid;
        let (old, directory) = self.both(oldnodeid, parent)?;
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, &*place(old.as_fd()), directory, name, follow)?;
        let above = self.inode(parent)?;
        self.say_entry(&above, name)
    }

    /// Two files by one tree. Both are of one mount of the guest's, so that there is one: if it is not
    /// known of both yet, the guest is to look them up again.
    fn both(&self, one: u64, other: u64) -> Outcome<(Arc<OwnedFd>, Arc<OwnedFd>)> {
        let tables = self.tables();
        let (one, other) = (tables.inodes.get(one)?, tables.inodes.get(other)?);
        one.with(other).ok_or_else(|| {
            let filesystems = [one.belongs(), other.belongs()].map(|of| of.map(|by| by.filesystem));
            match filesystems {
                [Ok(one), Ok(other)] if one != other || one == 0 => Errno::EXDEV,
                _ => Errno::ESTALE,
            }
        })
    }
}
