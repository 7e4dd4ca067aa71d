//! `cargo ci memory`: what a server takes of the memory under the loads that take most, against
//! `--memory-limit`: many images written at full speed onto a slow store, many open images that
//! nobody uses, and many transactions that hold what was dropped.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mvps_core::nbd::Opening;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::rig::client::{attach, attach_with};
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::delay::Delay;
use crate::rig::fio;
use crate::rig::machine;
use crate::rig::object_server::{ObjectServer, ObjectStore};
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::Binary;

/// What the process may take, in percent of the limit.
const ALLOWED_PERCENT: u64 = 115;

/// The slow store's round trip.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// How long a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(900);

/// What is written before each transaction begins: generations of 8,192 pages.
const GENERATION_MIB: u64 = 32;

/// The loads.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Limits to try, in MiB.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024, 4096])]
    pub limits: Vec<u64>,
    /// Images that are written to.
    #[arg(long, default_value_t = 24)]
    pub images: u64,
    /// Seconds of writing.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Images that are open and idle.
    #[arg(long, default_value_t = 1000)]
    pub idle: u64,
    /// Transactions, each with a view of another generation.
    #[arg(long, default_value_t = 128)]
    pub transactions: u64,
}

/// Measures each load under each limit.
///
/// # Errors
/// If the process takes more than 1.15 times a limit, or a client sees an error.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let binary = binary.path()?;
    let mut report = Report::default();
    for limit_mib in &options.limits {
        let what = |load: &str| format!("{load}, {limit_mib} MiB");
        let case = |flags: &[&str]| Case::new(&binary, *limit_mib, flags);
        report.check("memory", &what("images written at full speed"), || {
            case(&["--buffer-total-bytes", "4GiB"])?.full_speed(options)
        });
        report.check("memory", &what("idle images"), || {
            case(&["--idle-close-ms", "3600000"])?.idle(options)
        });
        report.check("memory", &what("transactions"), || {
            case(&[])?.transactions(options)
        });
    }
    report.finish("cargo ci memory")
}

/// A server with a limit, on a store that is far away.
struct Case {
    setup: Setup,
    limit_bytes: u64,
    _far: Delay,
    _server: ObjectServer,
    _directory: TempDir,
}

impl Case {
    fn new(binary: &Path, limit_mib: u64, flags: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("mvps-memory")?;
        let server = ObjectServer::start(&directory.path().join("server"))?;
        let near = server.store("memory/");
        let ObjectStore::S3 {
            endpoint,
            bucket,
            prefix,
        } = near
        else {
            unreachable!("an object server is reached by S3");
        };
        let address = endpoint.trim_start_matches("http://").parse();
        let far = Delay::start(address.context("the server's address")?, ROUND_TRIP)?;
        let store = ObjectStore::S3 {
            endpoint: format!("http://{}", far.address()),
            bucket,
            prefix,
        };
        let mut setup = Setup::new(binary, store, directory.path())?;
        setup.flags = vec!["--memory-limit".to_owned(), format!("{limit_mib}MiB")];
        setup.flags.extend(flags.iter().map(ToString::to_string));
        Ok(Self {
            setup,
            limit_bytes: limit_mib << 20,
            _far: far,
            _server: server,
            _directory: directory,
        })
    }

    /// What the process took at its highest.
    fn judge(&self, daemon: &Daemon, what: &str) -> Result<String> {
        let (now, highest) = daemon.memory_bytes()?;
        let said = format!(
            "highest {} MiB, now {} MiB; {what}",
            highest >> 20,
            now >> 20
        );
        let allowed = self.limit_bytes / 100 * ALLOWED_PERCENT;
        ensure!(highest <= allowed, "{said}; {} MiB allowed", allowed >> 20);
        Ok(said)
    }

