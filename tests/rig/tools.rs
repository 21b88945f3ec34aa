//! The programs we test against, built from Go modules pinned under `tests/counterparts/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use trefoil_guest::progress;

use crate::cache;
use crate::namespaces::REGISTRY_PORT;

/// One module under `tests/counterparts/` and how to build it.
struct Counterpart {
    name: &'static str,
    tags: &'static str,
    /// runc needs C; the others are built without it, which makes them static.
    cgo: bool,
    /// A package that is a test binary, and so is built by `go test -c`, with its name.
    test: Option<(&'static str, &'static str)>,
}

const COUNTERPARTS: [Counterpart; 4] = [
    Counterpart {
        name: "containerd",
        tags: "no_btrfs,no_zfs,no_devmapper",
        cgo: false,
        test: None,
    },
    Counterpart {
        name: "runc",
        tags: "netgo,osusergo,seccomp",
        cgo: true,
        test: None,
    },
    Counterpart {
        name: "cri-tools",
        tags: "",
        cgo: false,
        test: Some(("sigs.k8s.io/cri-tools/cmd/critest", "critest")),
    },
    Counterpart {
        name: "cni-plugins",
        tags: "",
        cgo: false,
        test: None,
    },
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The directory of `containerd`, `ctr` and `containerd-shim-runc-v2`.
    pub containerd_bin: PathBuf,
    /// The directory of `runc`.
    pub runc_bin: PathBuf,
    /// The directory of `crictl` and `critest`.
    pub cri_bin: PathBuf,
    /// The directory of the CNI plugins.
    pub cni_bin: PathBuf,
}

impl Tools {
    /// Builds what isn't in the cache yet.
    pub fn ensure() -> Result<Self> {
        let built = match prebuilt() {
            Some(mut built) => {
                built.truncate(COUNTERPARTS.len());
                built
            }
            None => COUNTERPARTS
                .iter()
                .map(Counterpart::ensure)
                .collect::<Result<_>>()?,
        };
        let built = built.iter().map(|directory| directory.join("bin"));
        let [containerd_bin, runc_bin, cri_bin, cni_bin] =
            <[PathBuf; 4]>::try_from(built.collect::<Vec<_>>())
                .map_err(|_| anyhow::anyhow!("a counterpart is missing"))?;
        Ok(Self {
            containerd_bin,
            runc_bin,
            cri_bin,
            cni_bin,
        })
    }

    /// The daemon.
    pub fn containerd(&self) -> PathBuf {
        self.containerd_bin.join("containerd")
    }

    /// containerd's own client.
    pub fn ctr(&self) -> PathBuf {
        self.containerd_bin.join("ctr")
    }

    /// The stock shim.
    pub fn runc_shim(&self) -> PathBuf {
        self.containerd_bin.join("containerd-shim-runc-v2")
    }

    /// The stock OCI runtime.
    pub fn runc(&self) -> PathBuf {
        self.runc_bin.join("runc")
    }

    /// The CRI client.
    pub fn crictl(&self) -> PathBuf {
        self.cri_bin.join("crictl")
    }

    /// The CRI conformance tests and benchmarks.
    pub fn critest(&self) -> PathBuf {
        self.cri_bin.join("critest")
    }
}

/// In a test VM: the counterparts' directories, and then the images', as the host has built
/// them. There is no need to look for a compiler there.
pub const PREBUILT: &str = "TREFOIL_PREBUILT";

/// What [`PREBUILT`] says.
pub fn prebuilt() -> Option<Vec<PathBuf>> {
    Some(std::env::split_paths(&std::env::var_os(PREBUILT)?).collect())
}

/// What [`PREBUILT`] is to say in a test VM, if all of it has been built.
pub fn find_built() -> Result<Option<Vec<PathBuf>>> {
    let mut found = Vec::new();
    for counterpart in &COUNTERPARTS {
        let inputs = counterpart.inputs()?;
        found.extend(cache::find(counterpart.name, &inputs)?);
    }
    found.extend(crate::images::find()?);
    Ok((found.len() == COUNTERPARTS.len() + 1).then_some(found))
}

