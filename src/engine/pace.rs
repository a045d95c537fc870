//! How to wait for a token: the host polls a word of mapped memory, since that costs no Vulkan call, and sleeps in
//! between, since a spinning thread takes a core from drivers that need it.

use super::runner::Runner;
use crate::plan::ExecutorError;
use std::time::{Duration, Instant};

/// The longest sleep between two looks.
const SLEEP_MAX: Duration = Duration::from_millis(1);
/// The shortest; the kernel adds some 50 µs to any.
const SLEEP_MIN: Duration = Duration::from_micros(20);
/// Without a token for this long, the executor is asked what is wrong.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Predicts the next token's time from the last ones'.
pub struct Pace {
    silence: Duration,
    /// Smoothed time between tokens.
    interval: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// `silence`: the time without a token after which the executor is asked what is wrong, as [`SILENCE`].
    pub fn new(silence: Duration) -> Pace {
        Pace { silence, interval: Duration::ZERO, last: None }
    }

    /// Waits until `poll` answers. `None` when `cancelled` says so first.
    pub fn wait<T>(
        &mut self,
        runner: &mut Runner,
        cancelled: impl Fn() -> bool,
        poll: impl Fn(&Runner) -> Option<T>,
    ) -> Result<Option<T>, ExecutorError> {
        let mut asked = Instant::now();
        // Up to 85 % of the predicted time nothing can come.
        if let Some(last) = self.last {
            let expected = self.interval.mul_f32(0.85).saturating_sub(asked - last);
            if expected > SLEEP_MIN * 4 && poll(runner).is_none() {
                std::thread::sleep(expected.min(SLEEP_MAX * 20));
            }
        }
        let mut nap = (self.interval / 16).clamp(SLEEP_MIN, SLEEP_MAX);
        loop {
            if let Some(value) = poll(runner) {
                self.note();
                return Ok(Some(value));
            }
            if cancelled() {
                return Ok(None);
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(SLEEP_MAX).min((self.interval / 8).max(SLEEP_MIN));
            if asked.elapsed() > self.silence {
                // A hang is silent without fences: this one reports it.
                runner.wait()?;
                asked = Instant::now();
                if poll(runner).is_none() {
                    return Err(ExecutorError::Device("the device finished its work without giving a token".into()));
                }
            }
        }
    }

    fn note(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last {
            let since = now - last;
            self.interval = if self.interval.is_zero() { since } else { (self.interval * 3 + since) / 4 };
        }
        self.last = Some(now);
    }
}
