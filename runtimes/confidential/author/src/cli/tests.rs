use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64ct::{Base64, Encoding};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use trefoil_initdata::{Field, Initdata, POLICY};
use trefoil_policy::Policy;

use super::*;

/// A directory with an image layout of one image, a manifest, and a program in place of mkfs.erofs.
struct Files(tempfile::TempDir);

const MANIFEST: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: web
    image: example.org/web:1 # the only one
";

impl Files {
    fn new() -> Self {
        Self::with_user("web:x:7:8:::")
    }

    /// The image has this line in `/etc/passwd`.
    fn with_user(line: &str) -> Self {
        let files = Self(tempfile::tempdir().expect("directory"));
        std::fs::create_dir_all(files.path("layout/blobs/sha256")).expect("directory");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let passwd = format!("{line}\n").into_bytes();
        header.set_size(passwd.len() as u64);
        archive
            .append_data(&mut header, "etc/passwd", passwd.as_slice())
            .expect("an entry");
        let attributes = [
            ("SCHILY.xattr.user.a", &b"1"[..]),
            ("SCHILY.xattr.user.b", b"2"),
        ];
        archive.append_pax_extensions(attributes).expect("an entry");
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        archive
            .append_data(&mut header, "odd", std::io::empty())
            .expect("an entry");
        let layer = archive.into_inner().expect("an archive");
        let diff_id = digest(&layer);
        let layer = files.blob(&layer, "application/vnd.oci.image.layer.v1.tar");
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "config": {"Entrypoint": ["/web"], "User": "web"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}
        });
        let config = files.document(&config, "application/vnd.oci.image.config.v1+json");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let mut manifest = files.document(&manifest, "application/vnd.oci.image.manifest.v1+json");
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "example.org/web:1"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        files.write("layout/index.json", index.to_string().as_bytes());
        files.write("layout/oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
        files.write("pod.yaml", MANIFEST.as_bytes());
        files.write(
            "mkfs",
            b"#!/bin/sh\n[ \"$1\" = --version ] && exec echo mkfs.erofs 1.8.6\nfor last; do :; done\necho >> \"$0.runs\"\ncat > \"$last\"\ntruncate -s 8192 \"$last\"\n",
        );
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(files.path("mkfs"), mode).expect("mode");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect(name);
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect(name)
    }

    fn blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = digest(bytes);
        self.write(&format!("layout/blobs/{}", digest.replace(':', "/")), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn document(&self, document: &Value, media_type: &str) -> Value {
        self.blob(document.to_string().as_bytes(), media_type)
    }

    /// Runs the subcommand; words with an `@` before them are files in the directory.
    fn run(&self, line: &str) -> Result<(), String> {
        let words = line
            .split_whitespace()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).into_os_string(),
                None => OsString::from(word),
            });
        run(words)
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", trefoil_initdata::hex(&Sha256::digest(bytes)))
}

#[test]
fn all_files_are_written_that_were_asked_for() {
    let files = Files::new();
    files.write("aa.toml", b"a = 1\n");
    files
        .run("@pod.yaml --image-layout @layout --mkfs @mkfs --allow-logs --output @policy.json --pinned @pinned.yaml --initdata @initdata.toml --aa @aa.toml --tee tdx --annotation @annotation")
        .expect("derived");
    let bytes = files.read("policy.json");
    let policy = Policy::from_json(bytes.as_bytes()).expect("a policy");
    assert!(policy.knobs.logs);
    let container = &policy.containers[0];
    assert_eq!(
        (container.process.user.uid, container.process.user.gid),
        (7, 8)
    );
    assert_eq!(container.layers[0].blocks, 2);
    let pinned = format!(
        "image: example.org/web:1@sha256:{} # the only one",
        container.image
    );
    assert!(
        files.read("pinned.yaml").contains(&pinned),
        "{}",
        files.read("pinned.yaml")
    );
    let document = files.read("initdata.toml");
    let initdata = Initdata::read(document.as_bytes(), Field::MrConfigId).expect("initdata");
    assert_eq!(initdata.get(POLICY), Some(bytes.as_str()));
    assert_eq!(initdata.get("aa.toml"), Some("a = 1\n"));
    let annotation = files.read("annotation");
    let value = annotation
        .strip_prefix("trefoil.dev/initdata: ")
        .expect("the name")
        .trim();
    assert_eq!(
        annotation::decode(value).expect("decoded"),
        document.as_bytes()
    );
}

