//! Who may try again and who may not, as tables.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const REFUSED: Outcome = Outcome::Refused {
    retry_unwanted: false,
};

fn replied(status: u16) -> Outcome {
    Outcome::Replied {
        status,
        retry_unwanted: false,
    }
}

/// What came of it: `deliver`, `retry`, or the give-up's code, with `?` if it may have been executed.
fn show(verdict: Verdict) -> String {
    match verdict {
        Verdict::Deliver => "deliver".to_owned(),
        Verdict::Retry => "retry".to_owned(),
        Verdict::GiveUp {
            reason,
            maybe_executed,
        } => format!("{}{}", reason.code(), if maybe_executed { "?" } else { "" }),
    }
}

/// The verdict on the first try of a `method`, which got as far as `stage`.
fn first(method: &str, stage: &str, outcome: Outcome) -> String {
    let now = Instant::now();
    let mut attempts = Attempts::new(&TrafficSettings::default(), method, None, now);
    attempts.begin(now);
    if stage != "connecting" {
        let _sent = attempts.commit();
    }
    match stage {
        "streamed" => attempts.lose_body(),
        "replying" => attempts.begin_reply(),
        _ => {}
    }
    show(attempts.judge(outcome, Relief::None, &mut Budget::new(now), now))
}

#[test]
fn the_time_of_a_request_begins_when_it_is_there() {
    let start = Instant::now();
    let mut settings = TrafficSettings::default();
    settings.timeout.request = 1000 * MS;
    let new = |inherited| Attempts::new(&settings, "POST", inherited, start);
    let late = start + 5000 * MS;

    let mut whole = new(None);
    assert_eq!(whole.remaining(start), Some(1000 * MS));
    whole.received(late);
    assert_eq!(
        whole.remaining(late),
        Some(Duration::ZERO),
        "it was there from the beginning"
    );

    let mut coming = new(None);
    coming.receive();
    assert_eq!(coming.remaining(start), None);
    assert_eq!(coming.expired(late), None);
    coming.received(late);
    assert_eq!(coming.remaining(late), Some(1000 * MS));
    coming.received(late + 900 * MS);
    assert_eq!(coming.remaining(late + 900 * MS), Some(100 * MS), "once");
    assert_eq!(coming.expired(late + 1000 * MS), Some(Outcome::TimedOut));

    // A stream has no end but the caller's own.
    let mut call = new(Some(3000 * MS));
    assert_eq!(call.remaining(start), Some(1000 * MS));
    call.stream();
    assert_eq!(call.remaining(start), Some(3000 * MS));
    assert_eq!(call.expired(late), Some(Outcome::TimedOut));

    // Nobody else is told of another, as nobody else knows when it begins.
    for (inherited, told) in [(None, None), (Some(3000 * MS), Some(3000 * MS))] {
        let mut call = new(inherited);
        call.call();
        assert_eq!(call.remaining(start), told);
        assert_eq!(call.expired(start + 1000 * MS), Some(Outcome::TimedOut));
    }

    // Nor does one try of it.
    let mut settings = TrafficSettings::default();
    settings.timeout.per_try = 100 * MS;
    let mut stream = Attempts::new(&settings, "GET", None, start);
    stream.begin(start);
    let _sent = stream.commit();
    assert_eq!(stream.next_timeout(), Some(start + 100 * MS));
    stream.stream();
    assert_eq!(stream.next_timeout(), None);
}

