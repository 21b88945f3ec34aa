//! Input, output and terminals of containers and of commands in them.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::cache::sha256;
use rig::command;
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};
use rig::pty::Terminal;

use crate::e2e::{Body, Env, same};

pub const TRIALS: &[(&str, Body)] = &[
    ("streams::logs", logs),
    ("streams::large_log", large_log),
    ("streams::exec_sync", exec_sync),
    ("streams::exec_exit_codes", exec_exit_codes),
    ("streams::exec_of_nothing", exec_of_nothing),
    ("streams::exec_input", exec_input),
    ("streams::exec_empty_input", exec_empty_input),
    ("streams::exec_large_output", exec_large_output),
    ("streams::exec_reader_stops", exec_reader_stops),
    ("streams::exec_terminal", exec_terminal),
    ("streams::exec_time_out", exec_time_out),
    ("streams::attach", attach),
    ("streams::attach_terminal", attach_terminal),
];

fn run<'a>(env: &'a Env, spec: &ContainerSpec) -> Result<Container<'a>> {
    Pod::run(&env.rig, env.handler, PodSpec::default())?.start(spec)
}

/// How many lines of 1 KiB are much: 64 MiB, or 8 where a program runs ten times slower.
fn many() -> usize {
    if rig::test_vm::inside() {
        8 << 10
    } else {
        64 << 10
    }
}

/// What must come out, compared by size and hash: nobody wants to read so much in an error.
pub fn same_bytes(what: &str, found: &[u8], wanted: &[u8]) -> Result<()> {
    same(
        &format!("{what}: size and hash"),
        (found.len(), sha256(found)),
        (wanted.len(), sha256(wanted)),
    )
}

/// What [`same_bytes`] compares large output with, and the command that prints it: lines that are
/// all different.
pub fn large() -> (Vec<u8>, [String; 2]) {
    let lines = many();
    let mut all = Vec::with_capacity(lines << 10);
    for index in 0..lines {
        all.extend_from_slice(format!("{index:01023}\n").as_bytes());
    }
    let program = format!("BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%01023d\\n\", i }}");
    (all, ["awk".to_owned(), program])
}

fn logs(env: &Env) -> Result<()> {
    let container = run(
        env,
        &ContainerSpec::shell("echo one; echo two >&2; printf 'no end'; exit 3"),
    )?;
    same("exit code", container.ended()?.0, 3)?;
    same(
        "standard output",
        container.logged("stdout")?,
        b"one\nno end".to_vec(),
    )?;
    same(
        "standard error",
        container.logged("stderr")?,
        b"two\n".to_vec(),
    )?;
    let shown = env.rig.crictl(&["logs", &container.id])?.success()?;
    ensure!(shown.stdout().contains("one\n"), "crictl logs: {shown:?}");
    Ok(())
}

fn large_log(env: &Env) -> Result<()> {
    let (wanted, command) = large();
    let container = run(
        env,
        &ContainerSpec::new(&command.each_ref().map(String::as_str)),
    )?;
    same("exit code", container.ended()?.0, 0)?;
    same_bytes("the log", &container.logged("stdout")?, &wanted)
}

fn exec_sync(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    // crictl prints both streams of a synchronous call on its own standard output.
    let done = container
        .exec(&["sh", "-c", "echo out; echo err >&2"])?
        .success()?;
    same("both streams", done.stdout(), "out\n\nerr\n\n".to_owned())?;
    let mut command = container.exec_command(&[], &["sh", "-c", "echo out; echo err >&2"])?;
    let done = command::run(&mut command, &[], Duration::from_secs(20))?.success()?;
    same("standard output", done.stdout(), "out\n".to_owned())?;
    same("standard error", done.stderr(), "err\n".to_owned())
}

/// crictl says the exit code of a command that failed in its message.
fn exec_exit_codes(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    for code in [1, 3, 255] {
        let done = container.exec(&["sh", "-c", &format!("exit {code}")])?;
        let said = done.stderr();
        ensure!(
            !done.status.success() && said.contains(&format!("exited with {code}:")),
            "for {code}: {said}"
        );
        let streamed = command::run(
            &mut container.exec_command(&[], &["sh", "-c", &format!("exit {code}")])?,
            &[],
            Duration::from_secs(20),
        )?;
        let said = streamed.stderr();
        ensure!(
            !streamed.status.success() && said.contains(&format!("exit code {code}")),
            "streamed, for {code}: {said}"
        );
    }
    let killed = container.exec(&["sh", "-c", "kill -KILL $$"])?.stderr();
    ensure!(killed.contains("exited with 137:"), "for SIGKILL: {killed}");
    Ok(())
}

fn exec_of_nothing(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    let done = container.exec(&["/no/such/program"])?;
    ensure!(!done.status.success(), "it ran");
    ensure!(
        done.stderr().contains("/no/such/program"),
        "the error doesn't say what is missing: {}",
        done.stderr()
    );
    Ok(())
}

/// Bytes of every value, in no order that helps anyone.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn exec_input(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    let input = noise(many() << 7);
    let mut command = container.exec_command(&["--interactive"], &["sha256sum"])?;
    let done = command::run(&mut command, &input, Duration::from_secs(60))?.text()?;
    same("hash", done, format!("{}  -", sha256(&input)))?;
    let mut command = container.exec_command(&["--interactive"], &["cat"])?;
    let done = command::run(&mut command, &input, Duration::from_secs(60))?.success()?;
    same_bytes("what came back", &done.stdout, &input)
}

fn exec_empty_input(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    let mut command =
        container.exec_command(&["--interactive"], &["sh", "-c", "wc -c; echo end"])?;
    let done = command::run(&mut command, &[], Duration::from_secs(20))?.text()?;
    same("what it read", done, "0\nend".to_owned())
}

