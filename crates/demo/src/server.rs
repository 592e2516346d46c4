//! Listens, serves HTTP/1.1, and stops without dropping what runs.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::pages;
use crate::settings::Settings;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT, then finishes the requests that run; a second signal ends it at
/// once. Errors: it cannot listen.
pub(crate) async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("listening on {}", settings.listen))?;
    announce(&settings, &listener)?;

    let settings = Arc::new(settings);
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.wait() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&settings), stopped.clone()));
                }
                Err(error) => {
                    eprintln!("isthmus-demo: accepting a connection: {error}");
                    // Out of file descriptors, most likely: give others time to end.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stopping.send_replace(());
    tokio::select! {
        () = stop.wait() => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
    Ok(())
}

/// One connection. What goes wrong on it ends it and nothing else.
async fn converse(stream: TcpStream, settings: Arc<Settings>, mut stopped: watch::Receiver<()>) {
    let service = service_fn(move |request| {
        let settings = Arc::clone(&settings);
        async move { pages::answer(&settings, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        let error = anyhow::Error::from(error);
        eprintln!("isthmus-demo: a connection ended: {error:#}");
    }
}

/// The first line of output: where it really listens.
fn announce(settings: &Settings, listener: &TcpListener) -> anyhow::Result<()> {
    let line = json!({
        "listening": listener.local_addr()?.to_string(),
        "service": settings.service,
        "version": settings.version,
        "cluster": settings.cluster,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Asks this process to stop.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
