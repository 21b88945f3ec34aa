//! The files of a pod that its containers share: its host name, its hosts, how it resolves names, and its
//! shared memory.
//!
//! Where a container of the pod's own holds it, containerd makes them, and has them in the configurations of
//! the others. With its Sandbox API they are the shim's: made in the pod's bundle, and added to the
//! configuration of each container that comes.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};
use trefoil_core::{Context, Error, Result};
use trefoil_os::mountinfo;

use crate::cri::{Dns, Mode, PodSandboxConfig};

/// Files in the bundle, and where containers have them.
const FILES: [(&str, &str); 3] = [
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
    ("resolv.conf", "/etc/resolv.conf"),
];

/// The shared memory in the bundle, and where containers have it.
const SHARED_MEMORY: (&str, &str) = ("shm", "/dev/shm");

/// The files of a pod.
#[derive(Clone, Debug)]
pub struct PodFiles {
    bundle: PathBuf,
    /// Whether its shared memory is its own.
    has_memory: bool,
}

impl PodFiles {
    /// Makes the files of a pod.
    ///
    /// # Errors
    /// What in its description can't be written down, or the node refuses. What was made goes with
    /// [`clean_up`] and the bundle.
    pub fn make(bundle: &Path, pod: &PodSandboxConfig) -> Result<Self> {
        let hostname = match pod.hostname.as_str() {
            "" => read("/proc/sys/kernel/hostname")?.trim_end().to_owned(),
            own => own.to_owned(),
        };
        let resolver = match &pod.dns {
            Some(dns) => resolver(dns)?,
            None => read("/etc/resolv.conf")?,
        };
        let contents = [format!("{hostname}\n"), read("/etc/hosts")?, resolver];
        for ((name, _), content) in FILES.iter().zip(contents) {
            let path = bundle.join(name);
            fs::write(&path, content)
                .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
                .context(|| format!("write {}", path.display()))?;
        }
        let has_memory = pod.namespaces.ipc != Mode::Node;
        if has_memory {
            make_memory(&bundle.join(SHARED_MEMORY.0))?;
        }
        Ok(Self {
            bundle: bundle.to_owned(),
            has_memory,
        })
    }

    /// Adds them to a container's configuration, which lies in its bundle.
    ///
    /// # Errors
    /// If it can't be read or written, or is no configuration.
    pub fn add_to(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join("config.json");
        let doing = || format!("add the pod's files to {}", path.display());
        let text = fs::read(&path).context(doing)?;
        let mut config: Value = serde_json::from_slice(&text).context(doing)?;
        if !config.is_object() {
            return Err(Error::invalid("it is no JSON object").context(doing()));
        }
        self.add(&mut config);
        let text = serde_json::to_vec(&config).context(doing)?;
        let new = path.with_extension("json.new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .context(doing)
    }

    fn add(&self, config: &mut Value) {
        let read_only = config["root"]["readonly"].as_bool().unwrap_or(false);
        let ids = ["uidMappings", "gidMappings"].map(|name| (name, config["linux"][name].clone()));
        let Value::Array(mounts) = &mut config["mounts"] else {
            config["mounts"] = json!([]);
            return self.add(config);
        };
        for (name, place) in FILES {
            if position(mounts, place).is_some() {
                continue;
            }
            let mut mount = self.bind(name, place, read_only);
            for (name, mapping) in &ids {
                if mapping.as_array().is_some_and(|lines| !lines.is_empty()) {
                    mount[*name] = mapping.clone();
                }
            }
            mounts.push(mount);
        }
        if self.has_memory {
            let (name, place) = SHARED_MEMORY;
            let own = self.bind(name, place, false);
            match position(mounts, place).and_then(|at| mounts.get_mut(at)) {
                // What containerd puts there by default is the container's alone.
                Some(mount) if mount["type"] == "tmpfs" => *mount = own,
                Some(_) => {}
                None => mounts.push(own),
            }
        }
    }

    fn bind(&self, name: &str, place: &str, read_only: bool) -> Value {
        let mode = if read_only { "ro" } else { "rw" };
        json!({
            "destination": place,
            "type": "bind",
            "source": self.bundle.join(name),
            "options": ["rbind", "rprivate", mode],
        })
    }
}

/// Takes away what of a pod's files does not go with its bundle. Says what it removed.
///
/// # Errors
/// If the kernel refuses.
pub fn clean_up(bundle: &Path) -> Result<Vec<String>> {
    let memory = bundle.join(SHARED_MEMORY.0);
    Ok(match mountinfo::unmount_all(&memory)? {
        0 => Vec::new(),
        _ => vec!["the pod's shared memory".to_owned()],
    })
}

/// Which of the mounts is there.
fn position(mounts: &[Value], place: &str) -> Option<usize> {
    mounts.iter().position(|mount| {
        let there = mount["destination"].as_str().unwrap_or_default();
        Path::new(there)
            .components()
            .eq(Path::new(place).components())
    })
}

/// A file of the node's; nothing where there is none.
fn read(path: &str) -> Result<String> {
    match fs::read(path) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(why) => Err(why).context(|| format!("read {path}")),
    }
}

fn make_memory(path: &Path) -> Result<()> {
    let doing = || format!("mount the pod's shared memory at {}", path.display());
    fs::create_dir(path).context(doing)?;
    let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    // As large as containerd makes it.
    mount("shm", path, "tmpfs", flags, c"mode=1777,size=67108864").context(doing)
}

