//! What a device can be made of: each target with just the parameters that it is used with.

use std::fmt::{self, Write};
use std::path::PathBuf;

use rustix::rand::{GetRandomFlags, getrandom};
use trefoil_os::{Context, Result};
use zeroize::Zeroizing;

use crate::SECTOR;

/// The blocks of a layer and of its tree, and those of a scratch disk, in bytes.
const BLOCK: u64 = 4096;

/// Room for the parameters of any target, in bytes.
const LONGEST_PARAMETERS: usize = 1024;

/// What a device is made of.
#[derive(Debug)]
pub enum Target {
    /// See [`Verity`].
    Verity(Verity),
    /// See [`Integrity`].
    Integrity(Integrity),
    /// See [`Crypt`].
    Crypt(Crypt),
}

/// What is on a device, and is read only if it is what a root hash was made of: by SHA-256, in blocks of
/// 4096 bytes, with a salt of 32 zero bytes. The tree begins one block behind the data: between them is a
/// superblock, of which nothing is believed or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// The device that data and tree are on.
    pub device: PathBuf,
    /// How many blocks of data there are. With another number the same root hash is that of other data.
    pub data_blocks: u64,
    /// The root hash.
    pub root: [u8; 32],
}

/// Room for [`Crypt`]'s tags: a device of blocks of 4096 bytes, each with 28 bytes beside it. There is no
/// journal: who does not survive a crash needs none.
///
/// The kernel formats the device if its first block is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integrity {
    /// The device that blocks and tags are on.
    pub device: PathBuf,
    /// How long that is, in bytes.
    pub size: u64,
}

/// An encrypted and authenticated device, by AES-256 in GCM with random nonces. What was not written with
/// this key, to this sector, can't be read: also what was never written.
#[derive(Debug)]
pub struct Crypt {
    /// An [`Integrity`] device.
    pub device: PathBuf,
    /// How long that is, in bytes.
    pub size: u64,
    /// The key.
    pub key: Key,
}

/// A key, which is wiped when it is dropped, and never shown.
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// A new one, of the kernel's random bytes; waits until the kernel has some.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn random() -> Result<Self> {
        let doing = || "make a key";
        let mut key = Self(Zeroizing::new([0; 32]));
        let mut rest = key.0.as_mut_slice();
        while !rest.is_empty() {
            let length = getrandom(&mut *rest, GetRandomFlags::empty())
                .map_err(std::io::Error::from)
                .context(doing)?;
            rest = &mut rest[length..];
        }
        Ok(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Integrity {
    /// How much there is for data, in bytes. It is less than the kernel would give: of 4096 bytes each
    /// takes 28 beside it, 1/146 and padding, and the beginning of the device is the kernel's own.
    #[must_use]
    pub fn usable(&self) -> u64 {
        const BEGINNING: u64 = 4 << 20;
        let blocks = self.size.saturating_sub(BEGINNING) / BLOCK;
        (blocks - blocks / 128) * BLOCK
    }
}

impl Target {
    /// As the kernel calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Verity(_) => "verity",
            Self::Integrity(_) => "integrity",
            Self::Crypt(_) => "crypt",
        }
    }

    /// How long the device is.
    pub(crate) fn sectors(&self) -> u64 {
        match self {
            Self::Verity(verity) => verity.data_blocks.saturating_mul(BLOCK / SECTOR),
            Self::Integrity(integrity) => integrity.usable() / SECTOR,
            Self::Crypt(crypt) => crypt.size / BLOCK * (BLOCK / SECTOR),
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Self::Verity(_))
    }

    /// As the kernel's documentation of the target has them.
    pub(crate) fn parameters(&self) -> Zeroizing<String> {
        // With a key in them: one that grew would leave copies.
        let mut text = Zeroizing::new(String::with_capacity(LONGEST_PARAMETERS));
        let written = match self {
            Self::Verity(Verity {
                device,
                data_blocks,
                root,
            }) => write!(
                text,
                "1 {device} {device} {BLOCK} {BLOCK} {data_blocks} {tree} sha256 {root} {salt}",
                device = device.display(),
                tree = data_blocks.saturating_add(1),
                root = Hex(root),
                salt = Hex(&[0; 32]),
            ),
            Self::Integrity(Integrity { device, .. }) => write!(
                text,
                "{} 0 28 D 3 block_size:{BLOCK} journal_sectors:1 fix_padding",
                device.display()
            ),
            Self::Crypt(Crypt { device, key, .. }) => write!(
                text,
                "capi:gcm(aes)-random {} 0 {} 0 2 sector_size:{BLOCK} integrity:28:aead",
                Hex(&*key.0),
                device.display()
            ),
        };
        debug_assert!(written.is_ok(), "a string can be written to");
        text
    }
}

/// Bytes in hexadecimal digits, of which no copy is made.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_as_the_kernel_reads_them() {
        let mut root = [0; 32];
        root[0] = 0xab;
        let verity = Target::Verity(Verity {
            device: "/dev/vdb1".into(),
            data_blocks: 5,
            root,
        });
        let zeros = "0".repeat(62);
        assert_eq!(
            *verity.parameters(),
            format!("1 /dev/vdb1 /dev/vdb1 4096 4096 5 6 sha256 ab{zeros} 00{zeros}")
        );
        assert_eq!((verity.sectors(), verity.is_read_only()), (40, true));
        let crypt = Target::Crypt(Crypt {
            device: "/dev/dm-0".into(),
            size: 8191,
            key: Key(Zeroizing::new(root)),
        });
        assert_eq!(
            *crypt.parameters(),
            format!(
                "capi:gcm(aes)-random ab{zeros} 0 /dev/dm-0 0 2 sector_size:4096 integrity:28:aead"
            )
        );
        assert_eq!((crypt.sectors(), crypt.is_read_only()), (8, false));
        assert!(!format!("{crypt:?}").contains("171"), "{crypt:?}");
    }

    #[test]
    fn data_and_tags_fit_into_the_device() {
        for size in [0, 4 << 20, 16 << 20, 1 << 30, 8 << 30, 1 << 40] {
            let integrity = Integrity {
                device: "/dev/vdc".into(),
                size,
            };
            let usable = integrity.usable();
            assert_eq!(usable % BLOCK, 0);
            let tags = usable / BLOCK * 28;
            assert!(usable + tags <= size, "{usable} of {size}");
        }
    }
}
