//! The structures of the protocol, version 7.38 and what of later versions is used.
//! Source: `include/uapi/linux/fuse.h`; names are as there, without what they begin with.

/// A structure of fields without gaps, in the machine's byte order.
pub trait Wire: Sized {
    /// Its length in bytes.
    const SIZE: usize;
    /// Takes it off the front of `bytes`, if they are enough.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
    /// Adds it to the end of `bytes`.
    fn put(&self, bytes: &mut Vec<u8>);
}

macro_rules! number {
    ($($kind:ty)*) => { $(
        impl Wire for $kind {
            const SIZE: usize = size_of::<$kind>();
            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (first, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(<$kind>::from_ne_bytes(*first))
            }
            fn put(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_ne_bytes());
            }
        }
    )* };
}

number!(u16 u32 u64 i32);

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs, reason = "named as in the kernel's header")]
        pub struct $name { $(pub $field: $kind),* }

        impl Wire for $name {
            const SIZE: usize = 0 $(+ <$kind as Wire>::SIZE)*;
            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Wire::take(bytes)?),* })
            }
            fn put(&self, bytes: &mut Vec<u8>) {
                $(self.$field.put(bytes);)*
            }
        }
    )* };
}

wire! {
    /// What each request begins with.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    /// What each answer begins with.
    OutHeader { len: u32, error: i32, unique: u64 }
    /// What is known of a file.
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32,
        mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        blksize: u32, flags: u32,
    }
    /// A file that was looked up.
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: Attr,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    ForgetIn { nlookup: u64 }
    ForgetOne { nodeid: u64, nlookup: u64 }
    BatchForgetIn { count: u32, dummy: u32 }
    GetattrIn { getattr_flags: u32, dummy: u32, fh: u64 }
    StatxIn { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    SxTime { tv_sec: u64, tv_nsec: u32, reserved: u32 }
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16,
        spare0: u16, ino: u64, size: u64, blocks: u64, attributes_mask: u64, atime: SxTime,
        btime: SxTime, ctime: SxTime, mtime: SxTime, rdev_major: u32, rdev_minor: u32,
        dev_major: u32, dev_minor: u32, spare2: Spare<28>,
    }
    StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: Spare<4>, stat: Statx }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { newdir: u64 }
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    LinkIn { oldnodeid: u64 }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64,
        ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32,
        uid: u32, gid: u32, unused5: u32,
    }
    OpenIn { flags: u32, open_flags: u32 }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    OpenOut { fh: u64, open_flags: u32, padding: u32 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    ReadIn {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteIn {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    WriteOut { size: u32, padding: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32,
        frsize: u32, padding: u32, spare: Spare<6>,
    }
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    /// A lock from `start` to `end`, that one included, of an owner.
    LkIn {
        fh: u64, owner: u64, start: u64, end: u64, kind: u32, pid: u32, lk_flags: u32, padding: u32,
    }
    LkOut { start: u64, end: u64, kind: u32, pid: u32 }
    InterruptIn { unique: u64 }
    SetxattrIn { size: u32, flags: u32, setxattr_flags: u32, padding: u32 }
    GetxattrIn { size: u32, padding: u32 }
    GetxattrOut { size: u32, padding: u32 }
    /// What a session begins with. Guests of before 7.36 send no `flags2`, and are refused.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: Spare<11> }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, unused: Spare<7>,
    }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    LseekOut { offset: u64 }
    CopyFileRangeIn {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
    /// What each name in a directory begins with.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
}

/// Fields that mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spare<const FIELDS: usize>;

impl<const FIELDS: usize> Wire for Spare<FIELDS> {
    const SIZE: usize = 4 * FIELDS;
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        *bytes = bytes.get(Self::SIZE..)?;
        Some(Self)
    }
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.resize(bytes.len() + Self::SIZE, 0);
    }
}

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What is asked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "named as in the kernel's header")]
        pub enum Opcode { $($name = $number),* }

        impl Opcode {
            /// All that are served.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// By its number.
            pub fn new(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

// What is not here is not served, and the kernel then does without: ioctl, poll, bmap; DAX's mappings.
opcodes! {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Flush = 25,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Getlk = 31,
    Setlk = 32,
    Setlkw = 33,
    Create = 35,
    Interrupt = 36,
    Destroy = 38,
    BatchForget = 42,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    Syncfs = 50,
    Tmpfile = 51,
    Statx = 52,
}

/// Flags of [`InitIn`] and [`InitOut`].
#[allow(missing_docs, reason = "named as in the kernel's header")]
pub mod init {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const POSIX_LOCKS: u32 = 1 << 1;
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const DONT_MASK: u32 = 1 << 6;
    pub const FLOCK_LOCKS: u32 = 1 << 10;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const POSIX_ACL: u32 = 1 << 20;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    pub const SUBMOUNTS: u32 = 1 << 27;
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
    pub const SETXATTR_EXT: u32 = 1 << 29;
    pub const INIT_EXT: u32 = 1 << 30;
}

/// Flags of [`SetattrIn::valid`].
#[allow(missing_docs, reason = "named as in the kernel's header")]
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// In [`OpenIn::open_flags`] and [`CreateIn::open_flags`]: take the set-user-id bits away.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// In [`OpenOut::open_flags`]: neither cache the file nor believe its size.
pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// In [`OpenOut::open_flags`]: keep what is cached of the file.
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// In [`OpenOut::open_flags`]: cache the directory's names.
pub const FOPEN_CACHE_DIR: u32 = 1 << 3;
/// In [`OpenOut::open_flags`]: don't tell of each close.
pub const FOPEN_NOFLUSH: u32 = 1 << 5;
/// In [`WriteIn::write_flags`]: of the guest's cache, not of one writer.
pub const WRITE_CACHE: u32 = 1 << 0;
/// In [`WriteIn::write_flags`]: take the set-user-id bits away.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// In [`FsyncIn::fsync_flags`]: the content alone.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// In [`LkIn::lk_flags`]: of what was opened, not of an owner.
pub const LK_FLOCK: u32 = 1 << 0;
/// In [`GetattrIn::getattr_flags`]: by its handle.
pub const GETATTR_FH: u32 = 1 << 0;
/// In [`Attr::flags`]: another mount begins here.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;
/// In [`SetxattrIn::setxattr_flags`]: take the set-group-id bit away.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        for (ours, kernels) in [
            (InHeader::SIZE, 40),
            (OutHeader::SIZE, 16),
            (Attr::SIZE, 88),
            (EntryOut::SIZE, 128),
            (AttrOut::SIZE, 104),
            (SetattrIn::SIZE, 88),
            (ReadIn::SIZE, 40),
            (WriteIn::SIZE, 40),
            (StatfsOut::SIZE, 80),
            (InitIn::SIZE, 64),
            (InitOut::SIZE, 64),
            (CopyFileRangeIn::SIZE, 56),
            (LkIn::SIZE, 48),
            (LkOut::SIZE, 24),
            (Dirent::SIZE, 24),
        ] {
            assert_eq!(ours, kernels);
        }
    }

    #[test]
    fn what_is_put_can_be_taken() {
        let before = Rename2In {
            newdir: 7,
            flags: 2,
            padding: 0,
        };
        let mut bytes = Vec::new();
        before.put(&mut bytes);
        bytes.push(9);
        let mut left = bytes.as_slice();
        assert_eq!(Rename2In::take(&mut left), Some(before));
        assert_eq!(left, [9]);
        assert_eq!(u16::take(&mut left), None);
    }
}
