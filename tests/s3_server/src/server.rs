//! Serves the buckets over HTTP/1.1 and counts what is asked.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};

use crate::bucket::Buckets;
use crate::{ACCESS_KEY, BUCKET, SECRET_KEY};

/// What was asked since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct RequestCounts {
    /// Requests that arrived, by HTTP method.
    pub by_method: BTreeMap<String, u64>,
    /// Bytes of request bodies, as announced.
    pub received_bytes: u64,
    /// Bytes of answers' bodies, as announced.
    pub sent_bytes: u64,
}

impl RequestCounts {
    /// Requests of every method.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_method.values().sum()
    }
}

/// A running server; it ends with its runtime, or when it is dropped.
pub struct S3Server {
    address: SocketAddr,
    counts: Arc<Mutex<RequestCounts>>,
    task: tokio::task::JoinHandle<()>,
}

impl S3Server {
    /// Serves `directory`, which is made if it is missing, on `listen` (port 0: any).
    ///
    /// # Errors
    /// When the directory or the address cannot be used.
    pub async fn start(directory: &Path, listen: SocketAddr) -> io::Result<Self> {
        std::fs::create_dir_all(directory.join(BUCKET))?;
        let mut builder = S3ServiceBuilder::new(Buckets::new(directory)?);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Mutex::new(RequestCounts::default()));
        let task = tokio::spawn(accept(listener, service, counts.clone()));
        Ok(Self {
            address,
            counts,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What goes into `S3_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    #[must_use]
    pub fn counts(&self) -> RequestCounts {
        self.counts.lock().expect("no holder panics").clone()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, service: S3Service, counts: Arc<Mutex<RequestCounts>>) {
    // Ends, with all its connections, when the server is dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others have to end first.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        connections.spawn(serve(stream, service.clone(), counts.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, service: S3Service, counts: Arc<Mutex<RequestCounts>>) {
    let _ = stream.set_nodelay(true);
    let counted = service_fn(move |request: hyper::Request<Incoming>| {
        let counts = counts.clone();
        let service = service.clone();
        async move {
            {
                let mut counts = counts.lock().expect("no holder panics");
                let method = request.method().to_string();
                *counts.by_method.entry(method).or_default() += 1;
                counts.received_bytes += request.body().size_hint().exact().unwrap_or(0);
            }
            let response = service.call(request.map(s3s::Body::from)).await?;
            let sent = response.body().size_hint().exact().unwrap_or(0);
            counts.lock().expect("no holder panics").sent_bytes += sent;
            Ok::<_, s3s::HttpError>(response)
        }
    });
    let io = TokioIo::new(stream);
    // A connection that breaks is the client's business.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(io, counted)
        .await;
}
