//! Certificates that no library makes: bytes are replaced, and what was replaced is signed again or not.

use rcgen::SigningKey as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::harness::{Case, Der, Signer, Stage};

const UNREADABLE: &[&str] = &["(Der(", "BadEncoding"];
const VERSION: &[&str] = &["UnsupportedCertVersion", "(Der("];
const MISMATCH: &[&str] = &["SignatureAlgorithmMismatch"];
const ALGORITHM: &[&str] = &["UnsupportedSignatureAlgorithm"];
const SIGNATURE: &[&str] = &["BadSignature", "BadEncoding"];
const SAID: &[&str] = &["Spiffe {"];
const NO_URI: &[&str] = &["UriCount { found: 0 }"];

pub const SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const SHA224: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1];
const SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];

/// Which of the two signs and is changed.
struct Patient<'a> {
    name: &'static str,
    der: Der,
    issuer: &'a Signer,
    in_chain: Box<dyn Fn(Der) -> Vec<Der> + 'a>,
}

impl Patient<'_> {
    fn signed_part(&self) -> Vec<u8> {
        let (_, parsed) = X509Certificate::from_der(&self.der).unwrap();
        parsed.tbs_certificate.as_ref().to_vec()
    }

    fn signature(&self) -> Vec<u8> {
        let (_, parsed) = X509Certificate::from_der(&self.der).unwrap();
        parsed.signature_value.data.to_vec()
    }

    /// The chain with `signed`, and a signature over it that is good.
    fn signed_again(&self, signed: &[u8], algorithm: &[u8]) -> Vec<Der> {
        let signature = self.issuer.key.sign(signed).unwrap();
        (self.in_chain)(put_together(signed, algorithm, &signature))
    }
}

fn patients(stage: &Stage) -> [Patient<'_>; 2] {
    let leaf = Patient {
        name: "leaf",
        der: stage.west.leaf(|_| ()),
        issuer: &stage.west,
        in_chain: Box::new(|leaf| vec![leaf, stage.west.der.clone()]),
    };
    let of_west = leaf.der.clone();
    let intermediate = Patient {
        name: "intermediate",
        der: stage.west.der.clone(),
        issuer: &stage.root,
        in_chain: Box::new(move |issuer| vec![of_west.clone(), issuer]),
    };
    [leaf, intermediate]
}

/// A certificate is a sequence of what is signed, the algorithm, and a bit string (RFC 5280 section 4.1).
pub fn put_together(signed: &[u8], algorithm: &[u8], signature: &[u8]) -> Der {
    let algorithm = tagged(0x30, &tagged(6, algorithm));
    let bits = tagged(3, &[&[0], signature].concat());
    Der::from(tagged(0x30, &[signed, &algorithm, &bits].concat()))
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = match content.len() {
        0..128 => vec![length[7]],
        128..256 => vec![0x81, length[7]],
        _ => vec![0x82, length[6], length[7]],
    };
    [&[tag], &length[..], content].concat()
}

/// Replaces where it is found first; both are of one length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|found| found == from);
    let at = at.unwrap_or_else(|| panic!("{from:?} is not in it"));
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

pub fn nonsense(stage: &Stage) -> Vec<Case> {
    let mut cases = Vec::new();
    for patient in &patients(stage) {
        let signed = patient.signed_part();
        let untouched = Case::new(
            "nothing replaced",
            patient.signed_again(&signed, SHA256),
            &[],
        );
        for role in untouched.roles {
            for found in stage.judge(&untouched, *role) {
                assert_eq!(found, Ok(()), "{}", patient.name);
            }
        }
        let version = |number| replaced(&signed, &[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, number]);
        let uri = |from: &[u8], to: &[u8]| replaced(&signed, from, to);
        for (name, signed, expected) in [
            ("version 1", version(0), VERSION),
            ("version 2", version(1), VERSION),
            ("version 4", version(3), VERSION),
            ("version -1", version(0xff), VERSION),
            (
                "true is 1",
                replaced(&signed, &[1, 1, 0xff], &[1, 1, 1]),
                UNREADABLE,
            ),
            (
                "URI is a mail address",
                uri(b"\x86\x22spiffe", b"\x81\x22spiffe"),
                NO_URI,
            ),
            (
                "URI is a DNS name",
                uri(b"\x86\x22spiffe", b"\x82\x22spiffe"),
                NO_URI,
            ),
            ("NUL in the path", uri(b"mesh/", b"mesh\0"), SAID),
            ("line feed in the path", uri(b"mesh/", b"mesh\n"), SAID),
            ("DEL in the path", uri(b"mesh/", b"mesh\x7f"), SAID),
            (
                "UTF-8 in the path",
                uri(b"//shop.mesh", "//sh\u{f6}p.mes".as_bytes()),
                SAID,
            ),
            (
                "no UTF-8 in the path",
                uri(b"//shop.mesh", b"//sh\xffp.mesh"),
                NO_URI,
            ),
            ("fullwidth slash", uri(b"sh/", "\u{ff0f}".as_bytes()), SAID),
        ] {
            let name = format!("{}: {name}", patient.name);
            cases.push(Case::new(
                name,
                patient.signed_again(&signed, SHA256),
                expected,
            ));
        }
        let (of_224, of_384) = (
            replaced(&signed, SHA256, SHA224),
            replaced(&signed, SHA256, SHA384),
        );
        for (name, signed, algorithm, expected) in [
            ("SHA-224", &of_224, SHA224, ALGORITHM),
            ("SHA-384 it is not", &of_384, SHA384, SIGNATURE),
            ("SHA-224 inside", &of_224, SHA256, MISMATCH),
            ("SHA-384 inside", &of_384, SHA256, MISMATCH),
            ("SHA-224 outside", &signed, SHA224, MISMATCH),
            ("SHA-384 outside", &signed, SHA384, MISMATCH),
        ] {
            let name = format!("{}: {name}", patient.name);
            cases.push(Case::new(
                name,
                patient.signed_again(signed, algorithm),
                expected,
            ));
        }
        let good = patient.signature();
        let by_its_key = stage.west.key.sign(b"something else").unwrap();
        let zero = tagged(0x30, &[2, 1, 0, 2, 1, 0]);
        let one = tagged(0x30, &[2, 1, 1, 2, 1, 1]);
        for (name, signature) in [
            ("no signature", vec![]),
            ("zeros", vec![0; good.len()]),
            ("r and s are 0", zero),
            ("r and s are 1", one),
            ("of something else", by_its_key),
            ("and a byte", [&good[..], &[0]].concat()),
            ("without a byte", good[..good.len() - 1].to_vec()),
            ("twice", [&good[..], &good[..]].concat()),
        ] {
            let der = put_together(&signed, SHA256, &signature);
            let name = format!("{}: signature: {name}", patient.name);
            cases.push(Case::new(name, (patient.in_chain)(der), SIGNATURE));
        }
    }
    cases
}