#[test]
fn unavailable_is_repeated_where_the_policy_says_that_it_is_safe() {
    let now = Instant::now();
    for (listed, call, method, status, body_held, expect) in [
        (true, true, "POST", 503, true, "retry"),
        (true, true, "POST", 503, false, "deliver"),
        (true, true, "POST", 500, true, "deliver"),
        (true, true, "POST", 504, true, "deliver"),
        (true, true, "POST", 200, true, "deliver"),
        (true, false, "POST", 503, true, "deliver"),
        (false, true, "POST", 503, true, "deliver"),
        (true, false, "GET", 503, true, "retry"),
    ] {
        let mut settings = TrafficSettings::default();
        if listed {
            settings.retry.on.push(RetryOn::Unavailable);
        }
        let mut attempts = Attempts::new(&settings, method, None, now);
        if call {
            attempts.call();
        }
        attempts.begin(now);
        let _sent = attempts.commit();
        if !body_held {
            attempts.lose_body();
        }
        let verdict = attempts.judge(replied(status), Relief::None, &mut Budget::new(now), now);
        assert_eq!(
            show(verdict),
            expect,
            "{listed} {call} {method} {status} {body_held}"
        );
    }
}

#[test]
fn what_may_be_tried_again() {
    for (method, stage, outcome, expect) in [
        // Surely not executed: any method.
        ("GET", "connecting", Outcome::ConnectFailed, "retry"),
        ("POST", "connecting", Outcome::ConnectFailed, "retry"),
        ("POST", "connecting", Outcome::Reset, "retry"),
        ("POST", "connecting", Outcome::Lost, "retry"),
        ("POST", "connecting", Outcome::TimedOut, "retry"),
        ("POST", "connecting", Outcome::Drained, "retry"),
        ("POST", "sent", REFUSED, "retry"),
        ("POST", "sent", Outcome::Drained, "retry"),
        ("POST", "streamed", REFUSED, "body-not-held"),
        ("PUT", "streamed", Outcome::Drained, "body-not-held"),
        // Perhaps executed: only idempotent ones, with their body.
        ("GET", "sent", Outcome::Reset, "retry"),
        ("GET", "sent", Outcome::Lost, "retry"),
        ("HEAD", "sent", Outcome::Reset, "retry"),
        ("OPTIONS", "sent", Outcome::Reset, "retry"),
        ("TRACE", "sent", Outcome::Reset, "retry"),
        ("PUT", "sent", Outcome::TimedOut, "retry"),
        ("DELETE", "sent", Outcome::TimedOut, "retry"),
        ("PUT", "streamed", Outcome::Reset, "body-not-held?"),
        ("POST", "sent", Outcome::Reset, "maybe-executed?"),
        ("POST", "sent", Outcome::Lost, "maybe-executed?"),
        ("POST", "sent", Outcome::TimedOut, "maybe-executed?"),
        ("PATCH", "sent", Outcome::Reset, "maybe-executed?"),
        ("CONNECT", "sent", Outcome::Reset, "maybe-executed?"),
        ("get", "sent", Outcome::Reset, "maybe-executed?"),
        // Replies.
        ("GET", "sent", replied(200), "deliver"),
        ("GET", "sent", replied(500), "deliver"),
        ("GET", "sent", replied(501), "deliver"),
        ("GET", "sent", replied(502), "retry"),
        ("GET", "sent", replied(503), "retry"),
        ("GET", "sent", replied(504), "retry"),
        ("GET", "sent", replied(505), "deliver"),
        ("POST", "sent", replied(503), "deliver"),
        // A reply that has begun is cut, never repeated.
        ("GET", "replying", Outcome::Reset, "reply-cut?"),
        ("GET", "replying", Outcome::TimedOut, "reply-cut?"),
        ("GET", "replying", replied(200), "deliver"),
        ("GET", "replying", replied(503), "deliver"),
        // Nobody waits.
        ("GET", "connecting", Outcome::Cancelled, "cancelled"),
        ("GET", "sent", Outcome::Cancelled, "cancelled?"),
    ] {
        assert_eq!(
            first(method, stage, outcome),
            expect,
            "{method} {stage} {outcome:?}"
        );
    }
}

#[test]
fn who_asks_not_to_be_tried_again_is_not() {
    let refused = Outcome::Refused {
        retry_unwanted: true,
    };
    let unavailable = Outcome::Replied {
        status: 503,
        retry_unwanted: true,
    };
    assert_eq!(first("GET", "sent", refused), "retry-unwanted");
    assert_eq!(first("GET", "sent", unavailable), "deliver");
}

