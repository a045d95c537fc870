//! Records, and what is done with them: put, get, change, delete, list.

use super::{BODIES, HEADS, PLACES, Store, StoreError, Totals};
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// What a record is. Ids are unique within a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    ChatCompletion,
    Response,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::ChatCompletion => "chat_completion",
            Kind::Response => "response",
        }
    }
}

/// What can be known of a record without reading it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub kind: Kind,
    pub id: String,
    /// Whose it is: only who gives the same name finds it.
    pub owner: String,
    pub model: String,
    pub metadata: Map<String, Value>,
    /// Bytes of the body and of this head as it was first written; set by [`Store::put`].
    #[serde(default)]
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub head: Head,
    pub body: Value,
}

/// Which records are listed.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Begin behind this one.
    pub after: Option<String>,
    pub limit: usize,
    /// The newest first.
    pub descending: bool,
    pub model: Option<String>,
    /// Pairs that a record's metadata must hold.
    pub metadata: Vec<(String, String)>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub records: Vec<Record>,
    pub has_more: bool,
}

/// A value from the database's bytes.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| corrupted(format!("a record cannot be read: {error}")))
}

fn write_json(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| corrupted(format!("a record cannot be written: {error}")))
}

fn corrupted(reason: String) -> StoreError {
    StoreError::Failed(Box::new(redb::Error::Corrupted(reason)))
}

fn missing() -> StoreError {
    corrupted("a record lacks its head or its body".to_owned())
}

fn key(kind: Kind, id: &str) -> String {
    format!("{}/{id}", kind.name())
}

impl Store {
    /// Keeps a record, in place of one that has its kind and id. The oldest go to make room.
    pub fn put(&self, mut head: Head, body: &Value) -> Result<(), StoreError> {
        let body = write_json(body)?;
        head.bytes = (body.len() + write_json(&head)?.len()) as u64;
        if head.bytes > self.limits.bytes {
            return Err(StoreError::TooLarge { bytes: head.bytes, limit: self.limits.bytes });
        }
        self.change(|write, totals| {
            remove(write, totals, &key(head.kind, &head.id))?;
            while totals.records >= self.limits.records || totals.bytes + head.bytes > self.limits.bytes {
                let oldest = write.open_table(HEADS)?.first()?.map(|(_, head)| read::<Head>(head.value()));
                let Some(oldest) = oldest.transpose()? else { break };
                remove(write, totals, &key(oldest.kind, &oldest.id))?;
            }
            let place = totals.next;
            write.open_table(PLACES)?.insert(key(head.kind, &head.id).as_str(), place)?;
            write.open_table(HEADS)?.insert(place, write_json(&head)?.as_slice())?;
            write.open_table(BODIES)?.insert(place, body.as_slice())?;
            *totals = Totals { records: totals.records + 1, bytes: totals.bytes + head.bytes, next: place + 1 };
            Ok(())
        })
    }

    pub fn get(&self, kind: Kind, owner: &str, id: &str) -> Result<Option<Record>, StoreError> {
        let transaction = self.database.begin_read()?;
        let Some(place) = transaction.open_table(PLACES)?.get(key(kind, id).as_str())?.map(|place| place.value())
        else {
            return Ok(None);
        };
        let head = transaction.open_table(HEADS)?.get(place)?.ok_or_else(missing)?;
        let head: Head = read(head.value())?;
        if head.owner != owner {
            return Ok(None);
        }
        let body = transaction.open_table(BODIES)?.get(place)?.ok_or_else(missing)?;
        Ok(Some(Record { head, body: read(body.value())? }))
    }

