//! The programs as processes, over real sockets.

#![allow(clippy::unwrap_used)] // clippy's own allowance ends at functions that are no tests

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A program that runs until the test ends.
struct Program {
    child: Child,
    log: BufReader<ChildStdout>,
    address: String,
}

impl Program {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus-demo"));
        for name in ["HTTP_PROXY", "http_proxy", "PORT"] {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--cluster", "west"])
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut program = Self {
            child,
            log,
            address: String::new(),
        };
        let first = program.next_line();
        first["listening"]
            .as_str()
            .unwrap()
            .clone_into(&mut program.address);
        program
    }

    fn next_line(&mut self) -> Value {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The ids executed until it closed its output.
    fn executed(&mut self) -> Vec<String> {
        let lines = self.log.by_ref().lines().map(Result::unwrap);
        let ids = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        ids.map(|line| line["executed"].as_str().unwrap().to_owned())
            .collect()
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    fn ask(&self, head: &str, body: &str) -> Reply {
        let mut stream = self.connect();
        send(&mut stream, head, body);
        Reply::read(&mut stream)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(stream: &mut TcpStream, head: &str, body: &str) {
    let length = body.len();
    write!(
        stream,
        "{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
}

/// A whole reply on a connection that is closed after it.
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        Self {
            status: status.parse().unwrap(),
            headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Length of a chunked body (RFC 9112 section 7.1), which must be complete.
fn chunked_length(mut body: &[u8]) -> usize {
    let mut length = 0;
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return length;
        }
        length += size;
        body = &body[line + 2 + size + 2..];
    }
}

#[test]
fn it_says_who_served_and_logs_what_it_executed() {
    let mut cart = Program::start(&["cart", "--version", "v2"], &[]);
    assert_eq!(cart.ask("GET /healthz HTTP/1.1", "").status, 200);

    let reply = cart.ask("POST /?a=b HTTP/1.1\r\nx-request-id: r1", "three");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["x-served-by"], "cart/v2/west");
    assert_eq!(reply.headers["x-request-id"], "r1");
    let page = reply.json();
    for (key, expect) in [
        ("service", "cart".into()),
        ("version", "v2".into()),
        ("cluster", "west".into()),
        ("id", "r1".into()),
        ("received_bytes", Value::from(5)),
        ("body", "three".into()),
    ] {
        assert_eq!(page[key], expect, "{key}");
    }
    // The health check left no line: it is nobody's request.
    let line = r#"{"executed":"r1","method":"POST","path":"/","service":"cart","cluster":"west"}"#;
    assert_eq!(cart.next_line().to_string(), line);

    let made = cart.ask("GET / HTTP/1.1", "").json()["id"].clone();
    assert_eq!(made.as_str().unwrap().len(), 32);
    assert_eq!(cart.next_line()["executed"], made);
}

#[test]
fn test_pages() {
    let catalog = Program::start(&["catalog"], &[]);
    for (path, status) in [
        ("/status/200", 200),
        ("/status/418", 418),
        ("/status/503", 503),
        ("/status/100", 400),
        ("/status/999", 400),
        ("/status/x", 400),
        ("/slow?ms=1", 200),
        ("/slow?ms=-1", 400),
        ("/slow?ms=600001", 400),
        ("/slow", 400),
        ("/bytes/67108865", 400),
        ("/bytes/x", 400),
        ("/nowhere", 404),
    ] {
        let reply = catalog.ask(&format!("GET {path} HTTP/1.1"), "");
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.headers["x-served-by"], "catalog/v1/west", "{path}");
    }
    for count in [0, 1, 16_384, 16_385, 1_000_000] {
        let reply = catalog.ask(&format!("GET /bytes/{count} HTTP/1.1"), "");
        let length = match reply.headers.get("transfer-encoding") {
            Some(coding) if coding == "chunked" => chunked_length(&reply.body),
            _ => reply.body.len(),
        };
        assert_eq!(length, count);
        assert_eq!(
            reply.headers.contains_key("content-length"),
            count == 0,
            "{count}"
        );
    }
    let echoed = catalog.ask("PUT /echo HTTP/1.1\r\nx-mark: a", "b").json();
    assert_eq!(
        (&echoed["method"], &echoed["body"]),
        (&"PUT".into(), &"b".into())
    );
    let headers = echoed["headers"].as_array().unwrap();
    assert!(headers.contains(&serde_json::json!(["x-mark", "a"])));
}

/// A proxy of the test's own: answers `count` requests by `answer(request head)`, returns the heads.
fn fake_proxy(
    count: usize,
    answer: fn(&str) -> &'static str,
) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let accepted = listener.incoming().take(count).map(Result::unwrap);
        let heads = accepted.map(|mut stream| {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines = lines.map(Result::unwrap).take_while(|l| !l.is_empty());
            let head = lines.collect::<Vec<_>>().join("\n");
            stream.write_all(answer(&head).as_bytes()).unwrap();
            head
        });
        let mut heads: Vec<String> = heads.collect();
        heads.sort();
        heads
    };
    (address, thread::spawn(serve))
}

