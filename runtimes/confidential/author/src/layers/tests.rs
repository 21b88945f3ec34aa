use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Write;
use trefoil_verity::{Layout, Salt};

use super::*;

/// A layout being written.
struct Written {
    directory: tempfile::TempDir,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", trefoil_initdata::hex(&Sha256::digest(bytes)))
}

impl Written {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        fs::create_dir_all(directory.path().join("blobs/sha256")).expect("directory");
        Self { directory }
    }

    fn path(&self, digest: &str) -> PathBuf {
        let blobs = self.directory.path().join("blobs/sha256");
        blobs.join(digest.strip_prefix("sha256:").expect("sha256"))
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        fs::write(self.path(&digest(bytes)), bytes).expect("blob");
        json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
    }

    fn document(&self, kind: &str, document: &Value) -> Value {
        let kind = format!("application/vnd.oci.image.{kind}");
        self.blob(&kind, document.to_string().as_bytes())
    }

    /// An image of layers with a file each, of these bytes.
    fn image(&self, contents: &[&[u8]]) -> Value {
        let archives: Vec<_> = contents.iter().map(|content| tar(content)).collect();
        let archives: Vec<_> = archives.iter().map(Vec::as_slice).collect();
        self.image_of_archives(&archives)
    }

    /// An image of these archives, compressed.
    fn image_of_archives(&self, archives: &[&[u8]]) -> Value {
        let layers: Vec<_> = archives
            .iter()
            .map(|archive| {
                self.blob(
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    &gzip(archive),
                )
            })
            .collect();
        self.image_of(archives, &layers)
    }

    fn image_of(&self, archives: &[&[u8]], layers: &[Value]) -> Value {
        let archives: Vec<_> = archives.iter().map(|archive| digest(archive)).collect();
        let config = self.document(
            "config.v1+json",
            &json!({
                "os": "linux",
                "architecture": "amd64",
                "config": { "Cmd": ["sh"] },
                "rootfs": { "diff_ids": archives },
            }),
        );
        let manifest = json!({ "config": config, "layers": layers });
        self.document("manifest.v1+json", &manifest)
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({ "manifests": manifests });
        fs::write(self.directory.path().join("index.json"), index.to_string()).expect("index");
    }

    fn read(&self, choice: &Choice) -> trefoil_core::Result<Image> {
        let mkfs = Mkfs::new(&program(self.directory.path()))?;
        Layers::new(mkfs).image(self.directory.path(), choice)
    }

    fn refusal(&self, choice: &Choice) -> String {
        self.read(choice).expect_err("refused").to_string()
    }
}

/// An archive with a file of these bytes.
fn tar(content: &[u8]) -> Vec<u8> {
    archive(&[("file", content)])
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, path, *content)
            .expect("archive");
    }
    archive.into_inner().expect("archive")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

