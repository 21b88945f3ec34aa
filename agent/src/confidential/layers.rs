//! Layers on disks of the host's, which are read only if they are what the policy says.
//!
//! The host says which device a container's layers are on, and how long each is there. The policy says what
//! their root hashes are and of how many blocks. A device of the device mapper with these, on the host's
//! device, is what is mounted: what the host has put there instead is found at the first block that is
//! read of it.
//!
//! Containers of one image have one disk. It is held as long as one of them is there.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use trefoil_agent_protocol::service::{Disk, Filesystem};
use trefoil_core::{Context, Error, Result};
use trefoil_mapper::{Device, Target, Verity};
use trefoil_os::{detached, lock};
use trefoil_policy::Layer;

use super::corruption::Corruption;
use super::mounted::Mounted;
use crate::disks::Driven;

/// Where layers are mounted.
const PLACE: &str = "/run/trefoil/layers";

/// The disks of layers that the guest has.
pub(crate) struct VerifiedDisks {
    held: Mutex<HashMap<u32, Weak<VerifiedDisk>>>,
    corruption: Arc<Corruption>,
}

/// A disk of which all layers are mounted.
pub(crate) struct VerifiedDisk {
    parts: Vec<u64>,
    expected: Option<Vec<Layer>>,
    /// The uppermost first. They go before the disk does, in this order of fields.
    layers: Vec<Mounting>,
    disk: Driven,
}

/// A layer, from what is mounted down to what is beneath.
struct Mounting {
    mounted: Mounted,
    _verified: Option<Verified>,
}

/// A verified device, and who hears of it when a block does not match.
struct Verified {
    device: Device,
    beneath: String,
    corruption: Arc<Corruption>,
}

impl Drop for Verified {
    fn drop(&mut self) {
        self.corruption.forget(&self.beneath);
    }
}

/// Which layer it is, as people count them: the lowest is the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerName {
    /// Its number.
    pub(crate) layer: usize,
    /// The first container that has it.
    pub(crate) container: String,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} of container {}", self.layer, self.container)
    }
}

impl VerifiedDisks {
    /// None yet. What is corrupt of later ones is told there.
    pub(crate) fn new(corruption: Arc<Corruption>) -> Self {
        Self {
            held: Mutex::default(),
            corruption,
        }
    }

    /// Holds a disk for a container whose layers are `expected`, the uppermost first. Without these nothing
    /// is verified: so it is where the policy allows everything.
    ///
    /// # Errors
    /// If the request says what can't be, or a layer does not match.
    pub(crate) fn hold(
        &self,
        container: &str,
        disk: &Disk,
        expected: Option<&[Layer]>,
    ) -> Result<Arc<VerifiedDisk>> {
        // Kept locked: who comes second is to find what the first has made.
        let mut held = lock(&self.held);
        held.retain(|_, disk| disk.strong_count() > 0);
        if let Some(known) = held.get(&disk.device).and_then(Weak::upgrade) {
            return match known.parts == disk.parts && known.expected.as_deref() == expected {
                true => Ok(known),
                false => Err(Error::invalid(format!(
                    "device {} has other layers already",
                    disk.device
                ))),
            };
        }
        let made = Arc::new(self.make(container, disk, expected)?);
        held.insert(disk.device, Arc::downgrade(&made));
        Ok(made)
    }

    fn make(
        &self,
        container: &str,
        disk: &Disk,
        expected: Option<&[Layer]>,
    ) -> Result<VerifiedDisk> {
        if disk.filesystem.enum_value() != Ok(Filesystem::EROFS) {
            return Err(Error::invalid("layers are of EROFS, and nothing else"));
        }
        check(&disk.parts, expected)?;
        let mut made = VerifiedDisk {
            parts: disk.parts.clone(),
            expected: expected.map(<[Layer]>::to_vec),
            layers: Vec::new(),
            disk: Driven::find(disk, false)?,
        };
        for index in 0..disk.parts.len() {
            let name = LayerName {
                layer: disk.parts.len() - index,
                container: container.to_owned(),
            };
            let part = made.disk.part(index).map(Path::to_owned);
            let part = part.ok_or_else(|| Error::internal(format!("there is no {name}")))?;
            let layer = expected.and_then(|layers| layers.get(index));
            made.layers
                .push(self.mount(disk.device, name, &part, layer)?);
        }
        Ok(made)
    }

