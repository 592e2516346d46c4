//! Good chains, shown to whoever means somebody else or no longer knows them.

use isthmus_model::Admission;

use crate::common::JOINED;
use crate::harness::{Case, Der, Meeting, Rule, Stage};

const OTHER_CLUSTER: &[&str] = &["OtherCluster {"];
const UNKNOWN: &[&str] = &["UnknownCluster("];
const NOT_GRANTED: &[&str] = &["NamespaceNotGranted {"];
const REVOKED: &[&str] = &["Revoked("];
const OTHER_NAMESPACE: &[&str] = &["OtherNamespace {"];
const ACCOUNT: &[&str] = &["AccountNotDeclared("];
const NOT_WORKLOAD: &[&str] = &["NotWorkload("];
const NOT_GATEWAY: &[&str] = &["NotGateway("];
const NOT_CONTROL: &[&str] = &["NotControl("];

const RULES: [Rule; 4] = [Rule::Callee, Rule::Caller, Rule::Gateway, Rule::Control];

pub fn meetings(stage: &Stage) -> Vec<Case> {
    welcome(stage);
    let mut cases = elsewhere(stage);
    cases.extend(services(stage));
    cases.extend(kinds(stage));
    cases.extend(revoked(stage));
    cases
}

fn gateway() -> Meeting {
    Meeting {
        namespace: "isthmus-system",
        granted: &["shop", "stock", "isthmus-system"],
        ..Meeting::of(Rule::Gateway)
    }
}

/// Whom each rule is for, is accepted.
fn welcome(stage: &Stage) {
    let west = &stage.honest_west;
    let cart = stage.issued(west, "shop", "cart");
    for (chain, meeting) in [
        (cart.clone(), Meeting::of(Rule::Callee)),
        (cart, Meeting::of(Rule::Caller)),
        (stage.issued(west, "isthmus-system", "gateway"), gateway()),
        (stage.control(west), Meeting::of(Rule::Control)),
    ] {
        let case = Case::new(format!("{meeting:?}"), chain, &[]).met(meeting);
        for role in case.roles {
            for found in stage.judge(&case, *role) {
                assert_eq!(found, Ok(()), "{}", case.name);
            }
        }
    }
}

/// Another cluster than the one that was dialled, or that the mesh has.
fn elsewhere(stage: &Stage) -> Vec<Case> {
    let mut cases = Vec::new();
    let (west, east) = (&stage.honest_west, &stage.honest_east);
    for (from, dialled) in [
        (east, "us-west"),
        (west, "eu-central"),
        (west, "us-west-2"),
        (west, "us"),
    ] {
        for rule in RULES {
            let chain = match rule {
                Rule::Callee | Rule::Caller => stage.issued(from, "shop", "cart"),
                Rule::Gateway => stage.issued(from, "isthmus-system", "gateway"),
                Rule::Control => stage.control(from),
            };
            // Clusters that were revoked are no longer known either.
            let expected = match rule {
                Rule::Caller => UNKNOWN,
                _ => OTHER_CLUSTER,
            };
            let meeting = Meeting {
                cluster: dialled,
                rule,
                ..gateway()
            };
            let name = format!("{:?} of {} for {dialled}", rule, from.authority.id());
            cases.push(Case::new(name, chain, expected).met(meeting));
        }
    }
    cases
}

