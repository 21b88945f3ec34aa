//! What is measured of confidential pods beside plain microVM pods: what protection costs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rig::Handler;
use rig::confidential;
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::images::{BASE, SERVER_ON_HOST, WEB};

use crate::bench::Peers;
use crate::bench::machines::{again, boot, time, work};
use crate::bench::measure::Measure;
use crate::bench::table::{Row, Table};

/// All of it.
pub const OWN: [(&str, Measure); 5] = [
    ("boot: by its parts", boot),
    ("boot: to the first container", first_container),
    ("layers: a container of one and of three", layers),
    ("layers: read for the first time", read),
    ("files: written and read", files),
];

/// What containerd was asked for, by what its log says when it begins and when it is done.
struct Call {
    begins: &'static str,
    ends: &'static str,
}

const RUN: Call = Call {
    begins: "msg=\"RunPodSandbox for ",
    ends: " returns sandbox id ",
};

const CREATE: Call = Call {
    begins: "msg=\"CreateContainer within sandbox ",
    ends: " returns container id ",
};

const START: Call = Call {
    begins: "msg=\"StartContainer for ",
    ends: " returns successfully",
};

impl Call {
    /// How long it took by a log in which it is once.
    fn took(&self, log: &str) -> Result<Duration> {
        let mut lines = log.lines().filter(|line| line.contains(self.begins));
        let begun = lines.next().context(self.begins)?;
        let done = lines.find(|line| line.contains(self.ends));
        let done = done.context(self.ends)?;
        time(done)?
            .checked_sub(time(begun)?)
            .context("it became midnight")
    }
}

/// Runs a pod of one container, and answers with what containerd's log says of it.
fn log_of_pod(peers: &Peers<'_>, handler: Handler, image: &str) -> Result<String> {
    let before = fs::metadata(peers.rig.log())?.len();
    let pod = Pod::run(peers.rig, handler, PodSpec::default())?;
    let mut spec = ContainerSpec::idle();
    spec.image = image.to_owned();
    pod.start(&spec)?;
    let log = fs::read(peers.rig.log())?;
    pod.stop()?;
    pod.remove()?;
    let since = log.get(usize::try_from(before)?..).unwrap_or_default();
    Ok(String::from_utf8_lossy(since).into_owned())
}

fn milliseconds(calls: &[Call], log: &str) -> Result<f64> {
    let took = calls.iter().map(|call| call.took(log));
    Ok(took.sum::<Result<Duration>>()?.as_secs_f64() * 1e3)
}

/// What is between a pod that is asked for and a container that runs: containerd's answers, without a client.
fn first_container(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    let parts: [(&str, &[Call]); 4] = [
        (
            "a pod and its first container, until both run",
            &[RUN, CREATE, START],
        ),
        ("of it RunPodSandbox", &[RUN]),
        ("of it CreateContainer", &[CREATE]),
        ("of it StartContainer", &[START]),
    ];
    let mut rows = parts.map(|(name, _)| Row::new(name, "ms"));
    for round in 0..=n {
        for handler in peers.both {
            let log = again(peers, "a pod", || log_of_pod(peers, handler, BASE))?;
            // The first of each warms the caches up.
            if round == 0 {
                continue;
            }
            for (row, (_, calls)) in rows.iter_mut().zip(parts) {
                row.add(handler, milliseconds(calls, &log)?);
            }
        }
    }
    rows.into_iter().for_each(|row| table.push(row));
    Ok(())
}

/// Two layers more: what each costs, with the device that checks it.
fn layers(peers: &Peers<'_>, n: usize, table: &mut Table) -> Result<()> {
    confidential::configure_all(peers.rig)?;
    for (image, number) in [(BASE, "one layer"), (SERVER_ON_HOST, "three layers")] {
        peers.rig.ctr_pull(image)?;
        let mut row = Row::new(format!("a container of {number}, made and started"), "ms");
        for round in 0..=n {
            for handler in peers.both {
                let log = again(peers, "a pod", || log_of_pod(peers, handler, image))?;
                if round > 0 {
                    row.add(handler, milliseconds(&[CREATE, START], &log)?);
                }
            }
        }
        table.push(row);
    }
    Ok(())
}

/// A program of some megabyte that no container has run before.
fn read(peers: &Peers<'_>, _: usize, table: &mut Table) -> Result<()> {
    confidential::configure_all(peers.rig)?;
    peers.rig.ctr_pull(WEB)?;
    let mut spec = ContainerSpec::idle();
    spec.image = WEB.to_owned();
    let all = (
        "a program of the image's, read for the first time",
        "cat /usr/sbin/nginx > /dev/null",
    );
    work(peers, &[all], spec, table)
}

/// What is written goes to an encrypted disk here, and to the node's file server there.
fn files(peers: &Peers<'_>, _: usize, table: &mut Table) -> Result<()> {
    let written = (
        "files: 8 MiB written and synced",
        "dd if=/dev/zero of=/f bs=1048576 count=8 conv=fsync 2> /dev/null",
    );
    let made = (
        "files: 200 made, of 5 bytes",
        "mkdir /d; i=0; while [ $i -lt 200 ]; do echo four > /d/$i; i=$((i+1)); done",
    );
    work(peers, &[written, made], ContainerSpec::idle(), table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_took_what_is_between_two_lines() {
        let line = |time: &str, said: &str| {
            format!("time=\"2026-11-26T05:22:{time}Z\" level=info msg=\"{said}\"\n")
        };
        let log = [
            line("09.5", "RunPodSandbox for &PodSandboxMetadata{Name:a,}"),
            line("09.6", "StartContainer for another"),
            line(
                "10.75",
                "RunPodSandbox for &PodSandboxMetadata{Name:a,} returns sandbox id b",
            ),
        ]
        .concat();
        assert_eq!(RUN.took(&log).expect("both"), Duration::from_millis(1250));
        START.took(&log).expect_err("it is not done");
        CREATE.took(&log).expect_err("it has not begun");
    }
}