#[test]
fn only_listed_failures_are_tried_again() {
    for (on, outcome, sent) in [
        (RetryOn::ConnectFailure, Outcome::ConnectFailed, false),
        (RetryOn::ConnectFailure, Outcome::Reset, false),
        (RetryOn::Refused, REFUSED, true),
        (RetryOn::Reset, Outcome::Reset, true),
        (RetryOn::Reset, Outcome::TimedOut, true),
        (RetryOn::GatewayError, replied(503), true),
    ] {
        for listed in [true, false] {
            let now = Instant::now();
            let mut settings = TrafficSettings::default();
            settings.retry.on.retain(|&one| (one == on) == listed);
            let mut attempts = Attempts::new(&settings, "GET", None, now);
            attempts.begin(now);
            if sent {
                let _sent = attempts.commit();
            }
            let verdict = attempts.judge(outcome, Relief::None, &mut Budget::new(now), now);
            let retried = matches!(verdict, Verdict::Retry);
            assert_eq!(retried, listed, "{on:?} {outcome:?}");
        }
    }
    // A closing connection is our own doing: always.
    let (mut settings, now) = (TrafficSettings::default(), Instant::now());
    settings.retry.on.clear();
    let mut attempts = Attempts::new(&settings, "POST", None, now);
    attempts.begin(now);
    let verdict = attempts.judge(Outcome::Drained, Relief::None, &mut Budget::new(now), now);
    assert_eq!(show(verdict), "retry");
}

/// Takes all that there is.
fn spend(budget: &mut Budget, settings: &TrafficSettings, now: Instant) {
    while budget.withdraw(settings.retry.budget, Retried::Failure, now, now) {}
}

/// Runs tries that all end in `outcome` until the verdict is another than to retry.
fn run_out(attempts: &mut Attempts, outcome: Outcome, budget: &mut Budget, now: Instant) -> String {
    loop {
        attempts.begin(now);
        let _sent = attempts.commit();
        match attempts.judge(outcome, Relief::None, budget, now) {
            Verdict::Retry => {}
            other => return show(other),
        }
    }
}

#[test]
fn attempts_budget_and_deadline_end_it() {
    let now = Instant::now();
    let settings = TrafficSettings::default();
    let mut budget = Budget::new(now);
    let mut attempts = Attempts::new(&settings, "GET", None, now);
    let end = run_out(&mut attempts, Outcome::Reset, &mut budget, now);
    assert_eq!((end.as_str(), attempts.tries()), ("attempts-spent?", 3));
    // A reply that nothing can better is delivered.
    let mut attempts = Attempts::new(&settings, "GET", None, now);
    let end = run_out(&mut attempts, replied(503), &mut budget, now);
    assert_eq!((end.as_str(), attempts.tries()), ("deliver", 3));
    // Too late.
    let mut attempts = Attempts::new(&settings, "GET", Some(5 * MS), now);
    let end = run_out(&mut attempts, REFUSED, &mut budget, now + 5 * MS);
    assert_eq!((end.as_str(), attempts.tries()), ("deadline-passed", 1));
    // No budget.
    spend(&mut budget, &settings, now);
    let mut attempts = Attempts::new(&settings, "GET", None, now);
    let end = run_out(&mut attempts, Outcome::Reset, &mut budget, now);
    assert_eq!((end.as_str(), attempts.tries()), ("budget-spent?", 1));
    // Retries switched off.
    let mut off = settings.clone();
    off.retry.attempts = 0;
    let mut attempts = Attempts::new(&off, "GET", None, now);
    let end = run_out(&mut attempts, Outcome::Reset, &mut Budget::new(now), now);
    assert_eq!((end.as_str(), attempts.tries()), ("attempts-spent?", 1));
}

