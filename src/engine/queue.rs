//! The bounded queue between the tasks that serve clients and the one thread that owns the device.

use super::request::Request;
use super::stats::Stats;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::sync::mpsc;

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the queue is full ({capacity} requests wait); try again in {retry_after_s} s")]
    Full { capacity: usize, retry_after_s: u32 },
    #[error("the device was lost and is being started again; try again in {retry_after_s} s")]
    Restarting { retry_after_s: u32 },
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("the engine has stopped")]
    Stopped,
}

#[derive(Debug, Default)]
struct Counters {
    waiting: AtomicUsize,
    running: AtomicUsize,
    draining: AtomicBool,
    restarting: AtomicBool,
    stats: Stats,
}

/// The clients' end.
#[derive(Clone, Debug)]
pub struct Handle {
    sender: mpsc::UnboundedSender<Request>,
    capacity: usize,
    counters: Arc<Counters>,
}

/// The engine's end. When it is dropped, [`Handle::submit`] answers [`Refused::Stopped`].
#[derive(Debug)]
pub struct Inbox {
    receiver: mpsc::UnboundedReceiver<Request>,
    counters: Arc<Counters>,
}

/// A queue in which at most `capacity` requests wait.
pub fn queue(capacity: usize) -> (Handle, Inbox) {
    // It is bounded by the count of those that wait, since the engine takes them out to put them in order.
    let (sender, receiver) = mpsc::unbounded_channel();
    let counters = Arc::new(Counters::default());
    (Handle { sender, capacity, counters: counters.clone() }, Inbox { receiver, counters })
}

impl Handle {
    /// Queues a request or says at once why not; it never waits.
    pub fn submit(&self, request: Request) -> Result<(), Refused> {
        if self.counters.draining.load(Ordering::Acquire) {
            return Err(Refused::ShuttingDown);
        }
        if self.is_restarting() {
            return Err(Refused::Restarting { retry_after_s: 5 });
        }
        if self.is_stopped() {
            return Err(Refused::Stopped);
        }
        let one_more = |waiting| (waiting < self.capacity).then_some(waiting + 1);
        let waiting = &self.counters.waiting;
        if waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return Err(Refused::Full { capacity: self.capacity, retry_after_s: 1 });
        }
        self.sender.send(request).map_err(|_| {
            waiting.fetch_sub(1, Ordering::AcqRel);
            Refused::Stopped
        })
    }

    /// Requests that wait; those that run are not among them.
    pub fn waiting(&self) -> usize {
        self.counters.waiting.load(Ordering::Acquire)
    }

    pub fn running(&self) -> usize {
        self.counters.running.load(Ordering::Acquire)
    }

    /// Requests that may wait.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What the engine counts.
    pub fn stats(&self) -> &Stats {
        &self.counters.stats
    }

    /// From now on every submit is refused; what was accepted still completes.
    pub fn drain(&self) {
        self.counters.draining.store(true, Ordering::Release);
    }

    /// [`Handle::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.counters.draining.load(Ordering::Acquire)
    }

    /// The device was lost and is being started again. What was queued before waits for it.
    pub fn is_restarting(&self) -> bool {
        self.counters.restarting.load(Ordering::Acquire)
    }

    /// The engine thread is gone.
    pub fn is_stopped(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Inbox {
    /// A request that has come, if there is one. It counts as waiting until [`Inbox::started`] or [`Inbox::dropped`].
    pub fn try_next(&mut self) -> Option<Request> {
        self.receiver.try_recv().ok()
    }

    /// The next request; waits for one. `None` when every [`Handle`] is gone.
    pub fn wait(&mut self) -> Option<Request> {
        self.receiver.blocking_recv()
    }

    /// Whether requests are refused since there is no device to run them on.
    pub fn set_restarting(&mut self, restarting: bool) {
        self.counters.restarting.store(restarting, Ordering::Release);
    }

    /// A request waits no more and runs, until [`Inbox::finished`].
    pub fn started(&self) {
        self.counters.running.fetch_add(1, Ordering::AcqRel);
        self.counters.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// A request that waited is given up.
    pub fn dropped(&self) {
        self.counters.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// A request that ran is done with.
    pub fn finished(&self) {
        self.counters.running.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn stats(&self) -> &Stats {
        &self.counters.stats
    }
}
