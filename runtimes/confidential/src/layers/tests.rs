use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use trefoil_core::{ErrorKind, Mount};
use trefoil_verity::{BLOCK, Block, Checker, Layout, Salt};

use super::testing::{data, image, image_with_tree, mount, mounts, root, sidecar_of};
use super::*;

struct Node {
    directory: tempfile::TempDir,
    trees: Trees,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let trees = Trees::new(&directory.path().join("trees"), 1 << 20);
        Self { directory, trees }
    }

    fn snapshots(&self) -> PathBuf {
        self.directory.path().join("snapshots")
    }

    fn find(&self, mounts: &[Mount]) -> Layers {
        Layers::find(mounts, &self.trees).expect("layers")
    }

    fn refusal(&self, mounts: &[Mount]) -> Error {
        Layers::find(mounts, &self.trees).expect_err("no layers")
    }

    fn made(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("trees")).expect("trees");
        let mut names: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("name")
            })
            .collect();
        names.sort();
        names
    }
}

/// What a guest is given: the bytes of the device.
fn device(layers: &Layers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mut file in layers.files() {
        std::io::Seek::rewind(&mut file).expect("rewind");
        file.read_to_end(&mut bytes).expect("read");
    }
    bytes
}

/// Checks each part as a guest does, which knows the root hashes: of these layers.
fn check(layers: &Layers, expected: &[(usize, usize)]) {
    let device = device(layers);
    let mut at = 0;
    assert_eq!(layers.parts().len(), expected.len());
    for (&(number, blocks), part) in expected.iter().zip(layers.parts()) {
        let (root, layout, _) = root(&data(number, blocks));
        assert_eq!(layout.device_bytes(), part);
        let part = &device[at..at + part as usize];
        let read = |number: u64, block: &mut Block| {
            block.copy_from_slice(&part[number as usize * BLOCK..][..BLOCK]);
            Ok(())
        };
        Checker::new(&layout, &Salt::of_layers(), root, read)
            .all()
            .expect("right");
        at += part.len();
    }
    assert_eq!(at, device.len());
}

#[test]
fn containerds_trees_are_taken_as_they_are() {
    let node = Node::new();
    let images = [
        image_with_tree(&node.snapshots(), 2, 200),
        image_with_tree(&node.snapshots(), 1, 1),
    ];
    for (on_disk, with_option) in [(true, true), (false, true), (true, false)] {
        let layers = node.find(&mounts(&images, on_disk, with_option));
        check(&layers, &[(2, 200), (1, 1)]);
    }
    let one = node.find(&mounts(&images[..1], true, true));
    check(&one, &[(2, 200)]);
    let bound = mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"]);
    let read_only = [mount("erofs", &images[0], &["ro", "loop"]), bound];
    check(&node.find(&read_only), &[(2, 200)]);
    check(&node.find(&read_only[..1]), &[(2, 200)]);
    assert!(!node.directory.path().join("trees").exists());
}

#[test]
fn missing_trees_are_made_once() {
    let node = Node::new();
    let images = [
        image(&node.snapshots(), 2, 129),
        image(&node.snapshots(), 1, 5),
    ];
    let first = node.find(&mounts(&images, true, false));
    check(&first, &[(2, 129), (1, 5)]);
    let again = node.find(&mounts(&images, false, false));
    check(&again, &[(2, 129), (1, 5)]);
    for file in first.files().chain(again.files()) {
        assert!(file.write_at(b"x", 0).is_err(), "a pod can write to it");
        file.try_lock_shared().expect("nobody has it locked");
        file.unlock().expect("unlock");
    }
    // The second files are the same ones, and so are the devices.
    assert_eq!(first.identity(), again.identity());
    let other = node.find(&mounts(&images[..1], true, false));
    assert_ne!(first.identity(), other.identity());
    assert_eq!(node.made().len(), 2);
}

#[test]
fn layers_that_containerd_2_1_has_mounted_are_found_beside() {
    let node = Node::new();
    let images = [
        image(&node.snapshots(), 2, 9),
        image_with_tree(&node.snapshots(), 1, 3),
    ];
    let lower: Vec<_> = images
        .iter()
        .map(|image| image.with_file_name("fs").display().to_string())
        .collect();
    let lower = format!("lowerdir={}", lower.join(":"));
    let overlay = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", &lower]);
    check(&node.find(&[overlay]), &[(2, 9), (1, 3)]);
}

