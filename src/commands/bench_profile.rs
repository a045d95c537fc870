//! `hesper bench --profile`: where the time of a test goes, on the device by kernel and on the host.

use super::bench_report::rounded;
use hesper::engine::runner::{Runner, StepRows};
use hesper::kernels::Row;
use hesper::plan::Clock;
use hesper::plan::profile::{Line, Profile, Reach, Roofline};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a measurement took: started, then stopped.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    started: Instant,
    elapsed: Duration,
    /// CPU time, the user's and the system's, of this thread, which is the one that talks to the device.
    thread: Duration,
    /// And of the whole process. A software device's own threads are part of it.
    process: Duration,
    submissions: Option<u64>,
}

impl Meter {
    pub fn start(runner: &Runner) -> Meter {
        Meter {
            thread: cpu_time(ClockId::ThreadCPUTime),
            process: cpu_time(ClockId::ProcessCPUTime),
            submissions: runner.submissions(),
            elapsed: Duration::ZERO,
            started: Instant::now(),
        }
    }

    pub fn stop(self, runner: &Runner) -> Meter {
        let elapsed = self.started.elapsed();
        let submissions = self.submissions.zip(runner.submissions()).map(|(before, now)| now - before);
        let since = |clock, before| cpu_time(clock).saturating_sub(before);
        let (thread, process) =
            (since(ClockId::ThreadCPUTime, self.thread), since(ClockId::ProcessCPUTime, self.process));
        Meter { elapsed, thread, process, submissions, ..self }
    }
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// Sums over the samples of a test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    samples: u32,
    elapsed_min: Duration,
    thread: Duration,
    process: Duration,
    /// Where they are counted.
    submissions: Option<u64>,
}

impl Host {
    /// Adds a sample, and gives how long it took.
    pub fn add(&mut self, meter: &Meter) -> Duration {
        let first = self.samples == 0;
        self.elapsed_min = if first { meter.elapsed } else { self.elapsed_min.min(meter.elapsed) };
        self.submissions = if first { Some(0) } else { self.submissions };
        self.submissions = self.submissions.zip(meter.submissions).map(|(sum, more)| sum + more);
        self.samples += 1;
        self.thread += meter.thread;
        self.process += meter.process;
        meter.elapsed
    }
}

/// How far a step looks back: all that its sequences have in the cache is read once.
pub fn step_reach(step: &StepRows) -> Reach {
    let seen = |rows: &[Row]| rows.iter().map(|row| u64::from(row.position) + 1).collect::<Vec<_>>();
    let sequences = step.rows.chunk_by(|a, b| a.sequence == b.sequence);
    let cached_tokens = sequences.filter_map(|rows| seen(rows).into_iter().max()).sum();
    Reach { cached_tokens, pairs: seen(&step.rows).iter().sum() }
}

/// A test's profile.
pub struct Profiled {
    pub profile: Profile,
    pub clock: Clock,
    /// Of so many runs the least time of each step's parts counts.
    pub runs: u32,
    /// Tokens that were profiled.
    pub tokens: u64,
    /// Tokens of a sample.
    pub sample_tokens: u32,
    /// What the test took without a profile.
    pub host: Host,
    pub roofline: Roofline,
}

