//! Certificates that are good by themselves, at a wrong time, below a wrong root, or in a wrong order.

use std::time::{Duration, SystemTime};

use isthmus_identity::BACKDATE;
use rcgen::{BasicConstraints, CertificateParams, IsCa};

use crate::common::{DAY, DOMAIN, HOUR, TestMesh, start};
use crate::harness::{Case, Der, HOLDER, Signer, Stage, WEST, subject, uri};

const SECOND: Duration = Duration::from_secs(1);
const EXPIRED: &[&str] = &["Expired"];
const NOT_YET: &[&str] = &["NotYetValid"];
const UNKNOWN_ROOT: &[&str] = &["UnknownRoot"];
const NOT_ITS_ISSUER: &[&str] = &["NotItsIssuer"];
const CHAIN_LENGTH: &[&str] = &["ChainLength"];

fn valid(from: SystemTime, until: SystemTime) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.not_before = from.into();
        params.not_after = until.into();
    }
}

pub fn times(stage: &Stage) -> Vec<Case> {
    let now = start();
    let mut cases = Vec::new();
    for (name, from, until, expected) in [
        ("ended a second ago", now - HOUR, now - SECOND, EXPIRED),
        ("ended an hour ago", now - 2 * HOUR, now - HOUR, EXPIRED),
        (
            "ended a year ago",
            now - 366 * DAY,
            now - 365 * DAY,
            EXPIRED,
        ),
        ("begins in a second", now + SECOND, now + DAY, NOT_YET),
        ("begins in an hour", now + HOUR, now + DAY, NOT_YET),
        (
            "begins in a year",
            now + 365 * DAY,
            now + 366 * DAY,
            NOT_YET,
        ),
        ("ends before it begins", now + HOUR, now - HOUR, EXPIRED),
        (
            "ends before it begins, then",
            now - HOUR,
            now - 2 * HOUR,
            EXPIRED,
        ),
    ] {
        let leaf = stage.west.leaf(valid(from, until));
        let chain = vec![leaf, stage.west.der.clone()];
        cases.push(Case::new(format!("leaf {name}"), chain, expected));
        let cluster = stage.root.cluster(valid(from, until));
        let name = format!("intermediate {name}");
        cases.push(Case::new(name, cluster.chain(), expected));
    }
    let west = &stage.honest_west;
    let honest = || west.leaf("shop", "cart").chain().as_slice().to_vec();
    let short = stage.root.cluster(valid(now - HOUR, now + HOUR)).chain();
    for (name, chain, now, expected) in [
        (
            "clock too far behind",
            honest(),
            now - BACKDATE - SECOND,
            NOT_YET,
        ),
        (
            "a second behind its day",
            honest(),
            now + DAY + SECOND,
            EXPIRED,
        ),
        ("a week later", honest(), now + 7 * DAY, EXPIRED),
        ("years later", honest(), now + 4000 * DAY, EXPIRED),
        ("in 1970", honest(), SystemTime::UNIX_EPOCH, NOT_YET),
        (
            "intermediate ends first",
            short.clone(),
            now + HOUR + SECOND,
            EXPIRED,
        ),
        ("before both", short, now - HOUR - SECOND, NOT_YET),
    ] {
        cases.push(Case::new(name, chain, expected).at(now));
    }
    cases
}

