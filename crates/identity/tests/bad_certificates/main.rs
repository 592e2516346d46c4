//! Bad certificates, of many kinds, are refused, and each for what is wrong with it.
//!
//! A case is a chain that is good but for one thing, or a good chain shown to whom it is not for. Both sides of a
//! real handshake judge it, and so does the bundle alone. Before each group the good chain is accepted.
#![allow(unreachable_pub, clippy::unwrap_used)]
#![allow(
    clippy::too_many_lines,
    clippy::unused_self,
    reason = "tables are long, and the stage is where all is asked of"
)]

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod harness;
mod meetings;
mod names;
mod surgery;
mod uses;

use std::collections::BTreeSet;

use harness::{BOTH, Case, HOLDER, Stage};
use isthmus_identity::PeerRole;

#[test]
fn every_bad_certificate_is_refused_for_what_is_wrong_with_it() {
    let stage = Stage::new();
    let groups = [
        ("times", chains::times(&stage)),
        ("roots", chains::roots(&stage)),
        ("shapes", chains::shapes(&stage)),
        ("authorities", uses::authorities(&stage)),
        ("uses", uses::purposes(&stage)),
        ("keys", uses::keys(&stage)),
        ("extensions", uses::extensions(&stage)),
        ("algorithms", uses::algorithms(&stage)),
        ("names of leaves", names::leaves(&stage)),
        ("names of intermediates", names::intermediates(&stage)),
        ("signed nonsense", surgery::nonsense(&stage)),
        ("flipped bits", surgery::flips(&stage)),
        ("meetings", meetings::meetings(&stage)),
    ];
    let mut shown = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (group, cases) in groups {
        let base = Case::new("the good chain", stage.base(), &[]);
        for role in BOTH {
            for found in stage.judge(&base, *role) {
                assert_eq!(found, Ok(()), "before {group}, as {role:?}");
            }
        }
        println!("{group}: {}", cases.len());
        for case in &cases {
            assert!(shown.insert(case.shown()), "{group}: {} twice", case.name);
            wrong.extend(unexpected(&stage, group, case));
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried >= 200, "{tried}");
}

/// What was accepted, or refused for another reason.
fn unexpected(stage: &Stage, group: &str, case: &Case) -> Vec<String> {
    let mut wrong = Vec::new();
    for role in case.roles {
        for found in stage.judge(case, *role) {
            let fits =
                matches!(&found, Err(reason) if case.expected.iter().any(|e| reason.contains(e)));
            if !fits {
                let (name, expected) = (&case.name, case.expected);
                wrong.push(format!(
                    "{group}, {name}, as {role:?}: {found:?}, not {expected:?}"
                ));
            }
        }
    }
    wrong
}

/// An ECDSA signature (r, s) has a twin (r, n - s) that is as good, and which anybody can make.
#[test]
fn the_twin_of_a_signature_makes_no_other_admission() {
    let stage = Stage::new();
    // As versions issued it that did not say how its holder was admitted.
    let leaf = (stage.west).leaf(|params| params.serial_number = Some(vec![7].into()));
    let twin = surgery::twin(&leaf);
    assert_ne!(leaf, twin);
    let [first, second] = [leaf, twin].map(|leaf| {
        let chain = [leaf, stage.west.der.clone()];
        let verified = stage
            .bundle
            .verify(&chain, common::start(), PeerRole::Client);
        verified.unwrap().admission().unwrap()
    });
    assert_eq!(first, second, "a revocation of one holds for both");
}

/// Who shows a good chain of somebody else has not got its key.
#[test]
fn a_chain_without_its_key_is_refused() {
    let stage = Stage::new();
    let good = Case::new("the good chain", stage.base(), &[]);
    for role in BOTH {
        assert!(stage.shake(&good, *role, &HOLDER).is_ok());
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            let thief = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let found = stage.shake(&good, *role, &thief).err().unwrap();
            let fits = ["BadSignature", "UnsupportedSignatureAlgorithmForPublicKey"];
            assert!(fits.iter().any(|fit| found.contains(fit)), "{found}");
        }
    }
}