#[test]
fn makers_wait_for_each_other() {
    let node = Node::new();
    let images = [image(&node.snapshots(), 1, 2000)];
    let mounts = mounts(&images, true, false);
    let identities: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| node.find(&mounts).identity().expect("identity")))
            .collect();
        makers
            .into_iter()
            .map(|maker| maker.join().expect("no panic"))
            .collect()
    });
    // Had two made one, the second would have another number.
    assert!(identities.iter().all(|one| *one == identities[0]));
    assert_eq!(node.made().len(), 1);
}

#[test]
fn what_a_killed_maker_leaves_is_removed() {
    let node = Node::new();
    let images = [
        image(&node.snapshots(), 1, 40),
        image(&node.snapshots(), 2, 40),
    ];
    drop(node.find(&mounts(&images[..1], true, false)));
    let trees = node.directory.path().join("trees");
    let name = node.made().remove(0);
    // Killed at once, killed while it wrote, and somebody else who is still writing.
    fs::create_dir(trees.join("new-1")).expect("directory");
    fs::rename(trees.join(&name), trees.join(format!("new-{name}"))).expect("rename");
    fs::create_dir(trees.join("new-2")).expect("directory");
    let written = File::create(trees.join("new-2/tree")).expect("tree");
    written.lock().expect("lock");
    let layers = node.find(&mounts(&images, true, false));
    check(&layers, &[(1, 40), (2, 40)]);
    let made = node.made();
    assert!(made.contains(&"new-2".to_owned()), "{made:?}");
    assert_eq!(made.len(), 3, "{made:?}");
}

#[test]
fn a_tree_that_was_damaged_or_is_of_another_image_is_made_again() {
    let node = Node::new();
    let path = image(&node.snapshots(), 1, 40);
    let mounts = mounts(std::slice::from_ref(&path), true, false);
    drop(node.find(&mounts));
    let name = node.made().remove(0);
    let tree = node.directory.path().join("trees").join(&name).join("tree");
    fs::write(&tree, "short").expect("tree");
    check(&node.find(&mounts), &[(1, 40)]);
    // The image is replaced: it has another number, and the first one's tree goes.
    fs::remove_file(&path).expect("remove");
    let replaced = path.with_file_name("new");
    fs::write(&replaced, data(5, 300)).expect("image");
    fs::rename(&replaced, &path).expect("rename");
    check(&node.find(&mounts), &[(5, 300)]);
    let made = node.made();
    assert!(made.len() == 1 && made[0] != name, "{made:?}");
}

#[test]
fn trees_have_a_bound_and_the_oldest_go_first() {
    let mut node = Node::new();
    // Each takes two blocks.
    node.trees = Trees::new(&node.directory.path().join("trees"), 4 * BLOCK as u64);
    let images: Vec<_> = (1..4)
        .map(|number| image(&node.snapshots(), number, 2))
        .collect();
    let find = |number: usize| node.find(&mounts(&images[number..=number], true, false));
    let (first, second) = (find(0), find(1));
    let tree = second.files().nth(1).expect("a tree");
    tree.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .expect("time");
    let third = find(2);
    // The second was used longest ago, and whoever has it keeps it.
    assert_eq!(find(0).identity(), first.identity());
    assert_eq!(find(2).identity(), third.identity());
    check(&second, &[(2, 2)]);
    assert_eq!(node.made().len(), 2);
    let large = image(&node.snapshots(), 9, 1000);
    let why = node.refusal(&mounts(&[large], true, false)).to_string();
    assert!(why.contains("all trees together may take 16384"), "{why}");
}

#[test]
fn a_tree_that_is_not_whole_is_told() {
    let node = Node::new();
    let path = image_with_tree(&node.snapshots(), 1, 200);
    let mounts = mounts(std::slice::from_ref(&path), true, true);
    let whole = fs::read(&path).expect("image");
    let sidecar = fs::read_to_string(sidecar_of(&path)).expect("sidecar");
    let (_, layout, _) = root(&data(1, 200));
    let cut = &whole[..whole.len() - BLOCK];
    let mut no_superblock = whole.clone();
    no_superblock[layout.superblock_offset() as usize] ^= 1;
    let mut salted = whole.clone();
    salted[layout.superblock_offset() as usize + 88] = 1;
    for (bytes, part) in [
        (
            cut,
            "it is to have 835584: remove the image and pull it again",
        ),
        (&no_superblock, "there is no dm-verity superblock"),
        (&salted, "another salt"),
    ] {
        fs::write(&path, bytes).expect("image");
        let why = node.refusal(&mounts).to_string();
        assert!(why.contains(part) && why.contains("layer.erofs: "), "{why}");
    }
    fs::write(&path, &whole).expect("image");
    for (text, part) in [
        (sidecar.replace("819200", "512"), "enable_tar_index"),
        (
            sidecar.replace("819200", "8192"),
            "and with its dm-verity tree",
        ),
        (sidecar[..20].to_owned(), "EOF"),
        (" ".repeat(100_000), "4097 bytes"),
    ] {
        fs::write(sidecar_of(&path), text).expect("sidecar");
        let why = node.refusal(&mounts).to_string();
        assert!(why.contains(part), "{why}");
    }
    fs::remove_file(sidecar_of(&path)).expect("remove");
    let why = node.refusal(&mounts).to_string();
    assert!(why.contains("layer.erofs.dmverity: No such file"), "{why}");
}