    fn mount(
        &self,
        device: u32,
        name: LayerName,
        part: &Path,
        layer: Option<&Layer>,
    ) -> Result<Mounting> {
        let place = format!("{device}.{}", name.layer);
        let verified = match layer {
            Some(layer) => Some(self.verify(&place, part, layer)?),
            None => None,
        };
        let device = verified.as_ref().map(|one| one.device.path());
        let device = device.as_deref().unwrap_or(part);
        let mounted = detached::mount("erofs", &device.display().to_string(), &["ro"])
            .map_err(Error::from)
            .and_then(|tree| Mounted::at(PathBuf::from(PLACE).join(&place), tree));
        let beneath = verified.as_ref().map(|one| one.beneath.as_str());
        match mounted {
            Ok(mounted) => {
                if let Some(beneath) = beneath {
                    self.corruption.watch(beneath, name.to_string());
                }
                Ok(Mounting {
                    mounted,
                    _verified: verified,
                })
            }
            Err(why) => Err(
                match beneath.and_then(|beneath| self.corruption.look(beneath)) {
                    Some(block) => Error::precondition(format!("{name}: {block}")),
                    None => why.context(format!("mount {name}")),
                },
            ),
        }
    }

    fn verify(&self, name: &str, part: &Path, layer: &Layer) -> Result<Verified> {
        let doing = || format!("look at {}", part.display());
        let found = std::fs::metadata(part).context(doing)?;
        let (major, minor) = (
            nix::sys::stat::major(found.rdev()),
            nix::sys::stat::minor(found.rdev()),
        );
        let device = Device::create(
            &format!("layer.{name}"),
            &Target::Verity(Verity {
                device: part.to_owned(),
                data_blocks: layer.blocks,
                root: layer.root_hash.0,
            }),
        )?;
        Ok(Verified {
            device,
            beneath: format!("{major}:{minor}"),
            corruption: self.corruption.clone(),
        })
    }
}

impl VerifiedDisk {
    /// Where its layers are mounted, the uppermost first.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().map(|one| one.mounted.path())
    }
}

/// That there are as many layers as the policy has, each with room for its blocks, a superblock and a tree.
fn check(parts: &[u64], expected: Option<&[Layer]>) -> Result<()> {
    let Some(expected) = expected else {
        return Ok(());
    };
    if parts.len() != expected.len() {
        return Err(Error::invalid(format!(
            "the host has brought {} layers, and the policy has {}",
            parts.len(),
            expected.len()
        )));
    }
    for (index, (length, layer)) in parts.iter().zip(expected).enumerate() {
        let number = parts.len() - index;
        let behind = layer.blocks.saturating_add(1).saturating_mul(4096);
        if *length <= behind {
            return Err(Error::invalid(format!(
                "layer {number} has {length} bytes, which are less than its {} blocks and their hashes",
                layer.blocks
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trefoil_policy::Digest;

    use super::*;

    fn layers(blocks: &[u64]) -> Vec<Layer> {
        let layer = |&blocks| Layer {
            root_hash: Digest([7; 32]),
            blocks,
        };
        blocks.iter().map(layer).collect()
    }

    #[test]
    fn layers_are_as_many_as_the_policy_has_and_no_shorter() {
        let expected = layers(&[2, 1]);
        check(&[4 * 4096, 3 * 4096], Some(&expected)).expect("right");
        check(&[512], None).expect("whatever there is");
        for (parts, said) in [
            (vec![4 * 4096], "brought 1 layers, and the policy has 2"),
            (vec![4 * 4096, 2 * 4096], "layer 1 has 8192 bytes"),
            (vec![3 * 4096, 3 * 4096], "layer 2 has 12288 bytes"),
        ] {
            let why = check(&parts, Some(&expected)).expect_err(said).to_string();
            assert!(why.contains(said), "{why}");
        }
        check(&[u64::MAX], Some(&layers(&[u64::MAX]))).expect_err("no such layer");
    }

    #[test]
    fn what_is_no_erofs_is_no_layer() {
        let disks = VerifiedDisks::new(Arc::default());
        let disk = Disk {
            device: 3,
            filesystem: Filesystem::EXT4.into(),
            parts: vec![4096],
            ..Default::default()
        };
        let why = disks.hold("c", &disk, None).map(drop).expect_err("refused");
        assert!(why.to_string().contains("EROFS"), "{why}");
    }
}
