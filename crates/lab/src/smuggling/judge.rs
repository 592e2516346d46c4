//! What was heard and logged, held against each other. Pure: it is given everything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Id;
use super::cases::{Case, Expect};
use super::cases2::{Case2, Expect2};
use super::front::{End, Heard};
use super::front2::Heard2;

/// What the three logs say of one server.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Of the caller's proxy.
    pub(super) source: Vec<Line>,
    /// Of the server's proxy.
    pub(super) destination: Vec<Line>,
    /// Of the server itself.
    pub(super) server: Vec<Seen>,
}

/// A line of an access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) reporter: String,
    pub(super) service: Option<String>,
    pub(super) key: Key,
    pub(super) status: Option<u64>,
    pub(super) refusal: Option<String>,
    /// Times that it was handed on.
    pub(super) attempts: u64,
}

/// A line of a server's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) key: Key,
}

/// Method and target without its query, as every server can log it: letters, digits, `/` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(String);

impl Key {
    /// Does it belong to the suite's own questions, whether a server is ready and a log complete?
    pub(super) fn is_of_suite(&self) -> bool {
        self.0 == "GET /READY" || self.0.starts_with("GET /END-OF-")
    }

    pub(super) fn of(method: &str, target: &str) -> Self {
        let target = target.split('?').next().unwrap_or_default();
        // An absolute target is written in origin-form by the time a server sees it.
        let mut text = format!("{method} {}", without_escapes(target));
        // Some servers write methods in capitals, whatever came.
        text.make_ascii_uppercase();
        text.retain(|c: char| c.is_ascii_alphanumeric() || " /-_".contains(c));
        Self(text)
    }
}

/// Without `\x1f` or `#1F`, which is how some servers write what they do not print, and what it stands
/// for. No request that is taken has a `#` of its own.
fn without_escapes(text: &str) -> String {
    let text = text.replace("\\x", "#");
    let mut parts = text.split('#');
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str(part.get(2..).unwrap_or_default());
    }
    clean
}

impl Line {
    /// `None`: it is no line of an access log.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        Some(Self {
            reporter: text("reporter")?,
            service: text("destination_service"),
            key: Key::of(
                &text("method").unwrap_or_default(),
                &text("path").unwrap_or_default(),
            ),
            status: line["response_code"].as_u64(),
            refusal: text("refusal"),
            attempts: line["attempts"].as_u64()?,
        })
    }
}

impl Line {
    /// As a server does that has understood the request.
    fn is_answered(&self) -> bool {
        matches!(self.status, Some(200 | 404))
    }
}

impl Seen {
    /// `STATUS METHOD TARGET`, with anything behind it.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let status = words.next()?.parse().ok()?;
        let (method, target) = (words.next()?, words.next().unwrap_or_default());
        Some(Self {
            status,
            key: Key::of(method, target),
        })
    }

    /// Did the server find it malformed? That is no request, but bytes that were taken for one.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(
            self.status,
            400 | 408 | 411 | 413 | 414 | 417 | 431 | 494 | 501 | 505
        )
    }
}

/// Of the words by which malformed requests are counted, those that the cases must have caused.
const REASONS: [&str; 20] = [
    "bare-cr",
    "bare-lf",
    "chunk-end",
    "chunk-size",
    "chunk-size-overflow",
    "content-length",
    "content-lengths-differ",
    "field-name",
    "field-value",
    "folded",
    "head-too-large",
    "host",
    "host-missing",
    "length-and-transfer-coding",
    "nul",
    "request-line",
    "request-line-too-long",
    "space-before-colon",
    "transfer-coding",
    "version",
];

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<String>);

impl Findings {
    pub(super) fn into_lines(self) -> Vec<String> {
        self.0
    }

