//! What `hesper load` prints.

use super::bench_report::{csv_cell, utc};
use clap::ValueEnum;
use hesper::load::statistics::Failures;
use hesper::load::{Arrival, Figures, Summary};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Md,
    Json,
    Csv,
}

/// What was asked for, the same for every server.
pub struct Conditions {
    pub time: SystemTime,
    pub prompts: String,
    pub arrival: Arrival,
    pub requests: u32,
    pub rounds: u32,
    pub warmup: u32,
    pub max_tokens: u32,
    pub stream: bool,
    pub timeout_s: u32,
}

/// One server, and what was measured of it, round by round.
pub struct Measured {
    pub name: String,
    pub url: String,
    pub model: String,
    /// It refused to be asked for its count of tokens.
    pub refuses_usage: bool,
    pub rounds: Vec<Summary>,
}

impl Measured {
    /// Answers that came whole.
    pub fn answers(&self) -> usize {
        self.rounds.iter().map(|round| round.succeeded).sum()
    }

    /// Failures of all rounds, by kind.
    fn errors(&self) -> Vec<Failures> {
        let mut kinds: Vec<Failures> = Vec::new();
        for failures in self.rounds.iter().flat_map(|round| &round.errors) {
            match kinds.iter_mut().find(|known| known.kind == failures.kind) {
                Some(known) => known.count += failures.count,
                None => kinds.push(failures.clone()),
            }
        }
        kinds
    }

    fn medians(&self) -> Figures {
        Figures::medians(&self.rounds.iter().map(|round| &round.figures).collect::<Vec<_>>())
    }
}

pub struct Report {
    pub conditions: Conditions,
    pub servers: Vec<Measured>,
    pub interrupted: bool,
}

/// Head, figure, and how that is written.
type Column = (&'static str, &'static str, fn(f64) -> String);

/// The columns of the first table, the classic ones of a comparison.
const COLUMNS: [Column; 7] = [
    ("QPS", "qps", figure),
    ("tokens/s", "tokens_per_second", figure),
    ("mean ms", "latency_ms_mean", figure),
    ("P50 ms", "latency_ms_p50", figure),
    ("P95 ms", "latency_ms_p95", figure),
    ("P99 ms", "latency_ms_p99", figure),
    ("success", "success_rate", |rate| format!("{:.1} %", rate * 100.0)),
];
/// The rows of the second table, for each server.
const TIMES: [(&str, &str); 3] =
    [("latency", "latency_ms"), ("first token", "first_token_ms"), ("between tokens", "inter_token_ms")];
const PARTS: [(&str, &str); 5] = [("mean", "mean"), ("P50", "p50"), ("P95", "p95"), ("P99", "p99"), ("max", "max")];

