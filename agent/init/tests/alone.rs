//! The init where it doesn't belong.

use std::process::Command;

#[test]
fn it_runs_as_nothing_but_process_1() {
    let init = env!("CARGO_BIN_EXE_trefoil-init");
    let output = Command::new(init).output().expect("starting the init");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "trefoil-init: this is the init of a guest and runs as nothing but process 1\n"
    );
}
