//! Volumes that several containers of a pod have: one filesystem, by whatever path each has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use rig::command;
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};
use serde_json::json;

use crate::e2e::{Body, Env, patience, same};

pub const TRIALS: &[(&str, Body)] = &[
    ("volumes::one_by_any_path", one_by_any_path),
    ("volumes::databases_of_two", databases_of_two),
    (
        "volumes::as_long_as_somebody_has_them",
        as_long_as_somebody_has_them,
    ),
    (
        "volumes::watched_while_kubelet_changes_them",
        watched_while_kubelet_changes_them,
    ),
    ("volumes::locks_of_two_pods", locks_of_two_pods),
    ("volumes::locks_end_with_a_close", locks_end_with_a_close),
    ("volumes::that_hang", that_hang),
];

/// A volume, and a directory of it bound elsewhere, as kubelet does for a subPath. Unmounted at the end.
struct Volume {
    whole: PathBuf,
    part: PathBuf,
}

impl Volume {
    fn make(env: &Env, name: &str) -> Result<Self> {
        let directory = env.rig.directory().join("logs").join(name);
        let (whole, part) = (directory.join("volume"), directory.join("subpath"));
        let sub = whole.join("sub");
        fs::create_dir_all(&sub)?;
        fs::create_dir_all(&part)?;
        fs::set_permissions(&sub, fs::Permissions::from_mode(0o777))?;
        let none = None::<&str>;
        mount(Some(&sub), &part, none, MsFlags::MS_BIND, none).context("binding a subPath")?;
        Ok(Self { whole, part })
    }

    /// Puts a program of this machine's, and the libraries that it needs, into the volume; answers with
    /// the command line that runs it in the containers.
    fn tool(&self, name: &str) -> Result<String> {
        let directory = self.whole.join("tools");
        fs::create_dir_all(&directory)?;
        let program = Path::new("/usr/bin").join(name);
        let limit = Duration::from_secs(60);
        let needed = command::run(Command::new("ldd").arg(&program), &[], limit)?.text()?;
        let libraries = needed.lines().filter_map(|line| {
            let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
            Some(PathBuf::from(path))
        });
        let mut loader = None;
        for file in libraries.chain([program]) {
            let name = file.file_name().context("a library without a name")?;
            fs::copy(&file, directory.join(name))?;
            let name = name.to_string_lossy();
            if name.starts_with("ld-linux") {
                loader = Some(name.into_owned());
            }
        }
        let loader = loader.with_context(|| format!("{name} has no loader"))?;
        let tools = "/all/tools";
        Ok(format!(
            "{tools}/{loader} --library-path {tools} {tools}/{name}"
        ))
    }

    /// Containers that have all of it (two), that may only read it, and that have the subPath; each at
    /// `/v/sub`. In the order that `order` names.
    fn containers<'a>(&self, pod: &Pod<'a>, order: [usize; 4]) -> Result<[Container<'a>; 4]> {
        let ways = [
            (&self.whole, "/v", false),
            (&self.whole, "/v", false),
            (&self.whole, "/v", true),
            (&self.part, "/v/sub", false),
        ];
        let mut made: [Option<Container<'_>>; 4] = [const { None }; 4];
        for index in order {
            let (host, inside, read_only) = ways[index];
            let mut spec = ContainerSpec::idle();
            spec.more = json!({"mounts": [
                {"host_path": host, "container_path": inside, "readonly": read_only},
                {"host_path": self.whole, "container_path": "/all", "readonly": true},
            ]});
            made[index] = Some(pod.start(&spec)?);
        }
        let all: Option<Vec<_>> = made.into_iter().collect();
        all.and_then(|all| all.try_into().ok())
            .context("not all were made")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = umount2(&self.part, MntFlags::MNT_DETACH);
    }
}

/// In which orders the containers of a trial are made: in both, but in one where a processor is emulated
/// and nobody asks for the trial.
fn orders(env: &Env) -> Vec<(&'static str, [usize; 4])> {
    let mut orders = vec![("part-first", [3, 2, 1, 0]), ("whole-first", [0, 1, 2, 3])];
    if rig::test_vm::inside() && !env.by_name {
        orders.truncate(1);
    }
    orders
}

