//! The host-tamper suite through a guest: a confidential guest of a host that lies to it. What needs no guest
//! is tried by the agent's own tests, with all the rest of the cases.
//!
//! Nothing may start but the container of the policy, and each refusal has its code or names the block.

mod disks;
mod guest;
mod requests;

use anyhow::{Context, Result, ensure};

use crate::vmm::{Body, Setting};
use guest::Guest;

pub const TRIALS: &[(&str, Body)] = &[
    ("tamper::initdata", initdata),
    ("tamper::requests", requests),
    ("tamper::disks", disks::other_disks),
    ("tamper::disk_that_changes", disks::one_that_changes),
    ("tamper::random_bits", disks::random_bits),
];

/// What an attempt is refused with.
fn refusal<T>(what: &str, outcome: Result<T>) -> Result<String> {
    let why = outcome.map(drop).err();
    let why = why.with_context(|| format!("{what}: the guest has done it"))?;
    Ok(format!("{why:#}"))
}

/// That something is refused, and with one of these words.
fn refused<T>(what: &str, outcome: Result<T>, words: &[&str]) -> Result<()> {
    let said = refusal(what, outcome)?;
    ensure!(
        words.iter().any(|word| said.contains(word)),
        "{what}: not {words:?}, but {said}"
    );
    Ok(())
}

/// Another document than the bound one, whatever it is, is not even parsed. Then the bound one is taken.
fn initdata(setting: &Setting) -> Result<()> {
    let mut guest = Guest::boot(setting)?;
    let sound = guest.initdata().to_owned();
    let with = |text: &str| text.as_bytes().to_vec();
    let mut flipped = with(&sound);
    flipped[sound.len() / 2] ^= 1;
    for (what, document) in [
        ("a bit of it is another", flipped),
        ("its end is missing", with(&sound[..sound.len() - 1])),
        ("something is behind it", with(&format!("{sound}\n"))),
        (
            "it names another algorithm",
            with(&sound.replace("sha256", "sha384")),
        ),
        (
            "it allows everything",
            with(&sound.replace("\"version\"", "\"permissive\":true,\"version\"")),
        ),
        ("it is no text", vec![0xff; 4096]),
        ("it is long", vec![b'#'; 1 << 20]),
    ] {
        refused(what, guest.set_up(document), &["initdata not bound"])?;
    }
    refused(
        "there is none",
        guest.set_up(Vec::new()),
        &["there is no initdata"],
    )?;
    refused(
        "there is no policy",
        guest.create(|_| {}),
        &["(not-set-up)"],
    )?;
    guest.set_up(with(&sound))?;
    refused(
        "it comes again",
        guest.set_up(with(&sound)),
        &["(set-up-twice)"],
    )?;
    guest.runs()?;
    guest.hang_up()
}

/// All that can be asked otherwise, and then what the policy has.
fn requests(setting: &Setting) -> Result<()> {
    let mut guest = Guest::boot(setting)?;
    let sound = guest.initdata().as_bytes().to_vec();
    guest.set_up(sound)?;
    guest.attach_sound()?;
    let tried = requests::all(&mut guest)?;
    println!("{tried} requests were refused, each with its code");
    ensure!(tried >= 150, "only {tried} requests were tried");
    guest.nothing_runs()?;
    guest.runs()?;
    guest.hang_up()
}
