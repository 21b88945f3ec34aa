//! One of the two runs of a scenario: a handler, a directory, and containers of that handler.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rig::command::{self, Finished};
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};
use rig::pty::Terminal;
use rig::{Handler, Rig, archive};
use serde_json::{Value, json};

use crate::field::seen::Seen;
use crate::field::spec::Spec;

/// How long a container may take that has something short to do.
const LIMIT: Duration = Duration::from_secs(180);

/// Where a scenario runs.
pub struct Side<'a> {
    pub rig: &'a Rig,
    pub handler: Handler,
    at: PathBuf,
    number: AtomicU32,
    root: OnceLock<PathBuf>,
}

/// How a container or a command in one ended.
pub struct Ended {
    /// Its exit code, where it ran.
    pub code: i32,
    pub out: String,
    /// Why it did not run.
    pub error: Option<String>,
}

impl Ended {
    fn of(done: &Finished) -> Self {
        Self::read(done.code(), done.stdout(), &done.stderr())
    }

    fn read(code: i32, out: String, stderr: &str) -> Self {
        let mut lines = stderr.lines();
        let error = lines.find_map(|line| line.strip_prefix("ctr: "));
        Self {
            code,
            out,
            error: error.map(str::to_owned),
        }
    }

    /// Whether it ran, and ended well.
    pub fn well(&self) -> bool {
        self.error.is_none() && self.code == 0
    }
}

impl Seen {
    /// A part that tells how a container ended: its output and the exit code, or that it was
    /// refused, in whatever words.
    pub fn ended(&mut self, part: &str, ended: &Ended) {
        self.add(part, &ended.out);
        match &ended.error {
            None => self.add(part, &format!("exit {}", ended.code)),
            Some(error) => self.refused(part, error),
        }
    }

    /// A part that tells what a command printed in a container of a pod.
    pub fn printed(&mut self, part: &str, done: &Finished) {
        self.add(part, &done.stdout());
        if !done.status.success() {
            self.add(part, "failed");
            self.aside(part, &done.stderr());
        }
    }

    /// A part that tells of a refusal, in whatever words.
    pub fn refused(&mut self, part: &str, why: &str) {
        self.add(part, "refused");
        self.aside(part, &command::tail(why, 600).replace('\n', " "));
    }
}