fn shell(container: &Container<'_>, line: &str) -> Result<String> {
    container.exec(&["sh", "-c", line])?.text()
}

/// Whoever writes, binds, locks or waits: the others see it, and at once.
fn one_by_any_path(env: &Env) -> Result<()> {
    let volume = Volume::make(env, "one-by-any-path")?;
    fs::write(volume.whole.join("sub/file"), "first\n")?;
    let flock = volume.tool("flock")?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let all = volume.containers(&pod, [3, 0, 2, 1])?;
    let [first, second, reader, part] = &all;
    let look = "stat -c '%d %i' /v/sub /v/sub/file; cat /v/sub/file";
    let seen = shell(first, look)?;
    for other in [second, reader, part] {
        same("what is there", shell(other, look)?, seen.clone())?;
    }
    shell(part, "echo second > /v/sub/file")?;
    for other in [first, second, reader] {
        same(
            "what was written",
            shell(other, "cat /v/sub/file")?,
            "second".into(),
        )?;
    }
    shell(first, "touch /v/sub/lock; mkfifo /v/sub/fifo")?;
    let hold = format!("{flock} /v/sub/lock sh -c 'touch /v/sub/held; sleep 1000'");
    let mut holder = first.exec_command(&[], &["sh", "-c", &hold])?.spawn()?;
    command::until("a lock", patience(Duration::from_secs(20)), || {
        Ok(volume.whole.join("sub/held").exists())
    })?;
    for other in [second, reader, part] {
        let lock = format!("{flock} -n /v/sub/lock true");
        let taken = other.exec(&["sh", "-c", &lock])?;
        same("asking for a lock that another has", taken.code(), 1)?;
    }
    holder.kill()?;
    holder.wait()?;
    for (reads, writes) in [(second, part), (part, first)] {
        std::thread::scope(|scope| {
            let through = scope.spawn(|| shell(reads, "cat /v/sub/fifo"));
            shell(writes, "echo through > /v/sub/fifo")?;
            let through = through
                .join()
                .map_err(|_| anyhow!("a reader's thread ended"))??;
            same("what goes through a FIFO", through, "through".into())
        })?;
    }
    // From a directory that one has by the subPath to one that only the volume has.
    shell(part, "mkdir /v/sub/deep; echo x > /v/sub/deep/moved")?;
    shell(
        first,
        "mv /v/sub/deep/moved /v/moved && ln /v/moved /v/sub/deep/link",
    )?;
    same("a link", shell(part, "cat /v/sub/deep/link")?, "x".into())?;
    let refused = reader.exec(&["sh", "-c", "echo x > /v/sub/refused"])?;
    ensure!(refused.code() != 0, "a read-only volume was written");
    Ok(())
}

/// How many rows each of two writers commits.
const ROWS: u32 = 40;

/// SQLite's write-ahead log is memory that all who have the file map, and locks of its parts.
fn databases_of_two(env: &Env) -> Result<()> {
    let volume = Volume::make(env, "databases-of-two")?;
    let sqlite = volume.tool("sqlite3")?;
    let run = format!("{sqlite} -cmd '.timeout 60000'");
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    for (name, order) in orders(env) {
        let all = volume.containers(&pod, order)?;
        let [first, second, _, part] = &all;
        for (who, pair) in [("same", [first, second]), ("part", [second, part])] {
            let database = format!("/v/sub/{name}-{who}.db");
            let sql = |container: &Container<'_>, sql: &str| {
                shell(container, &format!("{run} {database} \"{sql}\""))
            };
            sql(pair[0], "pragma journal_mode=wal; create table t(w,i,p);")?;
            let write = |container: &Container<'_>, writer: &str| -> Result<()> {
                let line = format!(
                    "i=0; while [ $i -lt {ROWS} ]; do \
                     echo \"begin immediate; insert into t values('{writer}',$i,hex(randomblob(900))); commit;\"; \
                     i=$((i+1)); done | {run} {database}"
                );
                shell(container, &line).map(drop)
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| write(pair[1], "b"));
                write(pair[0], "a")?;
                other
                    .join()
                    .map_err(|_| anyhow!("a writer's thread ended"))?
            })?;
            let counts = "select w,count(*) from t group by w; pragma integrity_check;";
            let wanted = format!("a|{ROWS}\nb|{ROWS}\nok");
            same(who, sql(pair[0], counts)?, wanted)?;
        }
    }
    Ok(())
}

