//! `cargo ci space`: random overwrites with checkpoints, cleaning and `mvps-gc` running; what the
//! bucket takes beside what is alive, and what was sent beside what was written. Then everything is
//! verified ([`verified`]).

mod run;
mod verified;

use anyhow::Result;
use tempfile::TempDir;

use crate::rig::daemon::Setup;
use crate::rig::machine;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::workspace::{self, Binary};
use run::Run;

pub use run::Options;

/// Below this in the bucket.
const PREFIX: &str = "space/";

/// Fills the image in order, overwrites it at random, and verifies it.
///
/// # Errors
/// If the bucket holds or the daemon sends more than the limits, or data is wrong.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let collector = match &options.mvps_gc {
        Some(path) => std::path::absolute(path)?,
        None => workspace::build("mvps-gc", binary.profile)?,
    };
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-space")?;
    let mut server = ObjectServer::start(&directory.path().join("server"))?;
    let mut setup = Setup::new(&binary, server.store(PREFIX), directory.path())?;
    if let Some(bytes) = &options.checkpoint_bytes {
        setup.flags = vec!["--checkpoint-bytes".into(), bytes.clone()];
    }
    let daemon = setup.start()?;
    let mut report = Report::default();
    let mut run = Run {
        bucket: server.objects(PREFIX),
        live_bytes: options.image_size << 20,
        collector,
        daemon,
        peak_percent: 0,
    };
    report.check("space", "a fresh image in order", || run.fresh(&mut server));
    report.check("space", "random overwrites", || {
        run.overwritten(&mut server, options)
    });
    report.check("space", "verified", || verified::check(&run));
    let elsewhere = directory.path().join("elsewhere");
    report.check("space", "verified with an empty buffer", move || {
        verified::again_elsewhere(run, &elsewhere)
    });
    report.finish("cargo ci space")
}