/// The contents of `resolv.conf`.
fn resolver(dns: &Dns) -> Result<String> {
    let mut text = String::new();
    for (field, keyword, values, apart) in [
        ("searches", "search", &dns.searches, " "),
        ("servers", "nameserver", &dns.servers, "\nnameserver "),
        ("options", "options", &dns.options, " "),
    ] {
        if let Some(value) = values
            .iter()
            .find(|value| value.contains(['\n', '\r', '\0']))
        {
            return Err(Error::invalid(format!(
                "dns_config.{field}: {value:?} must not have more than one line"
            )));
        }
        if !values.is_empty() {
            text.push_str(&format!("{keyword} {}\n", values.join(apart)));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(has_memory: bool) -> PodFiles {
        PodFiles {
            bundle: "/b/pod".into(),
            has_memory,
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let bundle = std::env::temp_dir().join(format!("files-{}", std::process::id()));
        fs::create_dir_all(&bundle).expect("bundle");
        for text in ["[]", "7", "\"x\"", "null", "{", ""] {
            fs::write(bundle.join("config.json"), text).expect("written");
            let why = files(true).add_to(&bundle).expect_err(text).to_string();
            assert!(why.contains("add the pod's files to"), "{why}");
            let left = fs::read_to_string(bundle.join("config.json")).expect("read");
            assert_eq!(left, text);
        }
        for text in [
            "{}",
            r#"{"mounts": null}"#,
            r#"{"mounts": 7, "root": [], "linux": "x"}"#,
        ] {
            fs::write(bundle.join("config.json"), text).expect("written");
            files(true).add_to(&bundle).expect(text);
        }
        fs::remove_dir_all(&bundle).expect("remove");
    }

    fn added(has_memory: bool, mut config: Value) -> Vec<Value> {
        files(has_memory).add(&mut config);
        config["mounts"].as_array().expect("mounts").clone()
    }

    #[test]
    fn a_container_gets_what_its_configuration_does_not_have() {
        let default = json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"});
        let own = json!({"destination": "/etc//hosts", "type": "bind", "source": "/var/lib/kubelet/hosts"});
        let mounts = added(true, json!({"mounts": [default, own]}));
        let places: Vec<_> = mounts
            .iter()
            .map(|mount| mount["destination"].clone())
            .collect();
        assert_eq!(
            places,
            [
                "/dev/shm",
                "/etc//hosts",
                "/etc/hostname",
                "/etc/resolv.conf"
            ]
        );
        assert_eq!(mounts[0]["source"], "/b/pod/shm");
        assert_eq!(mounts[0]["type"], "bind");
        assert_eq!(mounts[1], own);
        assert_eq!(mounts[2]["options"], json!(["rbind", "rprivate", "rw"]));
        // Again, as after a failure, it is the same.
        assert_eq!(added(true, json!({"mounts": mounts})), mounts);
    }

    #[test]
    fn the_nodes_memory_and_a_volume_stay() {
        let node = json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm"});
        for has_memory in [true, false] {
            let mounts = added(has_memory, json!({"mounts": [node]}));
            assert_eq!(mounts[0], node);
        }
        let places = added(true, json!({}));
        assert_eq!(places[3]["destination"], "/dev/shm");
        assert_eq!(added(false, json!({})).len(), 3);
    }

    #[test]
    fn a_read_only_root_and_a_user_namespace_have_them_so() {
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        let config = json!({
            "root": {"readonly": true},
            "linux": {"uidMappings": ids, "gidMappings": ids},
        });
        let mounts = added(true, config);
        for mount in &mounts[..3] {
            assert_eq!(mount["options"][2], "ro");
            assert_eq!(mount["uidMappings"], ids);
            assert_eq!(mount["gidMappings"], ids);
        }
        assert_eq!(mounts[3]["options"][2], "rw");
        assert!(mounts[3].get("uidMappings").is_none());
    }

    #[test]
    fn names_are_resolved_as_the_pod_says() {
        let list = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        let dns = Dns {
            servers: list(&["10.0.0.10", "1.1.1.1"]),
            searches: list(&["a.local", "b.local"]),
            options: list(&["ndots:5"]),
        };
        assert_eq!(
            resolver(&dns).expect("right"),
            "search a.local b.local\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolver(&Dns::default()).expect("right"), "");
        let dns = Dns {
            searches: list(&["a\nnameserver 6.6.6.6"]),
            ..Dns::default()
        };
        let why = resolver(&dns).expect_err("refused").to_string();
        assert!(why.starts_with("dns_config.searches: "), "{why}");
    }

    #[test]
    fn files_are_made_and_cleaned_up() {
        let bundle = std::env::temp_dir().join(format!("files-{}", std::process::id()));
        fs::create_dir_all(&bundle).expect("bundle");
        let pod = PodSandboxConfig {
            hostname: "web".into(),
            dns: Some(Dns::default()),
            ..PodSandboxConfig::default()
        };
        PodFiles::make(&bundle, &pod).expect("made");
        assert_eq!(
            fs::read_to_string(bundle.join("hostname")).expect("read"),
            "web\n"
        );
        assert_eq!(
            fs::read_to_string(bundle.join("resolv.conf")).expect("read"),
            ""
        );
        let mode = fs::metadata(bundle.join("shm"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o1777);
        assert_eq!(clean_up(&bundle).expect("unmounted").len(), 1);
        assert_eq!(clean_up(&bundle).expect("again").len(), 0);
        fs::remove_dir_all(&bundle).expect("nothing is mounted");
    }

    proptest! {
        #[test]
        fn no_name_makes_a_line_of_its_own(servers: Vec<String>, searches: Vec<String>) {
            let dns = Dns { servers, searches, options: Vec::new() };
            if let Ok(text) = resolver(&dns) {
                let lines = dns.servers.len() + usize::from(!dns.searches.is_empty());
                prop_assert_eq!(text.lines().count(), lines);
            }
        }
    }
}
