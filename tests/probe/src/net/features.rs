//! Offloads, as `ethtool` shows and switches them.

use super::interface::Interface;
use crate::request::{Answer, Outcome, Words};

/// The kernel's `linux/ethtool.h`.
const STRINGS: u32 = 0x1b;
const SET_SIZE: u32 = 0x37;
const FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const FEATURE_NAMES: u32 = 4;

/// A name's length, in words of 32 bits.
const NAME: usize = 8;

/// The names of all features that a kernel knows, by their number.
fn names(interface: &Interface<'_>) -> Result<Vec<String>, String> {
    // Command, reserved, a mask of 64 bits; then as many sizes as the mask has bits.
    let mut size = [SET_SIZE, 0, 1 << FEATURE_NAMES, 0, 0];
    interface.ethtool(&mut size, "counting the features")?;
    let count = size.last().copied().unwrap_or(0);
    let mut question = vec![0; 3 + count as usize * NAME];
    for (to, from) in question.iter_mut().zip([STRINGS, FEATURE_NAMES, count]) {
        *to = from;
    }
    interface.ethtool(&mut question, "naming the features")?;
    let words = question.get(3..).unwrap_or_default();
    Ok(words
        .chunks(NAME)
        .map(|words| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        })
        .collect())
}

/// The names of those that are on.
pub(super) fn active(interface: &Interface<'_>) -> Result<Vec<String>, String> {
    let names = names(interface)?;
    // Each block of 32 has four words: available, requested, active, never changed.
    let blocks = names.len().div_ceil(32);
    let mut question = vec![0; 2 + blocks * 4];
    for (to, from) in question.iter_mut().zip([FEATURES, blocks as u32]) {
        *to = from;
    }
    interface.ethtool(&mut question, "asking for the features")?;
    let is_on = |number: usize| {
        let active = question.get(2 + number / 32 * 4 + 2).copied().unwrap_or(0);
        active & (1 << (number % 32)) != 0
    };
    Ok(names
        .into_iter()
        .enumerate()
        .filter(|(number, _)| is_on(*number))
        .map(|(_, name)| name)
        .collect())
}

/// `net-feature INTERFACE NAME on|off`
pub(crate) fn set(words: &mut Words<'_>) -> Outcome {
    let interface = Interface::named(words.word("an interface")?)?;
    let feature = words.word("a feature")?;
    let on = match words.word("on or off")? {
        "on" => true,
        "off" => false,
        other => return Err(format!("{other:?} is neither on nor off")),
    };
    words.end()?;
    let names = names(&interface)?;
    let number = names
        .iter()
        .position(|name| name == feature)
        .ok_or_else(|| format!("there is no feature {feature:?}"))?;
    // Each block of 32 has two words: valid, requested.
    let blocks = names.len().div_ceil(32);
    let mut question = vec![0; 2 + blocks * 2];
    let bit = 1 << (number % 32);
    let valid = 2 + number / 32 * 2;
    for (place, value) in [
        (0, SET_FEATURES),
        (1, blocks as u32),
        (valid, bit),
        (valid + 1, if on { bit } else { 0 }),
    ] {
        if let Some(word) = question.get_mut(place) {
            *word = value;
        }
    }
    interface.ethtool(&mut question, "setting a feature")?;
    if active(&interface)?.iter().any(|name| name == feature) != on {
        return Err(format!("{feature} can't be changed"));
    }
    Answer::done()
}
