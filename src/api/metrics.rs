//! `GET /metrics`: what a scheduler or an autoscaler asks, in Prometheus' text format (version 0.0.4).
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use super::{
    Service, State,
    models::{READY, condition},
};
use axum::{
    extract,
    http::header,
    response::{IntoResponse, Response},
};
use std::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
};

/// How a request ended. A completions request counts once for each of its prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    /// The client went away.
    Cancelled,
    /// The engine could not complete it.
    Failed,
    /// It found no place in the queue, or the server restarting its device or shutting down.
    Refused,
}

/// Counts of requests by how they ended.
#[derive(Debug, Default)]
pub struct Outcomes([AtomicU64; 4]);

impl Outcomes {
    const NAMES: [&str; 4] = ["completed", "cancelled", "failed", "refused"];

    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// What is known: while the model loads only that it does.
pub async fn handle(extract::State(state): extract::State<State>) -> Response {
    let mut page = String::new();
    match write_page(&mut page, state.services().first().map(|service| &**service)) {
        Ok(()) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response(),
        // A string takes all that is written to it.
        Err(fmt::Error) => super::error::ApiError::internal("the metrics could not be written").into_response(),
    }
}

fn write_page(page: &mut String, service: Option<&Service>) -> fmt::Result {
    family(page, "hesper_build_info", "gauge", "The running build; always 1.")?;
    sample(page, "hesper_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1)?;
    let ready = service.is_some_and(|service| condition(&service.engine) == READY);
    family(
        page,
        "hesper_ready",
        "gauge",
        "1 if a request sent now would be queued, 0 while loading, restarting or shutting down.",
    )?;
    sample(page, "hesper_ready", &[], ready.into())?;
    let Some(service) = service else { return Ok(()) };

    let (model, device) = (&service.model, &service.model.device);
    family(page, "hesper_model_info", "gauge", "The served model; always 1.")?;
    sample(page, "hesper_model_info", &[("model", &model.id)], 1)?;
    family(page, "hesper_device_info", "gauge", "The device that computes; always 1. software=\"true\" is a CPU.")?;
    let software = if device.software { "true" } else { "false" };
    let labels = [("device", &*device.name), ("driver", &*device.driver), ("software", software)];
    sample(page, "hesper_device_info", &labels, 1)?;

    for (name, help, value) in [
        ("hesper_requests_waiting", "Requests in the queue.", service.engine.waiting()),
        ("hesper_requests_running", "Requests being answered.", service.engine.running()),
        ("hesper_queue_capacity_requests", "Requests that may wait before one is refused.", service.engine.capacity()),
        (
            "hesper_context_capacity_tokens",
            "Tokens that prompt and answer may have together.",
            model.context_tokens as usize,
        ),
    ] {
        family(page, name, "gauge", help)?;
        sample(page, name, &[], value as u64)?;
    }

    let name = "hesper_requests_finished_total";
    family(page, name, "counter", "Requests by how they ended; a completions request counts once for each prompt.")?;
    for (outcome, count) in Outcomes::NAMES.iter().zip(&service.outcomes.0) {
        sample(page, name, &[("outcome", outcome)], count.load(Ordering::Relaxed))?;
    }
    Ok(())
}

/// The two lines before a metric's samples. `help` holds no backslash and no line break.
fn family(page: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn sample(page: &mut String, name: &str, labels: &[(&str, &str)], value: u64) -> fmt::Result {
    page.push_str(name);
    for (place, (label, value)) in labels.iter().enumerate() {
        let before = if place == 0 { '{' } else { ',' };
        write!(page, "{before}{label}=\"{}\"", escape(value))?;
    }
    let after = if labels.is_empty() { "" } else { "}" };
    writeln!(page, "{after} {value}")
}

/// A label's value may hold anything: names of models and devices come from files and drivers.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a label holds, it stays on one line, in its quotes, and can be read back.
        #[test]
        fn labels_can_be_read_back(value in any::<String>()) {
            let mut page = String::new();
            sample(&mut page, "name", &[("label", &value)], 7).unwrap();
            prop_assert_eq!(page.matches('\n').count(), 1);
            let quoted = page.strip_prefix("name{label=\"").and_then(|rest| rest.strip_suffix("\"} 7\n")).unwrap();
            let (mut read, mut characters) = (String::new(), quoted.chars());
            while let Some(character) = characters.next() {
                prop_assert!(character != '"');
                read.push(match character {
                    '\\' => match characters.next() { Some('n') => '\n', other => other.unwrap() },
                    other => other,
                });
            }
            prop_assert_eq!(read, value);
        }
    }
}
