//! The images the rig's registry serves: those critest pulls, and a pause image.
//!
//! They are made from Debian's packages, without a look at or a change to what the machine has
//! installed. The names and tags are the ones critest asks for; the content is ours:
//!
//! - The base holds Debian's busybox with one hard link per applet. Links would not do: masking
//!   `/bin/ls` would mask the file it points to, all of them. Nor would the static busybox: its
//!   shell runs its applets without looking for a file. `ipcs` is util-linux's and `pgrep` procps',
//!   as busybox's Debian build has neither.
//! - nginx is Debian's, with a configuration that writes a pid file.
//! - Layers are plain tar: on loopback, compressing costs more than it saves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use trefoil_guest::cache::{self, sha256};
use trefoil_guest::debian::{self, Apt, Release};
use trefoil_guest::run::output;

/// Debian packages the images are made from; their dependencies come along.
const PACKAGES: [&str; 5] = [
    "busybox",
    "procps",
    "util-linux",
    "util-linux-extra",
    "nginx",
];

/// The image most tests run: the base. (The registry asked is ours whatever the name says.)
pub const BASE: &str = "images.test/e2e-test-images/busybox:1.29-2";
/// A web server on port 80.
pub const WEB: &str = "images.test/e2e-test-images/nginx:1.14-2";
/// The same on another port, by a third layer.
pub const SERVER_ON_HOST: &str = "images.test/k8s-staging-cri-tools/hostnet-nginx-amd64:latest";
/// What containerd's CRI holds a pod's namespaces with.
pub const PAUSE: &str = "images.test/pause:3.10";

const BASE_REPOSITORY: &str = "e2e-test-images/busybox:1.29-2";
const CRITEST: &str = "k8s-staging-cri-tools";

/// The directory of the images: `blobs/<digest>` and `tags.json` (repository:tag to digest).
pub fn ensure() -> Result<PathBuf> {
    if let Some(images) = crate::tools::prebuilt().and_then(|built| built.last().cloned()) {
        return Ok(images);
    }
    let tree = tree()?;
    cache::ensure("images", &recipe(&tree), |out| {
        let programs = out.join("programs");
        fs::create_dir(&programs)?;
        let pause = compile(&programs, "pause", include_str!("programs/pause.c"))?;
        let euid = compile(&programs, "euid", include_str!("programs/euid.c"))?;
        Store::new(out)?.fill(&tree.join("root"), &pause, &euid)
    })
}

/// The root of a Debian that has what the images are made from.
pub fn root() -> Result<PathBuf> {
    Ok(tree()?.join("root"))
}

fn tree() -> Result<PathBuf> {
    cache::ensure("packages", &packages(), |out| {
        eprintln!("fetching Debian packages for the test images (once; cached)");
        fetch_packages(out)
    })
}

/// A program of `programs/`, compiled into this directory.
pub fn compile(directory: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let (input, program) = (directory.join(format!("{name}.c")), directory.join(name));
    fs::write(&input, source)?;
    output(
        Command::new("gcc")
            .args(["-Os", "-static", "-s", "-o"])
            .arg(&program)
            .arg(&input),
    )
    .context("the test images need gcc: run tests/rig/prerequisites.sh")?;
    Ok(program)
}

/// What [`ensure`] would answer, if it has been made.
pub fn find() -> Result<Option<PathBuf>> {
    let Some(tree) = cache::find("packages", &packages())? else {
        return Ok(None);
    };
    cache::find("images", &recipe(&tree))
}

/// What the tree of programs depends on.
fn packages() -> [Vec<u8>; 2] {
    let release = fs::read("/etc/os-release").unwrap_or_default();
    [PACKAGES.join(" ").into_bytes(), release]
}

/// What the images depend on: this file, the programs and the tree.
fn recipe(tree: &Path) -> [Vec<u8>; 4] {
    [
        include_bytes!("images.rs").to_vec(),
        include_bytes!("programs/pause.c").to_vec(),
        include_bytes!("programs/euid.c").to_vec(),
        tree.file_name()
            .unwrap_or_default()
            .as_encoded_bytes()
            .to_vec(),
    ]
}

/// Unpacks [`PACKAGES`] and all they depend on to `out/root`.
fn fetch_packages(out: &Path) -> Result<()> {
    let (state, root) = (out.join("apt"), out.join("root"));
    let packages = Apt::open(&state, Release::Machine)?.download_all(&PACKAGES)?;
    // As Debian's own merged layout has it.
    for directory in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        std::os::unix::fs::symlink(format!("usr/{directory}"), root.join(directory))?;
    }
    for package in packages {
        debian::unpack(&package, &root)?;
    }
    fs::remove_dir_all(state)?;
    Ok(())
}

