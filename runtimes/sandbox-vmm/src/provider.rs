//! The runtime of microVM pods, as the shim holds it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use trefoil_core::settings::{self, Key, Kind, Table};
use trefoil_core::{
    ContainerRecord, Context, Isolation, Prepared, Provider, Result, Runtime, SandboxConfig,
    ShimCgroup,
};
use trefoil_files::parent::Flush;
use trefoil_os::mountinfo;
use trefoil_vmm::configuration::MOST_CPUS;

use crate::content::rootfs::ROOTFS_MOUNTS;
use crate::host::cleanup::CleanupRecord;
use crate::machine::profile::{FileServer, Profile};
use crate::programs;
use crate::runtime::MicroVm;
use crate::settings::Settings;

/// The provider of microVM pods.
#[derive(Clone, Copy, Debug)]
pub struct MicroVms {
    /// The `features` document of what makes the containers in a guest: the namespace runtime, in the agent.
    pub containers: fn() -> Value,
}

/// `[microvm]` of the node's configuration.
static TABLE: Table = Table {
    name: "microvm",
    keys: &[
        key("kernel", Kind::Text, None),
        key("image", Kind::Text, None),
        key("agent", Kind::Text, None),
        key(
            "default-cpus",
            Kind::Number,
            Some("trefoil.dev/default-cpus"),
        ),
        key(
            "default-memory-mib",
            Kind::Number,
            Some("trefoil.dev/default-memory-mib"),
        ),
        key("overhead-memory-mib", Kind::Number, None),
        key("boot-timeout-seconds", Kind::Number, None),
    ],
};

const fn key(name: &'static str, kind: Kind, annotation: Option<&'static str>) -> Key {
    Key {
        name,
        kind,
        annotation,
    }
}

/// 16 TiB: more is a slip.
const MOST_MEMORY_MIB: u32 = 1 << 24;

/// A guest that takes longer never comes, in seconds.
const LONGEST_BOOT: u64 = 600;

impl Settings {
    /// What the table says; the defaults where it says nothing.
    fn read(table: &settings::Settings) -> Result<Self> {
        let kernel = table.path("kernel", "vmlinux")?;
        let file_server = FileServer {
            // Another than the installed one may be without our patches.
            flush: match kernel == table.share.join("vmlinux") {
                true => Flush::WhereLocked,
                false => Flush::EachClose,
            },
            agent: table.path("agent", "agent")?,
        };
        let initramfs = table.path("image", "initramfs")?;
        Self::of(
            Profile::with_file_server(kernel, initramfs, file_server),
            table,
        )
    }

    /// Pods in such machines, as large and as patient as a table says: by the keys `default-cpus`,
    /// `default-memory-mib`, `overhead-memory-mib` and `boot-timeout-seconds`.
    ///
    /// # Errors
    /// A value that is not right.
    pub fn of(profile: Profile, table: &settings::Settings) -> Result<Self> {
        Ok(Self {
            profile,
            default_cpus: table.number("default-cpus", 1, cpus)?,
            default_memory: table.number("default-memory-mib", 512, mebibytes)?,
            overhead: table.number("overhead-memory-mib", 40, mebibytes)?,
            boot_limit: table.number(
                "boot-timeout-seconds",
                Duration::from_secs(30),
                boot_limit,
            )?,
            count_shim: true,
        })
    }
}

fn cpus(number: u64) -> Result<u8, String> {
    u8::try_from(number)
        .ok()
        .filter(|cpus| (1..=MOST_CPUS).contains(cpus))
        .ok_or_else(|| format!("from 1 to {MOST_CPUS}"))
}

fn mebibytes(number: u64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|mebibytes| (1..=MOST_MEMORY_MIB).contains(mebibytes))
        .ok_or_else(|| format!("from 1 to {MOST_MEMORY_MIB}"))
}

fn boot_limit(seconds: u64) -> Result<Duration, String> {
    match seconds {
        1..=LONGEST_BOOT => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("from 1 to {LONGEST_BOOT}")),
    }
}

impl Provider for MicroVms {
    fn isolation(&self) -> Isolation {
        Isolation::MicroVm
    }

    fn unavailable(&self, _: &settings::Settings) -> Option<String> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        kvm.err()
            .map(|why| format!("this node's /dev/kvm can't be opened: {why}"))
    }

    /// What containers in a guest can have. It is the same code that makes them, but the host's users,
    /// hooks and AppArmor stay outside.
    fn features(&self, _: &settings::Settings) -> Value {
        let mut features = (self.containers)();
        features["hooks"] = json!([]);
        let linux = &mut features["linux"];
        linux["namespaces"] = json!(["cgroup", "ipc", "mount", "network", "pid", "time", "uts"]);
        linux["cgroup"]["v1"] = json!(false);
        linux["cgroup"]["systemd"] = json!(false);
        linux["apparmor"]["enabled"] = json!(false);
        linux["mountExtensions"]["idmap"]["enabled"] = json!(false);
        features
    }

    fn rootfs_mounts(&self) -> Option<&'static str> {
        Some(ROOTFS_MOUNTS)
    }

    fn table(&self) -> Option<&'static Table> {
        Some(&TABLE)
    }

    fn check(&self, table: &settings::Settings) -> Result<()> {
        Settings::read(table).map(drop)
    }

    /// A machine is made by the event loop alone.
    fn prepare(&self) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Ready))
    }

    unsafe fn serve_as(&self, name: &OsStr, _: Option<&OsStr>) -> Option<ExitCode> {
        // SAFETY: by our own contract.
        unsafe { programs::serve_as(name) }
    }

    fn sandbox_record(&self, config: &SandboxConfig) -> Result<Option<Value>> {
        serde_json::to_value(CleanupRecord::of(config))
            .map(Some)
            .context(|| "write down what cleaning up after the pod takes")
    }

    fn clean_up_sandbox(&self, record: &Value) -> Result<Vec<String>> {
        let record: CleanupRecord = serde_json::from_value(record.clone())
            .context(|| "read what the record says of the pod's machine")?;
        record.clean_up()
    }

    /// A container is its guest's. On the host there is at most the root that containerd has mounted.
    fn clean_up_container(&self, id: &str, container: &ContainerRecord) -> Result<Vec<String>> {
        self.clean_up_bundle(id, &container.bundle)
    }

    fn clean_up_bundle(&self, id: &str, bundle: &Path) -> Result<Vec<String>> {
        Ok(match mountinfo::unmount_all(&bundle.join("rootfs"))? {
            0 => Vec::new(),
            n => vec![format!("{n} mounts of container {id}")],
        })
    }
}

