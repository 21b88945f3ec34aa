//! What a path of a hostile root can be.

use std::path::Path;

use crate::canary::{DEVICES, DOOR, EMPTY, FILE, FULL};

/// Links to descriptors are to those below this number.
pub const DESCRIPTORS: u64 = 16;

/// What lies at a path. A link's target is in the words of [`Kind::target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    LinkToDirectory,
    LinkToEmptyDirectory,
    LinkToDevices,
    LinkToFile,
    LinkToTheSameName,
    LinkWithASlash,
    LinkWithManySlashes,
    RelativeLinkToDirectory,
    RelativeLinkToFile,
    DanglingLink,
    DanglingDeepLink,
    LongLink,
    LinkToItself,
    LoopOfTwo,
    ChainOf30,
    ChainOf45,
    SelfRoot,
    ThreadSelfRoot,
    InitRoot,
    SelfDescriptor,
    BelowADescriptor,
    SelfCwd,
    BelowCwd,
    SelfExe,
    SelfNamespace,
    LinkToRoot,
    LinkUpwards,
    LinkInside,
    DanglingInside,
    LinkToProc,
    LinkToSys,
    HardLink,
    CharacterDevice,
    EndlessDevice,
    TerminalDevice,
    BlockDevice,
    Fifo,
    Socket,
    Whiteout,
    File,
    EmptyFile,
    HugeFile,
    SetuidFile,
    EmptyDirectory,
    FullDirectory,
    DirectoryOfLinks,
    DirectoryOfOddNames,
    ReadOnlyDirectory,
    ClosedDirectory,
    Missing,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::LinkToDirectory,
        Self::LinkToEmptyDirectory,
        Self::LinkToDevices,
        Self::LinkToFile,
        Self::LinkToTheSameName,
        Self::LinkWithASlash,
        Self::LinkWithManySlashes,
        Self::RelativeLinkToDirectory,
        Self::RelativeLinkToFile,
        Self::DanglingLink,
        Self::DanglingDeepLink,
        Self::LongLink,
        Self::LinkToItself,
        Self::LoopOfTwo,
        Self::ChainOf30,
        Self::ChainOf45,
        Self::SelfRoot,
        Self::ThreadSelfRoot,
        Self::InitRoot,
        Self::SelfDescriptor,
        Self::BelowADescriptor,
        Self::SelfCwd,
        Self::BelowCwd,
        Self::SelfExe,
        Self::SelfNamespace,
        Self::LinkToRoot,
        Self::LinkUpwards,
        Self::LinkInside,
        Self::DanglingInside,
        Self::LinkToProc,
        Self::LinkToSys,
        Self::HardLink,
        Self::CharacterDevice,
        Self::EndlessDevice,
        Self::TerminalDevice,
        Self::BlockDevice,
        Self::Fifo,
        Self::Socket,
        Self::Whiteout,
        Self::File,
        Self::EmptyFile,
        Self::HugeFile,
        Self::SetuidFile,
        Self::EmptyDirectory,
        Self::FullDirectory,
        Self::DirectoryOfLinks,
        Self::DirectoryOfOddNames,
        Self::ReadOnlyDirectory,
        Self::ClosedDirectory,
        Self::Missing,
    ];

    /// Where it leads, if it is a link on its own: `path` is its own, `canary` where the canary is, and
    /// `number` tells links of a kind apart.
    pub fn target(self, path: &str, canary: &Path, number: u64) -> Option<Vec<u8>> {
        let door = format!("{}/{DOOR}", canary.display());
        let name = path.rsplit('/').next().unwrap_or_default();
        // More steps up than any path here is deep: at the root they lead nowhere.
        let up = "../".repeat(24);
        let below = door.trim_start_matches('/');
        let descriptor = number % DESCRIPTORS;
        let target = match self {
            Self::LinkToDirectory => format!("{door}/{FULL}"),
            Self::LinkToEmptyDirectory => format!("{door}/{EMPTY}"),
            Self::LinkToDevices => format!("{door}/{DEVICES}"),
            Self::LinkToFile => format!("{door}/{FILE}"),
            Self::LinkToTheSameName => format!("{door}/{FULL}/{name}"),
            Self::LinkWithASlash => format!("{door}/{FULL}/"),
            Self::LinkWithManySlashes => format!("///{}//.///{FULL}///.", door.replace('/', "//")),
            Self::RelativeLinkToDirectory => format!("{up}{below}/{FULL}"),
            Self::RelativeLinkToFile => format!("{up}{below}/{FILE}"),
            Self::DanglingLink => format!("{door}/{EMPTY}/missing"),
            Self::DanglingDeepLink => format!("{door}/{EMPTY}/missing/a/b"),
            Self::LongLink => long(&format!("{door}/{FULL}")),
            Self::LinkToItself => path.to_owned(),
            Self::SelfRoot => format!("/proc/self/root{door}/{FULL}"),
            Self::ThreadSelfRoot => format!("/proc/thread-self/root{door}/{FULL}"),
            Self::InitRoot => format!("/proc/1/root{door}/{FULL}"),
            Self::SelfDescriptor => format!("/proc/self/fd/{descriptor}"),
            Self::BelowADescriptor => format!("/proc/self/fd/{descriptor}/{up}{below}/{FULL}"),
            Self::SelfCwd => "/proc/self/cwd".to_owned(),
            Self::BelowCwd => format!("/proc/self/cwd/{up}{below}/{FULL}"),
            Self::SelfExe => "/proc/self/exe".to_owned(),
            Self::SelfNamespace => "/proc/self/ns/mnt".to_owned(),
            Self::LinkToRoot => "/".to_owned(),
            Self::LinkUpwards => "..".to_owned(),
            Self::LinkInside => "/inside/rooms".to_owned(),
            Self::DanglingInside => "../inside/not/yet".to_owned(),
            Self::LinkToProc => "/proc".to_owned(),
            Self::LinkToSys => "/sys".to_owned(),
            _ => return None,
        };
        Some(target.into_bytes())
    }
}

/// As long as a link's target can be, and the same.
fn long(target: &str) -> String {
    const MOST: usize = 4095;
    let mut long = "/.".repeat((MOST - target.len()) / 2);
    long.push_str(target);
    long
}
