//! The command line of `trefoil policy`.

use std::ffi::OsString;
use std::path::PathBuf;

use trefoil_initdata::Field;

use crate::derive::Knobs;

/// What is printed when it is asked for.
pub(super) const HELP: &str = "\
usage: trefoil policy MANIFEST [OPTION]...

Derives a confidential pod's policy from its manifest and images, and prints it.

what it is made of:
  --image-layout DIR     an OCI image layout with images of the pod; as often as needed
  --pod NAME             which pod, where the manifest has several
  --mkfs PROGRAM         the mkfs.erofs to make root hashes with (erofs-utils 1.8 or later)
  --verify-signatures KEY  refuse images that have no cosign signature of this public key (PEM, P-256) in
                         their layout, by the tag that cosign gives it

what the host may do beyond running the pod; nothing of it unless it is said:
  --allow-logs           read what containers write
  --allow-attach         attach to containers with a terminal
  --allow-stdin          write to containers' input
  --allow-exec 'CONTAINER:COMMAND ARGUMENT...'  run this; a last argument of ... stands for any
  --allow-port-forward PORT  connect to this port past the pod's network
  --allow-kernel-log     read the guest's kernel log
  --allow-resize         raise limits while containers run
  --start-within SECONDS end the guest unless all containers have started by then
  --not-before SECONDS   refuse to run with a clock before this time (since 1970)

what is made of it:
  --output FILE          write the policy there
  --explain              print in sentences what it allows
  --diff POLICY          print in sentences what it changes of this one
  --pinned FILE          write the manifest there, with digests behind the images' names
  --initdata FILE        write the initdata document there, with the policy in it
  --aa FILE, --cdh FILE  the document's aa.toml and cdh.toml
  --tee snp|tdx|simulated  what binds it (snp)
  --annotation FILE      write the pod's annotation there, with that document in it
";

/// A command line.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub manifest: PathBuf,
    pub layouts: Vec<PathBuf>,
    pub pod: Option<String>,
    pub mkfs: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub knobs: Knobs,
    pub output: Option<PathBuf>,
    pub explain: bool,
    pub diff: Option<PathBuf>,
    pub pinned: Option<PathBuf>,
    pub initdata: Option<PathBuf>,
    pub aa: Option<PathBuf>,
    pub cdh: Option<PathBuf>,
    pub annotation: Option<PathBuf>,
    pub field: Option<Field>,
}

impl Arguments {
    /// Reads a command line, without the names of program and subcommand; none where help is asked for.
    ///
    /// # Errors
    /// What is not known, not whole, or there twice.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut read = Self::default();
        let mut rest = arguments;
        while let Some(argument) = rest.next() {
            match argument.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some(option) if option.starts_with("--") => read.option(option, &mut rest)?,
                _ if read.manifest.as_os_str().is_empty() => read.manifest = argument.into(),
                _ => {
                    return Err(format!(
                        "a second manifest {}: give one",
                        argument.display()
                    ));
                }
            }
        }
        match read.manifest.as_os_str().is_empty() {
            true => Err(format!("no manifest given\n\n{HELP}")),
            false => Ok(Some(read)),
        }
    }

    fn option(
        &mut self,
        option: &str,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let pod = &mut self.knobs.pod;
        match option {
            "--allow-logs" => pod.logs = true,
            "--allow-attach" => pod.attach = true,
            "--allow-stdin" => pod.stdin = true,
            "--allow-kernel-log" => pod.kernel_log = true,
            "--allow-resize" => self.knobs.resize = true,
            "--explain" => self.explain = true,
            _ => {
                let value = rest.next().ok_or_else(|| format!("{option} needs a value"));
                return self.valued(option, value);
            }
        }
        Ok(())
    }

    fn valued(&mut self, option: &str, value: Result<OsString, String>) -> Result<(), String> {
        let file = |to: &mut Option<PathBuf>, value: OsString| match to.replace(value.into()) {
            Some(_) => Err(format!("{option} is there twice")),
            None => Ok(()),
        };
        match option {
            "--image-layout" => self.layouts.push(value?.into()),
            "--mkfs" => file(&mut self.mkfs, value?)?,
            "--verify-signatures" => file(&mut self.key, value?)?,
            "--diff" => file(&mut self.diff, value?)?,
            "--output" => file(&mut self.output, value?)?,
            "--pinned" => file(&mut self.pinned, value?)?,
            "--initdata" => file(&mut self.initdata, value?)?,
            "--aa" => file(&mut self.aa, value?)?,
            "--cdh" => file(&mut self.cdh, value?)?,
            "--annotation" => file(&mut self.annotation, value?)?,
            "--pod" => self.pod = Some(text(option, value?)?),
            "--tee" => self.field = Some(tee(&text(option, value?)?)?),
            "--allow-exec" => {
                let command = exec(&text(option, value?)?)?;
                self.knobs.exec.push(command);
            }
            "--allow-port-forward" => {
                let port = number(option, value?)?;
                self.knobs.pod.port_forward.insert(port);
            }
            "--start-within" => self.knobs.start_within = Some(number(option, value?)?),
            "--not-before" => self.knobs.not_before = Some(number(option, value?)?),
            _ => return Err(format!("unknown option {option}\n\n{HELP}")),
        }
        Ok(())
    }
}