fn exec_large_output(env: &Env) -> Result<()> {
    let (wanted, words) = large();
    let container = run(env, &ContainerSpec::idle())?;
    let words = words.each_ref().map(String::as_str);
    let mut command = container.exec_command(&[], &words)?;
    let done = command::run(&mut command, &[], Duration::from_secs(120))?.success()?;
    same_bytes("the output", &done.stdout, &wanted)
}

/// A reader that stops reading stops its writer and nothing else, and when it goes on nothing is missing.
fn exec_reader_stops(env: &Env) -> Result<()> {
    // All the buffers in between hold a third of it.
    const PIECES: u64 = 256;
    const PIECE: u64 = 64 << 10;
    let container = run(env, &ContainerSpec::idle())?;
    let line = format!(
        "i=0; while [ $i -lt {PIECES} ]; do \
         head -c {PIECE} /dev/zero; i=$((i + 1)); echo $i > /tmp/written; done"
    );
    let mut exec = container
        .exec_command(&[], &["sh", "-c", &line])?
        .stdout(Stdio::piped())
        .spawn()?;
    let outcome = (|| {
        let mut output = exec.stdout.take().context("no output")?;
        // Others are served meanwhile: these are.
        let written = || -> Result<u64> {
            let said = container.exec(&["cat", "/tmp/written"])?.stdout();
            Ok(said.trim().parse().unwrap_or(0))
        };
        let mut before = 0;
        command::until(
            "the writer's standing still",
            Duration::from_secs(150),
            || {
                std::thread::sleep(Duration::from_secs(1));
                let now = written()?;
                let still = now > 0 && now == std::mem::replace(&mut before, now);
                Ok(still)
            },
        )?;
        ensure!(
            before < PIECES,
            "all was written and nothing read: the buffers are too large to tell"
        );
        let mut read = 0;
        let mut piece = vec![1; 1 << 20];
        loop {
            let count = output.read(&mut piece)?;
            if count == 0 {
                break;
            }
            ensure!(piece[..count].iter().all(|byte| *byte == 0), "other bytes");
            read += u64::try_from(count)?;
        }
        same("what was read in the end", read, PIECES * PIECE)
    })();
    if outcome.is_err() {
        exec.kill()?;
    }
    let status = exec.wait()?;
    outcome?;
    ensure!(status.success(), "the writer ended with {status}");
    Ok(())
}

fn exec_terminal(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    let mut command = container.exec_command(&["--interactive", "--tty"], &["sh"])?;
    let mut terminal = Terminal::open(&mut command, 31, 91)?;
    // The size arrives a moment after the shell does.
    command::until("the terminal's size", Duration::from_secs(15), || {
        terminal.send("stty size; echo \"<\"done\">\"\n")?;
        Ok(terminal.expect("<done>")?.contains("31 91"))
    })?;
    terminal.resize(40, 120)?;
    command::until("the terminal's new size", Duration::from_secs(15), || {
        terminal.send("stty size; echo \"<\"done\">\"\n")?;
        Ok(terminal.expect("<done>")?.contains("40 120"))
    })?;
    terminal.send("tty; exit 0\n")?;
    terminal.expect("/dev/pts/")?;
    ensure!(terminal.wait()?.success(), "the shell failed");
    Ok(())
}

fn exec_time_out(env: &Env) -> Result<()> {
    let container = run(env, &ContainerSpec::idle())?;
    let done = env.rig.crictl(&[
        "exec",
        "--sync",
        "--timeout",
        "1",
        &container.id,
        "sleep",
        "777",
    ])?;
    ensure!(!done.status.success(), "it ended in time");
    let left = container.exec(&["pgrep", "-f", "sleep 777"])?;
    ensure!(
        left.stdout().trim().is_empty(),
        "the command is still running: {}",
        left.stdout()
    );
    Ok(())
}

fn attach(env: &Env) -> Result<()> {
    let mut spec = ContainerSpec::shell(
        "while read line; do echo \"got $line\"; done; echo closed; sleep 3600",
    );
    spec.stdin = true;
    let container = run(env, &spec)?;
    let mut command = env
        .rig
        .crictl_command(&["attach", "--stdin", &container.id])?;
    // A terminal's worth of patience is needed only for what we wait for.
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let outcome = (|| {
        use std::io::Write;
        let Some(input) = child.stdin.as_mut() else {
            anyhow::bail!("no input")
        };
        input.write_all(b"first\nsecond\n")?;
        container.logs("got second")?;
        same(
            "log",
            container.logged("stdout")?,
            b"got first\ngot second\n".to_vec(),
        )
    })();
    child.kill()?;
    let output = child.wait_with_output()?;
    outcome?;
    same(
        "attached output",
        String::from_utf8_lossy(&output.stdout).into_owned(),
        "got first\ngot second\n".to_owned(),
    )
}

fn attach_terminal(env: &Env) -> Result<()> {
    let mut spec = ContainerSpec::new(&["sh"]);
    (spec.stdin, spec.tty) = (true, true);
    let container = run(env, &spec)?;
    let mut command = env
        .rig
        .crictl_command(&["attach", "--stdin", "--tty", &container.id])?;
    let mut terminal = Terminal::open(&mut command, 33, 99)?;
    command::until("the terminal's size", Duration::from_secs(15), || {
        terminal.send("stty size; echo \"<\"done\">\"\n")?;
        Ok(terminal.expect("<done>")?.contains("33 99"))
    })?;
    terminal.send("exit 4\n")?;
    same("exit code", container.ended()?.0, 4)
}
