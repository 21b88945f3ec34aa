//! The machine as the kernel sees it: processors, memory, time, its log and its files.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::Pid;
use trefoil_probe::pattern;

use crate::request::{Answer, Outcome, While, Words, facts};

const CPUS: &str = "/sys/devices/system/cpu";

/// Says a sentence in the kernel's log.
pub(crate) fn say(sentence: &str) {
    let line = format!("<3>trefoil-probe: {sentence}\n");
    let said = fs::write("/dev/kmsg", &line);
    if said.is_err() {
        // The console, if there is one. There is nothing else to try.
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
}

/// Room for thousands of connections.
pub(crate) fn allow_many_descriptors() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_NOFILE, 65536, 65536).during("allowing many descriptors")
}

/// `log`: the kernel's log, a line for each record.
pub(crate) fn log(words: &mut Words<'_>) -> Outcome {
    words.end()?;
    let mut device = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .during("opening the kernel's log")?;
    let (mut lines, mut record) = (Vec::new(), vec![0; 8192]);
    loop {
        match device.read(&mut record) {
            Ok(0) => break,
            Ok(count) => {
                // "6,1,1234567,-;text", a newline, and what the text is about.
                let record = String::from_utf8_lossy(record.get(..count).unwrap_or_default());
                let text = record.split_once(';').map_or("", |(_, text)| text);
                lines.extend_from_slice(text.lines().next().unwrap_or_default().as_bytes());
                lines.push(b'\n');
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Records were overwritten before they were read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error).during("reading the kernel's log"),
        }
    }
    Ok(Answer::Bytes(lines))
}

/// `memory`: in bytes.
pub(crate) fn memory(words: &mut Words<'_>) -> Outcome {
    words.end()?;
    let table = fs::read_to_string("/proc/meminfo").during("reading /proc/meminfo")?;
    let find = |name: &str| -> Result<u64, String> {
        table
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
            .map(|kib: u64| kib * 1024)
            .ok_or_else(|| format!("/proc/meminfo has no {name}"))
    };
    facts!(
        total = find("MemTotal")?,
        free = find("MemFree")?,
        available = find("MemAvailable")?
    )
}

/// `fill-memory BYTES SEED`: writes a pattern to so much memory, then looks whether it is there.
pub(crate) fn fill_memory(words: &mut Words<'_>) -> Outcome {
    let bytes: usize = words.parse("how many bytes")?;
    let seed: u64 = words.parse("a seed")?;
    words.end()?;
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(bytes)
        .map_err(|_| format!("there are no {bytes} bytes of memory"))?;
    memory.resize(bytes, 0);
    pattern::fill(seed, 0, &mut memory);
    pattern::check(seed, 0, &memory)
        .map_err(|difference| format!("what is in memory is not the pattern: {difference}"))?;
    Answer::done()
}

/// `cpus`: lists such as `0-3,5`.
pub(crate) fn cpus(words: &mut Words<'_>) -> Outcome {
    words.end()?;
    let list = |name: &str| {
        let text = fs::read_to_string(format!("{CPUS}/{name}"))
            .during(format_args!("reading which processors are {name}"))?;
        Ok::<_, String>(text.trim().to_owned())
    };
    facts!(
        online = list("online")?,
        present = list("present")?,
        possible = list("possible")?
    )
}

/// `cpu-online NUMBER [0|1]`
pub(crate) fn cpu_online(words: &mut Words<'_>) -> Outcome {
    let number: u32 = words.parse("which processor")?;
    let online: u8 = words.parse_or("whether it is online", 1)?;
    words.end()?;
    fs::write(format!("{CPUS}/cpu{number}/online"), online.to_string())
        .during(format_args!("bringing processor {number} to {online}"))?;
    Answer::done()
}

/// `cpuid LEAF SUBLEAF [PROCESSOR]`, the first two in hexadecimal, as is the answer.
pub(crate) fn cpuid(words: &mut Words<'_>) -> Outcome {
    let mut number = |what: &str| {
        let word = words.word(what)?;
        u32::from_str_radix(word.trim_start_matches("0x"), 16)
            .map_err(|_| format!("{word:?} can't be {what}"))
    };
    let (leaf, sub_leaf) = (number("a leaf")?, number("a sub-leaf")?);
    let processor: usize = words.parse_or("a processor", 0)?;
    words.end()?;
    // A thread can go to another processor and then end.
    let asked = std::thread::spawn(move || {
        let mut set = CpuSet::new();
        set.set(processor)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
        nix::Result::Ok(std::arch::x86_64::__cpuid_count(leaf, sub_leaf))
    });
    let found = asked
        .join()
        .map_err(|_| "the thread that asks the processor died")?
        .during(format_args!("going to processor {processor}"))?;
    facts!(
        eax = format_args!("{:#x}", found.eax),
        ebx = format_args!("{:#x}", found.ebx),
        ecx = format_args!("{:#x}", found.ecx),
        edx = format_args!("{:#x}", found.edx)
    )
}

/// `time`: in nanoseconds, since 1970 and since the guest's start, and by which clock.
pub(crate) fn time(words: &mut Words<'_>) -> Outcome {
    words.end()?;
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(source).during("reading which clock is used")?;
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| "it is before 1970")?;
    let uptime = fs::read_to_string("/proc/uptime").during("reading the time since the start")?;
    let seconds: f64 = uptime
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| format!("{uptime:?} is no time"))?;
    facts!(
        real = since_1970.as_nanos(),
        uptime = (seconds * 1e9) as u64,
        source = source.trim()
    )
}

/// `read PATH`: a file's content.
pub(crate) fn read(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    words.end()?;
    Ok(Answer::Bytes(
        fs::read(path).during(format_args!("reading {path}"))?,
    ))
}

/// `write PATH TEXT`
pub(crate) fn write(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    fs::write(path, words.rest()).during(format_args!("writing {path}"))?;
    Answer::done()
}

/// `list PATH`: the names in a directory, a line for each.
pub(crate) fn list(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    words.end()?;
    let mut names: Vec<String> = fs::read_dir(path)
        .during(format_args!("reading {path}"))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}");
    }
    Ok(Answer::Bytes(text.into_bytes()))
}

/// `bind DRIVER DEVICE`: gives a device of the virtio bus to its driver.
pub(crate) fn bind(words: &mut Words<'_>) -> Outcome {
    tell_driver(words, "bind")
}

/// `unbind DRIVER DEVICE`: takes it from its driver, which resets it.
pub(crate) fn unbind(words: &mut Words<'_>) -> Outcome {
    tell_driver(words, "unbind")
}

fn tell_driver(words: &mut Words<'_>, what: &str) -> Outcome {
    let driver = words.word("a driver")?;
    let device = words.word("a device")?;
    words.end()?;
    fs::write(format!("/sys/bus/virtio/drivers/{driver}/{what}"), device).during(format_args!(
        "telling the driver {driver} to {what} {device}"
    ))?;
    Answer::done()
}
