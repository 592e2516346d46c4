//! What was measured, as tables, as JSON, and as the page of the documentation.

use serde_json::{Map, Value, json};

use crate::machine::Split;
use crate::peers;
use crate::plan::{FIGURES, Figure, Who};
use crate::samples::{Measure, Row, Spread};
use crate::table::markdown;
use crate::targets;

/// All figures, and how they came to be.
#[derive(Debug)]
pub(crate) struct Report {
    /// For people: processors and kernel.
    pub(crate) machine: String,
    pub(crate) split: Option<Split>,
    /// `release`, `profile-guided release` or `debug`.
    pub(crate) profile: &'static str,
    /// What everybody says of itself.
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) rows: Vec<Row>,
}

/// In a cell of which nothing is known.
const NOTHING: &str = "-";

const HEADINGS: [&str; 12] = [
    "connections",
    "who",
    "proxies",
    "÷",
    "per second",
    "p50",
    "p99",
    "program",
    "client",
    "busiest worker %",
    "MiB",
    "KiB each",
];

impl Report {
    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let sections: Vec<String> = self
            .figures()
            .map(|figure| {
                format!(
                    "{} ({})\n\n{}\n",
                    figure.title,
                    figure.name,
                    self.table(figure)
                )
            })
            .collect();
        format!(
            "{}{}\nproxies, program, client: CPU µs per request, MB or connection; p50, p99: µs; ÷: isthmus's CPU µs by this one's, of the same round.\n\
             Medians over rounds ({}, each run {} s), in parentheses the lowest and the highest.\n\
             {}; {} build, on {}.\n\
             {}\n\
             Of one processor, all else took at most {}.\n{}",
            sections.concat(),
            targets::table(&self.rows),
            self.rounds,
            self.seconds,
            self.versions.join("; "),
            self.profile,
            self.machine,
            self.processors(),
            self.others(),
            self.failures()
                .map_or(String::new(), |failures| failures + "\n"),
        )
    }

    /// Runs in which not every request was answered as it should be.
    pub(crate) fn failures(&self) -> Option<String> {
        let failed = self.rows.iter().filter(|row| row.failures() > 0);
        let lines = failed.map(|row| {
            format!(
                "{} of {} failed: {}",
                row.failures(),
                self.rounds,
                row.what()
            )
        });
        let lines: Vec<String> = lines.collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let mut shown = Map::new();
            shown.insert("figure".to_owned(), row.figure.name.into());
            shown.insert("connections".to_owned(), row.connections.into());
            shown.insert("who".to_owned(), row.entrant.who.name().into());
            shown.insert("unit".to_owned(), row.figure.load.unit().into());
            let measures = Measure::ALL.iter();
            shown.extend(measures.filter_map(|measure| {
                Some((measure.name().to_owned(), row.spread(*measure)?.json()))
            }));
            let ratio = self.own_by(row);
            shown.extend(ratio.map(|ratio| ("isthmusByThis".to_owned(), ratio.json())));
            Value::Object(shown)
        };
        json!({
            "machine": self.machine,
            "versions": self.versions,
            "profile": self.profile,
            "processors": self.split.map(|split| json!({"load": split.load, "mesh": split.mesh})),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "targets": targets::json(&self.rows),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// The page `docs/performance.md`, written by `command`.
    pub(crate) fn page(&self, command: &str) -> String {
        let figures: Vec<String> = self
            .figures()
            .map(|figure| {
                format!(
                    "### {}\n\n{}",
                    capitalised(figure.title),
                    self.table(figure)
                )
            })
            .collect();
        let configs = peers::FILES.map(|(name, text)| {
            format!(
                "<details><summary>{name}</summary>\n\n```\n{}\n```\n\n</details>",
                text.trim_end()
            )
        });
        PAGE.replace("{command}", command)
            .replace("{machine}", &self.machine)
            .replace("{versions}", &format!("- {}", self.versions.join("\n- ")))
            .replace("{profile}", self.profile)
            .replace("{processors}", &self.processors())
            .replace("{rounds}", &self.rounds.to_string())
            .replace("{seconds}", &self.seconds.to_string())
            .replace("{others}", &self.others())
            .replace("{disturbed}", &crate::DISTURBED_PERCENT.to_string())
            .replace("{targets}", targets::table(&self.rows).trim_end())
            .replace("{figures}", figures.join("\n").trim_end())
            .replace(
                "{failures}",
                &self.failures().unwrap_or("No run failed.".to_owned()),
            )
            .replace("{configs}", &configs.join("\n"))
    }

    /// What was measured.
    fn figures(&self) -> impl Iterator<Item = &'static Figure> {
        let is_measured =
            |figure: &&Figure| self.rows.iter().any(|row| row.figure.name == figure.name);
        FIGURES.iter().filter(is_measured)
    }

    /// The mesh's pair, measured as this row.
    fn own(&self, row: &Row) -> Option<&Row> {
        self.rows
            .iter()
            .find(|other| other.entrant.who == Who::Isthmus && other.is_like(row))
    }

    fn own_by(&self, row: &Row) -> Option<Spread> {
        let own = self
            .own(row)
            .filter(|own| own.entrant.who != row.entrant.who);
        own?.times(row, Measure::Cpu)
    }

    fn table(&self, figure: &Figure) -> String {
        let rows = self
            .rows
            .iter()
            .filter(|row| row.figure.name == figure.name);
        let rows: Vec<Vec<String>> = rows.map(|row| self.cells(row)).collect();
        let is_known = |column: &usize| rows.iter().any(|cells| cells[*column] != NOTHING);
        let columns: Vec<usize> = (0..HEADINGS.len()).filter(is_known).collect();
        let kept = |cells: &Vec<String>| columns.iter().map(|at| cells[*at].clone()).collect();
        let headings: Vec<&str> = columns.iter().map(|at| HEADINGS[*at]).collect();
        markdown(
            &headings,
            &["who"],
            &rows.iter().map(kept).collect::<Vec<_>>(),
        )
    }

    /// In the order of [`HEADINGS`].
    fn cells(&self, row: &Row) -> Vec<String> {
        let shown = |measure, digits| with_spread(row.spread(measure), digits);
        let median = |measure, digits| just_median(row.spread(measure), digits);
        let connections = match row.connections {
            0 => NOTHING.to_owned(),
            connections => connections.to_string(),
        };
        vec![
            connections,
            row.entrant.who.name().to_owned(),
            shown(Measure::Cpu, 1),
            with_spread(self.own_by(row), 2),
            median(Measure::Rate, 0),
            median(Measure::P50, 0),
            median(Measure::P99, 0),
            median(Measure::Program, 1),
            median(Measure::Client, 1),
            shown(Measure::Busiest, 0),
            shown(Measure::Resident, 1),
            median(Measure::PerConnection, 1),
        ]
    }

    fn processors(&self) -> String {
        match self.split {
            Some(Split { load, mesh }) => format!(
                "Clients and programs run on processor {load}, proxies, gateways and the relay on processor {mesh}."
            ),
            None => "There is one processor, which clients, programs and proxies share.".to_owned(),
        }
    }

    /// The worst of what disturbed the runs.
    fn others(&self) -> String {
        let others = self.rows.iter();
        let others = others.filter_map(|row| row.spread(Measure::Others));
        let others = others.map(|it| it.highest).fold(0.0, f64::max);
        let note = if others > crate::DISTURBED_PERCENT {
            ": it was not idle, and ratios are coarse"
        } else {
            ""
        };
        format!("{others:.0} %{note}")
    }
}

