//! A layer's tar archive, out of what it is compressed with.
//!
//! As in containerd the media type says whether it is compressed, and the first bytes say how.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use trefoil_core::{Error, ErrorKind, Result};

const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Of frames of zstd that have no content; the last four bits may be any.
const SKIPPABLE: u32 = 0x184d_2a50;

/// Whether a layer of this media type is compressed.
///
/// # Errors
/// If it is no tar archive that can be read without a key.
pub(super) fn is_compressed(media_type: &str) -> Result<bool> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar" => Ok(false),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(true),
        other => {
            let shown: String = other.chars().take(100).collect();
            Err(Error::new(
                ErrorKind::Unimplemented,
                format!(
                    "the layer is {shown:?}, and can be a tar archive, plain or by gzip or zstd"
                ),
            ))
        }
    }
}

/// The archive in a layer.
///
/// # Errors
/// If the first bytes can't be read.
pub(super) fn archive<'a>(
    layer: impl Read + 'a,
    compressed: bool,
) -> io::Result<Box<dyn Read + 'a>> {
    if !compressed {
        return Ok(Box::new(layer));
    }
    let mut layer = BufReader::with_capacity(1 << 16, layer);
    let front = layer.fill_buf()?;
    if front.starts_with(&GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(layer)));
    }
    let number = front
        .first_chunk()
        .map_or(0, |front| u32::from_le_bytes(*front));
    if front.starts_with(&ZSTD) || number & !15 == SKIPPABLE {
        return Ok(Box::new(Zstd::Between(layer)));
    }
    Ok(Box::new(layer))
}

/// What a frame is read from: its first bytes have been looked at.
type Frame<R> = Chain<Cursor<[u8; 4]>, R>;

/// Frames of zstd, one after the other.
enum Zstd<R: Read> {
    Between(R),
    Within(Box<StreamingDecoder<Frame<R>, ruzstd::decoding::FrameDecoder>>),
    /// At the end, or after an error.
    Over,
}

impl<R: Read> Zstd<R> {
    /// Begins the next frame that has content; answers whether there is one.
    fn next(mut from: R) -> io::Result<Option<Self>> {
        loop {
            let mut front = [0; 4];
            match from.read(&mut front[..1])? {
                0 => return Ok(None),
                _ => from.read_exact(&mut front[1..])?,
            }
            if u32::from_le_bytes(front) & !15 != SKIPPABLE {
                let frame = Cursor::new(front).chain(from);
                let decoder = StreamingDecoder::new(frame).map_err(invalid)?;
                return Ok(Some(Self::Within(Box::new(decoder))));
            }
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut from.by_ref().take(length), &mut io::sink())? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(self, Self::Over) {
                Self::Over => return Ok(0),
                Self::Between(from) => match Self::next(from)? {
                    Some(within) => *self = within,
                    None => return Ok(0),
                },
                Self::Within(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    if read > 0 {
                        *self = Self::Within(decoder);
                        return Ok(read);
                    }
                    *self = Self::Between(decoder.into_inner().into_inner().1);
                }
            }
        }
    }
}

fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn skippable(length: u32) -> Vec<u8> {
        let mut frame = (SKIPPABLE + 3).to_le_bytes().to_vec();
        frame.extend(length.to_le_bytes());
        frame.resize(8 + length as usize, 7);
        frame
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        archive(bytes, true)?.read_to_end(&mut read)?;
        Ok(read)
    }

    proptest! {
        #[test]
        fn what_was_compressed_is_read(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 1..4)) {
            let all = parts.concat();
            let members: Vec<_> = parts.iter().flat_map(|part| gzip(part)).collect();
            prop_assert_eq!(&read(&members).expect("gzip"), &all);
            let frames: Vec<_> = parts
                .iter()
                .flat_map(|part| [skippable(part.len() as u32), zstd(part)].concat())
                .collect();
            prop_assert_eq!(&read(&frames).expect("zstd"), &all);
            prop_assert_eq!(&read(&[frames, skippable(9)].concat()).expect("zstd"), &all);
        }

        #[test]
        fn what_is_cut_is_an_error(part in prop::collection::vec(any::<u8>(), 1..3000), cut in 1_usize..9) {
            for whole in [gzip(&part), zstd(&part)] {
                let cut = whole.len() - cut.min(whole.len() - 4);
                prop_assert!(read(&whole[..cut]).is_err(), "{} of {}", cut, whole.len());
            }
        }

        #[test]
        fn any_bytes_may_come(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_usize..3) {
            let fronts = [GZIP.to_vec(), ZSTD.to_vec(), skippable(5)];
            bytes.splice(..0, fronts[kind].iter().copied());
            drop(read(&bytes));
        }
    }

    #[test]
    fn what_is_not_compressed_is_read_as_it_is() {
        assert_eq!(read(b"etc/passwd").expect("as it is"), b"etc/passwd");
        assert_eq!(read(b"").expect("nothing"), b"");
        let mut plain = Vec::new();
        let gzip = gzip(b"a");
        archive(&gzip[..], false)
            .and_then(|mut archive| archive.read_to_end(&mut plain))
            .expect("as it is");
        assert_eq!(plain, gzip);
    }

    #[test]
    fn other_layers_are_named() {
        for (kind, compressed) in [
            ("application/vnd.oci.image.layer.v1.tar", false),
            ("application/vnd.oci.image.layer.v1.tar+zstd", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
        ] {
            assert_eq!(is_compressed(kind).expect(kind), compressed);
        }
        for kind in [
            "application/vnd.erofs.layer.v1",
            "application/vnd.oci.image.layer.v1.tar+encrypted",
        ] {
            let why = is_compressed(kind).expect_err("refused").to_string();
            assert!(why.contains(kind), "{why}");
        }
    }
}
