//! `isthmus backup` and `isthmus control restore`: all that a control plane keeps, in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_control::{BackupError, BackupInfo, Restoration};
use isthmus_model::ClusterName;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::json;

use crate::api_client::{ApiClient, clients, nobody_answers};
use crate::args::{BackupArgs, RestoreArgs};
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, table};
use crate::setting::Setting;
use crate::{config, process};

const PATH: &str = "/mesh/v1/backup";
const PROGRESS: Duration = Duration::from_secs(1);

/// One file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    file: PathBuf,
    bytes: u64,
    mesh: String,
    trust_domain: String,
    cluster: String,
    taken: String,
    position: u64,
    version: String,
    sealed_by: Option<String>,
}

pub(crate) async fn backup(setting: &Setting, args: &BackupArgs) -> Result<ExitCode> {
    match args {
        BackupArgs::Create { to } => create(setting, to).await,
        BackupArgs::Show { files } => show(setting, files),
    }
}

async fn create(setting: &Setting, to: &Path) -> Result<ExitCode> {
    fs::create_dir_all(to).map_err(|error| unwritten(to, &error))?;
    let (mut made, mut missing) = (Vec::new(), Vec::new());
    let mut is_answered = false;
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        match one(&mut client, to).await {
            Ok(shown) => made.push(shown),
            Err(failure) => {
                is_answered |= failure.exit != Exit::Unreachable;
                missing.push((client.cluster.clone(), failure));
            }
        }
    }
    if made.is_empty() && !is_answered {
        let reasons = missing.into_iter().map(|(_, failure)| failure.what);
        return Err(nobody_answers(reasons.collect()));
    }
    let text = match setting.format {
        Some(format) => {
            let failed = missing.iter().map(|(cluster, failure)| {
                json!({"cluster": cluster.as_str(), "reason": failure.what, "causes": failure.causes})
            });
            let failed: Vec<_> = failed.collect();
            output::structured(&json!({"backups": made, "failed": failed}), format)
        }
        None => render(made),
    };
    output::print(&text)?;
    for (cluster, failure) in &missing {
        eprintln!("no backup of {cluster}:");
        eprint!("{}", failure.render(false));
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Failed.into()
    })
}

/// The backup of one cluster, which is there in whole or not at all.
async fn one(client: &mut ApiClient, to: &Path) -> Result<Shown> {
    let cluster = client.cluster.clone();
    let part = to.join(format!("{cluster}.{}.part", output::random_name()?));
    let received = receive(client, &part).await;
    let finish = || -> Result<Shown> {
        let info = read(&part)?;
        if info.cluster != cluster.as_str() {
            let what = format!("{cluster} gave a backup of {}", info.cluster);
            return Err(Failure::failed("odd-reply", what));
        }
        let zoned = time(&info).to_zoned(TimeZone::UTC);
        let name = format!("{cluster}-{}.backup", zoned.strftime("%Y%m%dT%H%M%SZ"));
        let path = to.join(name);
        fs::rename(&part, &path).map_err(|error| unwritten(&path, &error))?;
        File::open(to)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| unwritten(to, &error))?;
        shown(&path, info)
    };
    received?;
    let finished = finish();
    if finished.is_err() {
        // It may be under its own name by now.
        let _ = fs::remove_file(&part);
    }
    finished
}

async fn receive(client: &mut ApiClient, part: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(part);
    let mut file = file.map_err(|error| unwritten(part, &error))?;
    let received = receive_into(client, &mut file, part).await;
    if received.is_err() {
        // Half of one is of no use.
        let _ = fs::remove_file(part);
    }
    received
}

async fn receive_into(client: &mut ApiClient, file: &mut File, part: &Path) -> Result<()> {
    let mut progress = Progress::new(&client.cluster);
    let mut written = Ok(());
    let mut take = |piece: &[u8], length| {
        progress.on(piece.len(), length);
        written = file.write_all(piece);
        written.is_ok()
    };
    let received = client.download(PATH, &mut take).await;
    progress.end();
    written
        .and_then(|()| file.sync_all())
        .map_err(|error| unwritten(part, &error))?;
    Ok(received?)
}

/// Says how far it is, where somebody looks and it takes long.
struct Progress {
    cluster: ClusterName,
    received: usize,
    last: Instant,
    shows: bool,
    has_shown: bool,
}

impl Progress {
    fn new(cluster: &ClusterName) -> Self {
        Self {
            cluster: cluster.clone(),
            received: 0,
            last: Instant::now(),
            shows: io::stderr().is_terminal(),
            has_shown: false,
        }
    }

    fn on(&mut self, bytes: usize, of: Option<u64>) {
        self.received += bytes;
        if self.shows && self.last.elapsed() >= PROGRESS {
            self.last = Instant::now();
            self.has_shown = true;
            let mebibytes = |bytes: u64| bytes >> 20;
            let received = mebibytes(self.received as u64);
            let of = of.map(|of| format!(" of {}", mebibytes(of)));
            let of = of.unwrap_or_default();
            eprint!("\r{}: {received}{of} MiB", self.cluster);
        }
    }