fn with_spread(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or(
        "-".to_owned(),
        |Spread {
             median,
             lowest,
             highest,
         }| { format!("{median:.digits$} ({lowest:.digits$}-{highest:.digits$})") },
    )
}

fn just_median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or(NOTHING.to_owned(), |spread| {
        format!("{:.digits$}", spread.median)
    })
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

const PAGE: &str = "\
# Performance

What a request costs through this mesh and through others. Every figure was measured by one run of

    {command}

which wrote this page, with a {profile} build, on {machine}. Absolute figures are of that machine and that hour; what to compare is
CPU time of the proxies, as a ratio of runs of one round.

{versions}

## Targets

Ratios are of runs of one round, with all default features on. What the time goes into, and so why some are missed, is in
[Where the time goes](where-time-goes.md).

{targets}

## Figures

`proxies`, `program` and `client` are CPU µs per request, MB, connection or handshake, `proxies` of all proxies and gateways on
the way together; p50 and p99 are µs. `MiB` is the resident memory (VmRSS) of the larger of the two proxies, `KiB each` what it
has grown by for each connection, `busiest worker %` the part of one worker in what all of its process take. `÷` is isthmus's CPU time divided by this one's. Each figure is the median over {rounds} rounds, in parentheses the
lowest and the highest.

{figures}

{failures}

## Who takes part

