//! The printed form of a plan: what `hesper plan` shows and what snapshot tests keep.

use super::{Command, Dispatch, Plan, Region, Tensor};
use std::fmt::{Display, Formatter, Result};

impl Display for Region {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Region::Weights(part) => write!(f, "weights{part}"),
            Region::Cache(part) => write!(f, "cache{part}"),
            Region::Arena => f.write_str("arena"),
            Region::Logits => f.write_str("logits"),
            Region::Step => f.write_str("step"),
            Region::Output => f.write_str("output"),
            Region::Staging => f.write_str("staging"),
            Region::Stages => f.write_str("stages"),
            Region::Virtual(id) => write!(f, "virtual{id}"),
        }
    }
}

impl Display for Tensor {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}+{}[{}]", self.region, self.offset_bytes, self.bytes)
    }
}

impl Display for Dispatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let [x, y, z] = self.groups;
        write!(f, "{:<24} {:<20} {x}×{y}×{z}", self.label, self.kernel.name)?;
        for (info, value) in self.kernel.specialization.iter().zip(&self.specialization) {
            write!(f, " {}={value}", info.name)?;
        }
        for (info, tensor) in self.kernel.operands.iter().zip(&self.operands) {
            write!(f, " {}{}={tensor}", if info.writable { "→" } else { "" }, info.name)?;
        }
        self.stages.iter().try_for_each(|stage| write!(f, "\n    · {stage}"))
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(
            f,
            "{}: {} dispatches, {} barriers, {} bytes moved, {} bytes of arena",
            self.name,
            self.dispatches().count(),
            self.barriers(),
            self.traffic_bytes(),
            self.arena_bytes
        )?;
        for command in &self.commands {
            match command {
                Command::Dispatch(dispatch) => writeln!(f, "  {dispatch}")?,
                Command::Barrier => writeln!(f, "  ── barrier")?,
            }
        }
        Ok(())
    }
}