impl Counterpart {
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("counterparts")
            .join(self.name)
    }

    /// What the programs are made of, as far as we choose it.
    fn inputs(&self) -> Result<[Vec<u8>; 4]> {
        let source = self.source();
        let read = |file: &str| {
            let path = source.join(file);
            fs::read(&path).with_context(|| format!("reading {}", path.display()))
        };
        let (module, sums) = (read("go.mod")?, read("go.sum")?);
        let go = go()?;
        let version = Command::new(&go)
            .arg("version")
            .current_dir(&source)
            .output()?
            .stdout;
        let how = format!("{} {} {:?}", self.tags, self.cgo, self.test);
        Ok([module, sums, how.into_bytes(), version])
    }

    fn ensure(&self) -> Result<PathBuf> {
        let (go, source) = (go()?, self.source());
        let inputs = self.inputs()?;
        cache::ensure(self.name, &inputs, |out| {
            let bin = out.join("bin");
            fs::create_dir(&bin)?;
            let mut target = bin.clone().into_os_string();
            target.push("/");
            // `tool` means every tool line of the module.
            self.go(&go, &source)
                .args(["build", "-o"])
                .arg(&target)
                .args(self.flags())
                .arg("tool")
                .ran()?;
            if let Some((package, name)) = self.test {
                self.go(&go, &source)
                    .args(["test", "-c", "-o"])
                    .arg(bin.join(name))
                    .args(self.flags())
                    .arg(package)
                    .ran()?;
            }
            Ok(())
        })
    }

    fn go(&self, go: &Path, source: &Path) -> Command {
        let mut command = Command::new(go);
        command
            .current_dir(source)
            // Debian's go would otherwise refuse a module that asks for a newer one.
            .env(
                "GOTOOLCHAIN",
                std::env::var("GOTOOLCHAIN").unwrap_or_else(|_| "auto".into()),
            )
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .env(
                "GOFLAGS",
                std::env::var("GOFLAGS").unwrap_or_default() + " -mod=readonly -buildvcs=false",
            );
        command
    }

    fn flags(&self) -> Vec<String> {
        let link = if self.cgo {
            "-s -w -extldflags -static"
        } else {
            "-s -w"
        };
        vec![
            "-trimpath".into(),
            format!("-ldflags={link}"),
            format!("-tags={}", self.tags),
        ]
    }
}

/// containerd's module.
const CONTAINERD: &str = "github.com/containerd/containerd/v2";

/// containerd's own tests of its Go client, of the release that we test against. Its images are those of
/// a registry on loopback.
///
/// # Errors
/// If they aren't built yet and cannot be.
pub fn client_suite() -> Result<PathBuf> {
    let [counterpart, ..] = &COUNTERPARTS;
    let (go, source) = (go()?, counterpart.source());
    let registry = format!("\"127.0.0.1:{REGISTRY_PORT}/containerd/");
    let inputs = [
        counterpart.inputs()?.concat(),
        registry.clone().into_bytes(),
    ];
    let built = cache::ensure("client-suite", &inputs, |out| {
        let fetched = counterpart
            .go(&go, &source)
            .args(["mod", "download", "-json", CONTAINERD])
            .output()?;
        let fetched: serde_json::Value = serde_json::from_slice(&fetched.stdout)?;
        let from = fetched["Dir"].as_str().context("go has no containerd")?;
        // A copy, as Go lets nobody change what it has in its own cache; its module file knows what
        // only tests need.
        let module = out.join("module");
        Command::new("cp")
            .args(["-r", "--no-preserve=mode"])
            .arg(from)
            .arg(&module)
            .ran()?;
        let list = module.join("integration/images/image_list.go");
        let names = fs::read_to_string(&list)?.replace("\"ghcr.io/containerd/", &registry);
        fs::write(&list, names)?;
        counterpart
            .go(&go, &module)
            .args(["test", "-c", "-o"])
            .arg(out.join("client-suite"))
            .args(counterpart.flags())
            .arg("./integration/client")
            .ran()?;
        Ok(fs::remove_dir_all(&module)?)
    })?;
    Ok(built.join("client-suite"))
}

/// The Go client: from `PATH`, or where its installer and Debian put it.
fn go() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/local/go/bin", "/usr/lib/go/bin"].map(PathBuf::from));
    for directory in directories {
        let go = directory.join("go");
        if go.is_file() {
            return Ok(go);
        }
    }
    bail!("no `go` found: run tests/rig/prerequisites.sh")
}

trait Ran {
    fn ran(&mut self) -> Result<()>;
}

impl Ran for Command {
    /// Runs it with its messages going to ours.
    fn ran(&mut self) -> Result<()> {
        let line = crate::command::describe(self);
        progress::doing(&line);
        let status = self
            .status()
            .with_context(|| format!("starting `{line}`"))?;
        if !status.success() {
            bail!("`{line}` ended with {status}");
        }
        Ok(())
    }
}