    fn full_speed(self, options: &Options) -> Result<String> {
        let daemon = self.setup.start()?;
        // Both ways to fill up: by records, and by bytes.
        let write = |number: u64| {
            let claims = Claims::image(&format!("fast{number}"), 4 << 30);
            let mut command = fio::nbd(&daemon.uri_for(&claims));
            let (block, depth) = [("4k", 32), ("1m", 8)][usize::from(number % 2 == 1)];
            command.args(["--name=fast", "--rw=randwrite", "--size=4g", "--time_based"]);
            command.args([format!("--bs={block}"), format!("--iodepth={depth}")]);
            command.arg(format!("--runtime={}", options.seconds));
            std::thread::spawn(move || fio::jobs(&mut command, STEP_LIMIT))
        };
        let writers: Vec<_> = (0..options.images).map(write).collect();
        let mut written = 0;
        for writer in writers {
            let jobs = writer.join().expect("the writer returns")?;
            let of_job = |job| fio::Figures::of(job, "write").bytes;
            written += jobs.iter().map(of_job).sum::<u64>();
        }
        self.judge(&daemon, &format!("{} MiB written", written >> 20))
    }

    fn idle(self, options: &Options) -> Result<String> {
        let daemon = self.setup.start()?;
        let runtime = Runtime::new()?;
        let (before, _) = daemon.memory_bytes()?;
        let began = Instant::now();
        let open = |number: u64| {
            let setup = self.setup.clone();
            async move {
                let claims = Claims::image(&format!("idle{number}"), 1 << 30);
                let client = attach(&setup, &claims).await;
                let client = client.with_context(|| format!("image {number}"))?;
                client.write(0, vec![7; 4096].into(), false).await?;
                client.disconnect().await;
                Ok::<_, anyhow::Error>(())
            }
        };
        // Opening is mostly waiting for the store.
        let numbers: Vec<u64> = (0..options.idle).collect();
        for some in numbers.chunks(32) {
            let opened = some.iter().map(|number| open(*number));
            for opened in runtime.block_on(futures_util::future::join_all(opened)) {
                opened?;
            }
        }
        let status = daemon.status()?;
        let open = status["images"].as_array().context("images")?.len();
        ensure!(open as u64 == options.idle, "{open} images are open");
        let (now, _) = daemon.memory_bytes()?;
        let each = now.saturating_sub(before) / options.idle.max(1);
        let opening = began.elapsed().as_secs_f64();
        let what = format!(
            "{} images opened in {opening:.0} s, {} KiB each",
            options.idle,
            each >> 10
        );
        self.judge(&daemon, &what)
    }

    fn transactions(self, options: &Options) -> Result<String> {
        let daemon = self.setup.start()?;
        let runtime = Runtime::new()?;
        // An image has no more than 128 connections, and who writes is one of them.
        let images = ["held0", "held1"];
        let mut clients = Vec::new();
        for image in images
            .iter()
            .cycle()
            .take(usize::try_from(options.transactions)?)
        {
            let claims = Claims::image(image, 4 << 30);
            let client = attach_with(&self.setup, &claims, Opening::Go);
            clients.push((runtime.block_on(client)?, *image));
        }
        let mut open = Vec::new();
        for (client, image) in &mut clients {
            // What is written before it begins is dropped while it reads.
            let uri = daemon.uri_for(&Claims::image(image, 4 << 30));
            let mut command = fio::nbd(&uri);
            command.args(["--name=held", "--rw=randwrite", "--bs=4k", "--iodepth=32"]);
            command.args([
                "--size=4g".to_owned(),
                format!("--io_size={GENERATION_MIB}m"),
            ]);
            fio::jobs(&mut command, STEP_LIMIT)?;
            let begun = runtime.block_on(async {
                let transaction = client.begin().await?;
                transaction.read(0, 4096).await?;
                Ok::<_, anyhow::Error>(transaction)
            });
            open.push(begun?);
            daemon.checkpoint(image)?;
        }
        let mut kept = 0;
        for transaction in open {
            kept += usize::from(runtime.block_on(transaction.read(0, 4096)).is_ok());
        }
        let what = format!(
            "{kept} of {} transactions were not aborted",
            options.transactions
        );
        self.judge(&daemon, &what)
    }
}
