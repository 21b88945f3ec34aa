//! The measurements.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use rig::cgroup::CpuClock;
use rig::command;
use rig::cri::{self, ContainerSpec, PodSpec};
use rig::images::BASE;
use rig::{Handler, Rig, containerd, critest};
use serde_json::Value;

use crate::bench::Peers;
use crate::bench::table::{Row, Table, quantile};

pub type Measure = fn(&Peers<'_>, usize, &mut Table) -> Result<()>;

/// All of them, by the names `--only` looks at.
pub const ALL: &[(&str, Measure)] = &[
    ("run: ctr run --rm", ctr_run),
    ("exec: ctr tasks exec", ctr_exec),
    ("container: through CRI", containers),
    ("pod: through CRI", pods),
    ("parallel: 8 pods", |peers, n, table| {
        parallel_pods(peers, n.max(32), 8, table)
    }),
    ("parallel: 50 pods", |peers, n, table| {
        parallel_pods(peers, (2 * n).max(100), 50, table)
    }),
    ("memory: of a pod's shim", memory),
    ("size: of the binaries", size),
];

/// Those that are measured in a test VM: what memory is used is the same by any clock, and where clocks count
/// instructions a guest stands still now and then.
pub fn all(by_instructions: bool) -> Vec<(&'static str, Measure)> {
    ALL.iter()
        .copied()
        .filter(|(name, _)| !name.starts_with("parallel"))
        .filter(|(name, _)| name.starts_with("memory") != by_instructions)
        .collect()
}

const LIMIT: Duration = Duration::from_secs(300);

/// A process's CPU time so far, in seconds, to the nanosecond.
fn process_seconds(pid: u32) -> Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64())
}

/// What everything that containerd started has used, and will use no more: once nothing of it
/// is left running.
struct ShimSide {
    daemon: u32,
    of_daemon: CpuClock,
    of_containers: CpuClock,
    members: std::path::PathBuf,
}

impl ShimSide {
    fn new(rig: &Rig) -> Result<Self> {
        let daemon = rig.daemon_pid()?;
        let name = format!("{}-daemon", rig.name());
        let of_daemon = CpuClock::new(&name, None)?;
        let members = of_daemon.directory().join("cgroup.procs");
        Ok(Self {
            daemon,
            of_daemon,
            of_containers: CpuClock::new(rig.name(), None)?,
            members,
        })
    }

    fn seconds(&self) -> Result<f64> {
        command::until("the end of the shim", Duration::from_secs(10), || {
            Ok(fs::read_to_string(&self.members)?.lines().count() <= 1)
        })?;
        Ok(self.of_daemon.seconds()? + self.of_containers.seconds()?
            - process_seconds(self.daemon)?)
    }
}

fn ctr_run(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let rig = peers.rig;
    let mut wall = Row::new("`ctr run --rm … true`, wall", "ms");
    let mut cpu = Row::new("`ctr run --rm … true`, CPU of the shim's side", "ms");
    let side = ShimSide::new(rig)?;
    for round in 0..n + 2 {
        for handler in peers.both {
            let before = side.seconds()?;
            let mut run = rig.ctr_run(handler, &["--rm", BASE, "bench", "true"])?;
            let done = command::run(&mut run, &[], LIMIT)?.success()?;
            let used = side.seconds()? - before;
            // The first two of each warm the caches up.
            if round >= 2 {
                wall.add(handler, done.wall.as_secs_f64() * 1e3);
                cpu.add(handler, used * 1e3);
            }
        }
    }
    table.push(wall);
    table.push(cpu);
    Ok(())
}

