//! What a confidential pod's author does: has `trefoil policy` derive the policy from a manifest and images.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::containerd::shim_binary;
use crate::{Rig, command, layout};

/// How long deriving a policy may take: images of layers are made for it.
const LIMIT: Duration = Duration::from_secs(300);

/// The pod's annotation that brings what the author has written.
const ANNOTATION: &str = "trefoil.dev/initdata";

/// An author, with the images that pods are made of.
pub struct Author<'a> {
    rig: &'a Rig,
    directory: PathBuf,
}

impl<'a> Author<'a> {
    /// One who has these images of the registry's, and no containerd.
    ///
    /// # Errors
    /// If the rig has no such image.
    pub fn new(rig: &'a Rig, names: &[&str]) -> Result<Self> {
        let directory = rig.directory().join("author");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        layout::write(names, &directory.join("layout"))?;
        // It is the shim's file by another name.
        symlink(shim_binary(), directory.join("trefoil"))?;
        Ok(Self { rig, directory })
    }

    /// Derives the policy of a manifest, and answers with the annotation that has it, with `cdh.toml` if there
    /// is one.
    ///
    /// # Errors
    /// What `trefoil policy` says.
    pub fn annotation(
        &self,
        manifest: &str,
        options: &[&str],
        cdh: Option<&str>,
    ) -> Result<(String, String)> {
        let at = |name: &str| self.directory.join(name);
        fs::write(at("pod.yaml"), manifest)?;
        let mut policy = self.rig.command(at("trefoil"))?;
        policy
            .arg("policy")
            .arg(at("pod.yaml"))
            .arg("--image-layout")
            .arg(at("layout"))
            .arg("--mkfs")
            .arg(self.rig.directory().join("bin/mkfs.erofs"))
            .args(["--tee", "simulated", "--output"])
            .arg(at("policy.json"))
            .arg("--annotation")
            .arg(at("annotation.yaml"))
            .args(options);
        if let Some(cdh) = cdh {
            fs::write(at("cdh.toml"), cdh)?;
            policy.arg("--cdh").arg(at("cdh.toml"));
        }
        command::run(&mut policy, &[], LIMIT)?.success()?;
        let text = fs::read_to_string(at("annotation.yaml"))?;
        let (name, value) = text
            .trim_end()
            .split_once(": ")
            .with_context(|| format!("no annotation: {text:?}"))?;
        anyhow::ensure!(name == ANNOTATION, "another annotation: {name}");
        Ok((name.to_owned(), value.to_owned()))
    }
}
