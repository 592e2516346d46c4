//! `isthmus load`: requests to a service at a steady rate, and what became of them.
//!
//! An open loop: every request starts when it is due, whatever the replies to others do, and its
//! latency counts from then, so that a stall shows in every request that it held up. Requests enter
//! the mesh through an outbound proxy of this process's own. What is counted and shown is decided
//! in the pure modules [`schedule`], [`tally`] and [`report`].

mod caller;
mod journal;
mod report;
mod run;
mod schedule;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use isthmus_api::TokenRequest;
use isthmus_model::{AccountName, ClusterName, ServiceName};
use isthmus_proxy::{ClientLimits, Config, Patience, Ports, Role, Running, Sidecar};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::caller::{Caller, MOST_OPEN, OWN_HEADERS, Template};
use self::journal::Journal;
use self::report::{Report, RunFacts};
use self::schedule::Schedule;
use crate::api_client::connect;
use crate::args::{LoadArgs, RequestArgs};
use crate::config::PROGRAM_DEFAULT;
use crate::config::parse_span;
use crate::failure::{Exit, Failure, Result};
use crate::guest::{self, Admission, Claim};
use crate::memory;
use crate::output;
use crate::process;
use crate::setting::{Setting, runtime};
use crate::up::OUTBOUND_PORT;

/// Who sends the requests, in the namespace of the service that is called.
const ACCOUNT: &str = "load";
/// How long joining the mesh may take.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// A run that makes sense.
#[derive(Debug)]
struct Order {
    service: ServiceName,
    from: ClusterName,
    schedule: Schedule,
    /// From when a request is due.
    timeout: Duration,
    template: Template,
}

pub(crate) fn load(setting: &Setting, args: &LoadArgs) -> Result<ExitCode> {
    let order = resolve(setting, args)?;
    let journal = args.log.as_deref().map(Journal::create).transpose()?;
    process::log_to_stderr("error");
    allow_files();
    let (report, journal) = runtime()?.block_on(carry_out(setting, order, journal))?;
    let text = match setting.format {
        Some(format) => output::structured(&report, format),
        None => report::render(&report),
    };
    output::print(&text)?;
    journal.map_or(Ok(()), Journal::close)?;
    Ok(if report.total.failed == 0 || args.allow_failures {
        ExitCode::SUCCESS
    } else {
        Exit::Failed.into()
    })
}

/// Errors: what cannot be meant (exit 2).
fn resolve(setting: &Setting, args: &LoadArgs) -> Result<Order> {
    let span = |name: &str, text: &str| {
        let span = parse_span(text).and_then(|span| {
            let none = || "it must be longer than nothing".to_owned();
            Some(span).filter(|span| !span.is_zero()).ok_or_else(none)
        });
        span.map_err(|cause| Failure::usage("bad-duration", format!("--{name}: {cause}")))
    };
    Ok(Order {
        service: args.request.service.clone(),
        from: setting.caller_cluster(args.request.from.as_ref())?.clone(),
        schedule: Schedule {
            per_second: args.rate,
            duration: span("duration", &args.duration)?,
        },
        timeout: span("timeout", &args.timeout)?,
        template: Template {
            method: args.request.method.clone(),
            uri: uri(&args.request)?,
            headers: headers(&args.request.header)?,
            body: Bytes::from(vec![b'x'; args.body_bytes]),
        },
    })
}

fn uri(request: &RequestArgs) -> Result<Uri> {
    let ServiceName { namespace, name } = &request.service;
    let port = request
        .port
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("http://{name}.{namespace}.mesh{port}{}", request.path)
        .parse()
        .map_err(|error: http::uri::InvalidUri| {
            Failure::usage("bad-path", format!("--path {}", request.path)).caused_by(&error)
        })
}

fn headers(texts: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in request_headers(texts)? {
        if OWN_HEADERS.contains(&name) {
            let what = format!("--header: {name} is set by `load` itself");
            return Err(Failure::usage("bad-header", what));
        }
        headers.append(name, value);
    }
    Ok(headers)
}

/// `name=value` of each header.
pub(crate) fn request_headers(texts: &[String]) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let read = |text: &String| {
        let wrong = |cause: String| {
            let what = format!("--header: {text:?} is no header: {cause}");
            Failure::usage("bad-header", what).next("write --header name=value")
        };
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| wrong("it has no '='".to_owned()))?;
        let name = HeaderName::try_from(name).map_err(|error| wrong(error.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|error| wrong(error.to_string()))?;
        Ok((name, value))
    };
    texts.iter().map(read).collect()
}

