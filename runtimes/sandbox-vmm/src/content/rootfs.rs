//! What a root filesystem is made of, told from the snapshotter's mounts.
//!
//! A directory or an overlay of directories is shared. An image or a block device is a disk of the
//! guest's, whose kernel alone reads what is on it: the image is the pod's, and not trusted. So it is
//! with what these snapshotters of containerd's make:
//!
//! | snapshotter | mounts |
//! |---|---|
//! | overlayfs, native | one: an overlay or a directory |
//! | devmapper, blockfile | one: ext4 or xfs, of a device or a file |
//! | erofs with `default_size` | ext4 for what is written, EROFS for each layer, an overlay that names them by number |
//! | erofs without | the same, but a directory for what is written |
//!
//! The last is shared, too, as an overlay that the host makes: what is written is to be in that directory
//! as the host's overlay would have it there, and a guest can't do that through shared files. All else is
//! refused, by the type of the mount.

use std::path::{Path, PathBuf};

use trefoil_agent_protocol::service::Filesystem;
use trefoil_core::{Error, ErrorKind, Mount, Result};
use trefoil_files::tree::{Changes, Source, Tree};

/// What containerd is told that we make of mounts ourselves, in the runtime's description: without it
/// containerd mounts layers on the host, and hands us an overlay of directories.
pub const ROOTFS_MOUNTS: &str = "erofs,format/*,mkdir/*";

/// The option by which containerd says that there is a dm-verity tree behind an image.
const HASH_TREE: &str = "X-containerd.dmverity=";

/// Where a root filesystem comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rootfs {
    /// The host's directories.
    Shared(Tree),
    /// Disks.
    Disks(Images),
}

/// What is on disks; at least one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Images {
    /// What is only read, the uppermost first.
    pub layers: Option<Image>,
    /// What is written.
    pub writable: Option<Image>,
}

/// Filesystems of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Which.
    pub filesystem: Filesystem,
    /// The files or block devices that hold one each.
    pub paths: Vec<PathBuf>,
}

/// Tells a container's root from its mounts. Without any, it is ready in the bundle.
///
/// # Errors
/// [`ErrorKind::Unimplemented`] for what no guest can have.
pub(crate) fn of(mounts: &[Mount], bundle: &Path) -> Result<Rootfs> {
    Ok(match mounts {
        [] => Rootfs::Shared(Tree {
            source: Source::Path {
                path: bundle.join("rootfs"),
                submounts: true,
            },
            read_only: false,
            changes: Changes::Anybody,
        }),
        [mount] if filesystem(&mount.kind).is_some() => {
            let (image, read_only) = image(mount)?;
            Rootfs::Disks(match read_only {
                true => Images {
                    layers: Some(image),
                    writable: None,
                },
                false => Images {
                    layers: None,
                    writable: Some(image),
                },
            })
        }
        [mount] => Rootfs::Shared(Tree {
            source: Source::Mount(mount.clone()),
            read_only: false,
            changes: Changes::GuestOnly,
        }),
        [images @ .., overlay] => stack(images, overlay)?,
    })
}

fn filesystem(kind: &str) -> Option<Filesystem> {
    match kind {
        "erofs" => Some(Filesystem::EROFS),
        "ext4" => Some(Filesystem::EXT4),
        "xfs" => Some(Filesystem::XFS),
        _ => None,
    }
}

fn refused(mount: &Mount, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unimplemented,
        format!(
            "a root filesystem with a mount of type {} can't be had in a guest: {why}",
            mount.kind
        ),
    )
}

