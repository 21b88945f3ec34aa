//! While a container is made, a directory of its root or of a volume that others write to changes
//! places with a link, again and again.

use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

use crate::bench::Bench;
use crate::case::Case;
use crate::corpus::verdict;
use crate::kind::Kind;
use crate::root::Roots;
use crate::setting::{self, number};
use crate::shape::SHAPES;
use crate::site::SITES;

/// How many containers, if nothing else is said.
const COUNT: u64 = 220;

/// What changes places: directories, on the way to all that the runtime makes.
const PLACES: [&str; 12] = [
    "/dev",
    "/etc",
    "/srv/a",
    "/srv",
    "/cfg",
    "/work",
    "/home/app",
    "/data/code",
    "/data/sub",
    "/data/sub/inner",
    "/secret",
    "/dev/pts",
];

/// What it changes places with.
const LINKS: [Kind; 6] = [
    Kind::LinkToDevices,
    Kind::LinkToEmptyDirectory,
    Kind::RelativeLinkToDirectory,
    Kind::InitRoot,
    Kind::SelfRoot,
    Kind::LinkToDirectory,
];

/// Nothing that changes places meanwhile leads the runtime to the canary.
pub async fn no_race_reaches_out(bench: &mut Bench) -> Result<(), String> {
    let count = number("HOSTILE_RACES", COUNT);
    let mut told = Vec::new();
    let (mut ran, mut refused) = (0, 0);
    for race in 0..count {
        let turn = usize::try_from(race).unwrap();
        let place = PLACES[turn % PLACES.len()];
        let link = LINKS[turn / PLACES.len() % LINKS.len()];
        let case = case(place, turn, race);
        let canary = bench.canary().to_owned();
        let begin = |roots: &Roots| Swapper::begin(roots, place, link, &canary);
        let report = bench.run_while(&case, begin).await;
        match report.refused {
            Some(_) => refused += 1,
            None => ran += 1,
        }
        if !report.faults.is_empty() {
            let faults = report.faults.join("; ");
            told.push(format!("{case}, {place} swapped with {link:?}: {faults}"));
        }
    }
    let summary = format!("{ran} ran, {refused} refused, {} with faults", told.len());
    println!("    {summary}");
    verdict(told, summary)
}

/// One that touches the place.
fn case(place: &str, turn: usize, number: u64) -> Case {
    let site = SITES.iter().find(|site| site.path == place).unwrap();
    let shapes: Vec<_> = SHAPES
        .iter()
        .filter(|shape| (site.touched)(shape))
        .collect();
    Case {
        mirrored: turn.is_multiple_of(2),
        ..Case::plain(number, shapes[turn / PLACES.len() % shapes.len()])
    }
}

/// Swaps, as long as it lives.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn begin(roots: &Roots, place: &str, link: Kind, canary: &Path) -> Self {
        let path = roots.at(place);
        let (parent, name) = (path.parent().unwrap(), path.file_name().unwrap());
        let target = link.target(place, canary, 0).unwrap();
        let other = ".swapped";
        let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&target[..]);
        symlink(target, parent.join(other)).unwrap();
        let directory = openat(CWD, parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (begun, begins) = channel();
        let thread = std::thread::spawn({
            let (stop, name) = (stop.clone(), name.to_owned());
            move || swap(&directory, &name, other, begun, &stop)
        });
        begins
            .recv_timeout(setting::most())
            .expect("nothing changes places");
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Says so once it has.
fn swap(
    directory: &OwnedFd,
    one: &std::ffi::OsStr,
    other: &str,
    begun: Sender<()>,
    stop: &AtomicBool,
) {
    let mut begun = Some(begun);
    while !stop.load(Ordering::Relaxed) {
        // Refused while something is mounted there.
        let swapped = renameat_with(directory, one, directory, other, RenameFlags::EXCHANGE);
        if let (Ok(()), Some(begun)) = (swapped, begun.take()) {
            begun.send(()).unwrap();
        }
        std::hint::spin_loop();
    }
}
