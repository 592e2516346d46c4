//! Chains that are signed as they should be, with names that nobody may have.

use rcgen::{OtherNameValue, SanType};

use crate::harness::{CART, Case, Stage, WEST, uri};

const PATH: &[&str] = &["error: Path"];
const SCHEME: &[&str] = &["error: Scheme"];
const PART: &[&str] = &["error: Part"];
const NO_URI: &[&str] = &["UriCount { found: 0 }"];
const MANY: &[&str] = &["UriCount { found: 2 }", "UriCount { found: 3 }"];
const DOMAIN: &[&str] = &["TrustDomain {"];
const FOREIGN: &[&str] = &["ForeignControl {"];

type Wrong = (&'static str, &'static [&'static str]);

/// Neither a workload nor a cluster.
const NOBODY: &[Wrong] = &[
    ("", SCHEME),
    ("cart", SCHEME),
    ("https://shop.mesh/ns/shop/sa/cart", SCHEME),
    ("SPIFFE://shop.mesh/ns/shop/sa/cart", SCHEME),
    ("Spiffe://shop.mesh/ns/shop/sa/cart", SCHEME),
    ("spiffe:/shop.mesh/ns/shop/sa/cart", SCHEME),
    ("spiffe:shop.mesh/ns/shop/sa/cart", SCHEME),
    (" spiffe://shop.mesh/ns/shop/sa/cart", SCHEME),
    ("//shop.mesh/ns/shop/sa/cart", SCHEME),
    ("spiffes://shop.mesh/ns/shop/sa/cart", SCHEME),
    ("spiffe://", PATH),
    ("spiffe://shop.mesh", PATH),
    ("spiffe://shop.mesh/", PATH),
    ("spiffe://shop.mesh/ns/shop", PATH),
    ("spiffe://shop.mesh/ns/shop/sa", PATH),
    ("spiffe://shop.mesh/sa/cart", PATH),
    ("spiffe://shop.mesh/shop/cart", PATH),
    ("spiffe://shop.mesh/sa/cart/ns/shop", PATH),
    ("spiffe://shop.mesh/ns/shop/sa/cart/", PATH),
    ("spiffe://shop.mesh//ns/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/ns//shop/sa/cart", PATH),
    ("spiffe://shop.mesh/ns/shop//sa/cart", PATH),
    ("spiffe://shop.mesh/ns/shop/sa//cart", PATH),
    ("spiffe:///shop.mesh/ns/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/ns/shop/sa/cart/pod/1", PATH),
    ("spiffe://shop.mesh/x/ns/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/./ns/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/ns/shop/sa/../sa/cart", PATH),
    ("spiffe://shop.mesh/NS/shop/SA/cart", PATH),
    ("spiffe://shop.mesh/Ns/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/n%73/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/ns%2Fshop%2Fsa%2Fcart", PATH),
    ("spiffe://shop.mesh\\ns\\shop\\sa\\cart", PATH),
    ("spiffe://shop.mesh/cluster", PATH),
    ("spiffe://shop.mesh/cluster/us-west/", PATH),
    ("spiffe://shop.mesh/cluster/us-west/ns/shop/sa/cart", PATH),
    ("spiffe://shop.mesh/clusters/us-west", PATH),
    ("spiffe://shop.mesh/CLUSTER/us-west", PATH),
    ("spiffe:///ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh/ns//sa/cart", PART),
    ("spiffe://shop.mesh/ns/shop/sa/", PART),
    ("spiffe://shop.mesh/ns/shop/sa/..", PART),
    ("spiffe://shop.mesh/ns/./sa/cart", PART),
    ("spiffe://SHOP.mesh/ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh/ns/Shop/sa/cart", PART),
    ("spiffe://shop.mesh/ns/shop/sa/Cart", PART),
    ("spiffe://shop.mesh/ns/shop/sa/c%61rt", PART),
    ("spiffe://shop.mesh/ns/sh%6fp/sa/cart", PART),
    ("spiffe://shop%2emesh/ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart%00", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart%2f", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart?", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart?as=payment", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart#", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart#payment", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart;v=2", PART),
    ("spiffe://shop.mesh/ns/shop/sa/*", PART),
    ("spiffe://shop.mesh/ns/*/sa/cart", PART),
    ("spiffe://*/ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart ", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart\n", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart\0", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart\0.payment", PART),
    ("spiffe://shop.mesh/ns/shop/sa/-cart", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart-", PART),
    ("spiffe://shop.mesh/ns/shop/sa/cart.", PART),
    ("spiffe://shop.mesh/ns/shop/sa/ca..rt", PART),
    ("spiffe://shop.mesh/ns/shop.stock/sa/cart", PART),
    ("spiffe://shop.mesh:443/ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh:/ns/shop/sa/cart", PART),
    ("spiffe://cart@shop.mesh/ns/shop/sa/cart", PART),
    ("spiffe://cart:x@shop.mesh/ns/shop/sa/cart", PART),
    ("spiffe://@shop.mesh/ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh./ns/shop/sa/cart", PART),
    ("spiffe://.shop.mesh/ns/shop/sa/cart", PART),
    ("spiffe://[::1]/ns/shop/sa/cart", PART),
    ("spiffe://shop.mesh/cluster/", PART),
    ("spiffe://shop.mesh/cluster/US-WEST", PART),
    ("spiffe://shop.mesh/cluster/us%2dwest", PART),
    ("spiffe://shop.mesh/cluster/us-west?x", PART),
    ("spiffe://shop.mesh/cluster/us-west#x", PART),
    ("spiffe://shop.mesh/cluster/us.west", PART),
    ("spiffe://shop.mesh/cluster/..", PART),
    ("spiffe://us@shop.mesh/cluster/us-west", PART),
    ("spiffe://shop.mesh:1/cluster/us-west", PART),
];

fn others() -> Vec<(&'static str, Vec<SanType>, &'static [&'static str])> {
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let mail = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let text = |text: &str| {
        SanType::OtherName((
            vec![1, 3, 6, 1, 4, 1, 99_999],
            OtherNameValue::Utf8String(text.to_owned()),
        ))
    };
    vec![
        ("no name", vec![], NO_URI),
        ("a DNS name", vec![dns("cart.shop.mesh")], NO_URI),
        ("an id as a DNS name", vec![dns(CART)], NO_URI),
        ("an id as a mail address", vec![mail(CART)], NO_URI),
        ("an id as another name", vec![text(CART)], NO_URI),
        (
            "a gateway's DNS name",
            vec![dns("gateway.us-west.mesh")],
            NO_URI,
        ),
        (
            "a control plane's DNS name",
            vec![dns("control.us-west.mesh")],
            NO_URI,
        ),
        (
            "an address",
            vec![SanType::IpAddress([10, 0, 0, 1].into())],
            NO_URI,
        ),
        ("workload twice", vec![uri(CART), uri(CART)], MANY),
        ("cluster twice", vec![uri(WEST), uri(WEST)], MANY),
        ("workload and cluster", vec![uri(CART), uri(WEST)], MANY),
        ("cluster and workload", vec![uri(WEST), uri(CART)], MANY),
        (
            "workload and a page",
            vec![uri(CART), uri("https://shop.mesh")],
            MANY,
        ),
        (
            "a page and cluster",
            vec![uri("https://shop.mesh"), uri(WEST)],
            MANY,
        ),
        ("workload and nothing", vec![uri(CART), uri("")], MANY),
        ("cluster and nothing", vec![uri(WEST), uri("")], MANY),
        ("DNS between", vec![uri(CART), dns("cart"), uri(CART)], MANY),
        ("three", vec![uri(CART), uri(WEST), uri(CART)], MANY),
    ]
}

fn long() -> [String; 4] {
    let name = |length| "a".repeat(length);
    [
        format!("spiffe://shop.mesh/ns/shop/sa/{}", name(254)),
        format!("spiffe://shop.mesh/ns/{}/sa/cart", name(64)),
        format!("spiffe://{}/ns/shop/sa/cart", name(256)),
        format!("spiffe://shop.mesh/cluster/{}", name(64)),
    ]
}

pub fn leaves(stage: &Stage) -> Vec<Case> {
    let below = |leaf| vec![leaf, stage.west.der.clone()];
    let mut cases = Vec::new();
    for (uri, expected) in NOBODY.iter().chain(&[
        ("spiffe://other.mesh/ns/shop/sa/cart", DOMAIN),
        ("spiffe://mesh/ns/shop/sa/cart", DOMAIN),
        ("spiffe://east.shop.mesh/ns/shop/sa/cart", DOMAIN),
        ("spiffe://shop.mesh.other/ns/shop/sa/cart", DOMAIN),
        ("spiffe://other.mesh/cluster/us-west", DOMAIN),
        ("spiffe://shop.mesh/cluster/eu-central", FOREIGN),
        ("spiffe://shop.mesh/cluster/us-west-2", FOREIGN),
        ("spiffe://shop.mesh/cluster/us", FOREIGN),
    ]) {
        cases.push(Case::new(
            format!("{uri:?}"),
            below(stage.west.named(uri)),
            expected,
        ));
    }
    for uri in long() {
        let chain = below(stage.west.named(&uri));
        cases.push(Case::new(format!("long {uri:?}"), chain, &["TooLong"]));
    }
    for (name, names, expected) in others() {
        let leaf = stage.west.leaf(|params| params.subject_alt_names = names);
        cases.push(Case::new(name, below(leaf), expected));
    }
    cases
}

pub fn intermediates(stage: &Stage) -> Vec<Case> {
    let mut cases = Vec::new();
    let not_cluster = &["Issuer(NotCluster"];
    for (uri, expected) in NOBODY.iter().chain(&[
        ("spiffe://shop.mesh/ns/shop/sa/cart", not_cluster as &[_]),
        (
            "spiffe://shop.mesh/ns/isthmus-system/sa/gateway",
            not_cluster,
        ),
        ("spiffe://shop.mesh/ns/cluster/sa/us-west", not_cluster),
        ("spiffe://other.mesh/ns/shop/sa/cart", not_cluster),
        ("spiffe://other.mesh/cluster/us-west", DOMAIN),
        ("spiffe://mesh/cluster/us-west", DOMAIN),
        ("spiffe://east.shop.mesh/cluster/us-west", DOMAIN),
        ("spiffe://shop.mesh.other/cluster/us-west", DOMAIN),
        ("spiffe://shop.mesh/cluster/eu-central", &["OtherCluster {"]),
        ("spiffe://shop.mesh/cluster/us-west-2", &["OtherCluster {"]),
        ("spiffe://shop.mesh/cluster/us", &["OtherCluster {"]),
    ]) {
        let names = vec![self::uri(uri)];
        let cluster = stage
            .root
            .cluster(|params| params.subject_alt_names = names);
        cases.push(Case::new(format!("{uri:?}"), cluster.chain(), expected));
    }
    for uri in long() {
        let names = vec![self::uri(&uri)];
        let cluster = stage
            .root
            .cluster(|params| params.subject_alt_names = names);
        cases.push(Case::new(
            format!("long {uri:?}"),
            cluster.chain(),
            &["TooLong"],
        ));
    }
    for (name, names, expected) in others() {
        let cluster = stage
            .root
            .cluster(|params| params.subject_alt_names = names);
        cases.push(Case::new(name, cluster.chain(), expected));
    }
    cases
}
