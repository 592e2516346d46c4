//! The PROXY protocol, versions 1 and 2: how a load balancer tells whose connection it hands on.
//!
//! Source: "The PROXY protocol", Willy Tarreau, HAProxy (doc/proxy-protocol.txt, 2020/03/05).
//!
//! A header comes first on a connection, once, and only from who is known to send it: who believes
//! anybody's header lets anybody pretend to be anybody. Nothing behind it is ever asked for, so that
//! whoever reads by [`Progress::More`] has read exactly the header when it is whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes that a header of either version may have. Version 2 would allow 64 KiB, for what we skip.
pub const MAX_HEADER: usize = 4096;

/// What every header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What every header of version 1 begins with.
const PREFIX: &[u8] = b"PROXY ";
/// The shortest of version 1: `PROXY UNKNOWN` and the end of the line. Version 2 has one byte more.
const SHORTEST: usize = 15;
/// The longest of version 1, the end of the line included.
const LONGEST_LINE: usize = 107;
/// Of version 2, before the addresses.
const FIXED: usize = 16;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the header; what follows is the connection's own.
    pub length: usize,
    /// Whose connection it is, and where it came in. `None`: the sender's own, or of a kind that has no
    /// address.
    pub addresses: Option<Addresses>,
}

/// Both ends of the connection that is handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// How far it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many more bytes belong to the header at least.
    More(usize),
    Whole(Header),
}

/// Why bytes are no header. All are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    #[error("it begins like no header of the PROXY protocol")]
    Missing,
    #[error("the line is longer than {LONGEST_LINE} bytes, or holds what may not be in it")]
    Line,
    #[error("the line does not name two addresses of one family and two ports")]
    LineAddresses,
    #[error("version {0} is unknown")]
    Version(u8),
    #[error("command {0} is unknown")]
    Command(u8),
    #[error("family and transport {0:#x} are unknown, or of no connection")]
    Family(u8),
    #[error("the header has {0} bytes, {MAX_HEADER} are allowed")]
    TooLong(usize),
    #[error("the addresses do not fit into the header")]
    Addresses,
    #[error("what follows the addresses is not type, length and value")]
    Extension,
    #[error("the checksum is wrong")]
    Checksum,
}

/// Reads the header at the front of `input`.
pub fn decode(input: &[u8]) -> Result<Progress, BadHeader> {
    if input.is_empty() {
        Ok(Progress::More(SHORTEST))
    } else if begins(input, SIGNATURE) {
        binary(input)
    } else if begins(input, PREFIX) {
        line(input)
    } else {
        Err(BadHeader::Missing)
    }
}

/// As far as both go.
fn begins(input: &[u8], with: &[u8]) -> bool {
    let common = input.len().min(with.len());
    input[..common] == with[..common]
}

fn line(input: &[u8]) -> Result<Progress, BadHeader> {
    if input.len() < SHORTEST {
        return Ok(Progress::More(SHORTEST - input.len()));
    }
    let within = &input[..input.len().min(LONGEST_LINE)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        let missing = if input.ends_with(b"\r") { 1 } else { 2 };
        let has_end = within
            .iter()
            .rev()
            .skip(2 - missing)
            .any(|&byte| byte < b' ');
        if has_end || input.len() + missing > LONGEST_LINE {
            return Err(BadHeader::Line);
        }
        return Ok(Progress::More(missing));
    };
    let text = std::str::from_utf8(&within[PREFIX.len()..end]).map_err(|_| BadHeader::Line)?;
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(BadHeader::Line);
    }
    let mut words = text.split(' ');
    let addresses = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(named::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(named::<Ipv6Addr>(words)?),
        _ => return Err(BadHeader::LineAddresses),
    };
    Ok(Progress::Whole(Header {
        length: end + 2,
        addresses,
    }))
}

/// `source destination source-port destination-port`, and nothing else.
fn named<'w, A>(mut words: impl Iterator<Item = &'w str>) -> Result<Addresses, BadHeader>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next()?.parse::<A>().ok().map(Into::into);
    let (source, destination) = (address(), address());
    let (source_port, destination_port) =
        (words.next().and_then(port), words.next().and_then(port));
    let end = |address: Option<IpAddr>, port: Option<u16>| {
        let address = address.ok_or(BadHeader::LineAddresses)?;
        Ok(SocketAddr::new(
            address,
            port.ok_or(BadHeader::LineAddresses)?,
        ))
    };
    if words.next().is_some() {
        return Err(BadHeader::LineAddresses);
    }
    Ok(Addresses {
        source: end(source, source_port)?,
        destination: end(destination, destination_port)?,
    })
}

