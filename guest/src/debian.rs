//! Debian's packages, fetched by apt from where the machine's own sources point, with a state of
//! its own: the machine's package lists and what it has installed are neither used nor changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::output;

/// Whose packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The machine's own, security updates and all.
    Machine,
    /// Debian 13's, from the same mirror, whichever the machine's own release is.
    Trixie,
    /// The source packages of Debian 13, from the same mirror.
    TrixieSource,
    /// What later releases have, made for Debian 13; the rest as there.
    TrixieBackports,
    /// Whatever is newest, for what is to be tried with another version.
    Sid,
}

impl Release {
    /// Its suites, if they are not the machine's own: the one that comes first before the others.
    const fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Machine => &[],
            Self::Trixie | Self::TrixieSource => &["trixie"],
            Self::TrixieBackports => &["trixie-backports", "trixie"],
            Self::Sid => &["sid"],
        }
    }

    /// What a line of apt's sources calls such packages.
    const fn kind(self) -> &'static str {
        match self {
            Self::TrixieSource => "deb-src",
            Self::Machine | Self::Trixie | Self::TrixieBackports | Self::Sid => "deb",
        }
    }
}

/// apt with a state of its own, in a directory of the caller's.
pub struct Apt {
    state: PathBuf,
    /// The options that keep it to that state.
    options: Vec<String>,
}

impl Apt {
    /// Fetches the lists of a release into `state`, which the caller removes when done.
    pub fn open(state: &Path, release: Release) -> Result<Self> {
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(directory))?;
        }
        // An empty state: every dependency is fetched, whatever the machine has.
        fs::write(state.join("status"), "")?;
        let mut options = Vec::new();
        let mut set = |option: &str, value: &str| {
            options.extend(["-o".to_owned(), format!("{option}={value}")]);
        };
        for (option, path) in [
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::State::extended_states", "extended_states"),
            ("Dir::Cache", "cache"),
        ] {
            set(option, &state.join(path).display().to_string());
        }
        set("Debug::NoLocking", "1");
        set("APT::Sandbox::User", "root");
        if let [first, ..] = release.suites() {
            let list = state.join("sources.list");
            fs::write(&list, sources(release)?)?;
            set("Dir::Etc::sourcelist", &list.display().to_string());
            set("Dir::Etc::sourceparts", "/dev/null");
            set("APT::Default-Release", first);
        }
        let apt = Self {
            state: state.to_owned(),
            options,
        };
        output(apt.command("apt-get").args(["-qq", "update"]))
            .context("fetching Debian's package lists")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// A field of what the lists say about a package's newest version.
    pub fn field(&self, package: &str, field: &str) -> Result<String> {
        let text = output(
            self.command("apt-cache")
                .args(["show", "--no-all-versions", package]),
        )?;
        let text = String::from_utf8_lossy(&text);
        let prefix = format!("{field}: ");
        match text.lines().find_map(|line| line.strip_prefix(&prefix)) {
            Some(value) => Ok(value.to_owned()),
            None => bail!("Debian's package {package} has no field {field}"),
        }
    }

    /// Fetches one package (`name`, or `name=version`) without what it depends on, and answers its
    /// file.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        let directory = self.state.join("download");
        fs::create_dir_all(&directory)?;
        output(
            self.command("apt-get")
                .args(["-qq", "download", package])
                .current_dir(&directory),
        )?;
        let name = package.split_once('=').map_or(package, |(name, _)| name);
        let prefix = format!("{name}_");
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            {
                return Ok(path);
            }
        }
        bail!("apt-get downloaded {package}, but left no file of it")
    }

    /// Fetches a source package (`name`, or `name=version`) as it came from those who wrote it, without what
    /// Debian changes, and answers the packed tree.
    pub fn source(&self, package: &str) -> Result<PathBuf> {
        let directory = self.state.join("source");
        fs::create_dir_all(&directory)?;
        output(
            self.command("apt-get")
                .args(["-qq", "source", "--download-only", "--tar-only", package])
                .current_dir(&directory),
        )?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.to_string_lossy().contains(".orig.tar.") {
                return Ok(path);
            }
        }
        bail!("apt-get downloaded the source of {package}, but left no file of it")
    }

    /// Fetches packages and all they depend on, and answers their files.
    pub fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        output(
            self.command("apt-get")
                .args(["-qq", "install", "--download-only", "--yes"])
                .arg("--no-install-recommends")
                .args(packages),
        )?;
        let mut files = Vec::new();
        for entry in fs::read_dir(self.state.join("cache/archives"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Source lines for a release's suites, at the mirror that the machine's own sources name.
fn sources(release: Release) -> Result<String> {
    let (suites, kind) = (release.suites(), release.kind());
    let format = "$(REPO_URI)\t$(CREATED_BY)\t$(ORIGIN)\t$(LABEL)\t$(COMPONENT)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format]))?;
    let targets = String::from_utf8_lossy(&targets);
    let named = |wanted: &str| {
        targets.lines().find_map(|line| {
            let (uri, of) = line.split_once('\t')?;
            (of == wanted && !uri.contains("security")).then_some(uri)
        })
    };
    // What a source calls itself is known once its lists have been fetched; nobody may have yet.
    let mirror = named("Packages\tDebian\tDebian\tmain").or_else(|| named("Packages\t\t\tmain"));
    let Some(mirror) = mirror else {
        bail!("apt's sources name no mirror of Debian to take packages of {suites:?} from");
    };
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let line = |suite| format!("{kind} [signed-by={keyring}] {mirror} {suite} main\n");
    Ok(suites.iter().map(line).collect())
}

/// Unpacks a package's files below `root`, into Debian's merged `/usr` where `root` has it.
pub fn unpack(package: &Path, root: &Path) -> Result<()> {
    let content = root.with_extension("tar");
    let mut tar = Command::new("dpkg-deb");
    fs::write(&content, output(tar.arg("--fsys-tarfile").arg(package))?)?;
    output(
        Command::new("tar")
            .args(["-x", "--keep-directory-symlink", "-C"])
            .arg(root)
            .arg("-f")
            .arg(&content),
    )?;
    fs::remove_file(content).context("removing what a package was unpacked from")
}
