//! `isthmus load` beside what is done to the mesh, and what it has to say afterwards.
//!
//! GETs at the rate that is asked for, and slower POSTs whose executions are counted from what the
//! programs logged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, wait_for};
use serde_json::Value;

/// A load that runs. Dropped, it is killed.
pub(crate) struct Load {
    child: Child,
    report: PathBuf,
    requests: PathBuf,
}

/// What became of a load.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// When its first request was due.
    started: SystemTime,
    pub(crate) requests: Vec<Request>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: String,
    /// After the start.
    pub(crate) due: Duration,
    /// That served it.
    pub(crate) cluster: Option<String>,
    /// Why it counts as failed.
    pub(crate) failed: Option<String>,
    /// What the mesh says of it.
    pub(crate) detail: Option<String>,
}

/// It never ends by itself.
const ENDLESS: &str = "6h";

impl Load {
    /// Starts a load on shop/`service` from us-west, and waits for its first replies.
    pub(crate) fn start(mesh: &Mesh, service: &str, method: &str, rate: u32) -> Result<Self> {
        let path = |end: &str| super::scratch(mesh, &format!("{service}-{method}.{end}"));
        let (report, requests) = (path("json"), path("jsonl"));
        let create = |path: &Path| File::create(path).during(|| path.display().to_string());
        let rate = rate.to_string();
        let mut command = mesh.command(&["load", &format!("shop/{service}")]);
        command
            .args(["--from", "us-west", "--method", method, "--rate", &rate])
            .args(["--duration", ENDLESS, "-o", "json", "--allow-failures"])
            .arg("--log")
            .arg(&requests)
            .stdin(Stdio::null())
            .stdout(create(&report)?)
            .stderr(create(&path("err"))?);
        let child = command.spawn().during(|| "isthmus load".to_owned())?;
        let mut load = Self {
            child,
            report,
            requests,
        };
        wait_for("the first replies to a load", PATIENCE, || {
            let ended = load.child.try_wait().during(|| "isthmus load".to_owned())?;
            ensure(ended.is_none(), || format!("it has ended: {ended:?}"))?;
            let written = fs::metadata(&load.requests).during(|| "its log".to_owned())?;
            ensure(written.len() > 0, || "none yet".to_owned())
        })?;
        Ok(load)
    }

    /// Starts no more requests, waits for those that run, and reads what became of all.
    pub(crate) fn finish(mut self) -> Result<Loaded> {
        Process::with_id(self.child.id())?.interrupt()?;
        let status = wait_for("a load to end", 2 * PATIENCE, || {
            let ended = self.child.try_wait().during(|| "isthmus load".to_owned())?;
            ended.ok_or_else(|| Trouble("it still runs".to_owned()))
        })?;
        let read = |path: &Path| fs::read_to_string(path).during(|| path.display().to_string());
        let report = read(&self.report)?;
        ensure(status.success(), || format!("load: {status}: {report}"))?;
        let report = json(&report)?;
        let requests = read(&self.requests)?;
        let requests: Vec<Request> = requests.lines().map(request).collect::<Result<_>>()?;
        ensure(report["total"]["requests"] == requests.len(), || {
            format!(
                "{} requests are logged: {}",
                requests.len(),
                report["total"]
            )
        })?;
        let started = report["started"].as_str().and_then(rfc3339);
        Ok(Loaded {
            started: started.ok_or_else(|| Trouble(format!("no start: {report}")))?,
            requests,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has ended, or something has failed and nobody wants it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Loaded {
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// Requests that were due in `length` from `from` on and did not fail, by the cluster that
    /// served them.
    pub(crate) fn served(&self, from: SystemTime, length: Duration) -> BTreeMap<&str, usize> {
        let from = from.duration_since(self.started).unwrap_or_default();
        let mut served = BTreeMap::new();
        for request in &self.requests {
            if (from..from + length).contains(&request.due)
                && request.failed.is_none()
                && let Some(cluster) = &request.cluster
            {
                *served.entry(cluster.as_str()).or_default() += 1;
            }
        }
        served
    }

    /// The first of those that failed, as people read them.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.requests.iter().filter_map(|request| {
            let reason = request.failed.as_ref()?;
            let due = request.due.as_secs_f64();
            let detail = request.detail.as_deref().unwrap_or("no detail");
            Some(format!(
                "{} due at {due:.3} s: {reason}: {detail}",
                request.id
            ))
        });
        failed.collect()
    }
}

/// How often each request of `service` was executed, by its id, as all its programs in these clusters
/// have logged.
pub(crate) fn executed(
    mesh: &Mesh,
    clusters: &[&str],
    service: &str,
) -> Result<BTreeMap<String, usize>> {
    let logs = mesh.home().join("logs");
    let mut executed = BTreeMap::new();
    for cluster in clusters {
        let folder = logs.join(cluster);
        let during = || folder.display().to_string();
        for entry in fs::read_dir(&folder).during(during)? {
            let path = entry.during(during)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with(&format!("{service}-")) {
                continue;
            }
            let text = fs::read_to_string(&path).during(|| path.display().to_string())?;
            for line in text.lines().filter(|line| line.contains("\"executed\"")) {
                let id = json(line)?["executed"].as_str().map(str::to_owned);
                *executed.entry(id.unwrap_or_default()).or_default() += 1;
            }
        }
    }
    Ok(executed)
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).during(|| format!("{text:?} is no JSON"))
}

