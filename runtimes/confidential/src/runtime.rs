//! The runtime of confidential pods: a machine for each, launched with what its author has bound to it.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::settings;
use trefoil_core::{Error, Result, Runtime, Sandbox, SandboxConfig};
use trefoil_initdata::{BoundDigest, LONGEST, annotation};
use trefoil_sandbox_vmm::{Listener, MicroVm, Profile, Settings, Unshared};

use crate::broker::Forwarder;
use crate::content::Content;
use crate::sandbox::Warned;
use crate::settings::Own;
use crate::tee::{Launch, Tee, measured_word};

/// The annotations that bring a pod's initdata: ours, and that of Confidential Containers.
pub(crate) const ANNOTATIONS: [&str; 2] = [
    "trefoil.dev/initdata",
    "io.katacontainers.config.hypervisor.cc_init_data",
];

/// The runtime.
#[derive(Debug)]
pub(crate) struct ConfidentialVm {
    tee: Arc<dyn Tee>,
    own: Own,
    sizes: Settings,
    content: Arc<Content>,
}

/// How large a table says that pods are.
pub(crate) fn sizes(own: &Own, table: &settings::Settings) -> Result<Settings> {
    let profile = Profile::of_disks(own.kernel.clone(), own.initramfs.clone());
    Settings::of(profile, table)
}

impl ConfidentialVm {
    pub(crate) fn new(
        tee: Arc<dyn Tee>,
        table: &settings::Settings,
        count_shim: bool,
    ) -> Result<Self> {
        let own = Own::read(table)?;
        let sizes = Settings {
            count_shim,
            ..sizes(&own, table)?
        };
        let content = Arc::new(Content::new(&own.state));
        Ok(Self {
            tee,
            own,
            sizes,
            content,
        })
    }

    /// What a pod's machine is made of.
    fn profile(&self, config: &SandboxConfig) -> Result<Profile> {
        let initdata = initdata(config, self.own.initdata.as_deref())?;
        let bound = BoundDigest::of(&initdata, self.tee.field())
            .map_err(|why| Error::invalid(why.to_string()))?;
        let broker = Forwarder::of(&initdata, self.tee.field())?;
        let unshared = Unshared {
            initdata,
            scratch: self.own.scratch.clone(),
            sources: self.content.clone(),
            listener: broker.map(|broker| Arc::new(broker) as Arc<dyn Listener>),
        };
        let (kernel, initramfs) = (self.own.kernel.clone(), self.own.initramfs.clone());
        let mut profile = Profile::of_unshared(kernel, initramfs, unshared);
        profile.command_line += &measured_word(&*self.tee);
        let launch = Launch {
            kernel: &self.own.kernel,
            initramfs: &self.own.initramfs,
            command_line: &profile.command_line,
        };
        let words = self.tee.unmeasured_words(&launch, &bound)?;
        profile.command_line += &words;
        Ok(profile)
    }
}

#[async_trait]
impl Runtime for ConfidentialVm {
    async fn create_sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>> {
        let mut doing = String::from("make a confidential pod");
        if let Some(warning) = self.tee.warning() {
            // A string can be written to.
            let _ = write!(doing, " ({warning}: no TEE protects it)");
            log::warn!("pod {}: {warning}: no TEE protects it", config.id);
        }
        let profile = self.profile(&config).map_err(|why| why.context(&doing))?;
        let settings = Settings {
            profile,
            ..self.sizes.clone()
        };
        let made = MicroVm::new(settings).create_sandbox(config).await;
        let inner = made.map_err(|why| why.context(doing))?;
        Ok(match self.tee.warning() {
            Some(warning) => Arc::new(Warned { inner, warning }),
            None => inner,
        })
    }
}

/// The initdata that a pod's annotations bring, undone to the bytes that its author wrote; of a pod that brings none,
/// that of the node's file. Whoever checks the evidence sees which it was.
fn initdata(config: &SandboxConfig, of_node: Option<&Path>) -> Result<Vec<u8>> {
    let mut told = ANNOTATIONS
        .iter()
        .filter_map(|name| Some((name, config.annotations.get(*name)?)));
    match (told.next(), told.next()) {
        (None, _) => of_node.map_or_else(|| Err(none()), read),
        (Some((_, one)), Some((name, other))) if one != other => Err(Error::invalid(format!(
            "the annotations {} and {name} bring two different initdata",
            ANNOTATIONS[0]
        ))),
        (Some((name, value)), _) => annotation::decode(value)
            .map_err(|why| Error::invalid(format!("read the annotation {name}: {why}"))),
    }
}

fn none() -> Error {
    Error::invalid(format!(
        "a confidential pod needs initdata, by the annotation {}",
        ANNOTATIONS[0]
    ))
}

/// The node's file, if it is no longer than a document may be.
fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |why: &str| {
        let file = file.display();
        Error::precondition(format!("read the node's initdata, {file}: {why}"))
    };
    let mut document = Vec::new();
    File::open(file)
        .and_then(|open| open.take(LONGEST as u64 + 1).read_to_end(&mut document))
        .map_err(|why| failed(&why.to_string()))?;
    match document.len() {
        ..=LONGEST => Ok(document),
        _ => Err(failed(&format!("it has more than {LONGEST} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DOCUMENT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";

    fn with(annotations: &[(&str, &str)]) -> SandboxConfig {
        let annotations = annotations.iter();
        SandboxConfig {
            annotations: annotations
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..SandboxConfig::default()
        }
    }

    #[test]
    fn initdata_comes_by_either_annotation_and_not_by_two() {
        let value = annotation::encode(DOCUMENT).expect("encode");
        for name in ANNOTATIONS {
            let bytes = initdata(&with(&[(name, &value)]), None).expect("initdata");
            assert_eq!(bytes, DOCUMENT.as_bytes());
        }
        let both = [(ANNOTATIONS[0], &*value), (ANNOTATIONS[1], &*value)];
        initdata(&with(&both), None).expect("the same twice");
        let other = annotation::encode("other").expect("encode");
        let both = [(ANNOTATIONS[0], &*value), (ANNOTATIONS[1], &*other)];
        for (wrong, said) in [
            (with(&[]), "needs initdata"),
            (with(&both), "two different"),
            (with(&[(ANNOTATIONS[0], "%")]), "trefoil.dev/initdata: "),
        ] {
            let why = initdata(&wrong, None).expect_err(said).to_string();
            assert!(why.contains(said), "{why}");
        }
    }
    #[test]
    fn a_pod_that_brings_no_initdata_has_that_of_the_node() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("initdata.toml");
        let of_node = |annotations: &[(&str, &str)]| initdata(&with(annotations), Some(&file));
        let why = of_node(&[]).expect_err("there is no file").to_string();
        assert!(why.contains("initdata.toml: No such file"), "{why}");
        fs::write(&file, DOCUMENT).expect("written");
        assert_eq!(of_node(&[]).expect("the node's"), DOCUMENT.as_bytes());
        let own = annotation::encode("own").expect("encode");
        assert_eq!(of_node(&[(ANNOTATIONS[1], &own)]).expect("its own"), b"own");
        fs::write(&file, vec![b'a'; LONGEST + 1]).expect("written");
        let why = of_node(&[]).expect_err("too long").to_string();
        assert!(why.contains("more than"), "{why}");
    }
}
