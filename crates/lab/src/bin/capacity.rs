//! A program of known capacity: so many requests at once, each for about so long, and a queue without
//! bound before that, as programs have which know nothing of overload.
//!
//! `GET /capacity` tells what it is and has done; parameters (`concurrency`, `service` and `extra` in
//! milliseconds, `fail` in percent) change it at once, and silently: nobody in the mesh is told. At a
//! concurrency of 0 it says of itself that it is not healthy, and answers 503. Every other path is
//! work. What was begun is done, whether or not its caller still waits, and is logged by its id.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isthmus_lab::chance;
use isthmus_lab::trouble::{During, Result, Trouble};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// A program that can do so much and no more.
#[derive(Debug, Parser)]
#[command(name = "capacity", disable_version_flag = true)]
struct Arguments {
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Requests that are worked on at once.
    #[arg(long)]
    concurrency: usize,

    /// Mean milliseconds of work for each.
    #[arg(long, value_name = "MILLISECONDS")]
    service: u64,

    /// How long each request takes follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How much it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Capacity {
    concurrency: usize,
    service: Duration,
    /// On top of each reply; no worker is busy meanwhile.
    extra: Duration,
    /// Percent of the replies that are 500.
    fail: u64,
}

/// Who works and who waits.
#[derive(Debug)]
struct Line {
    capacity: Capacity,
    seed: u64,
    busy: usize,
    /// First come, first served.
    waiting: VecDeque<oneshot::Sender<()>>,
    executed: u64,
    most_waiting: usize,
}

/// What is to be done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Work {
    service: Duration,
    extra: Duration,
    fails: bool,
}

#[derive(Debug, Clone)]
struct Program(Arc<Mutex<Line>>);

type Reply = Response<Full<Bytes>>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("capacity: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // Programs that were started with the same seed are not to work in step.
    let number = arguments
        .listen
        .to_string()
        .bytes()
        .fold(0, |number, byte| chance::bits(number, byte.into()));
    let seed = chance::bits(arguments.seed, number);
    println!("{}", json!({ "seed": arguments.seed, "draws": seed }));
    let program = Program(Arc::new(Mutex::new(Line {
        capacity: Capacity {
            concurrency: arguments.concurrency,
            service: Duration::from_millis(arguments.service),
            extra: Duration::ZERO,
            fail: 0,
        },
        seed,
        busy: 0,
        waiting: VecDeque::new(),
        executed: 0,
        most_waiting: 0,
    })));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during(|| "a runtime".to_owned())?;
    let during = || format!("listening on {}", arguments.listen);
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await.during(during)?;
        loop {
            let (stream, _) = listener.accept().await.during(during)?;
            // What goes wrong on a connection ends it, which its client notices.
            tokio::spawn(converse(stream, program.clone()));
        }
    })
}

async fn converse(stream: TcpStream, program: Program) -> Result<(), hyper::Error> {
    // Failing to set it only costs time.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let program = program.clone();
        async move { Ok::<_, hyper::Error>(program.answer(request).await) }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
}

