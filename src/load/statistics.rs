//! From the outcomes of requests to figures. Pure: nothing here asks what time it is.
//!
//! | figure | is |
//! |---|---|
//! | `success_rate` | answers that came whole, of the requests that ended |
//! | `qps` | answers that came whole, per second of the batch: from its first request to the end of its last |
//! | `tokens_per_second` | output tokens of those answers, per second of the batch |
//! | `latency_ms` | from sending a request to the last byte of its answer |
//! | `first_token_ms` | from sending a request to the first chunk with content; streams only |
//! | `inter_token_ms` | between two chunks with content of one answer, pooled over all answers; streams only |
//!
//! Times are of answers that came whole. Percentiles are exact, by nearest rank: the smallest value that at least P % of
//! the values do not exceed.

use super::client::{Failure, Outcome, Sample};
use super::run::Batch;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The value of `sorted` (ascending) at nearest rank `percent`, from 1 to 100; none of an empty list.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The middle value, or the mean of the two in the middle; none of an empty list.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(middle).copied(),
        _ => Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0),
    }
}

/// Every figure by its name, in the order in which they are printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures(Vec<(String, Option<f64>)>);

/// The end of a figure's name, and how it follows from the ascending values.
type Part = (&'static str, fn(&[f64]) -> Option<f64>);

/// What is told of each kind of time.
const PARTS: [Part; 5] = [
    ("mean", |values| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)),
    ("p50", |values| percentile(values, 50)),
    ("p95", |values| percentile(values, 95)),
    ("p99", |values| percentile(values, 99)),
    ("max", |values| values.last().copied()),
];

impl Figures {
    /// Figures of a batch that took `elapsed`.
    fn of(outcomes: &[Outcome], elapsed: Duration) -> Figures {
        let samples: Vec<&Sample> = outcomes.iter().flatten().collect();
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let (answers, seconds) = (samples.len() as f64, elapsed.as_secs_f64());
        // One answer without a count makes the sum unknown, not smaller.
        let tokens = samples.iter().map(|sample| sample.output_tokens).sum::<Option<u64>>();
        let mut figures = vec![
            ("success_rate".to_owned(), ratio(answers, outcomes.len() as f64)),
            ("qps".to_owned(), ratio(answers, seconds)),
            ("tokens_per_second".to_owned(), tokens.and_then(|tokens| ratio(tokens as f64, seconds))),
        ];
        let times: [(&str, Vec<Duration>); 3] = [
            ("latency_ms", samples.iter().map(|sample| sample.latency).collect()),
            ("first_token_ms", samples.iter().filter_map(|sample| sample.first_token).collect()),
            ("inter_token_ms", samples.iter().flat_map(|sample| &sample.gaps).copied().collect()),
        ];
        for (name, times) in times {
            let mut values: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
            values.sort_by(f64::total_cmp);
            figures.extend(PARTS.iter().map(|(part, of)| (format!("{name}_{part}"), of(&values))));
        }
        Figures(figures)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).and_then(|(_, value)| *value)
    }

    /// The median of each figure over rounds; a round that lacks it does not count.
    pub fn medians(rounds: &[&Figures]) -> Figures {
        let names = rounds.first().map(|first| first.names().map(str::to_owned).collect::<Vec<_>>());
        let over = |name: &str| median(rounds.iter().filter_map(|round| round.get(name)).collect());
        Figures(names.unwrap_or_default().into_iter().map(|name| (name.clone(), over(&name))).collect())
    }

    /// Each figure divided by that of `base`.
    pub fn ratios(&self, base: &Figures) -> Figures {
        let ratio = |name: &str, value: f64| base.get(name).filter(|base| *base != 0.0).map(|base| value / base);
        Figures(self.0.iter().map(|(name, value)| (name.clone(), value.and_then(|value| ratio(name, value)))).collect())
    }
}

impl Serialize for Figures {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value.map(rounded))))
    }
}

/// To six decimals: the rest is noise.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failures {
    pub kind: String,
    pub count: usize,
    /// What the first of them said.
    pub example: String,
}

/// All that is told of one batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Requests that ended, well or not.
    pub requests: usize,
    pub succeeded: usize,
    /// Requests that were under way when the batch was interrupted.
    pub unfinished: usize,
    pub seconds: f64,
    /// As the server counted them; null where it does not tell.
    pub prompt_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    /// Answers whose tokens are the server's `usage`, and such where chunks with content were counted instead.
    pub counted_by_usage: usize,
    pub counted_by_chunks: usize,
    /// Chunks with content, of streams.
    pub chunks: u64,
    /// Answers whose request was sent twice, since its connection was lost before there was an answer.
    pub sent_again: usize,
    pub errors: Vec<Failures>,
    #[serde(flatten)]
    pub figures: Figures,
}

impl Summary {
    pub fn of(batch: &Batch) -> Summary {
        let samples: Vec<&Sample> = batch.outcomes.iter().flatten().collect();
        let by_usage = samples.iter().filter(|sample| sample.from_usage).count();
        let by_chunks = samples.iter().filter(|sample| !sample.from_usage && sample.output_tokens.is_some()).count();
        Summary {
            requests: batch.outcomes.len(),
            succeeded: samples.len(),
            unfinished: batch.unfinished,
            seconds: rounded(batch.elapsed.as_secs_f64()),
            prompt_tokens: samples.iter().map(|sample| sample.prompt_tokens).sum(),
            output_tokens: samples.iter().map(|sample| sample.output_tokens).sum(),
            counted_by_usage: by_usage,
            counted_by_chunks: by_chunks,
            chunks: samples.iter().map(|sample| sample.chunks).sum(),
            sent_again: samples.iter().filter(|sample| sample.sent_again).count(),
            errors: errors(batch.outcomes.iter().filter_map(|outcome| outcome.as_ref().err())),
            figures: Figures::of(&batch.outcomes, batch.elapsed),
        }
    }
}