impl Profiled {
    fn a_token(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1) as f64
    }

    /// Of something summed up over all samples.
    fn a_sampled_token(&self, sum: f64) -> f64 {
        sum / (f64::from(self.host.samples) * f64::from(self.sample_tokens)).max(1.0)
    }

    /// Microseconds of a token in the fastest sample.
    fn measured_us(&self) -> f64 {
        micros(self.host.elapsed_min) / f64::from(self.sample_tokens.max(1))
    }

    fn submissions(&self) -> Option<f64> {
        self.host.submissions.map(|count| self.a_sampled_token(count as f64))
    }

    /// All figures are of one token.
    pub fn json(&self) -> Value {
        let total = self.profile.total();
        let kernels: Vec<Value> = self.profile.lines().iter().map(|line| self.line_json(line)).collect();
        let fma = self.roofline.fma_gflop_s.iter();
        let fma: Vec<Value> =
            fma.map(|(lanes, rate)| json!({ "lanes": lanes, "gflop_per_s": rounded(*rate) })).collect();
        json!({
            "clock": self.clock.to_string(),
            "runs": self.runs,
            "tokens": self.tokens,
            "dispatches": rounded(self.a_token(total.dispatches as f64)),
            "barriers": rounded(self.a_token(self.profile.barriers as f64)),
            "submissions": self.submissions().map(rounded),
            "thread_cpu_us": rounded(self.a_sampled_token(micros(self.host.thread))),
            "process_cpu_us": rounded(self.a_sampled_token(micros(self.host.process))),
            "kernels_us": rounded(self.a_token(total.time_us)),
            "roofline_us": rounded(self.a_token(self.profile.least_us(&self.roofline))),
            "measured_us": rounded(self.measured_us()),
            "roofline": {
                "copy_gb_per_s": rounded(self.roofline.copy_gb_s),
                "read_gb_per_s": rounded(self.roofline.read_gb_s),
                "fma": fma,
                "dispatch_us": rounded(self.roofline.dispatch_us),
            },
            "kernels": kernels,
        })
    }

    fn line_json(&self, line: &Line) -> Value {
        let (share, bound) = line.of_roofline(&self.roofline);
        json!({
            "part": line.part,
            "kernel": line.kernel,
            "dispatches": rounded(self.a_token(line.dispatches as f64)),
            "us": rounded(self.a_token(line.time_us)),
            "bytes": rounded(self.a_token(line.bytes as f64)),
            "flops": rounded(self.a_token(line.flops as f64)),
            "gb_per_s": rounded(line.gb_s()),
            "gflop_per_s": rounded(line.gflop_s()),
            "roofline_share": share.map(rounded),
            "bound": bound.name(),
        })
    }

    pub fn markdown(&self, test: &str) -> String {
        let total = self.profile.total();
        let mut text = format!("{test}, a token (timed by {}, the least of {} runs):\n\n", self.clock, self.runs);
        text += "| part | kernel | dispatches | µs | share | GB/s | GFLOP/s | of roofline | bound |\n";
        text += "|---|---|---:|---:|---:|---:|---:|---:|---|\n";
        let whole = (total.time_us > 0.0).then(|| self.profile.least_us(&self.roofline) / total.time_us);
        let share = |line: &Line| {
            let (share, bound) = line.of_roofline(&self.roofline);
            (share, bound.name())
        };
        let lines = self.profile.lines();
        let shares = lines.iter().map(share).chain([(whole, "")]);
        for (line, (of_roofline, bound)) in lines.iter().chain([&total]).zip(shares) {
            text += &format!(
                "| {} | {} | {} | {:.1} | {:.1} % | {:.2} | {:.1} | {} | {} |\n",
                line.part,
                line.kernel,
                short(self.a_token(line.dispatches as f64)),
                self.a_token(line.time_us),
                100.0 * line.time_us / total.time_us.max(f64::MIN_POSITIVE),
                line.gb_s(),
                line.gflop_s(),
                of_roofline.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
                bound
            );
        }
        let kernels_us = self.a_token(total.time_us);
        let measured_us = self.measured_us();
        text += &format!(
            "\nUnprofiled, the fastest run took {measured_us:.1} µs a token; the kernels above are {:.0} % of that.\n",
            100.0 * kernels_us / measured_us.max(f64::MIN_POSITIVE)
        );
        text += &format!(
            "A token: {} dispatches, {} barriers, {} submissions; CPU time {:.1} µs of the engine's thread, {:.1} µs of the \
             process.\n",
            short(self.a_token(total.dispatches as f64)),
            short(self.a_token(self.profile.barriers as f64)),
            self.submissions().map_or_else(|| "uncounted".to_owned(), short),
            self.a_sampled_token(micros(self.host.thread)),
            self.a_sampled_token(micros(self.host.process))
        );
        text + &roofline_line(&self.roofline)
    }
}

fn roofline_line(roofline: &Roofline) -> String {
    let fma = roofline.fma_gflop_s.iter();
    let fma: Vec<String> = fma.map(|(lanes, rate)| format!("{rate:.1} with {lanes} lanes")).collect();
    format!(
        "Roofline: {:.2} GB/s copied, {:.2} GB/s read; GFLOP/s of multiply-adds in workgroups: {}; a dispatch {:.2} µs.\n",
        roofline.copy_gb_s,
        roofline.read_gb_s,
        fma.join(", "),
        roofline.dispatch_us
    )
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Whole numbers without decimals.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_with_work() {
        let (thread, process) = (cpu_time(ClockId::ThreadCPUTime), cpu_time(ClockId::ProcessCPUTime));
        let mut sum = 0u64;
        while cpu_time(ClockId::ThreadCPUTime) <= thread {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_time(ClockId::ProcessCPUTime) > process);
    }

    #[test]
    fn samples_add_up_and_the_fastest_counts() {
        let meter = |elapsed, submissions| Meter {
            started: Instant::now(),
            elapsed: Duration::from_micros(elapsed),
            thread: Duration::from_micros(10),
            process: Duration::from_micros(100),
            submissions,
        };
        let mut host = Host::default();
        assert_eq!(host.add(&meter(800, Some(4))), Duration::from_micros(800));
        host.add(&meter(400, Some(6)));
        let roofline = Roofline { copy_gb_s: 1.0, read_gb_s: 1.0, fma_gflop_s: vec![(8, 1.0)], dispatch_us: 1.0 };
        let profile = Profile::default();
        let mut profiled =
            Profiled { profile, clock: Clock::Waits, runs: 1, tokens: 4, sample_tokens: 4, host, roofline };
        assert_eq!((profiled.measured_us(), profiled.submissions()), (100.0, Some(1.25)));
        let json = profiled.json();
        assert_eq!((&json["thread_cpu_us"], &json["process_cpu_us"]), (&json!(2.5), &json!(25.0)));
        profiled.host.add(&meter(500, None));
        assert_eq!(profiled.submissions(), None);
        assert!(profiled.markdown("tg4").contains("uncounted submissions"));
    }

    #[test]
    fn a_row_sees_itself_and_what_is_before_it() {
        let row = |position| Row { token: 0, position, sequence: 0, live: 1 };
        let step = StepRows { rows: vec![row(9), row(10)], outputs: vec![], plan_rows: 4 };
        assert_eq!(step_reach(&step), Reach { cached_tokens: 11, pairs: 21 });
        let other = Row { sequence: 1, ..row(4) };
        let step = StepRows { rows: vec![row(9), other], outputs: vec![0, 1], plan_rows: 2 };
        assert_eq!(step_reach(&step), Reach { cached_tokens: 15, pairs: 15 });
    }
}