pub fn roots(stage: &Stage) -> Vec<Case> {
    let other_key = TestMesh::new(DOMAIN);
    let other_mesh = TestMesh::new("other.mesh");
    let leaf_of = |mesh: &TestMesh| {
        let leaf = mesh.cluster("us-west").leaf("shop", "cart");
        leaf.chain().as_slice().to_vec()
    };
    let with = |mut chain: Vec<Der>, last: &Der| {
        chain.push(last.clone());
        chain
    };
    let root = &stage.root.der;
    let other_root = &other_key.bundle().roots().as_slice()[0].clone();
    // The true root's name and another key.
    let twin = {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = root.clone();
        Signer { der, key }
    };
    let unnamed = Signer::root(|_| ());
    let alone = |change: fn(&mut CertificateParams)| {
        Signer::root(|params| {
            params.distinguished_name = subject("cluster us-west");
            params.subject_alt_names = vec![uri(WEST)];
            change(params);
        })
    };
    let self_signed = alone(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    // Bears the name of the cluster whose leaf it issues, and is signed by nobody.
    let of_same_name = Signer {
        der: alone(|_| ()).der,
        key: stage.west.copied_key(),
    };
    let self_signed_leaf = {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(crate::harness::CART)];
        params.self_signed(&*HOLDER).unwrap().der().clone()
    };
    let below_twin = twin.cluster(|_| ());
    vec![
        Case::new("root of the same name", leaf_of(&other_key), UNKNOWN_ROOT),
        Case::new("root of another mesh", leaf_of(&other_mesh), UNKNOWN_ROOT),
        Case::new(
            "its root is shown",
            with(leaf_of(&other_key), other_root),
            UNKNOWN_ROOT,
        ),
        Case::new(
            "our root is shown",
            with(leaf_of(&other_key), root),
            UNKNOWN_ROOT,
        ),
        Case::new("any root", unnamed.cluster(|_| ()).chain(), UNKNOWN_ROOT),
        Case::new(
            "any root, shown",
            with(unnamed.cluster(|_| ()).chain(), &unnamed.der),
            UNKNOWN_ROOT,
        ),
        Case::new("root's subject", below_twin.chain(), &["BadSignature"]),
        Case::new(
            "root's subject, shown",
            with(below_twin.chain(), root),
            &["BadSignature"],
        ),
        Case::new(
            "self-signed intermediate",
            self_signed.chain(),
            UNKNOWN_ROOT,
        ),
        Case::new(
            "self-signed intermediate, our root",
            with(self_signed.chain(), root),
            UNKNOWN_ROOT,
        ),
        Case::new(
            "self-signed in place of its issuer",
            of_same_name.chain(),
            UNKNOWN_ROOT,
        ),
        Case::new(
            "self-signed leaf",
            vec![self_signed_leaf.clone(), stage.west.der.clone()],
            NOT_ITS_ISSUER,
        ),
        Case::new(
            "self-signed leaf twice",
            vec![self_signed_leaf.clone(), self_signed_leaf],
            UNKNOWN_ROOT,
        ),
    ]
}

