//! What `hesper bench` prints: llama-bench's columns and fields, where they mean the same.

use super::bench_profile::Profiled;
use clap::ValueEnum;
use hesper::gguf::Gguf;
use hesper::gguf::blocks::BlockFormat;
use hesper::model::lower::Model;
use hesper::plan::DeviceLabel;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Md,
    Json,
    Csv,
    Jsonl,
}

/// One thing to measure, behind `depth` tokens: a prompt, or tokens to generate, perhaps from a prompt that invites to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub depth: u32,
    pub prompt: u32,
    /// In each of `parallel` sequences.
    pub generated: u32,
    pub parallel: u32,
    pub copy: Option<Copying>,
}

impl Default for Case {
    fn default() -> Case {
        Case { depth: 0, prompt: 0, generated: 0, parallel: 1, copy: None }
    }
}

/// How a copy is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// A token a step.
    Plainly,
    /// With drafts from what was said before.
    WithDrafts,
}

impl Case {
    /// The longest sequence that it makes: a generation starts from one token and samples one more than it evaluates.
    pub fn context_tokens(&self) -> u32 {
        self.depth.saturating_add(self.prompt).saturating_add(self.generated).saturating_add(2)
    }

    /// Of all sequences.
    pub fn tokens(&self) -> u32 {
        // What is copied from is not measured.
        let prompt = if self.copy.is_some() { 0 } else { self.prompt };
        prompt + self.generated * self.parallel
    }

    /// As `pp512`, `tg128 @ d1024` or `tg128 x16`.
    fn name(&self) -> String {
        let name = match (self.prompt, self.copy) {
            (_, Some(Copying::Plainly)) => format!("copy{}", self.generated),
            (_, Some(Copying::WithDrafts)) => format!("copy{} ngram", self.generated),
            (0, None) => format!("tg{}", self.generated),
            (prompt, None) => format!("pp{prompt}"),
        };
        let name = if self.parallel > 1 { format!("{name} x{}", self.parallel) } else { name };
        if self.depth > 0 { format!("{name} @ d{}", self.depth) } else { name }
    }
}

pub struct Result {
    pub case: Case,
    pub started: SystemTime,
    pub samples: Vec<Duration>,
    /// Tokens drafted and of those accepted, in all samples.
    pub drafts: (u64, u64),
    pub profile: Option<Profiled>,
}

/// What does not differ from test to test.
pub struct Report {
    gpu_info: String,
    driver_info: String,
    model_filename: String,
    model_type: String,
    model_bytes: u64,
    parameters: u64,
    chunk: u32,
    kv_type: &'static str,
}

const COLUMNS: [(&str, usize); 6] =
    [("model", 30), ("size", 10), ("params", 10), ("backend", 10), ("test", 15), ("t/s", 20)];

impl Report {
    pub fn new(gguf: &Gguf, device: &DeviceLabel, chunk: u32, model: &Model) -> Report {
        let parameters = gguf.tensors().iter().map(|tensor| tensor.elements() as u64).sum();
        let bytes_of = |kind: BlockFormat| -> u64 {
            gguf.tensors().iter().filter(|tensor| tensor.kind == kind).map(|tensor| tensor.bytes as u64).sum()
        };
        let format = BlockFormat::ALL.into_iter().max_by_key(|kind| bytes_of(*kind));
        let label = gguf.opt_str("general.size_label").ok().flatten().map(str::to_owned);
        let label = label.unwrap_or_else(|| count(parameters).replace(' ', ""));
        Report {
            gpu_info: device.name.clone(),
            driver_info: device.driver.clone(),
            model_filename: gguf.file().to_owned(),
            model_type: format!("{} {label} {}", model.architecture.name, format.map_or("", |format| format.name())),
            model_bytes: gguf.tensors().iter().map(|tensor| tensor.bytes as u64).sum(),
            parameters,
            chunk,
            kv_type: model.sizes.kv_type.name(),
        }
    }