/// Decimal digits without a zero in front.
fn port(digits: &str) -> Option<u16> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain && is_short)
}

fn binary(input: &[u8]) -> Result<Progress, BadHeader> {
    let Some((fixed, rest)) = input.split_first_chunk::<FIXED>() else {
        return Ok(Progress::More(FIXED - input.len()));
    };
    let [.., version_and_command, family, high, low] = *fixed;
    let version = version_and_command >> 4;
    if version != 2 {
        return Err(BadHeader::Version(version));
    }
    let command = version_and_command & 0xf;
    if command > 1 {
        return Err(BadHeader::Command(command));
    }
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER {
        return Err(BadHeader::TooLong(length));
    }
    let missing = length.saturating_sub(input.len());
    if missing > 0 {
        return Ok(Progress::More(missing));
    }
    // The sender's own connection: what stands there is to be skipped, whatever it is.
    let is_own = command == 0;
    let addresses = if is_own {
        None
    } else {
        let (addresses, extensions) = block(family, &rest[..length - FIXED])?;
        check_extensions(&input[..length], extensions)?;
        addresses
    };
    Ok(Progress::Whole(Header { length, addresses }))
}

/// The addresses, and what follows them.
fn block(family: u8, block: &[u8]) -> Result<(Option<Addresses>, &[u8]), BadHeader> {
    let size = match family {
        // Unspecified; a stream over IPv4, over IPv6, of a Unix socket. Datagrams are no connection.
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        family => return Err(BadHeader::Family(family)),
    };
    let (addresses, extensions) = block.split_at_checked(size).ok_or(BadHeader::Addresses)?;
    let addresses = match addresses.len() {
        12 => pair::<4>(addresses),
        36 => pair::<16>(addresses),
        _ => None,
    };
    Ok((addresses, extensions))
}

fn pair<const SIZE: usize>(bytes: &[u8]) -> Option<Addresses>
where
    IpAddr: From<[u8; SIZE]>,
{
    let (source, rest) = bytes.split_first_chunk::<SIZE>()?;
    let (destination, ports) = rest.split_first_chunk::<SIZE>()?;
    let [a, b, c, d] = *ports.first_chunk::<4>()?;
    Some(Addresses {
        source: SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes([c, d])),
    })
}

/// The extension that holds a checksum of the whole header.
const CRC32C: u8 = 0x03;

fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), BadHeader> {
    let mut told = None;
    while let Some((&[kind, high, low], behind)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, behind) = behind
            .split_at_checked(length)
            .ok_or(BadHeader::Extension)?;
        if kind == CRC32C {
            let at = header.len() - behind.len() - length;
            let value = <[u8; 4]>::try_from(value).map_err(|_| BadHeader::Extension)?;
            if told.replace((at, u32::from_be_bytes(value))).is_some() {
                return Err(BadHeader::Extension);
            }
        }
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(BadHeader::Extension);
    }
    match told {
        Some((at, told)) if told != checksum(header, at) => Err(BadHeader::Checksum),
        _ => Ok(()),
    }
}

/// CRC-32C (RFC 9260 appendix A) of the header with zeros in the place of the checksum itself.
fn checksum(header: &[u8], place: usize) -> u32 {
    let byte = |(at, &byte): (usize, &u8)| {
        let is_place = (place..place + 4).contains(&at);
        if is_place { 0 } else { byte }
    };
    let step = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let bytes = header.iter().enumerate().map(byte);
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // RFC 3720 appendix B.4; behind them the place of a checksum, which counts as zeros.
        let zeros = [0; 32];
        assert_eq!(checksum(&zeros, 4), 0x8a91_36aa);
        assert_eq!(
            checksum(&zeros[..28], 100),
            checksum(&[&[0; 24][..], &[7; 4]].concat(), 24)
        );
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(checksum(&ascending, 100), 0x46dd_794e);
    }
}
