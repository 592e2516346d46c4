//! A process that takes over from the one that started it: its sockets come over standard input, and
//! words say when which of the two does what.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_proxy::{Config, Handover, Running, Word};

use crate::failure::{Failure, Result};
use crate::nofile;
use crate::process::{DRAIN_LIMIT, Served, log_to_stderr, proxy_failure, stop_signal};
use crate::setting::runtime;

/// Why a successor ends.
enum End {
    Stop,
    /// There is another one.
    Retire,
}

/// `--take-over`: until SIGTERM, or until there is another successor.
pub(crate) fn serve(served: Served) -> Result<ExitCode> {
    log_to_stderr("info");
    nofile::raise();
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        // The process that was started hears this one and starts the next.
        let _restart = crate::process::restart_signal()?;
        let handover = Handover::from_stdin().map_err(|error| not_started_so(&error))?;
        let running = tokio::select! {
            running = take_over(&handover, served.config) => running?,
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        let end = tokio::select! {
            () = &mut stop => End::Stop,
            () = obey(&handover, &running) => End::Retire,
        };
        match end {
            End::Stop => running.drain(DRAIN_LIMIT).await,
            End::Retire => retire(&running, served.drain_limit, stop).await,
        }
        running.leave().await;
        Ok(ExitCode::SUCCESS)
    })
}

async fn take_over(handover: &Handover, config: Config) -> Result<Running> {
    let sockets = match handover.hear().await {
        Ok((Word::Sockets, sockets)) => sockets,
        Ok(_) => return Err(not_started_so(&std::io::ErrorKind::InvalidData.into())),
        Err(error) => return Err(not_started_so(&error)),
    };
    let running = isthmus_proxy::take_over(config, sockets)
        .await
        .map_err(|error| proxy_failure(&error))?;
    let shared = running.sockets().map_err(|error| not_started_so(&error))?;
    handover
        .give(&shared, Word::Ready)
        .await
        .map_err(|error| not_started_so(&error))?;
    Ok(running)
}

/// Does as it is told. Returns when there is another successor, and this process has fallen silent.
async fn obey(handover: &Handover, running: &Running) {
    loop {
        match handover.hear().await {
            Ok((Word::Speak, _)) => running.speak(),
            Ok((Word::Retire, _)) => {
                running.fall_silent().await;
                // Who waits for it waits for a bounded time only.
                let _ = handover.say(Word::Retired).await;
                return;
            }
            Ok((word, _)) => tracing::warn!(?word, "a word that makes no sense here"),
            Err(error) => {
                tracing::warn!(%error, "the process that was started cannot be heard");
                // Its end ends this process by a signal.
                return std::future::pending().await;
            }
        }
    }
}

async fn retire(running: &Running, limit: Duration, stop: impl Future<Output = ()>) {
    tokio::select! {
        () = running.drain_beside_successor(limit) => {}
        () = stop => {}
    }
}

fn not_started_so(error: &std::io::Error) -> Failure {
    Failure::failed("no-predecessor", "there is no process to take over from")
        .caused_by(error)
        .next("send SIGUSR2 to a process that serves; it starts its successor itself")
}
