//! What runs plans.

use super::{Plan, Region};

/// A plan made ready by an executor; valid until that executor is dropped or the plan is [released](Executor::release).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prepared(pub usize);

/// A point in the order of submissions that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error("no memory for {bytes} bytes of {region:?}: {reason}")]
    OutOfMemory { region: Region, bytes: u64, reason: String },
    #[error("kernel {kernel} was refused by the driver: {reason}")]
    Pipeline { kernel: &'static str, reason: String },
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    #[error("the device did not answer within {waited_s} s")]
    TimedOut { waited_s: u64 },
    #[error(
        "kernel {kernel} computes wrongly on this driver ({what}), so answers would be wrong. Update the driver or choose \
         another device with --device; --skip-self-test uses it all the same."
    )]
    Wrong { kernel: &'static str, what: String },
    #[error("{0}")]
    Device(String),
}

/// The device that plans run on, as it is named on the first line, in `/health` and by `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLabel {
    pub name: String,
    pub driver: String,
    /// A CPU pretending to be a GPU.
    pub software: bool,
}

impl std::fmt::Display for DeviceLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}", self.name, self.driver)?;
        if self.software {
            write!(f, ", software")?;
        }
        write!(f, ")")
    }
}

/// What plans are timed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device's own, before and behind each plan, less what two timestamps with nothing between them are apart.
    Timestamps,
    /// The host's: each plan is submitted alone and waited for, less what submitting nothing takes.
    Waits,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Clock::Timestamps => "timestamps",
            Clock::Waits => "submissions and waits",
        })
    }
}

/// What plans took.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanTimes {
    pub clock: Clock,
    /// Microseconds of each, in order.
    pub times_us: Vec<f64>,
}

/// Owns the memory of every region and runs plans on it, in the order of submission.
pub trait Executor {
    /// Makes a region, zero-filled if it [starts as zeros](Region::starts_as_zeros), else with any content. Called once for
    /// each region, before any plan that uses it is prepared.
    fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError>;

    /// Waits for everything submitted and gives a region's memory back. Plans that use it never run again.
    fn free(&mut self, region: Region) -> Result<(), ExecutorError>;

    /// Makes a plan ready: pipelines, addresses, recording. The only slow call besides `allocate`.
    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError>;

    /// Every plan is prepared: a moment to keep for the next start what took long.
    fn keep(&mut self) {}

    /// Forgets a plan that no longer runs.
    fn release(&mut self, prepared: Prepared);

    /// Starts a prepared plan behind all that were submitted before, and does not wait. The same plan may be in flight
    /// several times.
    fn submit(&mut self, prepared: Prepared) -> Result<(), ExecutorError>;

    /// Marks this point in the order of submissions.
    fn fence(&mut self) -> Result<Ticket, ExecutorError>;

    /// Waits until everything before the ticket is done, and its writes are visible to the host.
    fn wait(&mut self, ticket: Ticket) -> Result<(), ExecutorError>;

    /// Copies bytes into a mapped region ([`Region::Step`], [`Region::Output`], [`Region::Staging`]); visible to every
    /// later submission. Never while a submitted plan uses them.
    ///
    /// # Panics
    /// When the region is not mapped or the range lies outside it.
    fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]);

    /// Reads one word of a mapped region that a running plan may be writing, with acquire ordering: what the plan wrote
    /// before that word is then visible as well.
    fn load_u32(&self, region: Region, offset_bytes: u64) -> u32;

    /// Copies bytes out of any region, after waiting for everything submitted. For unmapped regions this is slow.
    fn read(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError>;

    /// Runs plans once, one behind the other, waits, and says what each took. Like submissions, it changes what they change.
    fn time(&mut self, plans: &[Plan]) -> Result<PlanTimes, ExecutorError> {
        Err(ExecutorError::Device(format!("this executor has no clock for {} plans", plans.len())))
    }

    /// Calls so far that have handed something to the device's queue, marks included; `None`: it has no queue.
    fn submissions(&self) -> Option<u64> {
        None
    }
}
