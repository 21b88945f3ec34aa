//! Mounts: how they spread, what they let in, and their options.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rig::cri::Container;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::{Side, privileged, shell};

/// What this does to the node's mounts is seen by both sides: one at a time.
pub const NO_NAMESPACE: &str = "mounts::no_namespace";

pub const TRIALS: &[Scenario] = &[
    ("mounts::propagation", propagation),
    (NO_NAMESPACE, no_namespace),
    ("mounts::recursive_read_only", recursive_read_only),
    ("mounts::node_root", node_root),
    ("mounts::modes_of_their_roots", modes_of_their_roots),
    ("mounts::copied_up", copied_up),
    ("mounts::options_of_binds", options_of_binds),
    ("mounts::options_of_tmpfs", options_of_tmpfs),
    ("mounts::odd_names", odd_names),
];

/// A shell's line that prints how the mounts at these places spread.
fn spread(places: &str) -> String {
    format!(
        "while read a b c d e f rest; do for m in {places}; do \
         [ $e = $m ] && echo \"$m: ${{rest%%- *}}\"; done; done < /proc/self/mountinfo | sort"
    )
}

/// A directory that is a shared mount of its own.
fn shared(side: &Side<'_>) -> Result<PathBuf> {
    side.shell("mkdir shared; mount -t tmpfs field shared; mount --make-rshared shared")?;
    Ok(side.at().join("shared"))
}

/// A volume spreads mounts as is asked, also beside one that is to do more.
///
/// youki-dev/youki#3604, opencontainers/runc#5390
fn propagation(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let volume = shared(side)?;
    let pod = side.pod(privileged())?;
    let volume_at = |at: &str, kind: usize| json!({ "container_path": at, "host_path": volume, "propagation": kind });
    for (kind, name) in ["None", "HostToContainer", "Bidirectional"]
        .iter()
        .enumerate()
    {
        let alone = vec![volume_at("/a", kind)];
        let beside = vec![volume_at("/a", kind), volume_at("/b", 2)];
        for (part, volumes) in [
            ((*name).to_owned(), alone),
            (format!("{name}-beside"), beside),
        ] {
            let mut more = privileged();
            more["mounts"] = volumes.into();
            if let Some(container) = side.in_pod(&pod, &part, seen, more)? {
                seen.printed(&part, &shell(&container, &spread("/ /a /b"))?);
                seen.add(&part, &crossing(side, &container, &part)?);
            }
        }
    }
    for option in ["rprivate", "rslave", "rshared", "runbindable"] {
        let spec = side
            .spec()?
            .bind(&volume, "/vol", &format!("rbind,{option}"));
        seen.ended(option, &side.run(&spec.shell(&spread("/vol")))?);
    }
    for root in ["private", "slave", "shared", "unbindable"] {
        let spec = side.spec()?.set("/linux/rootfsPropagation", json!(root));
        seen.ended(
            &format!("root {root}"),
            &side.run(&spec.shell(&spread("/")))?,
        );
    }
    side.shell("umount -R shared")?;
    Ok(())
}

/// Whether the container sees a later mount of the node's, and the node one of the container's.
fn crossing(side: &Side<'_>, container: &Container<'_>, name: &str) -> Result<String> {
    side.shell(&format!(
        "cd shared; mkdir {name}-n {name}-c; mount -t tmpfs node {name}-n"
    ))?;
    let look =
        format!("grep -c '/a/{name}-n ' /proc/self/mountinfo; mount -t tmpfs own /a/{name}-c");
    let inside = shell(container, &look)?.stdout();
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let here = table.contains(&format!("{}/shared/{name}-c ", side.at().display()));
    side.shell(&format!(
        "cd shared; umount {name}-n; umount {name}-c 2>/dev/null || true"
    ))?;
    let inside = inside.starts_with('1');
    Ok(format!(
        "the node's seen: {inside}, the container's seen: {here}"
    ))
}

/// Without a mount namespace of the container's the node's mounts are as before.
///
/// youki-dev/youki#3733
fn no_namespace(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    shared(side)?;
    let mounts = || -> Result<Vec<String>> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let of_the_rig = |line: &&str| !line.contains("/state/io.containerd");
        Ok(table
            .lines()
            .filter(of_the_rig)
            .map(str::to_owned)
            .collect())
    };
    let before = mounts()?;
    for (part, masked) in [("masked", true), ("nothing masked", false)] {
        let mut spec = side
            .spec()?
            .without_namespace("mount")
            .args(&["echo", "ran"]);
        if !masked {
            spec = spec.edit("/linux/maskedPaths = [] ; /linux/readonlyPaths = []")?;
        }
        seen.ended(part, &side.run(&spec)?);
        seen.add(
            part,
            &format!("the node's as before: {}", mounts()? == before),
        );
    }
    // What stock has left there.
    rig::namespaces::unmount_below(side.at())
}

