//! The listener: accepts connections of this machine, as many as the options allow, and hands
//! requests to the routes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use freshet_core::http::{HttpOptions, Listen, PORT};
use freshet_core::{Result, ResultExt, error::code};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::answer::Problem;
use crate::budget::Budget;
use crate::figures::Figures;
use crate::ingest::{self, Sources};
use crate::jobs::{self, Jobs};
use crate::timed::Timed;
use crate::{guard, health, metrics};

/// Bytes of a request's line and headers together.
const HEADERS: usize = 64 << 10;
/// Headers of a request.
const HEADER_COUNT: usize = 64;
/// How long connections may take to end what they are at.
const GRACE: Duration = Duration::from_secs(5);

/// What the routes serve.
#[derive(Debug, Clone)]
pub struct Services {
    /// What can be pushed to.
    pub sources: Arc<dyn Sources>,
    /// The jobs that run.
    pub jobs: Arc<dyn Jobs>,
}

/// What all routes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub services: Services,
    pub options: HttpOptions,
    pub budget: Budget,
    pub figures: Figures,
}

/// A listener that is bound; connections wait until it runs.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds as the options say; `None` where they say that nothing is to be listened at.
    pub async fn bind(options: &HttpOptions, services: Services) -> Result<Option<Self>> {
        options.validate()?;
        let listener = match options.listen()? {
            Listen::Nowhere => return Ok(None),
            Listen::At(address) => TcpListener::bind(address)
                .await
                .or_code(code::IO, || format!("could not listen at {address}"))?,
            Listen::Usual => match TcpListener::bind(("127.0.0.1", PORT)).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind(("127.0.0.1", 0))
                    .await
                    .or_code(code::IO, || "could not listen at 127.0.0.1".to_owned())?,
            },
        };
        let address = listener
            .local_addr()
            .or_code(code::IO, || "could not learn where HTTP listens".to_owned())?;
        let shared = Arc::new(Shared {
            services,
            budget: Budget::new(options.max_pending_bytes.0),
            options: options.clone(),
            figures: Figures::default(),
        });
        Ok(Some(Self { listener, address, shared }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; then no more is accepted, and what is under way is ended.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, shared, .. } = self;
        let slots = Arc::new(Semaphore::new(shared.options.max_connections));
        let router = router(Arc::clone(&shared));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&listener, &slots) => accepted,
            };
            let Some((stream, slot)) = accepted else { continue };
            let (router, stop) = (router.clone(), stop.clone());
            let options = shared.options.clone();
            tokio::spawn(async move {
                serve(stream, router, &options, &stop).await;
                drop(slot);
            });
        }
        drop(listener);
        // All slots are free once all have ended; who does not by then is cut off with the process.
        let all = u32::try_from(shared.options.max_connections).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(GRACE, slots.acquire_many(all)).await;
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Too many open files, or a peer that has gone: the next one may do better.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn serve(stream: TcpStream, router: Router, options: &HttpOptions, stop: &CancellationToken) {
    // Answers are small, and whoever asks waits for them.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Timed::new(stream, options.write_timeout.0));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout.0)
        .max_buf_size(HEADERS)
        .max_headers(HEADER_COUNT)
        // Who has said all may still listen.
        .half_close(true)
        .serve_connection(io, TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let unknown = async || {
        let problem = Problem::request(StatusCode::NOT_FOUND, "there is nothing at this address");
        axum::http::Response::<axum::body::Body>::from(problem)
    };
    let method = async || {
        let problem =
            Problem::request(StatusCode::METHOD_NOT_ALLOWED, "this address is not asked like that");
        axum::http::Response::<axum::body::Body>::from(problem)
    };
    Router::new()
        .route("/healthz", get(health::get))
        .route("/metrics", get(metrics::get))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/jobs/{name}", get(jobs::show))
        .route("/v1/jobs/{name}/savepoint", post(jobs::savepoint))
        .route("/v1/jobs/{name}/restore", post(jobs::restore))
        .route("/v1/jobs/{name}/rescale", post(jobs::rescale))
        .route("/v1/ingest/{source}", post(ingest::post))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        // Bodies are bounded where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn(guard::local))
        .with_state(shared)
}