/// A container that goes takes away no file that another has, by whatever path it was found; and one
/// that comes back finds them.
fn as_long_as_somebody_has_them(env: &Env) -> Result<()> {
    let volume = Volume::make(env, "as-long")?;
    fs::write(volume.whole.join("sub/file"), "there\n")?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    for (_, order) in orders(env) {
        let [first, second, reader, part] = volume.containers(&pod, order)?;
        // All of them look at it, so that it is known by each way.
        for container in [&first, &second, &reader, &part] {
            shell(container, "cat /v/sub/file; ls -lR /v/sub /all")?;
        }
        let late = "exec 3>> /v/sub/file; touch /v/sub/open; sleep 15; echo late >&3";
        let mut late = part.exec_command(&[], &["sh", "-c", late])?.spawn()?;
        command::until("an open file", patience(Duration::from_secs(20)), || {
            Ok(volume.whole.join("sub/open").exists())
        })?;
        for gone in [&first, &reader, &second] {
            env.rig.crictl(&["rm", "-f", &gone.id])?.success()?;
            same(
                "what is left",
                shell(&part, "head -n 1 /v/sub/file")?,
                "there".into(),
            )?;
        }
        late.wait()?;
        let written = fs::read_to_string(volume.whole.join("sub/file"))?;
        ensure!(written.ends_with("late\n"), "written: {written:?}");
        env.rig.crictl(&["rm", "-f", &part.id])?.success()?;
        fs::remove_file(volume.whole.join("sub/open"))?;
    }
    Ok(())
}

/// Says the names that something happens to in a directory.
const WATCH: &str = r#"
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>
int main(int count, char **words) {
    static char room[65536] __attribute__((aligned(8)));
    int fd = inotify_init();
    if (count < 2 || inotify_add_watch(fd, words[1], IN_CREATE | IN_MOVED_TO | IN_DELETE) < 0) return 1;
    puts("watching");
    fflush(stdout);
    for (;;) {
        ssize_t length = read(fd, room, sizeof room);
        for (char *at = room; length > 0 && at < room + length;) {
            struct inotify_event *event = (struct inotify_event *)at;
            printf("%x %s\n", event->mask & 0xfff, event->len ? event->name : "");
            at += sizeof *event + event->len;
        }
        fflush(stdout);
    }
}
"#;

/// Writes a version of a volume, as kubelet does with a ConfigMap.
fn swap(volume: &Path, version: &str, content: &str) -> Result<()> {
    let old = fs::read_link(volume.join("..data")).ok();
    fs::create_dir(volume.join(version))?;
    fs::write(volume.join(version).join("key"), content)?;
    let next = volume.join("..data_tmp");
    std::os::unix::fs::symlink(version, &next)?;
    fs::rename(next, volume.join("..data"))?;
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old))?;
    }
    Ok(())
}

/// Who watches a ConfigMap hears of its change and finds what is new; so does a container made later.
fn watched_while_kubelet_changes_them(env: &Env) -> Result<()> {
    let directory = env.rig.directory().join("logs/watched");
    let (volume, tools) = (directory.join("map"), directory.join("tools"));
    fs::create_dir_all(&volume)?;
    fs::create_dir_all(&tools)?;
    swap(&volume, "..1", "one")?;
    std::os::unix::fs::symlink("..data/key", volume.join("key"))?;
    rig::images::compile(&tools, "watch", WATCH)?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let mut spec = ContainerSpec::new(&["/tools/watch", "/map"]);
    spec.more = json!({"mounts": [
        {"host_path": volume, "container_path": "/map", "readonly": true},
        {"host_path": tools, "container_path": "/tools", "readonly": true},
    ]});
    let watcher = pod.start(&spec)?;
    spec.command = ContainerSpec::idle().command;
    let other = pod.start(&spec)?;
    same("before", shell(&other, "cat /map/key")?, "one".into())?;
    let said = |what: &str| {
        command::until(what, patience(Duration::from_secs(20)), || {
            Ok(String::from_utf8_lossy(&watcher.logged("stdout")?).contains(what))
        })
    };
    said("watching")?;
    swap(&volume, "..2", "two")?;
    said("80 ..data\n")?;
    same("after", shell(&other, "cat /map/key")?, "two".into())?;
    let write = other.exec(&["sh", "-c", "echo x > /map/x"])?;
    ensure!(write.code() != 0, "a read-only volume was written");
    for container in [watcher, other] {
        env.rig.crictl(&["rm", "-f", &container.id])?.success()?;
    }
    swap(&volume, "..3", "three")?;
    let later = pod.start(&spec)?;
    same("later", shell(&later, "cat /map/key")?, "three".into())
}

