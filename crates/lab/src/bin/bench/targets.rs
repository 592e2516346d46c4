//! What was aimed at, and what came of it.
//!
//! Pure: it measures nothing.

use serde_json::{Value, json};

use crate::plan::Who;
use crate::samples::{Measure, Row, Spread};
use crate::table::markdown;

/// A bound on a figure of ours.
#[derive(Debug)]
struct Target {
    what: &'static str,
    figure: &'static str,
    connections: usize,
    who: Who,
    measure: Measure,
    bound: Bound,
    /// `None`: there is no number that it could be held to.
    must: Option<f64>,
    aim: Option<f64>,
}

/// What a bound is in.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Times the best of these.
    Times(&'static [Who]),
    /// As it is measured, in this unit.
    Absolute(&'static str),
}

/// What came of a target.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outcome {
    measured: Spread,
    /// Who was the best.
    against: Option<Who>,
}

const PEERS: &[Who] = &[
    Who::HaproxyHttp2,
    Who::HaproxyHttp1,
    Who::HaproxyTcp,
    Who::Nginx,
    Who::Envoy,
];

const TARGETS: &[Target] = &[
    cpu(
        "plain hop, 64 connections",
        "hop",
        64,
        &[Who::Nginx],
        [0.85, 0.7],
    ),
    cpu(
        "pair, HTTP/1.1, 64 connections",
        "pair-http1",
        64,
        &[Who::HaproxyHttp2],
        [0.7, 0.55],
    ),
    cpu(
        "pair, HTTP/1.1, 1 connection",
        "pair-http1",
        1,
        &[Who::HaproxyHttp2, Who::HaproxyHttp1, Who::Nginx],
        [0.65, 0.55],
    ),
    cpu(
        "pair, HTTP/2, 64 at a time",
        "pair-http2",
        4,
        &[Who::Envoy],
        [0.3, 0.2],
    ),
    cpu(
        "pair, gRPC, 64 at a time",
        "pair-grpc",
        4,
        &[Who::Envoy],
        [0.3, 0.2],
    ),
    cpu("bytes, 1 connection", "bulk", 1, PEERS, [1.0, 0.8]),
    cpu("full handshake", "handshake", 8, &[Who::Envoy], [0.85, 0.7]),
    cpu(
        "new client connection, bytes",
        "new-tcp",
        16,
        &[Who::Envoy],
        [0.15, 0.1],
    ),
    cpu(
        "new client connection, HTTP/1.1",
        "new-http1",
        16,
        &[Who::Envoy],
        [0.15, 0.1],
    ),
    Target {
        measure: Measure::P50,
        aim: None,
        ..cpu("p50 at half load", "latency-half", 0, PEERS, [1.0, 1.0])
    },
    Target {
        measure: Measure::P99,
        aim: None,
        ..cpu("p99 at half load", "latency-half", 0, PEERS, [1.0, 1.0])
    },
    memory("resident, idle", "memory-idle", 0, [12.0, 8.0]),
    memory(
        "resident, 256 connections",
        "memory-active",
        256,
        [20.0, 14.0],
    ),
    Target {
        measure: Measure::PerConnection,
        bound: Bound::Absolute("KiB, TLS's own state included"),
        must: None,
        aim: None,
        ..memory(
            "per idle session of mutual TLS",
            "memory-sessions",
            2000,
            [0.0, 0.0],
        )
    },
    Target {
        who: Who::IsthmusCross,
        ..cpu(
            "into another cluster, 64 connections",
            "cross-cluster",
            64,
            &[Who::Isthmus],
            [1.7, 1.5],
        )
    },
];

const fn cpu(
    what: &'static str,
    figure: &'static str,
    connections: usize,
    others: &'static [Who],
    [must, aim]: [f64; 2],
) -> Target {
    Target {
        what,
        figure,
        connections,
        who: Who::Isthmus,
        measure: Measure::Cpu,
        bound: Bound::Times(others),
        must: Some(must),
        aim: Some(aim),
    }
}

const fn memory(
    what: &'static str,
    figure: &'static str,
    connections: usize,
    bounds: [f64; 2],
) -> Target {
    Target {
        measure: Measure::Resident,
        bound: Bound::Absolute("MiB"),
        ..cpu(what, figure, connections, &[], bounds)
    }
}

/// Each target of which anything was measured, whoever took part.
fn measured(rows: &[Row]) -> impl Iterator<Item = (&'static Target, Option<Outcome>)> {
    let is_measured = |target: &&Target| rows.iter().any(|row| target.is_of(row));
    let targets = TARGETS.iter().filter(is_measured);
    targets.map(|target| (target, target.outcome(rows)))
}

/// A line for each target.
pub(crate) fn table(rows: &[Row]) -> String {
    let lines = measured(rows).map(|(target, outcome)| target.cells(outcome));
    let lines: Vec<Vec<String>> = lines.collect();
    let headings = ["figure", "must", "aim", "measured", "times", "outcome"];
    markdown(&headings, &["figure", "times", "outcome"], &lines)
}

