//! An open loop of requests: each starts when it is due, whatever becomes of the others, and its
//! latency counts from then.
//!
//! It enters the mesh through the outbound listeners of workloads that are there anyway, and never
//! sends a request twice.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep_until, timeout_at};

use crate::chance;
use crate::trouble::{During, Result, Trouble};

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Order {
    /// Begins every id.
    pub name: String,
    /// Outbound listeners, which take turns.
    pub callers: Vec<SocketAddr>,
    /// Host name of the service.
    pub host: String,
    /// How long, and how many per second, by chance.
    pub phases: Vec<(Duration, f64)>,
    pub seed: u64,
    /// Every so manieth is of high priority.
    pub high: Option<usize>,
    /// The client waits no longer for a reply.
    pub patience: Duration,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    /// After the start.
    pub due: Duration,
    /// From when it was due.
    pub took: Duration,
    pub high: bool,
    /// `None`: the client saw no whole reply, for this reason.
    pub reply: Result<Reply, &'static str>,
}

/// What a reply said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub cluster: Option<String>,
    pub workload: Option<String>,
    pub attempts: usize,
    /// The mesh's own reason for its answer, and what it says of that.
    pub refusal: Option<String>,
    pub detail: Option<String>,
    pub has_retry_after: bool,
}

/// A load that runs.
#[derive(Debug)]
pub struct Running {
    pub began: Instant,
    thread: JoinHandle<Result<Vec<Call>>>,
}

type Connection = SendRequest<Empty<Bytes>>;

/// A way into the mesh, with its connections that have no request.
#[derive(Debug, Clone)]
struct Caller {
    address: SocketAddr,
    idle: Rc<RefCell<Vec<Connection>>>,
}

impl Call {
    pub fn is_ok(&self) -> bool {
        self.failure().is_none()
    }

    /// Why it failed: the mesh's reason, the program's status, or what the client saw.
    pub fn failure(&self) -> Option<String> {
        match &self.reply {
            Err(broken) => Some((*broken).to_owned()),
            Ok(reply) => match &reply.refusal {
                Some(refusal) => Some(refusal.clone()),
                None if reply.status >= 400 => Some(format!("status-{}", reply.status)),
                None => None,
            },
        }
    }

    /// As people read it.
    pub fn told(&self) -> String {
        let reply = self.reply.as_ref().ok();
        format!(
            "{} due at {:.3} s, {} ms, {} tries: {}: {}",
            self.id,
            self.due.as_secs_f64(),
            self.took.as_millis(),
            reply.map_or(1, |reply| reply.attempts),
            self.failure().as_deref().unwrap_or("ok"),
            reply
                .and_then(|reply| reply.detail.as_deref())
                .unwrap_or("no detail")
        )
    }

    /// Which cluster served it, if any did.
    pub fn cluster(&self) -> Option<&str> {
        let reply = self.reply.as_ref().ok().filter(|_| self.is_ok())?;
        reply.cluster.as_deref()
    }

    /// Cluster and workload that answered, as far as the mesh told.
    pub fn place(&self) -> String {
        let told = |name: fn(&Reply) -> &Option<String>| {
            let reply = self.reply.as_ref().ok()?;
            name(reply).as_deref()
        };
        let cluster = told(|reply| &reply.cluster).unwrap_or("-");
        format!("{cluster}/{}", told(|reply| &reply.workload).unwrap_or("-"))
    }
}

impl Order {
    /// When each request is due.
    pub fn schedule(&self) -> Vec<Duration> {
        let mut schedule = Vec::new();
        let (mut at, mut ends) = (0.0, 0.0);
        for (length, rate) in &self.phases {
            ends += length.as_secs_f64();
            loop {
                let next = at + chance::exponential(self.seed, schedule.len() as u64) / rate;
                if next >= ends {
                    // What is left of this step begins anew at the next rate: chance has no memory.
                    at = ends;
                    break;
                }
                at = next;
                schedule.push(Duration::from_secs_f64(at));
            }
        }
        schedule
    }

    /// Begins. Errors: there is no thread to be had.
    pub fn start(self) -> Result<Running> {
        let began = Instant::now();
        let thread = std::thread::Builder::new().name(self.name.clone());
        let drive = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .during(|| "a runtime".to_owned())?;
            LocalSet::new().block_on(&runtime, drive(self, began))
        };
        let thread = thread.spawn(drive).during(|| "a thread".to_owned())?;
        Ok(Running { began, thread })
    }

    fn request(&self, id: &str, high: bool) -> Result<Request<Empty<Bytes>>> {
        let mut request = Request::get(format!("http://{}/", self.host))
            .header(HOST, &self.host)
            .header("x-isthmus-tell", "yes")
            .header("x-request-id", id);
        if high {
            request = request.header("x-isthmus-priority", "high");
        }
        request.body(Empty::new()).during(|| self.host.clone())
    }
}

impl Running {
    /// Waits until so long after the start.
    pub fn sleep_until(&self, after: Duration) {
        std::thread::sleep(after.saturating_sub(self.began.elapsed()));
    }

    /// Waits for the end, and says what became of all, in the order in which they were due.
    pub fn finish(self) -> Result<Vec<Call>> {
        let calls = self.thread.join();
        calls.map_err(|_| Trouble("the load broke down".to_owned()))?
    }
}

