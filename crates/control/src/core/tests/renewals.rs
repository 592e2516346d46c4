use super::*;

/// The sessions that were asked to renew since it was last looked.
fn asked(west: &mut Machine) -> Vec<u64> {
    let asked = |action: &Action| match action {
        Action::ToProxy { session, message } => {
            matches!(message.message, Some(ToProxy::Renew(_))).then_some(session.0)
        }
        _ => None,
    };
    let found = west.out.iter().filter_map(asked).collect();
    west.out.clear();
    found
}

fn renewals(west: &mut Machine) -> (usize, Vec<String>) {
    let wanted = west.ask(Request::Renewals);
    let found = west.out.iter().find_map(|action| match action {
        Action::Answer {
            id,
            answer: Answer::Renewals(renewals),
        } if *id == wanted => Some((renewals.renewed, renewals.waiting.clone())),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn who_holds_an_older_certificate_is_asked_to_renew_and_counted() {
    let mut west = Machine::new("west");
    for session in 1..=3 {
        west.open_proxy(session, "cart", &[]);
    }
    assert!(asked(&mut west).is_empty(), "all of this generation");
    assert_eq!(renewals(&mut west), (3, Vec::new()));

    let second = Generation::FIRST.next();
    west.event(Event::Issuing(second));
    assert_eq!(asked(&mut west), [1, 2, 3]);
    let names = |numbers: &[u64]| {
        let names = numbers.iter().map(|number| format!("cart-{number}"));
        names.collect::<Vec<_>>()
    };
    assert_eq!(renewals(&mut west), (0, names(&[1, 2, 3])));
    let renewed = |session: u64, generation| Event::Renewed {
        connection: ConnectionId(session),
        generation,
    };
    west.event(renewed(1, second));
    assert_eq!(renewals(&mut west), (1, names(&[2, 3])));
    // It was on its way when the authority changed.
    west.event(renewed(2, Generation::FIRST));
    assert_eq!(renewals(&mut west), (1, names(&[2, 3])));

    // Who comes with an older one, such as after it was cut off, is asked as well.
    west.event(Event::ProxyClosed {
        session: SessionId(3),
    });
    asked(&mut west);
    west.open_proxy(3, "cart", &[]);
    assert_eq!(asked(&mut west), [3]);
    west.create(service("cart", 80));
    west.report(2, "cart", proto::Health::Healthy);
    west.event(Event::ProxyClosed {
        session: SessionId(2),
    });
    let silent = "shop/cart at 127.0.0.2:15008 (not heard)".to_owned();
    assert_eq!(renewals(&mut west), (1, vec!["cart-3".to_owned(), silent]));
    west.open_proxy(2, "cart", &[]);
    assert_eq!(asked(&mut west), [2]);
    west.report(2, "cart", proto::Health::Healthy);
    west.event(renewed(2, second));
    west.event(renewed(3, second));
    assert_eq!(renewals(&mut west), (3, Vec::new()));
    // Word of an earlier change that comes late takes nothing back.
    west.event(Event::Issuing(Generation::FIRST));
    assert!(asked(&mut west).is_empty());
    assert_eq!(renewals(&mut west).0, 3);
}
