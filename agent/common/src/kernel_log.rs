//! The kernel's log: where it is said what went wrong, and what is handed to the host.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use trefoil_agent_protocol::Log;

const DEVICE: &str = "/dev/kmsg";

/// The kernel takes no message that is longer, and hands out no record that is.
const LONGEST_MESSAGE: usize = 900;
const LONGEST_RECORD: usize = 8192;

/// Says one sentence of a program's in the kernel's log, and so on the console if there is one.
pub fn say(program: &str, sentence: fmt::Arguments<'_>) {
    let mut buffer = [0; LONGEST_MESSAGE];
    let message = message(&mut buffer, program, sentence);
    let said = OpenOptions::new()
        .write(true)
        .open(DEVICE)
        .and_then(|mut device| device.write_all(message));
    if said.is_err() {
        // The kernel has given us the console, if there is one. There is nothing else to try.
        drop(io::stderr().write_all(message));
    }
}

/// Has the program's defects said where everything else is.
pub fn say_defects_of(program: &'static str) {
    std::panic::set_hook(Box::new(move |defect| {
        let what = defect.payload_as_str().unwrap_or("it is not said what");
        match defect.location() {
            Some(place) => say(program, format_args!("a defect at {place}: {what}")),
            None => say(program, format_args!("a defect: {what}")),
        }
    }));
}

/// As an error of user space, cut short if it doesn't fit. One write is one record.
fn message<'a>(buffer: &'a mut [u8], program: &str, sentence: fmt::Arguments<'_>) -> &'a [u8] {
    let size = buffer.len();
    let mut rest = &mut *buffer;
    let fits = writeln!(rest, "<3>{program}: {sentence}");
    // Fails only when it is full, and then holds what fits.
    drop(fits);
    let used = size - rest.len();
    &buffer[..used]
}

/// All of it so far, a line of `[seconds.micros] text` for each record; the newest of it where it is longer
/// than [`Log::LONGEST`].
///
/// # Errors
/// What opening or reading the kernel's device fails with.
pub fn read() -> io::Result<Vec<u8>> {
    let device = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)?;
    render_all(device)
}

/// `device` gives one record for each read.
fn render_all(mut device: impl Read) -> io::Result<Vec<u8>> {
    let mut record = [0; LONGEST_RECORD];
    let mut lines = Vec::new();
    loop {
        match device.read(&mut record) {
            Ok(0) => return Ok(lines),
            Ok(count) => render(&record[..count], &mut lines),
            // That was the newest.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
            // Records were overwritten before we came to them: go on with the oldest there is.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if lines.len() > Log::LONGEST {
            forget_oldest(&mut lines, Log::LONGEST / 2);
        }
    }
}

/// Drops whole lines, and so many that the rest is not moved again for every further one.
fn forget_oldest(lines: &mut Vec<u8>, bytes: usize) {
    let newline = lines.iter().skip(bytes).position(|byte| *byte == b'\n');
    let end = newline.map_or(lines.len(), |newline| bytes + newline + 1);
    lines.drain(..end);
}

/// A record is `<level>,<number>,<microseconds>,<flags>;<text>`, a newline, and further lines with
/// what the message is about, which are left out. What doesn't print is escaped by the kernel.
fn render(record: &[u8], lines: &mut Vec<u8>) {
    let Some((head, rest)) = split(record, b';') else {
        return;
    };
    let micros = head
        .split(|byte| *byte == b',')
        .nth(2)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse::<u64>().ok());
    let Some(micros) = micros else {
        return;
    };
    let (text, _) = split(rest, b'\n').unwrap_or((rest, b""));
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    // Writing to a vector does not fail.
    drop(write!(lines, "[{seconds}.{micros:06}] "));
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    struct Device(VecDeque<io::Result<Vec<u8>>>);

    impl Read for Device {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let record = self
                .0
                .pop_front()
                .unwrap_or(Err(ErrorKind::WouldBlock.into()))?;
            buffer[..record.len()].copy_from_slice(&record);
            Ok(record.len())
        }
    }

    fn rendered(records: Vec<io::Result<Vec<u8>>>) -> String {
        String::from_utf8(render_all(Device(records.into())).unwrap()).unwrap()
    }

    #[test]
    fn a_record_is_a_line() {
        let records = [
            "5,0,0,-;Linux version 6.12",
            "6,1,1234567,-;one; two, three\n SUBSYSTEM=cpu\n DEVICE=+cpu:cpu0\n",
            "4,2,98000001,c,caller=T1;\n",
        ];
        let records = records.map(|record| Ok(record.as_bytes().to_vec()));
        let expected = "[0.000000] Linux version 6.12\n\
                        [1.234567] one; two, three\n\
                        [98.000001] \n";
        assert_eq!(rendered(records.into()), expected);
    }

    #[test]
    fn overwritten_records_are_passed_over() {
        let records = vec![
            Err(ErrorKind::BrokenPipe.into()),
            Err(ErrorKind::Interrupted.into()),
            Ok(b"6,9,7,-;nine\n".to_vec()),
        ];
        assert_eq!(rendered(records), "[0.000007] nine\n");
    }

    #[test]
    fn what_is_no_record_is_no_line() {
        for nothing in [
            "",
            "text",
            ";text",
            "6,1;text",
            "6,1,x,-;text",
            "6,1,-1,-;text",
        ] {
            let mut lines = Vec::new();
            render(nothing.as_bytes(), &mut lines);
            assert_eq!(lines, b"", "{nothing:?}");
        }
    }

    #[test]
    fn a_failing_device_is_a_failure() {
        let device = Device(vec![Err(ErrorKind::PermissionDenied.into())].into());
        assert!(render_all(device).is_err());
    }

    #[test]
    fn the_newest_of_too_much_is_left() {
        let text = "x".repeat(8000);
        let records = (0..2200).map(|number| Ok(format!("6,{number},{number},-;{text}").into()));
        let lines = rendered(records.collect());
        assert!(lines.len() <= Log::LONGEST && lines.len() > Log::LONGEST / 4);
        assert!(lines.starts_with("[0.00") && lines.ends_with("x\n"));
        assert!(lines.contains("\n[0.002199] x"));
    }

    #[test]
    fn half_a_log_is_whole_lines() {
        let mut lines = b"one\ntwo\nthree\n".to_vec();
        forget_oldest(&mut lines, 5);
        assert_eq!(lines, b"three\n");
        forget_oldest(&mut lines, 100);
        assert_eq!(lines, b"");
    }

    #[test]
    fn a_message_is_cut_short_to_fit() {
        let mut buffer = [0; 32];
        let said = message(&mut buffer, "trefoil-init", format_args!("no {}", "vsock"));
        assert_eq!(said, b"<3>trefoil-init: no vsock\n");
        let said = message(
            &mut buffer,
            "trefoil-init",
            format_args!("{}", "x".repeat(100)),
        );
        assert_eq!(said, b"<3>trefoil-init: xxxxxxxxxxxxxxx");
    }
}
