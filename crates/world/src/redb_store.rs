//! The store of a process: one file, by redb.
//!
//! Every commit is synced before it is acknowledged. After an I/O error the file is closed and the
//! next commit opens it again: a full disk heals when there is room, without a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, TableDefinition, TableError,
    TableHandle, WriteTransaction,
};

use crate::store::{Batch, Pair, Store, StoreError, StoreImage, Table, TakePair};

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

    /// Makes a store of what `content` puts into it, in the place of whatever is at `path`, in one step.
    ///
    /// Errors: those of `content`; there is no room for it. What is at `path` is as it was.
    pub fn write_new(
        path: impl AsRef<Path>,
        content: impl FnOnce(&mut Filling<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = path.as_ref();
        let failed = |act| move |source| io_failure(path, act, source);
        let beside = path.with_added_extension("anew");
        let file = options()
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed("create"))?;
        if let Err(error) = fill_new(path, file, content) {
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

    fn image(&mut self, more: &Batch) -> Result<Box<dyn StoreImage>, StoreError> {
        let reading = self.opened()?.begin_read();
        let reading = reading.map_err(|error| self.failed("read", error))?;
        Ok(Box::new(RedbImage {
            path: self.path.clone(),
            reading,
            more: more.clone(),
        }))
    }
}

/// What a store in a file held at one moment.
#[derive(Debug)]
pub struct RedbImage {
    path: PathBuf,
    reading: ReadTransaction,
    /// Is not in the file.
    more: Batch,
}

impl RedbImage {
    /// Of a store that no process has open, and that is not changed by it.
    ///
    /// Errors: as of [`RedbStore::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let file = File::open(&path).map_err(|error| io_failure(&path, "open", error))?;
        check_magic(&path, &file)?;
        let opened = guarded(&path, || Ok(builder().open_read_only(&path)?));
        let database = opened.map_err(|error| match error {
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                StoreError::Damaged {
                    path: path.clone(),
                    reason: "its end is missing".to_owned(),
                }
            }
            StoreError::Io { source, .. } if is_unfinished(&source) => StoreError::Damaged {
                path: path.clone(),
                reason: "it was not written to its end".to_owned(),
            },
            other => other,
        })?;
        check_format(&path, &database)?;
        let reading = guarded(&path, || Ok(database.begin_read()?))?;
        Ok(Self {
            reading,
            path,
            more: Batch::new(),
        })
    }
}

impl StoreImage for RedbImage {
    fn tables(&self) -> Result<Vec<String>, StoreError> {
        let tables = guarded(&self.path, || {
            Ok(self.reading.list_tables()?.collect::<Vec<_>>())
        })?;
        let names = tables.iter().map(|table| table.name().to_owned());
        let more = self.more.writes().iter();
        let more = more.map(|write| write.table.name().to_owned());
        let all: BTreeSet<_> = names.chain(more).collect();
        Ok(all
            .into_iter()
            .filter(|name| name != FORMAT_TABLE_NAME)
            .collect())
    }

    fn each(&self, table: &str, take: &mut TakePair<'_>) -> Result<(), StoreError> {
        let writes = self.more.writes().iter();
        let writes = writes.filter(|write| write.table.name() == table);
        let written: BTreeMap<_, _> = writes.map(|write| (&write.key[..], &write.value)).collect();
        let mut refused = Ok(());
        guarded(&self.path, || {
            let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(table);
            let table = match self.reading.open_table(definition) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            for pair in table.range::<&[u8]>(..)? {
                let (key, value) = pair?;
                if written.contains_key(key.value()) {
                    continue;
                }
                refused = take(key.value(), value.value());
                if refused.is_err() {
                    return Ok(());
                }
            }
            Ok(())
        })?;
        refused?;
        for (key, value) in written {
            if let Some(value) = value {
                take(key, value)?;
            }
        }
        Ok(())
    }
}

/// A store that is being made.
#[expect(
    missing_debug_implementations,
    reason = "a transaction of redb has none"
)]
pub struct Filling<'a> {
    path: &'a Path,
    writing: &'a WriteTransaction,
}

impl Filling<'_> {
    /// Puts pairs into a table, for as long as `give` gives some.
    ///
    /// Errors: those of `give`; they cannot be written.
    pub fn table(
        &mut self,
        name: &str,
        give: impl FnOnce(&mut TakePair<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let failed = |error: redb::Error| failure(self.path, "write", error);
        let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(name);
        let table = self.writing.open_table(definition);
        let mut table = table.map_err(|error| failed(error.into()))?;
        give(&mut |key, value| {
            let inserted = table.insert(key, value).map(drop);
            inserted.map_err(|error| failed(error.into()))
        })
    }
}

