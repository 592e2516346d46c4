//! Calls to other services, through an explicit HTTP proxy (RFC 9112 section 3.2.2, absolute-form).

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);
const MAX_REPLY: usize = 1024 * 1024;

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) shown: Value,
}

/// GETs `http://<service>.shop.mesh/` through the proxy at `proxy`.
pub(crate) async fn call(proxy: Option<&str>, service: &str, id: &HeaderValue) -> Answer {
    let answer = tokio::time::timeout(PATIENCE, exchange(proxy, service, id)).await;
    let error = match answer {
        Ok(Ok(answer)) => return answer,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    Answer {
        ok: false,
        shown: json!({ "error": error }),
    }
}

async fn exchange(proxy: Option<&str>, service: &str, id: &HeaderValue) -> anyhow::Result<Answer> {
    let Some(proxy) = proxy else {
        bail!("HTTP_PROXY is not set; start the program with `isthmus run`");
    };
    let stream = TcpStream::connect(proxy)
        .await
        .with_context(|| format!("connecting to the proxy at {proxy}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors come back through `send_request` and the body.
    tokio::spawn(connection);

    let host = format!("{service}.shop.mesh");
    let request = Request::get(format!("http://{host}/"))
        .header(header::HOST, &host)
        .header(header::CONNECTION, "close")
        .header("x-request-id", id)
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_REPLY).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => bail!("reading the reply: {error}"),
    };

    let text = || String::from_utf8_lossy(&body).into_owned();
    let mut shown = json!({ "status": head.status.as_u16() });
    for (key, name) in [
        ("served_by", "x-served-by"),
        ("refusal", "x-isthmus-refusal"),
        ("at", "x-isthmus-at"),
    ] {
        if let Some(value) = head.headers.get(name) {
            shown[key] = String::from_utf8_lossy(value.as_bytes()).into();
        }
    }
    shown["reply"] = serde_json::from_slice(&body).unwrap_or_else(|_| text().into());
    Ok(Answer {
        ok: head.status.is_success(),
        shown,
    })
}