    fn end(&self) {
        if self.has_shown {
            eprintln!();
        }
    }
}

fn show(setting: &Setting, files: &[PathBuf]) -> Result<ExitCode> {
    let shown = files.iter().map(|file| shown(file, read(file)?));
    let shown = shown.collect::<Result<Vec<_>>>()?;
    let text = match setting.format {
        Some(format) => output::structured(&json!({"backups": shown}), format),
        None => render(shown),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn render(all: Vec<Shown>) -> String {
    let rows = all.into_iter().map(|one| {
        [
            one.cluster,
            one.taken,
            one.position.to_string(),
            size(one.bytes),
            one.sealed_by.unwrap_or_else(|| "-".to_owned()),
            one.file.display().to_string(),
        ]
    });
    table(
        &["CLUSTER", "TAKEN", "POSITION", "SIZE", "SEALED BY", "FILE"],
        rows,
    )
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        return format!("{} KiB", bytes.div_ceil(1 << 10));
    }
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn shown(file: &Path, info: BackupInfo) -> Result<Shown> {
    let metadata = fs::metadata(file).map_err(|error| unread(file, &error))?;
    Ok(Shown {
        file: file.to_owned(),
        bytes: metadata.len(),
        taken: time(&info).to_string(),
        mesh: info.mesh,
        trust_domain: info.trust_domain,
        cluster: info.cluster,
        position: info.position.0,
        version: info.version,
        sealed_by: info.sealed_by,
    })
}

fn time(info: &BackupInfo) -> Timestamp {
    Timestamp::try_from(info.taken).unwrap_or_default()
}

fn read(file: &Path) -> Result<BackupInfo> {
    isthmus_control::read_backup(file).map_err(|error| {
        let what = format!("{} is no backup that can be used", file.display());
        Failure::failed("bad-backup", what).caused_by(&error)
    })
}

/// `isthmus control restore`.
pub(crate) fn restore(setting: &Setting, args: &RestoreArgs) -> Result<ExitCode> {
    let config = process::control_config(&args.config, &config::read(&args.config)?);
    let restored = isthmus_control::restore(&config, &args.backup, args.replace);
    let restored = restored.map_err(|error| bad_backup(&args.backup, &error))?;
    let Restoration {
        backup,
        store,
        replaced,
        unsigned,
    } = restored;
    let text = match setting.format {
        Some(format) => {
            let value = json!({
                "cluster": backup.cluster,
                "taken": time(&backup).to_string(),
                "position": backup.position.0,
                "store": store,
                "replaced": replaced,
                "unsigned": unsigned,
            });
            output::structured(&value, format)
        }
        None => tell(&backup, &store, replaced.as_deref(), unsigned.as_deref()),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(
    backup: &BackupInfo,
    store: &Path,
    replaced: Option<&Path>,
    unsigned: Option<&str>,
) -> String {
    let cluster = &backup.cluster;
    let (taken, position) = (time(backup), backup.position.0);
    let mut lines = vec![
        format!("{cluster} begins with what it had at {taken}, position {position}"),
        format!("  store     {}", store.display()),
    ];
    if let Some(replaced) = replaced {
        let replaced = replaced.display();
        lines.push(format!("  replaced  {replaced}, which may be deleted"));
    }
    if let Some(unsigned) = unsigned {
        lines.push(format!("It cannot start yet: {unsigned}"));
    }
    lines.push(format!(
        "Start its control plane: it learns from other clusters what it lacks. If it voted on config, it has lost\n\
         its vote; another cluster's API gives it a new one:\n  \
           isthmus authority remove {cluster} && isthmus authority add {cluster}\n\
         If nobody is left who votes, it goes on with what it has:\n  \
           isthmus authority reset --cluster {cluster} --accept-loss\n\
         Revocations since then are to be repeated; join tokens that nobody had used are void.\n"
    ));
    lines.join("\n")
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    let what = format!("{} cannot be written", path.display());
    Failure::failed("not-written", what).caused_by(error)
}

fn unread(path: &Path, error: &io::Error) -> Failure {
    let what = format!("{} cannot be read", path.display());
    Failure::failed("not-read", what).caused_by(error)
}

fn bad_backup(path: &Path, error: &BackupError) -> Failure {
    let (code, what, next) = match error {
        BackupError::Exists { .. } => (
            "store-exists",
            "nothing was restored".to_owned(),
            Some("--replace puts that one aside"),
        ),
        BackupError::Data(_) | BackupError::AtRest(_) | BackupError::File { .. } => {
            ("not-restored", "nothing was restored".to_owned(), None)
        }
        _ => (
            "bad-backup",
            format!("{} cannot be used", path.display()),
            Some("`isthmus backup show FILE` says what a backup is of"),
        ),
    };
    let failure = Failure::failed(code, what).caused_by(error);
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}