fn fill_new(
    path: &Path,
    file: File,
    content: impl FnOnce(&mut Filling<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |error: redb::Error| failure(path, "write", error);
    let new = builder()
        .create_file(file)
        .map_err(|error| failed(error.into()))?;
    let begin = || -> Result<WriteTransaction, redb::Error> {
        let mut writing = new.begin_write()?;
        writing.set_durability(Durability::Immediate)?;
        put_format(&writing)?;
        Ok(writing)
    };
    let writing = begin().map_err(failed)?;
    content(&mut Filling {
        path,
        writing: &writing,
    })?;
    writing.commit().map_err(|error| failed(error.into()))
}

fn put_format(writing: &WriteTransaction) -> Result<(), redb::Error> {
    let mut table = writing.open_table(FORMAT_TABLE)?;
    table.insert(FORMAT_KEY, &FORMAT.to_be_bytes()[..])?;
    Ok(())
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
    database: &impl ReadableDatabase,
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

fn open_existing(path: &Path, file: File) -> Result<Database, StoreError> {
    check_magic(path, &file)?;
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

fn check_magic(path: &Path, mut file: &File) -> Result<(), StoreError> {
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == MAGIC => Ok(()),
        Ok(()) => Err(foreign(path)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(foreign(path)),
        Err(error) => Err(io_failure(path, "read", error)),
    }
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
        put_format(&transaction)?;
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

fn check_format(path: &Path, database: &impl ReadableDatabase) -> Result<(), StoreError> {
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

/// Would redb first have to find out what of it is whole?
fn is_unfinished(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(redb::Error::RepairAborted))
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

    fn all(image: &dyn StoreImage) -> Vec<(String, Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        for table in image.tables().unwrap() {
            let mut take = |key: &[u8], value: &[u8]| {
                all.push((table.clone(), key.to_vec(), value.to_vec()));
                Ok(())
            };
            image.each(&table, &mut take).unwrap();
        }
        all
    }

    #[test]
    fn an_image_stays_while_the_store_goes_on_and_makes_another_store() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = filled(&directory.path().join("store"));
        let mut more = Batch::new();
        more.put(TABLE, vec![3], "another");
        more.delete(TABLE, vec![4]);
        more.delete(TABLE, vec![200]);
        more.put(Table::new("more"), "a", "b");
        let image = store.image(&more).unwrap();
        let mut after = Batch::new();
        after.put(TABLE, vec![5], "later");
        store.commit(&after).unwrap();

        let found = all(&*image);
        assert_eq!(found.len(), 50);
        let value = |key: u8| found.iter().find(|(_, known, _)| *known == [key]);
        assert_eq!(value(3).unwrap().2, b"another");
        assert_eq!((value(4), value(200)), (None, None));
        assert_eq!(value(5).unwrap().2, vec![4; 100]);
        assert_eq!(found[0].0, "more");
        assert_eq!(store.read(TABLE, &[3]).unwrap(), Some(vec![4; 100]));

        let path = directory.path().join("copy");
        let copy = |new: &mut Filling<'_>| {
            image
                .tables()?
                .iter()
                .try_for_each(|name| new.table(name, |put| image.each(name, put)))
        };
        RedbStore::write_new(&path, copy).unwrap();
        let content = fs::read(&path).unwrap();
        let sorted = |mut pairs: Vec<_>| {
            pairs.sort();
            pairs
        };
        assert_eq!(sorted(all(&RedbImage::open(&path).unwrap())), sorted(found));
        assert_eq!(fs::read(&path).unwrap(), content, "reading changes nothing");
        let copied = RedbStore::open(&path).unwrap();
        assert_eq!(copied.read(TABLE, &[3]).unwrap(), Some(b"another".to_vec()));
    }

    #[test]
    fn what_cannot_be_made_leaves_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        drop(filled(&path));
        let content = fs::read(&path).unwrap();
        let made = RedbStore::write_new(&path, |new| {
            new.table("t", |put| put(b"a", b"b"))?;
            Err(foreign(&path))
        });
        assert!(matches!(made, Err(StoreError::Foreign { .. })));
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
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
