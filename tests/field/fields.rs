//! Each field of the specification: set, and looked for from inside; what contradicts itself or the
//! node, or is asked without the namespace that it needs.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use nix::unistd::gethostname;

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

pub const TRIALS: &[Scenario] = &[
    ("fields::process", process),
    ("fields::linux", linux),
    ("fields::resources", resources),
    ("fields::sysctls", sysctls),
];

const PROCESS: &str = r#"
umask and oomScoreAdj | /process/user/umask = 63 ; /process/oomScoreAdj = 777 | umask; cat /proc/self/oom_score_adj
names | /domainname = "dom.test" ; /hostname = "hoho" | cat /proc/sys/kernel/domainname; hostname
root.readonly | /root/readonly = true | touch /x; echo y > /dev/shm/z && echo written
rlimits | /process/rlimits = [{"type": "RLIMIT_NPROC", "soft": 77, "hard": 88}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] | grep -E 'processes|core' /proc/self/limits | tr -s ' '
rlimit twice | /process/rlimits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}, {"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}] | ulimit -n
rlimit unknown | /process/rlimits = [{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}] | echo ran
rlimit upside down | /process/rlimits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 10}] | echo ran
selinuxLabel | /process/selinuxLabel = "system_u:system_r:container_t:s0" | echo ran
apparmorProfile | /process/apparmorProfile = "nope" | echo ran
ambient | /process/user = {"uid": 1000, "gid": 1000} ; /process/capabilities/inheritable = ["CAP_NET_RAW"] ; /process/capabilities/ambient = ["CAP_NET_RAW"] | grep -E 'CapInh|CapEff|CapAmb' /proc/self/status
ioPriority | /process/ioPriority = {"class": "IOPRIO_CLASS_IDLE", "priority": 0} | ionice -p 1
scheduler | /process/scheduler = {"policy": "SCHED_BATCH", "nice": 5} | cut -d' ' -f19,41 /proc/1/stat
execCPUAffinity | /process/execCPUAffinity = {"initial": "0", "final": "1"} | grep Cpus_allowed_list /proc/self/status
env twice, and with a newline | /process/env += "A=1", "A=2", "B=", "N=a\nb" | env | grep -A1 -E '^(A|B|N)='
env without = | /process/env += "JUSTNAME" | env | grep JUST; echo ran
seccomp log | /linux/seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]} | grep -E 'Seccomp:|Speculation_Store' /proc/self/status
seccomp kill | /linux/seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]} | mkdir /tmp/q; echo $?
seccomp without noNewPrivileges | /process/noNewPrivileges = false ; /linux/seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]} | grep -E 'NoNewPrivs|Seccomp:' /proc/self/status
ociVersion | /ociVersion = "1.9.0" | echo ran
unknown field | /linux/someFutureField = {"a": 1} ; /process/anotherOne = true | echo ran
no words | /process/args = [] | -
without words | /process/args - | -
an empty word | /process/args = [""] | -
cwd relative | /process/cwd = "srv" | pwd
cwd a file | /process/cwd = "/etc/passwd" | pwd
cwd empty | /process/cwd = "" | pwd
"#;

/// What concerns the first process.
///
/// youki-dev/youki#3553
fn process(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.table(seen, PROCESS)?;
    let word = "x".repeat(130_000);
    let spec = side.spec()?.shell("echo ${#BIG}; env | wc -c");
    let spec = (0..300).fold(spec, |spec, number| {
        spec.push(
            "/process/env",
            format!("V{number}={}", "y".repeat(4000)).into(),
        )
    });
    let spec = spec.push("/process/env", format!("BIG={word}").into());
    seen.ended("a large environment", &side.run(&spec)?);
    Ok(())
}

