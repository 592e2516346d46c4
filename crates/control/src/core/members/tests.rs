//! One gateway alone, and many workloads together.

use isthmus_model::Percent;

use super::*;

fn gateway(number: u8, healthy: bool) -> Member {
    Member::Gateway(Gateway {
        name: format!("gateway-{number}"),
        address: address(number),
        healthy,
    })
}

fn address(number: u8) -> SocketAddr {
    ([127, 0, 0, number], 15008).into()
}

/// What the changes show.
fn shown(changes: &[Change]) -> &'static str {
    match changes.last() {
        None => "as before",
        Some(Change::Gateway { gateway: None, .. }) => "gone",
        Some(Change::Gateway {
            gateway: Some(gateway),
            ..
        }) if gateway.healthy => "healthy",
        Some(Change::Gateway { .. }) => "unhealthy",
        Some(other) => panic!("{other:?}"),
    }
}

fn removals() -> Removals {
    Removals {
        hold_above: Percent::HALF,
        hold_for: Duration::from_mins(5),
    }
}

/// What is shown differently at some second; nobody is asked for.
fn passes(members: &mut Members, now: Instant) -> &'static str {
    let elapsed = members.on_timeout(now, removals());
    assert!(elapsed.ask.is_empty());
    shown(&elapsed.changes)
}

/// So many gateways, which are heard on sessions of their numbers.
fn heard(count: u8) -> Members {
    let mut members = Members::default();
    for number in 1..=count {
        members.report(SessionId(number.into()), None, gateway(number, true));
    }
    members
}

/// How many are held, and of how many.
fn held(members: &Members) -> (usize, usize) {
    let back = members.held_back();
    back.get(&Group::Gateways)
        .map_or((0, 0), |back| (back.held, back.total))
}

#[test]
fn a_lost_stream_is_forgiven_then_shown_then_forgotten() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut members = Members::default();
    let (first, second) = (SessionId(1), SessionId(2));
    assert_eq!(
        shown(&members.report(first, None, gateway(1, true))),
        "healthy"
    );
    members.on_closed(first, at(0));
    assert_eq!(passes(&mut members, at(2)), "as before");
    assert_eq!(
        shown(&members.report(second, None, gateway(1, true))),
        "as before"
    );
    members.on_closed(first, at(2)); // An old session's end says nothing.
    assert_eq!(passes(&mut members, at(100)), "as before");
    members.on_closed(second, at(100));
    assert_eq!(passes(&mut members, at(103)), "unhealthy");
    assert_eq!(passes(&mut members, at(159)), "as before");
    assert_eq!(passes(&mut members, at(160)), "gone");
    assert_eq!(passes(&mut members, at(200)), "as before");
}

#[test]
fn after_a_start_all_have_time_to_return() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut members = Members::default();
    members.restore(gateway(1, true), start);
    assert_eq!(passes(&mut members, at(14)), "as before");
    assert_eq!(passes(&mut members, at(15)), "unhealthy");
    assert_eq!(passes(&mut members, at(30)), "gone");
}

#[test]
fn who_leaves_is_gone_at_once() {
    let mut members = heard(3);
    for session in 1..=3 {
        assert_eq!(shown(&members.on_left(SessionId(session))), "gone");
        assert_eq!(shown(&members.on_left(SessionId(session))), "as before");
    }
}

#[test]
fn too_many_missed_at_once_are_shown_as_they_were_until_time_is_up() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    // Of four, two are half, three are more.
    for (missed, is_held) in [(1, false), (2, false), (3, true), (4, true)] {
        let mut members = heard(4);
        for session in 1..=missed {
            members.on_closed(SessionId(session), start);
        }
        let elapsed = members.on_timeout(at(3), removals());
        let missed = usize::try_from(missed).unwrap();
        if !is_held {
            assert_eq!((elapsed.changes.len(), elapsed.ask.len()), (missed, 0));
            assert_eq!(held(&members), (0, 0));
            continue;
        }
        assert_eq!((elapsed.changes.len(), elapsed.ask.len()), (0, missed));
        assert_eq!(held(&members), (missed, 4));
        let back = members.held_back()[&Group::Gateways];
        assert_eq!((back.since, back.until), (at(3), at(303)));
        // Neither is anybody forgotten, though all are asked for again and again.
        assert_eq!(members.on_timeout(at(4), removals()).ask.len(), 0);
        assert_eq!(members.on_timeout(at(8), removals()).ask.len(), missed);
        assert_eq!(members.on_timeout(at(302), removals()).changes.len(), 0);
        assert_eq!(members.silent().count(), missed);
        assert_eq!(
            members.on_timeout(at(303), removals()).changes.len(),
            missed
        );
        assert_eq!(held(&members), (0, 0));
        assert_eq!(passes(&mut members, at(304)), "as before");
        assert_eq!(passes(&mut members, at(363)), "gone");
    }
}

#[test]
fn one_alone_is_no_mass_and_what_never_holds_does_not() {
    let start = Instant::now();
    let later = start + Duration::from_secs(3);
    let mut members = heard(1);
    members.on_closed(SessionId(1), start);
    assert_eq!(passes(&mut members, later), "unhealthy");
    let mut members = heard(4);
    for session in 1..=4 {
        members.on_closed(SessionId(session), start);
    }
    let never = Removals {
        hold_above: Percent::new(100).unwrap(),
        ..removals()
    };
    assert_eq!(members.on_timeout(later, never).changes.len(), 4);
}

