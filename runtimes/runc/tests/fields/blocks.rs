//! `linux.resources.blockIO`.

use std::fs;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::resources::{Expected, check, has};
use Expected::{In, Perhaps, Refused};

tests![
    weight,
    leaf_weight,
    weight_of_a_device,
    leaf_weight_of_a_device,
    bytes_read,
    bytes_written,
    reads,
    writes,
];

/// A disk of this machine's.
fn disk() -> Option<(u32, u32)> {
    let mut names: Vec<_> = fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("dev"))
        .collect();
    names.sort();
    let number = fs::read_to_string(names.first()?).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn block(bench: &Bench, block: Value, v1: Expected, v2: Expected) {
    check(bench, &json!({ "blockIO": block }), v1, v2);
}

/// What is for a disk; there may be a machine that has none.
fn of_disk(bench: &Bench, name: &str, test: impl FnOnce(&Bench, u32, u32, String)) {
    match disk() {
        Some((major, minor)) => test(bench, major, minor, format!("{major}:{minor}")),
        None => println!("{name}: skipped, as this machine has no disk"),
    }
}

/// The first of several files that a container's cgroup has here, or simply the first.
fn first(bench: &Bench, names: [&'static str; 2]) -> &'static str {
    let found = names.into_iter().find(|name| has(bench, name));
    found.unwrap_or(names[0])
}

fn weight(bench: &Bench) {
    let v1 = first(bench, ["blkio.weight", "blkio.bfq.weight"]);
    let v2 = match first(bench, ["io.bfq.weight", "io.weight"]) {
        name @ "io.weight" => (name, "default 1142"),
        name => (name, "default 123"),
    };
    block(bench, json!({"weight": 123}), In((v1, "123")), In(v2));
}

const NO_LEAVES: Expected = Refused("leaf weights do not exist on cgroup v2");

fn leaf_weight(bench: &Bench) {
    let v1 = In(("blkio.leaf_weight", "123"));
    block(bench, json!({"leafWeight": 123}), v1, NO_LEAVES);
}

/// Only a disk with a scheduler for it takes one.
fn weight_of_a_device(bench: &Bench) {
    of_disk(bench, "weight_of_a_device", |bench, major, minor, disk| {
        let v1 = first(bench, ["blkio.weight_device", "blkio.bfq.weight_device"]);
        let v2 = match first(bench, ["io.bfq.weight", "io.weight"]) {
            name @ "io.weight" => (name, &*format!("{disk} 1142").leak()),
            name => (name, &*format!("{disk} 123").leak()),
        };
        block(
            bench,
            json!({"weightDevice": [{"major": major, "minor": minor, "weight": 123}]}),
            Perhaps((v1, format!("{disk} 123").leak())),
            Perhaps(v2),
        );
    });
}

fn leaf_weight_of_a_device(bench: &Bench) {
    of_disk(
        bench,
        "leaf_weight_of_a_device",
        |bench, major, minor, disk| {
            block(
                bench,
                json!({"weightDevice": [{"major": major, "minor": minor, "leafWeight": 123}]}),
                Perhaps(("blkio.leaf_weight_device", format!("{disk} 123").leak())),
                NO_LEAVES,
            );
        },
    );
}

/// The most of one kind that a disk is to do for a container.
fn throttle(bench: &Bench, field: &str, v1: &'static str, v2: &str) {
    of_disk(bench, field, |bench, major, minor, disk| {
        let shown = v2.replace("rate", "1048576");
        block(
            bench,
            json!({field: [{"major": major, "minor": minor, "rate": 1_048_576}]}),
            In((v1, format!("{disk} 1048576").leak())),
            In(("io.max", format!("{disk} {shown}").leak())),
        );
    });
}

fn bytes_read(bench: &Bench) {
    throttle(
        bench,
        "throttleReadBpsDevice",
        "blkio.throttle.read_bps_device",
        "rbps=rate wbps=max riops=max wiops=max",
    );
}

fn bytes_written(bench: &Bench) {
    throttle(
        bench,
        "throttleWriteBpsDevice",
        "blkio.throttle.write_bps_device",
        "rbps=max wbps=rate riops=max wiops=max",
    );
}

fn reads(bench: &Bench) {
    throttle(
        bench,
        "throttleReadIOPSDevice",
        "blkio.throttle.read_iops_device",
        "rbps=max wbps=max riops=rate wiops=max",
    );
}

fn writes(bench: &Bench) {
    throttle(
        bench,
        "throttleWriteIOPSDevice",
        "blkio.throttle.write_iops_device",
        "rbps=max wbps=max riops=max wiops=rate",
    );
}