    /// Has each request of the case been taken or refused as it should?
    pub(super) fn check_case(&mut self, case: &Case, heard: &Heard) {
        let found: Vec<String> = heard
            .answers
            .iter()
            .map(|answer| match &answer.refusal {
                Some(refusal) => format!("{} {refusal}", answer.status),
                None => "taken".to_owned(),
            })
            .collect();
        let expected: Vec<String> = case.expect.iter().map(ToString::to_string).collect();
        let broken_off = case.expect.last() == Some(&Expect::BrokenOff);
        let same = if broken_off {
            // The request had begun when it turned out to be malformed: a refusal may still come.
            let before = &expected[..expected.len() - 1];
            let refused = |found: &String| found.starts_with("400 ");
            found.starts_with(before)
                && found[before.len()..].iter().all(refused)
                && found.len() <= expected.len()
        } else {
            found == expected
        };
        if !same {
            self.0.push(format!(
                "case {:?}: {found:?} instead of {expected:?}",
                case.name
            ));
        }
    }

    /// As [`Findings::check_case`], for one that was said in HTTP/2.
    pub(super) fn check_case2(&mut self, case: &Case2, heard: &Heard2) {
        let answer = heard.answers[0].as_ref();
        let refusal = answer.and_then(|answer| answer.refusal.as_deref());
        let is_as_expected = match (case.expect, answer) {
            (Expect2::Taken, Some(_)) => refusal.is_none(),
            (Expect2::TurnedAway, None) => true,
            (Expect2::TurnedAway, Some(answer)) => matches!(answer.status, 400 | 431),
            (Expect2::Refused(status, ""), Some(answer)) => status == answer.status,
            (Expect2::Refused(status, reason), Some(answer)) => {
                (status, Some(reason)) == (answer.status, refusal)
            }
            (_, None) => false,
        };
        if !is_as_expected {
            let found = answer.map(|answer| (answer.status, refusal));
            self.0.push(format!(
                "case of HTTP/2 {:?}: {found:?} instead of {:?}",
                case.name, case.expect
            ));
        }
    }

    /// Is what the cases get refused for counted, each under its own word?
    pub(super) fn check_reasons(&mut self, counted: &BTreeSet<String>) {
        for reason in REASONS {
            if !counted.contains(reason) {
                self.0
                    .push(format!("no metric counts {reason}: {counted:?}"));
            }
        }
    }

    /// Is every answer that of the connection that it came on?
    pub(super) fn check_answers(&mut self, id: Id, heard: &Heard) {
        if heard.end == End::Hangs {
            self.0.push(format!("{id}: the connection hangs"));
        }
        for answer in &heard.answers {
            let body = String::from_utf8_lossy(&answer.body);
            let foreign = ids(&body).find(|found| *found != id);
            if let (None, Some(foreign)) = (&answer.refusal, foreign) {
                self.0
                    .push(format!("{id}: got the answer to {foreign}: {body:?}"));
            }
        }
    }

    /// Does the server know only of requests that both proxies know of, and of all of them?
    pub(super) fn check_logs(&mut self, said: &Said) {
        let handed_by = |lines: &[Line]| {
            let mut times = BTreeMap::<Key, u64>::new();
            for line in lines {
                *times.entry(line.key.clone()).or_default() += line.attempts;
            }
            times
        };
        let (sent, delivered) = (handed_by(&said.source), handed_by(&said.destination));
        for (key, times) in &delivered {
            let known = sent.get(key).copied().unwrap_or_default();
            if known < *times {
                self.0.push(format!(
                    "{key:?}: the server's proxy has handed it over {times} times, the caller's {known}"
                ));
            }
        }
        let mut executed = BTreeMap::<&Key, u64>::new();
        let mut malformed = 0;
        for seen in &said.server {
            if seen.is_malformed() {
                malformed += 1;
            } else {
                *executed.entry(&seen.key).or_default() += 1;
            }
        }
        for (key, times) in &executed {
            let known = delivered.get(key).copied().unwrap_or_default();
            if known < *times {
                self.0.push(format!(
                    "SMUGGLED: the server has seen {key:?} {times} times, its proxy knows of {known}"
                ));
            }
        }
        for line in &said.destination {
            let answered = line.is_answered() && line.refusal.is_none();
            if answered && !executed.contains_key(&line.key) {
                self.0.push(format!(
                    "{:?} was answered, and the server has not seen it",
                    line.key
                ));
            }
        }
        // What a server finds malformed it must have been sent as a request, and have said so.
        let failed = |line: &&Line| line.attempts > 0 && !line.is_answered();
        let refused = said.destination.iter().filter(failed).count();
        if malformed > refused {
            self.0.push(format!(
                "SMUGGLED: the server was sent {malformed} times what is no request; {refused} \
                 requests have failed"
            ));
        }
    }
}

