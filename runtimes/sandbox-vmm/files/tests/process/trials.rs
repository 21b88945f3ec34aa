//! What the parent can do, and what the server can't.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};
use trefoil_core::{ErrorKind, Mount};
use trefoil_files::exit::{Exit, HungUp};
use trefoil_files::parent::{Flush, Jail, Server, Start, start};
use trefoil_files::server::filter;
use trefoil_files::tree::{Changes, Source, Tree};
use trefoil_jail::Control;
use trefoil_jail::seccomp::install_in_all_threads;

/// What the program is called as a server.
pub const SERVER: &str = "trefoil-files-under-test";

/// What the program is called as a server that makes a call that its filter forbids.
pub const FORBIDDEN: &str = "trefoil-files-forbidden";

pub const TRIALS: &[(&str, fn())] = &[
    ("a_server_has_what_it_needs_and_no_more", jailed),
    ("trees_are_the_servers_alone", trees),
    ("trees_that_cant_be_are_refused_in_words", refused),
    ("mount_namespaces_below_a_tree_are_left_out", pinned),
    ("an_overlay_may_have_many_layers", overlay),
    ("a_tree_can_be_read_only", read_only),
    ("what_is_taken_away_is_let_go", let_go),
    ("volumes_of_one_filesystem_are_one", volumes),
    ("a_server_ends_with_its_vmm", ends_with_vmm),
    ("a_server_that_is_gone_is_told_of", gone),
    ("a_vmm_that_makes_no_sense_ends_its_server_only", hostile),
    ("a_server_is_small", small),
    ("a_forbidden_call_is_named", forbidden_call),
];

const JAIL: Jail = Jail {
    uid: 54321,
    gid: 54322,
    guest_mib: 64,
    flush: Flush::WhereLocked,
};

/// Starts this program as a server.
fn started(name: &str, log: &File) -> (Server, UnixStream) {
    start(
        &Start {
            program: None,
            arguments: &[name],
            log: log.as_fd(),
            cgroups: &[],
            oom_score_adj: Some(777),
        },
        &JAIL,
    )
    .expect("start")
}

fn with_server(body: impl AsyncFnOnce(&Server, UnixStream)) {
    let log = File::options()
        .write(true)
        .open("/dev/stderr")
        .expect("log");
    let (server, vmm) = started(SERVER, &log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime");
    runtime.block_on(body(&server, vmm));
}

fn path(path: &Path) -> Tree {
    Tree {
        source: Source::Path {
            path: path.to_owned(),
            submounts: true,
        },
        read_only: false,
        changes: Changes::Anybody,
    }
}

/// A file as the server sees its root.
fn seen(server: &Server, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root/{name}", server.pid()))
}

fn own_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("mounts")
}

