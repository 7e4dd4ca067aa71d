//! `cargo ci interop`: NBD clients that know nothing of mvps attach, write, trim and verify.
//!
//! [`matrix`] is every client by every way in. Each check uses an image
//! of its own, has a limit of time, and shows the client's own output
//! when it fails.

mod matrix;
mod policy;
mod scripts;
mod tls;
mod verified;

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::Binary;
use crate::daemon::{Listen, ObjectStore, Setup};
use crate::machine;
use crate::object_server::ObjectServer;
use crate::report::Report;
use crate::server::{Server, StandInKind, StandIns};
use matrix::Way;

/// The size of the images of most checks.
pub const IMAGE_BYTES: u64 = 256 * 1024 * 1024;

/// Runs the suite on the local store and on the S3 server, or against a stand-in.
///
/// # Errors
/// If a check fails or a tool is missing.
pub fn run(binary: &Binary, against: Option<StandInKind>) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let directory = TempDir::with_prefix("mvps-interop").context("a scratch directory")?;
    let mut report = Report::default();
    if let Some(kind) = against {
        let mut stand_ins = StandIns::new(kind, directory.path());
        suite(&mut report, kind.name(), &mut stand_ins, directory.path());
        return report.finish(&format!("cargo ci interop, against {}", kind.name()));
    }
    let binary = binary.path()?;
    let local = directory.path().join("local");
    let store = ObjectStore::Local(local.join("objects"));
    on_store(&mut report, "local", &binary, store, &local)?;
    let s3 = directory.path().join("s3");
    let server = ObjectServer::start(&s3.join("objects"))?;
    on_store(&mut report, "s3", &binary, server.store("i/"), &s3)?;
    tls::checks(&mut report, &binary, directory.path())?;
    report.finish("cargo ci interop")
}

/// The suite and the rules of mvps itself against one daemon on `store`.
fn on_store(
    report: &mut Report,
    area: &str,
    binary: &Path,
    store: ObjectStore,
    directory: &Path,
) -> Result<()> {
    let mut setup = Setup::new(binary, store, directory)?;
    let socket = directory.join("nbd.sock");
    setup.flags = vec!["--listen".into(), format!("unix:{}", socket.display())];
    let mut daemon = setup.start()?;
    suite(report, area, &mut daemon, directory);
    policy::checks(report, area, &mut daemon, &socket);
    let unix = Listen::Unix(socket);
    // A further way in, such as TLS, is one more column.
    let ways = [
        Way::new("tcp", daemon.setup().listen.clone()),
        Way::new("unix", unix),
    ];
    matrix::checks(report, area, &daemon, &ways, directory);
    report.check(area, "clean shutdown (SIGTERM)", || {
        let (resident, highest) = daemon.memory_bytes()?;
        let took = daemon.stop()?;
        let mib = |bytes| bytes / (1024 * 1024);
        let memory = format!("RSS {} MiB, highest {} MiB", mib(resident), mib(highest));
        Ok(format!("{:.1} s, {memory}", took.as_secs_f64()))
    });
    Ok(())
}

/// What any NBD server with trim, zeroes and flush passes.
fn suite(report: &mut Report, area: &str, server: &mut dyn Server, directory: &Path) {
    scripts::checks(report, area, server, directory);
    verified::checks(report, area, server);
}
