//! New connections of well-behaved clients during the storm: how long they wait until they are
//! served.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mvps_core::client::ClientError;
use tokio::time::timeout;

use super::images::{IMAGE_BYTES, QUIET};
use crate::rig::client::attach;
use crate::rig::daemon::Setup;
use crate::rig::token::Claims;

/// How long to wait before the next one.
const PAUSE: Duration = Duration::from_millis(500);

/// How long it may take to attach and read a page. The storm's connections are ahead of it.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How long each of them waited.
type Waits = Vec<Duration>;

/// Connects one client after the other for `duration`, beginning after `delay`.
pub fn begin(setup: &Setup, delay: Duration, duration: Duration) -> JoinHandle<Result<Waits>> {
    let setup = setup.clone();
    thread::spawn(move || {
        thread::sleep(delay);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a runtime for the new connections")?;
        runtime.block_on(come_and_go(&setup, Instant::now() + duration))
    })
}

async fn come_and_go(setup: &Setup, until: Instant) -> Result<Waits> {
    let claims = Claims::image(QUIET, IMAGE_BYTES);
    let mut waits = Waits::new();
    while Instant::now() < until {
        let came = Instant::now();
        let visit = async {
            let client = attach(setup, &claims).await?;
            client.read(0, 4096).await?;
            client.disconnect().await;
            Ok::<_, ClientError>(())
        };
        let visited = timeout(WAIT_MAX, visit).await;
        let visited =
            visited.with_context(|| format!("a new connection waited for {WAIT_MAX:?}"))?;
        visited.context("a new connection was not served")?;
        waits.push(came.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(waits)
}

/// Fails if a connection waited too long or none was made; returns how long they waited.
pub fn judge(new_connections: JoinHandle<Result<Waits>>) -> Result<String> {
    let waits = new_connections.join();
    let mut waits =
        waits.map_err(|_| anyhow::anyhow!("the thread of new connections panicked"))??;
    ensure!(!waits.is_empty(), "nobody came");
    waits.sort();
    let median = waits[waits.len() / 2];
    let longest = waits[waits.len() - 1];
    Ok(format!(
        "{} attached, read and left: median {} ms, longest {} ms",
        waits.len(),
        median.as_millis(),
        longest.as_millis()
    ))
}
