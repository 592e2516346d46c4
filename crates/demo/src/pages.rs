//! What the programs answer.

use std::io::Write as _;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::body::{Received, Reply};
use crate::client;
use crate::settings::Settings;

const MAX_FILLER: usize = 64 * 1024 * 1024;
const MAX_SLOW: u64 = 600_000;

/// The reply to one request. A request whose body breaks off is not executed and not answered.
pub(crate) async fn answer(
    settings: &Settings,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Reply>> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/healthz" {
        return Ok(whole(StatusCode::OK, "text/plain", Bytes::from("ok\n")));
    }
    let received = Received::read(body).await?;
    let id = match head.headers.get("x-request-id") {
        Some(id) => id.clone(),
        None => new_id()?,
    };
    log_executed(settings, &head, &id)?;

    let mut response = page(settings, &head, &received, &id).await;
    let headers = response.headers_mut();
    headers.insert("x-served-by", settings.served_by().parse()?);
    headers.insert("x-request-id", id);
    Ok(response)
}

async fn page(
    settings: &Settings,
    head: &Parts,
    received: &Received,
    id: &HeaderValue,
) -> Response<Reply> {
    let path = head.uri.path();
    match path.split('/').skip(1).collect::<Vec<_>>()[..] {
        [""] => home(settings, head, received, id).await,
        ["echo"] => echo(settings, head, received, id),
        ["slow"] => slow(settings, head, received, id).await,
        ["status", code] => status(settings, head, received, id, code),
        ["bytes", count] => filler(count),
        _ => problem(StatusCode::NOT_FOUND, &format!("no page {path}")),
    }
}

/// `/`: who answered, and for the frontend what the others said; 502 unless all of them did.
async fn home(
    settings: &Settings,
    head: &Parts,
    received: &Received,
    id: &HeaderValue,
) -> Response<Reply> {
    let mut page = about(settings, head, received, id);
    let calls = settings.program.parts().iter().copied().map(|service| {
        let (proxy, id) = (settings.proxy.clone(), id.clone());
        let call = async move { client::call(proxy.as_deref(), service, &id).await };
        (service, tokio::spawn(call))
    });
    let calls: Vec<_> = calls.collect();
    let mut complete = true;
    let mut parts = Map::new();
    for (service, call) in calls {
        let (ok, shown) = match call.await {
            Ok(answer) => (answer.ok, answer.shown),
            Err(error) => (false, json!({ "error": error.to_string() })),
        };
        complete &= ok;
        parts.insert(service.to_owned(), shown);
    }
    if !parts.is_empty() {
        page["complete"] = complete.into();
        page["parts"] = parts.into();
    }
    let code = if complete {
        StatusCode::OK
    } else {
        StatusCode::BAD_GATEWAY
    };
    json_page(code, &page)
}

fn echo(
    settings: &Settings,
    head: &Parts,
    received: &Received,
    id: &HeaderValue,
) -> Response<Reply> {
    let mut page = about(settings, head, received, id);
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        json!([name.as_str(), value])
    });
    page["headers"] = headers.collect();
    json_page(StatusCode::OK, &page)
}

/// `/slow?ms=<n>`: the usual answer, late.
async fn slow(
    settings: &Settings,
    head: &Parts,
    received: &Received,
    id: &HeaderValue,
) -> Response<Reply> {
    let query = head.uri.query().unwrap_or_default();
    let millis = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("ms="))
        .and_then(|text| text.parse().ok())
        .filter(|&millis| millis <= MAX_SLOW);
    let Some(millis) = millis else {
        let error = format!("use /slow?ms=<0 to {MAX_SLOW}>");
        return problem(StatusCode::BAD_REQUEST, &error);
    };
    tokio::time::sleep(Duration::from_millis(millis)).await;
    json_page(StatusCode::OK, &about(settings, head, received, id))
}

fn status(
    settings: &Settings,
    head: &Parts,
    received: &Received,
    id: &HeaderValue,
    code: &str,
) -> Response<Reply> {
    let code = code.parse().ok().filter(|code| (200..600).contains(code));
    match code.map(StatusCode::from_u16) {
        Some(Ok(code)) => json_page(code, &about(settings, head, received, id)),
        Some(Err(_)) | None => problem(StatusCode::BAD_REQUEST, "use /status/<200 to 599>"),
    }
}

/// `/bytes/<n>`: so many bytes, chunked.
fn filler(count: &str) -> Response<Reply> {
    match count.parse() {
        Ok(count) if count <= MAX_FILLER => Response::new(Reply::Filler(count)),
        _ => {
            let error = format!("use /bytes/<0 to {MAX_FILLER}>");
            problem(StatusCode::BAD_REQUEST, &error)
        }
    }
}

fn about(settings: &Settings, head: &Parts, received: &Received, id: &HeaderValue) -> Value {
    let mut page = json!({
        "service": settings.service,
        "version": settings.version,
        "cluster": settings.cluster,
        "id": String::from_utf8_lossy(id.as_bytes()),
        "method": head.method.as_str(),
        "path": head.uri.path(),
    });
    if received.bytes > 0 {
        page["received_bytes"] = received.bytes.into();
        page["body"] = received.text().into();
    }
    page
}

fn problem(code: StatusCode, error: &str) -> Response<Reply> {
    json_page(code, &json!({ "error": error }))
}

fn json_page(code: StatusCode, page: &Value) -> Response<Reply> {
    whole(code, "application/json", format!("{page:#}\n").into())
}

fn whole(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Full::new(body)));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// One line on standard output. A request that cannot be logged fails: the log is the evidence.
fn log_executed(settings: &Settings, head: &Parts, id: &HeaderValue) -> anyhow::Result<()> {
    let line = json!({
        "executed": String::from_utf8_lossy(id.as_bytes()),
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "service": settings.service,
        "cluster": settings.cluster,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

fn new_id() -> anyhow::Result<HeaderValue> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| anyhow!("drawing a request id: {error}"))?;
    Ok(HeaderValue::try_from(format!(
        "{:032x}",
        u128::from_be_bytes(id)
    ))?)
}
