//! What may stand in a file of the configuration, and what it means.
//!
//! A file is read into [`Keys`], where each key is there or not and knows where it was set; files are
//! laid over each other key by key, and what remains is checked as a whole.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use trefoil_core::{Error, Result};
use trefoil_sandbox_vmm::Settings;

use super::files::Text;
use super::{Config, amount, installed};
use crate::dispatch;

/// What holds where no file says anything.
mod default {
    use std::time::Duration;

    pub const CPUS: u8 = 1;
    pub const MEMORY: u32 = 512;
    pub const OVERHEAD: u32 = 40;
    pub const BOOT_LIMIT: Duration = Duration::from_secs(30);
}

/// A guest that takes longer never comes, in seconds.
const LONGEST_BOOT: u64 = 600;

/// Where a value was set.
#[derive(Clone, Debug)]
struct Origin {
    file: PathBuf,
    /// Counted from 1.
    line: usize,
}

impl Origin {
    /// The place of a byte of the file.
    fn new(text: &Text, offset: usize) -> Self {
        let before = text.content.bytes().take(offset);
        Self {
            file: text.path.clone(),
            line: 1 + before.filter(|byte| *byte == b'\n').count(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Path::display(&self.file), self.line)
    }
}

/// A value and where it was set.
#[derive(Clone, Debug)]
struct Set<T> {
    value: T,
    origin: Origin,
}

impl<T> Set<T> {
    fn new(spanned: Spanned<T>, text: &Text) -> Self {
        Self {
            origin: Origin::new(text, spanned.span().start),
            value: spanned.into_inner(),
        }
    }
}

/// A file, as it stands there.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    annotations: AnnotationsTable,
    microvm: MicroVmTable,
}

/// `[annotations]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct AnnotationsTable {
    /// The annotations that pods may use, by their full names.
    allowed: Option<Vec<Spanned<String>>>,
}

/// `[microvm]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct MicroVmTable {
    /// The guest's kernel.
    kernel: Option<Spanned<PathBuf>>,
    /// The initramfs that holds the guest's init.
    image: Option<Spanned<PathBuf>>,
    /// The program that makes containers in the guest.
    agent: Option<Spanned<PathBuf>>,
    /// Virtual CPUs of a pod without a limit.
    default_cpus: Option<Spanned<u64>>,
    /// Memory of a pod without a limit.
    default_memory_mib: Option<Spanned<u64>>,
    /// Memory that the guest's kernel and agent have beside the containers.
    overhead_memory_mib: Option<Spanned<u64>>,
    /// How long a guest may take to be ready.
    boot_timeout_seconds: Option<Spanned<u64>>,
}

/// The keys that are set, each at most once.
#[derive(Debug, Default)]
pub struct Keys {
    allowed_annotations: Option<Vec<Set<String>>>,
    kernel: Option<Set<PathBuf>>,
    image: Option<Set<PathBuf>>,
    agent: Option<Set<PathBuf>>,
    default_cpus: Option<Set<u64>>,
    default_memory_mib: Option<Set<u64>>,
    overhead_memory_mib: Option<Set<u64>>,
    boot_timeout_seconds: Option<Set<u64>>,
}

/// Reads one file.
pub fn parse(text: &Text) -> Result<Keys> {
    let file: File = toml::from_str(&text.content).map_err(|why| {
        let origin = Origin::new(text, why.span().unwrap_or_default().start);
        Error::invalid(format!("{origin}: {}", why.message().replace('\n', " ")))
    })?;
    let all = |values: Vec<Spanned<String>>| {
        values
            .into_iter()
            .map(|value| Set::new(value, text))
            .collect()
    };
    let path = |value| Set::new(value, text);
    let number = |value| Set::new(value, text);
    let microvm = file.microvm;
    Ok(Keys {
        allowed_annotations: file.annotations.allowed.map(all),
        kernel: microvm.kernel.map(path),
        image: microvm.image.map(path),
        agent: microvm.agent.map(path),
        default_cpus: microvm.default_cpus.map(number),
        default_memory_mib: microvm.default_memory_mib.map(number),
        overhead_memory_mib: microvm.overhead_memory_mib.map(number),
        boot_timeout_seconds: microvm.boot_timeout_seconds.map(number),
    })
}

impl Keys {
    /// These, and of `below` what these don't set.
    pub fn over(self, below: Self) -> Self {
        Self {
            allowed_annotations: self.allowed_annotations.or(below.allowed_annotations),
            kernel: self.kernel.or(below.kernel),
            image: self.image.or(below.image),
            agent: self.agent.or(below.agent),
            default_cpus: self.default_cpus.or(below.default_cpus),
            default_memory_mib: self.default_memory_mib.or(below.default_memory_mib),
            overhead_memory_mib: self.overhead_memory_mib.or(below.overhead_memory_mib),
            boot_timeout_seconds: self.boot_timeout_seconds.or(below.boot_timeout_seconds),
        }
    }

    /// What is in effect; keys that nobody set have their defaults.
    pub fn check(self) -> Result<Config> {
        let allowed_annotations = match self.allowed_annotations {
            Some(names) => names
                .into_iter()
                .map(known_annotation)
                .collect::<Result<_>>()?,
            // It makes pods' isolation stronger only.
            None => BTreeSet::from([dispatch::ISOLATION.to_owned()]),
        };
        let file = |key, set: Option<Set<PathBuf>>, name| match set {
            Some(set) => set.check(key, absolute),
            None => Ok(installed(name)),
        };
        let memory = |key, set: Option<Set<u64>>, default| match set {
            Some(set) => set.check(key, amount::mebibytes),
            None => Ok(default),
        };
        Ok(Config {
            allowed_annotations,
            microvm: Settings {
                kernel: file("kernel", self.kernel, "vmlinux")?,
                initramfs: file("image", self.image, "initramfs")?,
                agent: file("agent", self.agent, "agent")?,
                default_cpus: match self.default_cpus {
                    Some(set) => set.check("default-cpus", amount::cpus)?,
                    None => default::CPUS,
                },
                default_memory: memory(
                    "default-memory-mib",
                    self.default_memory_mib,
                    default::MEMORY,
                )?,
                overhead: memory(
                    "overhead-memory-mib",
                    self.overhead_memory_mib,
                    default::OVERHEAD,
                )?,
                boot_limit: match self.boot_timeout_seconds {
                    Some(set) => set.check("boot-timeout-seconds", boot_limit)?,
                    None => default::BOOT_LIMIT,
                },
                count_shim: true,
            },
        })
    }
}

impl<T: fmt::Debug + Clone> Set<T> {
    /// What `right` makes of the value of `key`, or an error that says where it was set.
    fn check<U>(self, key: &str, right: impl FnOnce(T) -> Result<U, String>) -> Result<U> {
        let Self { value, origin } = self;
        right(value.clone())
            .map_err(|why| Error::invalid(format!("{origin}: {key} is {value:?}, but {why}")))
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err("it is to be a path from the root".into()),
    }
}

fn boot_limit(seconds: u64) -> Result<Duration, String> {
    match seconds {
        1..=LONGEST_BOOT => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("it may be from 1 to {LONGEST_BOOT}")),
    }
}

fn known_annotation(name: Set<String>) -> Result<String> {
    if dispatch::ALL.iter().any(|(known, _)| *known == name.value) {
        return Ok(name.value);
    }
    Err(Error::invalid(format!(
        "{}: there is no annotation {}: there are {}",
        name.origin,
        name.value,
        dispatch::names()
    )))
}
