//! Which key broker a pod's secrets come from: `aa.toml` and `cdh.toml`, as Confidential Containers have
//! them.
//!
//! ```text
//! # aa.toml                     # cdh.toml
//! [token_configs.kbs]           [kbc]
//! url = "https://…"             name = "cc_kbc"
//! cert = """…"""                url = "https://…"
//!                               kbs_cert = """…"""
//!                               [[credentials]]
//!                               resource_uri = "kbs:///default/keys/signer"
//!                               path = "/run/confidential-containers/cdh/sealed-secret/signer"
//! ```
//!
//! Each may be there alone; where both are, they must say the same. What these files configure of programs
//! that this guest does not have (their sockets, their logs) has no meaning here and is passed over; all
//! other keys are refused by name.

use std::fmt;
use std::net::Ipv6Addr;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::document::{AA, CDH};
use crate::text::{of_toml, shorten};
use crate::{Error, Initdata, Result};

/// No URL is longer, in bytes.
const LONGEST_URL: usize = 1024;

/// No name of DNS is longer, in bytes.
const LONGEST_HOST: usize = 253;

/// No more credentials are named.
const MOST_CREDENTIALS: usize = 64;

/// The only kind of broker that there is a client for.
const KBC: &str = "cc_kbc";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AaFile {
    #[serde(default)]
    token_configs: Tokens,
    #[serde(rename = "eventlog_config")]
    _eventlog: Option<IgnoredAny>,
    #[serde(rename = "log")]
    _log: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Tokens {
    kbs: Option<TokensOfKbs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensOfKbs {
    url: String,
    cert: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CdhFile {
    kbc: Kbc,
    #[serde(default)]
    credentials: Vec<Credential>,
    #[serde(default)]
    skip_sealed_secret_verification: bool,
    #[serde(rename = "socket")]
    _socket: Option<IgnoredAny>,
    #[serde(rename = "aa")]
    _aa: Option<IgnoredAny>,
    #[serde(rename = "log")]
    _log: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kbc {
    name: String,
    url: String,
    kbs_cert: Option<String>,
}

/// A resource that is fetched whether a sealed secret names it or not.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// What the broker calls it.
    pub resource_uri: String,
    /// Where Confidential Containers' guests have it as a file. Here its last part is the name by which a
    /// sealed secret's `kid` may mean it.
    pub path: String,
}

/// A broker, as the pod's author has chosen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The certificates in PEM that it has to show, or that have to have signed what it shows.
    pub certificates: Option<String>,
    /// What is fetched in any case.
    pub credentials: Vec<Credential>,
}

impl Broker {
    /// The broker that a document names; nothing if it names none.
    ///
    /// # Errors
    /// What is wrong with `aa.toml` or `cdh.toml`, or that they differ.
    pub fn of(initdata: &Initdata) -> Result<Option<Self>> {
        let tokens = match initdata.get(AA) {
            Some(text) => read::<AaFile>(AA, text)?.token_configs.kbs,
            None => None,
        };
        let hub = match initdata.get(CDH) {
            Some(text) => Some(hub(text)?),
            None => None,
        };
        let of_aa = match tokens {
            Some(kbs) => Some(Self::new(AA, "token_configs.kbs.url", &kbs.url, kbs.cert)?),
            None => None,
        };
        let Some(hub) = hub else {
            return Ok(of_aa);
        };
        let mut of_cdh = Self::new(CDH, "kbc.url", &hub.kbc.url, hub.kbc.kbs_cert)?;
        if of_aa.is_some_and(|of_aa| of_aa != of_cdh) {
            return Err(wrong(
                CDH,
                "kbc.url and kbc.kbs_cert differ from aa.toml's token_configs.kbs; one broker is asked, \
                 once",
            ));
        }
        of_cdh.credentials = hub.credentials;
        Ok(Some(of_cdh))
    }

    fn new(file: &'static str, key: &str, url: &str, certificates: Option<String>) -> Result<Self> {
        let endpoint = Endpoint::parse(url)
            .map_err(|why| wrong(file, format!("{key}: {:?} {why}", shorten(url))))?;
        Ok(Self {
            endpoint,
            certificates,
            credentials: Vec::new(),
        })
    }
}

fn hub(text: &str) -> Result<CdhFile> {
    let hub: CdhFile = read(CDH, text)?;
    if hub.kbc.name != KBC {
        return Err(wrong(
            CDH,
            format!(
                "kbc.name: {:?} is unknown; supported: {KBC:?}",
                shorten(&hub.kbc.name)
            ),
        ));
    }
    if hub.skip_sealed_secret_verification {
        return Err(wrong(
            CDH,
            "skip_sealed_secret_verification: a sealed secret's signature is always verified; leave it \
             out",
        ));
    }
    if hub.credentials.len() > MOST_CREDENTIALS {
        return Err(wrong(
            CDH,
            format!("credentials: there are more than {MOST_CREDENTIALS}"),
        ));
    }
    Ok(hub)
}

fn read<T: for<'a> Deserialize<'a>>(file: &'static str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|why| wrong(file, of_toml(&why, text)))
}

fn wrong(file: &'static str, why: impl Into<String>) -> Error {
    Error::File {
        file,
        why: why.into(),
    }
}

/// Where a broker is: the parts of its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// What its paths begin with, empty or from a slash on.
    pub path: String,
}

impl Endpoint {
    /// Reads `http[s]://host[:port][/path]`. The error is the end of a sentence that begins with the URL.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(url: &str) -> std::result::Result<Self, &'static str> {
        if url.len() > LONGEST_URL {
            return Err("is too long");
        }
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("must begin with https:// or http://"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.trim_end_matches('/');
        if !path
            .bytes()
            .all(|one| one.is_ascii_alphanumeric() || b"/-._~".contains(&one))
        {
            return Err("has a path with other characters than letters, digits and /-._~");
        }
        let (host, port) = split(authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(digits) => {
                port_of(digits).ok_or("has a port that is not a number from 1 to 65535")?
            }
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }

    /// Host and port, as the header `Host` has them.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(to, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Host and port of an authority.
fn split(authority: &str) -> std::result::Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("has a bracket that is not closed")?;
        host.parse::<Ipv6Addr>()
            .map_err(|_| "has something else than an IPv6 address in brackets")?;
        return match (after, after.strip_prefix(':')) {
            ("", _) => Ok((host, None)),
            (_, Some(port)) => Ok((host, Some(port))),
            _ => Err("has something between its host and its port"),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_name = |one: u8| one.is_ascii_alphanumeric() || b"-._".contains(&one);
    match host.len() {
        1..=LONGEST_HOST if host.bytes().all(is_name) => Ok((host, port)),
        _ => Err("has no host: a name or an address"),
    }
}

/// Digits alone: `parse` would take a sign.
fn port_of(digits: &str) -> Option<u16> {
    let only = digits.bytes().all(|one| one.is_ascii_digit());
    digits.parse().ok().filter(|port| only && *port > 0)
}

#[cfg(test)]
mod tests;
