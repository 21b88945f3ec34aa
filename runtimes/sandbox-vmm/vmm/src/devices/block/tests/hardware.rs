//! A block device of the host, where the tests may make one.

use std::os::fd::AsRawFd;

use super::*;

const LOOP_SET_FD: libc::Ioctl = 0x4c00;
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;

/// A loop device over a file.
struct Loop(File);

impl Loop {
    fn new(file: &File) -> std::io::Result<Self> {
        let both = |path: &str| OpenOptions::new().read(true).write(true).open(path);
        let control = both("/dev/loop-control")?;
        // SAFETY: the request takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let device = both(&format!("/dev/loop{number}"))?;
        // SAFETY: the request takes a descriptor.
        match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, file.as_raw_fd()) } {
            0 => Ok(Self(device)),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // SAFETY: the request takes no argument.
        unsafe { libc::ioctl(self.0.as_raw_fd(), LOOP_CLR_FD) };
    }
}

#[test]
fn a_block_device_is_a_disk() {
    for engine in engines() {
        let file = disk();
        let device = match Loop::new(&file) {
            Ok(device) => device,
            Err(why) => return eprintln!("not tested, no loop device can be made here: {why}"),
        };
        let mut driver = start(options(engine), &device.0);
        assert_eq!(u64::from(driver.read(0x100)), SECTORS);
        let mut expected = pattern(0, SIZE);
        assert!(read(&mut driver, 0, 1 << 20).data == expected[..1 << 20]);
        let bytes = pattern(1, 8192);
        assert_eq!(write(&mut driver, 80, &bytes), DONE);
        expected[80 * 512..][..8192].copy_from_slice(&bytes);
        assert_eq!(ask(&mut driver, FLUSH, &[]), DONE);
        assert!(content(&file) == expected, "flushed, it is in the file");
        for (kind, flags, sector) in [
            (DISCARD, 0, 256),
            (WRITE_ZEROES, 0, 512),
            (WRITE_ZEROES, 1, 1024),
        ] {
            assert_eq!(ask(&mut driver, kind, &range(sector, 128, flags)), DONE);
            expected[sector as usize * 512..][..128 * 512].fill(0);
            assert!(read(&mut driver, 0, 1 << 20).data == expected[..1 << 20]);
        }
        assert_eq!(write(&mut driver, SECTORS, &[1; 512]), FAILED);
        assert_eq!(driver.metrics.failures.get(), 1);
    }
}
