//! Certificates that are made for a measurement, with openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use isthmus_lab::mesh::run;
use isthmus_lab::trouble::{During, Result};

/// A certificate's file and its key's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

const CONFIG: &str = "\
[req]
distinguished_name = dn
[dn]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
";

/// An authority of its own, in `folder`.
pub(crate) fn authority(folder: &Path) -> Result<Certificate> {
    let made = Certificate {
        chain: folder.join("ca.pem"),
        key: folder.join("ca.key"),
    };
    let config = folder.join("openssl.cnf");
    fs::write(&config, CONFIG).during(|| config.display().to_string())?;
    make(
        folder,
        &made,
        &["-extensions", "authority", "-subj", "/CN=bench"],
    )?;
    Ok(made)
}

/// A certificate for `name`, such as `DNS:in.bench`, in the folder of [`authority`]. Certificate and
/// key are also in one file, `as_file.pem`, which all peers can read.
pub(crate) fn leaf(
    folder: &Path,
    authority: &Certificate,
    as_file: &str,
    name: &str,
) -> Result<Certificate> {
    let made = Certificate {
        chain: folder.join(format!("{as_file}.crt")),
        key: folder.join(format!("{as_file}.key")),
    };
    let (chain, key) = (authority.chain.display(), authority.key.display());
    let (chain, key) = (chain.to_string(), key.to_string());
    let name = format!("subjectAltName={name}");
    let issuer = ["-extensions", "leaf", "-CA", &chain, "-CAkey", &key];
    make(
        folder,
        &made,
        &[&issuer[..], &["-subj", "/CN=bench", "-addext", &name]].concat(),
    )?;
    let read = |path: &Path| fs::read_to_string(path).during(|| path.display().to_string());
    let both = folder.join(format!("{as_file}.pem"));
    let text = read(&made.chain)? + &read(&made.key)?;
    fs::write(&both, text).during(|| both.display().to_string())?;
    Ok(made)
}

fn make(folder: &Path, made: &Certificate, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-config",
        "openssl.cnf",
        "-x509",
        "-nodes",
        "-days",
        "2",
    ]);
    command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command
        .arg("-out")
        .arg(&made.chain)
        .arg("-keyout")
        .arg(&made.key);
    run(command.args(arguments).current_dir(folder))?.expect(0)?;
    Ok(())
}