/// One layer being put together.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        // Spelled out: what is left empty is no number, which some readers of archives refuse.
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size as u64);
        // Always the same, so that the digests are.
        header.set_mtime(1_700_000_000);
        header
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        Ok(self.0.append_data(&mut header, path, std::io::empty())?)
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Regular, mode, content.len());
        Ok(self.0.append_data(&mut header, path, content)?)
    }

    fn link(&mut self, kind: tar::EntryType, path: &str, target: &str) -> Result<()> {
        let mut header = Self::header(kind, 0o777, 0);
        Ok(self.0.append_link(&mut header, path, target)?)
    }

    /// A program of the package tree, with the libraries it names that this layer lacks.
    fn program(&mut self, tree: &Path, from: &str, to: &str, have: &mut Vec<String>) -> Result<()> {
        let path = tree.join(from);
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        self.file(to, 0o755, &content)?;
        let loader = "/lib64/ld-linux-x86-64.so.2";
        let listing = output(
            Command::new("chroot")
                .arg(tree)
                .args([loader, "--list"])
                .arg(format!("/{from}")),
        )?;
        for line in String::from_utf8_lossy(&listing).lines() {
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else {
                continue; // The one the kernel provides.
            };
            let inside = library.trim_start_matches('/').to_owned();
            if !have.contains(&inside) {
                let content =
                    fs::read(tree.join(&inside)).with_context(|| format!("reading {library}"))?;
                self.file(&inside, 0o755, &content)?;
                have.push(inside);
            }
        }
        Ok(())
    }
}

/// A finished layer: its digest, which is also that of its content, and its size.
#[derive(Clone)]
struct Blob {
    digest: String,
    size: usize,
}

/// What an image does when run.
#[derive(Clone, Copy, Default)]
struct Config<'a> {
    entrypoint: &'a [&'a str],
    command: &'a [&'a str],
    user: &'a str,
    /// Makes images that are otherwise the same different ones.
    label: &'a str,
}

/// The images being written.
struct Store {
    blobs: PathBuf,
    index: PathBuf,
    tags: BTreeMap<String, String>,
}

impl Store {
    fn new(out: &Path) -> Result<Self> {
        let blobs = out.join("blobs");
        fs::create_dir(&blobs)?;
        Ok(Self {
            blobs,
            index: out.join("tags.json"),
            tags: BTreeMap::new(),
        })
    }

    fn blob(&self, content: &[u8]) -> Result<Blob> {
        let digest = format!("sha256:{}", sha256(content));
        let path = self.blobs.join(&digest);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(Blob {
            digest,
            size: content.len(),
        })
    }

    fn layer(&self, layer: Layer) -> Result<Blob> {
        self.blob(&layer.0.into_inner()?)
    }

