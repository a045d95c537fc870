//! Accepts connections, bounds their number and their patience, and ends in order.

use super::{State, loading, router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// After a failed accept (usually: no file descriptor is left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` completes. Then no connection is accepted, the engine's queue is closed, and running
/// requests may go on for [`super::Settings::drain_limit`]. Answers how many connections had to be cut after it.
pub async fn serve(listener: TcpListener, state: State, shutdown: impl Future<Output = ()>) -> usize {
    let permits = Arc::new(Semaphore::new(state.settings().connections));
    let app = router(state.clone());
    let tending = tokio::spawn(loading::tend(state.clone()));
    let (close, closing) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, permit) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let read_limit = state.settings().read_limit;
        connections.spawn(connection(stream, permit, app.clone(), closing.clone(), read_limit));
    }
    drop(listener);
    tending.abort();
    state.registry().drain();
    // Connections without a request close at once, the others after their answer.
    drop(close);
    let all_ended = timeout(state.settings().drain_limit, async { while connections.join_next().await.is_some() {} });
    let cut = if all_ended.await.is_ok() { 0 } else { connections.len() };
    connections.shutdown().await;
    state.registry().clear();
    cut
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    app: axum::Router,
    mut closing: watch::Receiver<()>,
    read_limit: Duration,
) {
    // Tokens are small packets that must not wait for each other.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_limit)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Its sender is dropped at shutdown.
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(permit);
}
