//! `GET /slots`: the requests that are at work now, from the queue to their last token. What they say is not shown.

use super::{State, caller, error::ApiError, query, query::Pairs};
use axum::{Json, extract};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

/// One prompt and its answers, as far as the task that serves them has heard.
#[derive(Debug)]
pub struct Slot {
    client: Arc<str>,
    choices: u32,
    prompt_tokens: u64,
    begin: Instant,
    /// Index into [`STATES`].
    state: AtomicU32,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
}

const STATES: [&str; 3] = ["waiting", "evaluating", "generating"];

/// The requests of one model that are at work, by numbers that are never given twice.
#[derive(Debug, Default)]
pub struct Slots(Mutex<(u64, BTreeMap<u64, Arc<Slot>>)>);

impl Slots {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Slot>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A prompt was queued. It is shown until what this answers is dropped.
    pub fn enter(self: &Arc<Slots>, prompt_tokens: u64, choices: u32) -> Entry {
        let slot = Arc::new(Slot {
            client: caller::client(),
            choices,
            prompt_tokens,
            begin: Instant::now(),
            state: AtomicU32::new(0),
            cached_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
        });
        let mut slots = self.lock();
        let id = slots.0;
        slots.0 += 1;
        slots.1.insert(id, slot.clone());
        Entry { slots: self.clone(), id, slot }
    }
}

/// Keeps a slot shown.
#[derive(Debug)]
pub struct Entry {
    slots: Arc<Slots>,
    id: u64,
    slot: Arc<Slot>,
}

impl Entry {
    /// It left the queue.
    pub fn started(&self, cached_tokens: u64) {
        self.slot.cached_tokens.store(cached_tokens, Ordering::Relaxed);
        self.slot.state.store(1, Ordering::Relaxed);
    }

    /// One of its answers grew by a token.
    pub fn token(&self) {
        self.slot.generated_tokens.fetch_add(1, Ordering::Relaxed);
        self.slot.state.store(2, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.slots.lock().1.remove(&self.id);
    }
}

pub async fn handle(extract::State(state): extract::State<State>, pairs: Pairs) -> Result<Json<Value>, ApiError> {
    query::fields(pairs)?.finish(&mut state.unknown())?;
    let mut all = Vec::new();
    for service in state.services() {
        for (id, slot) in &service.slots.lock().1 {
            all.push(json!({
                "id": id,
                "model": service.model.id,
                "client": *slot.client,
                "state": STATES[slot.state.load(Ordering::Relaxed) as usize],
                "choices": slot.choices,
                "prompt_tokens": slot.prompt_tokens,
                "cached_tokens": slot.cached_tokens.load(Ordering::Relaxed),
                "generated_tokens": slot.generated_tokens.load(Ordering::Relaxed),
                "age_s": slot.begin.elapsed().as_millis() as f64 / 1000.0,
            }));
        }
    }
    Ok(Json(Value::Array(all)))
}
