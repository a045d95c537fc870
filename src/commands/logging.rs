//! Where log lines and traces go.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Target of the spans that are traced, one for each request.
const SPANS: &str = "hesper::span";
/// How long a collector may take for a batch of spans, and for the last one when the server ends.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// OpenTelemetry's own variable, which its users have set for all their services.
const STANDARD_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[derive(Args)]
pub struct LogFlags {
    /// What to log on the standard error output: error, warn, info, debug or trace, also as module=level,…; hesper::request
    /// has one line for each request.
    #[arg(
        long,
        visible_alias = "log-level",
        global = true,
        env = "HESPER_LOG",
        default_value = "warn,hesper::request=info",
        value_name = "FILTER"
    )]
    log: Targets,
    /// How log lines are written.
    #[arg(long, global = true, env = "HESPER_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends what is left of the traces when it is dropped.
pub struct Logging(Option<SdkTracerProvider>);

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(EXPORT_LIMIT)
        {
            eprintln!("warning: the last traces were not sent: {error}");
        }
    }
}

impl LogFlags {
    /// Logs from now on, and sends a trace of every request to the collector at `otlp`, if there is one.
    pub fn start(self, otlp: Option<&str>) -> Result<Logging> {
        let standard = std::env::var(STANDARD_ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty());
        let provider = otlp.or(standard.as_deref()).map(exporting).transpose()?;
        let traces = provider.as_ref().map(|provider| {
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("hesper"));
            layer.with_filter(Targets::new().with_target(SPANS, LevelFilter::INFO))
        });
        let filter = self.log.with_target(SPANS, LevelFilter::OFF);
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let lines = match self.log_format {
            LogFormat::Text => lines.with_filter(filter).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
        };
        tracing_subscriber::registry().with(lines).with(traces).init();
        Ok(Logging(provider))
    }
}

/// Spans are sent in batches by a thread of its own. When the collector is slow or gone they are dropped, so no request
/// waits for it.
fn exporting(endpoint: &str) -> Result<SdkTracerProvider> {
    let endpoint = endpoint.trim_end_matches('/');
    let url = if endpoint.ends_with("/v1/traces") { endpoint.to_owned() } else { format!("{endpoint}/v1/traces") };
    // Already installed is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_LIMIT)
        .with_endpoint(&url)
        .build()
        .with_context(|| format!("traces cannot be sent to {url}: give a collector as http://127.0.0.1:4318"))?;
    let resource = Resource::builder().with_service_name("hesper").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
