//! The signals that a server heeds.

use anyhow::Result;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C or SIGTERM, by its name.
    End(&'static str),
    /// SIGHUP: read keys and certificates again.
    Reload,
}

/// Ctrl-C and, where there are such things, SIGTERM and SIGHUP.
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub fn new() -> Result<Signals> {
        use anyhow::Context;
        use tokio::signal::unix::{SignalKind, signal};
        let receive = |kind| signal(kind).context("signals cannot be received");
        Ok(Signals {
            interrupt: receive(SignalKind::interrupt())?,
            terminate: receive(SignalKind::terminate())?,
            hang_up: receive(SignalKind::hangup())?,
        })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::End("Ctrl-C"),
            _ = self.terminate.recv() => Signal::End("SIGTERM"),
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    pub fn new() -> Result<Signals> {
        Ok(Signals {})
    }

    pub async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::End("Ctrl-C")
    }
}

/// Ends the process at the next signal that asks for an end.
pub async fn end_at_once(mut signals: Signals) {
    loop {
        if let Signal::End(name) = signals.next().await {
            eprintln!("{name} again: ending at once");
            std::process::exit(130);
        }
    }
}