/// A program whose image is the archive. It notes that it has run.
fn program(directory: &Path) -> PathBuf {
    let path = directory.join("mkfs");
    let lines = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'mkfs.erofs (erofs-utils) 1.8.6'\nfor last; do :; done\necho >> \"$0.runs\"\nexec cat > \"$last\"\n";
    fs::write(&path, lines).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

fn named(name: &str) -> Choice {
    Choice {
        reference: Some(name.into()),
        ..Choice::default()
    }
}

fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

fn layer(content: &[u8]) -> Layer {
    let archive = tar(content);
    let layout = Layout::of_bytes(archive.len() as u64).expect("data");
    let root = trefoil_verity::build(archive.as_slice(), &layout, &Salt::of_layers(), |_, _| {
        Ok(())
    });
    Layer {
        root: root.expect("a tree"),
        data_blocks: layout.data_blocks(),
    }
}

#[test]
fn an_image_is_its_layers_in_order() {
    let written = Written::new();
    let (lower, upper) = (vec![b'l'; 9000], vec![b'u'; 100]);
    let manifest = written.image(&[&lower, &upper, &lower]);
    written.index(std::slice::from_ref(&manifest));
    let image = written.read(&Choice::default()).expect("an image");
    assert_eq!(image.digest.as_str(), manifest["digest"]);
    assert_eq!(image.config.cmd, ["sh"]);
    assert_eq!(image.layers, [layer(&lower), layer(&upper), layer(&lower)]);
    assert_eq!(image.layers[0].data_blocks, 3);
    assert_eq!(image.users, UserFiles::default());
    assert_eq!(image.cautions, Vec::<String>::new());
}

#[test]
fn a_layer_is_read_once() {
    let written = Written::new();
    let shared = archive(&[("etc/passwd", b"root:x:0:0")]);
    let (one, other) = (
        written.image_of_archives(&[&shared, &tar(b"one")]),
        written.image_of_archives(&[&shared, &tar(b"other"), &tar(b"one")]),
    );
    let of = |image: &Value| named(image["digest"].as_str().expect("digest"));
    written.index(&[one.clone(), other.clone()]);
    let directory = written.directory.path();
    let mut layers = Layers::new(Mkfs::new(&program(directory)).expect("a program"));
    let first = layers.image(directory, &of(&one)).expect("one");
    for layer in [&shared, &tar(b"one")] {
        fs::remove_file(written.path(&digest(&gzip(layer)))).expect("remove");
    }
    let second = layers.image(directory, &of(&other)).expect("the other");
    assert_eq!(layers.image(directory, &of(&one)).expect("one"), first);
    assert_eq!(second.layers[0], first.layers[0]);
    for image in [first, second] {
        let root = crate::image::UserFile::Bytes(b"root:x:0:0".to_vec());
        assert_eq!(image.users.passwd, root);
    }
    let runs = fs::read_to_string(directory.join("mkfs.runs")).expect("runs");
    assert_eq!(runs.lines().count(), 3);
}

#[test]
fn a_layer_is_not_known_by_its_digest_alone() {
    let written = Written::new();
    let blob = written.blob(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        &gzip(&tar(b"one")),
    );
    let (right, wrong) = (
        written.image_of(&[&tar(b"one")], std::slice::from_ref(&blob)),
        written.image_of(&[&tar(b"other")], std::slice::from_ref(&blob)),
    );
    written.index(&[right.clone(), wrong.clone()]);
    let directory = written.directory.path();
    let mut layers = Layers::new(Mkfs::new(&program(directory)).expect("a program"));
    let mut image =
        |of: &Value| layers.image(directory, &named(of["digest"].as_str().expect("digest")));
    image(&right).expect("right");
    let why = image(&wrong).expect_err("another archive").to_string();
    assert!(why.contains("it is not what"), "{why}");
}

#[test]
fn a_layer_that_depends_on_the_version_is_told() {
    let mut archive = tar::Builder::new(Vec::new());
    let two = [
        ("SCHILY.xattr.user.a", &b"1"[..]),
        ("SCHILY.xattr.user.b", b"2"),
    ];
    archive.append_pax_extensions(two).expect("archive");
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    archive
        .append_data(&mut header, "odd", std::io::empty())
        .expect("archive");
    let archive = archive.into_inner().expect("archive");
    let written = Written::new();
    written.index(&[written.image_of_archives(&[&archive, &tar(b"plain")])]);
    let image = written.read(&Choice::default()).expect("an image");
    let [caution] = &image.cautions[..] else {
        panic!("{:?}", image.cautions);
    };
    assert!(caution.contains("several extended attributes"), "{caution}");
    assert!(
        caution.contains("the node is to have 1.8, as here"),
        "{caution}"
    );
}

#[test]
fn every_byte_is_compared() {
    let archive: &[u8] = b"archive";
    for what in ["manifest", "config", "layer"] {
        let written = Written::new();
        let manifest = written.image(&[archive]);
        written.index(std::slice::from_ref(&manifest));
        let text = fs::read(written.path(manifest["digest"].as_str().expect("digest")));
        let text: Value = serde_json::from_slice(&text.expect("manifest")).expect("json");
        let of = match what {
            "manifest" => &manifest,
            "config" => &text["config"],
            _ => &text["layers"][0],
        };
        let path = written.path(of["digest"].as_str().expect("digest"));
        let whole = fs::read(&path).expect("blob");
        let mut changed = whole.clone();
        match what {
            // gzip's reader doesn't mind the time in it.
            "layer" => changed[4] ^= 1,
            // Nor does that of JSON mind a blank.
            _ => changed.push(b' '),
        }
        for bytes in [changed, whole[..whole.len() - 1].to_vec()] {
            fs::write(&path, bytes).expect("blob");
            let why = written.refusal(&Choice::default());
            let known = ["longer than it may be", "too short", "it is not what"];
            assert!(
                known.iter().any(|known| why.contains(known)),
                "{what}: {why}"
            );
        }
        fs::remove_file(&path).expect("remove");
        let why = written.refusal(&Choice::default());
        assert!(why.contains("No such file"), "{why}");
    }
}

#[test]
fn an_archive_is_the_one_that_the_configuration_names() {
    let written = Written::new();
    let one = gzip(&tar(b"one"));
    let layer = written.blob("application/vnd.oci.image.layer.v1.tar+gzip", &one);
    written.index(&[written.image_of(&[b"other"], std::slice::from_ref(&layer))]);
    let why = written.refusal(&Choice::default());
    assert!(
        why.contains("it is not what") && why.contains(&digest(b"other")),
        "{why}"
    );
    for (archives, part) in [
        (&[][..], "has 1 layers and its configuration 0"),
        (
            &[&b"one"[..], b"two"],
            "has 1 layers and its configuration 2",
        ),
    ] {
        written.index(&[written.image_of(archives, std::slice::from_ref(&layer))]);
        let why = written.refusal(&Choice::default());
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn the_image_that_is_meant_is_found() {
    let written = Written::new();
    let (one, other) = (written.image(&[b"one"]), written.image(&[b"other"]));
    let full = json!({ "io.containerd.image.name": "images.test/web:1" });
    let tag = json!({ "org.opencontainers.image.ref.name": "2" });
    written.index(&[
        with(one.clone(), "annotations", full),
        with(other.clone(), "annotations", tag),
    ]);
    let digest = |choice: &Choice| written.read(choice).map(|image| image.digest.to_string());
    assert_eq!(
        digest(&named("images.test/web:1")).expect("one"),
        one["digest"]
    );
    assert_eq!(
        digest(&named("images.test/other:2")).expect("other"),
        other["digest"]
    );
    assert_eq!(digest(&named("2")).expect("other"), other["digest"]);
    let by_digest = named(one["digest"].as_str().expect("digest"));
    assert_eq!(digest(&by_digest).expect("one"), one["digest"]);
    let why = written.refusal(&named("images.test/web:3"));
    assert!(
        why.contains(r#"no image "images.test/web:3": it has "images.test/web:1", "2""#),
        "{why}"
    );
    let why = written.refusal(&Choice::default());
    assert!(
        why.contains("several images, so one is to be named"),
        "{why}"
    );
    written.index(&[]);
    assert!(written.refusal(&Choice::default()).contains("has no image"));
}

#[test]
fn the_variant_for_the_platform_is_taken() {
    let written = Written::new();
    let platform = |architecture: &str, more: Value| {
        let mut platform = json!({ "os": "linux", "architecture": architecture });
        if let (Some(platform), Value::Object(more)) = (platform.as_object_mut(), more) {
            platform.extend(more);
        }
        platform
    };
    let (plain, other) = (written.image(&[b"plain"]), written.image(&[b"other"]));
    let variants = [
        with(
            other.clone(),
            "platform",
            platform("arm64", json!({ "variant": "v8" })),
        ),
        with(
            other.clone(),
            "platform",
            platform("amd64", json!({ "os.features": ["erofs"] })),
        ),
        with(plain.clone(), "platform", platform("amd64", json!({}))),
        with(
            other.clone(),
            "platform",
            platform("amd64", json!({ "variant": "v3" })),
        ),
        with(
            other.clone(),
            "platform",
            json!({ "os": "unknown", "architecture": "unknown" }),
        ),
    ];
    let index = written.document("index.v1+json", &json!({ "manifests": variants }));
    for manifests in [vec![index.clone()], variants.to_vec()] {
        written.index(&manifests);
        let image = written.read(&Choice::default()).expect("an image");
        assert_eq!(image.digest.as_str(), plain["digest"]);
    }
    written.index(std::slice::from_ref(&index));
    // By its own digest, as a manifest has it that is pinned.
    let pinned = named(plain["digest"].as_str().expect("digest"));
    let image = written.read(&pinned).expect("an image");
    assert_eq!(image.digest.as_str(), plain["digest"]);
    let stranger = named(&digest(b"none"));
    assert!(written.refusal(&stranger).contains("has no image"));
    let riscv = Choice {
        platform: Platform {
            architecture: "riscv64".into(),
        },
        ..Choice::default()
    };
    let why = written.refusal(&riscv);
    assert!(why.contains("no variant for linux/riscv64"), "{why}");
    let mut nested = index;
    for _ in 0..4 {
        let inner = with(nested, "platform", platform("amd64", json!({})));
        nested = written.document("index.v1+json", &json!({ "manifests": [inner] }));
    }
    written.index(&[nested]);
    let why = written.refusal(&Choice::default());
    assert!(why.contains("more than 4 deep"), "{why}");
    // What the index says of it is not what it is.
    let arm = with(plain, "platform", platform("arm64", json!({})));
    written.index(&[written.document("index.v1+json", &json!({ "manifests": [arm] }))]);
    let arm = Choice {
        platform: Platform {
            architecture: "arm64".into(),
        },
        ..Choice::default()
    };
    let why = written.refusal(&arm);
    assert!(
        why.contains("is for \"linux/amd64\", not for linux/arm64"),
        "{why}"
    );
}

#[test]
fn variants_beside_each_other_are_those_of_the_name() {
    let written = Written::new();
    let amd64 = json!({ "os": "linux", "architecture": "amd64" });
    let arm64 = json!({ "os": "linux", "architecture": "arm64" });
    let variant = |image: &Value, name: &str, platform: &Value| {
        let name = json!({ "io.containerd.image.name": name });
        with(
            with(image.clone(), "annotations", name),
            "platform",
            platform.clone(),
        )
    };
    let (web, db, other) = (
        written.image(&[b"web"]),
        written.image(&[b"db"]),
        written.image(&[b"other"]),
    );
    written.index(&[
        variant(&other, "images.test/web:1", &arm64),
        variant(&web, "images.test/web:1", &amd64),
        variant(&db, "images.test/db:1", &amd64),
        variant(&other, "images.test/db:1", &arm64),
        variant(&web, "images.test/both:1", &amd64),
        variant(&db, "images.test/both:1", &amd64),
    ]);
    for (name, image) in [("images.test/web:1", &web), ("images.test/db:1", &db)] {
        let found = written.read(&named(name)).expect(name);
        assert_eq!(found.digest.as_str(), image["digest"], "{name}");
    }
    let why = written.refusal(&named("images.test/both:1"));
    assert!(
        why.contains("several images \"images.test/both:1\"")
            && why.contains(web["digest"].as_str().expect("digest"))
            && !why.contains(other["digest"].as_str().expect("digest")),
        "{why}"
    );
}

#[test]
fn what_is_no_file_or_too_long_is_not_read() {
    let written = Written::new();
    let manifest = written.image(&[b"one"]);
    let long = with(manifest.clone(), "size", json!(5 << 20));
    written.index(&[long]);
    let why = written.refusal(&Choice::default());
    assert!(why.contains("too many"), "{why}");
    written.index(std::slice::from_ref(&manifest));
    let path = written.path(manifest["digest"].as_str().expect("digest"));
    fs::remove_file(&path).expect("remove");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("fifo");
    let why = written.refusal(&Choice::default());
    assert!(why.contains("it is not a file"), "{why}");
    let index = written.directory.path().join("index.json");
    fs::write(&index, " ".repeat((4 << 20) + 1)).expect("index");
    let why = written.refusal(&Choice::default());
    assert!(
        why.contains("index.json: its 4194305 bytes or more"),
        "{why}"
    );
}

#[test]
fn a_layer_that_is_no_archive_is_named() {
    let written = Written::new();
    let layer = written.blob("application/vnd.erofs.layer.v1", b"erofs");
    written.index(&[written.image_of(&[b"erofs"], &[layer])]);
    let why = written.refusal(&Choice::default());
    assert!(
        why.starts_with("layer sha256:") && why.contains("vnd.erofs.layer"),
        "{why}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// An image from anywhere is one that its digests are of, or refused in one line.
    #[test]
    fn any_document_may_come(at in 0_usize..600, byte: u8, cut in 0_usize..700) {
        let written = Written::new();
        let manifest = written.image(&[b"one"]);
        let mut index = json!({ "manifests": [manifest.clone()] }).to_string().into_bytes();
        let at = at % index.len();
        index[at] = byte;
        index.truncate(cut.max(1));
        fs::write(written.directory.path().join("index.json"), index).expect("index");
        match written.read(&Choice::default()) {
            Ok(image) => prop_assert_eq!(image.digest.as_str(), manifest["digest"].as_str().expect("digest")),
            Err(why) => prop_assert!(!why.to_string().contains('\n')),
        }
    }
}