#[test]
fn the_far_side_is_told_what_has_been_asked_before() {
    let now = Instant::now();
    for (again, expect) in [(false, [0, 1]), (true, [1, 2])] {
        let mut attempts = Attempts::new(&TrafficSettings::default(), "GET", None, now);
        if again {
            attempts.again();
        }
        for told in expect {
            attempts.begin(now);
            assert_eq!(attempts.attempt(), told);
        }
    }
}

#[test]
fn what_was_unknown_once_stays_unknown() {
    let now = Instant::now();
    let mut attempts = Attempts::new(&TrafficSettings::default(), "GET", None, now);
    let mut budget = Budget::new(now);
    attempts.begin(now);
    let _sent = attempts.commit();
    assert_eq!(
        show(attempts.judge(Outcome::Reset, Relief::None, &mut budget, now)),
        "retry"
    );
    attempts.begin(now);
    assert_eq!(
        show(attempts.judge(Outcome::ConnectFailed, Relief::None, &mut budget, now)),
        "retry"
    );
    let mut off = TrafficSettings::default();
    off.retry.on.retain(|on| *on != RetryOn::ConnectFailure);
    attempts.on = Listed::new(&off.retry.on);
    attempts.begin(now);
    let end = attempts.judge(Outcome::ConnectFailed, Relief::None, &mut budget, now);
    assert_eq!(show(end), "not-listed?");
}

#[test]
fn tries_of_which_nothing_was_sent_are_counted_apart() {
    let now = Instant::now();
    let settings = TrafficSettings::default();
    // A place that refuses connections, then one that falls silent: the third is still asked, though
    // the budget is spent.
    let mut budget = Budget::new(now);
    spend(&mut budget, &settings, now);
    let mut attempts = Attempts::new(&settings, "GET", None, now);
    for (sent, outcome, relief) in [
        (false, Outcome::ConnectFailed, Relief::None),
        (true, Outcome::Reset, Relief::Moves),
        (true, Outcome::Drained, Relief::None),
        (false, Outcome::Reset, Relief::None),
    ] {
        attempts.begin(now);
        if sent {
            let _sent = attempts.commit();
        }
        let verdict = attempts.judge(outcome, relief, &mut budget, now);
        assert_eq!(show(verdict), "retry", "{outcome:?}");
    }
    // They are not endless.
    let mut attempts = Attempts::new(&settings, "POST", None, now);
    let end = run_out(&mut attempts, Outcome::Drained, &mut budget, now);
    let most = settings.retry.attempts + 1 + MOST_UNSENT;
    assert_eq!((end.as_str(), attempts.tries()), ("attempts-spent", most));
    // Where retries are switched off, they are.
    let mut off = settings.clone();
    off.retry.attempts = 0;
    let mut attempts = Attempts::new(&off, "GET", None, now);
    let end = run_out(&mut attempts, Outcome::Drained, &mut budget, now);
    assert_eq!((end.as_str(), attempts.tries()), ("attempts-spent", 1));
}

#[test]
fn a_first_escape_costs_nothing_and_a_second_does() {
    let now = Instant::now();
    let settings = TrafficSettings::default();
    let mut budget = Budget::new(now);
    spend(&mut budget, &settings, now);
    let mut attempts = Attempts::new(&settings, "GET", None, now);
    for (outcome, expect) in [(Outcome::Lost, "retry"), (Outcome::Lost, "budget-spent?")] {
        attempts.begin(now);
        let _sent = attempts.commit();
        let verdict = attempts.judge(outcome, Relief::Moves, &mut budget, now);
        assert_eq!(show(verdict), expect);
    }
    // What nobody has worked on may go on to whoever has room.
    for unseen in [Outcome::Shed, REFUSED] {
        let mut attempts = Attempts::new(&settings, "GET", None, now);
        for (relief, expect) in [
            (Relief::Moves, "retry"),
            (Relief::Moves, "retry"),
            (Relief::None, "attempts-spent"),
        ] {
            attempts.begin(now);
            let _sent = attempts.commit();
            let verdict = attempts.judge(unseen, relief, &mut budget, now);
            assert_eq!(show(verdict), expect, "{unseen:?}");
        }
        let mut attempts = Attempts::new(&settings, "GET", None, now);
        let end = run_out(&mut attempts, unseen, &mut budget, now);
        assert_eq!(end, "budget-spent", "{unseen:?}");
    }
    // It leaves the budget as it is.
    let mut budget = Budget::new(now);
    let before = budget.clone();
    let mut attempts = Attempts::new(&settings, "GET", None, now);
    attempts.begin(now);
    let _verdict = attempts.judge(Outcome::ConnectFailed, Relief::Moves, &mut budget, now);
    assert_eq!(budget, before);
}

