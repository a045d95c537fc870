//! Where the time of plans goes: sums by part of the model and kernel, held against the most that the device can do.
//! Arithmetic on times that an executor has measured; this module measures nothing.

use super::{Command, Plan};

/// The most that a device can do, as measured on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// Gigabytes (10⁹) a second, both read and written, of a copy.
    pub copy_gb_s: f64,
    /// Gigabytes a second that a kernel reads.
    pub read_gb_s: f64,
    /// Lanes of a workgroup, and 10⁹ floating-point operations a second of multiply-adds with so many.
    pub fma_gflop_s: Vec<(u32, f64)>,
    /// Microseconds of a dispatch that does nothing, with the barrier before it.
    pub dispatch_us: f64,
}

/// What a line's time could not be less than.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Memory,
    Arithmetic,
    /// Handing dispatches out.
    Dispatch,
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
            Bound::Dispatch => "dispatch",
        }
    }
}

impl Roofline {
    pub fn memory_gb_s(&self) -> f64 {
        self.copy_gb_s.max(self.read_gb_s)
    }

    pub fn arithmetic_gflop_s(&self) -> f64 {
        self.fma_gflop_s.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    /// The least microseconds of so much work, and what they are spent on.
    pub fn least_us(&self, dispatches: u64, bytes: u64, flops: u64) -> (f64, Bound) {
        let at = |amount: u64, rate: f64| amount as f64 / 1e3 / rate.max(f64::MIN_POSITIVE);
        let bounds = [
            (at(bytes, self.memory_gb_s()), Bound::Memory),
            (at(flops, self.arithmetic_gflop_s()), Bound::Arithmetic),
            (dispatches as f64 * self.dispatch_us, Bound::Dispatch),
        ];
        bounds.into_iter().fold((0.0, Bound::Dispatch), |most, bound| if bound.0 > most.0 { bound } else { most })
    }
}

/// How far a step looks back: what attention's work depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Tokens of its sequences in the cache, the step's own included.
    pub cached_tokens: u64,
    /// Pairs of one of its rows and a token that the row sees.
    pub pairs: u64,
}

/// All dispatches of one part of the model by one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// As `gate up`: the dispatches' label, without the layer's number.
    pub part: String,
    pub kernel: &'static str,
    pub dispatches: u64,
    pub time_us: f64,
    pub bytes: u64,
    pub flops: u64,
}

impl Line {
    pub fn gb_s(&self) -> f64 {
        rate(self.bytes, self.time_us)
    }

    pub fn gflop_s(&self) -> f64 {
        rate(self.flops, self.time_us)
    }

    /// Its least time's share of the time it took, and what that would be spent on. Above 1 where data stays in a cache that
    /// is faster than the memory which the roofline is of; `None` where the clock has seen no time.
    pub fn of_roofline(&self, roofline: &Roofline) -> (Option<f64>, Bound) {
        let (least_us, bound) = roofline.least_us(self.dispatches, self.bytes, self.flops);
        ((self.time_us > 0.0).then(|| least_us / self.time_us), bound)
    }
}

/// 10⁹ a second.
fn rate(amount: u64, time_us: f64) -> f64 {
    if time_us > 0.0 { amount as f64 / 1e3 / time_us } else { 0.0 }
}

/// Sums over plans that have run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    lines: Vec<Line>,
    pub barriers: u64,
}

impl Profile {
    /// Adds one run of a plan, whose [`stretches`] took `times_us`.
    ///
    /// # Panics
    /// When there is not one time for each stretch: a defect of the caller.
    pub fn add(&mut self, plan: &Plan, times_us: &[f64], reach: Reach) {
        let stretches = stretches(plan);
        assert_eq!(stretches.len(), times_us.len(), "times of {}", plan.name);
        self.barriers += plan.barriers() as u64;
        for (stretch, time_us) in stretches.iter().zip(times_us) {
            for dispatch in stretch.dispatches() {
                let line = self.line(dispatch.part(), dispatch.kernel.name);
                line.dispatches += 1;
                line.bytes += dispatch.work.bytes + dispatch.work.bytes_a_token * reach.cached_tokens;
                line.flops += dispatch.work.flops + dispatch.work.flops_a_pair * reach.pairs;
            }
            if let Some(dispatch) = stretch.dispatches().next() {
                self.line(dispatch.part(), dispatch.kernel.name).time_us += time_us;
            }
        }
    }

