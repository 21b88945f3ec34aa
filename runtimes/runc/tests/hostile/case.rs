//! Cases: which root, under which configuration. The same seed makes the same ones.

use crate::extra::Extra;
use crate::kind::Kind;
use crate::shape::{Dev, SHAPES, Shape};
use crate::site::{SITES, Site};

/// The most changes of a root.
const MOST_CHANGES: usize = 4;
/// The most that is asked for beyond a shape.
const MOST_EXTRA: usize = 2;

/// One container.
#[derive(Clone, Debug)]
pub struct Case {
    pub number: u64,
    pub shape: Shape,
    /// What is asked for beyond the shape.
    pub extra: Vec<Extra>,
    /// What is unusual about its root.
    pub changes: Vec<(Site, Kind)>,
    /// Whether what the links lead to exists in the image too.
    pub mirrored: bool,
}

impl Case {
    /// Nothing is unusual about it.
    pub fn plain(number: u64, shape: &Shape) -> Self {
        Self {
            number,
            shape: *shape,
            extra: Vec::new(),
            changes: Vec::new(),
            mirrored: false,
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "case {} ({}", self.number, self.shape.name)?;
        for (site, kind) in &self.changes {
            write!(f, ", {} {kind:?}", site.path)?;
        }
        for extra in &self.extra {
            let Extra {
                path,
                what,
                options,
            } = extra;
            write!(f, ", {what:?} at {path:?} {options:?}")?;
        }
        let mirrored = if self.mirrored { ", mirrored" } else { "" };
        write!(f, "{mirrored})")
    }
}

/// Where choices come from.
pub trait Choose {
    /// A number below `limit`, which is more than 0.
    fn below(&mut self, limit: usize) -> usize;
}

/// Numbers that follow from a seed. Source: Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014.
pub struct Seeded(pub u64);

impl Choose for Seeded {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// Numbers that a fuzzer chose; 0 when there are no more.
struct Chosen<'a>(&'a [u8]);

impl Choose for Chosen<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first) % limit
    }
}

/// How many cases there are of every path with every kind.
pub const SINGLE: usize = SITES.len() * Kind::ALL.len();

/// As many cases as asked for: those that are known to have harmed a host, every path with every kind,
/// then several at once. Where fewer are asked for, some of each.
pub fn cases(count: usize, seed: u64) -> Vec<Case> {
    let mut choices = Seeded(seed);
    let mut singles = singles();
    let mut known = known();
    if count < singles.len() + known.len() {
        shuffle(&mut singles, &mut choices);
        singles.truncate(count / 2);
        known.truncate(count / 5);
    }
    let mut cases = known;
    cases.append(&mut singles);
    while cases.len() < count {
        let case = match cases.len() % 2 {
            0 => several(&mut choices),
            _ => from_bytes(&bytes(&mut choices)),
        };
        cases.push(case);
    }
    cases.truncate(count);
    for (number, case) in (0..).zip(&mut cases) {
        case.number = number;
    }
    cases
}

/// Every path with every kind, each under a shape that touches it.
fn singles() -> Vec<Case> {
    let mut cases = Vec::with_capacity(SINGLE);
    for (first, site) in SITES.iter().enumerate() {
        let shapes: Vec<_> = SHAPES
            .iter()
            .filter(|shape| (site.touched)(shape))
            .collect();
        for (turn, kind) in Kind::ALL.iter().enumerate() {
            let shape = shapes[(first + turn) % shapes.len()];
            cases.push(Case {
                changes: vec![(*site, *kind)],
                mirrored: turn % 3 != 0,
                ..Case::plain(0, shape)
            });
        }
    }
    cases
}

/// Links for `/dev`, which had a runtime remove and make files where they led, under every shape: those
/// first that did it.
fn known() -> Vec<Case> {
    const KINDS: [Kind; 6] = [
        Kind::LinkToDevices,
        Kind::LinkToEmptyDirectory,
        Kind::LinkToDirectory,
        Kind::RelativeLinkToDirectory,
        Kind::SelfRoot,
        Kind::InitRoot,
    ];
    let mut shapes: Vec<_> = SHAPES.iter().collect();
    shapes.sort_by_key(|shape| shape.dev != Dev::Nothing);
    let dev = SITES.iter().find(|site| site.path == "/dev");
    let mut cases = Vec::new();
    for mirrored in [true, false] {
        for shape in &shapes {
            cases.extend(
                KINDS
                    .iter()
                    .zip(dev.into_iter().cycle())
                    .map(|(kind, dev)| Case {
                        changes: vec![(*dev, *kind)],
                        mirrored,
                        ..Case::plain(0, shape)
                    }),
            );
        }
    }
    cases
}

/// Several changes of one root, those above before those below, and now and then more mounts.
fn several(choices: &mut dyn Choose) -> Case {
    let shape = SHAPES[choices.below(SHAPES.len())];
    any(shape, choices)
}

/// Any root under any configuration, as the bytes have it.
pub fn from_bytes(bytes: &[u8]) -> Case {
    let mut choices = Chosen(bytes);
    let shape = Shape::any(&mut choices);
    any(shape, &mut choices)
}

fn bytes(choices: &mut dyn Choose) -> Vec<u8> {
    const MORE_THAN_ARE_USED: usize = 64;
    let mut byte = || u8::try_from(choices.below(256)).unwrap();
    (0..MORE_THAN_ARE_USED).map(|_| byte()).collect()
}

fn any(shape: Shape, choices: &mut dyn Choose) -> Case {
    let sites: Vec<_> = SITES.iter().filter(|site| (site.touched)(&shape)).collect();
    let mut changes: Vec<_> = (0..1 + choices.below(MOST_CHANGES))
        .map(|_| {
            let site = *sites[choices.below(sites.len())];
            (site, Kind::ALL[choices.below(Kind::ALL.len())])
        })
        .collect();
    changes.sort_by_key(|(site, _)| site.path.len());
    Case {
        changes,
        mirrored: choices.below(2) == 1,
        extra: (0..choices.below(MOST_EXTRA + 1))
            .map(|_| Extra::any(choices))
            .collect(),
        ..Case::plain(0, &shape)
    }
}

fn shuffle(cases: &mut [Case], choices: &mut dyn Choose) {
    for last in (1..cases.len()).rev() {
        cases.swap(last, choices.below(last + 1));
    }
}
