//! Messages: a header, a fixed part for the kind of object, then attributes, each with its length
//! and kind. Numbers are in the machine's order, and everything begins at a multiple of four bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a message's header.
pub(super) const HEADER: usize = 16;
/// Bytes of an attribute's header.
const ATTRIBUTE: usize = 4;
/// An attribute's flags, above its kind.
const KIND: u16 = 0x3fff;

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// Begins one of a kind (`RTM_…`) with flags (`NLM_F_…`).
    pub fn new(kind: u16, flags: libc::c_int) -> Self {
        let mut header = vec![0; HEADER];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        Self(header)
    }

    /// Adds to the fixed part.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Adds two bytes to the fixed part.
    pub fn u16(self, number: u16) -> Self {
        self.bytes(&number.to_ne_bytes())
    }

    /// Adds four bytes to the fixed part.
    pub fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_ne_bytes())
    }

    /// Adds an attribute.
    pub fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.nested(kind, |message| message.bytes(value))
    }

    /// Adds an attribute if there is a value for it.
    pub fn optional<T: AsRef<[u8]>>(self, kind: u16, value: Option<T>) -> Self {
        match value {
            Some(value) => self.attribute(kind, value.as_ref()),
            None => self,
        }
    }

    /// Adds an attribute that is a text with its end.
    pub fn text(self, kind: u16, text: &str) -> Self {
        self.nested(kind, |message| message.bytes(text.as_bytes()).bytes(&[0]))
    }

    /// Adds an attribute that holds what is added meanwhile.
    pub fn nested(self, kind: u16, content: impl FnOnce(Self) -> Self) -> Self {
        self.sized(|message| content(message.u16(kind)))
    }

    /// Adds a length of two bytes and what is added meanwhile, which it counts as itself.
    pub fn sized(mut self, content: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = content(self.u16(0));
        // Bounds on what a network may hold keep every attribute far below 64 KiB.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Ends it.
    pub(super) fn finish(mut self, flags: libc::c_int, sequence: u32) -> Vec<u8> {
        let own = u16::from_ne_bytes([self.0[6], self.0[7]]);
        let flags = own | (flags | libc::NLM_F_REQUEST) as u16;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// An address as the kernel takes it.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An address as the kernel gives it: its length tells which kind it is.
pub fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// The attributes in some bytes, by kind and value; it ends where they make no sense.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND;
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// The first attribute of a kind.
pub fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes)
        .find(|(of, _)| *of == kind)
        .map(|(_, value)| value)
}

/// Two bytes at an offset.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Four bytes at an offset.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_out_as_they_went_in() {
        let message = Message::new(1, 0).text(3, "eth0").nested(5, |inner| {
            inner.attribute(1, &[7]).optional(2, Some([1, 2]))
        });
        let bytes = message.finish(0, 9);
        assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
        assert_eq!(u32_at(&bytes, 8), Some(9));
        let attributes = &bytes[HEADER..];
        assert_eq!(find(attributes, 3), Some(&b"eth0\0"[..]));
        let inner = find(attributes, 5).unwrap();
        assert_eq!(find(inner, 1), Some(&[7][..]));
        assert_eq!(find(inner, 2), Some(&[1, 2][..]));
        assert_eq!(find(attributes, 4), None);
    }

    #[test]
    fn nonsense_ends_the_attributes() {
        for bytes in [&[][..], &[3, 0, 1], &[3, 0, 1, 0], &[9, 0, 1, 0, 5]] {
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
        }
        // The last one need not be filled up.
        assert_eq!(Attributes(&[5, 0, 1, 0, 5]).count(), 1);
    }
}