pub fn shapes(stage: &Stage) -> Vec<Case> {
    let west = &stage.west;
    let leaf = || west.leaf(|_| ());
    let issuer = || west.der.clone();
    let root = || stage.root.der.clone();
    let east = || stage.honest_east.intermediate.clone();
    // Its subject, signed by the same root for another key.
    let renewed = stage.root.cluster(|_| ());
    let sub = |path| {
        west.cluster(|params| {
            params.distinguished_name = subject("below us-west");
            params.is_ca = IsCa::Ca(path);
        })
    };
    let unconstrained = stage.root.cluster(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let below_unconstrained = unconstrained.cluster(|params| {
        params.distinguished_name = subject("below us-west");
    });
    let (last, free) = (
        sub(BasicConstraints::Constrained(0)),
        sub(BasicConstraints::Unconstrained),
    );
    let below = |sub: &Signer, rest: &[Der]| {
        let mut chain = sub.chain();
        chain.extend_from_slice(rest);
        chain
    };
    let signed_by_root = stage.root.leaf(|_| ());
    let long = || Der::from(vec![0; 8 * 1024]);
    let many = |count| std::iter::repeat_with(issuer).take(count);
    let five = std::iter::once(leaf()).chain(many(4)).collect();
    let thirty = std::iter::once(leaf()).chain(many(29)).collect();
    let tail = |der: Der| Der::from([&der[..], &[0]].concat());
    let cut = |der: Der| Der::from(der[..der.len() - 1].to_vec());
    vec![
        Case::new("leaf alone", vec![leaf()], CHAIN_LENGTH),
        Case::new("intermediate alone", vec![issuer()], CHAIN_LENGTH),
        Case::new("root alone", vec![root()], CHAIN_LENGTH),
        Case::new("leaf and root", vec![leaf(), root()], NOT_ITS_ISSUER),
        Case::new("wrong order", vec![issuer(), leaf()], NOT_ITS_ISSUER),
        Case::new(
            "root between",
            vec![leaf(), root(), issuer()],
            NOT_ITS_ISSUER,
        ),
        Case::new("root first", vec![root(), issuer(), leaf()], NOT_ITS_ISSUER),
        Case::new("leaf last", vec![issuer(), root(), leaf()], NOT_ITS_ISSUER),
        Case::new("leaf twice", vec![leaf(), leaf()], NOT_ITS_ISSUER),
        Case::new(
            "leaf twice, then issuer",
            vec![leaf(), leaf(), issuer()],
            NOT_ITS_ISSUER,
        ),
        Case::new("issuer twice", vec![issuer(), issuer()], NOT_ITS_ISSUER),
        Case::new(
            "intermediate as leaf",
            vec![issuer(), root()],
            NOT_ITS_ISSUER,
        ),
        Case::new("root as leaf", vec![root(), root()], NOT_ITS_ISSUER),
        Case::new(
            "another cluster's issuer",
            vec![leaf(), east()],
            NOT_ITS_ISSUER,
        ),
        Case::new(
            "another's, then its own",
            vec![leaf(), east(), issuer()],
            NOT_ITS_ISSUER,
        ),
        Case::new(
            "signed by the root, decoy",
            vec![signed_by_root.clone(), issuer()],
            NOT_ITS_ISSUER,
        ),
        Case::new(
            "signed by the root",
            vec![signed_by_root.clone(), root()],
            NOT_ITS_ISSUER,
        ),
        Case::new(
            "signed by the root, alone",
            vec![signed_by_root],
            CHAIN_LENGTH,
        ),
        Case::new(
            "issuer of the same name",
            vec![leaf(), renewed.der],
            &["BadSignature"],
        ),
        Case::new("four", vec![leaf(), issuer(), root(), root()], CHAIN_LENGTH),
        Case::new("five", five, CHAIN_LENGTH),
        Case::new("thirty", thirty, CHAIN_LENGTH),
        Case::new(
            "much behind it",
            vec![leaf(), issuer(), long()],
            &["ChainSize"],
        ),
        Case::new("much in its place", vec![leaf(), long()], &["ChainSize"]),
        Case::new("two intermediates", below(&last, &[issuer()]), UNKNOWN_ROOT),
        Case::new(
            "two intermediates and root",
            below(&last, &[issuer(), root()]),
            CHAIN_LENGTH,
        ),
        Case::new("lower of two", below(&last, &[]), UNKNOWN_ROOT),
        Case::new(
            "lower of two and root",
            below(&last, &[root()]),
            UNKNOWN_ROOT,
        ),
        Case::new("two, no limit", below(&free, &[issuer()]), UNKNOWN_ROOT),
        Case::new(
            "two, no limit above",
            below(
                &below_unconstrained,
                std::slice::from_ref(&unconstrained.der),
            ),
            UNKNOWN_ROOT,
        ),
        Case::new(
            "upper of two",
            vec![last.leaf(|_| ()), issuer()],
            NOT_ITS_ISSUER,
        ),
        Case::new(
            "bytes behind the leaf",
            vec![tail(leaf()), issuer()],
            &["Leaf(Der("],
        ),
        Case::new(
            "bytes behind the issuer",
            vec![leaf(), tail(issuer())],
            &["Issuer(Der("],
        ),
        Case::new(
            "leaf cut short",
            vec![cut(leaf()), issuer()],
            &["Leaf(Der("],
        ),
        Case::new(
            "issuer cut short",
            vec![leaf(), cut(issuer())],
            &["Issuer(Der("],
        ),
        Case::new(
            "zeros for a leaf",
            vec![Der::from(vec![0; 64]), issuer()],
            &["Leaf(Der("],
        ),
        Case::new(
            "zeros for an issuer",
            vec![leaf(), Der::from(vec![0; 64])],
            &["Issuer(Der("],
        ),
    ]
}