impl Report {
    pub fn print(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Md => self.print_tables(out)?,
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&self.json())?)?,
            Format::Csv => self.print_csv(out)?,
        }
        out.flush()
    }

    fn print_tables(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "hesper {} load, {}: {}\n",
            env!("CARGO_PKG_VERSION"),
            utc(self.conditions.time),
            self.conditions
        )?;
        let medians: Vec<(&Measured, Figures)> = self.servers.iter().map(|server| (server, server.medians())).collect();
        let row = |name: &str, figures: &Figures, written: &dyn Fn(usize, f64) -> String| -> Vec<String> {
            let cell = |(at, (_, key, _)): (usize, &Column)| match figures.get(key) {
                Some(value) => written(at, value),
                None => "–".to_owned(),
            };
            [name.to_owned()].into_iter().chain(COLUMNS.iter().enumerate().map(cell)).collect()
        };
        let plain = |at: usize, value: f64| COLUMNS[at].2(value);
        let mut rows: Vec<_> = medians.iter().map(|(server, figures)| row(&server.name, figures, &plain)).collect();
        let ratios = self.ratios(&medians);
        rows.extend(ratios.iter().map(|(name, ratios)| row(name, ratios, &|_, ratio| format!("×{ratio:.3}"))));
        let heads: Vec<&str> = ["server"].into_iter().chain(COLUMNS.map(|(head, ..)| head)).collect();
        write_table(&heads, 1, &rows, out)?;
        let mut rows = Vec::new();
        for (server, figures) in &medians {
            for (time, key) in TIMES {
                let cell = |part: &str| figures.get(&format!("{key}_{part}")).map_or_else(|| "–".to_owned(), figure);
                let names = [server.name.clone(), time.to_owned()];
                rows.push(names.into_iter().chain(PARTS.iter().map(|(_, part)| cell(part))).collect());
            }
        }
        let heads: Vec<&str> = ["server", "ms"].into_iter().chain(PARTS.map(|(head, _)| head)).collect();
        writeln!(out)?;
        write_table(&heads, 2, &rows, out)?;
        self.print_notes(out)
    }

    fn print_notes(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        if self.conditions.rounds > 1 {
            writeln!(out, "Figures are medians of rounds; × is the ratio of medians to the first server's.")?;
        }
        for server in &self.servers {
            writeln!(out, "{}: {}", server.name, server.note())?;
            for error in server.errors() {
                writeln!(out, "  {} × {}, as: {}", error.count, error.kind, error.example)?;
            }
        }
        if self.interrupted {
            writeln!(out, "Interrupted: these are the requests that had ended.")?;
        }
        Ok(())
    }

    /// Ratios of medians to those of the first server, by what each is called.
    fn ratios(&self, medians: &[(&Measured, Figures)]) -> Vec<(String, Figures)> {
        let Some(((base, base_figures), others)) = medians.split_first() else { return Vec::new() };
        let of = |(server, figures): &(&Measured, Figures)| {
            (format!("{} / {}", server.name, base.name), figures.ratios(base_figures))
        };
        others.iter().map(of).collect()
    }

    fn json(&self) -> Value {
        let medians: Vec<(&Measured, Figures)> = self.servers.iter().map(|server| (server, server.medians())).collect();
        let server = |(server, figures): &(&Measured, Figures)| {
            json!({
                "name": server.name,
                "url": server.url,
                "model": server.model,
                "refuses_usage": server.refuses_usage,
                "medians": figures,
                "rounds": server.rounds,
            })
        };
        let conditions = &self.conditions;
        let (concurrency, rate) = match conditions.arrival {
            Arrival::Concurrency(most) => (Some(most), None),
            Arrival::PerSecond(rate) => (None, Some(rate)),
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "time": utc(conditions.time),
            "interrupted": self.interrupted,
            "conditions": {
                "prompts": conditions.prompts,
                "concurrency": concurrency,
                "rate": rate,
                "requests": conditions.requests,
                "rounds": conditions.rounds,
                "warmup": conditions.warmup,
                "max_tokens": conditions.max_tokens,
                "stream": conditions.stream,
                "timeout_s": conditions.timeout_s,
            },
            "servers": medians.iter().map(server).collect::<Vec<_>>(),
            "ratios": self.ratios(&medians).into_iter().collect::<Vec<_>>().iter()
                .map(|(name, figures)| json!({"name": name, "of_medians": figures})).collect::<Vec<_>>(),
        })
    }

    /// One line for each server's every round.
    fn print_csv(&self, out: &mut impl Write) -> io::Result<()> {
        let mut headed = false;
        for server in &self.servers {
            for (round, summary) in server.rounds.iter().enumerate() {
                let mut record = json!({
                    "time": utc(self.conditions.time),
                    "server": server.name,
                    "url": server.url,
                    "model": server.model,
                    "round": round + 1,
                });
                if let (Value::Object(record), Value::Object(fields)) = (&mut record, serde_json::to_value(summary)?) {
                    record.extend(fields);
                    let errors = summary.errors.iter().map(|error| format!("{} × {}", error.count, error.kind));
                    record.insert("errors".to_owned(), errors.collect::<Vec<_>>().join("; ").into());
                    if !std::mem::replace(&mut headed, true) {
                        writeln!(out, "{}", record.keys().map(String::as_str).collect::<Vec<_>>().join(","))?;
                    }
                    writeln!(out, "{}", record.values().map(csv_value).collect::<Vec<_>>().join(","))?;
                }
            }
        }
        Ok(())
    }
}

impl Measured {
    /// How many answers there are, and who counted their tokens.
    fn note(&self) -> String {
        let sum = |of: fn(&Summary) -> u64| self.rounds.iter().map(of).sum::<u64>();
        let requests = sum(|round| round.requests as u64);
        let (by_usage, by_chunks) =
            (sum(|round| round.counted_by_usage as u64), sum(|round| round.counted_by_chunks as u64));
        let (tokens, chunks) = (sum(|round| round.output_tokens.unwrap_or(0)), sum(|round| round.chunks));
        let counted = match (by_usage, by_chunks) {
            (0, 0) if self.answers() == 0 => "",
            (0, 0) => "; the server tells no token counts, so tokens/s is unknown",
            (_, 0) => "; tokens are the server's count",
            (0, _) if self.refuses_usage => "; the server refuses stream_options, so chunks were counted as tokens",
            (0, _) => "; the server tells no token counts, so chunks were counted as tokens",
            _ => "; tokens are partly the server's count, partly chunks",
        };
        let several = match by_usage > 0 && chunks > 0 && tokens as f64 > 1.1 * chunks as f64 {
            true => format!("; {tokens} tokens came in {chunks} chunks, and between tokens means between chunks"),
            false => String::new(),
        };
        let again = match sum(|round| round.sent_again as u64) {
            0 => String::new(),
            count => format!("; {count} requests were sent twice, since their connection was closed at once"),
        };
        let unfinished = match sum(|round| round.unfinished as u64) {
            0 => String::new(),
            count => format!("; {count} were given up under way"),
        };
        format!(
            "{} ({}), {} of {requests} answers whole{counted}{several}{again}{unfinished}",
            self.url,
            self.model,
            self.answers()
        )
    }
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.arrival {
            Arrival::Concurrency(most) => write!(f, "{} requests, {most} at a time", self.requests)?,
            Arrival::PerSecond(rate) => write!(f, "{} requests, {rate} a second", self.requests)?,
        }
        let way = if self.stream { "streamed" } else { "in one piece" };
        let rounds = if self.rounds > 1 { format!(", {} rounds by turns", self.rounds) } else { String::new() };
        write!(f, "{rounds}, at most {} tokens, {way}, prompts {}", self.max_tokens, self.prompts)
    }
}

