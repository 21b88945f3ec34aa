//! The fields of a protobuf message of which only some are read.

use containerd_shim_protos::protobuf::rt::WireType;
use containerd_shim_protos::protobuf::{CodedInputStream, Error as WireError};
use trefoil_core::{Error, Result};

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number, a truth value or one of an enumeration.
    Number(u64),
    /// A text, a message, or bytes.
    Bytes(Vec<u8>),
    /// What no field that is read here has.
    Other,
}

impl Value {
    /// The bytes of a text or a message.
    pub fn bytes(self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) | Self::Other => Err(malformed("a number where a text must be")),
        }
    }

    /// A text.
    pub fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| malformed("a text that is not UTF-8"))
    }

    /// A number without a sign.
    pub fn number(self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) | Self::Other => Err(malformed("a text where a number must be")),
        }
    }
}

/// Calls `take` for each field of a message, with its number, in their order.
///
/// # Errors
/// What is not a message, and what `take` refuses.
pub fn each_field(message: &[u8], mut take: impl FnMut(u32, Value) -> Result<()>) -> Result<()> {
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof().map_err(unreadable)? {
        take(tag >> 3, value(&mut input, tag & 7)?)?;
    }
    Ok(())
}

fn value(input: &mut CodedInputStream<'_>, wire_type: u32) -> Result<Value> {
    match WireType::new(wire_type) {
        Some(WireType::Varint) => input.read_raw_varint64().map(Value::Number),
        Some(WireType::LengthDelimited) => input.read_bytes().map(Value::Bytes),
        Some(fixed @ (WireType::Fixed32 | WireType::Fixed64)) => {
            input.skip_field(fixed).map(|()| Value::Other)
        }
        // Groups, which no message of this syntax has, and what there is not.
        _ => {
            return Err(malformed(&format!("a field of the wire type {wire_type}")));
        }
    }
    .map_err(unreadable)
}

fn unreadable(why: WireError) -> Error {
    malformed(&why.to_string())
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed message: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(message: &[u8]) -> Result<Vec<(u32, Value)>> {
        let mut all = Vec::new();
        each_field(message, |number, value| {
            all.push((number, value));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn fields_are_read_in_their_order() {
        let message = [
            0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x08, 0,
        ];
        let expected = [
            (1, Value::Number(150)),
            (2, Value::Bytes(b"hi".to_vec())),
            (3, Value::Other),
            (1, Value::Number(0)),
        ];
        assert_eq!(fields(&message).expect("read"), expected);
        let most = [
            0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        assert_eq!(fields(&most).expect("read"), [(1, Value::Number(u64::MAX))]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [
            &[0x08][..],
            &[0x80; 11],
            &[0x0a, 5, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0x0d, 1, 2, 3],
            &[0x0b],
            &[0x0c],
            &[0x0e],
            &[0x0f],
        ] {
            let why = fields(message).expect_err("no message").to_string();
            assert!(why.starts_with("malformed message: "), "{why}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(message: Vec<u8>) {
            if let Ok(all) = fields(&message) {
                prop_assert!(all.len() <= message.len());
            }
        }
    }
}