/// Failures by kind, the most frequent first.
fn errors<'a>(failures: impl Iterator<Item = &'a Failure>) -> Vec<Failures> {
    let mut kinds: BTreeMap<String, Failures> = BTreeMap::new();
    for failure in failures {
        let kind = failure.kind.to_string();
        let new = || Failures { kind: kind.clone(), count: 0, example: failure.detail.clone() };
        kinds.entry(kind.clone()).or_insert_with(new).count += 1;
    }
    let mut kinds: Vec<Failures> = kinds.into_values().collect();
    kinds.sort_by_key(|failures| std::cmp::Reverse(failures.count));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::client::FailureKind;
    use proptest::prelude::*;

    fn sample(latency_ms: u64, first_ms: u64, gaps_ms: &[u64], tokens: Option<u64>) -> Outcome {
        Ok(Sample {
            latency: Duration::from_millis(latency_ms),
            first_token: Some(Duration::from_millis(first_ms)),
            gaps: gaps_ms.iter().map(|gap| Duration::from_millis(*gap)).collect(),
            chunks: gaps_ms.len() as u64 + 1,
            prompt_tokens: tokens,
            output_tokens: tokens,
            from_usage: tokens.is_some(),
            sent_again: false,
        })
    }

    fn failure(kind: FailureKind, detail: &str) -> Outcome {
        Err(Failure { kind, detail: detail.to_owned() })
    }

    fn summary(outcomes: Vec<Outcome>, seconds: u64) -> Summary {
        Summary::of(&Batch { outcomes, elapsed: Duration::from_secs(seconds), unfinished: 0 })
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            [50, 95, 99, 100].map(|percent| percentile(&values, percent)),
            [100.0, 190.0, 198.0, 200.0].map(Some)
        );
        // The example of the article "Percentile" in Wikipedia, by nearest rank.
        let values = [15.0, 20.0, 35.0, 40.0, 50.0];
        assert_eq!(
            [5, 30, 40, 50, 100].map(|percent| percentile(&values, percent)),
            [15.0, 20.0, 20.0, 35.0, 50.0].map(Some)
        );
        assert_eq!((percentile(&[7.0], 1), percentile(&[], 50)), (Some(7.0), None));
    }

    #[test]
    fn medians_of_odd_and_even_lists() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn figures_follow_from_the_outcomes() {
        let outcomes = vec![
            sample(100, 40, &[10, 20], Some(3)),
            sample(300, 60, &[60], Some(5)),
            failure(FailureKind::Status(429), "full"),
            failure(FailureKind::Status(429), "still full"),
            failure(FailureKind::Timeout, "after 1 s"),
        ];
        let summary = summary(outcomes, 4);
        let figure = |name: &str| summary.figures.get(name);
        assert_eq!((summary.requests, summary.succeeded, summary.output_tokens), (5, 2, Some(8)));
        assert_eq!((summary.counted_by_usage, summary.counted_by_chunks, summary.chunks), (2, 0, 5));
        assert_eq!(
            (figure("success_rate"), figure("qps"), figure("tokens_per_second")),
            (Some(0.4), Some(0.5), Some(2.0))
        );
        assert_eq!((figure("latency_ms_mean"), figure("latency_ms_p50")), (Some(200.0), Some(100.0)));
        assert_eq!((figure("latency_ms_p99"), figure("first_token_ms_mean")), (Some(300.0), Some(50.0)));
        assert_eq!((figure("inter_token_ms_mean"), figure("inter_token_ms_p50")), (Some(30.0), Some(20.0)));
        let kinds: Vec<_> = summary.errors.iter().map(|error| (error.kind.as_str(), error.count)).collect();
        assert_eq!(kinds, [("status 429", 2), ("timeout", 1)]);
        assert_eq!(summary.errors[0].example, "full");
    }

    #[test]
    fn what_is_unknown_is_not_a_number() {
        let figures = summary(vec![sample(1, 1, &[], Some(3)), sample(1, 1, &[], None)], 1).figures;
        assert_eq!((figures.get("tokens_per_second"), figures.get("inter_token_ms_mean")), (None, None));
        let nothing = summary(vec![], 0);
        assert!(nothing.figures.names().all(|name| nothing.figures.get(name).is_none()), "{nothing:?}");
        let json = serde_json::to_value(&nothing).expect("JSON");
        assert!(json["qps"].is_null() && json["requests"] == 0, "{json}");
    }

    #[test]
    fn medians_and_ratios_of_rounds() {
        let rounds = [1, 2, 4].map(|seconds| summary(vec![sample(seconds * 100, 10, &[], Some(8))], seconds).figures);
        let medians = Figures::medians(&rounds.each_ref());
        assert_eq!((medians.get("qps"), medians.get("latency_ms_max")), (Some(0.5), Some(200.0)));
        let ratios = medians.ratios(&rounds[2]);
        assert_eq!((ratios.get("tokens_per_second"), ratios.get("latency_ms_mean")), (Some(2.0), Some(0.5)));
        assert_eq!(ratios.get("inter_token_ms_p95"), None);
    }

    proptest! {
        #[test]
        fn a_percentile_covers_its_share(mut values in proptest::collection::vec(-1e6f64..1e6, 1..200), percent in 1usize..=100) {
            values.sort_by(f64::total_cmp);
            let value = percentile(&values, percent).expect("values");
            let not_above = values.iter().filter(|other| **other <= value).count();
            let below = values.iter().filter(|other| **other < value).count();
            prop_assert!(not_above * 100 >= percent * values.len());
            prop_assert!(below * 100 < percent * values.len());
        }
    }
}