fn csv_value(value: &Value) -> String {
    if value.is_null() { String::new() } else { csv_cell(value) }
}

/// Three figures or so: more is noise.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// A table in Markdown whose first `texts` columns are flush left, the others right.
fn write_table(heads: &[&str], texts: usize, rows: &[Vec<String>], out: &mut impl Write) -> io::Result<()> {
    let length = |cell: &str| cell.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell));
        cells.chain([length(heads[column]), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut line = |cells: &[&str]| -> io::Result<()> {
        write!(out, "|")?;
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            match column < texts {
                true => write!(out, " {cell:<width$} |")?,
                false => write!(out, " {cell:>width$} |")?,
            }
        }
        writeln!(out)
    };
    line(heads)?;
    let rule = |(column, width): (usize, &usize)| match column < texts {
        true => "-".repeat(*width),
        false => format!("{}:", "-".repeat(width - 1)),
    };
    let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
    line(&rules.iter().map(String::as_str).collect::<Vec<_>>())?;
    rows.iter().try_for_each(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hesper::load::Batch;
    use hesper::load::client::{Failure, FailureKind, Sample};
    use std::time::Duration;

    fn server(name: &str, seconds: &[u64]) -> Measured {
        let sample = Sample {
            latency: Duration::from_millis(1500),
            output_tokens: Some(6),
            from_usage: true,
            chunks: 3,
            ..Sample::default()
        };
        let full = Failure { kind: FailureKind::Status(429), detail: "the queue, \"full\"".to_owned() };
        let batch = |seconds: &u64| Batch {
            outcomes: vec![Ok(sample.clone()), Err(full.clone())],
            elapsed: Duration::from_secs(*seconds),
            unfinished: 0,
        };
        Measured {
            name: name.to_owned(),
            url: format!("http://{name}/v1"),
            model: "demo".to_owned(),
            refuses_usage: false,
            rounds: seconds.iter().map(|seconds| Summary::of(&batch(seconds))).collect(),
        }
    }

    fn report() -> Report {
        let conditions = Conditions {
            time: SystemTime::UNIX_EPOCH,
            prompts: "built-in (12)".to_owned(),
            arrival: Arrival::Concurrency(1),
            requests: 2,
            rounds: 3,
            warmup: 0,
            max_tokens: 64,
            stream: true,
            timeout_s: 1,
        };
        Report { conditions, servers: vec![server("a", &[1, 3, 2]), server("b", &[4, 4, 9])], interrupted: false }
    }

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        report().print(format, &mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn tables_hold_medians_and_ratios() {
        let text = printed(Format::Md);
        let row = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
            line.split('|').map(str::trim).collect::<Vec<_>>().join("|")
        };
        assert_eq!(row("| server | "), "|server|QPS|tokens/s|mean ms|P50 ms|P95 ms|P99 ms|success|");
        assert_eq!(row("| a "), "|a|0.500|3.00|1500|1500|1500|1500|50.0 %|");
        assert_eq!(row("| b / a"), "|b / a|×0.500|×0.500|×1.000|×1.000|×1.000|×1.000|×1.000|");
        assert!(text.contains("3 × status 429, as: the queue"), "{text}");
        assert!(text.contains("a: http://a/v1 (demo), 3 of 6 answers whole; tokens are the server's count"), "{text}");
        assert!(text.contains("18 tokens came in 9 chunks"), "{text}");
        assert!(text.contains("| first token "), "{text}");
    }

    #[test]
    fn json_and_csv_hold_every_round() {
        let json: Value = serde_json::from_str(&printed(Format::Json)).expect("JSON");
        assert_eq!(json["servers"][0]["rounds"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["servers"][1]["medians"]["qps"], 0.25);
        assert_eq!(json["ratios"][0]["name"], "b / a");
        assert_eq!(json["ratios"][0]["of_medians"]["tokens_per_second"], 0.5);
        assert!(json["servers"][0]["medians"]["first_token_ms_mean"].is_null());
        let csv = printed(Format::Csv);
        assert_eq!(csv.lines().count(), 7);
        assert!(
            csv.lines()
                .all(|line| line.split(',').count() == csv.lines().next().map_or(0, |head| head.split(',').count()))
        );
        assert!(csv.contains("\"1 × status 429\""), "{csv}");
    }
}
