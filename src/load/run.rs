//! When each request is sent.

use super::client::{Client, Failure, FailureKind, Outcome};
use super::dataset::Dataset;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What decides when a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// Closed loop: so many are under way at any time; the next is sent when one ends.
    Concurrency(usize),
    /// Open loop: so many a second at even distances, however many are under way, as users come who do not know of each
    /// other. Waiting that a slow server causes is then part of the latency.
    PerSecond(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// How many requests are sent.
    pub requests: usize,
    /// The first prompt; the others follow in the data set's order.
    pub first: usize,
    pub arrival: Arrival,
}

/// What came of a schedule.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One for each request that ended, in the order in which they did.
    pub outcomes: Vec<Outcome>,
    /// From before the first request to the end of the last.
    pub elapsed: Duration,
    /// Requests that were under way, and were given up, when the batch was stopped.
    pub unfinished: usize,
}

/// Sends the schedule's requests. When `stop` completes first, those under way are given up and what there is is told.
/// `progress` is called at the end of each request.
pub async fn run(
    client: &Arc<Client>,
    dataset: &Arc<Dataset>,
    schedule: Schedule,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(),
) -> Batch {
    let (mut batch, mut under_way, mut sent) = (Batch::default(), JoinSet::new(), 0);
    let mut stop = pin!(stop);
    let start = Instant::now();
    loop {
        while sent < schedule.requests && schedule.is_due(sent, under_way.len(), start) {
            let (client, dataset, prompt) = (client.clone(), dataset.clone(), schedule.first.wrapping_add(sent));
            under_way.spawn(async move { client.ask(dataset.messages(prompt)).await });
            sent += 1;
        }
        if sent == schedule.requests && under_way.is_empty() {
            break;
        }
        let next = schedule.start_of(sent, start).filter(|_| sent < schedule.requests);
        tokio::select! {
            () = &mut stop => {
                batch.unfinished = under_way.len();
                under_way.shutdown().await;
                break;
            }
            Some(ended) = under_way.join_next() => {
                let lost = || Failure { kind: FailureKind::Lost, detail: "the request's task ended".to_owned() };
                batch.outcomes.push(ended.unwrap_or_else(|_| Err(lost())));
                progress();
            }
            () = sleep_until(next.unwrap_or(start)), if next.is_some() => {}
        }
    }
    batch.elapsed = start.elapsed();
    batch
}

impl Schedule {
    fn is_due(&self, index: usize, under_way: usize, start: Instant) -> bool {
        match self.arrival {
            Arrival::Concurrency(most) => under_way < most.max(1),
            Arrival::PerSecond(_) => self.start_of(index, start).is_some_and(|due| due <= Instant::now()),
        }
    }

    /// When the request at `index` is sent, where the clock decides it.
    fn start_of(&self, index: usize, start: Instant) -> Option<Instant> {
        let Arrival::PerSecond(rate) = self.arrival else { return None };
        // A rate that is no positive number would never come to an end; it sends all at once instead.
        Some(start + Duration::try_from_secs_f64(index as f64 / rate).unwrap_or_default())
    }
}
