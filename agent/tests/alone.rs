//! The agent where it doesn't belong.

use std::process::Command;

#[test]
fn it_runs_as_nothing_but_process_1() {
    let agent = env!("CARGO_BIN_EXE_trefoil-agent");
    let output = Command::new(agent).output().expect("starting the agent");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "trefoil-agent: this is the init of a guest and runs as nothing but process 1\n"
    );
}
