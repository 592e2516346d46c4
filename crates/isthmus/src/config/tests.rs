use super::*;

#[test]
fn spans_are_read_and_written() {
    for (text, milliseconds) in [
        ("140ms", 140),
        ("1h30m", 5_400_000),
        ("10s", 10_000),
        ("1h2m3s4ms", 3_723_004),
    ] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span.0.as_millis(), milliseconds);
        assert_eq!(span.to_string(), text);
    }
    for text in ["", "10", "s", "1s1h", "1.5s", "-1s", "100000s", "1d", "1s "] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
    assert_eq!(Span(Duration::ZERO).to_string(), "0s");
}

#[test]
fn a_file_is_read_strictly_and_survives_a_round_trip() {
    let text = "name: cart-1\ncluster: us-west\naddress: 127.1.1.10\ncontrol: ['127.1.1.1:15012']\n\
                state: state\nservice: shop/cart\nlabels: {version: v1}\nlisteners:\n- listen: 127.1.1.10:6379\n  \
                service: shop/redis\n  port: 6379\nprogram:\n  address: 127.1.1.10\n  port: 8080\n  command: [cart, --listen, '${ADDRESS}:8080']\n";
    let path = Path::new("run.yaml");
    let file: WorkloadFile = parse(path, text).unwrap();
    assert_eq!(file.listeners[0].port, 6379);
    let again: WorkloadFile = parse(path, &to_yaml(&file)).unwrap();
    assert_eq!(again, file);
    let service = file.service.as_ref().map(|Text(service)| service);
    let (namespace, account) = runs_as(None, service).unwrap();
    assert_eq!((namespace.as_str(), account.as_str()), ("shop", "cart"));
    for (from, to, expect) in [
        ("state:", "stat:", "stat"),
        ("us-west", "US", "US"),
        ("shop/cart", "cart", "cart"),
        ("port: 8080", "port: 80800", "80800"),
    ] {
        let failure = parse::<WorkloadFile>(path, &text.replacen(from, to, 1)).unwrap_err();
        assert!(failure.causes[0].contains(expect), "{failure:?}");
        assert!(failure.causes[0].starts_with("run.yaml:"), "{failure:?}");
    }
}

/// The example under a heading of docs/reference/files.md.
pub(crate) fn documented(heading: &str) -> &'static str {
    let page = include_str!("../../../../docs/reference/files.md");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once("```yaml\n").unwrap();
    block.split_once("```").unwrap().0
}

/// Every field has a value of its own in what was read.
pub(crate) fn assert_complete(read: &impl fmt::Debug) {
    let shown = format!("{read:?}");
    for nothing in ["None", "[]", "{}"] {
        assert!(!shown.contains(nothing), "{nothing} in {shown}");
    }
}

#[test]
fn the_reference_shows_every_field() {
    let path = Path::new("files.md");
    let control: ControlFile = parse(path, documented("control.yaml")).unwrap();
    let gateway: GatewayFile = parse(path, documented("gateway.yaml")).unwrap();
    let mut workload: WorkloadFile = parse(path, documented("proxy.yaml and run.yaml")).unwrap();
    let mesh_key: MeshKeyFile = parse(path, documented("mesh-key.yaml")).unwrap();
    assert!(matches!(mesh_key.source(path), KeySource::Command(_)));
    // It is shown once.
    workload.clients = gateway.clients.clone();
    assert_complete(&control);
    assert_complete(&gateway);
    assert_complete(&workload);
}

#[test]
fn all_mistakes_of_a_file_are_said_at_once() {
    let text = "mesh: shop\ntrustDomain: shop.example\nclustr: a\ncluster: a\naddress: 0.0.0.0\n\
                data: d\nauthority: a\npeers: [127.1.2.1]\nrenewAfter: 24h\n\
                apiTokens:\n- {name: '', sha256: 12}\n- {name: '', sha256: 'ba'}\n";
    let failure = parse::<ControlFile>(Path::new("c.yaml"), text).unwrap_err();
    let heads: Vec<&str> = failure
        .causes
        .iter()
        .filter_map(|cause| cause.lines().next())
        .collect();
    let expect = [
        "c.yaml:3:1: clustr: unknown field; did you mean `cluster`?",
        "c.yaml:5:10: address: 0.0.0.0 is no address that others can reach; write the address",
        "c.yaml:8:9: peers[0]: invalid socket address syntax; write it like 127.0.0.1:8080",
        "c.yaml:9:13: renewAfter: a leaf of 24h that is renewed after 24h ends before",
        "c.yaml:11:22: apiTokens[0].sha256: expected text, found the number 12; put it in quotes",
        "c.yaml:12:22: apiTokens[1].sha256: `ba`: a SHA-256 is 64",
    ];
    assert_eq!(heads.len(), expect.len(), "{heads:#?}");
    for (head, expect) in heads.iter().zip(expect) {
        assert!(head.starts_with(expect), "{head} instead of {expect}");
    }
}

#[test]
fn a_key_is_in_one_place() {
    let text = "mesh: shop\ntrustDomain: shop.example\ncluster: a\naddress: 127.1.1.1\ndata: d\n\
                authority: a\natRest:\n  key: {}\n  previous:\n  - {file: k, env: K}\n  - {command: []}\n  - {env: K}\n";
    let path = Path::new("d/c.yaml");
    let failure = parse::<ControlFile>(path, text).unwrap_err();
    let heads = failure
        .causes
        .iter()
        .filter_map(|cause| cause.lines().next());
    let heads: Vec<&str> = heads.collect();
    let [key, two, empty] = &heads[..] else {
        panic!("{heads:#?}")
    };
    assert!(
        key.contains(":8:") && key.contains("atRest.key: it says not where"),
        "{key}"
    );
    assert!(
        two.contains(":10:") && two.contains("atRest.previous[0]: "),
        "{two}"
    );
    assert!(
        empty.contains(":11:") && empty.contains("atRest.previous[1]: "),
        "{empty}"
    );

    let text = text
        .replace("key: {}", "key: {file: k}")
        .replace("file: k, ", "");
    let file: ControlFile = parse(path, &text.replace("[]", "[show, key]")).unwrap();
    let at_rest = file.at_rest(path).unwrap();
    assert_eq!(at_rest.key, KeySource::File("d/k".into()));
    let show = ["show", "key"].map(str::to_owned).to_vec();
    assert_eq!(at_rest.previous[1], KeySource::Command(show));
}

#[test]
fn hashes_are_hexadecimal() {
    let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Sha256::of(b"abc").to_string(), text);
    assert_eq!(text.parse(), Ok(Sha256::of(b"abc")));
    assert!("ba78".parse::<Sha256>().is_err());
    assert!("é".repeat(32).parse::<Sha256>().is_err());
}
