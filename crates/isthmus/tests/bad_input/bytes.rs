//! Bytes that make no sense, on every port of the mesh.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, run};
use isthmus_lab::trouble::{During, Result, ensure};

use crate::CATALOG;

pub(super) fn malformed_requests_are_refused(mesh: &Mesh) -> Result<()> {
    let caller = mesh.outbound("us-west", "frontend-1")?;
    let head = |lines: &[&str]| http::head("GET", CATALOG, lines);
    let cases = [
        (
            400,
            "malformed-request",
            "line feed",
            head(&[]).replace('\r', "") + "\n",
        ),
        (
            400,
            "malformed-request",
            "line feed",
            head(&[]) + "a: b\n\r\n",
        ),
        (
            400,
            "malformed-request",
            "Transfer-Encoding",
            head(&["content-length: 1", "transfer-encoding: chunked"]) + "\r\n0\r\n\r\n",
        ),
        (
            400,
            "malformed-request",
            "chunk",
            http::head("POST", CATALOG, &["transfer-encoding: chunked"])
                + "\r\nzz\r\nab\r\n0\r\n\r\n",
        ),
        (400, "malformed-request", "colon", head(&["a : b"]) + "\r\n"),
        (
            400,
            "malformed-request",
            "Content-Length",
            head(&["content-length: x"]) + "\r\n",
        ),
        (400, "malformed-request", "NUL", "\0\u{1}garbage".to_owned()),
        (
            400,
            "malformed-request",
            "request line",
            "garbage\r\n\r\n".to_owned(),
        ),
        (
            400,
            "malformed-request",
            "TLS",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(),
        ),
        (
            400,
            "malformed-request",
            "scheme",
            head(&[]).replace("GET http:", "GET ftp:") + "\r\n",
        ),
        (
            400,
            "malformed-request",
            "Host",
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            505,
            "http-version-not-supported",
            "HTTP/1.1",
            "PRI * HTTP/2.0\r\n\r\nNO\r\n\r\n".to_owned(),
        ),
        (
            431,
            "head-too-large",
            "65536",
            head(&[&format!("a: {}", "b".repeat(100 << 10))]) + "\r\n",
        ),
        (431, "head-too-large", "128", head(&["a: b"; 200]) + "\r\n"),
        (
            404,
            "no-such-service",
            "shop/nobody",
            http::head("GET", "http://nobody.shop.mesh/", &[]) + "\r\n",
        ),
    ];
    for (status, reason, detail, bytes) in cases {
        let shown = || format!("{:?}", bytes.chars().take(200).collect::<String>());
        let reply = http::exchange(caller, bytes.as_bytes()).during(shown)?;
        let body = reply.expect_refusal(status, reason).during(shown)?.json()?;
        let told = body["detail"]
            .as_str()
            .is_some_and(|text| text.contains(detail));
        ensure(told && body["next"].is_string(), || {
            format!("{}: {body}", shown())
        })?;
    }
    Ok(())
}

/// On ports where only the mesh itself speaks there is nobody to explain anything to.
pub(super) fn garbage_is_cut_off(mesh: &Mesh) -> Result<()> {
    let [proxy, control] = ["frontend-1", "control"].map(|name| mesh.address("us-west", name));
    let (proxy, control) = (proxy?, control?);
    for address in [
        (proxy, 15008),
        (proxy, 15020),
        (control, 15012),
        (control, 7443),
        (control, 15020),
    ] {
        let address = SocketAddr::from(address);
        for bytes in [
            &b"garbage\r\n\r\n"[..],
            b"\x16\x03\x01\x00\x05hello",
            &vec![0xff; 70_000],
        ] {
            let mut stream = http::connect(address)?;
            // It may be closed before all is read.
            let _ = stream.write_all(bytes);
            let mut reply = Vec::new();
            match std::io::Read::read_to_end(&mut stream, &mut reply) {
                Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                    return Err(error).during(|| format!("{address} holds on to garbage"));
                }
                _ => {}
            }
            ensure(!reply.starts_with(b"HTTP/1.1 2"), || {
                format!("{address}: {}", String::from_utf8_lossy(&reply))
            })?;
        }
    }
    // Protocols that are not spoken there.
    for (protocol, address) in [("--http2", (proxy, 15008)), ("--http1.1", (control, 15012))] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--insecure", "--max-time", "20"]);
        let url = format!("https://{}/", SocketAddr::from(address));
        let said = run(curl.args([protocol, &url]))?;
        said.expect_failure(35, &["alert"])?;
    }
    Ok(())
}
