//! What becomes of the host's files and directories that a container is to have: told from where the kubelet
//! and containerd keep them. A confidential pod has none of the host's: some begin empty in the guest, of
//! others the bytes are sent, and what is left is refused.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use trefoil_agent_protocol::service;
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_sandbox_vmm::{GuestVolume, HostVolume};

/// All files of a volume together have no more bytes: less than a message.
const MOST_BYTES: u64 = 3 << 20;
/// A volume has no more files.
const MOST_FILES: usize = 1024;
/// No file is deeper.
const MOST_DEPTH: usize = 16;

/// What containerd and the kubelet write for containers: the file's name, and what the guest calls it.
const WRITTEN: [(&str, &str); 4] = [
    ("hostname", "hostname"),
    ("hosts", "etc-hosts"),
    ("etc-hosts", "etc-hosts"),
    ("resolv.conf", "resolv.conf"),
];

/// Volumes of Kubernetes' whose files are sent.
const OF_FILES: [&str; 4] = [
    "kubernetes.io~configmap",
    "kubernetes.io~downward-api",
    "kubernetes.io~projected",
    "kubernetes.io~secret",
];

/// The service account's token, with what is needed to use it.
const TOKEN: &str = "kube-api-access";

/// What is in the guest in place of a volume.
///
/// # Errors
/// What can't be had, with what to use instead; or why it can't be read.
pub(crate) fn of(volume: HostVolume<'_>) -> Result<GuestVolume> {
    let names: Vec<&OsStr> = volume.path.iter().collect();
    let text = |name: &OsStr| name.to_string_lossy().into_owned();
    match names.as_slice() {
        [.., sandboxes, pod, name] if *sandboxes == "sandboxes" && *pod == volume.pod => {
            written(volume, name)
        }
        [.., pods, _, name] if *pods == "pods" && *name == "etc-hosts" => written(volume, name),
        [.., pods, _, containers, _, _] if *pods == "pods" && *containers == "containers" => {
            Ok(GuestVolume::EmptyFile("termination-log".into()))
        }
        [.., pods, _, volumes, kind, name] if *pods == "pods" && *volumes == "volumes" => {
            if *kind == "kubernetes.io~empty-dir" {
                return empty(volume.path, text(name));
            }
            match OF_FILES.iter().any(|known| *kind == *known) {
                true => files(volume.path, as_in_policies(&text(name))),
                false => Err(refused(volume.path)),
            }
        }
        _ => Err(refused(volume.path)),
    }
}

/// A volume's name as policies have it: Kubernetes ends that of the service account's token with five
/// characters of chance.
fn as_in_policies(name: &str) -> String {
    const CHANCE: usize = 5;
    let chance = name
        .strip_prefix(TOKEN)
        .and_then(|rest| rest.strip_prefix('-'));
    match chance {
        Some(chance) if chance.len() == CHANCE => TOKEN.to_owned(),
        _ => name.to_owned(),
    }
}

fn refused(path: &Path) -> Error {
    let subpath = path.iter().any(|name| name == "volume-subpaths");
    let instead = match subpath {
        true => "mount the whole volume in place of a subPath",
        false => "use an emptyDir, a ConfigMap or a Secret, or put it into the image",
    };
    Error::new(
        ErrorKind::Unimplemented,
        format!(
            "the volume {} can't be had: a confidential pod has no hostPath and no shared volume; {instead}",
            path.display()
        ),
    )
}

/// A file that the node writes for the pod.
fn written(volume: HostVolume<'_>, name: &OsStr) -> Result<GuestVolume> {
    let known = WRITTEN.iter().find(|(written, _)| name == *written);
    let (_, called) = known.ok_or_else(|| refused(volume.path))?;
    let mut room = Room::default();
    let file = room.file(volume.path, String::new())?;
    Ok(GuestVolume::Files((*called).into(), vec![file]))
}

/// A directory that is empty at first. What is in it on the host stays there.
fn empty(path: &Path, name: String) -> Result<GuestVolume> {
    let found = statfs(path).context(|| format!("look at {}", path.display()))?;
    Ok(match found.filesystem_type() == TMPFS_MAGIC {
        true => GuestVolume::Memory(name),
        false => GuestVolume::Scratch(name),
    })
}

fn files(path: &Path, name: String) -> Result<GuestVolume> {
    let mut room = Room::default();
    room.directory(path, &PathBuf::new(), MOST_DEPTH)?;
    Ok(GuestVolume::Files(name, room.files))
}

/// What has been read of a volume.
#[derive(Default)]
struct Room {
    bytes: u64,
    files: Vec<service::File>,
}