/// A line of `load --log`.
fn request(line: &str) -> Result<Request> {
    let value = json(line)?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let due = value["scheduledMs"].as_f64();
    let (Some(id), Some(due)) = (text("id"), due) else {
        return Err(Trouble(format!("an odd line: {line}")));
    };
    Ok(Request {
        id,
        due: Duration::from_secs_f64(due / 1000.0),
        cluster: text("cluster"),
        failed: text("failed"),
        detail: text("detail"),
    })
}

/// A time such as `2026-11-21T09:30:00.123Z`.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator| -> Option<Vec<u64>> {
        text.split(separator)
            .map(|part| part.parse().ok())
            .collect()
    };
    let [year, month, day] = numbers(date, '-')?[..] else {
        return None;
    };
    let (time, millis) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':')?[..] else {
        return None;
    };
    // Days since 1970, with years that begin in March, so that leap days come last.
    let (year, month) = match month {
        1 | 2 => (year.checked_sub(1)?, month + 9),
        _ => (year, month.checked_sub(3)?),
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let millis = Duration::from_millis(millis.parse().ok()?);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expect) in [
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("1970-03-01T00:00:01.500Z", Some(59 * 86_400_000 + 1500)),
            ("2000-02-29T12:00:00Z", Some(951_825_600_000)),
            ("2026-11-21T09:30:00.123Z", Some(1_795_253_400_123)),
            ("2026-11-21", None),
            ("1960-01-01T00:00:00Z", None),
        ] {
            let found = rfc3339(text).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            assert_eq!(found, expect.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn requests_are_counted_by_cluster_and_time() {
        let lines = [
            r#"{"id":"a","scheduledMs":0.0,"cluster":"x","failed":null}"#,
            r#"{"id":"b","scheduledMs":1500.0,"cluster":"x","failed":null}"#,
            r#"{"id":"c","scheduledMs":1600.0,"cluster":"y","detail":"reset","failed":"maybe-executed"}"#,
        ];
        let loaded = Loaded {
            started: SystemTime::UNIX_EPOCH,
            requests: lines.map(|line| request(line).unwrap()).to_vec(),
        };
        let second = Duration::from_secs(1);
        let served = loaded.served(SystemTime::UNIX_EPOCH + second, second);
        assert_eq!(served, BTreeMap::from([("x", 1)]));
        assert_eq!(
            loaded.failures(),
            ["c due at 1.600 s: maybe-executed: reset"]
        );
        assert!(request("{}").is_err());
    }
}
