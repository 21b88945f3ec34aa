//! A packet's header (VIRTIO 1.2, 5.10.6) as bytes and as fields.

/// How long a header is.
pub const SIZE: usize = 44;
/// The host's address; ours.
pub const HOST_CID: u64 = 2;
/// The only type of socket there is.
pub const STREAM: u16 = 1;

/// SHUTDOWN: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// SHUTDOWN: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Connect.
    Request = 1,
    /// Connected.
    Response = 2,
    /// Not connected, or no longer.
    Reset = 3,
    /// One or both directions end.
    Shutdown = 4,
    /// Data.
    ReadWrite = 5,
    /// Only the credit, which every packet has.
    CreditUpdate = 6,
    /// The other side is to say its credit.
    CreditRequest = 7,
}

impl Op {
    /// The operation with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A header's fields, by the words of Linux's `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's address.
    pub src_cid: u64,
    /// The receiver's address.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// How many bytes of data follow.
    pub len: u32,
    /// The type of socket.
    pub kind: u16,
    /// See [`Op`].
    pub op: u16,
    /// Of SHUTDOWN: which directions.
    pub flags: u32,
    /// How much room the sender has for what it receives.
    pub buf_alloc: u32,
    /// How much of what it received it has passed on.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads the fields.
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The fields as they are sent.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The answer to a packet that belongs to no connection. It bears the addresses and the type
    /// of what it answers, or the guest would not find its socket.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((first, tail)) => {
            *rest = tail;
            *first
        }
        None => [0; N],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_linux_has_them() {
        let mut bytes = [0; SIZE];
        for (number, byte) in bytes.iter_mut().enumerate() {
            *byte = number as u8;
        }
        let header = Header::parse(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_port, 0x1716_1514);
        assert_eq!(header.kind, 0x1d1c);
        assert_eq!(header.op, 0x1f1e);
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
        assert_eq!(header.bytes(), bytes);
    }

    #[test]
    fn operations_are_numbered_as_they_are_sent() {
        for number in 0..=u16::MAX {
            match Op::from_number(number) {
                Some(op) => assert_eq!(op as u16, number),
                None => assert!(!(1..=7).contains(&number)),
            }
        }
    }
}