#[test]
fn who_refuses_is_gone_and_the_others_are_not() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut members = heard(3);
    assert!(members.on_refused(address(1), start).is_empty());
    for session in 1..=3 {
        members.on_closed(SessionId(session), start);
    }
    // Nobody is held yet: a grace is left to all of them.
    assert!(members.on_refused(address(1), at(1)).is_empty());
    assert_eq!(members.on_timeout(at(3), removals()).ask.len(), 3);
    assert_eq!(shown(&members.on_refused(address(2), at(3))), "unhealthy");
    assert!(members.on_refused(address(2), at(3)).is_empty());
    assert_eq!(held(&members), (2, 3));
    let elapsed = members.on_timeout(at(8), removals());
    assert_eq!((elapsed.changes.len(), elapsed.ask.len()), (0, 2));
    assert_eq!(members.on_timeout(at(63), removals()).changes.len(), 1); // It is forgotten.
    assert_eq!(held(&members), (2, 2));
}

#[test]
fn who_is_heard_again_is_no_more_held_and_the_few_that_are_not_are_given_up() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut members = heard(4);
    for session in 1..=4 {
        members.on_closed(SessionId(session), start);
    }
    members.on_timeout(at(3), removals());
    assert_eq!(held(&members), (4, 4));
    for number in 1..=2 {
        let session = SessionId(10 + u64::from(number));
        let changes = members.report(session, None, gateway(number, true));
        assert_eq!(shown(&changes), "as before"); // It never was anything else.
    }
    assert_eq!(held(&members), (2, 4));
    // Others may be on their way: until they are asked for once more.
    for second in [7, 8, 12] {
        assert_eq!(members.on_timeout(at(second), removals()).changes.len(), 0);
    }
    assert_eq!(members.on_timeout(at(13), removals()).changes.len(), 2);
    assert_eq!(held(&members), (0, 0));
}

#[test]
fn who_is_missed_together_with_others_again_is_held_on() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut members = heard(4);
    for session in 1..=4 {
        members.on_closed(SessionId(session), start);
    }
    members.on_timeout(at(3), removals());
    for number in 1..=2 {
        members.report(SessionId(number.into()), None, gateway(number, true));
    }
    members.on_timeout(at(8), removals());
    members.on_closed(SessionId(1), at(9));
    assert_eq!(members.on_timeout(at(13), removals()).changes.len(), 0);
    assert_eq!(held(&members), (3, 4));
    assert_eq!(members.on_timeout(at(18), removals()).changes.len(), 0);
    // Not for longer than was said at first.
    assert_eq!(members.on_timeout(at(303), removals()).changes.len(), 2);
}

#[test]
fn who_was_known_to_be_gone_is_neither_held_nor_counted() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut members = Members::default();
    for number in 1..=4 {
        members.restore(gateway(number, number == 1), start);
    }
    assert_eq!(
        members
            .on_timeout(start + START_GRACE, removals())
            .changes
            .len(),
        4
    );
    assert_eq!(held(&members), (0, 0));
    // One after the other is no mass.
    let mut members = heard(3);
    members.on_closed(SessionId(1), start);
    assert_eq!(passes(&mut members, at(3)), "unhealthy");
    members.on_closed(SessionId(2), at(40));
    assert_eq!(passes(&mut members, at(43)), "unhealthy");
}

#[test]
fn who_is_revoked_is_gone_also_while_it_is_held() {
    let start = Instant::now();
    let mut members = Members::default();
    for number in 1..=2 {
        let admission = Some(Admission([number; 8]));
        members.report(SessionId(number.into()), admission, gateway(number, true));
        members.on_closed(SessionId(number.into()), start);
    }
    members.on_timeout(start + GRACE, removals());
    assert_eq!(held(&members), (2, 2));
    assert_eq!(shown(&members.on_revoked(Admission([2; 8]))), "gone");
    assert_eq!(shown(&members.on_revoked(Admission([2; 8]))), "as before");
    assert_eq!(held(&members), (1, 1));
}

#[test]
fn an_operator_lets_go_of_a_group() {
    let start = Instant::now();
    let later = start + Duration::from_secs(3);
    let mut members = heard(4);
    for session in 1..=3 {
        members.on_closed(SessionId(session), start);
    }
    assert!(members.release(&Group::Gateways, later).is_empty()); // Nothing is held yet.
    members.on_timeout(later, removals());
    members.on_closed(SessionId(4), later);
    let other = Group::Service("shop/payment".parse().unwrap());
    assert!(members.release(&other, later).is_empty());
    // With those who would be held in a moment.
    assert_eq!(members.release(&Group::Gateways, later).len(), 4);
    assert_eq!(held(&members), (0, 0));
    assert_eq!(passes(&mut members, later), "as before");
}

#[test]
fn after_a_start_without_proxies_the_last_word_of_them_stays() {
    let start = Instant::now();
    let mut members = Members::default();
    for number in 1..=3 {
        members.restore(gateway(number, true), start);
    }
    let elapsed = members.on_timeout(start + START_GRACE, removals());
    assert_eq!((elapsed.changes.len(), elapsed.ask.len()), (0, 3));
    assert_eq!(held(&members), (3, 3));
}