    pub fn begin(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        if format == Format::Md {
            let cell = |(name, width): &(&str, usize), left: bool| match left {
                true => format!(" {name:<width$} |"),
                false => format!(" {name:>width$} |"),
            };
            let line = |width: &usize, left: bool| match left {
                true => format!(" {} |", "-".repeat(*width)),
                false => format!(" {}: |", "-".repeat(width - 1)),
            };
            let heads: String = COLUMNS.iter().map(|column| cell(column, is_text(column.0))).collect();
            let lines: String = COLUMNS.iter().map(|column| line(&column.1, is_text(column.0))).collect();
            writeln!(out, "|{heads}\n|{lines}")?;
        }
        Ok(())
    }

    pub fn write(&self, format: Format, index: usize, result: &Result, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Md => self.write_row(result, out)?,
            Format::Json => {
                let text = serde_json::to_string_pretty(&self.record(result))?;
                let text = text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
                write!(out, "{}{text}", if index == 0 { "[\n" } else { ",\n" })?;
            }
            Format::Jsonl => writeln!(out, "{}", Value::Object(self.record(result)))?,
            Format::Csv => {
                let record = self.record(result);
                let single = || record.iter().filter(|(_, value)| !value.is_array());
                if index == 0 {
                    writeln!(out, "{}", single().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(","))?;
                }
                writeln!(out, "{}", single().map(|(_, value)| csv_cell(value)).collect::<Vec<_>>().join(","))?;
            }
        }
        out.flush()
    }

    /// Closes a list, and shows profiles where a table had no room for them.
    pub fn end(&self, format: Format, results: &[Result], out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Json => writeln!(out, "\n]")?,
            Format::Md => {
                for result in results {
                    if let Some(profile) = &result.profile {
                        write!(out, "\n{}", profile.markdown(&result.case.name()))?;
                    }
                }
            }
            Format::Csv | Format::Jsonl => {}
        }
        out.flush()
    }

    fn write_row(&self, result: &Result, out: &mut impl Write) -> io::Result<()> {
        let (mean, deviation) = mean_and_deviation(&rates(result));
        let cells = [
            self.model_type.clone(),
            size(self.model_bytes),
            count(self.parameters),
            "Vulkan".to_owned(),
            result.case.name(),
            format!("{mean:.2} ± {deviation:.2}"),
        ];
        write!(out, "|")?;
        for ((name, width), cell) in COLUMNS.iter().zip(&cells) {
            match is_text(name) {
                true => write!(out, " {cell:<width$} |")?,
                false => write!(out, " {cell:>width$} |")?,
            }
        }
        writeln!(out)
    }

    fn record(&self, result: &Result) -> Map<String, Value> {
        let nanoseconds: Vec<f64> = result.samples.iter().map(|sample| sample.as_nanos() as f64).collect();
        let (mean_ns, deviation_ns) = mean_and_deviation(&nanoseconds);
        let rates = rates(result);
        let (mean, deviation) = mean_and_deviation(&rates);
        let record = json!({
            "build_version": env!("CARGO_PKG_VERSION"),
            "gpu_info": self.gpu_info,
            "driver_info": self.driver_info,
            "backends": "Vulkan",
            "model_filename": self.model_filename,
            "model_type": self.model_type,
            "model_size": self.model_bytes,
            "model_n_params": self.parameters,
            "n_ubatch": self.chunk,
            "type_k": self.kv_type,
            "type_v": self.kv_type,
            "n_prompt": result.case.prompt,
            "n_gen": result.case.generated,
            "n_depth": result.case.depth,
            "n_parallel": result.case.parallel,
            "copy": result.case.copy.is_some(),
            "speculate": if result.case.copy == Some(Copying::WithDrafts) { "ngram" } else { "off" },
            "n_drafted": result.drafts.0,
            "n_accepted": result.drafts.1,
            "test_time": utc(result.started),
            "avg_ns": mean_ns.round() as u64,
            "stddev_ns": deviation_ns.round() as u64,
            "avg_ts": rounded(mean),
            "stddev_ts": rounded(deviation),
            "samples_ns": nanoseconds.iter().map(|sample| *sample as u64).collect::<Vec<_>>(),
            "samples_ts": rates.into_iter().map(rounded).collect::<Vec<_>>(),
        });
        let mut record = match record {
            Value::Object(record) => record,
            _ => Map::new(),
        };
        if let Some(profile) = &result.profile {
            record.insert("profile".to_owned(), profile.json());
        }
        record
    }
}

