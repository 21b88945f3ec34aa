//! What is measured of microVM pods: all that is of others, where a test VM has the memory for it, and what
//! they alone have.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::Handler;
use rig::command;
use rig::counting;
use rig::cri::{ContainerSpec, Pod, PodSpec};

use crate::bench::measure::{self, Measure};
use crate::bench::table::{Row, Table};
use crate::bench::{Peers, confidential};

/// All of them that are measured in such a test VM, of this handler.
pub fn all(handler: Handler, by_instructions: bool) -> Vec<(&'static str, Measure)> {
    let mut all = measure::all(by_instructions);
    let own: &[(&str, Measure)] = match handler {
        // `ctr` has no pods, and these have no container without one. They have no volumes of the node's either.
        Handler::TrefoilConfidential => {
            all.retain(|(name, _)| !name.contains("ctr "));
            &confidential::OWN
        }
        _ => &[
            ("boot: by its parts", boot),
            ("files: metadata and data", files),
        ],
    };
    all.extend(own.iter().filter(|_| by_instructions));
    all
}

/// What the shim says of its machine's boot, in its own words.
const BOOT: &str = "milliseconds of the boot of ";

/// The parts of a machine's boot. The stock handler has none, and no ratio.
pub fn boot(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let [_, ours] = peers.both;
    let mut parts: BTreeMap<(usize, String), Row> = BTreeMap::new();
    for _ in 0..n {
        let line = again(peers, "a boot", || boot_told(peers, ours))?;
        for (index, part) in line.split(", ").enumerate() {
            let (name, value) = part.rsplit_once(' ').context("a part without a number")?;
            parts
                .entry((index, name.to_owned()))
                .or_insert_with(|| Row::new(format!("boot: {name}"), "ms"))
                .add(ours, value.parse()?);
        }
    }
    parts.into_values().for_each(|row| table.push(row));
    Ok(())
}

/// What the shim tells of one pod's boot.
fn boot_told(peers: &Peers<'_>, handler: Handler) -> Result<String> {
    let pod = Pod::run(peers.rig, handler, PodSpec::default())?;
    let log = fs::read_to_string(peers.rig.log())?;
    let of_pod = format!("{BOOT}{}: ", pod.id);
    let (told, _) = log
        .lines()
        .find_map(|line| line.split_once(&of_pod))
        .and_then(|(_, rest)| rest.split_once('"'))
        .with_context(|| format!("the log does not tell of the boot of {}", pod.id))?;
    pod.stop()?;
    pod.remove()?;
    Ok(told.to_owned())
}

/// [`counting::again`] for what is done with pods: of one that stands still nothing is left for the next.
pub fn again<T>(
    peers: &Peers<'_>,
    what: &str,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    counting::again(what, || {
        let outcome = attempt();
        if outcome.is_err() {
            peers.rig.remove_all()?;
        }
        outcome
    })
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is done with files, each by a line of shell without programs of its own where it is about
/// metadata.
const WORK: [(&str, &str); 6] = [
    (
        "files: 1000 made, of 5 bytes",
        "mkdir /d; i=0; while [ $i -lt 1000 ]; do echo four > /d/$i; i=$((i+1)); done",
    ),
    (
        "files: 1000 listed with their attributes",
        "ls -l /d > /dev/null",
    ),
    ("files: 1000 removed", "rm -r /d"),
    (
        "files: 64 MiB written and synced",
        "dd if=/dev/zero of=/f bs=1048576 count=64 conv=fsync 2> /dev/null",
    ),
    (
        "files: 64 MiB read again",
        "dd if=/f of=/dev/null bs=1048576 2> /dev/null",
    ),
    (
        "files: 64 MiB of a volume read, cached by the host",
        "dd if=/volume/data of=/dev/null bs=1048576 2> /dev/null",
    ),
];

fn files(peers: &Peers<'_>, _: usize, table: &mut Table) -> Result<()> {
    let volume = peers.rig.directory().join("logs/volume");
    fs::create_dir_all(&volume)?;
    let mut data = fs::File::create(volume.join("data"))?;
    let block: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8).collect();
    for _ in 0..64 {
        data.write_all(&block)?;
    }
    let mut spec = ContainerSpec::idle();
    spec.mounts = vec![(volume, "/volume".into())];
    work(peers, &WORK, spec, table)
}

/// Has a shell do this in a container of each, line by line, and adds a row for each line.
///
/// One round, whatever is asked for: two differ by a few per cent, and a guest that does all of it stands
/// still in about every second test VM.
pub fn work(
    peers: &Peers<'_>,
    work: &[(&str, &str)],
    spec: ContainerSpec,
    table: &mut Table,
) -> Result<()> {
    let lines: String = work
        .iter()
        .map(|(_, line)| format!("{line} || exit 1; echo done\n"))
        .collect();
    let script = format!("echo begin\n{lines}");
    let spec = ContainerSpec {
        command: ContainerSpec::shell(&script).command,
        ..spec
    };
    let mut rows: Vec<Row> = work.iter().map(|(name, _)| Row::new(*name, "ms")).collect();
    for handler in peers.both {
        let times = times(peers, handler, &spec, work.len())?;
        for (row, pair) in rows.iter_mut().zip(times.windows(2)) {
            // It may have become midnight.
            let took = (pair[1] + DAY).saturating_sub(pair[0]).as_secs_f64() % DAY.as_secs_f64();
            row.add(handler, took * 1e3);
        }
    }
    rows.into_iter().for_each(|row| table.push(row));
    Ok(())
}

/// All of it takes two seconds where clocks count instructions; a guest that takes so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(5);

/// When containerd read each line that a container printed, one more than it does parts, since midnight.
fn times(
    peers: &Peers<'_>,
    handler: Handler,
    spec: &ContainerSpec,
    parts: usize,
) -> Result<Vec<Duration>> {
    let pod = Pod::run(peers.rig, handler, PodSpec::default())?;
    let container = pod.start(spec)?;
    let printed = || fs::read_to_string(&container.log);
    // Not by asking the container: crictl would be a part of what is measured.
    command::until("the last line of the work", STANDS_STILL, || {
        Ok(printed()?.lines().count() > parts)
    })?;
    let (code, _) = container.ended_within(STANDS_STILL)?;
    let log = printed()?;
    let times: Vec<Duration> = log.lines().map(time).collect::<Result<_>>()?;
    ensure!(
        code == 0 && times.len() == parts + 1,
        "the container ended with {code} after {} parts",
        times.len().saturating_sub(1)
    );
    pod.stop()?;
    pod.remove()?;
    Ok(times)
}

/// The time that a line of a container's log begins with, such as `2026-11-26T05:22:09.123456789Z`,
/// since midnight.
pub fn time(line: &str) -> Result<Duration> {
    let (_, rest) = line.split_once('T').context("a line without a time")?;
    let field = |range: std::ops::Range<usize>| rest.get(range).context("a time that is too short");
    let seconds = field(0..2)?.parse::<u64>()? * 3600
        + field(3..5)?.parse::<u64>()? * 60
        + field(6..8)?.parse::<u64>()?;
    let fraction: String = rest[8..]
        .trim_start_matches('.')
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let nanoseconds = format!("{fraction:0<9}").parse()?;
    Ok(Duration::new(seconds, nanoseconds))
}