    fn image(&mut self, names: &[&str], layers: &[&Blob], config: &Config<'_>) -> Result<()> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let config = self.blob(&serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": config.user,
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": config.entrypoint,
                "Cmd": config.command,
                "Labels": { "dev.trefoil.image": config.label },
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?)?;
        let describe = |kind: &str, blob: &Blob| -> Value {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": blob.digest,
                "size": blob.size,
            })
        };
        let manifest = self.blob(&serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &config),
            "layers": layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect::<Vec<_>>(),
        }))?)?;
        for name in names {
            self.tags
                .insert((*name).to_owned(), manifest.digest.clone());
        }
        Ok(())
    }

    fn fill(mut self, tree: &Path, pause: &Path, euid: &Path) -> Result<()> {
        let mut libraries = Vec::new();
        let base = base_layer(tree, &mut libraries)?;
        let base = self.layer(base)?;
        let shell = Config {
            command: &["sh"],
            ..Config::default()
        };
        self.image(&[BASE_REPOSITORY], &[&base], &shell)?;

        // containerd's client suite pulls these, each to be removed apart from the others, and looks for
        // the users of busybox's own image.
        let mut users = Layer::new();
        let accounts = ["root:x:0:0", "daemon:x:1:1", "bin:x:2:2", "sys:x:3:3"];
        users.file(
            "etc/passwd",
            0o644,
            accounts
                .map(|one| format!("{one}::/:/bin/sh\n"))
                .concat()
                .as_bytes(),
        )?;
        let groups = ["root:x:0:", "daemon:x:1:", "bin:x:2:", "sys:x:3:"];
        users.file("etc/group", 0o644, (groups.join("\n") + "\n").as_bytes())?;
        let users = self.layer(users)?;
        for name in [
            "alpine:3.14.0",
            "busybox:1.36",
            "volume-copy-up:2.2",
            "volume-ownership:2.1",
            "whiteout-test:1.0",
        ] {
            let name = format!("containerd/{name}");
            let labelled = Config {
                label: &name,
                ..shell
            };
            self.image(&[&name], &[&base, &users], &labelled)?;
        }

        let mut web = Layer::new();
        for directory in ["var/lib/nginx", "var/log/nginx", "etc/nginx", "www"] {
            web.directory(directory, 0o755)?;
        }
        web.program(tree, "usr/sbin/nginx", "usr/sbin/nginx", &mut libraries)?;
        web.file(
            "etc/nginx/nginx.conf",
            0o644,
            nginx_configuration(80).as_bytes(),
        )?;
        web.file("www/index.html", 0o644, b"<h1>Welcome to nginx!</h1>\n")?;
        let web = self.layer(web)?;
        let serve = Config {
            command: &["nginx", "-g", "daemon off;"],
            ..Config::default()
        };
        self.image(&["e2e-test-images/nginx:1.14-2"], &[&base, &web], &serve)?;

        // critest pulls it for pods on the host's network, and expects this port.
        let mut moved = Layer::new();
        moved.file(
            "etc/nginx/nginx.conf",
            0o644,
            nginx_configuration(12003).as_bytes(),
        )?;
        let moved = self.layer(moved)?;
        let name = format!("{CRITEST}/hostnet-nginx-amd64:latest");
        self.image(&[&name], &[&base, &web, &moved], &serve)?;

        // critest looks for "httpd" in its log.
        let log_and_serve = Config {
            command: &[
                "sh",
                "-c",
                "echo httpd: serving; exec httpd -f -p 80 -h /www",
            ],
            ..Config::default()
        };
        self.image(
            &["e2e-test-images/httpd:2.4.39-4"],
            &[&base, &web],
            &log_and_serve,
        )?;

        let mut escalate = Layer::new();
        escalate.file("euid", 0o4755, &fs::read(euid)?)?;
        let escalate = self.layer(escalate)?;
        let call = Config {
            entrypoint: &["/euid"],
            ..Config::default()
        };
        self.image(
            &["e2e-test-images/nonewprivs:1.3"],
            &[&base, &escalate],
            &call,
        )?;

        let mut hold = Layer::new();
        hold.file("pause", 0o755, &fs::read(pause)?)?;
        let hold = self.layer(hold)?;
        // critest counts the names of 3.9: it must be another image than the one in use.
        for version in ["3.10", "3.9"] {
            let call = Config {
                entrypoint: &["/pause"],
                user: "65535:65535",
                label: version,
                ..Config::default()
            };
            self.image(&[&format!("pause:{version}")], &[&hold], &call)?;
        }

        for (name, user) in [
            ("test-image-user-uid", "1002"),
            ("test-image-user-username", "www-data"),
            ("test-image-user-uid-group", "1003:users"),
            ("test-image-user-username-group", "www-data:100"),
            // In the base's group file this user has a second group.
            ("test-image-predefined-group", "1000"),
        ] {
            let name = format!("{CRITEST}/{name}:latest");
            let config = Config {
                command: &["sh"],
                user,
                ..Config::default()
            };
            self.image(&[&name], &[&base], &config)?;
        }
        for (label, tags) in [
            ("latest", &["test-image-latest:latest"][..]),
            ("tag", &["test-image-tag:test", "test-image-tag:all"]),
            ("1", &["test-image-1:latest"]),
            ("2", &["test-image-2:latest"]),
            ("3", &["test-image-3:latest"]),
            (
                "tags",
                &[
                    "test-image-tags:1",
                    "test-image-tags:2",
                    "test-image-tags:3",
                ],
            ),
        ] {
            let names: Vec<String> = tags.iter().map(|tag| format!("{CRITEST}/{tag}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let config = Config {
                command: &["sh"],
                label,
                ..Config::default()
            };
            self.image(&names, &[&base], &config)?;
        }
        fs::write(&self.index, serde_json::to_vec_pretty(&self.tags)?)?;
        Ok(())
    }
}

fn base_layer(tree: &Path, libraries: &mut Vec<String>) -> Result<Layer> {
    let mut layer = Layer::new();
    for directory in [
        "bin", "sbin", "usr/bin", "usr/sbin", "lib", "lib64", "etc", "home", "root", "proc", "sys",
        "dev", "run", "var",
    ] {
        layer.directory(directory, 0o755)?;
    }
    for directory in ["tmp", "var/tmp"] {
        layer.directory(directory, 0o1777)?;
    }
    // nginx writes /run/nginx.pid, and critest reads /var/run/nginx.pid.
    layer.link(tar::EntryType::Symlink, "var/run", "../run")?;
    layer.program(tree, "usr/bin/busybox", "bin/busybox", libraries)?;
    let applets = output(
        Command::new("chroot")
            .arg(tree)
            .args(["/usr/bin/busybox", "--list"]),
    )?;
    for applet in String::from_utf8_lossy(&applets)
        .lines()
        .filter(|name| *name != "busybox")
    {
        layer.link(
            tar::EntryType::Link,
            &format!("bin/{applet}"),
            "bin/busybox",
        )?;
    }
    layer.program(tree, "usr/bin/ipcs", "bin/ipcs", libraries)?;
    layer.program(tree, "usr/bin/pgrep", "bin/pgrep", libraries)?;
    layer.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\n\
          www-data:x:33:33:www-data:/var/www:/bin/false\n\
          default-user:x:1000:1000::/home:/bin/sh\n\
          nobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    layer.file(
        "etc/group",
        0o644,
        b"root:x:0:\n\
          www-data:x:33:\n\
          users:x:100:\n\
          default-user:x:1000:\n\
          group-defined-in-image:x:50000:default-user\n\
          nogroup:x:65534:\n",
    )?;
    Ok(layer)
}

fn nginx_configuration(port: u16) -> String {
    format!(
        "worker_processes 1;\n\
         pid /run/nginx.pid;\n\
         error_log stderr notice;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n  access_log /dev/stdout;\n  server {{ listen {port}; root /www; }}\n}}\n"
    )
}
