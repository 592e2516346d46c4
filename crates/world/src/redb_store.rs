//! The store of a process: one file, by redb.
//!
//! Every commit is synced before it is acknowledged. After an I/O error the file is closed and the
//! next commit opens it again: a full disk heals when there is room, without a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, Durability, ReadableDatabase, TableDefinition, TableError, TableHandle,
    WriteTransaction,
};

use crate::store::{Batch, Pair, Store, StoreError, Table};

/// A store in one file, used by one process at a time.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    /// `None` after an I/O error, until the next commit.
    database: Option<Database>,
}

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Version of the layout above redb's own: which tables there are and how their values begin.
const FORMAT: u32 = 1;
const FORMAT_TABLE_NAME: &str = "isthmus";
const FORMAT_TABLE: Definition = TableDefinition::new(FORMAT_TABLE_NAME);
const FORMAT_KEY: &[u8] = b"format";
/// How every file of redb begins (redb, docs/design.md).
const MAGIC: &[u8; 9] = b"redb\x1a\n\xa9\r\n";
/// redb's page cache; its own default of 1 GiB is far more than a control plane's share.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

impl RedbStore {
    /// Opens the store, or makes an empty one when there is no file. Its directory must exist; the
    /// file is readable by its owner only.
    ///
    /// Errors: the file is in use, of an unknown format, not a store, damaged, or cannot be read.
    /// It is left as it is in each case.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let database = open(&path)?;
        Ok(Self {
            path,
            database: Some(database),
        })
    }

    /// Has nothing been written into it?
    ///
    /// Errors: it cannot be read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        let tables = tables(self.opened()?).map_err(|error| self.failed("read", error))?;
        // That of the format is always there.
        Ok(tables <= 1)
    }

    /// Writes the store at `path` anew: `change` is given table, key and value of each pair and says the new value,
    /// or that the pair is left out; behind them comes `more`. The new file takes the place of the old one in one
    /// step.
    ///
    /// Errors: as of [`RedbStore::open`]; those of `change`; there is no room for both files. The old one is as it was.
    pub fn rewrite(
        path: impl AsRef<Path>,
        more: &Batch,
        change: impl FnMut(&str, &[u8], &[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<(), StoreError> {
        let path = path.as_ref();
        let failed = |act| move |source| io_failure(path, act, source);
        let file = options().open(path).map_err(failed("open"))?;
        let old = open_existing(path, file)?;
        let beside = path.with_added_extension("anew");
        let file = options()
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed("create"))?;
        if let Err(error) = copy(path, &old, file, more, change) {
            // Where there was no room for it, it would stand in the way of the rest.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        fs::rename(&beside, path).map_err(failed("replace"))?;
        sync_directory(path).map_err(failed("sync the directory of"))
    }

    fn reopened(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        Ok(self.database.insert(database))
    }

    fn opened(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| StoreError::Io {
            act: "read",
            path: self.path.clone(),
            source: io::Error::other("it was closed by an earlier I/O error"),
        })
    }

    fn failed(&self, act: &'static str, error: impl Into<redb::Error>) -> StoreError {
        failure(&self.path, act, error.into())
    }
}

impl Store for RedbStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let written = write(self.reopened()?, batch);
        written.map_err(|error| {
            self.database = None;
            self.failed("write", error)
        })
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        scan(self.opened()?, table, from, limit).map_err(|error| self.failed("read", error))
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        read(self.opened()?, definition(table), key).map_err(|error| self.failed("read", error))
    }
}

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.0)
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    put(&transaction, batch)?;
    Ok(transaction.commit()?)
}

fn put(transaction: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    for write in batch.writes() {
        let mut table = transaction.open_table(definition(write.table))?;
        match &write.value {
            Some(value) => drop(table.insert(&write.key[..], &value[..])?),
            None => drop(table.remove(&write.key[..])?),
        }
    }
    Ok(())
}

fn tables(database: &Database) -> Result<usize, redb::Error> {
    Ok(database.begin_read()?.list_tables()?.count())
}

