//! `GET /metrics`: what a scheduler, an autoscaler or a dashboard asks. All labels have few values: those of the models,
//! which the server's owner chose, and of fixed lists.

use super::{
    State, measures,
    measures::Outcomes,
    models::{READY, overall},
};
use crate::engine::{
    queue::Handle,
    stats::{BATCH_BOUNDS, BLOCK_TOKENS, Stats},
};
use axum::{
    extract,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use measures::Measures;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use std::{collections::HashMap, fmt, sync::Arc};

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Open Metrics for those who ask for it, else the older text format, which everybody reads.
pub async fn handle(extract::State(state): extract::State<State>, headers: HeaderMap) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page::of(&state)));
    let mut page = String::new();
    if let Err(fmt::Error) = encode(&mut page, &registry) {
        // A string takes all that is written to it.
        return super::error::ApiError::internal("the metrics could not be written").into_response();
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("application/openmetrics-text") {
        return ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response();
    }
    ([(header::CONTENT_TYPE, TEXT)], as_text_format(&page)).into_response()
}

/// The older format names a counter's family as its samples, and has no mark of the end.
fn as_text_format(open_metrics: &str) -> String {
    let counter = |line: &str| Some(line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.to_owned());
    let counters: Vec<String> = open_metrics.lines().filter_map(counter).collect();
    let mut page = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.iter().any(|counter| counter == name) => {
                page.push_str(&format!("# {kind} {name}_total {rest}\n"));
            }
            _ => page.extend([line, "\n"]),
        }
    }
    page
}

/// A model as it is at this moment.
#[derive(Debug)]
struct Shown {
    id: String,
    status: &'static str,
    measures: Arc<Measures>,
    waiting: usize,
    loaded: Option<LoadedModel>,
}

#[derive(Debug)]
struct LoadedModel {
    engine: Handle,
    context_tokens: u64,
}

#[derive(Debug)]
struct Page {
    ready: bool,
    budget_bytes: Option<u64>,
    /// Name, driver, whether it is software.
    device: Option<[String; 3]>,
    models: Vec<Shown>,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Page {
    fn of(state: &State) -> Page {
        let ready = overall(state) == READY;
        let loader = state.loader();
        let models = state.registry().models();
        let device = models.iter().find_map(|model| Some(model.service()?.model.device.clone()));
        let device = device.or_else(|| Some(loader.as_ref()?.device()));
        let shown = models.iter().map(|model| Shown {
            id: model.entry.id.clone(),
            status: model.status(),
            measures: model.measures.clone(),
            waiting: model.waiting(),
            loaded: model.service().map(|service| LoadedModel {
                engine: service.engine.clone(),
                context_tokens: service.model.context_tokens.into(),
            }),
        });
        Page {
            ready,
            budget_bytes: loader.map(|loader| loader.budget_bytes()),
            device: device.map(|device| [device.name, device.driver, device.software.to_string()]),
            models: shown.collect(),
        }
    }

    fn server(&self, sheet: &mut Sheet) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        sheet.gauges("hesper_build_info", "The running build; always 1", [(version, 1.0)])?;
        let help = "1 if a request sent now would be queued, 0 while loading, restarting or shutting down";
        sheet.gauges("hesper_ready", help, [(Vec::new(), f64::from(self.ready))])?;
        let device = self.device.iter().map(|[name, driver, software]| {
            (vec![("device", name.as_str()), ("driver", driver), ("software", software)], 1.0)
        });
        let help = "The device that computes; always 1. software=\"true\" is a CPU";
        sheet.gauges("hesper_device_info", help, device)?;
        let budget = self.budget_bytes.map(|bytes| (Vec::new(), bytes as f64));
        let help = "Bytes of device memory that all loaded models may take together";
        sheet.gauges("hesper_device_memory_budget_bytes", help, budget)
    }