/// Joins the mesh, sends the requests and leaves.
async fn carry_out(
    setting: &Setting,
    order: Order,
    journal: Option<Journal>,
) -> Result<(Report, Option<Journal>)> {
    let mut stop = Stop::listen()?;
    let entered = tokio::select! {
        entered = enter(setting, &order) => entered?,
        () = stop.asked() => {
            return Err(Failure::failed("stopped", "stopped before the first request"));
        }
    };
    let Entered {
        claim,
        identity,
        proxy,
    } = entered;
    let run = output::random_name()?;
    let facts = RunFacts {
        run,
        service: order.service.to_string(),
        from: order.from.to_string(),
        identity,
        method: order.template.method.to_string(),
        url: order.template.uri.to_string(),
        rate_per_second: order.schedule.per_second.get(),
        started: String::new(),
        duration_ms: 0.0,
    };
    let caller = Caller::new((claim.address, OUTBOUND_PORT).into(), order.template);
    let outcome = run::run(
        order.schedule,
        order.timeout,
        caller,
        journal,
        facts,
        &mut stop,
    )
    .await;
    proxy.leave().await;
    // Its state goes last.
    drop(claim);
    outcome
}

/// A place in the mesh.
struct Entered {
    claim: Claim,
    identity: String,
    proxy: Running,
}

async fn enter(setting: &Setting, order: &Order) -> Result<Entered> {
    let home = &setting.home;
    let mut client = connect(home, Some(&order.from)).await?;
    guest::find_service(&mut client, &order.service).await?;
    let request = TokenRequest {
        namespace: order.service.namespace.to_string(),
        account: ACCOUNT.to_owned(),
        service: None,
        lifetime_seconds: Some(60),
    };
    let Admission { claim, token } = guest::enter(home, &mut client, &request).await?;
    let account = AccountName::new(ACCOUNT).expect("it is a label");
    let config = Config {
        name: claim.name(ACCOUNT),
        cluster: order.from.clone(),
        address: claim.address.into(),
        ports: Ports::default(),
        control: vec![claim.control()],
        token: Some(token.token),
        state: claim.directory.join("state"),
        role: Role::Sidecar(Sidecar {
            namespace: order.service.namespace.clone(),
            account,
            service: None,
            labels: [].into_iter().collect(),
            zone: None,
            program: PROGRAM_DEFAULT,
            listeners: Vec::new(),
        }),
        access_log: false,
        workers: 1,
        patience: Patience::default(),
        memory: memory::budget(None),
        limits: ClientLimits::default(),
        proxy_protocol_from: Vec::new(),
    };
    let start = async {
        let proxy = isthmus_proxy::start(config)
            .await
            .map_err(|error| process::proxy_failure(&error))?;
        proxy.informed().await;
        Ok::<_, Failure>(proxy)
    };
    let proxy = tokio::time::timeout(JOIN_LIMIT, start)
        .await
        .map_err(|_| {
            Failure::failed(
                "not-joined",
                format!("cluster {} does not let anybody in", order.from),
            )
            .next(format!("see `isthmus logs {}/control`", order.from))
        })??;
    Ok(Entered {
        claim,
        identity: token.identity,
        proxy,
    })
}

/// Every request that waits has a file open here and one in the proxy. Where the system allows
/// fewer, requests beyond fail as `client-no-connection`.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 4 * MOST_OPEN as u64;
    let wanted = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // Refused: the limit stays as it is.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Failure::failed("no-signals", "signals cannot be waited for").caused_by(&error)
            })
        };
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, port: Option<u16>) -> RequestArgs {
        RequestArgs {
            service: "shop/cart".parse().unwrap(),
            from: None,
            port,
            method: http::Method::GET,
            path: path.to_owned(),
            header: Vec::new(),
        }
    }

    #[test]
    fn services_have_one_name_everywhere() {
        for (path, port, expect) in [
            ("/", None, Some("http://cart.shop.mesh/")),
            (
                "/a?b=c",
                Some(8080),
                Some("http://cart.shop.mesh:8080/a?b=c"),
            ),
            ("/a b", None, None),
        ] {
            let uri = uri(&request(path, port)).ok().map(|uri| uri.to_string());
            assert_eq!(uri.as_deref(), expect, "{path}");
        }
    }

    #[test]
    fn headers_are_name_and_value() {
        let headers = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            super::headers(&texts)
        };
        let found = headers(&["X-A=1", "x-a=2=3", "empty="]).unwrap();
        assert_eq!(found.get_all("x-a").iter().count(), 2);
        assert_eq!(found["empty"], "");
        for wrong in ["none", "=v", "a b=c", "Host=x", "x-request-id=7", "a=\n"] {
            let failure = headers(&[wrong]).unwrap_err();
            assert_eq!(
                (failure.exit, failure.code),
                (Exit::Usage, "bad-header"),
                "{wrong}"
            );
        }
    }
}
