//! What a guest's kernel and its VMM print, of which the last lines are kept for the pod's event.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use trefoil_core::{Context, Result};
use trefoil_os::lock;

/// How much is kept, in bytes: more than a kernel's panic prints.
const KEPT: usize = 8192;

/// What a kernel says when it gives up. What it was doing then follows, and is of little use; what led to
/// it comes before.
const PANIC: &str = "Kernel panic";

/// How many lines an event shows.
const SHOWN: usize = 6;

/// Before what a kernel notes of the processor's weaknesses and its mitigations of them, which it prints
/// with its errors at each boot. Source: Linux's `arch/x86/kernel/cpu/bugs.c`, its `pr_fmt`.
const NOTES: [&str; 16] = [
    "MDS: ",
    "TAA: ",
    "MMIO Stale Data: ",
    "Register File Data Sampling: ",
    "SRBDS: ",
    "L1D Flush : ",
    "GDS: ",
    "Spectre V1 : ",
    "RETBleed: ",
    "ITS: ",
    "Spectre V2 : ",
    "Transient Scheduler Attacks: ",
    "Speculative Store Bypass: ",
    "L1TF: ",
    "Speculative Return Stack Overflow: ",
    "VMSCAPE: ",
];

/// How long the last of it may take to arrive once the VMM has ended.
const LAST: Duration = Duration::from_millis(100);

/// The reading end.
#[derive(Debug)]
pub(crate) struct Console {
    tail: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Console {
    /// Makes a pipe and reads it: the console, and the end that is written to. Must be called within the
    /// event loop.
    pub fn new() -> Result<(Self, OwnedFd)> {
        let doing = || "make a pipe for the guest's console";
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context(doing)?;
        let mut pipe = Receiver::from_owned_fd(read).context(doing)?;
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = tail.clone();
        let reader = tokio::spawn(async move {
            let mut piece = [0; KEPT];
            while let Ok(count @ 1..) = pipe.read(&mut piece).await {
                let mut tail = lock(&kept);
                tail.extend_from_slice(piece.get(..count).unwrap_or_default());
                let surplus = tail.len().saturating_sub(KEPT);
                tail.drain(..surplus);
            }
        });
        Ok((Self { tail, reader }, write))
    }

    /// The last lines as part of a sentence, when nobody writes any more; nothing if there are none.
    pub async fn last_words(&mut self) -> String {
        let _ = tokio::time::timeout(LAST, &mut self.reader).await;
        let tail = lock(&self.tail);
        match last_lines(&tail) {
            lines if lines.is_empty() => String::new(),
            lines => format!("; its last lines: {lines}"),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The last lines in one, without anything that would do something to a terminal.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|letter| !letter.is_control()).collect())
        .map(|line: String| line.trim().to_owned())
        .filter(|line| !line.is_empty() && !is_note(line))
        .collect();
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let end = panic.map_or(lines.len(), |panic| panic + 1);
    let first = end.saturating_sub(SHOWN);
    lines.get(first..end).unwrap_or_default().join(" | ")
}

/// Whether a line is one of [`NOTES`], after the time: `[    0.104322] RETBleed: …`.
fn is_note(line: &str) -> bool {
    let said = match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((time, said)) if time.bytes().all(|byte| b" .0123456789".contains(&byte)) => said,
        _ => line,
    };
    NOTES.iter().any(|note| said.starts_with(note))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_become_one_without_control_characters() {
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(b"\n\r\n"), "");
        let text = b"zero\r\n1\r\n2\n3\n4\n\x1b[31m5\x07\n\xff6";
        assert_eq!(last_lines(text), "1 | 2 | 3 | 4 | [31m5 | \u{fffd}6");
    }

    #[test]
    fn a_panic_is_shown_with_what_led_to_it() {
        let text = b"0\n1\n2\n3\n4\nno init\nKernel panic - not syncing: 6\nCall Trace:\n f+0x1\n";
        let shown = "1 | 2 | 3 | 4 | no init | Kernel panic - not syncing: 6";
        assert_eq!(last_lines(text), shown);
    }

    #[test]
    fn notes_of_mitigations_are_no_errors() {
        let text = b"[    0.103] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable\n\
            RETBleed: the same without a time\n\
            [    0.2] EXT4-fs error (device vda): RETBleed: a name of somebody's\n\
            [trefoil-vmm] ITS: a line of the VMM's\n\
            [    0.3] virtio_blk: no room\n";
        assert_eq!(
            last_lines(text),
            "[    0.2] EXT4-fs error (device vda): RETBleed: a name of somebody's | \
             [trefoil-vmm] ITS: a line of the VMM's | [    0.3] virtio_blk: no room"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_end_of_a_flood_is_kept_and_no_more() {
        let (mut console, write) = Console::new().expect("console");
        let writer = std::thread::spawn(move || {
            let mut write = std::fs::File::from(write);
            for number in 0..20_000 {
                writeln!(write, "line {number}").expect("write");
            }
        });
        while !writer.is_finished() {
            tokio::task::yield_now().await;
        }
        let words = console.last_words().await;
        assert!(words.ends_with("| line 19998 | line 19999"), "{words}");
        assert!(console.tail.lock().expect("tail").capacity() <= 4 * KEPT);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_console_that_somebody_holds_open_is_not_waited_for() {
        let (mut console, write) = Console::new().expect("console");
        std::fs::File::from(write.try_clone().expect("clone"))
            .write_all(b"Kernel panic\n")
            .expect("write");
        assert_eq!(console.last_words().await, "; its last lines: Kernel panic");
    }
}