#[test]
fn a_retry_that_is_forbidden_draws_on_no_budget() {
    let now = Instant::now();
    let settings = TrafficSettings::default();
    let mut budget = Budget::new(now);
    let before = budget.clone();
    let mut attempts = Attempts::new(&settings, "POST", None, now);
    attempts.begin(now);
    let _sent = attempts.commit();
    let _verdict = attempts.judge(Outcome::Reset, Relief::None, &mut budget, now);
    assert_eq!(budget, before);
}

#[test]
fn the_last_try_and_those_after_a_silence_and_a_refusal_of_the_busy_leave_the_cluster() {
    let now = Instant::now();
    let mut attempts = Attempts::new(&TrafficSettings::default(), "GET", None, now);
    for (outcome, expect) in [
        (Outcome::Reset, Avoid::Workload),
        (Outcome::ConnectFailed, Avoid::Cluster),
    ] {
        attempts.begin(now);
        assert_eq!(attempts.avoid(outcome), expect);
        let verdict = attempts.judge(outcome, Relief::None, &mut Budget::new(now), now);
        assert_eq!(verdict, Verdict::Retry);
    }
    let mut attempts = Attempts::new(&TrafficSettings::default(), "GET", None, now);
    attempts.begin(now);
    for outcome in [Outcome::TimedOut, Outcome::Shed] {
        let avoid = attempts.avoid(outcome);
        assert_eq!(avoid, Avoid::Cluster, "{outcome:?}");
    }
    assert_eq!(attempts.avoid(replied(503)), Avoid::Workload);
}

#[test]
fn timeouts_connect_try_and_request() {
    let start = Instant::now();
    let mut settings = TrafficSettings::default();
    settings.timeout.request = 1000 * MS;
    settings.timeout.per_try = 400 * MS;
    settings.timeout.connect = 100 * MS;
    let mut attempts = Attempts::new(&settings, "GET", None, start);
    assert_eq!(attempts.next_timeout(), Some(start + 400 * MS));
    attempts.begin(start);
    assert_eq!(attempts.next_timeout(), Some(start + 100 * MS));
    assert_eq!(attempts.expired(start + 99 * MS), None);
    assert_eq!(
        attempts.expired(start + 100 * MS),
        Some(Outcome::ConnectFailed)
    );
    let _sent = attempts.commit();
    assert_eq!(attempts.next_timeout(), Some(start + 400 * MS));
    assert_eq!(attempts.expired(start + 399 * MS), None);
    assert_eq!(attempts.expired(start + 400 * MS), Some(Outcome::TimedOut));
    attempts.begin(start + 800 * MS);
    let _sent = attempts.commit();
    assert_eq!(attempts.next_timeout(), Some(start + 1000 * MS));
    assert_eq!(attempts.remaining(start + 800 * MS), Some(200 * MS));
    assert_eq!(attempts.remaining(start + 2000 * MS), Some(Duration::ZERO));
}

