//! Files that the host brings: bytes with a path below a volume. There are no links among them, and none
//! is where another one's directory would be.

use std::collections::BTreeSet;

use super::{Approved, Gate};
use crate::model::is_below;
use crate::{
    Check, Content, Denial, Digest, File, FileRule, Owner, Pattern, Request, VolumeKind, ensure,
};

/// The most files of a volume, and the longest path.
const MOST_FILES: usize = 1024;
const LONGEST_PATH: usize = 1024;

impl Gate {
    pub(super) fn put_files(
        &mut self,
        volume: String,
        mut files: Vec<File>,
    ) -> Result<Approved, Denial> {
        let kind = self.policy.volume(&volume).map(|volume| &volume.kind);
        let Some(VolumeKind::Files {
            files: rules,
            single,
            update,
            ..
        }) = kind
        else {
            return Err(self.no_volume(&volume));
        };
        let again = self.state.filled.contains(&volume) || self.state.filling.contains(&volume);
        ensure(Check::VolumeUpdate, !again || *update, || {
            ("volume", format!("{volume:?} came again"), "it once")
        })?;
        check_paths(&files, *single)?;
        let mut given = vec![false; rules.len()];
        let mut bound = Vec::new();
        for (at, file) in files.iter_mut().enumerate() {
            let named = closest(rules, &file.path);
            let rule = check_file(rules, &named, file)
                .map_err(|denial| denial.within(&format!("files[{at}]")))?;
            let is_bound = |rule: &FileRule| matches!(rule.content, Content::Sealed(_));
            bound.extend(rule.is_some_and(is_bound).then_some(at));
            file.owner = rule.map_or_else(Owner::default, |rule| rule.owner);
            named.into_iter().for_each(|rule| given[rule] = true);
        }
        check_missing(rules, &given)?;
        self.state.filling.insert(volume.clone());
        Ok(Approved {
            bound,
            ..Approved::plain(Request::PutFiles { volume, files })
        })
    }

    fn no_volume(&self, volume: &str) -> Denial {
        let of_files = |kind: &VolumeKind| matches!(kind, VolumeKind::Files { .. });
        let volumes = self.policy.volumes.iter();
        let names: Vec<_> = volumes
            .filter(|one| of_files(&one.kind))
            .map(|one| one.name.as_str())
            .collect();
        let came = format_args!("{volume:?} came");
        Denial::new(Check::Volume, "volume", came, one_of(&names))
    }
}

/// Names in a row, for a denial.
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        names => names.join(", "),
    }
}

/// What holds whatever the policy says.
pub(super) fn check_paths(files: &[File], single: bool) -> Result<(), Denial> {
    let many = files.len();
    ensure(Check::FileCount, many <= MOST_FILES, || {
        (
            "files",
            format!("{many} came"),
            format!("at most {MOST_FILES}"),
        )
    })?;
    let mut seen = BTreeSet::new();
    for (at, file) in files.iter().enumerate() {
        let path = &file.path;
        let sound = match single {
            true => path.is_empty(),
            false => path.len() <= LONGEST_PATH && is_below(path),
        };
        ensure(Check::FilePlace, sound, || {
            let allowed = "names with slashes between them, none of them . or ..";
            (
                format!("files[{at}].path"),
                format!("{path:?} came"),
                allowed,
            )
        })?;
        ensure(Check::FileTwice, seen.insert(path.as_str()), || {
            (
                format!("files[{at}].path"),
                format!("{path:?} came twice"),
                "it once",
            )
        })?;
    }
    for (at, file) in files.iter().enumerate() {
        let mut parents = file
            .path
            .match_indices('/')
            .map(|(end, _)| &file.path[..end]);
        let inside = parents.find(|parent| seen.contains(parent));
        ensure(Check::FileInside, inside.is_none(), || {
            let came = format!(
                "{:?} came, and {:?} is a file",
                file.path,
                inside.unwrap_or_default()
            );
            (format!("files[{at}].path"), came, "a path below no file")
        })?;
    }
    Ok(())
}

/// The rule by which it may be brought: there is one, unless checks are left out.
fn check_file<'a>(
    rules: &'a [FileRule],
    named: &[usize],
    file: &File,
) -> Result<Option<&'a FileRule>, Denial> {
    let named: Vec<_> = named.iter().map(|at| &rules[*at]).collect();
    ensure(Check::FilePath, !named.is_empty(), || {
        let allowed: Vec<_> = rules.iter().map(|one| one.path.to_string()).collect();
        ("path", format!("{:?} came", file.path), allowed.join(", "))
    })?;
    let of_mode = |rule: &&&FileRule| file.mode & !rule.mode == 0;
    let mut fitting: Vec<_> = named.iter().filter(of_mode).copied().collect();
    let sound = named.is_empty() || !fitting.is_empty();
    ensure(Check::FileMode, sound, || {
        let allowed = named.first().map_or(0, |rule| rule.mode);
        (
            "mode",
            format!("{:o} came", file.mode),
            format!("bits of {allowed:o}"),
        )
    })?;
    if fitting.is_empty() {
        fitting = named;
    }
    check_content(&fitting, file)
}

/// Where the rules are that decide about a file: no broader one gives it another mode or other bytes.
fn closest(rules: &[FileRule], path: &str) -> Vec<usize> {
    let named = |at: &usize| rules[*at].path.matches(path);
    let mut named: Vec<_> = (0..rules.len()).filter(named).collect();
    let closeness = |at: &usize| rules[*at].path.closeness();
    let closest = named.iter().map(closeness).min();
    named.retain(|at| Some(closeness(at)) == closest);
    named
}

/// The rule for its path that has a file's bytes: rather one that has no others.
fn check_content<'a>(rules: &[&'a FileRule], file: &File) -> Result<Option<&'a FileRule>, Denial> {
    let digest = std::cell::OnceCell::new();
    let is_bound = |rule: &&FileRule| match &rule.content {
        Content::Digest(wanted) => *digest.get_or_init(|| Digest::of(&file.contents)) == *wanted,
        Content::Sealed(text) => file.contents == text.as_bytes(),
        Content::AtMost(_) => false,
    };
    let fits = |rule: &&FileRule| match &rule.content {
        Content::Digest(_) | Content::Sealed(_) => false,
        Content::AtMost(most) => file.contents.len() <= *most as usize,
    };
    let bound = rules.iter().find(|rule| is_bound(rule));
    let found = bound.or_else(|| rules.iter().find(|rule| fits(rule)));
    let sound = rules.is_empty() || found.is_some();
    ensure(Check::FileContent, sound, || {
        let bytes = file.contents.len();
        let came = match digest.get() {
            Some(digest) => format!("{bytes} bytes of the digest {digest} came"),
            None => format!("{bytes} bytes came"),
        };
        let allowed = rules
            .first()
            .map_or_else(String::new, |rule| allowed(&rule.content));
        ("contents", came, allowed)
    })?;
    Ok(found.copied())
}

fn allowed(content: &Content) -> String {
    match content {
        Content::Digest(digest) => format!("those of the digest {digest}"),
        Content::Sealed(_) => "the sealed secret that the policy has".to_owned(),
        Content::AtMost(most) => format!("at most {most} bytes"),
    }
}

fn check_missing(rules: &[FileRule], given: &[bool]) -> Result<(), Denial> {
    for (rule, given) in rules.iter().zip(given) {
        ensure(Check::FileMissing, *given || rule.optional, || {
            let missing = match &rule.path {
                Pattern::Exact(path) => format!("{path:?} is missing"),
                other => format!("{other} is missing"),
            };
            ("files", missing, "all that are not optional")
        })?;
    }
    Ok(())
}
