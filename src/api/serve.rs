//! Accepts connections, bounds their number and their patience, and ends in order.

use super::{Settings, State, caller::Peer, loading, router};
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// After a failed accept (usually: no file descriptor is left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least that hyper takes as the limit of a request's head.
const HEADER_BYTES_MIN: usize = 8192;

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
        let (stream, peer, permit) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        connections.spawn(connection(stream, Peer(peer), permit, app.clone(), closing.clone(), state.clone()));
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

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    permit: OwnedSemaphorePermit,
    app: axum::Router,
    mut closing: watch::Receiver<()>,
    state: State,
) {
    // Tokens are small packets that must not wait for each other.
    let _ = stream.set_nodelay(true);
    match state.tls() {
        None => converse(stream, peer, app, closing, state.settings()).await,
        Some(config) => {
            let handshake = timeout(state.settings().read_limit, TlsAcceptor::from(config).accept(stream));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                _ = closing.changed() => return,
            };
            match shaken {
                Ok(Ok(stream)) => converse(stream, peer, app, closing, state.settings()).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
    drop(permit);
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    app: axum::Router,
    mut closing: watch::Receiver<()>,
    settings: &Settings,
) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request| {
        request.extensions_mut().insert(peer);
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.read_limit)
        .max_headers(settings.header_lines)
        .max_buf_size(settings.header_limit_bytes.max(HEADER_BYTES_MIN))
        .serve_connection(TokioIo::new(stream), service);
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
}