impl<'a> Side<'a> {
    pub fn new(rig: &'a Rig, handler: Handler, trial: &str) -> Result<Self> {
        let at = Self::directory_of(rig, handler, trial);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&at)
            .with_context(|| format!("making {}", at.display()))?;
        Ok(Self {
            rig,
            handler,
            at,
            number: AtomicU32::new(1),
            root: OnceLock::new(),
        })
    }

    /// Where a trial has its files.
    pub fn directory_of(rig: &Rig, handler: Handler, trial: &str) -> PathBuf {
        let name = format!("{}-{handler}", trial.replace("::", "-"));
        rig.directory().join(name)
    }

    /// What is different in the text of two runs.
    pub fn names(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        [
            (path(&self.at), "AT"),
            (path(self.rig.directory()), "RIG"),
            (self.rig.name().to_owned(), "NAME"),
            (self.handler.to_string(), "HANDLER"),
        ]
        .map(|(from, to)| (from, to.to_owned()))
        .to_vec()
    }

    /// Has a shell of the stock handler run once more that said nothing: on a busy machine it was seen to
    /// lose output. Ours may not.
    fn heard(
        &self,
        program: impl PartialEq<&'static str>,
        run: impl Fn() -> Result<Ended>,
    ) -> Result<Ended> {
        let ended = run()?;
        let lost = program == "sh" && ended.well() && ended.out.is_empty();
        match lost && !self.handler.is_ours() {
            true => run(),
            false => Ok(ended),
        }
    }

    fn next(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// A directory of this run's own, which all users may enter.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// A new directory below it.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.at.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A new file below it.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.at.join(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// A new program below it.
    pub fn script(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.file(name, &format!("#!/bin/sh\n{content}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// A fresh copy of the base image's content, changed by a line of shell that starts there.
    pub fn root_after(&self, line: &str) -> Result<PathBuf> {
        let root = self.at.join(format!("root-{}", self.next()));
        archive::unpack_base(&root)?;
        self.shell(&format!("cd {} && {{ {line}\n}}", root.display()))?;
        Ok(root)
    }

    /// A line of shell on the node, in this run's directory; it must succeed.
    pub fn shell(&self, line: &str) -> Result<String> {
        self.shell_for(LIMIT, line)
    }

    /// The same of a line that may take so long.
    pub fn shell_for(&self, limit: Duration, line: &str) -> Result<String> {
        let mut shell = self.rig.command("sh")?;
        shell.args(["-ec", line]).current_dir(&self.at);
        command::run(&mut shell, &[], limit)?.text()
    }

    /// The configuration to start from; its root is shared by the run's containers.
    pub fn spec(&self) -> Result<Spec> {
        let root = match self.root.get() {
            Some(root) => root.clone(),
            None => {
                let root = self.root_after("true")?;
                self.root.get_or_init(|| root).clone()
            }
        };
        let cgroup = format!("/{}/{}-{}", self.rig.name(), self.handler, self.next());
        Ok(Spec::new(&root, &cgroup))
    }

    /// Runs the lines of a table, `PART | EDITS | SHELL'S LINE`: see [`Spec::edit`]. `$AT` is this
    /// run's directory.
    pub fn table(&self, seen: &mut Seen, table: &str) -> Result<()> {
        self.table_over(seen, table, |spec| spec)
    }

    /// Runs the lines of a table, over a configuration that isn't the usual one.
    pub fn table_over(
        &self,
        seen: &mut Seen,
        table: &str,
        base: impl Fn(Spec) -> Spec,
    ) -> Result<()> {
        for line in table.lines().filter(|line| !line.is_empty()) {
            let line = line.replace("$AT", &self.at.to_string_lossy());
            let mut cells = line.splitn(3, " | ");
            let (Some(part), Some(edits), Some(look)) = (cells.next(), cells.next(), cells.next())
            else {
                anyhow::bail!("no line of a table: {line}");
            };
            let spec = base(self.spec()?).shell(look).edit(edits)?;
            seen.ended(part.trim(), &self.run(&spec)?);
        }
        Ok(())
    }

    fn write(&self, spec: &Spec) -> Result<(PathBuf, String)> {
        let id = format!("{}-{}", self.handler, self.next());
        let path = self.at.join(format!("{id}.json"));
        fs::write(&path, serde_json::to_vec(&spec.0)?)?;
        Ok((path, id))
    }

    fn run_command(&self, options: &[&str], spec: &Spec) -> Result<(Command, String)> {
        let (path, id) = self.write(spec)?;
        let path = path.to_string_lossy();
        let mut words = options.to_vec();
        words.extend(["--config", &path, &id]);
        Ok((self.rig.ctr_run(self.handler, &words)?, id))
    }

    /// Runs a container to its end.
    pub fn run(&self, spec: &Spec) -> Result<Ended> {
        self.run_with(spec, &[])
    }

    /// Runs a container to its end, with more options of `ctr`'s.
    pub fn run_with(&self, spec: &Spec, options: &[&str]) -> Result<Ended> {
        let options = [&["--rm"], options].concat();
        self.heard(&spec.0["process"]["args"][0], || {
            let (mut command, id) = self.run_command(&options, spec)?;
            let ended = Ended::of(&command::run(&mut command, &[], LIMIT)?);
            if ended.error.is_some() {
                // One that could not be made to run is left to its user.
                self.remove(&id);
            }
            Ok(ended)
        })
    }

    /// Runs a container on a terminal to its end.
    pub fn run_on_terminal(&self, spec: &Spec) -> Result<Ended> {
        let spec = spec.clone().set("/process/terminal", Value::Bool(true));
        let (command, id) = self.run_command(&["--rm", "--tty"], &spec)?;
        let mut shell = self.rig.command("sh")?;
        shell
            .args(["-c", "\"$@\"; echo \"[ended $?]\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        let mut terminal = Terminal::open(&mut shell, 24, 200)?;
        let text = terminal.expect("[ended ")?.replace('\r', "");
        let code = terminal.expect("]")?.parse()?;
        terminal.wait()?;
        let complaint = |line: &&str| line.starts_with("ctr: ");
        let (stderr, out): (Vec<&str>, Vec<&str>) = text.lines().partition(complaint);
        let ended = Ended::read(code, out.join("\n"), &stderr.join("\n"));
        if ended.error.is_some() {
            self.remove(&id);
        }
        Ok(ended)
    }

    /// Starts a container that goes on; its id, or how it was refused.
    pub fn start(&self, spec: &Spec) -> Result<std::result::Result<String, Ended>> {
        let (mut command, id) = self.run_command(&["--detach"], spec)?;
        let ended = Ended::of(&command::run(&mut command, &[], LIMIT)?);
        Ok(match ended.well() {
            true => Ok(id),
            false => Err(ended),
        })
    }

    /// Starts a container that goes on, and has to.
    pub fn started(&self, spec: &Spec) -> Result<String> {
        let refused = |ended: Ended| anyhow!("it didn't start: {:?}", ended.error);
        self.start(spec)?.map_err(refused)
    }

    /// Runs a command in a container, with options of `ctr task exec`.
    pub fn exec(&self, id: &str, options: &[&str], words: &[&str]) -> Result<Ended> {
        let fifos = self.rig.directory().join("fifo");
        let fifos = fifos.to_string_lossy();
        self.heard(words[0], || {
            let exec = format!("exec-{}", self.next());
            let mut all = vec!["tasks", "exec", "--fifo-dir", &fifos, "--exec-id", &exec];
            all.extend(options);
            all.push(id);
            all.extend(words);
            Ok(Ended::of(&self.rig.ctr(&all)?))
        })
    }

    /// The number that a container's first process has on the node.
    pub fn pid(&self, id: &str) -> Result<i32> {
        let list = self.rig.ctr(&["tasks", "list"])?.text()?;
        let of = |line: &str| -> Option<i32> {
            let mut words = line.split_whitespace();
            (words.next()? == id).then(|| words.next()?.parse().ok())?
        };
        list.lines().find_map(of).context("no such task")
    }

    /// How many cgroups of this name are left, in all hierarchies.
    pub fn cgroups_of(&self, name: &str) -> Result<usize> {
        let below = rig::cgroup::below(self.rig.name())?;
        let of = |path: &&PathBuf| path.iter().any(|part| part == name);
        Ok(below.iter().filter(of).count())
    }

    /// Ends a container and removes it.
    pub fn remove(&self, id: &str) {
        // What couldn't be removed is found as left behind.
        drop(self.rig.ctr(&["tasks", "rm", "--force", id]));
        drop(self.rig.ctr(&["containers", "rm", id]));
    }

    /// Runs a pod, with more of its configuration.
    pub fn pod(&self, more: Value) -> Result<Pod<'a>> {
        let spec = PodSpec {
            more,
            ..PodSpec::default()
        };
        Pod::run(self.rig, self.handler, spec)
    }

    /// Starts a container that goes on in a pod, with more of its configuration, or tells how that
    /// failed.
    pub fn in_pod(
        &self,
        pod: &Pod<'a>,
        part: &str,
        seen: &mut Seen,
        more: Value,
    ) -> Result<Option<Container<'a>>> {
        let spec = ContainerSpec {
            more,
            ..ContainerSpec::idle()
        };
        match pod.start(&spec) {
            Ok(container) => Ok(Some(container)),
            Err(error) => {
                seen.refused(part, &format!("{error:#}"));
                Ok(None)
            }
        }
    }

    /// Starts such a container, and tells what a line of shell prints in it.
    pub fn look_in_pod(
        &self,
        pod: &Pod<'a>,
        part: &str,
        seen: &mut Seen,
        more: Value,
        line: &str,
    ) -> Result<()> {
        if let Some(container) = self.in_pod(pod, part, seen, more)? {
            seen.printed(part, &shell(&container, line)?);
        }
        Ok(())
    }

    /// A canary: a directory of the node's in which nothing may change.
    pub fn canary(&self, name: &str) -> Result<Canary> {
        let path = self.directory(name)?;
        fs::write(path.join("file"), "precious")?;
        fs::write(path.join("ptmx"), "precious")?;
        fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o600))?;
        let before = census(&path)?;
        Ok(Canary { path, before })
    }
}

/// What was put in the way of a runtime that resolves a container's paths on the node.
pub struct Canary {
    pub path: PathBuf,
    before: String,
}

impl Canary {
    /// Nothing may have changed in it, whoever runs the container.
    pub fn check(&self, part: &str, seen: &mut Seen) -> Result<()> {
        let now = census(&self.path)?;
        ensure!(
            now == self.before,
            "{part}: the canary was\n{}\nand is\n{now}",
            self.before
        );
        seen.add(part, "canary untouched");
        Ok(())
    }
}

/// A directory's and its entries' names, kinds, modes, owners, times of change, and content.
fn census(directory: &Path) -> Result<String> {
    let look = "find . -printf '%p %M %U:%G %C@\n' | sort; cat file ptmx";
    let mut shell = Command::new("sh");
    shell.args(["-ec", look]).current_dir(directory);
    command::run(&mut shell, &[], LIMIT)?.text()
}

/// The configuration of a pod or container that may do everything.
pub fn privileged() -> Value {
    json!({ "linux": { "security_context": { "privileged": true } } })
}

/// A shell's command for a container of a pod, complaints among what it prints.
pub fn shell(container: &Container<'_>, line: &str) -> Result<Finished> {
    // crictl shows nothing of a command that failed.
    container.exec(&["sh", "-c", &format!("exec 2>&1; {line}\ntrue")])
}
