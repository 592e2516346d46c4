//! What was measured, as a table, as JSON, and as the page of the documentation.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::figures::{FIGURES, RATIOS, Row, Spread};
use crate::machine::Split;
use crate::paths::WAYS;

/// All figures, and how they came to be.
#[derive(Debug)]
pub(crate) struct Report {
    /// For people: processors and kernel.
    pub(crate) machine: String,
    pub(crate) split: Option<Split>,
    /// `release` or `debug`.
    pub(crate) profile: &'static str,
    /// What `isthmus --version` says.
    pub(crate) version: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) rows: Vec<Row>,
}

const HEADINGS: [&str; 12] = [
    "connections",
    "way",
    "requests/s",
    "proxies",
    "program",
    "client",
    "relay",
    "p50",
    "p99",
    "× requests/s",
    "× CPU",
    "× p50",
];

impl Report {
    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let Self {
            machine,
            profile,
            version,
            rounds,
            seconds,
            ..
        } = self;
        let (table, processors, others) = (self.table(), self.processors(), self.others());
        format!(
            "{table}\n\n\
             proxies, program, client, relay: CPU µs per request; p50, p99: µs; ×: times the direct way.\n\
             Medians over rounds ({rounds}, each run {seconds} s), in parentheses the lowest and the highest.\n\
             {version}, {profile} build, on {machine}.\n\
             {processors}\n\
             All else took at most {others} of one processor.\n"
        )
    }

    pub(crate) fn json(&self) -> Value {
        let spread = |spread: &Spread| json!({"median": spread.median, "lowest": spread.lowest, "highest": spread.highest});
        let row = |row: &Row| {
            let names = FIGURES.iter().map(|(name, _)| (*name).to_owned());
            let ratios = RATIOS.iter().map(|(name, _)| (*name).to_owned());
            let mut shown = Map::new();
            shown.insert("connections".to_owned(), row.connections.into());
            shown.insert("way".to_owned(), row.way.name.into());
            shown.extend(names.zip(row.figures.iter().map(spread)));
            let against: Map<_, _> = ratios.zip(row.against_direct.iter().map(spread)).collect();
            shown.insert("timesDirect".to_owned(), against.into());
            Value::Object(shown)
        };
        json!({
            "machine": self.machine,
            "version": self.version,
            "profile": self.profile,
            "processors": self.split.map(|split| json!({"load": split.load, "mesh": split.mesh})),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// The page `docs/performance.md`, written by `command`.
    pub(crate) fn page(&self, command: &str) -> String {
        let ways = WAYS.iter().fold(String::new(), |mut text, way| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- **{}**: {}.", way.name, way.what);
            text
        });
        PAGE.replace("{command}", command)
            .replace("{machine}", &self.machine)
            .replace("{version}", &self.version)
            .replace("{profile}", self.profile)
            .replace("{processors}", &self.processors())
            .replace("{rounds}", &self.rounds.to_string())
            .replace("{seconds}", &self.seconds.to_string())
            .replace("{others}", &self.others())
            .replace("{disturbed}", &crate::DISTURBED_PERCENT.to_string())
            .replace("{ways}", ways.trim_end())
            .replace("{table}", &self.table())
    }

    fn processors(&self) -> String {
        match self.split {
            Some(Split { load, mesh }) => format!(
                "Client and programs run on processor {load}, everything that `isthmus up` starts, the relay \
                 included, on processor {mesh}."
            ),
            None => "There is one processor, which client, programs and proxies share.".to_owned(),
        }
    }

    /// The worst of what disturbed the runs.
    fn others(&self) -> String {
        let last = FIGURES.len() - 1;
        let highest = self.rows.iter().map(|row| row.figures[last].highest);
        format!("{:.0} %", highest.fold(0.0, f64::max))
    }

    /// In Markdown, which is readable as it is.
    fn table(&self) -> String {
        let mut lines = vec![HEADINGS.map(str::to_owned)];
        lines.extend(self.rows.iter().map(cells));
        let widths: Vec<usize> = (0..HEADINGS.len())
            .map(|column| {
                let cells = lines.iter().map(|cells| cells[column].chars().count());
                cells.max().unwrap_or_default()
            })
            .collect();
        // The way is text; all others are numbers.
        let is_text = |column| column == 1;
        let mut text = Vec::new();
        for (index, cells) in lines.iter().enumerate() {
            let padded = cells.iter().zip(&widths).enumerate();
            let padded: Vec<String> = padded
                .map(|(column, (cell, &width))| {
                    if is_text(column) {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                })
                .collect();
            text.push(format!("| {} |", padded.join(" | ")));
            if index == 0 {
                let rules = widths.iter().enumerate().map(|(column, &width)| {
                    let end = if is_text(column) { '-' } else { ':' };
                    format!("{}{end}", "-".repeat(width - 1))
                });
                text.push(format!("| {} |", rules.collect::<Vec<_>>().join(" | ")));
            }
        }
        text.join("\n")
    }
}

/// A line of the table, in the order of [`HEADINGS`].
fn cells(row: &Row) -> [String; HEADINGS.len()] {
    let [rate, proxies, program, client, relay, p50, p99, _] = &row.figures;
    let [rate_ratio, cpu_ratio, p50_ratio] = &row.against_direct;
    let spread = |spread: &Spread, digits: usize| {
        let Spread {
            median,
            lowest,
            highest,
        } = spread;
        format!("{median:.digits$} ({lowest:.digits$}-{highest:.digits$})")
    };
    let when = |so: bool, text: String| if so { text } else { "-".to_owned() };
    [
        row.connections.to_string(),
        row.way.name.to_owned(),
        spread(rate, 0),
        when(!row.way.is_direct(), spread(proxies, 1)),
        format!("{:.1}", program.median),
        format!("{:.1}", client.median),
        when(row.way.crosses, format!("{:.1}", relay.median)),
        format!("{:.0}", p50.median),
        format!("{:.0}", p99.median),
        format!("{:.2}", rate_ratio.median),
        format!("{:.2}", cpu_ratio.median),
        format!("{:.2}", p50_ratio.median),
    ]
}

const PAGE: &str = "\
# Performance

What a request costs on each way through the mesh. Every figure was measured by one run of

    {command}

which wrote this page. {version}, {profile} build, on {machine}. Absolute figures are of that machine and that hour;
what to compare is CPU time per request, and each way with the direct one.

{table}

Proxies, program, client and relay are CPU µs per request; p50 and p99 are µs. `× requests/s`, `× CPU` and `× p50` are times
the direct way; `× CPU` is of client, program and proxies together, without the relay. Each figure is the median over
{rounds} rounds, in parentheses the lowest and the highest.

## The ways

{ways}

All end at the same program: it answers every GET with the same 1 KiB and does nothing else. (The demo shop's programs
log every request that they execute, which costs more than what is to be measured.)

## Method

- A closed loop: each connection is kept alive and sends its next request when the reply is there, so requests/s is what the
  slowest part sustains, and with many connections latency is mostly waiting for one's turn. Look at 1 connection for the latency
  of the way itself. Any request that fails, fails the whole measurement.
- A round runs every number of connections on every way, one after the other: a second that does not count, then {seconds} s
  that do. A ratio is of two runs of the same round.
- CPU time is user and system time of each process on the way, from `/proc/PID/stat`; proxies and gateways are summed. A run in
  which a process on the way used none is refused. Health checks and the talk with the control plane are in it.
- {processors} So requests/s of all proxies on a way together are those of one processor.
- The relay, which stands for the network between clusters on one machine, adds no delay here. Its CPU time is shown apart, but
  it takes turns with the proxies on their processor, so it lowers requests/s of the cross-cluster way.
- One worker thread per proxy, access logs off, TLS 1.3.
- All else that the machine did in a run, control planes and idle proxies included, took at most {others} of one processor. A run
  is run again when that was more than {disturbed} %, up to as many times in all as there are runs.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let value = |median: f64| Spread {
            median,
            lowest: median - 1.0,
            highest: median + 1.0,
        };
        let row = |way, scale: f64| Row {
            connections: 16,
            way: &WAYS[way],
            figures: [7000.0, 50.0, 4.0, 5.0, 6.0, 100.4, 300.6, 2.0].map(|f| value(f * scale)),
            against_direct: [0.25, 2.5, 3.0].map(value),
        };
        Report {
            machine: "2 processors".to_owned(),
            split: Some(Split { load: 0, mesh: 1 }),
            profile: "release",
            version: "isthmus 1".to_owned(),
            rounds: 3,
            seconds: 5,
            rows: vec![row(0, 1.0), row(3, 10.0)],
        }
    }

    #[test]
    fn tables_are_aligned_and_show_what_there_is() {
        let text = report().table();
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(
            widths.len() == 4 && widths.iter().all(|&width| width == widths[0]),
            "{text}"
        );
        let words = |line: usize| -> Vec<&str> {
            let line = text.lines().nth(line).unwrap();
            line.split('|').map(str::trim).collect()
        };
        let expect = "|16|direct|7000 (6999-7001)|-|4.0|5.0|-|100|301|0.25|2.50|3.00|";
        assert_eq!(words(2).join("|"), expect);
        assert_eq!(
            words(3)[4..8],
            ["500.0 (499.0-501.0)", "40.0", "50.0", "60.0"]
        );
    }

    #[test]
    fn json_names_every_figure() {
        let json = report().json();
        let row = &json["rows"][1];
        assert_eq!(row["proxiesCpuMicros"]["median"], 500.0);
        assert_eq!(row["othersPercent"]["highest"], 21.0);
        assert_eq!(row["timesDirect"]["cpu"]["lowest"], 1.5);
    }

    #[test]
    fn the_page_has_everything_filled_in() {
        let page = report().page("make bench");
        assert!(!page.contains(['{', '}']), "{page}");
        assert!(page.contains("at most 21 %"), "{page}");
    }
}