fn ctr_exec(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let rig = peers.rig;
    for handler in peers.both {
        let mut run = rig.ctr_run(
            handler,
            &["--detach", BASE, handler.name(), "sleep", "36000"],
        )?;
        command::run(&mut run, &[], LIMIT)?.success()?;
    }
    let fifos = rig.directory().join("fifo").to_string_lossy().into_owned();
    let mut client = Row::new(
        "`ctr version`: the client alone, part of the rows above and below",
        "ms",
    );
    let mut wall = Row::new("`ctr tasks exec … true`, wall", "ms");
    for round in 0..n + 2 {
        for handler in peers.both {
            client.add(
                handler,
                rig.ctr(&["version"])?.success()?.wall.as_secs_f64() * 1e3,
            );
            let id = format!("e{round}");
            let done = rig
                .ctr(&[
                    "tasks",
                    "exec",
                    "--fifo-dir",
                    &fifos,
                    "--exec-id",
                    &id,
                    handler.name(),
                    "true",
                ])?
                .success()?;
            if round >= 2 {
                wall.add(handler, done.wall.as_secs_f64() * 1e3);
            }
        }
    }
    table.push(client);
    table.push(wall);
    Ok(())
}

/// How many rounds a number of samples is spread over, so that both peers see the same weather.
const ROUNDS: usize = 5;

/// Reads one of critest's files: for each datapoint, the milliseconds of each operation.
fn read(file: &Path) -> Result<(Vec<String>, Vec<Vec<f64>>)> {
    let content = fs::read(file).with_context(|| format!("critest wrote no {}", file.display()))?;
    let content: Value = serde_json::from_slice(&content)?;
    let names = content["operationsNames"].as_array().into_iter().flatten();
    let names = names
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let points = content["datapoints"].as_array().into_iter().flatten();
    let points: Vec<Vec<f64>> = points
        .map(|point| {
            let times = point["operationsDurationsNs"]
                .as_array()
                .into_iter()
                .flatten();
            times
                .map(|time| time.as_f64().unwrap_or(f64::NAN) / 1e6)
                .collect()
        })
        .collect();
    ensure!(!points.is_empty(), "{} has no datapoints", file.display());
    Ok((names, points))
}

fn lifecycle(
    peers: &Peers<'_>,
    n: usize,
    file: &str,
    parameters: [&'static str; 2],
    wanted: &[(&str, &str)],
    table: &mut Table,
) -> Result<()> {
    let rig = peers.rig;
    let mut rows: Vec<(&str, Row)> = wanted
        .iter()
        .map(|(name, shown)| (*name, Row::new(*shown, "ms")))
        .collect();
    for _ in 0..ROUNDS {
        for handler in peers.both {
            let each = u32::try_from(n.div_ceil(ROUNDS))?;
            let output = critest::benchmark(
                rig,
                handler,
                &[(parameters[0], each), (parameters[1], 1)],
                LIMIT,
            )?;
            let (names, points) = read(&output.join(file))?;
            for (name, row) in &mut rows {
                let index = names
                    .iter()
                    .position(|known| known == name)
                    .context("critest renamed an operation")?;
                for point in &points {
                    row.add(handler, point.get(index).copied().unwrap_or(f64::NAN));
                }
            }
        }
    }
    rows.into_iter().for_each(|(_, row)| table.push(row));
    Ok(())
}

fn containers(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let wanted = [
        ("CreateContainer", "CRI CreateContainer"),
        ("StartContainer", "CRI StartContainer"),
        ("StopContainer", "CRI StopContainer"),
        ("RemoveContainer", "CRI RemoveContainer"),
    ];
    let parameters = ["containersNumber", "containersNumberParallel"];
    lifecycle(
        peers,
        n,
        "container_benchmark_data.json",
        parameters,
        &wanted,
        table,
    )
}

fn pods(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let wanted = [
        ("CreatePod", "CRI RunPodSandbox"),
        ("StopPod", "CRI StopPodSandbox"),
        ("RemovePod", "CRI RemovePodSandbox"),
    ];
    let parameters = ["podsNumber", "podsNumberParallel"];
    lifecycle(
        peers,
        n,
        "pod_benchmark_data.json",
        parameters,
        &wanted,
        table,
    )
}

/// `n` pods, so many at a time, in two rounds each. The row's values are the rounds' quantiles.
fn parallel_pods(peers: &Peers<'_>, n: usize, at_once: u32, table: &mut Table) -> Result<()> {
    let rig = peers.rig;
    let mut middle = Row::new(
        format!("CRI RunPodSandbox, {at_once} in parallel, p50"),
        "ms",
    );
    let mut tail = Row::new(
        format!("CRI RunPodSandbox, {at_once} in parallel, p99"),
        "ms",
    );
    for _ in 0..3 {
        for handler in peers.both {
            let number = u32::try_from(n.div_ceil(2))?.max(at_once);
            let parameters = [
                ("podsNumber", number),
                ("podsNumberParallel", at_once),
                ("podBenchmarkTimeoutSeconds", 120),
            ];
            let output = critest::benchmark(rig, handler, &parameters, LIMIT)?;
            let (_, points) = read(&output.join("pod_benchmark_data.json"))?;
            let times: Vec<f64> = points
                .iter()
                .filter_map(|point| point.first().copied())
                .collect();
            middle.add(handler, quantile(&times, 0.5));
            tail.add(handler, quantile(&times, 0.99));
        }
    }
    table.push(middle);
    table.push(tail);
    Ok(())
}

/// Proportional and resident memory of some processes, in megabytes.
fn memory_of(pids: &[u32]) -> Result<(f64, f64)> {
    let (mut pss, mut rss) = (0.0, 0.0);
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| -> f64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(f64::NAN)
        };
        pss += field("Pss:") / 1e3;
        rss += field("Rss:") / 1e3;
    }
    Ok((pss, rss))
}