#[test]
fn the_frontend_calls_the_others_through_the_proxy() {
    for variable in ["HTTP_PROXY", "http_proxy"] {
        let (address, proxy) = fake_proxy(3, |head| {
            if head.starts_with("GET http://catalog") {
                "HTTP/1.1 503 No\r\nx-isthmus-refusal: no-healthy-workload\r\n\
                 content-length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nx-served-by: them\r\ncontent-length: 7\r\n\r\n{\"a\":1}"
            }
        });
        let url = format!("http://{address}");
        let frontend = Program::start(&["frontend"], &[(variable, &url)]);
        let reply = frontend.ask("GET / HTTP/1.1\r\nx-request-id: r7", "");

        let heads = proxy.join().unwrap();
        for (head, service) in heads.iter().zip(["cart", "catalog", "payment"]) {
            let line = format!("GET http://{service}.shop.mesh/ HTTP/1.1\n");
            assert!(head.starts_with(&line), "{head}");
            assert!(head.contains(&format!("\nhost: {service}.shop.mesh")));
            assert!(head.contains("\nx-request-id: r7"), "{head}");
        }
        assert_eq!(reply.status, 502, "one part is missing");
        let page = reply.json();
        assert_eq!(page["complete"], false);
        let cart = serde_json::json!({ "status": 200, "served_by": "them", "reply": { "a": 1 } });
        assert_eq!(page["parts"]["cart"], cart);
        assert_eq!(page["parts"]["catalog"]["refusal"], "no-healthy-workload");
        assert_eq!(page["parts"]["payment"]["status"], 200);
    }
}

#[test]
fn without_a_proxy_each_part_says_so() {
    let frontend = Program::start(&["frontend"], &[]);
    let reply = frontend.ask("GET / HTTP/1.1", "");
    assert_eq!(reply.status, 502);
    let error = reply.json()["parts"]["cart"]["error"].to_string();
    assert!(error.contains("HTTP_PROXY is not set"), "{error}");
}

#[test]
fn a_request_that_breaks_off_is_not_executed() {
    let mut payment = Program::start(&["payment"], &[]);
    let mut stream = payment.connect();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: x\r\nx-request-id: broken\r\ncontent-length: 9\r\n\r\nhalf"
    )
    .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "no reply");

    payment.ask("POST / HTTP/1.1\r\nx-request-id: whole", "x");
    payment.terminate();
    assert_eq!(payment.executed(), ["whole"]);
}

#[test]
fn sigterm_finishes_what_runs_and_closes_what_idles() {
    let mut cart = Program::start(&["cart"], &[]);
    let mut silent = cart.connect();
    let mut idle = cart.connect();
    write!(idle, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    idle.read_exact(&mut [0; 1]).unwrap();
    let mut running = cart.connect();
    send(
        &mut running,
        "GET /slow?ms=300 HTTP/1.1\r\nx-request-id: slow",
        "",
    );
    assert_eq!(cart.next_line()["executed"], "slow");

    cart.terminate();
    let reply = Reply::read(&mut running);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["id"], "slow");
    for stream in [&mut silent, &mut idle] {
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert!(cart.child.wait().unwrap().success());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus-demo"))
        .args(["cart", "--listen", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains(&format!("listening on {address}")),
        "{message}"
    );
}
