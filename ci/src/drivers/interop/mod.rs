//! `cargo ci interop`: NBD clients that know nothing of mvps attach, write, trim and verify.
//!
//! [`matrix`] is every client by every way in. Each check uses an image of its own, has a limit of
//! time, and shows the client's own output when it fails.

mod certificates;
mod images;
mod killed;
mod matrix;
mod policy;
mod scripts;
mod sparse;
mod tls;
mod verified;
mod way;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::rig::daemon::{Listen, Setup};
use crate::rig::machine;
use crate::rig::object_server::{ObjectServer, ObjectStore};
use crate::rig::report::Report;
use crate::rig::server::{Server, StandInKind, StandIns};
use crate::rig::workspace::Binary;
use certificates::Authority;
use way::Way;

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
    let suites = Suites {
        binary: binary.path()?,
        authority: Rc::new(Authority::new(directory.path().join("ca"))?.without_client()?),
        certificates: directory.path().join("ca"),
    };
    let local = directory.path().join("local");
    let store = ObjectStore::Local(local.join("objects"));
    let mut tables = suites.on_store(&mut report, "local", store, &local)?;
    let s3 = directory.path().join("s3");
    let server = ObjectServer::start(&s3.join("objects"))?;
    tables += &suites.on_store(&mut report, "s3", server.store("i/"), &s3)?;
    tls::checks(&mut report, &suites.binary, directory.path())?;
    let finished = report.finish("cargo ci interop");
    println!("{tables}");
    finished
}

/// What the suites on all stores share.
struct Suites {
    binary: PathBuf,
    /// The authority that clients trust.
    authority: Rc<Authority>,
    /// The directory of the server's certificate.
    certificates: PathBuf,
}

impl Suites {
    /// Runs the suite and the checks of mvps's own policies against one daemon on `store`; returns
    /// the matrix as a table.
    fn on_store(
        &self,
        report: &mut Report,
        area: &str,
        store: ObjectStore,
        directory: &Path,
    ) -> Result<String> {
        let mut setup = Setup::new(&self.binary, store, directory)?;
        let socket = directory.join("nbd.sock");
        setup.flags = vec!["--listen".into(), format!("unix:{}", socket.display())];
        for (flag, name) in [("--tls-cert", "cert"), ("--tls-key", "key")] {
            let file = self.certificates.join(format!("server-{name}.pem"));
            setup
                .flags
                .extend([flag.into(), file.display().to_string()]);
        }
        let mut daemon = setup.start()?;
        suite(report, area, &mut daemon, directory);
        policy::checks(report, area, &mut daemon, &socket);
        let ways = self.ways(&daemon.setup().listen, &Listen::Unix(socket));
        let table = matrix::checks(report, area, &daemon, &ways, directory);
        sparse::checks(report, area, &daemon);
        report.check(area, "clean shutdown (SIGTERM)", || {
            let (resident, highest) = daemon.memory_bytes()?;
            let took = daemon.stop()?;
            let mib = |bytes| bytes / (1024 * 1024);
            let memory = format!("RSS {} MiB, highest {} MiB", mib(resident), mib(highest));
            Ok(format!("{:.1} s, {memory}", took.as_secs_f64()))
        });
        report.check(area, "qemu-io, server killed under it", || {
            killed::reconnect(&setup, directory)
        });
        Ok(table)
    }

    fn ways(&self, tcp: &Listen, unix: &Listen) -> [Way; 4] {
        let way = |name, listen: &Listen, encrypts: bool| Way {
            name,
            listen: listen.clone(),
            authority: encrypts.then(|| Rc::clone(&self.authority)),
        };
        [
            way("tcp", tcp, false),
            way("unix", unix, false),
            way("tls", tcp, true),
            way("utls", unix, true),
        ]
    }
}

/// The checks that any NBD server with trim, zeroes and flush passes.
fn suite(report: &mut Report, area: &str, server: &mut dyn Server, directory: &Path) {
    scripts::checks(report, area, server, directory);
    verified::checks(report, area, server);
}