/// One filesystem, and whether it is only read.
fn image(mount: &Mount) -> Result<(Image, bool)> {
    let Some(filesystem) = filesystem(&mount.kind) else {
        return Err(refused(mount, "it is none of erofs, ext4 and xfs"));
    };
    if !mount.target.trim_matches('/').is_empty() {
        return Err(refused(mount, format!("it is at {}", mount.target)));
    }
    let path = PathBuf::from(&mount.source);
    if !path.is_absolute() {
        return Err(refused(mount, format!("{:?} is no path", mount.source)));
    }
    let mut read_only = filesystem == Filesystem::EROFS;
    for option in &mount.options {
        match option.as_str() {
            // A disk is what a loop device is.
            "loop" | "rw" => {}
            "ro" => read_only = true,
            // It always is, in the guest.
            "nouuid" if filesystem == Filesystem::XFS => {}
            // A hash tree that is for another who reads it: behind the filesystem, it is no part of it.
            tree if filesystem == Filesystem::EROFS && tree.starts_with(HASH_TREE) => {}
            other => return Err(refused(mount, format!("it has the option {other}"))),
        }
    }
    let image = Image {
        filesystem,
        paths: vec![path],
    };
    Ok((image, read_only))
}

/// An overlay of filesystems: perhaps one that is written, then those that are read.
fn stack(images: &[Mount], overlay: &Mount) -> Result<Rootfs> {
    let mut writable = None;
    let mut layers: Option<Image> = None;
    for (number, mount) in images.iter().enumerate() {
        let (image, read_only) = image(mount)?;
        match (&mut layers, read_only) {
            (_, false) if number == 0 => writable = Some(image),
            (_, false) => return Err(refused(mount, "it can be written, and is not the first")),
            (None, true) => layers = Some(image),
            (Some(layers), true) if layers.filesystem == image.filesystem => {
                layers.paths.extend(image.paths);
            }
            (Some(_), true) => return Err(refused(mount, "the layers below are of another")),
        }
    }
    let Some(layers) = layers else {
        return Err(refused(overlay, "it has no layers"));
    };
    let first = usize::from(writable.is_some());
    Ok(match directories(overlay, first, layers.paths.len())? {
        Some(_) if layers.filesystem != Filesystem::EROFS => {
            return Err(refused(overlay, "its layers are not erofs"));
        }
        Some(Directories { upper, work }) => Rootfs::Shared(Tree {
            source: Source::Layers {
                layers: images.iter().map(without_hash_tree).collect(),
                upper,
                work,
            },
            read_only: false,
            changes: Changes::GuestOnly,
        }),
        None => Rootfs::Disks(Images {
            layers: Some(layers),
            writable,
        }),
    })
}

/// The mount as the kernel takes it.
fn without_hash_tree(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    mount
        .options
        .retain(|option| !option.starts_with(HASH_TREE));
    mount
}

/// The host's directories that what is written goes to.
struct Directories {
    upper: PathBuf,
    work: PathBuf,
}