    fn models(&self, sheet: &mut Sheet) -> fmt::Result {
        let info = self.models.iter().map(|model| (vec![("model", model.id.as_str())], 1.0));
        sheet.gauges("hesper_model_info", "A model that may be asked for; always 1", info)?;
        let loaded = |model| -> (Labels, f64) { (labels(model), f64::from(model.loaded.is_some())) };
        sheet.gauges("hesper_model_loaded", "1 while the model is on the device", self.models.iter().map(loaded))?;
        let failed = |model| -> (Labels, f64) { (labels(model), f64::from(model.status == "failed")) };
        let help = "1 if the model was last not loaded, or ended by itself";
        sheet.gauges("hesper_model_failed", help, self.models.iter().map(failed))?;
        let waiting = self.models.iter().map(|model| (labels(model), model.waiting as f64));
        sheet.gauges(
            "hesper_requests_waiting",
            "Requests in the queue, or waiting for the model to be loaded",
            waiting,
        )?;
        let running = self.models.iter().map(|model| {
            let count = model.loaded.as_ref().map_or(0, |loaded| loaded.engine.running());
            (labels(model), count as f64)
        });
        sheet.gauges("hesper_requests_running", "Requests being answered", running)?;
        let outcomes = self.models.iter().flat_map(|model| {
            Outcomes::NAMES
                .iter()
                .zip(model.measures.outcomes.counts())
                .map(|(outcome, count)| (vec![("outcome", *outcome), ("model", model.id.as_str())], count))
        });
        let help = "Requests by how they ended; a completions request counts once for each prompt";
        sheet.counters("hesper_requests_finished_total", help, outcomes)?;
        type Count = fn(&Measures) -> u64;
        let tokens: [(&str, &str, Count); 3] = [
            ("hesper_prompt_tokens_total", "Tokens of prompts, those in the prefix cache among them", |m| {
                m.prompt_tokens.get()
            }),
            ("hesper_cached_prompt_tokens_total", "Tokens of prompts that needed no evaluation", |m| {
                m.cached_tokens.get()
            }),
            ("hesper_generation_tokens_total", "Tokens of answers", |m| m.generation_tokens.get()),
        ];
        for (name, help, count) in tokens {
            sheet.counters(name, help, self.models.iter().map(|model| (labels(model), count(&model.measures))))?;
        }
        self.histograms(sheet)
    }

    fn histograms(&self, sheet: &mut Sheet) -> fmt::Result {
        type Pick = fn(&Measures) -> &prometheus_client::metrics::histogram::Histogram;
        let histograms: [(&str, &str, Pick); 4] = [
            ("hesper_time_to_first_token_seconds", "From a request's arrival to its first token", |m| &m.first_token),
            ("hesper_inter_token_latency_seconds", "Between two tokens of an answer", |m| &m.inter_token),
            ("hesper_request_duration_seconds", "From a request's arrival to its last token", |m| &m.duration),
            ("hesper_queue_time_seconds", "From entering the engine's queue to leaving it", |m| &m.queue),
        ];
        for (name, help, pick) in histograms {
            let mut family = sheet.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for model in &self.models {
                pick(&model.measures).encode(family.encode_family(&labels(model))?)?;
            }
        }
        Ok(())
    }

    /// What an engine says of itself, while there is one.
    fn engines(&self, sheet: &mut Sheet) -> fmt::Result {
        let engines: Vec<(Labels, &LoadedModel)> =
            self.models.iter().filter_map(|model| Some((labels(model), model.loaded.as_ref()?))).collect();
        type Gauge = fn(&LoadedModel) -> f64;
        let gauges: [(&str, &str, Gauge); 4] = [
            ("hesper_queue_capacity_requests", "Requests that may wait before one is refused", |m| {
                m.engine.capacity() as f64
            }),
            ("hesper_context_capacity_tokens", "Tokens that prompt and answer may have together", |m| {
                m.context_tokens as f64
            }),
            ("hesper_kv_cache_utilization", "Part of the KV cache's blocks that sequences hold, 0 to 1", |m| {
                let stats = m.engine.stats();
                stats.blocks_held.get() as f64 / stats.blocks.get().max(1) as f64
            }),
            ("hesper_device_memory_bytes", "Bytes of device memory that the model takes", |m| {
                m.engine.stats().device_bytes.get() as f64
            }),
        ];
        for (name, help, value) in gauges {
            sheet.gauges(name, help, engines.iter().map(|(labels, model)| (labels.clone(), value(model))))?;
        }
        let blocks = engines.iter().flat_map(|(labels, model)| {
            let stats = model.engine.stats();
            let (held, cached) = (stats.blocks_held.get(), stats.blocks_cached.get());
            let free = stats.blocks.get().saturating_sub(held + cached);
            [("held", held), ("cached", cached), ("free", free)].map(|(state, count)| {
                (labels.iter().copied().chain([("state", state)]).collect::<Labels>(), count as f64)
            })
        });
        let help = "Blocks of the KV cache: held by sequences, kept for their prefixes only, or free";
        sheet.gauges("hesper_kv_cache_blocks", help, blocks)?;
        type Counter = fn(&Stats) -> u64;
        let counters: [(&str, &str, Counter); 6] = [
            ("hesper_prefix_cache_queries_total", "Tokens of prompts that were looked up in the prefix cache", |s| {
                s.prefix_tokens.get()
            }),
            ("hesper_prefix_cache_hits_total", "Tokens of prompts that the prefix cache had", |s| {
                s.prefix_hit_tokens.get()
            }),
            ("hesper_preemptions_total", "Sequences that lost their blocks to others, to be evaluated again", |s| {
                s.preemptions.get()
            }),
            ("hesper_drafted_tokens_total", "Tokens that were drafted, to be verified several in one step", |s| {
                s.drafted_tokens.get()
            }),
            ("hesper_accepted_draft_tokens_total", "Drafted tokens that were what the model says", |s| {
                s.accepted_tokens.get()
            }),
            ("hesper_evaluated_prompt_tokens_total", "Tokens of prompts that the device evaluated", |s| {
                s.prompt_tokens.get()
            }),
        ];
        for (name, help, count) in counters {
            let counted = engines.iter().map(|(labels, model)| (labels.clone(), count(model.engine.stats())));
            sheet.counters(name, help, counted)?;
        }
        cache_config(&engines, sheet)?;
        batches(&engines, sheet)
    }
}