/// The runtime, for which nothing is prepared.
#[derive(Debug)]
struct Ready;

impl Prepared for Ready {
    fn runtime(
        self: Box<Self>,
        table: &settings::Settings,
        shim: ShimCgroup,
    ) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(MicroVm::new(Settings {
            count_shim: shim == ShimCgroup::Pod,
            ..Settings::read(table)?
        })))
    }
}

#[cfg(test)]
mod tests {
    use trefoil_core::settings::Value as Set;

    use super::*;

    const PROVIDER: MicroVms = MicroVms {
        containers: || {
            json!({"hooks": ["prestart"], "linux": {
                "namespaces": ["user"],
                "cgroup": {"v1": true, "systemd": true},
                "apparmor": {"enabled": true},
                "mountExtensions": {"idmap": {"enabled": true}},
                "seccomp": {"enabled": true},
            }})
        },
    };

    fn table(key: &'static str, value: Set) -> settings::Settings {
        let mut table = settings::Settings::new("/share".into());
        table.set(key, value, key.to_owned());
        table
    }

    #[test]
    fn a_guest_has_no_users_of_the_hosts() {
        let features = PROVIDER.features(&settings::Settings::default());
        let linux = &features["linux"];
        assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], json!(false));
        assert_eq!(linux["seccomp"]["enabled"], json!(true));
        assert!(!linux["namespaces"].to_string().contains("user"));
        assert_eq!(features["hooks"], json!([]));
    }

    #[test]
    fn an_empty_table_is_the_defaults() {
        let settings = Settings::read(&settings::Settings::new("/share".into())).expect("right");
        assert_eq!((settings.default_cpus, settings.default_memory), (1, 512));
        let profile = settings.profile;
        assert_eq!(profile.kernel, Path::new("/share/vmlinux"));
        assert_eq!(profile.initramfs, Path::new("/share/initramfs"));
        let server = profile.file_server.expect("one");
        assert_eq!(server.flush, Flush::WhereLocked);
        assert_eq!(server.agent, Path::new("/share/agent"));
        let own = Settings::read(&table("kernel", Set::Text("/boot/vmlinux".into())));
        let server = own.expect("right").profile.file_server.expect("one");
        assert_eq!(server.flush, Flush::EachClose);
        assert_eq!((settings.overhead, settings.boot_limit.as_secs()), (40, 30));
    }

    #[test]
    fn amounts_are_bounded() {
        for (key, value, must) in [
            ("default-cpus", 0, "must be from 1 to 64"),
            ("default-cpus", 65, "must be from 1 to 64"),
            ("default-memory-mib", 0, "must be from 1 to 16777216"),
            (
                "overhead-memory-mib",
                99_999_999,
                "must be from 1 to 16777216",
            ),
            ("boot-timeout-seconds", 0, "must be from 1 to 600"),
        ] {
            let why = PROVIDER
                .check(&table(key, Set::Number(value)))
                .expect_err("refused")
                .to_string();
            assert!(why.starts_with(key) && why.ends_with(must), "{why}");
        }
        let settings = Settings::read(&table("default-cpus", Set::Number(64))).expect("right");
        assert_eq!(settings.default_cpus, 64);
    }

    #[test]
    fn every_key_of_the_table_is_read() {
        for key in TABLE.keys {
            let wrong = match key.kind {
                Kind::Text => Set::Text("relative".into()),
                Kind::Number => Set::Number(0),
            };
            let why = PROVIDER.check(&table(key.name, wrong)).expect_err(key.name);
            assert!(why.to_string().starts_with(key.name), "{why}");
        }
    }

    #[test]
    fn a_pod_that_could_not_be_cleaned_up_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let mut config = SandboxConfig::default();
        assert!(
            PROVIDER
                .sandbox_record(&config)
                .expect("a record")
                .is_some()
        );
        config.bundle = std::ffi::OsString::from_vec(vec![b'/', 0xff]).into();
        let why = PROVIDER.sandbox_record(&config).expect_err("no text");
        assert!(why.to_string().contains("cleaning up"), "{why}");
    }

    #[test]
    fn a_record_that_is_none_is_told() {
        let why = PROVIDER
            .clean_up_sandbox(&json!({"pod": 3}))
            .expect_err("refused");
        assert!(why.to_string().contains("the pod's machine"), "{why}");
    }
}
