//! The CPU reference as a device that works on its own: a submission runs some time later, can be held back, and can go
//! wrong. The host writes ahead of it, which must not change what is in flight.

use crate::harness::PATIENCE;
use hesper::plan::{Executor, ExecutorError, Plan, Prepared, Region, Ticket};
use hesper::reference::Reference;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Submitting fails.
    Lost,
    /// Submissions are taken and come to nothing.
    Swallowed,
    /// As swallowed, and waiting says so.
    TimedOut,
}

#[derive(Debug, Default)]
struct Script {
    submits: u32,
    /// Submissions that are let through.
    allowed: Option<u32>,
    /// The engine waits to submit one more.
    held: bool,
    /// After this many submissions.
    fault: Option<(u32, Fault)>,
    /// Work is done only when it is waited for.
    lazy: bool,
}

/// A test's hold on a device that the engine owns.
#[derive(Debug, Default)]
pub struct Control {
    script: Mutex<Script>,
    changed: Condvar,
}

impl Control {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nothing panics while it holds the script")
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script());
        self.changed.notify_all();
    }

    /// Forgets the submissions that loaded the model.
    pub fn reset(&self) {
        self.change(|script| *script = Script::default());
    }

    /// Submissions since the model was loaded.
    pub fn submits(&self) -> u32 {
        self.script().submits
    }

    /// Lets `submits` through, from the loading on, and no more until [`Control::open`].
    pub fn hold_after(&self, submits: u32) {
        self.change(|script| script.allowed = Some(submits));
    }

    pub fn open(&self) {
        self.change(|script| script.allowed = None);
    }

    /// Waits until the engine is held.
    pub fn until_held(&self) {
        let (script, _) = self
            .changed
            .wait_timeout_while(self.script(), PATIENCE, |script| !script.held)
            .expect("nothing panics while it holds the script");
        assert!(script.held, "the engine submits nothing more");
    }

    pub fn fail_after(&self, submits: u32, fault: Fault) {
        self.change(|script| script.fault = Some((submits, fault)));
    }

    /// From now on work is done only when it is waited for.
    pub fn be_lazy(&self) {
        self.change(|script| script.lazy = true);
    }

    fn fault(script: &Script) -> Option<Fault> {
        script.fault.filter(|(healthy, _)| script.submits > *healthy).map(|(_, fault)| fault)
    }

    /// Counts a submission, when it is its turn.
    fn submit(&self) -> Option<Fault> {
        let mut script = self.script();
        let full = |script: &Script| script.allowed.is_some_and(|allowed| script.submits >= allowed);
        while full(&script) {
            script.held = true;
            self.changed.notify_all();
            let (next, waited) =
                self.changed.wait_timeout(script, PATIENCE).expect("nothing panics while it holds the script");
            script = next;
            assert!(!waited.timed_out(), "the test never opens the device");
        }
        script.held = false;
        script.submits += 1;
        Control::fault(&script)
    }
}

/// The device.
pub struct Device {
    control: Arc<Control>,
    work: RefCell<Work>,
}

#[derive(Default)]
struct Work {
    reference: Reference,
    pending: VecDeque<Prepared>,
    /// Where the host looked last, and how often in a row.
    looked: Option<(Region, u64)>,
    looks: u32,
}

impl Work {
    /// Runs the oldest submission.
    fn step(&mut self) -> Option<()> {
        let prepared = self.pending.pop_front()?;
        self.reference.submit(prepared).expect("the reference never fails to submit");
        Some(())
    }

    fn finish(&mut self) {
        while self.step().is_some() {}
    }
}

impl Device {
    pub fn new(control: Arc<Control>) -> Device {
        Device { control, work: RefCell::default() }
    }
}

impl Executor for Device {
    fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError> {
        self.work.get_mut().reference.allocate(region, bytes)
    }

    fn free(&mut self, region: Region) -> Result<(), ExecutorError> {
        let work = self.work.get_mut();
        work.finish();
        work.reference.free(region)
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        self.work.get_mut().reference.prepare(plan)
    }

    fn release(&mut self, prepared: Prepared) {
        let work = self.work.get_mut();
        assert!(!work.pending.contains(&prepared), "a plan is released that is in flight");
        work.reference.release(prepared);
    }

    fn submit(&mut self, prepared: Prepared) -> Result<(), ExecutorError> {
        match self.control.submit() {
            Some(Fault::Lost) => return Err(ExecutorError::DeviceLost("the test has unplugged it".into())),
            Some(Fault::Swallowed | Fault::TimedOut) => {}
            None => self.work.get_mut().pending.push_back(prepared),
        }
        Ok(())
    }

    fn fence(&mut self) -> Result<Ticket, ExecutorError> {
        Ok(Ticket(0))
    }

    fn wait(&mut self, _: Ticket) -> Result<(), ExecutorError> {
        self.work.get_mut().finish();
        match Control::fault(&self.control.script()) {
            Some(Fault::TimedOut) => Err(ExecutorError::TimedOut { waited_s: 7 }),
            _ => Ok(()),
        }
    }

    fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        let work = self.work.get_mut();
        // Work in flight is done late, so it sees what is written now: what it must not see makes answers differ.
        work.reference.write(region, offset_bytes, bytes);
    }

    fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        let mut work = self.work.borrow_mut();
        // Two looks see what was there before, so the host is always ahead; the next see work being done.
        let again = work.looked.replace((region, offset_bytes)) == Some((region, offset_bytes));
        work.looks = if again { work.looks + 1 } else { 1 };
        if work.looks > 2 && !self.control.script().lazy {
            work.step();
        }
        work.reference.load_u32(region, offset_bytes)
    }

    fn read(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError> {
        let work = self.work.get_mut();
        work.finish();
        work.reference.read(region, offset_bytes, out)
    }
}
