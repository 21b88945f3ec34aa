//! What the kernel is told and answers: `struct dm_ioctl` of `linux/dm-ioctl.h`, and a table behind it.

use trefoil_os::{Error, Result};
use zeroize::Zeroizing;

use crate::target::Target;

/// The version of the interface that is spoken: since Linux 2.6.
const VERSION: [u32; 3] = [4, 0, 0];

/// How long the structure is, in bytes.
const HEADER: usize = 312;
/// The same of `struct dm_target_spec`.
const SPECIFICATION: usize = 40;
/// Where fields of the structure are.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;

/// No name is longer, in bytes: there is a zero byte behind it.
const LONGEST_NAME: usize = 127;

/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;
/// `DM_SECURE_DATA_FLAG`: the kernel wipes its copy of what it was told.
const SECURE: u32 = 1 << 15;

/// What the kernel can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Create = 3,
    Remove = 4,
    /// Without a flag that says so it is the contrary: a new table is taken, and the device runs.
    Suspend = 6,
    Load = 9,
}

impl Command {
    /// `_IOWR(0xfd, command, struct dm_ioctl)`.
    pub(crate) fn number(self) -> libc::Ioctl {
        const READ_AND_WRITE: u32 = 3 << 30;
        let number = READ_AND_WRITE | (HEADER as u32) << 16 | 0xfd << 8 | self as u32;
        number as libc::Ioctl
    }
}

/// One question. What it held is wiped when it is dropped: it may have been a key.
pub(crate) struct Message {
    /// In words, so that it is aligned as the kernel's structure is.
    words: Zeroizing<Vec<u64>>,
}

impl Message {
    /// Of a device of this name.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            let why = format!("{name:?} is no name of 1 to {LONGEST_NAME} of 0-9 a-z A-Z - _ .");
            return Err(Error::invalid("name a device", why));
        }
        let mut message = Self {
            words: vec![0; HEADER / size_of::<u64>()].into(),
        };
        for (number, part) in VERSION.into_iter().enumerate() {
            message.put(number * size_of::<u32>(), part);
        }
        message.put(DATA_START, HEADER as u32);
        message.place(NAME, name.as_bytes());
        message.grow(0);
        Ok(message)
    }

    /// With a table of one target.
    pub(crate) fn with_table(mut self, target: &Target) -> Result<Self> {
        let parameters = target.parameters();
        // A zero byte ends them, and the next structure would be aligned.
        let length = (SPECIFICATION + parameters.len() + 1).next_multiple_of(size_of::<u64>());
        self.grow(length);
        self.put(TARGET_COUNT, 1);
        let mut flags = SECURE;
        if target.is_read_only() {
            flags |= READ_ONLY;
        }
        self.put(FLAGS, flags);
        self.place(HEADER + 8, &target.sectors().to_ne_bytes());
        let next =
            u32::try_from(length).map_err(|_| Error::invalid("make a table", "it is too long"))?;
        self.put(HEADER + 20, next);
        self.place(HEADER + 24, target.kind().as_bytes());
        self.place(HEADER + SPECIFICATION, parameters.as_bytes());
        Ok(self)
    }

    /// The device's minor number, in an answer.
    pub(crate) fn minor(&self) -> u32 {
        let device = self.get(DEVICE);
        // As the kernel packs two numbers into one.
        device & 0xff | (device >> 12) & !0xff
    }

    /// Where the kernel finds it.
    pub(crate) fn bytes(&mut self) -> *mut u64 {
        self.words.as_mut_ptr()
    }

    /// Makes it so much longer than the structure.
    fn grow(&mut self, more: usize) {
        let length = HEADER + more;
        // A longer one is another piece of memory: nothing secret is in the first.
        self.words.resize(length.div_ceil(size_of::<u64>()), 0);
        self.put(DATA_SIZE, (self.words.len() * size_of::<u64>()) as u32);
    }

    fn all(&self) -> impl Iterator<Item = u8> + '_ {
        self.words.iter().flat_map(|word| word.to_ne_bytes())
    }

    fn put(&mut self, at: usize, value: u32) {
        self.place(at, &value.to_ne_bytes());
    }

    fn get(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(self.all().skip(at)) {
            *byte = value;
        }
        u32::from_ne_bytes(bytes)
    }

    fn place(&mut self, at: usize, bytes: &[u8]) {
        for (number, &byte) in (at..).zip(bytes) {
            if let Some(word) = self.words.get_mut(number / size_of::<u64>()) {
                let mut parts = word.to_ne_bytes();
                parts[number % size_of::<u64>()] = byte;
                *word = u64::from_ne_bytes(parts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Verity;

    fn verity() -> Target {
        Target::Verity(Verity {
            device: "/dev/vda".into(),
            data_blocks: 16,
            root: [7; 32],
        })
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(Command::Create.number() as u32, 0xc138_fd03);
        assert_eq!(Command::Load.number() as u32, 0xc138_fd09);
    }

    #[test]
    fn a_table_is_where_the_kernel_looks_for_it() {
        let message = Message::of("layer").and_then(|one| one.with_table(&verity()));
        let message = message.expect("a message");
        let all: Vec<u8> = message.all().collect();
        assert_eq!(message.get(DATA_SIZE) as usize, all.len());
        assert_eq!(message.get(DATA_START), 312);
        assert_eq!(message.get(TARGET_COUNT), 1);
        assert_eq!(message.get(FLAGS), SECURE | READ_ONLY);
        assert_eq!(&all[48..54], b"layer\0");
        // From sector 0, so many sectors.
        assert_eq!(&all[312..328], [0_u64, 128].map(u64::to_ne_bytes).concat());
        assert_eq!(&all[336..343], b"verity\0");
        let text = verity().parameters();
        assert_eq!(&all[352..352 + text.len()], text.as_bytes());
        assert_eq!(all[352 + text.len()], 0);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in ["", "a/b", "a b", "a\0", "\u{e9}", &"x".repeat(128)] {
            let why = Message::of(wrong).map(drop).expect_err("no name");
            assert!(why.is_invalid(), "{why}");
        }
        Message::of(&"x".repeat(127)).map(drop).expect("a name");
    }

    #[test]
    fn a_minor_number_is_two_parts_of_the_kernels() {
        let mut answer = Message::of("a").expect("a message");
        // 253:274
        answer.put(DEVICE, 0x0010_fd12);
        assert_eq!(answer.minor(), 274);
    }
}
