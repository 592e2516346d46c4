//! Headers of the PROXY protocol, whole, cut and broken.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use isthmus_codec::proxy_protocol::{BadHeader, Header, MAX_HEADER, Progress, decode};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 192.0.2.1:51000 to 198.51.100.2:443.
const IPV4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0xc7, 0x38, 0x01, 0xbb];

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, value].concat()
}

/// CRC-32C bit by bit, as another would write it.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        for bit in 0..8 {
            let mix = (crc ^ u32::from(byte >> bit)) & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * mix);
        }
    }
    !crc
}

/// With a checksum between two other extensions, changed by `with`.
fn checked(with: u32) -> Vec<u8> {
    let block = |sum: u32| {
        [
            IPV4,
            &extension(0x04, b""),
            &extension(0x03, &sum.to_be_bytes()),
            &extension(0x02, b"a.example"),
        ]
        .concat()
    };
    let sum = crc32c(&binary(0x21, 0x11, &block(0)));
    binary(0x21, 0x11, &block(sum ^ with))
}

/// `source destination length`, `none length`, or the error.
fn show(input: &[u8]) -> String {
    match decode(input) {
        Ok(Progress::More(count)) => format!("more {count}"),
        Ok(Progress::Whole(Header { length, addresses })) => match addresses {
            Some(found) => format!("{} {} {length}", found.source, found.destination),
            None => format!("none {length}"),
        },
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn lines() {
    for (line, expect) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 51000 443\r\nGET /",
            "192.0.2.1:51000 198.51.100.2:443 45",
        ),
        (
            "PROXY TCP6 2001:db8::1 2001:db8::2 51000 443\r\n",
            "[2001:db8::1]:51000 [2001:db8::2]:443 46",
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 0 65535\r\n",
            "192.0.2.1:0 198.51.100.2:65535 43",
        ),
        ("PROXY UNKNOWN\r\n", "none 15"),
        ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "none 35"),
        (
            "PROXY TCP4 2001:db8::1 2001:db8::2 51000 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP6 192.0.2.1 198.51.100.2 51000 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 51000\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 51000 443 1\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4  192.0.2.1 198.51.100.2 51000 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 051 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY TCP4 192.0.2.01 198.51.100.2 51 443\r\n",
            "LineAddresses",
        ),
        (
            "PROXY UDP4 192.0.2.1 198.51.100.2 51 443\r\n",
            "LineAddresses",
        ),
        ("PROXY UNKNOWNX\r\n", "LineAddresses"),
        ("PROXY TCP4 192.0.2.1\n198.51.100.2 51 443\r\n", "Line"),
        ("PROXY TCP4 192.0.2.1\t198.51.100.2 51 443\r\n", "Line"),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 51 443\n", "Line"),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 51 443\r", "more 1"),
        ("PROXY TCP4 192.0.2.1 1", "more 2"),
        ("PROXY", "more 10"),
        ("", "more 15"),
        ("PROXX", "Missing"),
        ("proxy TCP4 192.0.2.1 198.51.100.2 51 443\r\n", "Missing"),
        ("GET / HTTP/1.1\r\n", "Missing"),
    ] {
        assert_eq!(show(line.as_bytes()), expect, "{line:?}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(show(longest.as_bytes()), "none 107");
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(show(longer.as_bytes()), "Line");
    assert_eq!(show(&longer.as_bytes()[..106]), "Line");
}

#[test]
fn binaries() {
    let own = binary(0x20, 0x00, b"");
    let ipv6 = [&[0x20; 16][..], &[0x30; 16], &[0, 1, 0, 2]].concat();
    let unix = [b'x'; 216];
    let with = |extensions: &[u8]| binary(0x21, 0x11, &[IPV4, extensions].concat());
    let sums = extension(0x03, &[0; 4]).repeat(2);
    for (input, expect) in [
        (
            binary(0x21, 0x11, IPV4),
            "192.0.2.1:51000 198.51.100.2:443 28",
        ),
        (
            binary(0x21, 0x21, &ipv6),
            "[2020:2020:2020:2020:2020:2020:2020:2020]:1 [3030:3030:3030:3030:3030:3030:3030:3030]:2 52",
        ),
        (binary(0x21, 0x31, &unix), "none 232"),
        (binary(0x21, 0x00, b""), "none 16"),
        (own, "none 16"),
        // A connection of the sender's own: whatever is there.
        (binary(0x20, 0xff, b"junk"), "none 20"),
        (
            with(&extension(0x01, b"h2")),
            "192.0.2.1:51000 198.51.100.2:443 33",
        ),
        (checked(0), "192.0.2.1:51000 198.51.100.2:443 50"),
        (checked(1), "Checksum"),
        (checked(1 << 31), "Checksum"),
        (with(&extension(0x03, b"abc")), "Extension"),
        (with(&sums), "Extension"),
        (with(&[0x01, 0, 3, 1, 2]), "Extension"),
        (with(&[0x01, 0]), "Extension"),
        (binary(0x21, 0x11, &IPV4[..11]), "Addresses"),
        (binary(0x21, 0x12, IPV4), "Family(18)"),
        (binary(0x21, 0x41, IPV4), "Family(65)"),
        (binary(0x11, 0x11, IPV4), "Version(1)"),
        (binary(0x31, 0x11, IPV4), "Version(3)"),
        (binary(0x22, 0x11, IPV4), "Command(2)"),
        (SIGNATURE.to_vec(), "more 4"),
        (binary(0x21, 0x11, IPV4)[..20].to_vec(), "more 8"),
        (b"\r\n\r\n\0\r\nQUIX\n".to_vec(), "Missing"),
    ] {
        assert_eq!(show(&input), expect, "{input:?}");
    }
    // Refused before it is waited for.
    let long = u16::try_from(MAX_HEADER - 15).unwrap().to_be_bytes();
    let input = [SIGNATURE, &[0x21, 0x11], &long].concat();
    assert_eq!(decode(&input), Err(BadHeader::TooLong(MAX_HEADER + 1)));
}

/// Every single changed bit is noticed by a checksum.
#[test]
fn a_checksum_covers_the_whole_header() {
    let good = checked(0);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // One that says that it is the sender's own, and one without a checksum, tell nothing by it.
        let is_own = bad[12] == 0x20 || bad[31] != 0x03;
        let noticed = !matches!(decode(&bad), Ok(Progress::Whole(_)));
        assert!(noticed || is_own, "bit {bit}");
    }
}

/// Who reads as much as is asked for reads the header and not a byte more.
#[test]
fn nothing_behind_the_header_is_asked_for() {
    for header in [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 51000 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        checked(0),
        binary(0x20, 0x00, b""),
    ] {
        let mut read = 0;
        let found = loop {
            match decode(&header[..read]).unwrap() {
                Progress::More(count) => read += count,
                Progress::Whole(found) => break found,
            }
            assert!(read <= header.len());
        };
        assert_eq!(found.length, header.len());
        assert_eq!(
            decode(&[&header[..], b"more"].concat()),
            Ok(Progress::Whole(found))
        );
    }
}