impl Room {
    /// The files that a directory shows, without the kubelet's own names.
    fn directory(&mut self, volume: &Path, below: &Path, depth: usize) -> Result<()> {
        let place = volume.join(below);
        let doing = || format!("read {}", place.display());
        let too_much = |what| Error::invalid(format!("{}: it has too {what}", doing()));
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| too_much("deep directories"))?;
        let mut names = fs::read_dir(&place)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<std::io::Result<Vec<_>>>()
            })
            .context(doing)?;
        names.sort();
        for name in names {
            let below = below.join(&name);
            let text = below
                .to_str()
                .ok_or_else(|| Error::invalid(format!("{}: a name is no text", doing())))?;
            if name.to_string_lossy().starts_with("..") {
                continue;
            }
            let path = volume.join(&below);
            if fs::metadata(&path).context(doing)?.is_dir() {
                self.directory(volume, &below, depth)?;
                continue;
            }
            if self.files.len() >= MOST_FILES {
                return Err(too_much("many files"));
            }
            let file = self.file(&path, text.to_owned())?;
            self.files.push(file);
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, called: String) -> Result<service::File> {
        let doing = || format!("read {}", path.display());
        let file = File::open(path).context(doing)?;
        let found = file.metadata().context(doing)?;
        if !found.is_file() {
            return Err(Error::invalid(format!("{}: it is no file", doing())));
        }
        let mut contents = Vec::new();
        let left = MOST_BYTES - self.bytes;
        file.take(left + 1)
            .read_to_end(&mut contents)
            .context(doing)?;
        let length = contents.len() as u64;
        if length > left {
            return Err(Error::invalid(format!(
                "{}: its volume has more than {MOST_BYTES} bytes, which are all that is sent to a \
                 confidential pod",
                doing()
            )));
        }
        self.bytes += length;
        Ok(service::File {
            path: called,
            contents,
            mode: found.permissions().mode() & 0o777,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn of_path(path: &Path) -> Result<GuestVolume> {
        of(HostVolume {
            path,
            pod: "p1",
            read_only: true,
        })
    }

    /// A directory as the kubelet lays it out, below a directory of pods.
    fn volume(scratch: &Path, kind: &str) -> PathBuf {
        let at = scratch.join("pods/uid/volumes").join(kind).join("conf");
        fs::create_dir_all(at.join("..1/sub")).expect("directories");
        fs::write(at.join("..1/key"), "value").expect("write");
        fs::write(at.join("..1/sub/key"), "deep").expect("write");
        symlink("..1", at.join("..data")).expect("link");
        for name in ["key", "sub"] {
            symlink(format!("..data/{name}"), at.join(name)).expect("link");
        }
        at
    }

    #[test]
    fn files_are_read_and_the_layout_is_not() {
        let scratch = tempfile::tempdir().expect("directory");
        let at = volume(scratch.path(), "kubernetes.io~configmap");
        let found = of_path(&at).expect("a volume");
        let GuestVolume::Files(name, files) = found else {
            panic!("{found:?}");
        };
        assert_eq!(name, "conf");
        let told: Vec<_> = files
            .iter()
            .map(|file| (file.path.as_str(), file.contents.as_slice()))
            .collect();
        assert_eq!(told, [("key", &b"value"[..]), ("sub/key", b"deep")]);
        fs::write(at.join("..1/large"), vec![0; MOST_BYTES as usize]).expect("write");
        symlink("..data/large", at.join("large")).expect("link");
        let why = of_path(&at).expect_err("too large").to_string();
        assert!(why.contains("more than"), "{why}");
    }

    #[test]
    fn the_token_is_called_the_same_in_each_pod() {
        for (name, called) in [
            ("kube-api-access-x7k2p", "kube-api-access"),
            ("kube-api-access", "kube-api-access"),
            ("kube-api-access-longer", "kube-api-access-longer"),
            ("conf-x7k2p", "conf-x7k2p"),
        ] {
            assert_eq!(as_in_policies(name), called);
        }
        let scratch = tempfile::tempdir().expect("directory");
        let at = volume(scratch.path(), "kubernetes.io~projected");
        let token = at.with_file_name("kube-api-access-x7k2p");
        fs::rename(&at, &token).expect("rename");
        let found = of_path(&token).expect("a volume");
        let is_token = |name: &str| name == "kube-api-access";
        assert!(matches!(found, GuestVolume::Files(name, _) if is_token(&name)));
    }

    #[test]
    fn what_is_empty_at_first_is_the_guests() {
        let scratch = tempfile::tempdir().expect("directory");
        let at = scratch
            .path()
            .join("pods/uid/volumes/kubernetes.io~empty-dir/cache");
        fs::create_dir_all(&at).expect("directories");
        let found = of_path(&at).expect("a volume");
        let name = "cache".to_owned();
        assert!(
            [
                GuestVolume::Scratch(name.clone()),
                GuestVolume::Memory(name)
            ]
            .contains(&found)
        );
        let log = scratch.path().join("pods/uid/containers/c/0a1b");
        let found = of_path(&log).expect("a file");
        assert_eq!(found, GuestVolume::EmptyFile("termination-log".into()));
    }

    #[test]
    fn what_the_node_writes_is_sent_as_one_file() {
        let scratch = tempfile::tempdir().expect("directory");
        let at = scratch.path().join("sandboxes/p1");
        fs::create_dir_all(&at).expect("directory");
        for (name, called) in [("hosts", "etc-hosts"), ("resolv.conf", "resolv.conf")] {
            fs::write(at.join(name), name).expect("write");
            let GuestVolume::Files(volume, files) = of_path(&at.join(name)).expect("files") else {
                panic!("{name}");
            };
            assert_eq!((volume.as_str(), files.len()), (called, 1));
            assert_eq!(
                (files[0].path.as_str(), &*files[0].contents),
                ("", name.as_bytes())
            );
        }
        // Another pod's.
        let other = scratch.path().join("sandboxes/p2/hosts");
        of_path(&other).expect_err("another's");
    }

    #[test]
    fn the_hosts_own_is_refused_by_name() {
        for path in [
            "/etc",
            "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~nfs/data",
            "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/data/mount",
            "/var/lib/kubelet/pods/uid/volume-subpaths/conf/c/0",
        ] {
            let why = of_path(Path::new(path)).expect_err(path);
            assert_eq!(why.kind(), ErrorKind::Unimplemented);
            let said = why.to_string();
            assert!(
                said.contains(path) && said.contains("can't be had"),
                "{said}"
            );
            assert_eq!(said.contains("subPath"), path.contains("subpath"), "{said}");
        }
    }
}
