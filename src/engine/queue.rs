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
    sender: mpsc::Sender<Request>,
    counters: Arc<Counters>,
}

/// The engine's end. When it is dropped, [`Handle::submit`] answers [`Refused::Stopped`].
#[derive(Debug)]
pub struct Inbox {
    receiver: mpsc::Receiver<Request>,
    counters: Arc<Counters>,
}

/// A queue in which at most `capacity` requests wait.
pub fn queue(capacity: usize) -> (Handle, Inbox) {
    let (sender, receiver) = mpsc::channel(capacity);
    let counters = Arc::new(Counters::default());
    (Handle { sender, counters: counters.clone() }, Inbox { receiver, counters })
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
        self.counters.waiting.fetch_add(1, Ordering::AcqRel);
        self.sender.try_send(request).map_err(|error| {
            self.counters.waiting.fetch_sub(1, Ordering::AcqRel);
            match error {
                mpsc::error::TrySendError::Full(_) => Refused::Full { capacity: self.capacity(), retry_after_s: 1 },
                mpsc::error::TrySendError::Closed(_) => Refused::Stopped,
            }
        })
    }

    /// Requests that wait; one that runs is not among them.
    pub fn waiting(&self) -> usize {
        self.counters.waiting.load(Ordering::Acquire)
    }

    pub fn running(&self) -> usize {
        self.counters.running.load(Ordering::Acquire)
    }

    /// Requests that may wait.
    pub fn capacity(&self) -> usize {
        self.sender.max_capacity()
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
    /// The next request whose client still listens; waits for one. `None` when every [`Handle`] is gone.
    /// The request counts as running until [`Inbox::finished`].
    pub fn next_request(&mut self) -> Option<Request> {
        loop {
            let request = self.receiver.blocking_recv()?;
            self.counters.waiting.fetch_sub(1, Ordering::AcqRel);
            if !request.events.is_closed() {
                self.counters.running.fetch_add(1, Ordering::AcqRel);
                return Some(request);
            }
        }
    }

    /// Whether requests are refused since there is no device to run them on.
    pub fn set_restarting(&mut self, restarting: bool) {
        self.counters.restarting.store(restarting, Ordering::Release);
    }

    /// The request last taken is done with.
    pub fn finished(&mut self) {
        self.counters.running.fetch_sub(1, Ordering::AcqRel);
    }
}