/// Thirty bits of either certificate, spread over all of it.
pub fn flips(stage: &Stage) -> Vec<Case> {
    const FLIPS: usize = 30;
    let mut cases = Vec::new();
    for patient in &patients(stage) {
        let bits = patient.der.len() * 8;
        for bit in (0..FLIPS).map(|index| (2 * index + 1) * bits / (2 * FLIPS)) {
            cases.push(flipped(patient, bit));
        }
    }
    cases
}

fn flipped(patient: &Patient<'_>, bit: usize) -> Case {
    let mut bytes = patient.der.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    let signature = bytes.len() - patient.signature().len();
    // What is signed says so much that a flip in it may be noticed before the signature is.
    let expected: &[&str] = if bit / 8 >= signature {
        SIGNATURE
    } else {
        &[
            "Leaf(",
            "Issuer(",
            "NotItsIssuer",
            "UnknownRoot",
            "Expired",
            "NotYetValid",
            "Chain(",
            "InvalidCertificate(",
        ]
    };
    let name = format!("{}, bit {bit}", patient.name);
    Case::new(name, (patient.in_chain)(bytes.into()), expected)
}

/// A flip is noticed wherever it is.
#[test]
fn no_bit_of_a_chain_may_be_another() {
    let stage = Stage::new();
    for patient in &patients(&stage) {
        for bit in 0..patient.der.len() * 8 {
            let case = flipped(patient, bit);
            let found = stage.verified(&case, isthmus_identity::PeerRole::Server);
            let reason = found.expect_err(&case.name);
            assert!(
                case.expected.iter().any(|fit| reason.contains(fit)),
                "{}: {reason}",
                case.name
            );
        }
    }
}

/// The same certificate, with the twin of its signature.
pub fn twin(leaf: &Der) -> Der {
    let (_, parsed) = X509Certificate::from_der(leaf).unwrap();
    let [r, s] = numbers(&parsed.signature_value.data);
    let signature = [integer(&r), integer(&minus(&s))].concat();
    let length = u8::try_from(signature.len()).unwrap();
    let signature = [&[0x30, length][..], &signature].concat();
    put_together(parsed.tbs_certificate.as_ref(), SHA256, &signature)
}

/// r and s of an ECDSA-Sig-Value (RFC 3279 section 2.2.3).
fn numbers(signature: &[u8]) -> [Vec<u8>; 2] {
    let r = usize::from(signature[3]);
    let (r, rest) = signature[4..].split_at(r);
    [r.to_vec(), rest[2..].to_vec()]
}

/// The order of P-256 less this number.
fn minus(number: &[u8]) -> [u8; 32] {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut left = ORDER;
    let mut borrow = false;
    for at in 0..32 {
        let digit = number.len().checked_sub(at + 1).map_or(0, |at| number[at]);
        let place = &mut left[31 - at];
        let (less, first) = place.overflowing_sub(digit);
        let (less, second) = less.overflowing_sub(borrow.into());
        *place = less;
        borrow = first || second;
    }
    left
}

fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let mut number = number[zeros..].to_vec();
    if number[0] >= 0x80 {
        number.insert(0, 0);
    }
    let length = u8::try_from(number.len()).unwrap();
    [&[2, length][..], &number].concat()
}