/// A volume that is read-only with all that is mounted below it.
///
/// KEP-3857, opencontainers/runc#3272
fn recursive_read_only(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let volume = side.directory("volume/sub")?.with_file_name("");
    let line = "touch /v/x && echo written; touch /v/sub/x && echo written below; true";
    for (below, prepare, lists) in [
        (
            "nothing",
            "true",
            &["rbind,rro", "rbind,rprivate,ro,rro"][..],
        ),
        (
            "a tmpfs",
            "mount -t tmpfs -o relatime sub volume/sub",
            &["rbind,rro", "rbind,rprivate,ro,rro", "bind,rro", "rbind,ro"],
        ),
        (
            "flags",
            "mount -o remount,noatime,nosuid volume/sub",
            &["rbind,rro"],
        ),
    ] {
        side.shell(prepare)?;
        for options in lists {
            let spec = side.spec()?.bind(&volume, "/v", options).shell(line);
            seen.ended(&format!("{below} below, {options}"), &side.run(&spec)?);
        }
    }
    let pod = side.pod(Value::Null)?;
    for recursive in [true, false] {
        let more = json!({ "mounts": [{
            "container_path": "/v", "host_path": volume, "readonly": true,
            "recursive_read_only": recursive,
        }] });
        side.look_in_pod(
            &pod,
            &format!("a pod's, recursive: {recursive}"),
            seen,
            more,
            line,
        )?;
    }
    side.shell("umount volume/sub")?;
    Ok(())
}

/// The node's root as a volume, as agents of a node have it.
///
/// containers/crun#2262
fn node_root(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.file("mark", "marked\n")?;
    let look = format!(
        "ls /host | grep -c -x -E 'etc|usr|bin'; cd /host{}; cat mark; touch new && echo written; \
         grep -c ' /host/' /proc/self/mountinfo | sed 's/^[1-9].*/mounts below/'",
        side.at().display()
    );
    for options in ["rbind,rslave,ro", "bind,rw"] {
        let spec = side.spec()?.bind(Path::new("/"), "/host", options);
        seen.ended(options, &side.run(&spec.shell(&look))?);
    }
    let pod = side.pod(Value::Null)?;
    let volume = json!({ "container_path": "/host", "host_path": "/", "readonly": true });
    let more = json!({ "mounts": [volume] });
    side.look_in_pod(&pod, "a pod's", seen, more.clone(), &look)?;
    // As snapd has on every node of Ubuntu's. Linux 6.18 takes some namespaces that are newer than the
    // node's for older ones, and those can't be mounted.
    side.shell(
        "mkdir pins; mount -t tmpfs --make-private none pins; touch pins/pin\n\
         for try in $(seq 50); do\n\
         unshare --mount --propagation unchanged sleep 100 > /dev/null 2>&1 & sleeper=$!\n\
         until [ $(readlink /proc/$sleeper/ns/mnt) != $(readlink /proc/self/ns/mnt) ]; do :; done\n\
         mount --bind /proc/$sleeper/ns/mnt pins/pin 2> why && pinned=y; kill $sleeper\n\
         [ -z \"$pinned\" ] || exit 0\n\
         done; cat why >&2; exit 1",
    )?;
    let look = format!(
        "{look}; stat -f -c %T /host{}/pins/pin",
        side.at().display()
    );
    for options in ["rbind,rslave", "rbind,rshared"] {
        let spec = side.spec()?.bind(Path::new("/"), "/host", options);
        let part = format!("a mount namespace below, {options}");
        seen.ended(&part, &side.run(&spec.shell(&look))?);
    }
    side.look_in_pod(&pod, "a mount namespace below, a pod's", seen, more, &look)?;
    side.shell("umount pins/pin pins")?;
    let root = side.root_after("true")?;
    let spec = side.spec()?.mount_first(
        json!({ "destination": "/", "type": "bind", "source": root, "options": ["rbind"] }),
    );
    seen.ended("destination /", &side.run(&spec.shell("echo ran"))?);
    Ok(())
}

/// A tmpfs has the mode and owner that are asked, or those of the image's directory.
///
/// containers/crun#2176, containers/crun#2177, opencontainers/runc#4971,
/// coreos/fedora-coreos-tracker#2205
fn modes_of_their_roots(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = side.root_after(
        "mkdir odd tmpx; chown 12:34 odd; chmod 0711 odd; chmod 1777 tmpx; chmod 0700 proc sys",
    )?;
    let mut spec = side.spec()?.root(&root);
    for (at, options) in [
        ("/odd", "nosuid"),
        ("/tmpx", "nosuid,size=1m"),
        ("/new/deep", "nosuid"),
        ("/new2", "nosuid,mode=0750,uid=7,gid=8"),
    ] {
        spec = spec.mount(at, "tmpfs", "tmpfs", options);
    }
    let look = "stat -c '%n %a %u:%g' /proc /sys /dev /dev/shm /dev/mqueue /dev/pts";
    let own = format!("{look} / /run /odd /tmpx /new /new/deep /new2");
    seen.ended("each", &side.run(&spec.shell(&own))?);
    let pod = side.pod(Value::Null)?;
    let files = format!("{look} /etc/hosts /etc/resolv.conf /etc/hostname");
    side.look_in_pod(&pod, "a pod's", seen, Value::Null, &files)
}

