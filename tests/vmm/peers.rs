//! Who a guest talks to over a connection.

use std::fs::File;
use std::io::{Read, Write};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rig::probe::pattern;

const CHUNK: usize = 64 << 10;

/// Runs what the host does beside what the guest is asked to do.
pub fn beside<T: Send>(
    host: impl FnOnce() -> Result<T> + Send,
    guest: impl FnOnce() -> Result<()>,
) -> Result<T> {
    thread::scope(|scope| {
        let host = scope.spawn(host);
        let guest = guest();
        let host = host
            .join()
            .map_err(|_| anyhow!("the host's thread died"))
            .and_then(|outcome| outcome.context("on the host's side"));
        match (guest, host) {
            (Ok(()), host) => host,
            (Err(error), Ok(_)) => Err(error),
            (Err(error), Err(other)) => Err(error.context(format!("{other:#}"))),
        }
    })
}

/// Sends a pattern.
pub fn send(mut stream: impl Write, bytes: u64, seed: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < bytes {
        let part = part_of(&mut buffer, bytes - done);
        pattern::fill(seed, done, part);
        stream
            .write_all(part)
            .with_context(|| format!("sending to the guest after {done} of {bytes} bytes"))?;
        done += part.len() as u64;
    }
    Ok(())
}

/// Receives a pattern.
pub fn receive(mut stream: impl Read, bytes: u64, seed: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < bytes {
        let part = part_of(&mut buffer, bytes - done);
        let count = stream
            .read(part)
            .with_context(|| format!("receiving from the guest after {done} of {bytes} bytes"))?;
        ensure!(
            count > 0,
            "the guest's stream ended after {done} of {bytes} bytes"
        );
        if let Err(difference) = pattern::check(seed, done, part.get(..count).unwrap_or_default()) {
            bail!("what came from the guest is not the pattern: {difference}");
        }
        done += count as u64;
    }
    Ok(())
}

/// Sends back so many bytes.
pub fn echo(mut stream: &File, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let part = part_of(&mut buffer, left);
        let count = stream.read(part).context("receiving from the guest")?;
        ensure!(
            count > 0,
            "the guest's stream ended with {left} bytes to go"
        );
        stream
            .write_all(part.get(..count).unwrap_or_default())
            .context("sending to the guest")?;
        left -= count as u64;
    }
    Ok(())
}

/// The other end of the probe's `load` that sends.
pub fn drain(mut stream: impl Read + Write, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; 4 * CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = stream.read(part_of(&mut buffer, left))?;
        ensure!(
            count > 0,
            "the guest's stream ended with {left} bytes to go"
        );
        left -= count as u64;
    }
    stream.write_all(&[0]).context("saying that all is there")
}

/// The other end of the probe's `load` that receives.
pub fn pour(mut stream: impl Read + Write, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; 4 * CHUNK];
    let mut left = bytes;
    while left > 0 {
        left -= stream.write(part_of(&mut buffer, left))? as u64;
    }
    let received = stream.read_exact(&mut [0]);
    received.context("waiting for the guest to have received it")
}

fn part_of(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let part = buffer
        .len()
        .min(usize::try_from(left).unwrap_or(usize::MAX));
    buffer.get_mut(..part).unwrap_or_default()
}
