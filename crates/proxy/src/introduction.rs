//! Load balancers in front of a listener say whose connection they hand on (PROXY protocol), before
//! anything else is said. Only those that are named in the configuration are believed.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use isthmus_codec::proxy_protocol::{BadHeader, Progress, decode};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// It is the first thing that a load balancer sends.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Addresses that begin alike, written `10.0.0.0/8`, or as one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    #[error("it does not begin with an IP address")]
    Address,
    #[error("what follows the slash is no number: {0}")]
    Bits(#[from] ParseIntError),
    #[error("an address of this family has {most} bits, not {bits}")]
    TooManyBits { bits: u32, most: u32 },
}

/// Why a connection does not say whose it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotIntroduced {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    BadHeader(#[from] BadHeader),
    #[error("the header did not come within {INTRODUCTION:?}")]
    Late,
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork::Address)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(BadNetwork::TooManyBits { bits, most });
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        differs >= self.bits
    }
}

/// Reads whose connection it is, and nothing that comes behind. The balancer's own: its address.
pub(crate) async fn introduce(
    mut socket: TcpStream,
    peer: IpAddr,
) -> Result<(TcpStream, IpAddr), NotIntroduced> {
    let read = timeout(INTRODUCTION, read_source(&mut socket)).await;
    let source = read.unwrap_or(Err(NotIntroduced::Late))?;
    Ok((socket, source.unwrap_or(peer)))
}

async fn read_source(socket: &mut TcpStream) -> Result<Option<IpAddr>, NotIntroduced> {
    let mut header = Vec::new();
    loop {
        match decode(&header)? {
            Progress::More(count) => {
                let read = header.len();
                header.resize(read + count, 0);
                socket.read_exact(&mut header[read..]).await?;
            }
            Progress::Whole(found) => {
                let source = found.addresses.map(|addresses| addresses.source.ip());
                return Ok(source.map(|source| source.to_canonical()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_begins_as_they_do() {
        for (network, address, expect) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("192.0.2.128/25", "192.0.2.127", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "::1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                expect,
                "{network:?} {address}"
            );
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "a/8",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
