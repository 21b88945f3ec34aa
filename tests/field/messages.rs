//! What a user reads when a container can't be made: the path, the name or the reason.

use anyhow::Result;

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

pub const TRIALS: &[Scenario] = &[("messages::of_refusals", of_refusals)];

/// `PART | EDITS | WORDS that the message has to hold, with commas between them`. Stock's holds them.
const TABLE: &str = r#"
no source | /mounts += {"destination": "/vol", "type": "bind", "source": "/no/such/dir", "options": ["rbind"]} | /no/such/dir,no such file or directory
directory over a file | /mounts += {"destination": "/etc/passwd", "type": "bind", "source": "$AT/dir", "options": ["rbind"]} | /etc/passwd,ot a directory
read-only volume | /mounts += {"destination": "/v", "type": "bind", "source": "$AT/dir", "options": ["rbind", "ro"]}, {"destination": "/v/sub", "type": "tmpfs", "source": "tmpfs", "options": []} | /v/sub,read-only file system
below /proc | /mounts += {"destination": "/proc/acpi2", "type": "tmpfs", "source": "tmpfs", "options": []} | /proc/acpi2
bad option | /mounts += {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["sise=1m"]} | /t,sise,nvalid argument
unknown filesystem | /mounts += {"destination": "/t", "type": "nfs9", "source": "x:/y", "options": []} | /t,no such device
no program | /mounts += {"destination": "/f", "type": "bind", "source": "$AT/text", "options": ["bind"]} ; /process/args = ["/f"] | /f,exec format error
missing interpreter | /mounts += {"destination": "/f", "type": "bind", "source": "$AT/script", "options": ["bind"]} ; /process/args = ["/f"] | /f,no such file or directory
not executable | /process/args = ["/etc/passwd"] | /etc/passwd,permission denied
a directory | /process/args = ["/etc"] | /etc
missing program | /process/args = ["nosuch"] | nosuch,executable file not found in $PATH
unlimited | /process/rlimits = [{"type": "RLIMIT_NOFILE", "soft": 20000000000, "hard": 20000000000}] | operation not permitted
unknown capability | /process/capabilities/bounding += "CAP_FROM_THE_FUTURE" | -
little memory | /linux/resources/memory = {"limit": 65536} | -
little time | /linux/resources/cpu = {"quota": 10, "period": 100000} | nvalid argument
missing processors | /linux/resources/cpu = {"cpus": "0-500"} | cpuset
missing namespace | /linux/namespaces = [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/proc/1/ns/nope"}] | /proc/1/ns/nope
unknown call | /linux/seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["nosuchcall", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]} ; /process/args = ["mkdir", "/tmp/x"] | -
"#;

/// Kubernetes and moby show these words to whoever made the pod.
fn of_refusals(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.directory("dir")?;
    side.script("script", "")?;
    side.shell("chmod +x script; echo '#!/no/such/interpreter' > script; cp script text")?;
    side.shell("echo not a program > text; chmod +x text")?;
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let line = line.replace("$AT", &side.at().to_string_lossy());
        let cells: Vec<&str> = line.split(" | ").collect();
        let ended = side.run(&side.spec()?.args(&["echo", "ran"]).edit(cells[1])?)?;
        seen.ended(cells[0], &ended);
        let error = ended.error.unwrap_or_default().to_lowercase();
        for word in cells[2].split(',').filter(|word| *word != "-") {
            let said = error.contains(&word.to_lowercase());
            seen.add(cells[0], &format!("says {word}: {said}"));
        }
    }
    Ok(())
}