#[test]
fn roots_that_are_not_of_images_are_refused_with_what_to_set() {
    let node = Node::new();
    let path = image_with_tree(&node.snapshots(), 1, 3);
    let erofs = || mount("erofs", &path, &["ro", "loop"]);
    let overlay = |options: &[&str]| mount("format/mkdir/overlay", "overlay", options);
    for (mounts, part) in [
        (vec![], "a directory of this one: set snapshotter = 'erofs'"),
        (
            vec![mount(
                "overlay",
                "overlay",
                &["lowerdir=/a:/b", "upperdir=/u"],
            )],
            "directories of this one: set snapshotter = 'erofs'",
        ),
        (
            vec![mount("bind", "/s/1/fs", &["rbind"])],
            "a mount of type bind",
        ),
        (
            vec![mount("ext4", "/dev/mapper/pool-1", &[])],
            "a mount of type ext4",
        ),
        (
            vec![
                mount("ext4", "/s/9/rw", &[]),
                overlay(&["lowerdir={{ mount 0 }}"]),
            ],
            "one filesystem",
        ),
        (
            vec![erofs(), mount("erofs", "layer", &[]), overlay(&[])],
            "\"layer\" is no path",
        ),
        (
            vec![mount("erofs", &path, &["device=/e"])],
            "the option device=/e",
        ),
        (
            vec![erofs(), erofs(), overlay(&["lowerdir={{ mount 0 }}"])],
            "not of all the mounts",
        ),
        (
            vec![erofs(), erofs(), mount("format/bind", "{{ mount 0 }}", &[])],
            "no overlay",
        ),
        (
            vec![
                erofs(),
                overlay(&["lowerdir={{ mount 0 }}", "uidmap=0:1000:1"]),
            ],
            "user namespace",
        ),
        (
            vec![erofs(), overlay(&["lowerdir={{ mount 0 }}", "index=off"])],
            "the option index=off",
        ),
    ] {
        let why = node.refusal(&mounts);
        assert_eq!(why.kind(), ErrorKind::Unimplemented, "{why}");
        assert!(why.to_string().contains(part), "{why}");
    }
    let odd = path.with_file_name("odd.erofs");
    fs::write(&odd, [1; 100]).expect("image");
    let why = node.refusal(&[mount("erofs", &odd, &[])]).to_string();
    assert!(
        why.contains("100 bytes, which is no number of blocks"),
        "{why}"
    );
    let why = node
        .refusal(&[mount("erofs", "/dev/null", &[])])
        .to_string();
    assert!(why.contains("not a file"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A host has more to lose than a root hash: whatever is beside an image, the answer is one of these.
    #[test]
    fn any_sidecar_may_lie_beside(bytes in prop::collection::vec(any::<u8>(), 0..150), superblock in prop::collection::vec(any::<u8>(), 0..BLOCK)) {
        let node = Node::new();
        let path = image_with_tree(&node.snapshots(), 1, 3);
        let file = File::options().write(true).open(&path).expect("image");
        file.write_all_at(&superblock, 3 * BLOCK as u64).expect("superblock");
        let find = || Layers::find(&mounts(std::slice::from_ref(&path), true, true), &node.trees);
        if let Ok(layers) = find() {
            prop_assert_eq!(layers.parts(), [Layout::new(3).expect("a layout").device_bytes()]);
        }
        fs::write(sidecar_of(&path), bytes).expect("sidecar");
        prop_assert!(find().is_err());
    }
}

#[test]
fn the_path_of_an_open_file_is_its_descriptors() {
    use std::os::fd::AsRawFd;
    let node = Node::new();
    let path = image_with_tree(&node.snapshots(), 1, 3);
    let layers = node.find(&mounts(std::slice::from_ref(&path), true, true));
    fs::remove_file(&path).expect("remove");
    let file = layers.files().next().expect("a file");
    let again = fs::read(Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()));
    assert_eq!(again.expect("still there"), device(&layers));
}