/// Pods that share a volume, and the node, hold each other's locks; who waits for one can be ended.
fn locks_of_two_pods(env: &Env) -> Result<()> {
    let volume = Volume::make(env, "locks-of-two-pods")?;
    let flock = volume.tool("flock")?;
    let with_volume = |line: &str| {
        let mut spec = ContainerSpec::shell(line);
        spec.mounts = vec![
            (volume.whole.clone(), "/v".into()),
            (volume.whole.clone(), "/all".into()),
        ];
        spec
    };
    let pods = [
        Pod::run(&env.rig, env.handler, PodSpec::default())?,
        Pod::run(&env.rig, env.handler, PodSpec::default())?,
    ];
    let hold = format!("exec {flock} /v/lock sh -c 'touch /v/held; sleep 1000'");
    let holder = pods[0].start(&with_volume(&hold))?;
    command::until("a lock", patience(Duration::from_secs(20)), || {
        Ok(volume.whole.join("held").exists())
    })?;
    let other = pods[1].start(&with_volume("sleep 1000"))?;
    let ask = format!("{flock} -n /v/lock true");
    let asked = || Ok::<_, anyhow::Error>(other.exec(&["sh", "-c", &ask])?.code());
    same("a lock that another pod has", asked()?, 1)?;
    let lock = fs::File::open(volume.whole.join("lock"))?;
    ensure!(
        lock.try_lock().is_err(),
        "the node got a lock that a pod has"
    );

    let begun = Instant::now();
    let wait = format!("(timeout 1 {flock} /v/lock true; echo $?) 2> /dev/null");
    let waited = shell(&other, &wait)?;
    same("who waited until a signal came", waited, "143".into())?;
    let waiter = pods[1].start(&with_volume(&format!("exec {flock} /v/lock true")))?;
    std::thread::sleep(patience(Duration::from_millis(500)));
    env.rig
        .crictl(&["stop", "--timeout", "0", &waiter.id])?
        .success()?;
    same("who was killed", waiter.ended()?.0, 137)?;
    let (took, most) = (begun.elapsed(), patience(Duration::from_secs(10)));
    ensure!(took < most, "ending who waits for locks took {took:?}");

    env.rig
        .crictl(&["stop", "--timeout", "0", &holder.id])?
        .success()?;
    command::until("the lock", patience(Duration::from_secs(10)), || {
        Ok(asked()? == 0)
    })?;
    lock.lock()?;
    same("a lock that the node has", asked()?, 1)
}

/// POSIX locks end when their process closes the file, by whatever descriptor, and with the process.
/// What was written by a mapping is on the node when the file is closed.
fn locks_end_with_a_close(env: &Env) -> Result<()> {
    let volume = Volume::make(env, "locks-end-with-a-close")?;
    let source = include_str!("../rig/programs/locks.c");
    rig::images::compile(&volume.whole, "locks", source)?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let mut spec = ContainerSpec::shell("exec /v/locks /v/locked /v/mapped > /v/said");
    spec.mounts = vec![(volume.whole.clone(), "/v".into())];
    let container = pod.start(&spec)?;
    let read = |name: &str| fs::read(volume.whole.join(name)).unwrap_or_default();
    command::until("a word", patience(Duration::from_secs(20)), || {
        Ok(read("said").ends_with(b"\n"))
    })?;
    same("what it says", read("said"), b"ok\n".to_vec())?;
    let mapped = read("mapped");
    same("what was mapped", mapped.get(..6), Some(&b"mapped"[..]))?;
    env.rig
        .crictl(&["stop", "--timeout", "0", &container.id])?
        .success()?;
    Ok(())
}

