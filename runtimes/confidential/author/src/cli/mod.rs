//! `trefoil policy`: reads the files, derives the policy, writes what is asked for.

mod arguments;

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use trefoil_initdata::{Initdata, annotation};
use trefoil_policy::Policy;

use crate::derive::{self, Derived};
use crate::layers::{Mkfs, PublicKey};
use crate::layouts::Layouts;
use crate::manifest::{self, Manifest, Pod};
use crate::{pin, yaml};

use arguments::{Arguments, HELP};

/// The pod's annotation that has the initdata.
const ANNOTATION: &str = "trefoil.dev/initdata";

/// Runs the subcommand with its arguments, and says how it went.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("trefoil policy: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let Some(arguments) = Arguments::read(arguments)? else {
        return print(HELP.as_bytes());
    };
    check(&arguments)?;
    let text = read(&arguments.manifest)?;
    let file = arguments.manifest.display().to_string();
    let manifest = manifest::read(&file, &text).map_err(|why| why.to_string())?;
    let pod = choose(&manifest, arguments.pod.as_deref(), &file)?;
    let mkfs = arguments.mkfs.as_deref().unwrap_or(Path::new("mkfs.erofs"));
    let mkfs = Mkfs::new(mkfs).map_err(|why| why.to_string())?;
    let key = arguments.key.as_deref().map(key).transpose()?;
    let images = Layouts::new(arguments.layouts.clone(), mkfs, key);
    let derived = derive::policy(pod, &manifest.configs, &images, &arguments.knobs)
        .map_err(|why| why.to_string())?;
    for note in &derived.notes {
        eprintln!("note: {note}");
    }
    write(&arguments, &derived, &text)
}

fn key(file: &Path) -> Result<PublicKey, String> {
    let shown = file.display();
    read(file)?
        .parse()
        .map_err(|why| format!("read {shown}: {why}"))
}

/// Options that are of no use without another.
fn check(arguments: &Arguments) -> Result<(), String> {
    let initdata = arguments.initdata.is_some() || arguments.annotation.is_some();
    for (is_given, option) in [
        (arguments.aa.is_some(), "--aa"),
        (arguments.cdh.is_some(), "--cdh"),
        (arguments.field.is_some(), "--tee"),
    ] {
        if is_given && !initdata {
            return Err(format!(
                "{option} is of no use without --initdata or --annotation"
            ));
        }
    }
    Ok(())
}

/// The pod that is meant: a policy is one pod's.
fn choose<'a>(manifest: &'a Manifest, name: Option<&str>, file: &str) -> Result<&'a Pod, String> {
    let is_meant = |pod: &&Pod| {
        let object = pod.place.to_string();
        name.is_none_or(|name| {
            object == name || object.split_once(' ').is_some_and(|(_, own)| own == name)
        })
    };
    let meant: Vec<_> = manifest.pods.iter().filter(is_meant).collect();
    let names = |pods: &[&Pod]| {
        let names: Vec<_> = pods
            .iter()
            .map(|pod| format!("{:?}", pod.place.to_string()))
            .collect();
        names.join(", ")
    };
    match meant.as_slice() {
        [pod] => Ok(pod),
        [] => match name {
            Some(name) => {
                let all: Vec<_> = manifest.pods.iter().collect();
                Err(format!(
                    "{file}: no pod {name:?}; there are {}",
                    names(&all)
                ))
            }
            None => Err(format!("{file}: no pod and no workload in it")),
        },
        several => Err(format!(
            "{file}: several pods, so name one with --pod: {}",
            names(several)
        )),
    }
}

fn write(arguments: &Arguments, derived: &Derived, text: &str) -> Result<(), String> {
    let policy = derived.policy.to_json().map_err(|why| why.to_string())?;
    if let Some(to) = &arguments.pinned {
        let documents = yaml::read(text).map_err(|why| why.to_string())?;
        let images: Vec<_> = derived
            .images
            .iter()
            .map(|(name, digest)| (name.clone(), format!("sha256:{digest}")))
            .collect();
        save(to, pin::pin(text, &documents, &images)?.as_bytes())?;
    }
    if arguments.initdata.is_some() || arguments.annotation.is_some() {
        write_initdata(arguments, &policy)?;
    }
    let told = tell(arguments, &derived.policy)?;
    match &arguments.output {
        Some(to) => save(to, &policy)?,
        // Sentences were asked for in its place.
        None if told.is_some() => {}
        None => print(&[&policy, b"\n".as_slice()].concat())?,
    }
    told.map_or(Ok(()), |told| print(told.as_bytes()))
}

/// The policy in sentences, and what it changes of another one, as far as it was asked for: a line for each.
fn tell(arguments: &Arguments, policy: &Policy) -> Result<Option<String>, String> {
    let mut sentences = Vec::new();
    if arguments.explain {
        sentences.extend(policy.explain());
    }
    if let Some(file) = &arguments.diff {
        let old = Policy::from_json(read(file)?.as_bytes());
        let old = old.map_err(|why| format!("read {}: {why}", file.display()))?;
        sentences.extend(trefoil_policy::diff(&old, policy));
    }
    let told: String = sentences
        .iter()
        .map(|sentence| format!("{sentence}\n"))
        .collect();
    Ok((arguments.explain || arguments.diff.is_some()).then_some(told))
}

fn write_initdata(arguments: &Arguments, policy: &[u8]) -> Result<(), String> {
    let mut initdata = Initdata::default();
    initdata.set_policy(&String::from_utf8_lossy(policy));
    if let Some(file) = &arguments.aa {
        initdata.set_aa(&read(file)?);
    }
    if let Some(file) = &arguments.cdh {
        initdata.set_cdh(&read(file)?);
    }
    let field = arguments.field.unwrap_or(trefoil_initdata::Field::HostData);
    let document = initdata.write(field).map_err(|why| why.to_string())?;
    if let Some(to) = &arguments.annotation {
        let value = annotation::encode(&document).map_err(|why| why.to_string())?;
        save(to, format!("{ANNOTATION}: {value}\n").as_bytes())?;
    }
    match &arguments.initdata {
        Some(to) => save(to, document.as_bytes()),
        None => Ok(()),
    }
}

fn read(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let length = fs::metadata(file)
        .map_err(|why| format!("read {shown}: {why}"))?
        .len();
    if length > yaml::MAX_BYTES as u64 {
        return Err(format!(
            "read {shown}: {length} bytes, of at most {}",
            yaml::MAX_BYTES
        ));
    }
    fs::read_to_string(file).map_err(|why| format!("read {shown}: {why}"))
}

fn save(file: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(file, bytes).map_err(|why| format!("write {}: {why}", file.display()))
}

fn print(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|why| format!("print: {why}"))
}

#[cfg(test)]
mod tests;