fn is_text(column: &str) -> bool {
    matches!(column, "model" | "backend")
}

pub(super) fn csv_cell(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Tokens per second of each sample.
fn rates(result: &Result) -> Vec<f64> {
    let tokens = f64::from(result.case.tokens());
    result.samples.iter().map(|sample| tokens / sample.as_secs_f64().max(1e-9)).collect()
}

/// The mean and the sample's standard deviation.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / values.len().saturating_sub(1).max(1) as f64).sqrt())
}

/// To six decimals: the rest is noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= f64::from(1 << 30) {
        format!("{:.2} GiB", bytes / f64::from(1 << 30))
    } else {
        format!("{:.2} MiB", bytes / f64::from(1 << 20))
    }
}

fn count(parameters: u64) -> String {
    let parameters = parameters as f64;
    if parameters >= 1e9 { format!("{:.2} B", parameters / 1e9) } else { format!("{:.2} M", parameters / 1e6) }
}

/// As `2026-01-31T12:00:00Z`.
pub(super) fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn means_and_deviations() {
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
    }

    #[test]
    fn tests_are_named_as_llama_bench_does() {
        assert_eq!(Case { prompt: 512, ..Case::default() }.name(), "pp512");
        assert_eq!(Case { depth: 64, generated: 32, ..Case::default() }.name(), "tg32 @ d64");
        let case = Case { depth: 64, generated: 32, parallel: 16, ..Case::default() };
        assert_eq!((case.name().as_str(), case.tokens()), ("tg32 x16 @ d64", 512));
        let copy = Case { prompt: 64, generated: 32, copy: Some(Copying::WithDrafts), ..Case::default() };
        assert_eq!(copy.name(), "copy32 ngram");
    }

    #[test]
    fn figures_follow_from_the_samples() {
        let report = Report {
            gpu_info: "a \"device\"".to_owned(),
            driver_info: String::new(),
            model_filename: "m.gguf".to_owned(),
            model_type: "qwen3".to_owned(),
            model_bytes: 3 << 20,
            parameters: 2_500_000,
            chunk: 64,
            kv_type: "f16",
        };
        let case = Case { prompt: 10, ..Case::default() };
        let samples = vec![Duration::from_millis(500), Duration::from_millis(250)];
        let results = [Result { case, started: SystemTime::UNIX_EPOCH, samples, profile: None, drafts: (0, 0) }];
        let result = &results[0];
        let record = report.record(result);
        assert_eq!(record["avg_ts"], 30.0);
        assert_eq!(record["avg_ns"], 375_000_000);
        assert_eq!(record["samples_ts"], json!([20.0, 40.0]));
        let printed = |format| {
            let mut out = Vec::new();
            report.begin(format, &mut out).expect("memory");
            report.write(format, 0, result, &mut out).expect("memory");
            report.write(format, 1, result, &mut out).expect("memory");
            report.end(format, &results, &mut out).expect("memory");
            String::from_utf8(out).expect("text")
        };
        let table = printed(Format::Md);
        assert!(table.contains("| pp10 |") || table.contains(" pp10 |"), "{table}");
        assert!(table.contains("30.00 ± 14.14 |") && table.contains("3.00 MiB") && table.contains("2.50 M"), "{table}");
        let json: Value = serde_json::from_str(&printed(Format::Json)).expect("JSON");
        assert_eq!(json.as_array().map(Vec::len), Some(2));
        let csv = printed(Format::Csv);
        assert_eq!(csv.lines().count(), 3);
        assert!(csv.contains("\"a \"\"device\"\"\"") && !csv.contains("samples"), "{csv}");
        assert_eq!(printed(Format::Jsonl).lines().count(), 2);
    }
}