#[test]
fn a_pinned_manifest_gives_the_same_policy() {
    let files = Files::new();
    let options = "--image-layout @layout --mkfs @mkfs";
    files
        .run(&format!(
            "@pod.yaml {options} --output @one --pinned @pinned.yaml"
        ))
        .expect("derived");
    files
        .run(&format!("@pinned.yaml {options} --output @two"))
        .expect("derived again");
    assert_eq!(files.read("one"), files.read("two"));
}

#[test]
fn what_is_wrong_is_told_in_one_sentence() {
    let files = Files::new();
    let two = format!(
        "{MANIFEST}---\n{}",
        MANIFEST.replace("{name: web}", "{name: other}")
    );
    files.write("two.yaml", two.as_bytes());
    files.write("none.yaml", b"apiVersion: v1\nkind: Service\n");
    for (line, why) in [
        ("@absent.yaml", "read "),
        ("@none.yaml --mkfs @mkfs", "no pod and no workload in it"),
        (
            "@two.yaml --mkfs @mkfs",
            "several pods, so name one with --pod: \"Pod web\", \"Pod other\"",
        ),
        (
            "@two.yaml --pod third --mkfs @mkfs",
            "no pod \"third\"; there are \"Pod web\"",
        ),
        (
            "@two.yaml --pod other --mkfs @mkfs",
            "no --image-layout has \"example.org/web:1\": fetch it with",
        ),
        ("@pod.yaml --mkfs @absent", "erofs-utils"),
        (
            "@pod.yaml --aa @pod.yaml",
            "--aa is of no use without --initdata",
        ),
    ] {
        let told = files.run(line).expect_err(line);
        assert!(told.contains(why), "{line}: {told}");
    }
}

/// Which of them a node would run can't be known.
#[test]
fn two_images_of_a_name_are_refused() {
    let (files, other, same) = (Files::new(), Files::with_user("web:x:0:0:::"), Files::new());
    let path = |files: &Files| files.path("layout").display().to_string();
    let digest = |files: &Files| {
        let index: Value =
            serde_json::from_str(&files.read("layout/index.json")).expect("the index");
        index["manifests"][0]["digest"]
            .as_str()
            .expect("a digest")
            .to_owned()
    };
    let line = |others: &str| {
        format!("@pod.yaml --mkfs @mkfs --output @policy.json --image-layout @layout {others}")
    };
    let told = files
        .run(&line(&format!("--image-layout {}", path(&other))))
        .expect_err("two images");
    for part in [
        "spec.containers[0].image: \"example.org/web:1\" is",
        &format!("{} in {}", digest(&files), path(&files)),
        &format!("{} in {}", digest(&other), path(&other)),
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    files
        .run(&line(&format!("--image-layout {}", path(&same))))
        .expect("the same image twice");
    // Who says the digest says which one.
    let pinned = MANIFEST.replace("web:1", &format!("web:1@{}", digest(&other)));
    files.write("pod.yaml", pinned.as_bytes());
    files
        .run(&line(&format!("--image-layout {}", path(&other))))
        .expect("pinned");
    let bytes = files.read("policy.json");
    let policy = Policy::from_json(bytes.as_bytes()).expect("a policy");
    assert_eq!(policy.containers[0].process.user.uid, 0);
}

#[test]
fn an_image_is_read_once_and_its_cautions_are_told() {
    let files = Files::new();
    let several = MANIFEST.to_owned()
        + "  - {name: other, image: example.org/web:1}
  initContainers:
  - {name: first, image: example.org/web:1}
";
    let manifest = manifest::read("pod.yaml", &several).expect("a manifest");
    let mkfs = Mkfs::new(&files.path("mkfs")).expect("a program");
    let images = Layouts::new(vec![files.path("layout")], mkfs, None);
    let pod = &manifest.pods[0];
    let derived = derive::policy(pod, &manifest.configs, &images, &derive::Knobs::default())
        .expect("a policy");
    assert_eq!(derived.policy.containers.len(), 3);
    let caution = "the image example.org/web:1: layer sha256:";
    let told = derived
        .notes
        .iter()
        .filter(|note| note.starts_with(caution) && note.contains("several extended attributes"));
    assert_eq!(told.count(), 1, "{:#?}", derived.notes);
    assert_eq!(files.read("mkfs.runs").lines().count(), 1);
}

#[test]
fn an_image_that_was_changed_is_refused() {
    let files = Files::new();
    let blobs = files.path("layout/blobs/sha256");
    for blob in std::fs::read_dir(blobs).expect("blobs").flatten() {
        let mut bytes = std::fs::read(blob.path()).expect("a blob");
        let last = bytes.last_mut().expect("a byte");
        *last ^= 1;
        std::fs::write(blob.path(), &bytes).expect("written");
        let told = files
            .run("@pod.yaml --image-layout @layout --mkfs @mkfs --output @policy.json")
            .expect_err("another byte");
        assert!(told.contains("containers[0].image"), "{told}");
        *bytes.last_mut().expect("a byte") ^= 1;
        std::fs::write(blob.path(), &bytes).expect("written");
    }
}

/// Signs the image as cosign does, and writes the key's public half.
fn sign(files: &Files, name: &str, of: &str) {
    let random = SystemRandom::new();
    let key =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random)
        .expect("a key");
    let der = [P256_BEGINS.as_slice(), key.public_key().as_ref()].concat();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        Base64::encode_string(&der)
    );
    files.write(name, pem.as_bytes());
    let payload = json!({"critical": {
        "identity": {"docker-reference": "example.org/web"},
        "image": {"docker-manifest-digest": of},
        "type": "cosign container image signature"
    }, "optional": null});
    let signature = key
        .sign(&random, payload.to_string().as_bytes())
        .expect("signed");
    let mut layer = files.document(&payload, "application/vnd.dev.cosign.simplesigning.v1+json");
    layer["annotations"] =
        json!({"dev.cosignproject.cosign/signature": Base64::encode_string(signature.as_ref())});
    let config = files.document(&json!({}), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut manifest = files.document(&manifest, "application/vnd.oci.image.manifest.v1+json");
    let mut index: Value =
        serde_json::from_str(&files.read("layout/index.json")).expect("the index");
    let all = index["manifests"].as_array_mut().expect("manifests");
    let image = all[0]["digest"].as_str().expect("a digest");
    let tag = format!("{}.sig", image.replace(':', "-"));
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    all.truncate(1);
    all.push(manifest);
    files.write("layout/index.json", index.to_string().as_bytes());
}