fn field(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect(name)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn jailed() {
    with_server(async |server, _vmm| {
        let tree = tempfile::tempdir().expect("tree");
        // It is in its jail when it answers.
        server
            .share("tree", path(tree.path()))
            .await
            .expect("share");
        let pid = server.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        for (name, expected) in [
            ("Name", "trefoil-files"),
            ("Uid", "54321 54321 54321 54321"),
            ("Gid", "54322 54322 54322 54322"),
            ("Groups", ""),
            ("NSpid", &format!("{pid} 1")),
            ("Threads", "16"),
            // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID; MKNOD, SETFCAP.
            ("CapPrm", "00000000880000db"),
            ("CapEff", "00000000880000db"),
            ("CapInh", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(field(&status, name), expected, "{name}");
        }
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("score");
        assert_eq!(score.trim(), "777");
        for name in ["mnt", "net", "ipc", "uts", "pid"] {
            let of = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/{name}")).expect("link");
            assert_ne!(of(&pid.to_string()), of("self"), "{name}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .expect("line");
        // One for each KiB of the guest's, and some; or as many as we may have.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        let expected = most.min((64 << 10) + 128);
        assert!(line.contains(&format!(" {expected} ")), "{line}");
        // Its mounts: a root that it can't write to, and the tree.
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
        let mut lines: Vec<_> = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .collect();
        lines.sort_by_key(|line| line[4]);
        let places: Vec<_> = lines.iter().map(|line| line[4]).collect();
        assert_eq!(places, ["/", "/tree"], "{mounts}");
        for line in &lines {
            for option in ["nosuid", "nodev", "noexec"] {
                assert!(line[5].split(',').any(|found| found == option), "{mounts}");
            }
            assert_eq!(line[6], "-", "it is private: {mounts}");
        }
        assert!(lines[0][5].starts_with("ro,"), "{mounts}");
        assert!(lines[1][5].contains("nosymfollow"), "{mounts}");
        // Its working directory is its own descriptors, and nothing lies above.
        let descriptors: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("descriptors")
            .collect();
        let cwd = PathBuf::from(format!("/proc/{pid}/cwd/"));
        assert_eq!(fs::read_dir(&cwd).expect("list").count(), descriptors.len());
        let above: Vec<_> = fs::read_dir(cwd.join("..")).expect("list").collect();
        assert_eq!(above.len(), descriptors.len());
    });
}

fn trees() {
    let before = own_mounts();
    with_server(async |server, _vmm| {
        let tree = tempfile::tempdir().expect("tree");
        fs::write(tree.path().join("file"), "content").expect("write");
        let link = tempfile::tempdir().expect("link");
        std::os::unix::fs::symlink(tree.path().join("file"), link.path().join("to")).expect("link");
        server
            .share("tree", path(tree.path()))
            .await
            .expect("share");
        server
            .share("file", path(&tree.path().join("file")))
            .await
            .expect("share");
        server
            .share("linked", path(&link.path().join("to")))
            .await
            .expect("share");
        for name in ["tree/file", "file", "linked"] {
            assert_eq!(
                fs::read_to_string(seen(server, name)).expect(name),
                "content"
            );
        }
        let why = server
            .share("tree", path(tree.path()))
            .await
            .expect_err("again");
        assert_eq!(why.kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            why.to_string(),
            "share tree with the guest: there is such a name already"
        );
        // Nothing of it is among our mounts.
        assert_eq!(own_mounts(), before);
        server.unshare("tree").await.expect("unshare");
        let why = server.unshare("tree").await.expect_err("again");
        assert_eq!(why.kind(), ErrorKind::NotFound);
        server.hurry(true).await.expect("nothing hangs");
        let names: Vec<_> = fs::read_dir(seen(server, "")).expect("list").collect();
        assert_eq!(names.len(), 2);
        server
            .share("tree", path(tree.path()))
            .await
            .expect("share again");
        fs::read(seen(server, "tree/file")).expect("it is back");
        server.hurry(false).await.expect("nothing hung");
        server.unshare("tree").await.expect("unshare");
    });
    assert_eq!(own_mounts(), before);
}

/// Mounts a mount namespace at a file, as snapd does. Linux 6.18 takes some that are newer than ours for
/// older ones, and refuses those.
fn pin(place: &Path) {
    const TRIES: usize = 500;
    let pinned = (0..TRIES).any(|_| {
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", "echo; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut said = [0];
        let out = child.stdout.as_mut().expect("pipe");
        out.read_exact(&mut said).expect("made");
        let namespace = format!("/proc/{}/ns/mnt", child.id());
        let none = None::<&str>;
        let outcome = mount(Some(&*namespace), place, none, MsFlags::MS_BIND, none);
        drop(child.stdin.take());
        child.wait().expect("end");
        outcome.is_ok()
    });
    assert!(pinned, "no mount namespace could be mounted");
}

fn pinned() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a namespace");
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).expect("private");
    let tree = tempfile::tempdir().expect("tree");
    let pins = tree.path().join("pins");
    fs::create_dir(&pins).expect("directory");
    mount(Some("none"), &pins, Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
    fs::write(pins.join("pin"), "below").expect("write");
    pin(&pins.join("pin"));
    with_server(async |server, _vmm| {
        let shared = server.share("tree", path(tree.path())).await;
        shared.expect("share");
        let below = fs::read_to_string(seen(server, "tree/pins/pin"));
        assert_eq!(below.expect("a file"), "below");
    });
    umount2(&pins, MntFlags::MNT_DETACH).expect("unmount");
}

fn refused() {
    with_server(async |server, _vmm| {
        let tree = tempfile::tempdir().expect("tree");
        for (name, source, expected) in [
            (
                "a/b",
                tree.path().to_owned(),
                "the name has other characters than it may",
            ),
            ("none", tree.path().join("none"), "ENOENT"),
            ("relative", "tmp".into(), "tmp is not an absolute path"),
            (
                "device",
                "/dev/null".into(),
                "/dev/null is neither a directory nor a file",
            ),
        ] {
            let why = server
                .share(name, path(&source))
                .await
                .expect_err(name)
                .to_string();
            assert!(
                why.starts_with(&format!("share {name} with the guest: ")),
                "{why}"
            );
            assert!(
                why.contains(expected) || why.contains("No such file"),
                "{why}"
            );
        }
        server
            .share("none", path(tree.path()))
            .await
            .expect("the name is free");
        assert_eq!(fs::read_dir(seen(server, "")).expect("list").count(), 1);
    });
}

/// Writes layers, and says how they are mounted.
fn layers(below: &Path, count: usize) -> Mount {
    let mut list = Vec::new();
    for number in 0..count {
        let layer = below.join(format!("snapshots-{number}")).join("fs");
        fs::create_dir_all(&layer).expect("layer");
        fs::write(layer.join(format!("of-{number}")), number.to_string()).expect("write");
        fs::write(layer.join("top"), number.to_string()).expect("write");
        list.push(layer.display().to_string());
    }
    for name in ["upper", "work"] {
        fs::create_dir(below.join(name)).expect("directory");
    }
    Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("workdir={}", below.join("work").display()),
            format!("upperdir={}", below.join("upper").display()),
            format!("lowerdir={}", list.join(":")),
        ],
    }
}

fn root(mount: Mount) -> Tree {
    Tree {
        source: Source::Mount(mount),
        read_only: false,
        changes: Changes::GuestOnly,
    }
}

fn overlay() {
    let before = own_mounts();
    with_server(async |server, _vmm| {
        let below = tempfile::tempdir().expect("layers");
        // More than a page of options: what mount(2) takes.
        let mount = layers(below.path(), 160);
        assert!(mount.options[2].len() > 4096);
        server.share("root", root(mount)).await.expect("share");
        for number in [0, 57, 159] {
            let file = seen(server, &format!("root/of-{number}"));
            assert_eq!(fs::read_to_string(file).expect("read"), number.to_string());
        }
        assert_eq!(
            fs::read_to_string(seen(server, "root/top")).expect("read"),
            "0"
        );
        fs::write(seen(server, "root/top"), "written").expect("write");
        let upper = below.path().join("upper/top");
        assert_eq!(fs::read_to_string(upper).expect("read"), "written");
        assert_eq!(own_mounts(), before);
    });
}

fn read_only() {
    with_server(async |server, _vmm| {
        let tree = tempfile::tempdir().expect("tree");
        let read_only = Tree {
            read_only: true,
            ..path(tree.path())
        };
        server.share("tree", read_only).await.expect("share");
        server
            .share("same", path(tree.path()))
            .await
            .expect("share");
        let why = fs::write(seen(server, "tree/file"), "").expect_err("read-only");
        assert_eq!(why.raw_os_error(), Some(libc::EROFS));
        fs::write(seen(server, "same/file"), "").expect("the other one is not");
    });
}

/// A filesystem that nobody has mounted any more is gone.
fn let_go() {
    with_server(async |server, _vmm| {
        let below = tempfile::tempdir().expect("layers");
        let mount = layers(below.path(), 1);
        server
            .share("root", root(mount.clone()))
            .await
            .expect("share");
        server.unshare("root").await.expect("unshare");
        // An overlay's upper directory can't be another's as long as it is in use, where the kernel
        // looks; in any case it can be made again.
        server
            .share("root", root(mount))
            .await
            .expect("share again");
        server.unshare("root").await.expect("unshare again");
        fs::remove_dir_all(below.path().join("work")).expect("remove");
    });
}

fn volumes() {
    with_server(async |server, _vmm| {
        let directory = tempfile::tempdir().expect("volume");
        let whole = directory.path().join("whole");
        let part = whole.join("part");
        let mounted = directory.path().join("mounted");
        fs::create_dir_all(&part).expect("part");
        fs::create_dir_all(mounted.join("below")).expect("below");
        let share = async |at: &Path| server.share_volume(path(at)).await.expect("share");
        let first = share(&whole).await;
        assert_eq!(share(&whole).await, first);
        let second = share(&part).await;
        let filesystem = |name: &str| name.split_once('/').map(|(one, _)| one.to_owned());
        assert_eq!(filesystem(&first), filesystem(&second), "{first} {second}");
        assert!(filesystem(&first).is_some(), "{first}");
        // With another mount below it, it can't be one with them.
        let below = mounted.join("below");
        let none = MsFlags::empty();
        mount(Some("none"), &below, Some("tmpfs"), none, None::<&str>).expect("tmpfs");
        let apart = share(&mounted).await;
        umount2(&below, MntFlags::MNT_DETACH).expect("unmount");
        assert_eq!(filesystem(&apart), None, "{apart}");
        let is_there = |name: &str| seen(server, name).exists();
        let leave = async |name: &str| server.unshare_volume(name).await.expect("unshare");
        leave(&apart).await;
        assert!(!is_there(&apart));
        leave(&first).await;
        assert!(is_there(&first), "another has it");
        leave(&first).await;
        assert!(is_there(&first), "its files may be held by it");
        leave(&second).await;
        assert!(!is_there(&first) && !is_there(&second));
        assert!(!is_there(&filesystem(&first).unwrap_or_default()));
        let why = server.share_volume(path("relative".as_ref())).await;
        let why = why.expect_err("relative").to_string();
        assert!(why.ends_with("relative is not an absolute path"), "{why}");
    });
}

fn await_end(server: &Server) -> String {
    let limit = PollTimeout::try_from(Duration::from_secs(10)).expect("limit");
    let mut polled = [PollFd::new(server.pidfd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polled, limit), Ok(1));
    server.ended().expect("look").expect("ended").to_string()
}

fn ends_with_vmm() {
    with_server(async |server, vmm| {
        let tree = tempfile::tempdir().expect("tree");
        server
            .share("tree", path(tree.path()))
            .await
            .expect("share");
        assert_eq!(server.ended().expect("look"), None);
        drop(vmm);
        let _ = await_end(server);
    });
}

fn gone() {
    with_server(async |server, _vmm| {
        let tree = tempfile::tempdir().expect("tree");
        server.kill();
        let _ = await_end(server);
        let why = server
            .share("tree", path(tree.path()))
            .await
            .expect_err("gone");
        assert_eq!(why.kind(), ErrorKind::Unavailable);
        assert!(
            why.to_string()
                .ends_with("tell the file server: it is gone"),
            "{why}"
        );
    });
}

/// Messages that are none, cut short, with descriptors that are nothing of use.
fn hostile() {
    let header =
        |request: u32, flags: u32, size: u32| [request, flags, size].map(u32::to_ne_bytes).concat();
    let queue = |request, index: u32, number: u32| {
        let mut message = header(request, 1, 8);
        message.extend([index, number].map(u32::to_ne_bytes).concat());
        message
    };
    // Rings of what queues there are not, too large ones, and addresses in no memory.
    let addresses = [header(9, 1, 40), vec![0xff; 40]].concat();
    for bytes in [
        vec![0; 12],
        vec![0xff; 64],
        header(1, 1, u32::MAX),
        header(99, 1, 0),
        queue(8, 2, 16),
        queue(8, 0, 3),
        queue(8, u32::MAX, 16),
        queue(10, 0, 1 << 16),
        addresses,
    ] {
        with_server(async |server, mut vmm| {
            let tree = tempfile::tempdir().expect("tree");
            server
                .share("tree", path(tree.path()))
                .await
                .expect("share");
            vmm.write_all(&bytes).expect("write");
            drop(vmm.shutdown(std::net::Shutdown::Write));
            let _ = await_end(server);
        });
    }
    // One that says nothing, or the half, does not keep us from ending it.
    with_server(async |server, mut vmm| {
        vmm.write_all(&[1, 0, 0]).expect("write");
        server.kill();
        let _ = await_end(server);
    });
}

/// What it costs beside the program, which the shim's other processes have too.
fn small() {
    with_server(async |server, _vmm| {
        let tree = tempfile::tempdir().expect("tree");
        server
            .share("tree", path(tree.path()))
            .await
            .expect("share");
        let rollup = format!("/proc/{}/smaps_rollup", server.pid());
        let rollup = fs::read_to_string(rollup).expect("memory");
        let own: u64 = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Pss_Anon:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .expect("kB");
        assert!(own < 1024, "{own} kB are its own");
    });
}

/// A server whose threads, made before the filter is, call what it forbids.
pub fn call_what_is_forbidden() -> ! {
    // SAFETY: nothing has been opened yet.
    let control = unsafe { Control::take() }.expect("control");
    control.launch::<serde_json::Value>().expect("launch");
    let (confined, begin) = std::sync::mpsc::channel::<()>();
    let (ready, there) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        ready.send(()).expect("tell");
        begin.recv().expect("told");
        UnixStream::pair()
    });
    // What a thread's start takes is forbidden, too.
    there.recv().expect("a thread");
    let filter = filter::compile().expect("compile");
    install_in_all_threads(&filter).expect("install");
    confined.send(()).expect("tell");
    drop(other.join());
    std::process::exit(control.end(Exit::Done(HungUp)))
}

fn forbidden_call() {
    let log = tempfile::NamedTempFile::new().expect("file");
    let (server, _front_end) = started(FORBIDDEN, log.as_file());
    assert_eq!(
        await_end(&server),
        "file server: serving thread: call socketpair (53): its seccomp filter forbids it"
    );
    assert_eq!(
        fs::read_to_string(log.path()).expect("log"),
        "trefoil-files: the serving thread may not call socketpair (53): killed\n"
    );
}