const LINUX: &str = r#"
mountLabel | /linux/mountLabel = "system_u:object_r:container_file_t:s0" | echo ran
personality | /linux/personality = {"domain": "LINUX32"} | uname -m
personality flags | /linux/personality = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]} | cat /proc/self/personality
timeOffsets | /linux/namespaces += {"type": "time"} ; /linux/timeOffsets = {"boottime": {"secs": 100000000}} | cut -c1-4 /proc/uptime
timeOffsets without a namespace | /linux/timeOffsets = {"boottime": {"secs": 1000000}} | echo ran
intelRdt | /linux/intelRdt = {"closID": "x", "l3CacheSchema": "L3:0=f"} | echo ran
memoryPolicy | /linux/memoryPolicy = {"mode": "MPOL_INTERLEAVE", "nodes": "0"} | grep -m1 -o 'interleave[^ ]*' /proc/self/numa_maps; echo ran
memoryPolicy of no node | /linux/memoryPolicy = {"mode": "MPOL_BIND", "nodes": "7"} | echo ran
rootfsPropagation unknown | /linux/rootfsPropagation = "bogus" | echo ran
maskedPaths | /linux/maskedPaths += "/etc/group", "/nonexistent" | wc -c < /etc/group
cgroupsPath absent | /linux/cgroupsPath - | echo ran
namespace unknown | /linux/namespaces += {"type": "future"} | echo ran
namespace twice | /linux/namespaces += {"type": "pid"} | echo ran
hostname without uts | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}] ; /hostname = "x53" | hostname
domainname without uts | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}] ; /domainname = "x53" | cat /proc/sys/kernel/domainname
mappings without a namespace | /linux/uidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}] | cat /proc/self/uid_map
user namespace without mappings | /linux/namespaces += {"type": "user"} | echo ran
user namespace joined and mapped | /linux/namespaces += {"type": "user", "path": "/proc/1/ns/user"} ; /linux/uidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}] ; /linux/gidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}] | echo ran
mappings that overlap | /linux/namespaces += {"type": "user"} ; /linux/uidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 5, "hostID": 5000, "size": 10}] ; /linux/gidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}] | echo ran
user that isn't mapped | /linux/namespaces += {"type": "user"} ; /linux/uidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}] ; /linux/gidMappings = [{"containerID": 0, "hostID": 1000, "size": 10}] ; /process/user = {"uid": 99999, "gid": 0} | echo ran
namespace of another kind | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/proc/self/ns/uts"}] | echo ran
namespace that is a file | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}, {"type": "ipc", "path": "/etc/passwd"}] | echo ran
root that isn't there | /root/path = "no/such" | echo ran
root that is a file | /root/path = "/etc/passwd" | echo ran
root that is a link | /root/path = "$AT/link" | echo ran
root that is the node's | /root = {"path": "/", "readonly": true} | echo ran
"#;

/// What concerns namespaces and the root.
///
/// youki-dev/youki#3553
fn linux(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = side.root_after("true")?;
    symlink(root, side.at().join("link"))?;
    let names = || -> Result<_> {
        Ok((
            gethostname()?,
            fs::read_to_string("/proc/sys/kernel/domainname")?,
        ))
    };
    let before = names()?;
    side.table(seen, LINUX)?;
    seen.add(
        "the node",
        &format!("has its names: {}", names()? == before),
    );
    Ok(())
}

const RESOURCES: &str = r#"
pids | /linux/resources/pids = {"limit": 9} | f pids pids.max
pids -1 | /linux/resources/pids = {"limit": -1} | f pids pids.max
pids 0 | /linux/resources/pids = {"limit": 0} | f pids pids.max
memory | /linux/resources/memory = {"limit": 104857600, "reservation": 52428800, "swap": 209715200, "useHierarchy": true} | f memory memory.limit_in_bytes memory.soft_limit_in_bytes memory.memsw.limit_in_bytes memory.max memory.low memory.swap.max
memory of version 1 | /linux/resources/memory = {"limit": 104857600, "swappiness": 7, "disableOOMKiller": true} | f memory memory.swappiness memory.oom_control | grep -v oom_kill
memory.kernel | /linux/resources/memory = {"limit": 104857600, "kernel": 50000000} | f memory memory.kmem.limit_in_bytes
memory.kernelTCP | /linux/resources/memory = {"limit": 104857600, "kernelTCP": 40000000} | f memory memory.kmem.tcp.limit_in_bytes
cpu | /linux/resources/cpu = {"shares": 555, "quota": 70000, "period": 140000, "burst": 20000, "cpus": "0", "mems": "0"} | f cpu cpu.shares cpu.cfs_quota_us cpu.cfs_period_us cpu.cfs_burst_us cpu.weight cpu.max cpu.max.burst; f cpuset cpuset.cpus cpuset.mems
cpu.idle | /linux/resources/cpu = {"idle": 1} | f cpu cpu.idle
cpu.realtime | /linux/resources/cpu = {"realtimeRuntime": 1000, "realtimePeriod": 100000} | f cpu cpu.rt_runtime_us
blockIO.weight | /linux/resources/blockIO = {"weight": 123} | f blkio blkio.bfq.weight blkio.weight io.weight io.bfq.weight
blockIO.leafWeight | /linux/resources/blockIO = {"leafWeight": 50} | f blkio blkio.leaf_weight
blockIO.weightDevice | /linux/resources/blockIO = {"weightDevice": [{"major": 254, "minor": 0, "weight": 200, "leafWeight": 10}]} | f blkio blkio.weight_device blkio.bfq.weight_device
blockIO.throttle | /linux/resources/blockIO = {"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1048576}], "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 77}]} | f blkio blkio.throttle.read_bps_device blkio.throttle.write_iops_device io.max
hugepageLimits | /linux/resources/hugepageLimits = [{"pageSize": "2MB", "limit": 2097152}] | echo ran
hugepageLimits of no size | /linux/resources/hugepageLimits = [{"pageSize": "3MB", "limit": 2097152}] | echo ran
network.classID | /linux/resources/network = {"classID": 1048577} | echo ran
network.priorities | /linux/resources/network = {"priorities": [{"name": "lo", "priority": 5}]} | echo ran
rdma | /linux/resources/rdma = {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 100}} | echo ran
unified | /linux/resources/unified = {"memory.high": "1048576"} | f . memory.high
"#;