async fn drive(order: Order, began: Instant) -> Result<Vec<Call>> {
    let callers: Vec<Caller> = order
        .callers
        .iter()
        .map(|&address| Caller {
            address,
            idle: Rc::default(),
        })
        .collect();
    let mut flights = JoinSet::new();
    for (number, due) in order.schedule().into_iter().enumerate() {
        sleep_until((began + due).into()).await;
        let id = format!("{}-{number}", order.name);
        let high = order.high.is_some_and(|each| number % each == 0);
        let request = order.request(&id, high)?;
        let caller = callers[number % callers.len()].clone();
        let patience = order.patience;
        flights.spawn_local(async move {
            let reply = timeout_at((began + due + patience).into(), caller.call(request)).await;
            Call {
                id,
                due,
                took: began.elapsed().saturating_sub(due),
                high,
                reply: reply.unwrap_or(Err("client-timeout")),
            }
        });
    }
    let mut calls = flights.join_all().await;
    calls.sort_by_key(|call| call.due);
    Ok(calls)
}

impl Caller {
    async fn call(&self, mut request: Request<Empty<Bytes>>) -> Result<Reply, &'static str> {
        const LOST: &str = "client-connection-lost";
        loop {
            let kept = self.idle.borrow_mut().pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            if connection.ready().await.is_err() && !fresh {
                continue;
            }
            let head = match connection.try_send_request(request).await {
                Ok(head) => head,
                // Closed meanwhile, and nothing of the request was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(LOST),
                },
            };
            let mut reply = read(&head);
            let body = head.into_body().collect().await.map_err(|_| LOST)?;
            if reply.refusal.is_some() {
                let told: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
                reply.detail = told.and_then(|told| told["detail"].as_str().map(str::to_owned));
            }
            self.idle.borrow_mut().push(connection);
            return Ok(reply);
        }
    }

    async fn connect(&self) -> Result<Connection, &'static str> {
        const NONE: &str = "client-no-connection";
        let stream = TcpStream::connect(self.address).await.map_err(|_| NONE)?;
        // Failing to set it only costs time.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| NONE)?;
        // Its errors reach the sender too.
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

fn read(head: &Response<Incoming>) -> Reply {
    let text = |name: &str| {
        let value = head.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Reply {
        status: head.status().as_u16(),
        cluster: text("x-isthmus-cluster"),
        workload: text("x-isthmus-workload"),
        attempts: text("x-isthmus-attempts")
            .and_then(|count| count.parse().ok())
            .unwrap_or(1),
        refusal: text("x-isthmus-refusal"),
        detail: None,
        has_retry_after: head.headers().contains_key(RETRY_AFTER),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BODY: &str = r#"{"detail":"full"}"#;

    fn order(callers: Vec<SocketAddr>, phases: &[(Duration, f64)]) -> Order {
        Order {
            name: "test".to_owned(),
            callers,
            host: "work.load.mesh".to_owned(),
            phases: phases.to_vec(),
            seed: 5,
            high: Some(2),
            patience: 10 * SECOND,
        }
    }

    #[test]
    fn each_phase_has_its_rate() {
        let schedule = order(vec![], &[(10 * SECOND, 100.0), (10 * SECOND, 300.0)]).schedule();
        assert!(schedule.is_sorted());
        let within = |from: Duration, to: Duration| {
            schedule.iter().filter(|at| (from..to).contains(at)).count()
        };
        for (from, to, expect) in [(0, 10, 1000), (10, 20, 3000), (20, 99, 0)] {
            let found = within(from * SECOND, to * SECOND);
            assert!(found.abs_diff(expect) <= expect / 10, "{from}: {found}");
        }
    }

    /// Replies to the first two requests of a connection, one by one, and closes it.
    #[test]
    fn what_became_of_each_request_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let replies = [
                "200 OK\r\nx-isthmus-cluster: east\r\nx-isthmus-attempts: 2",
                "503 No\r\nretry-after: 1\r\nx-isthmus-refusal: overloaded",
            ];

            let mut replies = replies.into_iter();
            while let Ok((mut stream, _)) = listener.accept() {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    let Some(head) = replies.next() else { break };
                    let reply = format!(
                        "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{BODY}",
                        BODY.len()
                    );
                    stream.write_all(reply.as_bytes()).unwrap();
                }
            }
        });
        let mut order = order(vec![address], &[(SECOND, 8.0)]);
        let sent = order.schedule().len();
        order.patience = SECOND;
        let calls = order.start().unwrap().finish().unwrap();
        assert!(sent > 2 && calls.len() == sent, "{sent}");
        let (mut served, mut refused, mut lost) = (0, 0, 0);
        for call in &calls {
            match call.failure().as_deref() {
                None => {
                    served += 1;
                    let reply = call.reply.clone().unwrap();
                    assert_eq!((call.cluster(), reply.attempts), (Some("east"), 2));
                }
                Some("overloaded") => {
                    refused += 1;
                    let reply = call.reply.clone().unwrap();
                    assert!(reply.has_retry_after);
                    assert_eq!(reply.detail.as_deref(), Some("full"));
                }
                Some(_) => lost += 1,
            }
        }
        assert_eq!((served, refused, lost), (1, 1, sent - 2));
        assert!(calls[0].high && !calls[1].high);
    }
}
