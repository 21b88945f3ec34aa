//! Volumes whose files are shown with other owners.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::world::{World, isolated, usual_and};
use crate::idmap::Mappings;
use crate::root::{Input, Plan};
use trefoil_cgroups::Hierarchies;

const HOST: u32 = 200_000;

fn mapping(host: u32) -> Value {
    json!([{ "containerID": 0, "hostID": host, "size": 65536 }])
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let status = fs::symlink_metadata(path).unwrap();
    (status.uid(), status.gid())
}

/// A volume with a file of user 3 and group 4, and another filesystem below, with such a file as well.
fn volume(world: &World) -> std::path::PathBuf {
    let volume = world.host.join("volume");
    let below = volume.join("below");
    fs::create_dir_all(&below).unwrap();
    let none = None::<&str>;
    mount(Some("t"), &below, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    for directory in [&volume, &below] {
        fs::write(directory.join("file"), "x").unwrap();
        chown(directory.join("file"), Some(3), Some(4)).unwrap();
    }
    volume
}

fn bind(volume: &Path, at: &str, options: &[&str], host: Option<u32>) -> Value {
    let mut mount =
        json!({"destination": at, "type": "bind", "source": volume, "options": options});
    if let Some(host) = host {
        mount["uidMappings"] = mapping(host);
        mount["gidMappings"] = mapping(host);
    }
    mount
}

#[test]
fn a_volume_is_seen_with_mapped_owners_and_only_by_the_container() {
    isolated(|world| {
        let volume = volume(world);
        let of_host = volume.join("file");
        let before = owner(&of_host);
        let mounts = usual_and(json!([
            bind(&volume, "/one", &["rbind"], Some(HOST)),
            bind(&volume, "/all", &["rbind", "ridmap"], Some(HOST)),
            bind(&volume, "/other", &["rbind"], Some(HOST + 1000)),
            bind(&volume, "/plain", &["rbind"], None),
        ]));
        world.enter(mounts, json!({}));
        assert_eq!(before, (3, 4));
        assert_eq!(owner("/one/file"), (HOST + 3, HOST + 4));
        assert_eq!(owner("/one/below/file"), (3, 4));
        assert_eq!(owner("/all/file"), (HOST + 3, HOST + 4));
        assert_eq!(owner("/all/below/file"), (HOST + 3, HOST + 4));
        assert_eq!(owner("/other/file"), (HOST + 1003, HOST + 1004));
        assert_eq!(owner("/plain/file"), (3, 4));
    });
}

#[test]
fn options_ask_for_the_containers_mapping() {
    isolated(|world| {
        let volume = volume(world);
        let ids = crate::idmap::parse(&format!("0:{HOST}:65536")).unwrap();
        let mappings = Mappings::given(Some(&ids), Some(&ids)).unwrap().unwrap();
        let namespace = mappings.namespace().unwrap();
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "mounts": [
                bind(&volume, "/one", &["rbind", "idmap"], None),
                bind(&volume, "/all", &["rbind", "ridmap"], None),
                bind(&volume, "/plain", &["rbind"], None),
            ],
        });
        let plan = Plan::new(&Input {
            spec: &serde_json::from_value(spec).unwrap(),
            bundle: &world.host,
            user_namespace: Some(namespace.as_fd()),
            cgroups: &Hierarchies::V1(Vec::new()),
            own_cgroup_namespace: true,
        })
        .unwrap();
        let root = world.prepare(plan).unwrap();
        root.pivot(false).unwrap();
        assert_eq!(owner("/one/file"), (HOST + 3, HOST + 4));
        assert_eq!(owner("/one/below/file"), (3, 4));
        assert_eq!(owner("/all/below/file"), (HOST + 3, HOST + 4));
        assert_eq!(owner("/plain/file"), (3, 4));
    });
}

#[test]
fn what_cannot_be_mapped_is_told() {
    isolated(|world| {
        let volume = volume(world);
        let why = world.refusal(json!([bind(&volume, "/v", &["rbind", "idmap"], None)]));
        assert!(why.contains("/v") && why.contains("mapp"), "{why}");
        let mut half = bind(&volume, "/v", &["rbind"], Some(HOST));
        half.as_object_mut().unwrap().remove("gidMappings");
        let why = world.refusal(json!([half]));
        assert!(why.contains("groups are not"), "{why}");
    });
}
