//! What is shared by a file server: mounting it, trials of it, and bytes both ways.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use trefoil_probe::{files, pattern};

use crate::request::{Answer, Outcome, While, Words, facts};

/// `share-mount TAG PLACE`
pub(crate) fn mount_shared(words: &mut Words<'_>) -> Outcome {
    let (tag, place) = (words.word("a tag")?, words.word("a place")?);
    words.end()?;
    fs::create_dir_all(place).during(format_args!("making {place}"))?;
    let flags = MsFlags::empty();
    mount(Some(tag), place, Some("virtiofs"), flags, None::<&str>)
        .during(format_args!("mounting {tag}"))?;
    Answer::done()
}

/// `share-unmount PLACE`
pub(crate) fn unmount(words: &mut Words<'_>) -> Outcome {
    let place = words.word("a place")?;
    words.end()?;
    umount2(place, MntFlags::empty()).during(format_args!("unmounting {place}"))?;
    Answer::done()
}

/// `share-trial NAME BELOW`: one of [`files::TRIALS`].
pub(crate) fn trial(words: &mut Words<'_>) -> Outcome {
    let (name, below) = (words.word("a trial")?, words.word("a directory")?);
    words.end()?;
    files::run(name, Path::new(below))?;
    Answer::done()
}

/// `share-write PATH LENGTH SEED`
pub(crate) fn write(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    let (length, seed): (u64, u64) = (words.parse("a length")?, words.parse("a seed")?);
    words.end()?;
    let mut file = File::create(path).during(format_args!("making {path}"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < length {
        let part = buffer.len().min((length - done) as usize);
        pattern::fill(seed, done, &mut buffer[..part]);
        file.write_all(&buffer[..part])
            .during(format_args!("writing {path}"))?;
        done += part as u64;
    }
    file.sync_all().during(format_args!("syncing {path}"))?;
    Answer::done()
}

/// `share-check PATH LENGTH SEED`
pub(crate) fn check(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    let (length, seed): (u64, u64) = (words.parse("a length")?, words.parse("a seed")?);
    words.end()?;
    let mut file = File::open(path).during(format_args!("opening {path}"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file
            .read(&mut buffer)
            .during(format_args!("reading {path}"))?;
        if count == 0 {
            break;
        }
        pattern::check(seed, done, &buffer[..count])
            .map_err(|difference| difference.to_string())?;
        done += count as u64;
    }
    match done == length {
        true => Answer::done(),
        false => Err(format!("{path} has {done} bytes, not {length}")),
    }
}

/// `share-look PATH`: what a file is.
pub(crate) fn look(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    words.end()?;
    let found = fs::symlink_metadata(path).during(format_args!("looking at {path}"))?;
    facts!(
        device = found.dev(),
        inode = found.ino(),
        mode = format_args!("{:o}", found.mode()),
        uid = found.uid(),
        gid = found.gid(),
        size = found.size(),
    )
}

/// `share-walk PATH`: how many files are below a directory, each looked at.
pub(crate) fn walk(words: &mut Words<'_>) -> Outcome {
    let path = words.word("a path")?;
    words.end()?;
    let mut found = 0_u64;
    let mut left = vec![Path::new(path).to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).during("listing")? {
            let entry = entry.during("listing")?;
            found += 1;
            if entry.metadata().during("looking")?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    facts!(files = found)
}