#[test]
fn zero_means_none_and_the_shorter_deadline_holds() {
    let now = Instant::now();
    let mut settings = TrafficSettings::default();
    settings.timeout.connect = Duration::ZERO;
    for (request, inherited, expect) in [
        (0, None, None),
        (0, Some(70), Some(70)),
        (50, Some(70), Some(50)),
        (90, Some(70), Some(70)),
        (90, Some(0), Some(0)),
    ] {
        settings.timeout.request = request * MS;
        let inherited = inherited.map(|ms: u32| ms * MS);
        let mut attempts = Attempts::new(&settings, "GET", inherited, now);
        attempts.begin(now);
        let expect = expect.map(|ms: u32| now + ms * MS);
        assert_eq!(attempts.next_timeout(), expect, "{request} {inherited:?}");
    }
    // Longer than time itself: none, and no panic.
    settings.timeout.request = Duration::MAX;
    settings.timeout.per_try = Duration::MAX;
    let attempts = Attempts::new(&settings, "GET", None, now);
    assert_eq!(attempts.next_timeout(), None);
}

#[test]
fn short_replies_are_held_while_a_retry_could_make_them_good() {
    let now = Instant::now();
    let settings = TrafficSettings::default();
    let begun = |method| {
        let mut attempts = Attempts::new(&settings, method, None, now);
        attempts.begin(now);
        attempts
    };
    for (length, expect) in [
        (Some(0), true),
        (Some(HELD_BYTES), true),
        (Some(HELD_BYTES + 1), false),
        (None, false),
    ] {
        assert_eq!(begun("GET").holds_reply(length, now), expect, "{length:?}");
    }
    assert!(!begun("POST").holds_reply(Some(1), now));
    assert!(!begun("GET").holds_reply(Some(1), now + Duration::from_secs(15)));
    let mut streamed = begun("PUT");
    streamed.lose_body();
    assert!(!streamed.holds_reply(Some(1), now));
    let mut last = begun("GET");
    for more in [true, false] {
        let _sent = last.commit();
        let _verdict = last.judge(Outcome::Reset, Relief::None, &mut Budget::new(now), now);
        last.begin(now);
        assert_eq!(last.holds_reply(Some(1), now), more);
    }
}

proptest! {
    /// Whatever happens to a request that is not idempotent: once bytes went out and the end is
    /// unknown there is no further try. And no request is tried more often than it may be.
    #[test]
    fn nothing_is_executed_twice_that_must_not_be(
        post in any::<bool>(), retries in 0u32..5,
        ends in proptest::collection::vec((0u8..8, any::<bool>(), 0u8..3), 1..12),
    ) {
        let now = Instant::now();
        let mut settings = TrafficSettings::default();
        settings.retry.attempts = retries;
        let method = if post { "POST" } else { "GET" };
        let mut attempts = Attempts::new(&settings, method, None, now);
        let mut budget = Budget::new(now);
        let (mut unknown, mut handed_out) = (false, 0);
        for (end, sent, relief) in ends {
            let relief = match relief {
                0 => Relief::None,
                1 => Relief::Room,
                _ => Relief::Moves,
            };
            attempts.begin(now);
            if sent {
                let _sent = attempts.commit();
            }
            let outcome = match end {
                0 => Outcome::ConnectFailed,
                1 => REFUSED,
                2 => Outcome::Drained,
                3 => Outcome::Reset,
                4 => Outcome::TimedOut,
                5 => replied(503),
                6 => Outcome::Cancelled,
                _ => Outcome::Lost,
            };
            unknown |= sent && matches!(end, 3 | 4 | 6 | 7);
            let verdict = attempts.judge(outcome, relief, &mut budget, now);
            let nothing_sent = matches!(end, 0 | 2) || (!sent && end != 5);
            handed_out += u32::from(!nothing_sent);
            prop_assert!(handed_out <= retries + 1);
            prop_assert!(attempts.tries() <= retries + 1 + MOST_UNSENT);
            match verdict {
                Verdict::Retry => prop_assert!(!(post && unknown)),
                Verdict::Deliver => { prop_assert_eq!(end, 5); break }
                Verdict::GiveUp { maybe_executed, .. } => {
                    prop_assert_eq!(maybe_executed, unknown);
                    break
                }
            }
        }
    }
}
