//! containerd's own client: containers without pods.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::cache::sha256;
use rig::command::{self, Finished};
use rig::images::BASE;
use rig::pty::Terminal;

use crate::e2e::streams::{large, same_bytes};
use crate::e2e::{Body, Env, same};

pub const TRIALS: &[(&str, Body)] = &[
    ("ctr::exit_codes", exit_codes),
    ("ctr::output", output),
    ("ctr::large_output", large_output),
    ("ctr::input", input),
    ("ctr::terminal", terminal),
    ("ctr::tasks", tasks),
    ("ctr::pause", pause),
    ("ctr::exec", exec),
    ("ctr::killed_all", killed_all),
    ("ctr::killed_while_paused", killed_while_paused),
    (OWN_PROGRAM, own_program),
];

/// Asked of handlers whose containers' processes are the node's.
pub const OWN_PROGRAM: &str = "ctr::own_program";

/// `ctr run --rm`.
fn run(env: &Env, words: &[&str], stdin: &[u8]) -> Result<Finished> {
    let mut rest = vec!["--rm", BASE, "one"];
    rest.extend(words);
    command::run(
        &mut env.rig.ctr_run(env.handler, &rest)?,
        stdin,
        Duration::from_secs(120),
    )
}

/// Starts a container and leaves it running.
fn detach(env: &Env, id: &str, words: &[&str]) -> Result<()> {
    let mut rest = vec!["--detach", BASE, id];
    rest.extend(words);
    command::run(
        &mut env.rig.ctr_run(env.handler, &rest)?,
        &[],
        Duration::from_secs(60),
    )?
    .success()?;
    Ok(())
}

fn exit_codes(env: &Env) -> Result<()> {
    for code in [0, 1, 7, 127, 255] {
        same(
            "exit code",
            run(env, &["sh", "-c", &format!("exit {code}")], &[])?.code(),
            code,
        )?;
    }
    Ok(())
}

fn output(env: &Env) -> Result<()> {
    let done = run(env, &["sh", "-c", "echo out; echo err >&2"], &[])?.success()?;
    same("standard output", done.stdout(), "out\n".to_owned())?;
    // On old cgroups ctr itself has something to say there.
    ensure!(
        done.stderr().ends_with("err\n"),
        "standard error: {:?}",
        done.stderr()
    );
    Ok(())
}

fn large_output(env: &Env) -> Result<()> {
    let (wanted, words) = large();
    same_bytes(
        "the output",
        &run(env, &words.each_ref().map(String::as_str), &[])?
            .success()?
            .stdout,
        &wanted,
    )
}

fn input(env: &Env) -> Result<()> {
    let numbers = if rig::test_vm::inside() {
        500_000
    } else {
        4_000_000_u32
    };
    let bytes: Vec<u8> = (0..numbers)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    same(
        "hash",
        run(env, &["sha256sum"], &bytes)?.text()?,
        format!("{}  -", sha256(&bytes)),
    )?;
    // ctr itself loses an end of input that comes before it has made the task.
    let mut command = env
        .rig
        .ctr_run(env.handler, &["--rm", BASE, "one", "wc", "-c"])?;
    let mut list = env.rig.ctr_command(&["tasks", "ls"])?;
    let late = Box::new(move |pipe| {
        // Should it not run in time, the command is late as well, and says so.
        let _ = command::until("a running task", Duration::from_secs(60), || {
            let output = list.output()?;
            Ok(String::from_utf8_lossy(&output.stdout).contains("RUNNING"))
        });
        drop(pipe);
    });
    let done = command::run_with(&mut command, Some(late), Duration::from_secs(90))?;
    same("without input", done.text()?, "0".to_owned())
}

fn terminal(env: &Env) -> Result<()> {
    let mut command = env
        .rig
        .ctr_run(env.handler, &["--rm", "--tty", BASE, "one", "sh"])?;
    let mut terminal = Terminal::open(&mut command, 37, 113)?;
    command::until("the terminal's size", Duration::from_secs(15), || {
        terminal.send("stty size; echo \"<\"done\">\"\n")?;
        Ok(terminal.expect("<done>")?.contains("37 113"))
    })?;
    terminal.resize(50, 132)?;
    command::until("the terminal's new size", Duration::from_secs(15), || {
        terminal.send("stty size; echo \"<\"done\">\"\n")?;
        Ok(terminal.expect("<done>")?.contains("50 132"))
    })?;
    terminal.send("exit 5\n")?;
    same("exit code", terminal.wait()?.code(), Some(5))
}

fn tasks(env: &Env) -> Result<()> {
    detach(env, "one", &["sleep", "3600"])?;
    let ctr = |words: &[&str]| env.rig.ctr(words)?.text();
    let list = ctr(&["tasks", "list"])?;
    ensure!(
        list.contains("one") && list.contains("RUNNING"),
        "tasks list: {list}"
    );
    let pid = list
        .lines()
        .find_map(|line| {
            line.strip_prefix("one")?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        })
        .context("no pid in the list")?;
    let processes = ctr(&["tasks", "ps", "one"])?;
    ensure!(processes.contains(&pid), "tasks ps: {processes}");
    let metrics = ctr(&["tasks", "metrics", "--format", "json", "one"])?;
    ensure!(
        metrics.contains("\"usage\"") || metrics.contains("usage_usec"),
        "tasks metrics: {metrics}"
    );
    ctr(&["tasks", "kill", "--signal", "SIGKILL", "one"])?;
    command::until("the task's end", Duration::from_secs(10), || {
        Ok(ctr(&["tasks", "list"])?.contains("STOPPED"))
    })?;
    let removed = env.rig.ctr(&["tasks", "rm", "one"])?.success()?.stderr();
    ensure!(
        removed.contains("non-zero exit code 137"),
        "tasks rm: {removed}"
    );
    ctr(&["containers", "rm", "one"])?;
    Ok(())
}

