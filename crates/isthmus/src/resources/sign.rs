//! `isthmus mesh sign -f`: objects with the signature that they need.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::files;
use crate::failure::Result;
use crate::setting::Setting;
use crate::signer::Signer;
use crate::{config, output};

/// Prints the objects of the files, signed, for whoever writes them without the mesh key.
pub(crate) fn sign(setting: &Setting, paths: &[PathBuf]) -> Result<ExitCode> {
    let signer = Signer::with_key_of(&setting.home)?;
    let parsed = files::parse(&files::sources(paths)?, &setting.namespace)?;
    let objects = parsed
        .into_iter()
        .map(|parsed| signer.sign(parsed.document.object.into_json(), None));
    let objects = objects.collect::<Result<Vec<_>>>()?;
    let text = match setting.format {
        Some(format) => output::structured(&Value::Array(objects), format),
        None => objects
            .iter()
            .map(config::to_yaml)
            .collect::<Vec<_>>()
            .join("---\n"),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
