//! `isthmus backup`: all that control planes keep, in files.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum BackupArgs {
    /// Write a backup of every cluster, or of the one that --cluster names, while the mesh serves
    #[command(
        after_help = "A file for each cluster, named after it and the time. What is sealed at rest is sealed in it, for\n\
        the same key. No cluster's own key is in it. Exit 1 when a cluster could not be backed up.\n\n\
        Examples:\n  isthmus backup create --to /var/backups/isthmus\n  \
        isthmus backup create --cluster us-west -o json"
    )]
    Create {
        /// Directory to write into [default: the current one]
        #[arg(
            long,
            value_name = "DIR",
            default_value = ".",
            hide_default_value = true
        )]
        to: PathBuf,
    },
    /// Show what a backup is of, and whether it is whole
    #[command(after_help = "Example:\n  isthmus backup show us-west-20261123T100000Z.backup")]
    Show {
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RestoreArgs {
    /// Configuration file
    #[arg(short, long = "config", value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: PathBuf,
    /// Also where there is a store; it is put aside
    #[arg(long)]
    pub(crate) replace: bool,
}