fn labels(model: &Shown) -> Labels<'_> {
    vec![("model", model.id.as_str())]
}

/// The labels are those that the Gateway API Inference Extension's endpoint picker reads.
fn cache_config(engines: &[(Labels, &LoadedModel)], sheet: &mut Sheet) -> fmt::Result {
    let block_tokens = BLOCK_TOKENS.to_string();
    let counts: Vec<String> = engines.iter().map(|(_, model)| model.engine.stats().blocks.get().to_string()).collect();
    let infos = engines.iter().zip(&counts).map(|((labels, _), count)| {
        let config = [("block_size", block_tokens.as_str()), ("num_gpu_blocks", count.as_str())];
        (labels.iter().copied().chain(config).collect::<Labels>(), 1.0)
    });
    let help = "Tokens of a block of the KV cache and the number of blocks, as labels; always 1";
    sheet.gauges("hesper_cache_config_info", help, infos)
}

fn batches(engines: &[(Labels, &LoadedModel)], sheet: &mut Sheet) -> fmt::Result {
    let help = "Sequences that a step of the engine worked on";
    let mut family = sheet.0.encode_descriptor("hesper_batch_size", help, None, MetricType::Histogram)?;
    for (labels, model) in engines {
        let stats = model.engine.stats();
        let bounds = BATCH_BOUNDS.iter().map(|&bound| f64::from(bound)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(stats.batch.iter().map(|figure| figure.get())).collect();
        // The bins are read one after another while the engine counts: their sum is what fits them.
        let steps = buckets.iter().map(|(_, count)| count).sum();
        let none: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
        family.encode_family(labels)?.encode_histogram(stats.batch_sum.get() as f64, steps, &buckets, none)?;
    }
    Ok(())
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        self.server(&mut sheet)?;
        if self.models.is_empty() {
            return Ok(());
        }
        self.models(&mut sheet)?;
        self.engines(&mut sheet)
    }
}

/// Writes families of samples.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => family.encode_gauge(&value)?,
                false => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// `name` ends in `_total`, as its samples do; the family is named without.
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name.trim_end_matches("_total"), help, None, MetricType::Counter)?;
        for (labels, count) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a label holds, it stays on one line, in its quotes, and can be read back.
        #[test]
        fn labels_can_be_read_back(value in any::<String>()) {
            let model = Shown { id: value.clone(), status: "", measures: Arc::default(), waiting: 0, loaded: None };
            let page = Page { ready: true, budget_bytes: None, device: None, models: vec![model] };
            let mut registry = Registry::default();
            registry.register_collector(Box::new(page));
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let text = as_text_format(&text);
            let start = text.find("hesper_model_info{model=\"").expect("the sample") + "hesper_model_info{model=\"".len();
            let (mut read, mut characters) = (String::new(), text[start..].chars());
            loop {
                match characters.next().unwrap() {
                    '"' => break,
                    '\\' => read.push(match characters.next().unwrap() { 'n' => '\n', other => other }),
                    '\n' => prop_assert!(false, "a line ends inside a label"),
                    other => read.push(other),
                }
            }
            prop_assert_eq!(read, value);
            let closed = characters.as_str().starts_with("} 1");
            prop_assert!(closed, "the sample goes on behind its label");
        }
    }
}
