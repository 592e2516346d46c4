//! Why a store is not opened, and how the formats of its records are checked.

use isthmus_replica::LoadError;
use isthmus_world::{StoreError, Table};

/// Why a control plane cannot start with its store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LoadError),
    #[error(
        "table {table} of the store has format {found}, this version of isthmus reads format \
         {known}: use the version that wrote it"
    )]
    Format {
        table: &'static str,
        found: u8,
        known: u8,
    },
    #[error("a record in table {table} of the store is damaged: restore the store from a backup")]
    Damaged { table: &'static str },
}

impl OpenError {
    pub(crate) fn damaged(table: Table) -> Self {
        Self::Damaged {
            table: table.name(),
        }
    }

    /// The record without its format.
    pub(crate) fn check_format(table: Table, known: u8, record: &[u8]) -> Result<&[u8], Self> {
        match record.split_first() {
            Some((&found, rest)) if found == known => Ok(rest),
            Some((&found, _)) => Err(Self::Format {
                table: table.name(),
                found,
                known,
            }),
            None => Err(Self::damaged(table)),
        }
    }
}
