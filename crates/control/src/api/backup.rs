//! `/mesh/v1/backup`: all that is saved, in one file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use isthmus_api::Failure;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::{Refusal, Shared, respond};
use crate::backup::{self, BackupError};
use crate::config::Config;
use crate::core::{Answer, Backup, Request};

/// Read at once, and how many such pieces wait for a client that is slow.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;
/// How long a client may take none of them.
const STALL: Duration = Duration::from_secs(30);
/// In the directory of the store, while one is made. Nobody else calls a file so: what is left of it is swept away.
const FILE: &str = ".backup-being-made.redb";

pub(super) async fn backup(State(api): Shared) -> Result<Response, Refusal> {
    // They would take each other's place on the disk.
    let Ok(one) = api.backups.clone().try_acquire_owned() else {
        return Err(Failure::unavailable("a backup is being made: try again").into());
    };
    let taken = match api.hub.ask(Request::Backup).await? {
        Answer::Backup(taken) => taken,
        other => return Ok(respond(other)),
    };
    // It goes on also when whoever asked is gone, and nobody else may meanwhile.
    let made = tokio::task::spawn_blocking(move || (make(&api.config, &taken), one));
    let failed = |error: String| Failure::internal(format!("no backup could be made: {error}"));
    let (made, one) = made.await.map_err(|error| failed(error.to_string()))?;
    let (file, length) = made.map_err(|error| failed(error.to_string()))?;
    let (pieces, body) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        send(file, &pieces);
        drop(one);
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
    ];
    let body = Body::from_stream(ReceiverStream::new(body));
    Ok((headers, body).into_response())
}

/// The file, of which nothing is left when it is closed, and its length.
fn make(config: &Config, taken: &Backup) -> Result<(File, u64), BackupError> {
    let path = config.data.join(FILE);
    backup::write(config, taken, &path)?;
    let open = || -> io::Result<(File, u64)> {
        let file = File::open(&path)?;
        fs::remove_file(&path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    open().map_err(|source| BackupError::File {
        act: "read",
        path: path.clone(),
        source,
    })
}

/// Takes away what an earlier process may have left in the middle of one.
pub(crate) fn sweep(config: &Config) {
    for name in [FILE.to_owned(), format!("{FILE}.anew")] {
        // Mostly there is none.
        let _ = fs::remove_file(config.data.join(name));
    }
}

/// Gives the file away piece by piece, until it is at its end or nobody wants more.
fn send(mut file: File, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let runtime = Handle::current();
    loop {
        let mut piece = vec![0; PIECE];
        let piece = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                Ok(piece.into())
            }
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        let sent = runtime.block_on(timeout(STALL, pieces.send(piece)));
        if !matches!(sent, Ok(Ok(()))) || is_last {
            return;
        }
    }
}