impl Program {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        match head.uri.path() {
            "/healthz" if self.line().capacity.concurrency == 0 => busy(),
            "/healthz" => reply(StatusCode::OK, "ok\n"),
            "/capacity" => {
                let mut line = self.line();
                match line.change(head.uri.query().unwrap_or_default()) {
                    Ok(()) => reply(StatusCode::OK, line.told().to_string()),
                    Err(trouble) => reply(StatusCode::BAD_REQUEST, trouble.0),
                }
            }
            _ => {
                // A body that breaks off is no request that could be executed.
                if body.collect().await.is_err() {
                    return reply(StatusCode::BAD_REQUEST, "half a body\n");
                }
                let work = tokio::spawn(self.clone().work(head.headers));
                work.await.unwrap_or_else(|_| busy())
            }
        }
    }

    /// Waits for its turn and does it.
    async fn work(self, headers: HeaderMap) -> Reply {
        if self.line().capacity.concurrency == 0 {
            return busy();
        }
        let turn = self.line().begin();
        if let Some(turn) = turn
            && turn.await.is_err()
        {
            return busy();
        }
        let work = self.line().next();
        let id = headers.get("x-request-id").map(HeaderValue::as_bytes);
        let id = String::from_utf8_lossy(id.unwrap_or_default());
        // The log is the evidence: without it there is nothing to measure.
        if writeln!(std::io::stdout(), "{}", json!({ "executed": id })).is_err() {
            return busy();
        }
        sleep(work.service).await;
        self.line().end();
        sleep(work.extra).await;
        if work.fails {
            reply(StatusCode::INTERNAL_SERVER_ERROR, "failed\n")
        } else {
            reply(StatusCode::OK, "done\n")
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// `None`: there is a free worker, which now is busy.
    fn begin(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.busy < self.capacity.concurrency {
            self.busy += 1;
            return None;
        }
        let (turn, wait) = oneshot::channel();
        self.waiting.push_back(turn);
        self.most_waiting = self.most_waiting.max(self.waiting.len());
        Some(wait)
    }

    fn end(&mut self) {
        self.busy -= 1;
        self.admit();
    }

    fn admit(&mut self) {
        while self.busy < self.capacity.concurrency
            && let Some(turn) = self.waiting.pop_front()
        {
            self.busy += usize::from(turn.send(()).is_ok());
        }
    }

    /// The work of the request that begins now.
    fn next(&mut self) -> Work {
        let number = self.executed;
        self.executed += 1;
        let Capacity {
            service,
            extra,
            fail,
            ..
        } = self.capacity;
        Work {
            service: service.mul_f64(chance::lognormal(self.seed, number)),
            extra,
            fails: chance::bits(self.seed ^ 0xfa11, number) % 100 < fail,
        }
    }

    /// Errors: something that it does not have.
    fn change(&mut self, query: &str) -> Result<()> {
        let mut capacity = self.capacity;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let wrong = || Trouble(format!("{pair}: use concurrency, service, extra or fail\n"));
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value: u32 = value.parse().map_err(|_| wrong())?;
            let time = Duration::from_millis(value.into());
            match name {
                "concurrency" => capacity.concurrency = value as usize,
                "service" => capacity.service = time,
                "extra" => capacity.extra = time,
                "fail" => capacity.fail = value.into(),
                _ => return Err(wrong()),
            }
        }
        self.capacity = capacity;
        if capacity.concurrency == 0 {
            // Those who wait are told, as by a program that shuts down.
            self.waiting.clear();
        }
        self.admit();
        Ok(())
    }

    fn told(&self) -> Value {
        json!({
            "concurrency": self.capacity.concurrency,
            "busy": self.busy,
            "waiting": self.waiting.len(),
            "mostWaiting": self.most_waiting,
            "executed": self.executed,
        })
    }
}

fn busy() -> Reply {
    reply(StatusCode::SERVICE_UNAVAILABLE, "not now\n")
}

fn reply(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(text.into()));
    *reply.status_mut() = status;
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(concurrency: usize) -> Line {
        Line {
            capacity: Capacity {
                concurrency,
                service: Duration::from_millis(50),
                extra: Duration::ZERO,
                fail: 0,
            },
            seed: 7,
            busy: 0,
            waiting: VecDeque::new(),
            executed: 0,
            most_waiting: 0,
        }
    }

    #[test]
    fn workers_are_given_in_order_and_none_is_lost() {
        let mut line = line(2);
        assert!(line.begin().is_none() && line.begin().is_none());
        let mut waiting: Vec<_> = (0..3).filter_map(|_| line.begin()).collect();
        assert_eq!((waiting.len(), line.busy, line.most_waiting), (3, 2, 3));
        // Who goes away takes no worker.
        drop(waiting.remove(0));
        line.end();
        assert!(waiting[0].try_recv().is_ok() && waiting[1].try_recv().is_err());
        assert_eq!(line.busy, 2);
        // Fewer workers: those who are at work finish, and nobody follows.
        line.change("concurrency=1").unwrap();
        line.end();
        assert!(waiting[1].try_recv().is_err());
        line.change("concurrency=3").unwrap();
        assert!(waiting[1].try_recv().is_ok());
        assert_eq!((line.busy, line.waiting.len()), (2, 0));
    }

    #[test]
    fn a_capacity_is_changed_whole_or_not_at_all() {
        let mut line = line(2);
        line.change("service=95&fail=5&extra=500").unwrap();
        let changed = line.capacity;
        assert_eq!(changed.service, Duration::from_millis(95));
        assert_eq!((changed.fail, changed.extra.as_millis()), (5, 500));
        for wrong in ["concurrency=1&x=2", "concurrency", "service=-1"] {
            assert!(line.change(wrong).is_err(), "{wrong}");
            assert_eq!(line.capacity, changed, "{wrong}");
        }
    }

    #[test]
    fn work_is_as_long_and_fails_as_often_as_was_said() {
        let mut line = line(1);
        line.change("fail=5").unwrap();
        let all: Vec<Work> = (0..10_000).map(|_| line.next()).collect();
        let mean: Duration = all.iter().map(|work| work.service).sum::<Duration>() / 10_000;
        let failed = all.iter().filter(|work| work.fails).count();
        assert!((48..=52).contains(&mean.as_millis()), "{mean:?}");
        assert!((400..=600).contains(&failed), "{failed}");
    }
}
