//! A server that is killed and started again under a client that has not flushed.

use std::path::Path;

use anyhow::{Context, Result};

use super::matrix::Session;
use super::way::Way;
use crate::rig::daemon::Setup;

/// How often the server is killed.
const KILLS: u64 = 3;

/// qemu-io writes, the server is killed and started again, and qemu-io finds everything that was
/// acknowledged: a mere kill loses nothing, flushed or not.
///
/// # Errors
/// If anything is lost, or the client does not come back.
pub fn reconnect(setup: &Setup, directory: &Path) -> Result<String> {
    let mut daemon = Some(setup.start()?);
    let listen = setup.listen.clone();
    let authority = None;
    let way = Way {
        name: "kill",
        listen: listen.clone(),
        authority,
    };
    let mut session = Session::start(&way, &listen, "kill", directory)?;
    for kill in 0..KILLS {
        session.write_and_verify(kill)?;
        daemon.take().context("it runs")?.kill()?;
        daemon = Some(setup.start()?);
    }
    session.write_and_verify(KILLS)?;
    session.end()?;
    daemon.take().context("it runs")?.stop()?;
    Ok(format!("{KILLS} kills, nothing lost"))
}