    fn line(&mut self, part: &str, kernel: &'static str) -> &mut Line {
        let at = self.lines.iter().position(|line| line.part == part && line.kernel == kernel).unwrap_or_else(|| {
            let part = part.to_owned();
            self.lines.push(Line { part, kernel, dispatches: 0, time_us: 0.0, bytes: 0, flops: 0 });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// The least microseconds of all lines, each held against what bounds it.
    pub fn least_us(&self, roofline: &Roofline) -> f64 {
        let least = |line: &Line| roofline.least_us(line.dispatches, line.bytes, line.flops).0;
        self.lines.iter().map(least).sum()
    }

    /// Slowest first.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = self.lines.clone();
        lines.sort_by(|a, b| b.time_us.total_cmp(&a.time_us));
        lines
    }

    /// The sum of all lines.
    pub fn total(&self) -> Line {
        let sum = |of: fn(&Line) -> u64| self.lines.iter().map(of).sum();
        Line {
            part: "all".to_owned(),
            kernel: "",
            dispatches: sum(|line| line.dispatches),
            time_us: self.lines.iter().map(|line| line.time_us).sum(),
            bytes: sum(|line| line.bytes),
            flops: sum(|line| line.flops),
        }
    }
}

/// A plan's dispatches, those of one part and kernel together, each behind a barrier. They are timed together because a
/// clock may take longer than a dispatch: on lavapipe (Mesa 26.2.6, 2026-11-21) 60 µs, where a small dispatch takes 4.
///
/// In this order layers work on what others have left in the arena, so the results mean nothing; but what indexes memory
/// (rows, outputs, block tables) is as the plan has it, since no layer writes it.
pub fn stretches(plan: &Plan) -> Vec<Plan> {
    let mut stretches: Vec<Plan> = Vec::new();
    for dispatch in plan.dispatches() {
        let first =
            |stretch: &Plan| stretch.dispatches().next().map(|first| (first.part().to_owned(), first.kernel.name));
        let this = Some((dispatch.part().to_owned(), dispatch.kernel.name));
        let at = stretches.iter().position(|stretch| first(stretch) == this).unwrap_or_else(|| {
            let name = format!("{}, {}", plan.name, dispatch.part());
            stretches.push(Plan { name, commands: Vec::new(), arena_bytes: plan.arena_bytes });
            stretches.len() - 1
        });
        stretches[at].commands.extend([Command::Barrier, Command::Dispatch(dispatch.clone())]);
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Dispatch, Kernel, Work};

    static KERNELS: [Kernel; 2] = [kernel("mat_mul"), kernel("attend")];

    const fn kernel(name: &'static str) -> Kernel {
        Kernel {
            name,
            family: name,
            defines: &[],
            spirv: &[],
            push_bytes: 0,
            operands: &[],
            constants: &[],
            specialization: &[],
        }
    }

    fn dispatch(kernel: usize, label: &str, work: Work) -> Command {
        Command::Dispatch(Dispatch {
            kernel: &KERNELS[kernel],
            label: label.to_owned(),
            specialization: vec![],
            operands: vec![],
            push: vec![],
            groups: [1, 1, 1],
            work,
            stages: vec![],
        })
    }

    fn plan() -> Plan {
        let product = Work { bytes: 9_000_000, flops: 1000, ..Work::default() };
        let attention = Work { bytes: 100, flops: 0, bytes_a_token: 10, flops_a_pair: 2 };
        let commands = vec![
            Command::Barrier,
            dispatch(0, "layer 0 gate up", product),
            Command::Barrier,
            dispatch(1, "layer 0 attend", attention),
            dispatch(0, "layer 11 gate up", product),
            dispatch(0, "head", product),
        ];
        Plan { name: "test".to_owned(), commands, arena_bytes: 0 }
    }

    #[test]
    fn times_and_work_add_up_by_part_and_kernel() {
        let mut profile = Profile::default();
        let reach = Reach { cached_tokens: 7, pairs: 20 };
        let names: Vec<_> =
            stretches(&plan()).into_iter().map(|stretch| (stretch.name, stretch.commands.len())).collect();
        let expected = [("test, gate up", 4), ("test, attend", 2), ("test, head", 2)];
        assert_eq!(names, expected.map(|(name, commands)| (name.to_owned(), commands)));
        profile.add(&plan(), &[30.0, 5.0, 4.0], reach);
        profile.add(&plan(), &[30.0, 5.0, 4.0], reach);
        let lines = profile.lines();
        let names: Vec<_> = lines.iter().map(|line| (line.part.as_str(), line.kernel, line.dispatches)).collect();
        assert_eq!(names, [("gate up", "mat_mul", 4), ("attend", "attend", 2), ("head", "mat_mul", 2)]);
        assert_eq!((lines[0].time_us, lines[0].bytes, lines[0].gb_s()), (60.0, 36_000_000, 600.0));
        assert_eq!((lines[1].bytes, lines[1].flops), (2 * (100 + 70), 2 * 40));
        let total = profile.total();
        assert_eq!((total.dispatches, total.time_us, total.flops, profile.barriers), (8, 78.0, 6080, 4));
    }

    #[test]
    fn a_line_is_held_against_what_bounds_it() {
        let roofline =
            Roofline { copy_gb_s: 10.0, read_gb_s: 20.0, fma_gflop_s: vec![(8, 50.0), (16, 100.0)], dispatch_us: 4.0 };
        let line = |dispatches, bytes, flops| Line {
            part: String::new(),
            kernel: "",
            dispatches,
            time_us: 100.0,
            bytes,
            flops,
        };
        assert_eq!(line(1, 1_000_000, 1_000_000).of_roofline(&roofline), (Some(0.5), Bound::Memory));
        assert_eq!(line(1, 1000, 2_000_000).of_roofline(&roofline), (Some(0.2), Bound::Arithmetic));
        assert_eq!(line(20, 1000, 1000).of_roofline(&roofline), (Some(0.8), Bound::Dispatch));
        let both = Profile { lines: vec![line(1, 1_000_000, 0), line(20, 0, 0)], barriers: 0 };
        assert_eq!(both.least_us(&roofline), 50.0 + 80.0, "what bounds one leaves the other alone");
        assert_eq!(line(1, 0, 0).gb_s(), 0.0);
        let unseen = Line { time_us: 0.0, ..line(1, 5, 5) };
        assert_eq!((unseen.gb_s(), unseen.of_roofline(&roofline).0), (0.0, None), "nothing is divided by nothing");
    }
}