/// The same for programs.
pub(crate) fn json(rows: &[Row]) -> Vec<Value> {
    let shown = |(target, outcome): (&Target, Option<Outcome>)| {
        json!({
            "what": target.what,
            "figure": target.figure,
            "connections": target.connections,
            "measure": target.measure.name(),
            "must": target.must,
            "aim": target.aim,
            "measured": outcome.map(|outcome| outcome.measured.json()),
            "times": outcome.and_then(|outcome| outcome.against).map(Who::name),
            "outcome": target.verdict(outcome),
        })
    };
    measured(rows).map(shown).collect()
}

impl Target {
    fn is_of(&self, row: &Row) -> bool {
        row.figure.name == self.figure && row.connections == self.connections
    }

    /// `None`: it was not measured.
    fn outcome(&self, rows: &[Row]) -> Option<Outcome> {
        let find = |who| {
            rows.iter()
                .find(|row| self.is_of(row) && row.entrant.who == who)
        };
        let own = find(self.who)?;
        let Bound::Times(others) = self.bound else {
            let measured = own.spread(self.measure)?;
            return Some(Outcome {
                measured,
                against: None,
            });
        };
        let median = |row: &Row| row.spread(self.measure).map(|spread| spread.median);
        let others = others.iter().filter_map(|who| find(*who));
        let others = others.filter_map(|row| Some((row, median(row)?)));
        let (best, _) = others.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(Outcome {
            measured: own.times(best, self.measure)?,
            against: Some(best.entrant.who),
        })
    }

    fn cells(&self, outcome: Option<Outcome>) -> Vec<String> {
        let unit = match self.bound {
            Bound::Times(_) => "x".to_owned(),
            Bound::Absolute(unit) => format!(" {unit}"),
        };
        let bound = |bound: Option<f64>| bound.map_or("-".to_owned(), |at| format!("≤ {at}{unit}"));
        let measured = outcome.map_or("-".to_owned(), |outcome| {
            let Spread {
                median,
                lowest,
                highest,
            } = outcome.measured;
            format!("{median:.2} ({lowest:.2}-{highest:.2})")
        });
        let against = outcome.and_then(|outcome| outcome.against);
        vec![
            self.what.to_owned(),
            bound(self.must),
            bound(self.aim),
            measured,
            against.map_or("-", Who::name).to_owned(),
            self.verdict(outcome).to_owned(),
        ]
    }

    fn verdict(&self, outcome: Option<Outcome>) -> &'static str {
        let Some(median) = outcome.map(|outcome| outcome.measured.median) else {
            return "not measured";
        };
        match (self.must, self.aim) {
            (None, _) => "-",
            (_, Some(aim)) if median <= aim => "aim reached",
            (Some(must), _) if median <= must => "held",
            _ => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::FIGURES;
    use crate::samples::Sample;

    fn row(figure: &str, connections: usize, who: Who, values: [f64; 2]) -> Row {
        let figure = FIGURES.iter().find(|each| each.name == figure).unwrap();
        let entrant = figure.entrants.iter().find(|each| each.who == who);
        Row {
            figure,
            connections,
            entrant: *entrant.unwrap(),
            samples: values
                .map(|cpu| Sample::from([(Measure::Cpu, cpu), (Measure::Resident, cpu)]))
                .to_vec(),
        }
    }

    fn verdicts(rows: &[Row]) -> Vec<String> {
        let table = table(rows);
        let lines = table.lines().skip(2);
        lines
            .map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                cells[4..7].join(" ")
            })
            .collect()
    }

    #[test]
    fn every_target_is_of_a_figure_that_is_measured() {
        for target in TARGETS {
            let figure = FIGURES.iter().find(|each| each.name == target.figure);
            let figure = figure.unwrap_or_else(|| panic!("{}", target.figure));
            assert!(
                figure.connections.contains(&target.connections),
                "{}",
                target.what
            );
        }
    }

    #[test]
    fn the_best_of_the_others_is_the_measure() {
        let rows = [
            row("pair-http1", 1, Who::Isthmus, [6.0, 60.0]),
            row("pair-http1", 1, Who::Nginx, [20.0, 200.0]),
            row("pair-http1", 1, Who::HaproxyHttp1, [10.0, 100.0]),
            row("pair-http1", 1, Who::Envoy, [1.0, 1.0]),
        ];
        assert_eq!(verdicts(&rows), ["0.60 (0.60-0.60) haproxy-http1 held"]);
    }

    #[test]
    fn bounds_are_held_reached_or_missed() {
        for (resident, expect) in [(8.0, "aim reached"), (12.0, "held"), (12.1, "missed")] {
            let rows = [row("memory-idle", 0, Who::Isthmus, [resident; 2])];
            let verdict = verdicts(&rows).join("");
            assert!(verdict.ends_with(expect), "{verdict}");
            let json = json(&rows);
            assert_eq!(json[0]["measured"]["median"], resident);
            assert!(json[0]["outcome"] == expect && json[0]["times"].is_null());
        }
        let theirs = [row("hop", 64, Who::Nginx, [1.0; 2])];
        assert_eq!(verdicts(&theirs), ["- - not measured"]);
    }
}