/// Of the right cluster, and not of the service.
fn services(stage: &Stage) -> Vec<Case> {
    let west = &stage.honest_west;
    let mut cases = Vec::new();
    for (name, (namespace, account), meeting, expected) in [
        (
            "another service's account",
            ("shop", "payment"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "an account that begins so",
            ("shop", "car"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "an account that goes on",
            ("shop", "cart-v"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "an account like it",
            ("shop", "cartv2"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "the namespace as account",
            ("shop", "shop"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "the namespace's default",
            ("shop", "default"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "no account is declared",
            ("shop", "cart"),
            Meeting {
                accounts: &[],
                ..Meeting::default()
            },
            ACCOUNT,
        ),
        (
            "services swapped",
            ("shop", "cart"),
            Meeting {
                accounts: &["payment"],
                ..Meeting::default()
            },
            ACCOUNT,
        ),
        (
            "same account elsewhere",
            ("stock", "cart"),
            Meeting::default(),
            OTHER_NAMESPACE,
        ),
        (
            "namespaces swapped",
            ("shop", "cart"),
            Meeting {
                namespace: "stock",
                ..Meeting::default()
            },
            OTHER_NAMESPACE,
        ),
        (
            "a gateway's account",
            ("shop", "gateway"),
            Meeting::default(),
            ACCOUNT,
        ),
        (
            "not granted",
            ("bank", "cart"),
            Meeting {
                namespace: "bank",
                ..Meeting::default()
            },
            NOT_GRANTED,
        ),
        (
            "not granted, other namespace",
            ("bank", "cart"),
            Meeting::default(),
            NOT_GRANTED,
        ),
        (
            "begins as a granted one",
            ("sho", "cart"),
            Meeting::default(),
            NOT_GRANTED,
        ),
        (
            "goes on as a granted one",
            ("shop-2", "cart"),
            Meeting::default(),
            NOT_GRANTED,
        ),
        (
            "nothing granted",
            ("shop", "cart"),
            Meeting {
                granted: &[],
                ..Meeting::default()
            },
            NOT_GRANTED,
        ),
        (
            "other grant",
            ("shop", "cart"),
            Meeting {
                granted: &["stock"],
                ..Meeting::default()
            },
            NOT_GRANTED,
        ),
        (
            "the system's namespace",
            ("isthmus-system", "cart"),
            Meeting::default(),
            NOT_GRANTED,
        ),
        (
            "caller not granted",
            ("bank", "cart"),
            Meeting::of(Rule::Caller),
            NOT_GRANTED,
        ),
        (
            "caller, nothing granted",
            ("shop", "cart"),
            Meeting {
                granted: &[],
                ..Meeting::of(Rule::Caller)
            },
            NOT_GRANTED,
        ),
        (
            "caller, other grant",
            ("shop", "cart"),
            Meeting {
                granted: &["stock"],
                ..Meeting::of(Rule::Caller)
            },
            NOT_GRANTED,
        ),
    ] {
        let chain = stage.issued(west, namespace, account);
        cases.push(Case::new(name, chain, expected).met(meeting));
    }
    cases
}

/// A workload, a gateway or a control plane in place of another.
fn kinds(stage: &Stage) -> Vec<Case> {
    let west = &stage.honest_west;
    let cart = || stage.issued(west, "shop", "cart");
    let the_gateway = || stage.issued(west, "isthmus-system", "gateway");
    let control = || stage.control(west);
    let system = |account| stage.issued(west, "isthmus-system", account);
    let of = Meeting::of;
    let case =
        |name, chain: Vec<Der>, meeting, expected| Case::new(name, chain, expected).met(meeting);
    vec![
        case(
            "gateway for a callee",
            the_gateway(),
            of(Rule::Callee),
            NOT_GRANTED,
        ),
        case(
            "gateway for a callee, granted",
            the_gateway(),
            Meeting {
                rule: Rule::Callee,
                namespace: "shop",
                ..gateway()
            },
            OTHER_NAMESPACE,
        ),
        case(
            "gateway for another of its namespace",
            the_gateway(),
            Meeting {
                rule: Rule::Callee,
                ..gateway()
            },
            ACCOUNT,
        ),
        case(
            "gateway for a caller",
            the_gateway(),
            of(Rule::Caller),
            NOT_GRANTED,
        ),
        case(
            "gateway for a control plane",
            the_gateway(),
            of(Rule::Control),
            NOT_CONTROL,
        ),
        case("workload for a gateway", cart(), gateway(), NOT_GATEWAY),
        case(
            "workload for a control plane",
            cart(),
            of(Rule::Control),
            NOT_CONTROL,
        ),
        case(
            "control plane for a callee",
            control(),
            of(Rule::Callee),
            NOT_WORKLOAD,
        ),
        case(
            "control plane for a caller",
            control(),
            of(Rule::Caller),
            NOT_WORKLOAD,
        ),
        case(
            "control plane for a gateway",
            control(),
            gateway(),
            NOT_GATEWAY,
        ),
        case(
            "a gateway's account elsewhere",
            stage.issued(west, "shop", "gateway"),
            gateway(),
            NOT_GATEWAY,
        ),
        case(
            "another of the gateway's namespace",
            system("cart"),
            gateway(),
            NOT_GATEWAY,
        ),
        case(
            "an account like a gateway's",
            system("gateway-2"),
            gateway(),
            NOT_GATEWAY,
        ),
        case(
            "a workload named as a control plane",
            system("control"),
            of(Rule::Control),
            NOT_CONTROL,
        ),
        case(
            "a workload named as its cluster",
            stage.issued(west, "cluster", "us-west"),
            of(Rule::Control),
            NOT_CONTROL,
        ),
    ]
}

/// A process whose admission was revoked, however its certificate says it.
fn revoked(stage: &Stage) -> Vec<Case> {
    let west = &stage.honest_west;
    let mut cases = Vec::new();
    let beside = |admission| vec![Admission([0; 8]), admission, Admission([0xff; 8])];
    for (rule, account, namespace) in [
        (Rule::Callee, "cart", "shop"),
        (Rule::Callee, "cart-v2", "shop"),
        (Rule::Caller, "cart", "shop"),
        (Rule::Caller, "payment", "shop"),
        (Rule::Gateway, "gateway", "isthmus-system"),
    ] {
        for revoked in [vec![JOINED], beside(JOINED)] {
            let meeting = Meeting {
                rule,
                namespace: "shop",
                revoked,
                ..gateway()
            };
            let chain = stage.issued(west, namespace, account);
            let name = format!("{account}, {meeting:?}");
            cases.push(Case::new(name, chain, REVOKED).met(meeting));
        }
    }
    cases.extend(unsaid(stage));
    cases
}

/// Serial numbers that say no admission: such a leaf stands for itself, and is revoked as that.
fn unsaid(stage: &Stage) -> Vec<Case> {
    use isthmus_identity::PeerRole;

    let mut cases = Vec::new();
    for (name, serial) in [
        ("one byte", vec![7]),
        ("sixteen bytes", vec![1; 16]),
        ("eighteen bytes", vec![1; 18]),
        ("another mark", [&[2; 1][..], &[0xab; 16]].concat()),
        ("twenty bytes", vec![0x55; 20]),
    ] {
        let leaf = stage
            .west
            .leaf(|params| params.serial_number = Some(serial.into()));
        let chain = vec![leaf, stage.west.der.clone()];
        let peer = stage
            .bundle
            .verify(&chain, crate::common::start(), PeerRole::Server);
        let revoked: Vec<Admission> = peer.unwrap().admission().into_iter().collect();
        assert_ne!(revoked, [JOINED], "{name}");
        for rule in [Rule::Callee, Rule::Caller] {
            let revoked = revoked.clone();
            let meeting = Meeting {
                revoked,
                ..Meeting::of(rule)
            };
            let name = format!("{name}, {rule:?}");
            cases.push(Case::new(name, chain.clone(), REVOKED).met(meeting));
        }
    }
    cases
}