/// Looks whether it is an overlay of just these: `count` layers from mount `first` on, and, if that is not
/// 0, what is written in the mount before; answers with the host's directories for that, if it is in some.
fn directories(overlay: &Mount, first: usize, count: usize) -> Result<Option<Directories>> {
    let mut kind = overlay.kind.as_str();
    while let Some((what, rest)) = kind.split_once('/') {
        if !matches!(what, "format" | "mkdir") {
            break;
        }
        kind = rest;
    }
    if kind != "overlay" {
        return Err(refused(overlay, "it is no overlay of the mounts before it"));
    }
    let last = first + count - 1;
    let lower = match count {
        1 => format!("lowerdir={{{{ mount {first} }}}}"),
        _ => format!("lowerdir={{{{ overlay {first} {last} }}}}"),
    };
    let on_disk = [
        "upperdir={{ mount 0 }}/upper",
        "workdir={{ mount 0 }}/work",
        "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
        "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
    ];
    let mut found = false;
    let (mut upper, mut work) = (None, None);
    for option in &overlay.options {
        match option.as_str() {
            option if option == lower => found = true,
            option if first > 0 && on_disk.contains(&option) => {}
            other => match other.split_once('=') {
                Some(("upperdir", path)) if first == 0 && path.starts_with('/') => {
                    upper = Some(path.into());
                }
                Some(("workdir", path)) if first == 0 && path.starts_with('/') => {
                    work = Some(path.into());
                }
                _ => return Err(refused(overlay, format!("it has the option {other}"))),
            },
        }
    }
    match (found, upper, work) {
        (false, _, _) => Err(refused(overlay, "it is not of all the mounts before it")),
        (true, None, None) => Ok(None),
        (true, Some(upper), Some(work)) => Ok(Some(Directories { upper, work })),
        (true, _, _) => Err(refused(
            overlay,
            "it has one of two directories to write to",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|&option| option.into()).collect(),
        }
    }

    fn disks(mounts: &[Mount]) -> Images {
        match of(mounts, Path::new("/b")).expect("a root") {
            Rootfs::Disks(images) => images,
            Rootfs::Shared(tree) => panic!("{tree:?}"),
        }
    }

    fn refusal(mounts: &[Mount]) -> String {
        let why = of(mounts, Path::new("/b")).expect_err("no root");
        assert_eq!(why.kind(), ErrorKind::Unimplemented);
        why.to_string()
    }

    fn paths(image: Option<Image>) -> Vec<PathBuf> {
        image.map(|image| image.paths).unwrap_or_default()
    }

    /// As containerd 2.3's snapshotter has it, once containerd has made the filesystem to write on.
    fn erofs(layers: usize, writable: bool) -> Vec<Mount> {
        let mut mounts = Vec::new();
        let mut options = Vec::new();
        if writable {
            mounts.push(mount("ext4", "/s/9/rwlayer.img", &["rw", "loop"]));
            options.extend([
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755".to_owned(),
                "X-containerd.mkdir.path={{ mount 0 }}/work:0755".to_owned(),
                "workdir={{ mount 0 }}/work".to_owned(),
                "upperdir={{ mount 0 }}/upper".to_owned(),
            ]);
        }
        let first = mounts.len();
        for layer in 0..layers {
            let source = format!("/s/{layer}/layer.erofs");
            mounts.push(mount("erofs", &source, &["ro", "loop"]));
        }
        options.push(match layers {
            1 => format!("lowerdir={{{{ mount {first} }}}}"),
            _ => format!("lowerdir={{{{ overlay {first} {} }}}}", mounts.len() - 1),
        });
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        mounts.push(mount("format/mkdir/overlay", "overlay", &options));
        mounts
    }

    #[test]
    fn directories_are_shared() {
        let shared = |mounts: &[Mount]| match of(mounts, Path::new("/b")).expect("a root") {
            Rootfs::Shared(tree) => tree,
            Rootfs::Disks(images) => panic!("{images:?}"),
        };
        let ready = shared(&[]);
        let Source::Path { path, .. } = ready.source else {
            panic!("{ready:?}");
        };
        assert_eq!(path, Path::new("/b/rootfs"));
        for kind in ["overlay", "bind"] {
            let one = mount(kind, "s", &["rw"]);
            let tree = shared(std::slice::from_ref(&one));
            assert_eq!(tree.source, Source::Mount(one));
            assert_eq!(tree.changes, Changes::GuestOnly);
        }
    }

    #[test]
    fn layers_below_a_directory_are_shared() {
        let mut mounts = erofs(2, false);
        let options = ["workdir=/s/9/work", "upperdir=/s/9/fs"].map(str::to_owned);
        mounts[2].options.extend(options);
        // Of which the kernel knows nothing.
        mounts[0]
            .options
            .push("X-containerd.dmverity=/s/0/layer.erofs.dmverity".into());
        let layers = (0..2)
            .map(|layer| mount("erofs", &format!("/s/{layer}/layer.erofs"), &["ro", "loop"]))
            .collect();
        let expected = Rootfs::Shared(Tree {
            source: Source::Layers {
                layers,
                upper: "/s/9/fs".into(),
                work: "/s/9/work".into(),
            },
            read_only: false,
            changes: Changes::GuestOnly,
        });
        assert_eq!(of(&mounts, Path::new("/b")).expect("a root"), expected);
    }

    #[test]
    fn one_filesystem_is_one_disk() {
        let thin = "/dev/mapper/pool-snap-3";
        for (kind, source, options, filesystem, read_only) in [
            ("ext4", thin, &[][..], Filesystem::EXT4, false),
            ("xfs", thin, &["nouuid"], Filesystem::XFS, false),
            ("ext4", thin, &["ro"], Filesystem::EXT4, true),
            ("ext4", "/b/3", &["loop", "rw"], Filesystem::EXT4, false),
            ("erofs", "/e", &["ro", "loop"], Filesystem::EROFS, true),
            (
                "erofs",
                "/e",
                &["ro", "X-containerd.dmverity=/e.dmverity"],
                Filesystem::EROFS,
                true,
            ),
        ] {
            let images = disks(&[mount(kind, source, options)]);
            let image = Some(Image {
                filesystem,
                paths: vec![source.into()],
            });
            let (layers, writable) = match read_only {
                true => (image, None),
                false => (None, image),
            };
            assert_eq!(images, Images { layers, writable });
        }
    }

    #[test]
    fn what_no_guest_can_have_is_named() {
        for (mounts, part) in [
            (
                vec![mount("ext4", "/d", &["noload"])],
                "type ext4 can't be had in a guest: it has the option noload",
            ),
            (
                vec![mount("erofs", "/d", &["ro", "device=/e"])],
                "device=/e",
            ),
            (
                vec![mount("ext4", "/d", &["ro", "X-containerd.dmverity=/e"])],
                "X-containerd.dmverity=/e",
            ),
            (vec![mount("ext4", "d", &[])], "no path"),
            (
                vec![mount("btrfs", "/d", &[]), mount("overlay", "overlay", &[])],
                "type btrfs",
            ),
            (
                vec![
                    mount("erofs", "/d", &[]),
                    mount("bind", "{{ mount 0 }}", &[]),
                ],
                "type bind",
            ),
            (
                vec![
                    mount("ext4", "/d", &[]),
                    mount("format/mkdir/bind", "{{ mount 0 }}/upper", &[]),
                ],
                "no layers",
            ),
        ] {
            let why = refusal(&mounts);
            assert!(why.contains(part), "{why}");
        }
        let mut half = erofs(3, false);
        half[3].options.push("upperdir=/s/9/fs".into());
        assert!(refusal(&half).contains("one of two"));
        let mut both = erofs(3, true);
        both[4].options.push("upperdir=/s/9/fs".into());
        assert!(refusal(&both).contains("upperdir=/s/9/fs"));
        for (layers, option) in [
            (3, "lowerdir={{ overlay 0 2 }}"),
            (3, "index=off"),
            (1, "uidmap=0:1000:1"),
        ] {
            let mut wrong = erofs(layers, true);
            let overlay = wrong.last_mut().expect("an overlay");
            overlay.options.push(option.into());
            assert!(refusal(&wrong).contains(option));
        }
        let mut lacking = erofs(2, true);
        lacking[3].options.pop();
        assert!(refusal(&lacking).contains("not of all"));
        let mut below = erofs(2, false);
        below[1] = mount("ext4", "/d", &["rw"]);
        assert!(refusal(&below).contains("not the first"));
    }

    proptest! {
        #[test]
        fn all_layers_are_there_and_in_order(count in 1usize..130, writable: bool) {
            let images = disks(&erofs(count, writable));
            let expected: Vec<_> = (0..count)
                .map(|layer| PathBuf::from(format!("/s/{layer}/layer.erofs")))
                .collect();
            prop_assert_eq!(paths(images.layers), expected);
            prop_assert_eq!(paths(images.writable).len(), usize::from(writable));
        }

        #[test]
        fn a_stack_that_lacks_a_mount_is_refused(
            count in 2usize..9, writable: bool, at: prop::sample::Index,
        ) {
            let mut mounts = erofs(count, writable);
            mounts.remove(at.index(mounts.len()));
            prop_assert!(of(&mounts, Path::new("/b")).is_err());
        }
    }
}
