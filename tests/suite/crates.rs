//! Tests of `crates.sh`.

use std::fs;
use std::path::Path;
use std::process::Command;

/// `crates.sh` with a cache and a target directory.
fn crates(word: &str, cache: &Path, target: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates.sh");
    let status = Command::new(script)
        .arg(word)
        .env("XDG_CACHE_HOME", cache)
        .env("CARGO_TARGET_DIR", target)
        .status()
        .expect("to be started");
    assert!(status.success(), "{word}: {status}");
}

#[test]
fn other_peoples_crates_are_kept_and_ours_are_not() {
    let base = std::env::temp_dir().join(format!("trefoil-crates-{}", std::process::id()));
    let (cache, built, fresh) = (base.join("cache"), base.join("built"), base.join("fresh"));
    let others = "debug/deps/libserde-1.rlib";
    let ours = [
        "debug/deps/libtrefoil_core-1.rlib",
        "debug/.fingerprint/trefoil-core-1/lib",
        "debug/deps/test-vm-1",
        "debug/incremental/serde/x",
    ];
    for file in ours
        .iter()
        .chain(&[others, "debug/.fingerprint/serde-1/lib"])
    {
        let file = built.join(file);
        fs::create_dir_all(file.parent().expect("a directory")).expect("to be made");
        fs::write(&file, "built").expect("to be written");
    }
    crates("keep", &cache, &built);
    crates("take", &cache, &fresh);
    assert!(fresh.join(others).exists());
    assert!(fresh.join("debug/.fingerprint/serde-1/lib").exists());
    for file in ours {
        assert!(!fresh.join(file).exists(), "{file}");
    }
    // What cargo has built since stays.
    fs::write(fresh.join(others), "anew").expect("to be written");
    crates("take", &cache, &fresh);
    assert_eq!(fs::read(fresh.join(others)).expect("to be read"), b"anew");
    fs::remove_dir_all(base).expect("to be removed");
}