    /// Replaces a record's metadata; answers the record as it is then.
    pub fn set_metadata(
        &self,
        kind: Kind,
        owner: &str,
        id: &str,
        metadata: Map<String, Value>,
    ) -> Result<Option<Record>, StoreError> {
        self.change(|write, _| {
            let Some((place, mut head)) = find(write, &key(kind, id))?.filter(|(_, head)| head.owner == owner) else {
                return Ok(None);
            };
            head.metadata = metadata;
            write.open_table(HEADS)?.insert(place, write_json(&head)?.as_slice())?;
            let bodies = write.open_table(BODIES)?;
            let body = bodies.get(place)?.ok_or_else(missing)?;
            Ok(Some(Record { head, body: read(body.value())? }))
        })
    }

    /// Whether there was such a record.
    pub fn delete(&self, kind: Kind, owner: &str, id: &str) -> Result<bool, StoreError> {
        self.change(|write, totals| {
            let found = find(write, &key(kind, id))?.is_some_and(|(_, head)| head.owner == owner);
            if found {
                remove(write, totals, &key(kind, id))?;
            }
            Ok(found)
        })
    }

    /// `None` when there is no record to begin behind.
    pub fn list(&self, kind: Kind, owner: &str, query: &Query) -> Result<Option<Page>, StoreError> {
        let transaction = self.database.begin_read()?;
        let (heads, bodies) = (transaction.open_table(HEADS)?, transaction.open_table(BODIES)?);
        let owned = |head: &Head| head.kind == kind && head.owner == owner;
        let after = match &query.after {
            None => None,
            Some(id) => {
                let place = transaction.open_table(PLACES)?.get(key(kind, id).as_str())?.map(|place| place.value());
                let Some(place) = place else { return Ok(None) };
                let head: Head = read(heads.get(place)?.ok_or_else(missing)?.value())?;
                if !owned(&head) {
                    return Ok(None);
                }
                Some(place)
            }
        };
        let (from, to) = match (after, query.descending) {
            (None, _) => (0, u64::MAX),
            (Some(place), false) => (place + 1, u64::MAX),
            (Some(place), true) => (0, place),
        };
        let mut range = heads.range(from..to)?;
        let mut page = Page { records: Vec::new(), has_more: false };
        while let Some(entry) = if query.descending { range.next_back() } else { range.next() } {
            let (place, head) = entry?;
            let head: Head = read(head.value())?;
            if !owned(&head) || !query.takes(&head) {
                continue;
            }
            if page.records.len() == query.limit {
                page.has_more = true;
                break;
            }
            let body = bodies.get(place.value())?.ok_or_else(missing)?;
            page.records.push(Record { head, body: read(body.value())? });
        }
        Ok(Some(page))
    }

    /// One transaction. The totals change only with it.
    fn change<T>(
        &self,
        work: impl FnOnce(&WriteTransaction, &mut Totals) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut totals = self.lock();
        let mut after = *totals;
        let write = self.database.begin_write()?;
        let done = work(&write, &mut after)?;
        write.commit()?;
        *totals = after;
        Ok(done)
    }
}

impl Query {
    fn takes(&self, head: &Head) -> bool {
        self.model.as_ref().is_none_or(|model| *model == head.model)
            && self.metadata.iter().all(|(name, value)| head.metadata.get(name).and_then(Value::as_str) == Some(value))
    }
}

fn find(write: &WriteTransaction, key: &str) -> Result<Option<(u64, Head)>, StoreError> {
    let places = write.open_table(PLACES)?;
    let Some(place) = places.get(key)?.map(|place| place.value()) else { return Ok(None) };
    let heads = write.open_table(HEADS)?;
    let head = heads.get(place)?.ok_or_else(missing)?;
    Ok(Some((place, read(head.value())?)))
}

fn remove(write: &WriteTransaction, totals: &mut Totals, key: &str) -> Result<(), StoreError> {
    let Some((place, head)) = find(write, key)? else { return Ok(()) };
    write.open_table(PLACES)?.remove(key)?;
    write.open_table(HEADS)?.remove(place)?;
    write.open_table(BODIES)?.remove(place)?;
    totals.records -= 1;
    totals.bytes = totals.bytes.saturating_sub(head.bytes);
    Ok(())
}