/// Every id of a connection in `text`.
fn ids(text: &str) -> impl Iterator<Item = Id> + '_ {
    let starts = text.char_indices().filter(|(_, c)| *c == 'q');
    starts.filter_map(|(at, _)| Id::parse(&text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smuggling::front::Answer;

    fn line(path: &str, status: u64, attempts: u64) -> Line {
        Line {
            reporter: String::new(),
            service: None,
            key: Key::of("GET", path),
            status: Some(status),
            refusal: None,
            attempts,
        }
    }

    fn judged(source: &[Line], destination: &[Line], server: &[&str]) -> Vec<String> {
        let mut findings = Findings::default();
        findings.check_logs(&Said {
            source: source.to_vec(),
            destination: destination.to_vec(),
            server: server.iter().filter_map(|line| Seen::parse(line)).collect(),
        });
        findings.into_lines()
    }

    #[test]
    fn what_nobody_has_handed_over_is_smuggled() {
        let good = line("/a", 200, 1);
        let one = std::slice::from_ref(&good);
        assert_eq!(judged(one, one, &["200 GET /a?x=1 HTTP/1.1"]), [""; 0]);
        for (server, words) in [
            (&["200 GET /a", "200 GET /admin"][..], "SMUGGLED"),
            (&["200 GET /a", "200 GET /a"], "SMUGGLED"),
            (&["200 GET /a", "400 GARBAGE"], "SMUGGLED"),
            (&[], "has not seen it"),
        ] {
            let found = judged(one, one, server);
            assert_eq!(found.len(), 1, "{server:?}: {found:?}");
            assert!(found[0].contains(words), "{found:?}");
        }
        let retried = [line("/a", 200, 2)];
        assert_eq!(judged(&retried, one, &["200 GET /a"]), [""; 0]);
        let found = judged(&[], one, &["200 GET /a"]);
        assert!(found[0].contains("the caller's 0"), "{found:?}");
        let refused = [line("/a", 400, 1)];
        assert_eq!(judged(&refused, &refused, &["400 GET /a"]), [""; 0]);
    }

    #[test]
    fn an_answer_belongs_to_its_connection() {
        let judged = |body: &str, end| {
            let mut findings = Findings::default();
            let answer = Answer {
                status: 200,
                refusal: None,
                body: body.into(),
            };
            let answers = vec![answer];
            findings.check_answers(Id(1), &Heard { answers, end });
            findings.into_lines().len()
        };
        assert_eq!(judged(&format!("GET /{}", Id(1)), End::Closed), 0);
        assert_eq!(judged("GET /q9999999z", End::Cut), 0);
        assert_eq!(judged(&format!("GET /{}", Id(2)), End::Closed), 1);
        let damaged = Id(2).to_string().replace("q0000002", "q0000003");
        assert_eq!(judged(&damaged, End::Closed), 0);
        assert_eq!(judged(&format!("GET /{}", Id(1)), End::Hangs), 1);
    }

    #[test]
    fn keys_are_what_all_logs_agree_on() {
        for (one, other) in [
            ("/a?b=c", "/a"),
            ("/a\\x7fb", "/a\u{fffd}b"),
            ("/a#22b", "/a\"b"),
            ("/A%20b", "/a%20b"),
        ] {
            assert_eq!(Key::of("GET", one), Key::of("GET", other));
        }
        assert_ne!(Key::of("GET", "/a"), Key::of("PUT", "/a"));
    }
}
