//! What manages processes itself, in a container: systemd, and another container runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::{Side, privileged};
use crate::field::spec::Spec;

pub const TRIALS: &[Scenario] = &[
    ("nested::systemd", systemd),
    ("nested::runc_in_a_pod", runc_in_a_pod),
    ("nested::containerd_in_a_pod", containerd_in_a_pod),
    ("nested::rootless_containerd", rootless_containerd),
    ("nested::rootless_in_a_pod", rootless_in_a_pod),
];

/// A root of this machine's own files, in which systemd runs one unit and ends with 5.
const SYSTEMD: &str = r#"mkdir m; mount -t tmpfs m m; cd m
mkdir -p usr etc/systemd/system/field.target.wants proc sys dev run tmp var/tmp var/log var/lib root
ln -s ../run var/run; for l in bin sbin lib lib64; do cp -a /$l .; done
mount --bind /usr usr; mount -o remount,bind,ro usr
for f in passwd group shadow nsswitch.conf os-release ld.so.cache ld.so.conf dbus-1; do
    cp -a /etc/$f etc 2>/dev/null || true; done
: > etc/machine-id; cd etc/systemd/system
cat > field.service <<'U'
[Service]
Type=oneshot
ExecStart=/bin/sh -c "grep -c -E '^(1:name=systemd|0:).*/field.service' /proc/self/cgroup; systemctl list-units --failed --no-legend; echo unit ran"
StandardOutput=file:/out/out
ExecStopPost=/bin/systemctl --no-block exit 5
U
cat > field.target <<'U'
[Unit]
Requires=field.service
After=field.service
AllowIsolate=yes
U
"#;

