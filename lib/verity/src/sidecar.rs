//! `layer.erofs.dmverity`, where containerd says what it has made of a layer: the root hash, and where the
//! superblock is.

use serde::{Deserialize, Serialize};

use crate::{BLOCK, Layout, RootHash};

/// The longest one that is read, in bytes: containerd's have some 120.
const MOST_BYTES: usize = 4096;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// The root hash.
    pub root: RootHash,
    /// Where all is, for so many data blocks as there are before the superblock.
    pub layout: Layout,
}

/// One that can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SidecarError {
    #[error("it has {0} bytes, and can have {MOST_BYTES}")]
    Length(usize),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "hashoffset: {0} is no multiple of 4096 bytes, or out of bounds: containerd's differ is not to have enable_tar_index"
    )]
    Offset(u64),
}

/// As containerd spells it. Later versions may say more, which this does not depend on.
#[derive(Serialize, Deserialize)]
struct Json {
    roothash: RootHash,
    hashoffset: u64,
}

impl Sidecar {
    /// What containerd calls it, beside the layer's file of this name.
    #[must_use]
    pub fn name(layer: &str) -> String {
        format!("{layer}.dmverity")
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is not containerd's JSON, or of blocks of another size than 4096 bytes.
    pub fn read(json: &[u8]) -> Result<Self, SidecarError> {
        if json.len() > MOST_BYTES {
            return Err(SidecarError::Length(json.len()));
        }
        let json: Json = serde_json::from_slice(json)?;
        let offset = json.hashoffset;
        let block = BLOCK as u64;
        let layout = offset
            .is_multiple_of(block)
            .then(|| Layout::new(offset / block));
        Ok(Self {
            root: json.roothash,
            layout: layout.flatten().ok_or(SidecarError::Offset(offset))?,
        })
    }

    /// What it is to read no more than, to find out whether it is too long.
    #[must_use]
    pub const fn bound() -> u64 {
        MOST_BYTES as u64 + 1
    }

    /// As containerd writes it.
    #[must_use]
    pub fn json(&self) -> String {
        format!(
            "{{\n  \"roothash\": \"{}\",\n  \"hashoffset\": {}\n}}",
            self.root,
            self.layout.superblock_offset()
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MOST_DATA_BLOCKS;

    const ROOT: &str = "30c0f73fa2e1a7b6dc7d6a9f8a46e5e4a3f5b9ec9a1e20e5f0c8f9f4d9c3f1ab";

    fn refusal(json: &str) -> String {
        Sidecar::read(json.as_bytes())
            .expect_err("refused")
            .to_string()
    }

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(root: [u8; 32], data_blocks in 1..=MOST_DATA_BLOCKS) {
            let layout = Layout::new(data_blocks).expect("a layout");
            let sidecar = Sidecar { root: RootHash::new(root), layout };
            let read = Sidecar::read(sidecar.json().as_bytes()).expect("a sidecar");
            prop_assert_eq!(read, sidecar);
        }

        #[test]
        fn any_bytes_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            crate::testing::metadata(&bytes);
        }
    }

    #[test]
    fn containerds_is_read() {
        let json = format!("{{\n  \"roothash\": \"{ROOT}\",\n  \"hashoffset\": 8192\n}}");
        let read = Sidecar::read(json.as_bytes()).expect("a sidecar");
        assert_eq!(read.root.to_string(), ROOT);
        assert_eq!(read.layout.data_blocks(), 2);
        assert_eq!(read.json(), json);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let of = |root: &str, offset: &str| {
            format!("{{\"roothash\": \"{root}\", \"hashoffset\": {offset}}}")
        };
        assert!(refusal(&of(ROOT, "512")).contains("enable_tar_index"));
        assert!(refusal(&of(ROOT, "0")).contains("hashoffset: 0"));
        assert!(refusal(&of(ROOT, "18446744073709547520")).contains("out of bounds"));
        assert!(refusal(&of(ROOT, "-1")).contains("invalid value"));
        assert!(refusal(&of("00", "4096")).contains("64 hexadecimal digits"));
        assert!(refusal("{}").contains("missing field"));
        assert!(refusal(&" ".repeat(MOST_BYTES + 1)).contains("4097 bytes"));
    }
}
