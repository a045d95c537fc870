//! What `hesper doctor` reports: the chain from loader to device, link by link, each known failure by its symptom and
//! with its cure. [`gather`] collects the facts of a machine and judges nothing; [`diagnose`] judges facts, wherever they
//! come from, and touches nothing.

mod commands;
mod diagnose;
mod facts;
mod gather;
mod mac;
mod manifests;

pub use diagnose::diagnose;
pub use facts::{Facts, Machine, VulkanState, machines};
pub use gather::gather;
pub use mac::window_bytes;

use serde::Serialize;
use std::fmt::{Display, Formatter, Result as FmtResult};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Ok,
    /// Worth knowing.
    Note,
    /// Something does not work, or works slowly.
    Warning,
}

/// One fact, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Names the kind of finding for programs; docs/doctor.md lists them all.
    pub id: &'static str,
    pub severity: Severity,
    /// As `loader` or `device 0`.
    pub subject: String,
    pub text: String,
    pub cure: Option<String>,
}

/// The device that `--device auto` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chosen {
    pub index: usize,
    pub name: String,
    pub driver: String,
    pub software: bool,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub schema: u32,
    /// Version of the Hesper that gathered the facts.
    pub hesper: String,
    /// There is a device that `--device auto` takes.
    pub usable: bool,
    pub device: Option<Chosen>,
    /// The link of the chain to mend first where no device is usable: the id of a finding.
    pub mend_first: Option<&'static str>,
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(
        &mut self,
        severity: Severity,
        id: &'static str,
        subject: impl Into<String>,
        text: impl Into<String>,
        cure: Option<String>,
    ) {
        let finding = Finding { id, severity, subject: subject.into(), text: text.into(), cure };
        self.findings.push(finding);
    }

    fn ok(&mut self, id: &'static str, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Severity::Ok, id, subject, text, None);
    }

    fn note(&mut self, id: &'static str, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Severity::Note, id, subject, text, None);
    }

    fn warn(&mut self, id: &'static str, subject: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) {
        self.add(Severity::Warning, id, subject, text, Some(cure.into()));
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        for finding in &self.findings {
            let mark = match finding.severity {
                Severity::Ok => "ok",
                Severity::Note => "note",
                Severity::Warning => "warn",
            };
            writeln!(f, "{mark:<5} {:<12} {}", plain(&finding.subject), plain(&finding.text))?;
            if let Some(cure) = &finding.cure {
                writeln!(f, "{:19}→ {}", "", plain(cure))?;
            }
        }
        let first = self.findings.iter().find(|finding| Some(finding.id) == self.mend_first);
        match (self.usable, first) {
            (true, _) => writeln!(f, "\nA device is usable."),
            (false, None) => writeln!(f, "\nNo device is usable."),
            (false, Some(finding)) => {
                writeln!(
                    f,
                    "\nNo device is usable. Mend this first: {}: {}",
                    plain(&finding.subject),
                    plain(&finding.text)
                )
            }
        }
    }
}

/// Names come from drivers, files and other programs: what would steer a terminal is replaced.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