/// All of `old` into a store in `file`, as [`RedbStore::rewrite`] says.
fn copy(
    path: &Path,
    old: &Database,
    file: File,
    more: &Batch,
    mut change: impl FnMut(&str, &[u8], &[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<(), StoreError> {
    let mut refused = None;
    let copy = || -> Result<(), redb::Error> {
        let new = builder().create_file(file)?;
        let mut writing = new.begin_write()?;
        writing.set_durability(Durability::Immediate)?;
        let reading = old.begin_read()?;
        for table in reading.list_tables()? {
            let name = table.name();
            let is_format = name == FORMAT_TABLE_NAME;
            let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(name);
            let mut target = writing.open_table(table)?;
            for pair in reading.open_table(table)?.range::<&[u8]>(..)? {
                let (key, value) = pair?;
                let (key, value) = (key.value(), value.value());
                let changed = if is_format {
                    Ok(Some(value.to_vec()))
                } else {
                    change(name, key, value)
                };
                match changed {
                    Ok(Some(value)) => drop(target.insert(key, &value[..])?),
                    Ok(None) => {}
                    Err(error) => {
                        refused = Some(error);
                        return Ok(());
                    }
                }
            }
        }
        put(&writing, more)?;
        Ok(writing.commit()?)
    };
    let copied = copy().map_err(|error| failure(path, "copy", error));
    refused.map_or(copied, Err)
}

fn scan(
    database: &Database,
    table: Table,
    from: &[u8],
    limit: usize,
) -> Result<Vec<Pair>, redb::Error> {
    let table = match database.begin_read()?.open_table(definition(table)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut pairs = Vec::new();
    for pair in table.range(from..)?.take(limit) {
        let (key, value) = pair?;
        pairs.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(pairs)
}

fn read(
    database: &Database,
    table: Definition,
    key: &[u8],
) -> Result<Option<Vec<u8>>, redb::Error> {
    match database.begin_read()?.open_table(table) {
        Ok(table) => Ok(table.get(key)?.map(|value| value.value().to_vec())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    match options().open(path) {
        Ok(file) => open_existing(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(io_failure(path, "open", error)),
    }
}

fn open_existing(path: &Path, mut file: File) -> Result<Database, StoreError> {
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == MAGIC => {}
        Ok(()) => return Err(foreign(path)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(foreign(path)),
        Err(error) => return Err(io_failure(path, "read", error)),
    }
    let mut database = guarded(path, || builder().create_file(file).map_err(Into::into))?;
    if !guarded(path, || Ok(database.check_integrity()?))? {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: "its newest state did not match its checksums".to_owned(),
        });
    }
    check_format(path, &database)?;
    Ok(database)
}

/// Makes the store under another name and links it to its own when it is whole, so that a death in
/// the middle leaves nothing that looks like a store.
fn create(path: &Path) -> Result<Database, StoreError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let failed = |act| move |source| io_failure(path, act, source);

    let file = options()
        .create(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(failed("create"))?;
    file.try_lock().map_err(|_| locked(path))?;
    file.set_len(0).map_err(failed("create"))?;
    let create = || -> Result<Database, redb::Error> {
        let database = builder().create_file(file)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction
            .open_table(FORMAT_TABLE)?
            .insert(FORMAT_KEY, &FORMAT.to_be_bytes()[..])?;
        transaction.commit()?;
        Ok(database)
    };
    let database = create().map_err(|error| failure(path, "create", error))?;
    fs::hard_link(&unfinished, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => locked(path), // Another process was faster.
        _ => io_failure(path, "create", error),
    })?;
    fs::remove_file(&unfinished).map_err(failed("create"))?;
    sync_directory(path).map_err(failed("sync the directory of"))?;
    Ok(database)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn check_format(path: &Path, database: &Database) -> Result<(), StoreError> {
    let found = guarded(path, || read(database, FORMAT_TABLE, FORMAT_KEY))?;
    let found = found.ok_or_else(|| foreign(path))?;
    let found = found.try_into().map_err(|_| foreign(path))?;
    match u32::from_be_bytes(found) {
        FORMAT => Ok(()),
        found => Err(StoreError::UnknownFormat {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
    }
}

/// Runs what reads a file that may hold anything: on some damage redb panics instead of answering.
fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done.map_err(|error| failure(path, "open", error)),
        Err(_) => Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: "its structure makes no sense".to_owned(),
        }),
    }
}

fn foreign(path: &Path) -> StoreError {
    StoreError::Foreign {
        path: path.to_owned(),
    }
}

fn locked(path: &Path) -> StoreError {
    StoreError::Locked {
        path: path.to_owned(),
    }
}

fn io_failure(path: &Path, act: &'static str, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
        _ => StoreError::Io { act, path, source },
    }
}

fn failure(path: &Path, act: &'static str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::DatabaseAlreadyOpen => locked(path),
        redb::Error::Io(source) => io_failure(path, act, source),
        redb::Error::UpgradeRequired(found) => StoreError::UnknownFormat {
            path: path.to_owned(),
            found: u32::from(found),
            known: FORMAT,
        },
        redb::Error::Corrupted(reason) => StoreError::Damaged {
            path: path.to_owned(),
            reason,
        },
        other => io_failure(path, act, io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chance, SeededChance};

    const TABLE: Table = Table::new("t");

    fn filled(path: &Path) -> RedbStore {
        let mut store = RedbStore::open(path).unwrap();
        for round in 0..5u8 {
            let mut batch = Batch::new();
            for key in 0..50u8 {
                batch.put(TABLE, vec![key], vec![round; 100]);
            }
            store.commit(&batch).unwrap();
        }
        store
    }

    #[test]
    fn a_store_is_used_by_one_and_survives_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = filled(&path);
        assert!(matches!(
            RedbStore::open(&path),
            Err(StoreError::Locked { .. })
        ));
        drop(store);
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(store.read(TABLE, &[7]).unwrap(), Some(vec![4; 100]));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_creation_that_died_is_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        fs::write(directory.path().join("store.new"), [0; 5000]).unwrap();
        drop(filled(&path));
        assert!(RedbStore::open(&path).is_ok());
    }

    #[test]
    fn other_files_are_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        for content in [&b""[..], b"x", b"kind: Mesh\n", &[0; 10_000]] {
            fs::write(&path, content).unwrap();
            let opened = RedbStore::open(&path);
            assert!(matches!(opened, Err(StoreError::Foreign { .. })));
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn an_unknown_format_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let mut store = RedbStore::open(&path).unwrap();
        let mut batch = Batch::new();
        let newer = (FORMAT + 1).to_be_bytes().to_vec();
        batch.put(Table::new(FORMAT_TABLE_NAME), FORMAT_KEY, newer);
        store.commit(&batch).unwrap();
        drop(store);
        for _ in 0..2 {
            let error = RedbStore::open(&path).unwrap_err();
            assert!(
                matches!(error, StoreError::UnknownFormat { found, known, .. }
                    if found == known + 1),
                "{error}"
            );
        }
    }

    #[test]
    fn damage_is_an_error_or_harmless_but_never_a_panic_or_another_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        drop(filled(&path));
        let whole = fs::read(&path).unwrap();
        let used: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
        let mut chance = SeededChance::new(7);
        let mut refused = 0;
        for _ in 0..100 {
            let mut damaged = whole.clone();
            let at = used[usize::try_from(chance.below(used.len() as u64)).unwrap()];
            damaged[at] ^= 1 << chance.below(8);
            fs::write(&path, &damaged).unwrap();
            match RedbStore::open(&path) {
                Ok(store) => {
                    let values = store.scan(TABLE, b"", 100).unwrap();
                    let right = values.iter().all(|(_, value)| *value == vec![4; 100]);
                    assert!(right && values.len() == 50, "a flip at {at} changed values");
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "no flip was noticed");
    }
}
