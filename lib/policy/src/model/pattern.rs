//! Values that are not known, or not exactly, when a policy is made.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What a value may be. It is no language: whoever reads it knows what it lets through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// This, and nothing else.
    Exact(String),
    /// What begins with this and goes on with at most 256 of `A-Z a-z 0-9 . _ -`: what a controller makes
    /// of a name.
    Prefix(String),
    /// One of these.
    OneOf(BTreeSet<String>),
    /// Any value of a kind.
    Typed(Typed),
}

/// How closely a pattern says what a value is, the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closeness {
    /// It is one value.
    Exact,
    /// It is a list of them.
    Listed,
    /// It is of values that it doesn't spell out.
    Open,
}

/// A kind of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Typed {
    /// `10.0.0.1`
    Ipv4,
    /// `fd00::1`
    Ipv6,
    /// One of the two.
    Ip,
    /// At most 253 of letters, digits, `-` and `.`, in parts of at most 63.
    DnsName,
    /// Decimal digits, at most twenty.
    Number,
    /// A number from 1 to 65535.
    Port,
    /// `tcp://10.0.0.1:443`, as Kubernetes tells containers of services.
    ServiceEndpoint,
    /// `tcp`, `udp` or `sctp`, as well.
    Protocol,
    /// The name of a variable by which Kubernetes tells containers of a service: `X_SERVICE_HOST`,
    /// `X_SERVICE_PORT`, `X_SERVICE_PORT_NAME`, `X_PORT`, `X_PORT_80_TCP` and what goes on after that
    /// with `_PROTO`, `_PORT` or `_ADDR`.
    ServiceVariable,
    /// What such a variable may be: an address, a number, a protocol or an endpoint.
    ServiceValue,
    /// 36 characters in the groups of a UUID.
    Uuid,
    /// Any text of at most 4096 bytes. What it is for has to bear any.
    Text,
}

/// What a prefix may go on with, and a text may have, in bytes.
const LONGEST_REST: usize = 256;
const LONGEST_TEXT: usize = 4096;

impl Pattern {
    /// An exact one.
    pub fn exact(value: impl Into<String>) -> Self {
        Self::Exact(value.into())
    }

    /// How closely it says what a value is. Where several rules are for one name, the closest alone decide
    /// about it: no broader one gives the host what the author has spelled out.
    pub(crate) const fn closeness(&self) -> Closeness {
        match self {
            Self::Exact(_) => Closeness::Exact,
            Self::OneOf(_) => Closeness::Listed,
            Self::Prefix(_) | Self::Typed(_) => Closeness::Open,
        }
    }

    /// Whether a value is as it may be.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == value,
            Self::Prefix(prefix) => value.strip_prefix(prefix.as_str()).is_some_and(is_rest),
            Self::OneOf(values) => values.contains(value),
            Self::Typed(kind) => kind.matches(value),
        }
    }
}

fn is_rest(rest: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    rest.len() <= LONGEST_REST && rest.bytes().all(plain)
}

impl Typed {
    /// Whether a value is of this kind.
    #[must_use]
    pub fn matches(self, value: &str) -> bool {
        match self {
            Self::Ipv4 => value.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => value.parse::<Ipv6Addr>().is_ok(),
            Self::Ip => match value.contains(':') {
                true => Self::Ipv6.matches(value),
                false => Self::Ipv4.matches(value),
            },
            Self::DnsName => is_dns_name(value),
            Self::Number => is_number(value),
            Self::Port => is_number(value) && value.parse::<u16>().is_ok_and(|port| port > 0),
            Self::ServiceEndpoint => is_endpoint(value),
            Self::Protocol => matches!(value, "tcp" | "udp" | "sctp"),
            Self::ServiceVariable => is_service_variable(value),
            Self::ServiceValue => is_service_value(value),
            Self::Uuid => is_uuid(value),
            Self::Text => value.len() <= LONGEST_TEXT && !value.contains('\0'),
        }
    }

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "an IPv6 address",
            Self::Ip => "an IP address",
            Self::DnsName => "a DNS name",
            Self::Number => "a number",
            Self::Port => "a port",
            Self::ServiceEndpoint => "a service's endpoint",
            Self::Protocol => "tcp, udp or sctp",
            Self::ServiceVariable => "a service's variable",
            Self::ServiceValue => "a service's address, port, protocol or endpoint",
            Self::Uuid => "a UUID",
            Self::Text => "any text",
        }
    }
}

fn is_number(value: &str) -> bool {
    (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_dns_name(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    value.len() <= 253 && value.split('.').all(part)
}

fn is_endpoint(value: &str) -> bool {
    let Some((protocol, address)) = value.split_once("://") else {
        return false;
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let in_brackets = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(host) => Typed::Ipv6.matches(host),
        None => Typed::Ipv4.matches(host),
    };
    Typed::Protocol.matches(protocol) && Typed::Port.matches(port) && is_host
}

fn is_service_variable(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let of_service = |service: &str| service.starts_with(|first: char| first.is_ascii_uppercase());
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let is_named = |(_, port): (&str, &str)| !port.is_empty();
    value.len() <= LONGEST_REST
        && of_service(value)
        && value.bytes().all(plain)
        && (ends.iter().any(|end| value.ends_with(end))
            || is_of_port(value)
            || value.split_once("_SERVICE_PORT_").is_some_and(is_named))
}

fn is_service_value(value: &str) -> bool {
    // Of each kind there is a sign: a pod has hundreds of these.
    match value.as_bytes() {
        [b't' | b'u' | b's', ..] => {
            Typed::Protocol.matches(value) || Typed::ServiceEndpoint.matches(value)
        }
        _ => Typed::Number.matches(value) || Typed::Ip.matches(value),
    }
}

/// Whether it ends as `_PORT_80_TCP` does, or `_PORT_80_TCP_ADDR`. The name of the service may have `_PORT_` in
/// it, too.
fn is_of_port(value: &str) -> bool {
    let Some((_, rest)) = value.rsplit_once("_PORT_") else {
        return false;
    };
    let mut parts = rest.split('_');
    Typed::Port.matches(parts.next().unwrap_or_default())
        && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
        && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
        && parts.next().is_none()
}

fn is_uuid(value: &str) -> bool {
    let groups: Vec<_> = value.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups
            .iter()
            .all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(formatter, "{value:?}"),
            Self::Prefix(prefix) => write!(formatter, "a name that begins with {prefix:?}"),
            Self::OneOf(values) => {
                formatter.write_str("one of")?;
                values
                    .iter()
                    .try_for_each(|value| write!(formatter, " {value:?}"))
            }
            Self::Typed(kind) => formatter.write_str(kind.name()),
        }
    }
}
