//! The main job on one screen: a Kubernetes pod, run by Trefoil for a real containerd; and then the same
//! pod in each isolation.

mod isolations;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::{Handler, Rig, command, containerd, images};

pub fn main() -> Result<ExitCode> {
    if rig::part::arguments().next().as_deref() != Some(isolations::ARGUMENT) {
        one_pod()?;
    }
    isolations::show_all()
}

/// A pod of namespaces, by all that crictl does with it.
fn one_pod() -> Result<()> {
    let shim = containerd::shim_binary();
    Handler::Trefoil.require()?;

    let started = Instant::now();
    let rig = Rig::start()?;
    let version = rig.crictl(&["version"])?.text()?;
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("RuntimeVersion:"))
        .unwrap_or("?");
    step(
        "a private containerd",
        &format!("{}, in {}", version.trim(), took(started)),
    );
    show(&format!(
        "its handler \"trefoil\" is {}",
        Handler::Trefoil.runtime_type()
    ));

    let started = Instant::now();
    rig.pull(images::WEB)?;
    step(
        "crictl pull",
        &format!(
            "{}, from a registry on loopback, in {}",
            images::WEB,
            took(started)
        ),
    );

    let started = Instant::now();
    let spec = PodSpec {
        port: Some((80, 8080)),
        ..PodSpec::default()
    };
    let pod = Pod::run(&rig, Handler::Trefoil, spec)?;
    let web = pod.start(&ContainerSpec::of(images::WEB))?;
    let side = pod.start(&ContainerSpec::shell(
        "while true; do echo tick; sleep 1; done",
    ))?;
    step(
        "crictl runp, create, start",
        &format!("a pod of two containers, in {}", took(started)),
    );
    for line in rig.crictl(&["pods"])?.text()?.lines() {
        show(line);
    }
    for line in rig.crictl(&["ps"])?.text()?.lines() {
        show(line);
    }
    let processes = pod.shim_side()?;
    show(&format!(
        "served by {} process(es) of {}",
        processes.len(),
        shim.file_name().unwrap_or_default().display()
    ));

    let page = page(&rig)?;
    step(
        "a port mapped by CNI",
        "GET http://127.0.0.1:8080/ on the node",
    );
    show(page.lines().last().unwrap_or_default());

    step("crictl logs", "of both containers");
    web.logs("GET /")?;
    side.logs("tick")?;
    for id in [&web.id, &side.id] {
        show(
            rig.crictl(&["logs", "--tail", "1", id])?
                .success()?
                .stdout()
                .trim(),
        );
    }

    step("crictl exec", "in the second container");
    show(
        &side
            .exec(&[
                "sh",
                "-c",
                "echo $(hostname) $(id -un) on $(uname -s), process $$",
            ])?
            .text()?,
    );

    step("crictl stats", "");
    command::until("statistics", Duration::from_secs(10), || {
        Ok(rig.crictl(&["stats"])?.text()?.lines().count() == 3)
    })?;
    for line in rig.crictl(&["stats"])?.text()?.lines() {
        // It clears the screen first.
        show(line.rsplit_once("\x1b[H").map_or(line, |(_, text)| text));
    }

    let started = Instant::now();
    rig.crictl(&["stop", "--timeout", "5", &web.id])?
        .success()?;
    let (code, reason) = web.ended()?;
    pod.stop()?;
    pod.remove()?;
    step(
        "crictl stop, stopp, rmp",
        &format!(
            "in {}; the web server ended with {code}, {reason}",
            took(started)
        ),
    );

    let leftovers = rig.leftovers()?;
    ensure!(leftovers.is_empty(), "left behind:\n{leftovers}");
    drop(rig);
    step(
        "nothing is left",
        "no process, mount, cgroup, socket or file; containerd is gone as well",
    );
    Ok(())
}

fn step(what: &str, how: &str) {
    println!(
        "\x1b[1m{what}\x1b[0m{}{how}",
        if how.is_empty() { "" } else { ": " }
    );
}

fn show(line: &str) {
    // Wide tables would break the one screen.
    println!(
        "    {}",
        line.trim_end().chars().take(150).collect::<String>()
    );
}

fn took(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

fn page(rig: &Rig) -> Result<String> {
    let mut page = String::new();
    command::until("the web page", Duration::from_secs(10), || {
        page = rig
            .namespaces()
            .enter(|| {
                let mut connection = TcpStream::connect("127.0.0.1:8080")?;
                connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut page = String::new();
                connection.read_to_string(&mut page)?;
                Ok(page)
            })
            .unwrap_or_default();
        Ok(!page.is_empty())
    })
    .context("the mapped port")?;
    Ok(page)
}
