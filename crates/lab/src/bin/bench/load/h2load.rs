//! h2load: a closed loop of HTTP/2, GETs or calls of gRPC.

use std::process::Command;
use std::time::Duration;

use isthmus_lab::mesh::run as run_command;
use isthmus_lab::traffic::frame;
use isthmus_lab::trouble::{During, Result, Trouble, ensure};

use super::Done;
use crate::program::BODY;
use crate::stage::Way;

/// Requests under way on each connection.
const STREAMS: usize = 16;

/// Runs h2load with one thread.
pub(super) fn run(
    way: &Way,
    is_grpc: bool,
    connections: usize,
    duration: Duration,
) -> Result<Done> {
    let mut command = Command::new("h2load");
    command.args(["-t1", "--warm-up-time=0"]);
    command.arg(format!("-m{STREAMS}"));
    command.arg(format!("-c{connections}"));
    command.arg(format!("-D{}", duration.as_secs()));
    command.arg(format!("--connect-to={}", way.address));
    let mut length = BODY.len();
    if is_grpc {
        let message = frame(b"sixteen bytes so");
        let file = way.folder.join("message");
        std::fs::write(&file, message).during(|| file.display().to_string())?;
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        command.arg("-d").arg(file);
        length = frame(&BODY).len();
    }
    command.arg(format!("http://{}/bench.Bench/Unary", way.host));
    let said = run_command(&mut command)?.expect(0)?;
    parse(&said.out, length)
}

/// Errors: it is nothing that h2load says when all was well. `length`: of each reply's body.
fn parse(text: &str, length: usize) -> Result<Done> {
    let odd = || Trouble(format!("requests failed:\n{text}"));
    let numbers = |begins: &str| -> Option<Vec<f64>> {
        let line = text.lines().find(|line| line.starts_with(begins))?;
        let words = line.split(|c: char| !c.is_ascii_digit() && c != '.');
        Some(words.filter_map(|word| word.parse().ok()).collect())
    };
    let requests = numbers("requests: ").ok_or_else(odd)?;
    let statuses = numbers("status codes: ").ok_or_else(odd)?;
    let took = numbers("finished in ").ok_or_else(odd)?;
    let (&[_, started, _, succeeded, failed, errored, timeout], &[good, ..], &[took, ..]) =
        (&requests[..], &statuses[..], &took[..])
    else {
        return Err(odd());
    };
    // Replies that were under way when it ended have brought a part of their bodies.
    let data = data(text).ok_or_else(odd)? / number(length);
    let is_whole = (succeeded..=started).contains(&data);
    let is_good = succeeded > 0.0 && good >= succeeded && failed + errored + timeout == 0.0;
    ensure(is_whole && is_good, || odd().0)?;
    Ok(Done {
        count: succeeded,
        took: Duration::from_secs_f64(took),
        p50: None,
        p99: None,
    })
}

/// Bytes of all bodies: the number before `) data`.
fn data(text: &str) -> Option<f64> {
    let before = text.split(") data").next()?;
    before.rsplit('(').next()?.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "no reply is that long")]
fn number(length: usize) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
starting benchmark...
Application protocol: h2c
finished in 1.00s, 4874.00 req/s, 4.93MB/s
requests: 4874 total, 4878 started, 4874 done, 4874 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4874 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 4.93MB (5166864) total, 43.04KB (44070) headers (space savings 87.44%), 4.76MB (4990976) data
                     min         max         mean         sd        +/- sd
time for request:      349us      9.58ms       785us       676us    95.71%
";

    #[test]
    fn what_h2load_says_is_understood() {
        let expect = Done {
            count: 4874.0,
            took: Duration::from_secs(1),
            p50: None,
            p99: None,
        };
        assert_eq!(parse(GOOD, 1024), Ok(expect));
    }

    #[test]
    fn requests_that_failed_or_brought_too_little_fail_the_run() {
        assert!(parse(GOOD, 1029).is_err());
        for (from, to) in [
            ("0 failed", "3 failed"),
            ("0 timeout", "1 timeout"),
            ("4874 2xx", "4870 2xx"),
            ("(4990976) data", "(4990975) data"),
            ("4874 succeeded", "0 succeeded"),
            ("requests:", "nothing:"),
        ] {
            assert!(parse(&GOOD.replace(from, to), 1024).is_err(), "{to}");
        }
    }
}