/// systemd as the first process, with cgroups of its own.
///
/// containers/podman#6734, opencontainers/runc#1175, moby/moby#27202, systemd/systemd#17447
fn systemd(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    if !Path::new("/lib/systemd/systemd").exists() {
        seen.add("none here", "");
        return Ok(());
    }
    side.shell(SYSTEMD)?;
    let out = side.directory("out")?;
    let spec = side
        .spec()?
        .root(&side.at().join("m"))
        .bind(&out, "/out", "rbind");
    let spec = spec.capable(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"]);
    let spec = spec
        .cgroups("rw")
        .namespace("cgroup")
        .mount("/tmp", "tmpfs", "tmpfs", "nosuid");
    let spec = spec
        .args(&["/lib/systemd/systemd", "--unit=field.target"])
        .edit(
            "/process/env += \"container=oci\" ; /process/noNewPrivileges = false ; \
         /linux/resources = {} ; /linux/readonlyPaths = []",
        )?;
    let ended = side.run(&spec)?;
    seen.add("unit", &side.shell("cat out/out 2>&1 || true")?);
    seen.aside(
        "unit",
        &format!("{} {:?} {}", ended.code, ended.error, ended.out),
    );
    seen.add("unit", &format!("exit {}", ended.code));
    side.shell("umount -R m")?;
    Ok(())
}

const INNER: &str = r#"cd /inner; r="/inner-runc --root /run/irunc"; mkdir -p /run/b; cp -r rootfs run.json sleep.json /run/b
cd /run/b; cp run.json config.json; $r run i1 </dev/null; echo run $?
cp sleep.json config.json; $r create i2 </dev/null >/run/i2.log 2>&1; echo create $?; cat /run/i2.log
$r start i2; $r exec i2 echo in inner; $r update --memory 60000000 i2; echo update $?
$r pause i2 && $r resume i2 && echo paused and resumed; $r delete -f i2; echo delete $?
mkdir -p /x; unshare -Urm sh -c 'mount -t tmpfs x /x && echo mounted'"#;

/// A container runtime, stock's, in a privileged pod: docker in a development container, kind.
///
/// youki-dev/youki#3342, opencontainers/runc#4542, containerd/containerd#11083
fn runc_in_a_pod(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let inner = prepare_inner(side, "rootfs", limited)?;
    let pod = side.pod(privileged())?;
    let mut more = privileged();
    more["mounts"] = json!([
        { "container_path": "/inner", "host_path": inner },
        { "container_path": "/inner-runc", "host_path": side.rig.tools().runc(), "readonly": true },
    ]);
    side.look_in_pod(&pod, "inner", seen, more, INNER)
}

const CONTAINERD: &str = "version = 3\nroot = '/run/c/root'\nstate = '/run/c/state'
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.nri.v1.nri']
[grpc]\naddress = '/run/c/sock'\n[ttrpc]\naddress = '/run/c/sock.ttrpc'\n";

const WITH_CONTAINERD: &str = r#"mkdir -p /run/c; cp -r $INNER/rootfs /run/c; cd $INNER
export PATH=$PROGRAMS/shim:$PROGRAMS/containerd:$PROGRAMS/runc:$PATH CONTAINERD_ADDRESS=/run/c/sock
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
containerd --config config.toml >/run/c/log 2>&1 & daemon=$!
for try in $(seq 300); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
r="--runtime $RUNTIME"
ctr run --rm $r --config run.json i1 </dev/null 2>/dev/null; echo run $?
ctr run -d $r --config sleep.json i2 </dev/null >/dev/null 2>&1; echo start $?
ctr task exec --exec-id e i2 echo in inner </dev/null 2>/dev/null; echo exec $?
ctr task pause i2 2>/dev/null && ctr task resume i2 2>/dev/null && echo paused and resumed
ctr task metrics i2 >/dev/null 2>&1; echo metrics $?; ctr task kill -s SIGKILL i2 2>/dev/null
for try in $(seq 100); do ctr task rm i2 >/dev/null 2>&1 && break; ctr task ls -q 2>/dev/null | grep -q i2 || break; sleep 0.1; done; echo removed
find /sys/fs/cgroup -name "inner-$HANDLER-*" | wc -l; kill $daemon; wait $daemon; ls /run/c/state/*task*"#;

/// What is to run inside, as `run.json` and `sleep.json` beside a root, which the inner runtime finds at
/// `root`, and a configuration of containerd's.
fn prepare_inner(side: &Side<'_>, root: &str, change: impl Fn(Spec) -> Spec) -> Result<PathBuf> {
    let inner = side.directory("inner")?;
    std::fs::rename(side.root_after("true")?, inner.join("rootfs"))?;
    for (file, line) in [("run", "echo inner ran"), ("sleep", "sleep 100")] {
        // A privileged container may see the node's own hierarchy.
        let cgroup = format!("/{}/inner-{}-{file}", side.rig.name(), side.handler);
        let spec = Spec::new(Path::new(root), &cgroup).shell(line);
        side.file(&format!("inner/{file}.json"), &change(spec).0.to_string())?;
    }
    side.file("inner/config.toml", CONTAINERD)?;
    Ok(inner)
}

/// With a view of its own of a cgroup of its own, whose memory is limited.
fn limited(spec: Spec) -> Spec {
    let memory = json!({ "limit": 50_000_000 });
    let spec = spec.namespace("cgroup").cgroups("ro");
    spec.set("/linux/resources/memory", memory)
}

/// containerd with the same runtime in a privileged pod, as kind has it.
///
/// containerd/containerd#6659, containerd/containerd#11083
fn containerd_in_a_pod(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let inner = prepare_inner(side, "/run/c/rootfs", limited)?;
    let pod = side.pod(privileged())?;
    let mut more = privileged();
    let beside = |program: PathBuf| program.parent().map(Path::to_path_buf);
    let shim = "/programs/shim/containerd-shim-trefoil-v2";
    more["mounts"] = json!([
        { "container_path": "/inner", "host_path": inner },
        { "container_path": "/programs/containerd", "host_path": beside(side.rig.tools().containerd()), "readonly": true },
        { "container_path": "/programs/runc", "host_path": beside(side.rig.tools().runc()), "readonly": true },
        { "container_path": shim, "host_path": rig::containerd::shim_binary(), "readonly": true },
    ]);
    more["envs"] = json!([
        { "key": "HANDLER", "value": side.handler.name() },
        { "key": "RUNTIME", "value": side.handler.runtime_type() },
        { "key": "INNER", "value": "/inner" },
        { "key": "PROGRAMS", "value": "/programs" },
    ]);
    side.look_in_pod(&pod, "inner", seen, more, WITH_CONTAINERD)
}

/// How long a containerd and its containers may take, in a test VM too.
const WHILE: Duration = Duration::from_secs(400);

/// Has containerd begin in a user namespace, in which root is the node's user 100000, and in a cgroup v2,
/// of which it is given a part or not.
const ROOTLESS: &str = r#"mount --make-rprivate /; mount -t cgroup2 none /sys/fs/cgroup
mkdir programs; for dir in shim containerd runc; do mkdir programs/$dir; done
mount --bind "$(dirname "$CONTAINERD")" programs/containerd; mount --bind "$(dirname "$RUNC")" programs/runc
touch programs/shim/containerd-shim-trefoil-v2; mount --bind "$SHIM" programs/shim/containerd-shim-trefoil-v2
export PROGRAMS=$PWD/programs INNER=$PWD/inner
cat > begin <<'B'
mount -t tmpfs none /run; mount -t tmpfs none /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
if mkdir /sys/fs/cgroup/beside 2>/dev/null; then for pid in $(cat /sys/fs/cgroup/cgroup.procs); do
    echo $pid > /sys/fs/cgroup/beside/cgroup.procs; done 2>/dev/null; fi
exec sh ./with-containerd
B
own=/sys/fs/cgroup/$NAME/rootless-$HANDLER; mkdir -p $own
[ -z "$GIVEN" ] || chown 100000:100000 $own $own/cgroup.procs $own/cgroup.subtree_control $own/cgroup.threads
sh -c 'echo $$ > '$own'/cgroup.procs; exec unshare --user --keep-caps sh -c "
    until grep -q . /proc/self/uid_map; do :; done
    exec setpriv --reuid 0 --regid 0 --clear-groups unshare -mpfnC --mount-proc --kill-child sh ./begin"' & child=$!
until [ "$(readlink /proc/$child/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do :; done
for file in gid_map uid_map; do echo "0 100000 65536" > /proc/$child/$file; done
wait $child; for try in $(seq 50); do find $own -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.1; done
rmdir /sys/fs/cgroup/$NAME 2>/dev/null || true"#;

/// containerd of an ordinary user.
///
/// containerd/containerd#10961, opencontainers/runc#2339
fn rootless_containerd(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.file("with-containerd", WITH_CONTAINERD)?;
    side.file("rootless", ROOTLESS)?;
    prepare_inner(side, "/run/c/rootfs", |spec| {
        spec.set("/linux/resources", json!({}))
    })?;
    side.shell("chown -R 100000:100000 inner/rootfs")?;
    let path = |path: PathBuf| path.display().to_string();
    for (part, given) in [("a cgroup", "y"), ("no cgroup", "")] {
        if given.is_empty() {
            side.shell("sed -i 's|\"cgroupsPath\":\"[^\"]*\"|\"cgroupsPath\":\"\"|' inner/*.json")?;
        }
        let line = format!(
            "rm -rf programs; GIVEN={given} NAME={} HANDLER={} RUNTIME={} CONTAINERD='{}' RUNC='{}' SHIM='{}' \
             unshare --mount sh ./rootless",
            side.rig.name(),
            side.handler,
            side.handler.runtime_type(),
            path(side.rig.tools().containerd()),
            path(side.rig.tools().runc()),
            path(rig::containerd::shim_binary()),
        );
        seen.add(part, &side.shell_for(WHILE, &line)?);
    }
    Ok(())
}

/// A build in a user namespace in a pod without privileges: `/proc` can be mounted where nothing of
/// the pod's is masked.
///
/// moby/buildkit#4073, moby/buildkit#2512
fn rootless_in_a_pod(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let pod = side.pod(Value::Null)?;
    for (part, masked, read_only) in [
        (
            "masked",
            json!(["/proc/acpi", "/proc/kcore", "/sys/firmware"]),
            json!(["/proc/sys"]),
        ),
        ("unmasked", json!([]), json!([])),
    ] {
        let more = json!({ "linux": { "security_context": {
            "masked_paths": masked, "readonly_paths": read_only,
            "seccomp": { "profile_type": 1 }, "no_new_privs": false,
        } } });
        let look =
            "mkdir -p /x; unshare -Urmpf sh -c 'mount -t proc proc /proc && echo proc mounted
            mount -t tmpfs t /x && echo tmpfs mounted'; grep -c ' /proc/' /proc/self/mountinfo";
        side.look_in_pod(&pod, part, seen, more, look)?;
    }
    Ok(())
}
