//! Images for the tests: their bytes need be no filesystem.

use std::fs;
use std::path::{Path, PathBuf};

use trefoil_core::Mount;
use trefoil_verity::{BLOCK, Layout, RootHash, Salt, Sidecar, Superblock, build};

pub fn data(seed: usize, blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK)
        .map(|at| (at / 9 + at % 250 + seed) as u8)
        .collect()
}

pub fn root(data: &[u8]) -> (RootHash, Layout, Vec<u8>) {
    let layout = Layout::of_bytes(data.len() as u64).expect("data");
    let salt = Salt::of_layers();
    let mut tail = vec![0; (layout.device_bytes() - layout.superblock_offset()) as usize];
    let superblock = Superblock {
        data_blocks: layout.data_blocks(),
        salt: salt.clone(),
        uuid: [7; 16],
    };
    tail[..BLOCK].copy_from_slice(&superblock.block());
    let root = build(data, &layout, &salt, |number, block| {
        let at = (number - layout.data_blocks()) as usize * BLOCK;
        tail[at..at + BLOCK].copy_from_slice(block);
        Ok(())
    });
    (root.expect("a tree"), layout, tail)
}

/// A layer's file as containerd's snapshotter keeps it, below a directory of its number.
pub fn image(snapshots: &Path, number: usize, blocks: usize) -> PathBuf {
    let directory = snapshots.join(number.to_string());
    fs::create_dir_all(directory.join("fs")).expect("directory");
    let path = directory.join("layer.erofs");
    fs::write(&path, data(number, blocks)).expect("image");
    path
}

/// The same, with what containerd makes if it is to make trees.
pub fn image_with_tree(snapshots: &Path, number: usize, blocks: usize) -> PathBuf {
    let path = image(snapshots, number, blocks);
    let mut bytes = data(number, blocks);
    let (root, layout, tail) = root(&bytes);
    bytes.extend(tail);
    fs::write(&path, bytes).expect("image");
    let sidecar = Sidecar { root, layout };
    fs::write(sidecar_of(&path), sidecar.json()).expect("sidecar");
    path
}

pub fn sidecar_of(path: &Path) -> PathBuf {
    path.with_file_name("layer.erofs.dmverity")
}

pub fn mount(kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.as_ref().display().to_string(),
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

/// Mounts of these layers as containerd 2.3 has them, over what is written in a filesystem or a directory.
pub fn mounts(images: &[PathBuf], on_disk: bool, with_option: bool) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let mut options = vec![
        "workdir=/s/9/work".to_owned(),
        "upperdir=/s/9/fs".to_owned(),
    ];
    if on_disk {
        mounts.push(mount("ext4", "/s/9/rwlayer.img", &["rw", "loop"]));
        options = vec![
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755".to_owned(),
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755".to_owned(),
            "workdir={{ mount 0 }}/work".to_owned(),
            "upperdir={{ mount 0 }}/upper".to_owned(),
        ];
    }
    let first = mounts.len();
    for image in images {
        let sidecar = format!("X-containerd.dmverity={}", sidecar_of(image).display());
        let options: &[&str] = match with_option {
            true => &["ro", "loop", &sidecar],
            false => &["ro", "loop"],
        };
        mounts.push(mount("erofs", image, options));
    }
    options.push(match images.len() {
        1 => format!("lowerdir={{{{ mount {first} }}}}"),
        _ => format!("lowerdir={{{{ overlay {first} {} }}}}", mounts.len() - 1),
    });
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    mounts.push(mount("format/mkdir/overlay", "overlay", &options));
    mounts
}
