//! Times a generation, for the model's measures and the record of its request.

use super::{
    Service,
    caller::{self, Record},
    generate::Usage,
    measures::{Measures, Outcome},
};
use std::{sync::Arc, time::Instant};

/// Of one prompt and its answers.
pub struct Clock {
    measures: Arc<Measures>,
    record: Option<Arc<Record>>,
    /// When the request arrived.
    arrival: Instant,
    /// When it entered the engine's queue.
    queued: Instant,
    /// When each answer grew last.
    last: Vec<Option<Instant>>,
    any: bool,
}

impl Clock {
    /// The prompt was queued just now.
    pub fn start(service: &Service, choices: u32) -> Clock {
        let (record, queued) = (caller::current(), Instant::now());
        if let Some(record) = &record {
            record.figures().model = Some(service.model.id.clone());
        }
        let arrival = record.as_ref().map_or(queued, |record| record.begin());
        let last = vec![None; choices as usize];
        Clock { measures: service.measures.clone(), record, arrival, queued, last, any: false }
    }

    /// It left the queue.
    pub fn started(&mut self) {
        let waited = self.queued.elapsed();
        self.measures.queue.observe(waited.as_secs_f64());
        if let Some(record) = &self.record {
            record.figures().queue.get_or_insert(waited);
        }
    }

    /// Answer `choice` grew by a token.
    pub fn token(&mut self, choice: u32) {
        let now = Instant::now();
        if !self.any {
            self.any = true;
            let time = now - self.arrival;
            self.measures.first_token.observe(time.as_secs_f64());
            if let Some(record) = &self.record {
                record.figures().first_token.get_or_insert(time);
            }
        }
        let Some(last) = self.last.get_mut(choice as usize) else { return };
        if let Some(before) = last.replace(now) {
            self.measures.inter_token.observe((now - before).as_secs_f64());
        }
    }

    /// An answer ended so.
    pub fn finished(&mut self, finish: &'static str) {
        if let Some(record) = &self.record {
            record.figures().finish = Some(finish);
        }
    }

    /// All is told, or nobody listens any more.
    pub fn end(&mut self, outcome: Outcome, usage: Usage) {
        self.measures.prompt_tokens.inc_by(usage.prompt_tokens);
        self.measures.cached_tokens.inc_by(usage.cached_tokens);
        self.measures.generation_tokens.inc_by(usage.completion_tokens);
        if outcome == Outcome::Completed {
            self.measures.duration.observe(self.arrival.elapsed().as_secs_f64());
        }
        let Some(record) = &self.record else { return };
        let mut figures = record.figures();
        let add = |sum: &mut Option<u64>, tokens: u64| *sum = Some(sum.unwrap_or(0) + tokens);
        add(&mut figures.prompt_tokens, usage.prompt_tokens);
        add(&mut figures.cached_tokens, usage.cached_tokens);
        add(&mut figures.completion_tokens, usage.completion_tokens);
        match outcome {
            Outcome::Completed => {}
            Outcome::Cancelled => figures.finish = Some("cancelled"),
            Outcome::Failed | Outcome::Refused => figures.finish = Some("failed"),
            Outcome::TimedOut => figures.finish = Some("timed_out"),
        }
    }
}
