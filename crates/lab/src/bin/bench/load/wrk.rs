//! wrk: a closed loop of HTTP/1.1.

use std::process::Command;
use std::time::Duration;

use isthmus_lab::mesh::run as run_command;
use isthmus_lab::trouble::{Result, Trouble, ensure};

use super::Done;
use crate::stage::Way;

/// Runs wrk with one thread.
pub(super) fn run(way: &Way, path: &str, connections: usize, duration: Duration) -> Result<Done> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency"]);
    command.arg(format!("-c{connections}"));
    command.arg(format!("-d{}s", duration.as_secs()));
    command.arg(format!("-HHost: {}", way.host));
    command.arg(format!("http://{}{path}", way.address));
    let said = run_command(&mut command)?.expect(0)?;
    parse(&said.out)
}

/// Errors: it is nothing that wrk says when all was well.
fn parse(text: &str) -> Result<Done> {
    let odd = |what: &str| Trouble(format!("{what}:\n{text}"));
    for bad in ["Socket errors", "Non-2xx"] {
        ensure(!text.contains(bad), || odd("requests failed").0)?;
    }
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let line = |has: &str| text.lines().find(|line| line.contains(has)).map(words);
    let total = line(" requests in ").ok_or_else(|| odd("wrk said no total"))?;
    let count: Option<f64> = total.first().and_then(|count| count.parse().ok());
    let took = total
        .get(3)
        .and_then(|took| micros(took.trim_end_matches(',')));
    let latency = |share: &str| line(share).and_then(|words| micros(words.get(1)?));
    match (count, took) {
        (Some(count), Some(took)) if count > 0.0 => Ok(Done {
            count,
            took: Duration::from_secs_f64(took / 1_000_000.0),
            p50: latency(" 50% "),
            p99: latency(" 99% "),
        }),
        _ => Err(odd("wrk counted nothing")),
    }
}

/// Such as 640.00us, 1.26ms, 5.00s, 1.50m.
fn micros(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1_000.0,
        "s" => 1_000_000.0,
        "m" => 60_000_000.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
Running 1s test @ http://127.0.7.12:8002/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   640.06us  402.29us   5.86ms   86.91%
    Req/Sec    26.20k     2.30k   29.98k    63.64%
  Latency Distribution
     50%  543.00us
     75%  727.00us
     90%    1.02ms
     99%    2.33ms
  28676 requests in 1.10s, 30.54MB read
Requests/sec:  26090.75
Transfer/sec:     27.79MB
";

    #[test]
    fn what_wrk_says_is_understood() {
        let expect = Done {
            count: 28_676.0,
            took: Duration::from_millis(1100),
            p50: Some(543.0),
            p99: Some(2330.0),
        };
        assert_eq!(parse(GOOD), Ok(expect));
    }

    #[test]
    fn requests_that_failed_fail_the_run() {
        for line in [
            "  Socket errors: connect 0, read 12, write 0, timeout 0\n",
            "  Non-2xx or 3xx responses: 5\n",
        ] {
            assert!(parse(&format!("{GOOD}{line}")).is_err(), "{line}");
        }
        assert!(parse("unable to connect to 127.0.7.12:8002 Connection refused").is_err());
        assert!(parse(&GOOD.replace("28676", "0")).is_err());
    }

    #[test]
    fn times_have_units() {
        for (text, expect) in [
            ("543.00us", Some(543.0)),
            ("1.02ms", Some(1020.0)),
            ("5.00s", Some(5_000_000.0)),
            ("1.50m", Some(90_000_000.0)),
            ("1.50", None),
            ("", None),
        ] {
            assert_eq!(micros(text), expect, "{text}");
        }
    }
}