- **isthmus**: client → caller's proxy → mutual TLS → callee's proxy → program, in one cluster, with all defaults.
- **isthmus-wide**: the same with two workers in each proxy, on the one processor of all proxies: what several workers cost each
  other shows, and how even their parts are; what they win takes more processors than this machine has.
- **isthmus-cross**: client → caller's proxy → relay → gateway of the other cluster → callee's proxy → program: mutual TLS
  between the proxies inside mutual TLS to the gateway. The relay stands for the network and adds no delay; its CPU time is not counted,
  but it takes turns with the proxies on their processor.
- **haproxy-http2**, **haproxy-http1**: two HAProxy, HTTP/2 or HTTP/1.1 between them.
- **nginx**: two nginx, HTTP/1.1 between them.
- **envoy**: two Envoy, HTTP/2 between them.

All proxies have one worker, access logs off, kept connections to each other and to the program, TLS 1.3, and
certificates of P-256 that both sides verify. The mesh exchanges keys by X25519MLKEM768, HAProxy and nginx by X25519, since their
OpenSSL has no better; all three seal with TLS_AES_256_GCM_SHA384. Envoy's BoringSSL chooses for itself. The handshake figure is by
X25519MLKEM768 for both that take part. A chain of the mesh has two certificates, one more than those of the others.

A profile-guided release of the mesh is laid out by what it was seen doing under these very loads
([decision 20](decisions/0020-releases-are-laid-out-by-a-mesh-under-load.md)); the others are as their makers, or Debian, built them for everybody.

## Method

- Everybody has the same client and the same program. wrk is the client of HTTP/1.1, h2load that of HTTP/2 and gRPC: a closed
  loop, each connection sends its next request when the reply is there. Latency at a rate is measured by an open loop: each request is
  sent when it is due, whatever became of those before, and its latency counts from then. A run in which any request fails is no figure
  of that round, and is told below the figures.
- A handshake offers no resumption and counts when the server has said something in the session or taken the goodbye.
- Memory is looked at in processes that were just started, anew for each figure and round.
- A round runs everybody once for a figure, one after the other: a second that does not count, then {seconds} s that do. A ratio
  is of two runs of the same round.
- CPU time is user and system time of all processes on the way, from `/proc/PID/stat`. A run in which a proxy on
  the way used none is refused. The mesh's health checks and its proxies' talk with the control plane are in it.
- {processors} So requests per second of all proxies on a way together are those of one processor.
- All else that the machine did in a run, idle proxies and control planes included, took of one processor at most {others}. A run is
  run again when that was more than {disturbed} %, twice at most; the least disturbed one counts.

## Configuration of the others

{configs}
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Sample;

    fn report() -> Report {
        let figure = FIGURES.iter().find(|it| it.name == "pair-http1").unwrap();
        let row = |entrant: usize, cpu: f64| Row {
            figure,
            connections: 16,
            entrant: figure.entrants[entrant],
            samples: [1.0, 2.0, 3.0]
                .map(|scale| {
                    Sample::from([(Measure::Cpu, scale * cpu), (Measure::Others, 2.0 * scale)])
                })
                .to_vec(),
        };
        Report {
            machine: "2 processors".to_owned(),
            split: Some(Split { load: 0, mesh: 1 }),
            profile: "release",
            versions: vec!["isthmus 1".to_owned(), "other 2".to_owned()],
            rounds: 3,
            seconds: 5,
            rows: vec![row(0, 10.0), row(1, 20.0)],
        }
    }

    #[test]
    fn tables_show_what_there_is() {
        let text = report().text();
        let words = |line: usize| -> String {
            let line = text.lines().nth(line).unwrap();
            line.split('|').map(str::trim).collect::<Vec<_>>().join("|")
        };
        assert_eq!(words(4), "|16|isthmus|20.0 (10.0-30.0)|-|");
        assert_eq!(
            words(5),
            "|16|haproxy-http2|40.0 (20.0-60.0)|0.50 (0.50-0.50)|"
        );
    }

    #[test]
    fn json_names_every_figure() {
        let json = report().json();
        let row = &json["rows"][1];
        assert_eq!(row["proxiesCpuMicros"]["median"], 40.0);
        assert_eq!(row["isthmusByThis"]["highest"], 0.5);
        assert!(row["p50Micros"].is_null());
    }

    #[test]
    fn the_page_has_everything_filled_in() {
        let page = report().page("make bench");
        let without_configs = page.split("## Configuration").next().unwrap();
        assert!(!without_configs.contains(['{', '}']), "{page}");
        assert!(page.contains("at most 6 %"), "{page}");
    }
}
