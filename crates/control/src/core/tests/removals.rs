//! Many workloads that are missed together, and what others knew of a store that was lost.

use isthmus_api::StatusView;

use super::*;

fn status(machine: &mut Machine) -> StatusView {
    let id = machine.ask(Request::Status);
    let (_, body) = machine.answer(id).expect("an answer at once");
    serde_json::from_value(body).unwrap()
}

/// How many workloads of the service are healthy in the cluster, as the machine sees it.
fn healthy(machine: &mut Machine, service: &str, cluster: &str) -> Option<u32> {
    let view = status(machine);
    let service = view.services.into_iter().find(|one| one.name == service)?;
    let share = service
        .clusters
        .into_iter()
        .find(|one| one.cluster == cluster)?;
    Some(share.healthy)
}

/// Members that are held, of all of that group, and for how long they still are.
fn held(machine: &mut Machine) -> Vec<(String, usize, usize, u64)> {
    let held = status(machine).held.into_iter();
    held.map(|of| (of.group, of.held, of.total, of.left_ms / 1000))
        .collect()
}

/// What was told of since it was asked last: the group, and how many are held.
fn told(machine: &mut Machine) -> Vec<(String, usize)> {
    let notice = |action: &Action| match action {
        Action::Notice(Notice::HeldBack { group, held, .. }) => Some((group.clone(), *held)),
        _ => None,
    };
    let told = machine.out.iter().filter_map(notice).collect();
    machine.out.retain(|action| notice(action).is_none());
    told
}

fn asked(machine: &mut Machine) -> Vec<SocketAddr> {
    let address = |action: &Action| match action {
        Action::FindListener(address) => Some(*address),
        _ => None,
    };
    let asked = machine.out.iter().filter_map(address).collect();
    machine.out.retain(|action| address(action).is_none());
    asked
}

/// Four workloads of one service, heard on sessions 1 to 4.
fn four() -> Machine {
    let mut machine = Machine::new("west");
    machine.create(cluster("west"));
    machine.create(service("cart", 80));
    for session in 1..=4 {
        machine.open_proxy(session, "cart", &[]);
        machine.report(session, "cart", proto::Health::Healthy);
    }
    assert_eq!(healthy(&mut machine, "shop/cart", "west"), Some(4));
    machine
}

fn close(machine: &mut Machine, sessions: std::ops::RangeInclusive<u64>) {
    for session in sessions {
        let session = SessionId(session);
        machine.event(Event::ProxyClosed { session });
    }
}

fn release(machine: &mut Machine, service: Option<&str>) -> (u16, Value) {
    let service = service.map(str::to_owned);
    let id = machine.ask(Request::Release(ReleaseRequest { service }));
    machine.answer(id).expect("an answer at once")
}

#[test]
fn a_mass_is_held_and_told_of_and_let_go_by_time() {
    let mut west = four();
    west.create(signed(json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Mesh",
        "metadata": {"name": "shop"},
        "spec": {"trustDomain": "shop.mesh", "removals": {"holdFor": "1m"}},
    })));
    close(&mut west, 1..=3);
    west.pass(3);
    assert_eq!(healthy(&mut west, "shop/cart", "west"), Some(4));
    let of_cart = |held, total, left| vec![("shop/cart".to_owned(), held, total, left)];
    assert_eq!(held(&mut west), of_cart(3, 4, 60));
    assert_eq!(told(&mut west), [("shop/cart".to_owned(), 3)]);
    assert_eq!(asked(&mut west).len(), 3);
    west.pass(20);
    assert_eq!(held(&mut west), of_cart(3, 4, 40));
    assert_eq!(told(&mut west), []);
    west.pass(40);
    assert_eq!(healthy(&mut west, "shop/cart", "west"), Some(1));
    assert_eq!(held(&mut west), []);
    assert_eq!(told(&mut west), [("shop/cart".to_owned(), 0)]);
    west.pass(60);
    assert_eq!(west.names(Kind::Workload).len(), 1);
}

#[test]
fn where_nobody_listens_nobody_is_held() {
    let mut west = four();
    close(&mut west, 1..=4);
    west.pass(3);
    let asked = asked(&mut west);
    assert_eq!(asked.len(), 4);
    west.event(Event::NoListener(asked[0]));
    west.event(Event::NoListener(([127, 9, 9, 9], 1).into()));
    assert_eq!(healthy(&mut west, "shop/cart", "west"), Some(3));
    // It may start again where it was.
    west.open_proxy(9, "cart", &[]);
    west.report(9, "cart", proto::Health::Healthy);
    west.event(Event::NoListener(asked[1]));
    assert_eq!(held(&mut west)[0].1, 2);
}

#[test]
fn an_operator_takes_what_is_held_for_gone() {
    let mut west = four();
    close(&mut west, 1..=3);
    west.pass(3);
    let released = |count: usize| (200, json!({"cluster": "west", "released": count}));
    assert_eq!(release(&mut west, None), released(0));
    assert_eq!(release(&mut west, Some("shop/payment")), released(0));
    let (code, body) = release(&mut west, Some("cart"));
    assert_eq!(code, 422, "{body}");
    assert_eq!(release(&mut west, Some("shop/cart")), released(3));
    assert_eq!(healthy(&mut west, "shop/cart", "west"), Some(1));
    assert_eq!(release(&mut west, Some("shop/cart")), released(0));
}

#[test]
fn what_others_know_of_a_lost_store_is_not_void_before_its_proxies_had_time_to_return() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    for object in [cluster("west"), cluster("east")] {
        west.create(object);
    }
    west.create(service("cart", 80));
    west.create(service("payment", 80));
    exchange(&mut west, &mut east);
    let opens = |east: &mut Machine, session, account: &str| {
        east.open_proxy(session, account, &[]);
        east.report(session, account, proto::Health::Healthy);
    };
    let shown = |west: &mut Machine| {
        let of = |west: &mut Machine, service: &str| healthy(west, service, "east").unwrap();
        (of(west, "shop/cart"), of(west, "shop/payment"))
    };
    for session in 1..=3 {
        opens(&mut east, session, "cart");
    }
    opens(&mut east, 4, "payment");
    exchange(&mut west, &mut east);
    assert_eq!(shown(&mut west), (3, 1));

    // It starts with nothing and hears nobody for a while, and one of four proxies is quick. Until it knows config it
    // believes gateways only.
    let mut east = Machine::on("east", VirtualStore::new(), east.clock);
    east.open_proxy(9, "gateway", &[]);
    east.proxy(
        9,
        FromProxy::Gateway(proto::GatewayReport {
            name: "gateway-1".to_owned(),
            address: "127.0.0.9:15008".to_owned(),
            ..proto::GatewayReport::default()
        }),
    );
    east.pass(60);
    west.event(Event::PeerClosed {
        session: PeerSessionId(1),
    });
    connect(&mut west, &mut east, 2);
    assert_eq!(east.names(Kind::Service), ["cart", "payment"]);
    opens(&mut east, 4, "payment");
    exchange(&mut west, &mut east);
    assert_eq!(shown(&mut west), (3, 1));
    opens(&mut east, 1, "cart");
    east.pass(14);
    exchange(&mut west, &mut east);
    assert_eq!(shown(&mut west), (3, 1));
    east.pass(1);
    exchange(&mut west, &mut east);
    assert_eq!(shown(&mut west), (1, 1));
    // From then on what it says is passed on at once.
    opens(&mut east, 2, "cart");
    exchange(&mut west, &mut east);
    assert_eq!(shown(&mut west), (2, 1));
}
