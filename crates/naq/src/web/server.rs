//! Accepts connections. Their number is bounded, and so is the time for which each may be silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::base_paths::BasePaths;
use super::proxies::Connection;

/// Connections that are served at the same time. Further ones wait.
const CONNECTIONS_MAX: usize = 1_024;

/// Time limit for a client to send the headers of a request, also of the next one on an open connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(20);

/// Maximum size of the headers of a request, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Time limit for answers that are in progress when the dashboard stops.
const STOP_MAX: Duration = Duration::from_millis(800);

/// Time limit for a client to receive something of an answer. Without a limit, a client that receives nothing
/// keeps its connection, and the memory of the answer, forever.
const UNSENT_TIME_MAX: Duration = Duration::from_secs(60);

/// Pause after a failed accept. Without free descriptors, the next one would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is true, then for at most another second.
pub(super) async fn serve(
    listener: TcpListener,
    pages: Arc<BasePaths>,
    mut stop: watch::Receiver<bool>,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &free) => accepted,
        };
        match accepted {
            Some((stream, peer, slot)) => {
                serve_connection(stream, peer, slot, Arc::clone(&pages), &open);
            }
            None => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_MAX, open.shutdown())
        .await
        .is_err()
    {
        tracing::debug!("connections that were still open are closed");
    }
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(free).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            tracing::warn!("the dashboard cannot accept a connection: {error}");
            None
        }
    }
}

fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    slot: OwnedSemaphorePermit,
    pages: Arc<BasePaths>,
    open: &GracefulShutdown,
) {
    prepare(&stream);
    // without an address of its own, the connection has ended
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let connection = Connection { peer, local };
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { pages.answer(connection, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let connection = open.watch(connection);
    tokio::spawn(async move {
        // The client caused the error: it disconnected, or sent something other than HTTP.
        if let Err(error) = connection.await {
            tracing::trace!("a connection of the dashboard ended: {error}");
        }
        drop(slot);
    });
}

/// Sets the options of a connection. It works without them too, so errors are ignored.
fn prepare(stream: &TcpStream) {
    // Live events are small and must be sent without delay.
    let _ = stream.set_nodelay(true);
    // Only the kernel knows when a client last received something: the HTTP library has no limit for writing.
    let unsent_ms = u32::try_from(UNSENT_TIME_MAX.as_millis()).unwrap_or(u32::MAX);
    let _ = setsockopt(stream, TcpUserTimeout, &unsent_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_a_limit_for_the_time_of_unsent_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        prepare(&stream);
        let limit = nix::sys::socket::getsockopt(&stream, TcpUserTimeout).unwrap();
        assert_eq!(u128::from(limit), UNSENT_TIME_MAX.as_millis());
    }
}