/// Limits, as the container's cgroups have them.
fn resources(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let table = RESOURCES.replace(
        " | f ",
        " | f() { cd /sys/fs/cgroup; [ ! -d $1 ] || cd $1; shift; \
          for x; do [ ! -e $x ] || { echo $x; cat $x; }; done; }; f ",
    );
    side.table_over(seen, &table, |spec| spec.cgroups("ro"))
}

const SYSCTLS: &str = r#"
of namespaces | /linux/sysctl = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "123456"} | cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax
of an interface, slashes | /linux/sysctl = {"net/ipv4/conf/lo/forwarding": "1"} | cat /proc/sys/net/ipv4/conf/lo/forwarding
of an interface with a dot | $NET ; /linux/sysctl = {"net/ipv4/conf/bond1.340/forwarding": "1"} | cat /proc/sys/net/ipv4/conf/bond1.340/forwarding
of an interface with a dot, mixed | $NET ; /linux/sysctl = {"net.ipv4.conf.bond1/340.rp_filter": "2"} | cat /proc/sys/net/ipv4/conf/bond1.340/rp_filter
of the node | /linux/sysctl = {"vm.swappiness": "61"} | echo ran
without ipc | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}] ; /linux/sysctl = {"kernel.shmmax": "77777"} | echo ran
mqueue without ipc | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}] ; /linux/sysctl = {"fs.mqueue.msg_max": "11"} | echo ran
without net | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}] ; /linux/sysctl = {"net.ipv4.ip_forward": "1"} | echo ran
hostname | /linux/sysctl = {"kernel.hostname": "x53"} | hostname
domainname | /linux/sysctl = {"kernel.domainname": "x53"} | cat /proc/sys/kernel/domainname
unknown | /linux/sysctl = {"kernel.nosuchthing": "1"} | echo ran
bad value | /linux/sysctl = {"net.ipv4.ip_forward": "many"} | echo ran
pid_max | /linux/sysctl = {"kernel.pid_max": "400"} | cat /proc/sys/kernel/pid_max
"#;

/// Settings are a namespace's own, and an interface's with a dot in its name.
///
/// opencontainers/runc#3257, containers/common#2551, youki-dev/youki#3553
fn sysctls(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let name = format!("field-{}", side.handler);
    side.shell(&format!(
        "ip netns add {name}; ip -n {name} link add bond1.340 type veth peer name peer0"
    ))?;
    let joined = format!(
        "/linux/namespaces = [{{\"type\": \"pid\"}}, {{\"type\": \"mount\"}}, {{\"type\": \"ipc\"}}, \
         {{\"type\": \"network\", \"path\": \"/var/run/netns/{name}\"}}]"
    );
    let done = side.table(seen, &SYSCTLS.replace("$NET", &joined));
    side.shell(&format!("ip netns del {name}"))?;
    done
}
