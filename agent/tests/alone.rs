//! The agent where it doesn't belong.

use std::process::{Command, Stdio};

#[test]
fn it_serves_nobody_but_a_guests_host() {
    let output = Command::new(env!("CARGO_BIN_EXE_trefoil-agent"))
        .stdin(Stdio::null())
        .output()
        .expect("starting the agent");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "trefoil-agent: this serves the host of a guest, and is started by the guest's init\n"
    );
}