fn pause(env: &Env) -> Result<()> {
    detach(env, "one", &["sleep", "3600"])?;
    env.rig.ctr(&["tasks", "pause", "one"])?.success()?;
    let list = env.rig.ctr(&["tasks", "list"])?.text()?;
    ensure!(list.contains("PAUSED"), "tasks list: {list}");
    env.rig.ctr(&["tasks", "resume", "one"])?.success()?;
    let list = env.rig.ctr(&["tasks", "list"])?.text()?;
    ensure!(list.contains("RUNNING"), "tasks list: {list}");
    Ok(())
}

fn killed_while_paused(env: &Env) -> Result<()> {
    detach(env, "one", &["sleep", "3600"])?;
    env.rig.ctr(&["tasks", "pause", "one"])?.success()?;
    env.rig
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "one"])?
        .success()?;
    for _ in 0..100 {
        let list = env.rig.ctr(&["tasks", "list"])?.text()?;
        if list.contains("STOPPED") {
            env.rig.ctr(&["tasks", "rm", "one"])?.success()?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("a paused container does not end by SIGKILL")
}

/// A container can come to run the shim's own program, but nobody can write to it through what runs it.
fn own_program(env: &Env) -> Result<()> {
    detach(
        env,
        "one",
        &[
            "sh",
            "-c",
            "printf '#!/proc/self/exe\n' > /tmp/x; chmod 755 /tmp/x; sleep 3600",
        ],
    )?;
    let list = env.rig.ctr(&["tasks", "list"])?.text()?;
    let init = list
        .lines()
        .find_map(|line| line.strip_prefix("one")?.split_whitespace().next())
        .with_context(|| format!("no task in {list}"))?;
    let status = std::fs::read_to_string(format!("/proc/{init}/status"))?;
    let shim = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .map(str::trim)
        .context("the init has no parent")?;
    // While a file runs nobody writes to it (ETXTBSY), but that ends with the last shim: what keeps it
    // is the mount.
    let program = format!("/proc/{shim}/exe");
    let flags = nix::sys::statvfs::statvfs(program.as_str())?.flags();
    ensure!(
        flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
        "{program} is on a mount that can be written to: {flags:?}"
    );
    let fifos = env.rig.directory().join("fifo");
    let fifos = fifos.to_string_lossy();
    let run = env.rig.ctr(&[
        "tasks",
        "exec",
        "--fifo-dir",
        &fifos,
        "--exec-id",
        "x",
        "one",
        "/tmp/x",
    ])?;
    ensure!(run.code() != 0, "the shim's program ran: {run:?}");
    Ok(())
}

fn exec(env: &Env) -> Result<()> {
    detach(env, "one", &["sleep", "3600"])?;
    let run = |id: &str, words: &[&str], stdin: &[u8]| {
        let fifos = env
            .rig
            .directory()
            .join("fifo")
            .to_string_lossy()
            .into_owned();
        let mut arguments = vec![
            "tasks",
            "exec",
            "--fifo-dir",
            &fifos,
            "--exec-id",
            id,
            "one",
        ];
        arguments.extend(words);
        command::run(
            &mut env.rig.ctr_command(&arguments)?,
            stdin,
            Duration::from_secs(60),
        )
    };
    same(
        "exit code",
        run("a", &["sh", "-c", "exit 6"], &[])?.code(),
        6,
    )?;
    same(
        "output",
        run("b", &["echo", "hello"], &[])?.text()?,
        "hello".to_owned(),
    )?;
    // The id is free again.
    same(
        "output",
        run("b", &["echo", "again"], &[])?.text()?,
        "again".to_owned(),
    )?;
    let fifos = env
        .rig
        .directory()
        .join("fifo")
        .to_string_lossy()
        .into_owned();
    let words = [
        "tasks",
        "exec",
        "--fifo-dir",
        &fifos,
        "--tty",
        "--exec-id",
        "c",
        "one",
        "sh",
    ];
    let mut terminal = Terminal::open(&mut env.rig.ctr_command(&words)?, 24, 80)?;
    terminal.send("echo \"<\"$((6*7))\">\"; exit 8\n")?;
    terminal.expect("<42>")?;
    same("exit code", terminal.wait()?.code(), Some(8))
}

/// Children of a container's first process end with it.
fn killed_all(env: &Env) -> Result<()> {
    detach(env, "one", &["sh", "-c", "sleep 3333 & sleep 3333 & wait"])?;
    env.rig
        .ctr(&["tasks", "kill", "--all", "--signal", "SIGKILL", "one"])?
        .success()?;
    command::until("the task's end", Duration::from_secs(10), || {
        Ok(env.rig.ctr(&["tasks", "list"])?.text()?.contains("STOPPED"))
    })
}