fn memory(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let rig = peers.rig;
    // As a pod is for most of its life; a shim of ours needs one second to settle.
    let idle = Duration::from_secs(3);
    for containers in [1, 10] {
        let plural = if containers == 1 { "" } else { "s" };
        let mut pss = Row::new(
            format!("PSS of the shim's processes, one pod of {containers} container{plural}"),
            "MB",
        );
        let mut rss = Row::new(
            format!("RSS of the shim's processes, one pod of {containers} container{plural}"),
            "MB",
        );
        let mut processes = Row::new(
            format!("processes of the shim's, one pod of {containers} container{plural}"),
            "count",
        );
        for _ in 0..n.min(5) {
            for handler in peers.both {
                let pod = cri::Pod::run(rig, handler, PodSpec::default())?;
                for _ in 0..containers {
                    pod.start(&ContainerSpec::idle())?;
                }
                thread::sleep(idle);
                let pids = pod.shim_side()?;
                let (proportional, resident) = memory_of(&pids)?;
                pss.add(handler, proportional);
                rss.add(handler, resident);
                processes.add(handler, f64::from(u32::try_from(pids.len())?));
                rig.remove_all()?;
            }
        }
        table.push(pss);
        table.push(rss);
        table.push(processes);
    }
    let mut shared = Row::new(
        "PSS of the shim's processes per pod, ten pods of 1 container",
        "MB",
    );
    for _ in 0..2 {
        for handler in peers.both {
            let mut pids = Vec::new();
            for _ in 0..10 {
                let pod = cri::Pod::run(rig, handler, PodSpec::default())?;
                pod.start(&ContainerSpec::idle())?;
                pids.extend(pod.shim_side()?);
            }
            thread::sleep(idle);
            shared.add(handler, memory_of(&pids)?.0 / 10.0);
            rig.remove_all()?;
        }
    }
    table.push(shared);
    Ok(())
}

fn size(peers: &Peers<'_>, _: usize, table: &mut Table) -> Result<()> {
    let rig = peers.rig;
    let megabytes = |path: &Path| -> Result<f64> {
        #[allow(clippy::cast_precision_loss)]
        Ok(fs::metadata(path)
            .with_context(|| format!("{} isn't there", path.display()))?
            .len() as f64
            / 1e6)
    };
    let mut row = Row::new("binaries: shim and runc against ours", "MB");
    row.add(
        Handler::Runc,
        megabytes(&rig.tools().runc_shim())? + megabytes(&rig.tools().runc())?,
    );
    row.add(peers.both[1], megabytes(&containerd::shim_binary())?);
    table.push(row);
    Ok(())
}
