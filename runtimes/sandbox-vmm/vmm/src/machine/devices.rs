//! Devices, each from its line of the configuration and its descriptors.

use std::fs::File;
use std::os::unix::net::UnixStream;

use trefoil_jail::Failure;

use super::descriptors::Descriptors;
use crate::client::configuration::Device as Wanted;
use crate::devices::Device;
use crate::devices::block::{self, Block};
use crate::devices::fs::{self, Fs};
use crate::devices::net::{self, Net};
use crate::devices::rng::Rng;
use crate::devices::vacant::Vacant;
use crate::devices::vsock::{self, Vsock};

/// How many queues for requests a file server gets. More would gain only where it has a thread for
/// each.
const REQUEST_QUEUES: usize = 1;

/// Makes a device of what the configuration says.
pub(super) fn make(
    device: &Wanted,
    descriptors: &mut Descriptors,
) -> Result<Box<dyn Device>, Failure> {
    Ok(match device {
        Wanted::Block {
            file,
            read_only,
            serial,
        } => {
            let file = File::from(descriptors.take(*file, "a disk")?);
            let options = block::Options {
                read_only: *read_only,
                serial: serial.clone(),
                ..Default::default()
            };
            Box::new(
                Block::new(options, vec![file])
                    .map_err(Failure::at(format!("make the disk {serial}")))?,
            )
        }
        Wanted::Net { tap, mac, mtu } => {
            let tap = File::from(descriptors.take(*tap, "a tap")?);
            let options = net::Options {
                mac: *mac,
                mtu: *mtu,
            };
            Box::new(Net::new(options, tap).map_err(Failure::at("make the network interface"))?)
        }
        Wanted::Vsock {
            host_socket,
            guest_cid,
            ports,
            connections,
        } => {
            let host_socket = descriptors.take(*host_socket, "the host socket for connections")?;
            let options = vsock::Options {
                ports: ports.iter().map(|&(first, last)| first..=last).collect(),
                connections: *connections,
                ..vsock::Options::new(*guest_cid)
            };
            Box::new(
                Vsock::new(options, host_socket).map_err(Failure::at("make the vsock device"))?,
            )
        }
        Wanted::Fs { server, tag } => {
            let server = UnixStream::from(descriptors.take(*server, "a file server")?);
            let options = fs::Options {
                tag: tag.clone(),
                queues: REQUEST_QUEUES,
            };
            Box::new(Fs::new(options, server).map_err(Failure::at(format!(
                "share the file server's directory {tag}"
            )))?)
        }
        Wanted::Rng => Box::new(Rng::new()),
        Wanted::Slot => Box::new(Vacant::new(block::QUEUES)),
    })
}