fn text(option: &str, value: OsString) -> Result<String, String> {
    value
        .into_string()
        .map_err(|value| format!("{option}: {} is no text", value.display()))
}

fn number<T: std::str::FromStr>(option: &str, value: OsString) -> Result<T, String> {
    let value = text(option, value)?;
    value
        .parse()
        .map_err(|_| format!("{option}: {value:?} is no number that it can be"))
}

fn tee(name: &str) -> Result<Field, String> {
    match name {
        "snp" => Ok(Field::HostData),
        "tdx" => Ok(Field::MrConfigId),
        "simulated" => Ok(Field::Simulated),
        _ => Err(format!(
            "--tee: {name:?} is unknown; there are snp, tdx, simulated"
        )),
    }
}

/// A container's name, and the words of a command.
fn exec(value: &str) -> Result<(String, Vec<String>), String> {
    let (container, command) = value.split_once(':').unwrap_or_default();
    let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    match words.first() {
        Some(first) if !container.is_empty() && first != "..." => Ok((container.to_owned(), words)),
        _ => Err(format!(
            "--allow-exec: {value:?} must be like 'web:ls -l' or 'web:sh ...'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Arguments>, String> {
        // A quoted word has its blanks as underscores here.
        let words = line
            .split_whitespace()
            .map(|word| OsString::from(word.replace('_', " ")));
        Arguments::read(words)
    }

    #[test]
    fn a_command_line_is_read() {
        let read = read("pod.yaml --image-layout a --image-layout b --allow-logs --allow-exec web:sh_-c_... --allow-port-forward 80 --tee tdx")
            .expect("read")
            .expect("no help");
        assert_eq!(read.manifest, PathBuf::from("pod.yaml"));
        assert_eq!(read.layouts, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(read.knobs.pod.logs && !read.knobs.pod.stdin);
        let words = ["sh", "-c", "..."].map(str::to_owned).to_vec();
        assert_eq!(read.knobs.exec, [("web".to_owned(), words)]);
        assert!(read.knobs.pod.port_forward.contains(&80));
        assert_eq!(read.field, Some(Field::MrConfigId));
    }

    #[test]
    fn help_is_help_wherever_it_stands() {
        assert!(read("pod.yaml -h").expect("read").is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, why) in [
            ("", "no manifest"),
            ("a b", "a second manifest b"),
            (
                "a --allow-everything 1",
                "unknown option --allow-everything",
            ),
            ("a --output", "--output needs a value"),
            ("a --output x --output y", "--output is there twice"),
            ("a --allow-port-forward 65536", "no number"),
            ("a --allow-exec ls", "must be like"),
            ("a --allow-exec web:", "must be like"),
            ("a --allow-exec web:...", "must be like"),
            ("a --tee sgx", "there are snp, tdx, simulated"),
        ] {
            let told = read(line).expect_err(line);
            assert!(told.contains(why), "{line}: {told}");
        }
    }
}
