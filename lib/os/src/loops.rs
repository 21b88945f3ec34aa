//! Loop devices: files as block devices of the host's kernel.

use std::fs::File;
use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::{Context, Result};

/// Where a free one is asked for.
const CONTROL: &str = "/dev/loop-control";
/// `LOOP_CTL_GET_FREE`.
const GET_FREE: libc::Ioctl = 0x4c82;
/// `LOOP_CONFIGURE` (Linux 5.8).
const CONFIGURE: libc::Ioctl = 0x4c0a;
/// `LO_FLAGS_READ_ONLY`.
const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`: it lets go of its file when nobody has it open or mounted any more.
const AUTOCLEAR: u32 = 4;

/// How often another process may be faster to take the one that was free.
const TRIES: u32 = 100;

/// `struct loop_info64`, of which only the flags matter here.
#[repr(C)]
struct Info {
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A device of a file that is only read. It is there until this is dropped, and as long as it is mounted.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    _device: File,
}

impl Loop {
    /// Takes a free device for a file.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(file: &Path) -> Result<Self> {
        let doing = || format!("make a loop device of {}", file.display());
        let opened = File::open(file).context(doing)?;
        for _ in 0..TRIES {
            let path = free().context(doing)?;
            let device = File::open(&path).context(doing)?;
            match configure(&device, &opened) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _device: device,
                    });
                }
                Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {}
                Err(why) => return Err(why).context(doing),
            }
        }
        Err(Errno::EBUSY).context(doing)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A device that nobody has, now.
fn free() -> IoResult<PathBuf> {
    let control = File::open(CONTROL)?;
    // SAFETY: the call takes numbers.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    match number {
        0.. => Ok(format!("/dev/loop{number}").into()),
        _ => Err(IoError::last_os_error()),
    }
}

fn configure(device: &File, file: &File) -> IoResult<()> {
    let configuration = Configuration {
        file: file.as_raw_fd().unsigned_abs(),
        // As the kernel finds best.
        block_size: 0,
        info: Info {
            numbers: [0; 5],
            number: 0,
            encryption: [0; 2],
            flags: READ_ONLY | AUTOCLEAR,
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the call reads the structure, which is as the kernel's headers have it and lives through
    // it.
    match unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const configuration) } {
        0 => Ok(()),
        _ => Err(IoError::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Configuration>(), 304);
    }

    #[test]
    fn a_file_is_read_by_its_device_until_that_is_dropped() {
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "this test makes a loop device: run it as root"
        );
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(&[7; 4096]).expect("write");
        let device = Loop::of(file.path()).expect("a device");
        let path = device.path().to_owned();
        let mut opened = File::open(&path).expect("open");
        let mut bytes = Vec::new();
        opened.read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, [7; 4096]);
        let written = File::options()
            .write(true)
            .open(&path)
            .and_then(|mut device| device.write_all(&[8; 4096]));
        written.expect_err("it is only read");
        drop((opened, device));
        let name = path.file_name().expect("a name").to_owned();
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let own = file.path().display().to_string();
        while std::fs::read_to_string(&backing).is_ok_and(|now| now.trim() == own) {
            assert!(
                std::time::Instant::now() < deadline,
                "{path:?} is still there"
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