/// A filesystem that a daemon serves, which can be stopped.
struct Hanging {
    daemon: Child,
    place: PathBuf,
}

impl Hanging {
    fn mount(directory: &Path) -> Result<Self> {
        let place = directory.join("volume");
        fs::create_dir_all(&place)?;
        // Where it is a module.
        let _ = Command::new("modprobe").arg("fuse").output();
        let source = include_str!("../rig/programs/hanging.c");
        let program = rig::images::compile(directory, "hanging", source)?;
        let mut command = Command::new(program);
        command.arg(&place);
        command::end_with_us(&mut command);
        let mounted = Self {
            daemon: command.spawn()?,
            place,
        };
        command::until("a mount", patience(Duration::from_secs(10)), || {
            Ok(mounted.place.join("file").exists())
        })?;
        Ok(mounted)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            ProcessId::from_raw(self.daemon.id().cast_signed()),
            signal,
        )?)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A volume that hangs stops those who touch it, and nobody else; and the pod ends all the same.
fn that_hang(env: &Env) -> Result<()> {
    let directory = env.rig.directory().join("logs/hanging");
    fs::create_dir_all(&directory)?;
    let volume = Hanging::mount(&directory)?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let mut spec = ContainerSpec::idle();
    let neighbour = pod.start(&spec)?;
    spec.mounts = vec![(volume.place.clone(), "/volume".into())];
    let user = pod.start(&spec)?;
    same("before", shell(&user, "cat /volume/file")?, "here".into())?;
    volume.signal(Signal::SIGSTOP)?;
    let mut reader = user.exec_command(&[], &["cat", "/volume/file"])?;
    let reader = reader.stdout(Stdio::piped()).spawn()?;
    std::thread::sleep(patience(Duration::from_millis(500)));
    let line = "echo x > /tmp/x; ls -R /etc > /dev/null; cat /tmp/x";
    for _ in 0..3 {
        let begun = Instant::now();
        same("the neighbour's", shell(&neighbour, line)?, "x".into())?;
        same("the user's own", shell(&user, line)?, "x".into())?;
        let (took, most) = (begun.elapsed(), patience(Duration::from_secs(5)));
        ensure!(
            took < most,
            "beside a volume that hangs two commands took {took:?}"
        );
    }
    volume.signal(Signal::SIGCONT)?;
    let read = reader.wait_with_output()?;
    same(
        "after",
        String::from_utf8_lossy(&read.stdout).trim(),
        "here",
    )?;
    volume.signal(Signal::SIGSTOP)?;
    // Who is killed there ends, and nobody else with it.
    let begun = Instant::now();
    let late = user.exec_command(&["--sync", "--timeout", "1"], &["cat", "/volume/file"])?;
    ensure!(
        !{ late }.output()?.status.success(),
        "a volume that hangs was read"
    );
    let mut reader = user.exec_command(&[], &["cat", "/volume/file"])?.spawn()?;
    std::thread::sleep(patience(Duration::from_millis(500)));
    env.rig
        .crictl(&["stop", "--timeout", "0", &user.id])?
        .success()?;
    same("the user's end", user.ended()?.0, 137)?;
    reader.wait()?;
    same("the neighbour's", shell(&neighbour, line)?, "x".into())?;
    let (took, most) = (begun.elapsed(), patience(Duration::from_secs(15)));
    ensure!(took < most, "ending who waits for a volume took {took:?}");
    volume.signal(Signal::SIGCONT)?;

    let user = pod.start(&spec)?;
    same("anew", shell(&user, "cat /volume/file")?, "here".into())?;
    volume.signal(Signal::SIGSTOP)?;
    let mut reader = user.exec_command(&[], &["cat", "/volume/file"])?.spawn()?;
    std::thread::sleep(patience(Duration::from_millis(500)));
    let begun = Instant::now();
    pod.stop()?;
    pod.remove()?;
    let (took, most) = (begun.elapsed(), patience(Duration::from_secs(10)));
    ensure!(took < most, "stopping and removing the pod took {took:?}");
    reader.wait()?;
    Ok(())
}