/// A tmpfs that is given the image's content.
///
/// opencontainers/runc#845, containers/podman#4466
fn copied_up(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = side.root_after(
        "mkdir -p data/deep; cd data; echo x > f; chmod 640 f; chown 5:6 f; ln -s f l; ln f h",
    )?;
    let spec = side.spec()?.root(&root);
    let spec = spec.mount("/data", "tmpfs", "tmpfs", "nosuid,tmpcopyup,mode=755");
    let look = "stat -c '%n %a %u:%g %F' /data /data/*; cat /data/l; echo y > /data/f; \
                grep -c ' /data tmpfs' /proc/self/mounts";
    seen.ended("with a mode", &side.run(&spec.shell(look))?);
    seen.add(
        "the image's own",
        &side.shell(&format!("cat {}/data/f", root.display()))?,
    );
    Ok(())
}

/// Every option of a bind mount counts, for it and for what is mounted below it.
///
/// opencontainers/runc#5098, opencontainers/runc#5115
fn options_of_binds(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    const LISTS: &str = "rrelatime rnoatime rstrictatime ratime rnodiratime rdiratime rnorelatime \
        rnostrictatime rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnosymfollow rsymfollow \
        noatime strictatime nodiratime nosymfollow norelatime loud silent noiversion noatime,rro \
        rnoatime,rnodiratime,rnosuid,rnodev,rnoexec ro,rw noexec,exec rnoexec,exec";
    let volume = side.directory("volume")?;
    side.shell("mount -t tmpfs top volume; mkdir volume/sub; mount -t tmpfs sub volume/sub")?;
    let mut spec = side.spec()?;
    for (number, options) in LISTS.split(' ').enumerate() {
        spec = spec.bind(&volume, &format!("/v{number}"), &format!("rbind,{options}"));
    }
    let look = "grep ' /v' /proc/self/mountinfo | cut -d' ' -f5,6";
    let ended = side.run(&spec.shell(look))?;
    for (number, options) in LISTS.split(' ').enumerate() {
        for below in [" ", "/sub "] {
            let at = format!("/v{number}{below}");
            let line = ended.out.lines().find_map(|line| line.strip_prefix(&at));
            seen.add(options, line.unwrap_or("none"));
        }
    }
    seen.add("all", &format!("refused: {:?}", ended.error));
    side.shell("umount -R volume")?;
    Ok(())
}

/// Every option of a tmpfs counts, and there may be many of them.
fn options_of_tmpfs(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for options in [
        "sync,dirsync,lazytime,mand,size=1m",
        "silent,iversion",
        "noatime,nodiratime,nosymfollow",
        "ro,noexec",
        "defaults",
        "size=1m,nr_inodes=100,huge=never,mpol=local",
    ] {
        let spec = side.spec()?.mount("/t", "tmpfs", "tmpfs", options);
        let look = "grep ' /t ' /proc/self/mounts | sed s/,inode64//; touch /t/x; true";
        seen.ended(options, &side.run(&spec.shell(look))?);
    }
    let spec = side
        .spec()?
        .mount("/dev/shm", "tmpfs", "tmpfs", "remount,size=1m");
    let look =
        "grep -c shm /proc/self/mounts; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2";
    seen.ended("remount", &side.run(&spec.shell(look))?);
    let many = |spec, number| spec_at(spec, &format!("/m/{number}"));
    let spec = (0..400).fold(side.spec()?, many);
    seen.ended(
        "400",
        &side.run(&spec.shell("grep -c ' /m/' /proc/self/mounts"))?,
    );
    Ok(())
}

fn spec_at(spec: crate::field::spec::Spec, at: &str) -> crate::field::spec::Spec {
    spec.mount(at, "tmpfs", "tmpfs", "size=64k")
}

/// Where a volume is mounted can have any name.
fn odd_names(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let long = "a".repeat(255);
    let odd = "/with space:/tab\tx:/back\\slash:/new\nline:/\u{fc}n\u{ef}:/-dash://double//slash/:\
               /trailing/.:/dot/./x:rel/dir:/a/../../b";
    let odd = odd.split(':').map(|at| (at.trim_end(), at.to_owned()));
    for (part, at) in odd.chain([
        ("255 bytes", format!("/{long}")),
        ("256 bytes", format!("/{long}b")),
        ("3840 bytes", format!("/{long}").repeat(15)),
        ("100 deep", "/d".repeat(100)),
    ]) {
        let spec = spec_at(side.spec()?, &at);
        let look = "grep size=64k /proc/self/mounts | cut -d' ' -f2 | sed 's/a*/A/'";
        seen.ended(
            &part.replace(['\n', '\t'], "-"),
            &side.run(&spec.shell(look))?,
        );
    }
    Ok(())
}
