//! Logging programs: `binary:///path?argument=value`, as containerd's own shim runs them.
//!
//! The program reads the container's output from its descriptors 3 and 4 and says that it is ready by
//! closing (or writing to) descriptor 5. It sees the end of its input when the container has ended, and
//! a SIGTERM when the shim goes.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio as Standard};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Signal, set_parent_process_death_signal};
use trefoil_core::{Context, Error, Output, Result};
use trefoil_os::child::Child;
use trefoil_os::descriptors::replace;
use trefoil_os::process::reset_signal;
use trefoil_os::watched;

/// How long a program may take to say that it is ready: containerd's own shim waits as long.
const READY: Duration = Duration::from_secs(10);

/// Starts the program that `uri` names and returns the ends that a container writes to.
pub async fn start(
    uri: &str,
    namespace: &str,
    id: &str,
) -> Result<(Option<Output>, Option<Output>)> {
    let doing = || format!("start the logging program {uri}");
    let (path, arguments) = parse(uri)?;
    let (out_read, out_write) = pipe().context(doing)?;
    let (err_read, err_write) = pipe().context(doing)?;
    let (ready_read, ready_write) = pipe().context(doing)?;

    let mut command = Command::new(&path);
    command
        .args(arguments)
        .env_clear()
        .env("CONTAINER_ID", id)
        .env("CONTAINER_NAMESPACE", namespace)
        .stdin(Standard::null())
        .stdout(Standard::null())
        .stderr(Standard::null());
    let given = [out_read, err_read, ready_write];
    // SAFETY: `hand_over` makes system calls only, as a forked child may before it executes.
    unsafe { command.pre_exec(move || hand_over(&given)) };
    let child = command.spawn().context(doing)?;
    // And with it our copies of the program's ends.
    drop(command);
    let child = Child::new(child.id()).context(doing)?;

    let ready = watched::readable(ready_read).context(doing)?;
    if tokio::time::timeout(READY, ready.readable()).await.is_err() {
        let _ = child.kill(libc::SIGKILL);
        tokio::spawn(async move { child.wait().await });
        return Err(Error::internal(format!(
            "start the logging program {uri}: it was not ready within {READY:?}"
        )));
    }
    tokio::spawn(async move { child.wait().await });
    let output = |write| Some(Output { write, hold: None });
    Ok((output(out_write), output(err_write)))
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC)
}

/// Puts the descriptors where the program expects them, and ties its life to the shim's.
fn hand_over(given: &[OwnedFd; 3]) -> std::io::Result<()> {
    // Out of the way first: a given descriptor may stand at another's place.
    const ASIDE: RawFd = 10;
    let [output, errors, ready] = given;
    let aside = [
        fcntl_dupfd_cloexec(output, ASIDE)?,
        fcntl_dupfd_cloexec(errors, ASIDE)?,
        fcntl_dupfd_cloexec(ready, ASIDE)?,
    ];
    for (fd, place) in aside.iter().zip(3..) {
        // SAFETY: of the numbers below those only this process's owners are lost, which none of its code
        // will use: it is a copy that ends in execve or _exit.
        unsafe { replace(fd.as_fd(), place, false) }?;
    }
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The shim ignores these; a program expects them to act.
    for signal in [libc::SIGPIPE, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        reset_signal(signal)?;
    }
    Ok(())
}

/// The program and its arguments: each query key, followed by its value if it has one.
fn parse(uri: &str) -> Result<(String, Vec<String>)> {
    let rest = uri.strip_prefix("binary://").unwrap_or(uri);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "start the logging program {uri}: its path is not absolute"
        )));
    }
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        arguments.push(decode(key));
        if !value.is_empty() {
            arguments.push(decode(value));
        }
    }
    Ok((decode(path), arguments))
}

/// Undoes the percent encoding of a URI; what isn't one stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn the_uri_becomes_a_command_line() {
        let (path, arguments) =
            parse("binary:///opt/my%20log?-f=/a%2Fb&verbose&n=1").expect("parse");
        assert_eq!(path, "/opt/my log");
        assert_eq!(arguments, ["-f", "/a/b", "verbose", "n", "1"]);
        assert!(parse("binary://relative").is_err());
        assert_eq!(decode("%zz%4"), "%zz%4");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_program_gets_the_output_and_its_end() {
        let directory = std::env::temp_dir().join(format!("binary-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let program = directory.join("logger");
        let log = directory.join("log");
        std::fs::write(
            &program,
            format!(
                "#!/bin/sh\nexec 5>&-\n{{ echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID\"; /bin/cat <&3; /bin/cat <&4; echo end; }} >{0}.new\n/bin/mv {0}.new {0}\n",
                log.display()
            ),
        )
        .expect("program");
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("mode");
        let uri = format!("binary://{}", program.display());
        let (out, err) = start(&uri, "ns", "c1").await.expect("start");
        let (out, err) = (out.expect("out"), err.expect("err"));
        File::from(out.write).write_all(b"out\n").expect("write");
        File::from(err.write).write_all(b"err\n").expect("write");
        for _ in 0..500 {
            if log.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let got = std::fs::read_to_string(&log);
        std::fs::remove_dir_all(&directory).expect("remove");
        assert_eq!(got.expect("log"), "ns/c1\nout\nerr\nend\n");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_program_is_named() {
        let why = start("binary:///no/such", "ns", "c")
            .await
            .expect_err("missing");
        assert!(why.to_string().contains("/no/such"), "{why}");
    }
}
