//! What clients have asked to be kept: records under an id, listed oldest first, in memory or in one file (redb). It
//! knows nothing of what a record says.
//!
//! Both are bounded, and the oldest records go first. A record in a file is on the disk, whatever then happens to the
//! process, when [`Store::put`] returns.

mod records;

pub use records::{Head, Kind, Page, Query, Record};

use redb::{Database, DatabaseError, ReadableTable, StorageError, TableDefinition};
use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Records by the order in which they came.
const HEADS: TableDefinition<u64, &[u8]> = TableDefinition::new("heads");
const BODIES: TableDefinition<u64, &[u8]> = TableDefinition::new("bodies");
/// From `kind/id` to the place in that order.
const PLACES: TableDefinition<&str, u64> = TableDefinition::new("places");

/// The file within the folder that [`Store::open`] is given.
pub const FILE: &str = "hesper.redb";

/// What the database may keep of the file in memory.
const CACHE_BYTES: usize = 16 << 20;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub records: u64,
    /// Of JSON, without the database's own structures.
    pub bytes: u64,
}

impl Limits {
    pub const MEMORY: Limits = Limits { records: 1_000, bytes: 64 << 20 };
    pub const FILE: Limits = Limits { records: 100_000, bytes: 4 << 30 };
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} cannot be used: {error}", path = .path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("{path} is in use by another process: give each server a folder of its own", path = .0.display())]
    Locked(PathBuf),
    #[error(
        "{path} is damaged or no database of this program ({reason}): restore it, or move it away to begin anew",
        path = .path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("a record of {bytes} bytes is larger than all that is kept, {limit} bytes")]
    TooLarge { bytes: u64, limit: u64 },
    /// The database failed: no space is left, or the disk is broken.
    #[error("the store failed: {0}")]
    Failed(Box<redb::Error>),
    #[error("the store's work ended early: {0}")]
    Ended(String),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> StoreError {
        StoreError::Failed(Box::new(error.into()))
    }
}

/// How much is there now. Locked by whoever writes, from before the transaction to after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    records: u64,
    bytes: u64,
    /// Where the next record goes: behind all others.
    next: u64,
}

/// Records of clients. Its functions block while the disk works.
#[derive(Debug)]
pub struct Store {
    database: Database,
    limits: Limits,
    totals: Mutex<Totals>,
}

impl Store {
    /// Kept as long as the process runs.
    pub fn in_memory(limits: Limits) -> Result<Store, StoreError> {
        let backend = redb::backends::InMemoryBackend::new();
        Store::new(builder().create_with_backend(backend)?, limits)
    }

    /// Kept in `folder`, which is made where it is missing. The whole file is checked.
    pub fn open(folder: &Path, limits: Limits) -> Result<Store, StoreError> {
        let path = folder.join(FILE);
        let unusable = |path: &Path, error| StoreError::Folder { path: path.to_owned(), error };
        private_folder(folder).map_err(|error| unusable(folder, error))?;
        let file = private_file(&path).map_err(|error| unusable(&path, error))?;
        let damaged = |reason: String| StoreError::Damaged { path: path.clone(), reason };
        // On some kinds of damage the database panics.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut database = builder().create_file(file)?;
            let whole = database.check_integrity()?;
            Ok((database, whole))
        }));
        let (database, whole) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => return Err(StoreError::Locked(path)),
            Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) if error.kind() != io::ErrorKind::InvalidData => {
                return Err(unusable(&path, error));
            }
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_) => return Err(damaged("its pages contradict each other".to_owned())),
        };
        if !whole {
            tracing::warn!(path = %path.display(), "the store was repaired to its last sound state");
        }
        Store::new(database, limits).map_err(|error| damaged(error.to_string()))
    }

    fn new(database: Database, limits: Limits) -> Result<Store, StoreError> {
        let write = database.begin_write()?;
        let mut totals = Totals::default();
        {
            write.open_table(BODIES)?;
            write.open_table(PLACES)?;
            for entry in write.open_table(HEADS)?.iter()? {
                let (place, head) = entry?;
                totals.records += 1;
                totals.bytes += records::read::<Head>(head.value())?.bytes;
                totals.next = place.value() + 1;
            }
        }
        write.commit()?;
        Ok(Store { database, limits, totals: Mutex::new(totals) })
    }

    /// The totals, for a writer. One that panicked has changed neither them nor the database.
    fn lock(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records and bytes that are kept now.
    pub fn size(&self) -> (u64, u64) {
        let totals = self.lock();
        (totals.records, totals.bytes)
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Answers are private: what is made here is for this user alone. A folder that exists stays as it is.
fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn private_file(path: &Path) -> io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