#[test]
fn an_image_is_refused_without_a_signature_where_one_is_asked_for() {
    let files = Files::new();
    let index: Value = serde_json::from_str(&files.read("layout/index.json")).expect("the index");
    let image = index["manifests"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    let line =
        "@pod.yaml --image-layout @layout --mkfs @mkfs --output @policy.json --verify-signatures";
    sign(&files, "key", &image);
    files.run(&format!("{line} @key")).expect("signed");
    let why = "has no signature of this key";
    // Another key's.
    sign(&files, "other", &image);
    assert!(
        files
            .run(&format!("{line} @key"))
            .expect_err("another key")
            .contains(why)
    );
    files.run(&format!("{line} @other")).expect("signed");
    // Of another image.
    sign(&files, "key", &digest(b"another"));
    assert!(
        files
            .run(&format!("{line} @key"))
            .expect_err("another image")
            .contains(why)
    );
    files.write("layout/index.json", index.to_string().as_bytes());
    assert!(
        files
            .run(&format!("{line} @key"))
            .expect_err("none")
            .contains(why)
    );
    assert!(
        files
            .run(&format!("{line} @pod.yaml"))
            .expect_err("no key")
            .contains("P-256 in PEM")
    );
}

/// Before the point, in DER.
const P256_BEGINS: [u8; 26] = *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

#[test]
fn a_policy_is_told_in_sentences_and_compared() {
    let files = Files::new();
    let options = "@pod.yaml --image-layout @layout --mkfs @mkfs";
    files
        .run(&format!("{options} --output @old.json"))
        .expect("derived");
    files
        .run(&format!("{options} --explain --diff @old.json"))
        .expect("told");
    let line = format!("{options} --allow-logs --explain --diff @old.json").replace('@', "");
    let words = line.split_whitespace().map(OsString::from);
    let arguments = Arguments::read(words).expect("read").expect("no help");
    let mut policy = Policy::from_json(files.read("old.json").as_bytes()).expect("a policy");
    policy.knobs.logs = true;
    let told = tell(
        &Arguments {
            diff: Some(files.path("old.json")),
            ..arguments
        },
        &policy,
    );
    let told = told.expect("told").expect("sentences");
    assert!(
        told.lines().count() > policy.explain().len() && told.contains("logs"),
        "{told}"
    );
    let why = files
        .run(&format!("{options} --diff @pod.yaml"))
        .expect_err("no policy");
    assert!(why.contains("pod.yaml: the policy can't be read"), "{why}");
}
