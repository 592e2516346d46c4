//! What proxies are sent, and what they may say.

use super::*;

#[test]
fn a_proxy_gets_what_it_wants_and_then_what_changed() {
    let mut machine = Machine::new("west");
    machine.create(cluster("west"));
    machine.create(service("cart", 80));
    machine.open_proxy(1, "cart", &["mesh", "service/shop/cart"]);
    assert_eq!(machine.pushed(1), ["cluster/west", "service"]);
    machine.create(service("payment", 80));
    assert_eq!(machine.pushed(1), [""; 0], "it did not ask for payment");
    machine.report(1, "cart", proto::Health::Healthy);
    let workload = machine.pushed(1).remove(0);
    assert!(workload.starts_with("workload/cart-"), "{workload}");
    let programmed = machine.condition(Kind::Service, "cart", "Programmed");
    assert_eq!(
        programmed,
        ("True".to_owned(), "on 1 of 1 proxies of west".to_owned())
    );

    machine.proxy(1, FromProxy::Leaving(proto::Leaving {}));
    assert_eq!(machine.pushed(1), [format!("-{workload}")]);
    assert_eq!(machine.write(Verb::Delete, service("cart", 80)).0, 200);
    assert_eq!(machine.pushed(1), ["-service"]);
}

#[test]
fn a_rejected_resource_is_shown_in_its_conditions() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    machine.open_proxy(1, "cart", &["service/shop/cart"]);
    let push = machine.out.iter().find_map(|action| match action {
        Action::ToProxy {
            message:
                proto::ToProxy {
                    message: Some(ToProxy::Push(push)),
                },
            ..
        } => Some(push.nonce),
        _ => None,
    });
    let rejected = vec![proto::Rejection {
        topic: "service/shop/cart".to_owned(),
        name: "service".to_owned(),
        reason: "too new".to_owned(),
    }];
    machine.proxy(
        1,
        FromProxy::Ack(proto::Ack {
            nonce: push.unwrap(),
            rejected,
        }),
    );
    let programmed = machine.condition(Kind::Service, "cart", "Programmed");
    let message = "on 0 of 1 proxies of west; cart-1 rejects it: too new";
    assert_eq!(programmed, ("False".to_owned(), message.to_owned()));
}

/// What a proxy is told of its report.
fn verdict(action: &Action) -> Option<&str> {
    match action {
        Action::ToProxy {
            message:
                proto::ToProxy {
                    message: Some(ToProxy::Verdict(verdict)),
                },
            ..
        } => Some(&verdict.refused),
        _ => None,
    }
}

#[test]
fn only_the_services_own_accounts_stand_for_it() {
    let mut machine = Machine::new("west");
    machine.open_proxy(1, "cart", &[]);
    machine.report(1, "cart", proto::Health::Healthy);
    assert_eq!(machine.names(Kind::Workload), [""; 0], "not declared yet");
    machine.create(service("cart", 80));
    assert_eq!(machine.names(Kind::Workload).len(), 1);
    machine.create(service("payment", 80));
    machine.report(1, "payment", proto::Health::Healthy);
    assert_eq!(machine.names(Kind::Workload), [""; 0]);
    let id = machine.ask(Request::Status);
    let (_, status) = machine.answer(id).unwrap();
    let rejected = status["proxies"][0]["rejected"][0].as_str().unwrap();
    let wrong = "cart is none of the service's accounts (payment)";
    assert!(rejected.contains(wrong), "{rejected}");
    machine.report(1, "payment", proto::Health::Unhealthy);
    let verdicts: Vec<&str> = machine.out.iter().filter_map(verdict).collect();
    assert_eq!(
        verdicts,
        ["service shop/cart is not declared", "", wrong],
        "the proxy is told once each"
    );

    let report = proto::GatewayReport {
        name: "gateway-1".to_owned(),
        address: "127.0.0.1:15008".to_owned(),
        healthy: true,
    };
    machine.proxy(1, FromProxy::Gateway(report));
    assert!(
        machine
            .out
            .iter()
            .any(|action| matches!(action, Action::CloseProxy { .. }))
    );
}

#[test]
fn a_restart_remembers_workloads_until_their_proxies_had_time_to_return() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    machine.open_proxy(1, "cart", &[]);
    machine.report(1, "cart", proto::Health::Healthy);
    let mut machine = machine.restart();
    let health = |machine: &mut Machine| {
        let (_, list) = machine.read(Kind::Workload, None);
        list["items"][0]["status"]["health"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(health(&mut machine).as_deref(), Some("Healthy"));
    machine.pass(15);
    assert_eq!(health(&mut machine).as_deref(), Some("Unhealthy"));
    machine.pass(15);
    assert_eq!(health(&mut machine), None);
}
