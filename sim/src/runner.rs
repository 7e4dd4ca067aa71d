//! One seed in this process, and many seeds in processes of their own.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use madsim::runtime::{Handle, Runtime};
use mvps_core::ids::ImageId;

use crate::environment::machine::Site;
use crate::environment::objects::{LandingOracle, StoreService};
use crate::environment::silence::Silence;
use crate::journal::{self, Fault, Journal, Timeline};
use crate::model::Model;
use crate::model::images::Images;
use crate::plan::{DISK_VARIABLE, Plan, Second};
use crate::random::{RandomStream, stream};
use crate::scenario::Scenario;

/// Names the variant that a seed's process runs.
pub const MUTANT_VARIABLE: &str = "SIM_MUTANT";

/// Machines have disks of files.
const ON_FILES: (&str, &str) = (DISK_VARIABLE, "files");

/// Every landing is read back whole one time in this many.
const CONTENT_CHECKS: u64 = 3;

/// No seed simulates more than this: whoever does not come to an end by then hangs.
const SIMULATED_LIMIT: Duration = Duration::from_hours(24 * 20);

/// No seed takes more real time than this, on however busy a machine: whoever goes on at one instant of
/// simulated time does not come to [`SIMULATED_LIMIT`].
const REAL_LIMIT: Duration = Duration::from_mins(3);

/// How often somebody looks whether a seed's process has ended.
const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// How a seed went.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What went wrong, and the last events.
    pub failure: Option<String>,
    /// It was ended from outside, after its limit of real time.
    pub is_endless: bool,
    /// Of all events.
    pub digest: u64,
    /// The digest after each block.
    pub blocks: Vec<u64>,
    /// How many events there were.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// How often each fault struck, and each oracle asked after it.
    pub faults: BTreeMap<String, Fault>,
    /// How often each rare situation was reached.
    pub marks: BTreeMap<String, u64>,
}

/// Runs `seed` in this process, which must not have run another one.
#[must_use]
pub fn run_here(seed: u64, timeline: Timeline) -> Outcome {
    run_plan_here(Plan::of(seed), &Journal::new(timeline))
}

/// Runs `plan` in this process, which must not have run another one.
#[must_use]
pub fn run_plan_here(plan: Plan, journal: &Journal) -> Outcome {
    let seed = plan.seed;
    let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.set_time_limit(SIMULATED_LIMIT);
    let simulated = Arc::new(Mutex::new(Duration::ZERO));
    let (records, end) = (journal.clone(), Arc::clone(&simulated));
    let run = AssertUnwindSafe(|| {
        runtime.block_on(async move {
            simulate(plan, records).await;
            *end.lock().expect("nothing panics under this lock") = journal::now();
        });
    });
    let failure = catch_unwind(run).err().map(|panic| {
        let what = message(&*panic);
        format!("{what}\n  {}", journal.tail().join("\n  "))
    });
    let failure = failure.filter(|what| !is_outside_the_contract(seed, what, journal));
    let simulated = *simulated.lock().expect("nothing panics under this lock");
    Outcome {
        seed,
        failure,
        is_endless: false,
        digest: journal.digest(),
        blocks: journal.blocks(),
        events: journal.events(),
        simulated,
        faults: owned(journal.faults()),
        marks: owned(journal.marks()),
    }
}

fn owned<V>(map: BTreeMap<&'static str, V>) -> BTreeMap<String, V> {
    let pairs = map.into_iter();
    pairs
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// On a store whose listings are behind every promise may break but one: wrong bytes are never
/// served, and nothing panics.
fn is_outside_the_contract(seed: u64, failure: &str, journal: &Journal) -> bool {
    let excused = Plan::of(seed).profile.stale_listings
        && failure.starts_with("oracle ")
        && !failure.starts_with("oracle 5 ")
        && !failure.starts_with("oracle 12 ");
    if excused {
        journal.mark("stale listings broke a promise");
    }
    excused
}

pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

async fn simulate(plan: Plan, journal: Journal) {
    let seed = plan.seed;
    journal.note("plan", format_args!("{plan:?}"));
    let plans = images_of(&plan);
    let models: Vec<_> = plans
        .iter()
        .map(|(image, plan)| {
            Arc::new(Model::new(
                journal.clone(),
                image.clone(),
                plan,
                CONTENT_CHECKS,
            ))
        })
        .collect();
    let images = Arc::new(Images::new(&journal, models.clone()));
    let node = Handle::current().create_node().name("store").build();
    let oracle: Arc<dyn LandingOracle> = Arc::clone(&images) as _;
    let random = RandomStream::new(stream(seed, "store"), "fates");
    let store = StoreService::new(
        node,
        journal.clone(),
        random,
        (plan.store, plan.profile),
        oracle,
    );
    let sites = plans.into_iter().zip(models);
    let sites = sites.map(|((image, plan), model)| {
        Arc::new(Site {
            image,
            plan,
            journal: journal.clone(),
            model,
            images: Arc::clone(&images),
            silence: Silence::default(),
            store: Arc::clone(&store),
        })
    });
    Scenario::new(sites.collect(), images).run().await;
}

/// The images of a run: those that are served all the time, then names for clones of each.
fn images_of(plan: &Plan) -> Vec<(ImageId, Plan)> {
    let name = |text: String| ImageId::parse(&text).expect("a valid name");
    let mut images = vec![(name("disk0".to_owned()), plan.clone())];
    if let Second::Apart(page_size) = plan.history.second {
        images.push((name("disk1".to_owned()), plan.for_second(page_size)));
    }
    let copies = (0..plan.history.copies).map(|number| {
        let last = number + 1 == plan.history.copies;
        let of = if last { images.last() } else { images.first() };
        let (_, plan) = of.expect("there is one");
        (name(format!("copy{number}")), plan.for_copy())
    });
    let copies: Vec<_> = copies.collect();
    images.extend(copies);
    images
}

impl Outcome {
    /// One line that [`Outcome::parse`] reads.
    #[must_use]
    pub fn line(&self) -> String {
        let faults = self.faults.iter().map(|(name, fault)| {
            let checks = fault.checks.map(|count| count.to_string());
            format!("{name}={},{}", fault.count, checks.join(","))
        });
        let faults: Vec<String> = faults.collect();
        let marks = self.marks.iter().map(|(name, n)| format!("{name}={n}"));
        let marks: Vec<String> = marks.collect();
        let blocks: Vec<String> = self
            .blocks
            .iter()
            .map(|block| format!("{block:x}"))
            .collect();
        format!(
            "RESULT\t{}\t{:x}\t{}\t{}\t{}\t{}\t{}",
            self.seed,
            self.digest,
            self.events,
            self.simulated.as_millis(),
            faults.join(";"),
            marks.join(";"),
            blocks.join(",")
        )
    }

    /// Reads [`Outcome::line`].
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("RESULT\t")?.split('\t');
        let mut next = || fields.next();
        fn pairs<V>(text: &str, parse: impl Fn(&str) -> Option<V>) -> BTreeMap<String, V> {
            let pairs = text.split(';').filter_map(|pair| pair.rsplit_once('='));
            pairs
                .filter_map(|(name, value)| Some((name.to_owned(), parse(value)?)))
                .collect()
        }
        let fault = |text: &str| {
            let mut numbers = text.split(',').map(|number| number.parse().ok());
            let count = numbers.next()??;
            let checks: Option<Vec<u64>> = numbers.collect();
            let checks = checks?.try_into().ok()?;
            Some(Fault { count, checks })
        };
        Some(Self {
            seed: next()?.parse().ok()?,
            failure: None,
            is_endless: false,
            digest: u64::from_str_radix(next()?, 16).ok()?,
            events: next()?.parse().ok()?,
            simulated: Duration::from_millis(next()?.parse().ok()?),
            faults: pairs(next()?, fault),
            marks: pairs(next()?, |text| text.parse().ok()),
            blocks: next()?
                .split(',')
                .filter_map(|block| u64::from_str_radix(block, 16).ok())
                .collect(),
        })
    }
}

/// This program, which runs every seed in a process of its own.
///
/// # Errors
/// What the system says.
pub fn own_program() -> Result<PathBuf, String> {
    let found = std::env::current_exe();
    found.map_err(|error| format!("the runner does not find itself: {error}"))
}

/// Runs `seed` in a process of its own.
#[must_use]
pub fn run_apart(seed: u64) -> Outcome {
    run_apart_with(seed, &[])
}

/// Runs `seed` in a process of its own, as a variant of the engine: one of the content log on disks
/// of files.
#[must_use]
pub fn run_apart_as(seed: u64, mutant: &str) -> Outcome {
    let variables = [(MUTANT_VARIABLE, mutant), ON_FILES];
    let count = match mvps_core::mutant::ON_FILES.contains(&mutant) {
        true => 2,
        false => 1,
    };
    run_apart_with(seed, &variables[..count])
}

/// Runs `seed` in a process of its own, with these environment variables.
fn run_apart_with(seed: u64, variables: &[(&str, &str)]) -> Outcome {
    let failed = |failure: String| Outcome {
        seed,
        failure: Some(failure),
        ..Outcome::default()
    };
    let program = match own_program() {
        Ok(program) => program,
        Err(reason) => return failed(reason),
    };
    let child = Command::new(program)
        .args(["child", &seed.to_string()])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let output = match child.and_then(|child| output_within(child, REAL_LIMIT)) {
        Ok(Some(output)) => output,
        Ok(None) => {
            return Outcome {
                is_endless: true,
                ..failed(format!("the seed has not ended after {REAL_LIMIT:?}"))
            };
        }
        Err(error) => return failed(format!("the seed's process does not start: {error}")),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let result = stdout.lines().find_map(Outcome::parse);
    match result {
        Some(mut outcome) => {
            if !output.status.success() {
                let stderr = String::from_utf8_lossy(&output.stderr);
                outcome.failure = Some(stderr.into_owned());
            }
            outcome
        }
        None => failed(format!(
            "the seed's process ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// What `child` says until it ends; `None` if it had to be ended.
fn output_within(mut child: Child, limit: Duration) -> io::Result<Option<Output>> {
    let deadline = Instant::now() + limit;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| everything(stdout));
        let stderr = scope.spawn(|| everything(stderr));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(LOOKS_EVERY);
        };
        let joined = |read: std::thread::ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
            read.join().expect("reading does not panic")
        };
        let (stdout, stderr) = (joined(stdout)?, joined(stderr)?);
        Ok(status.map(|status| Output {
            status,
            stdout,
            stderr,
        }))
    })
}

fn everything(from: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.map_or(Ok(0), |mut from| from.read_to_end(&mut bytes))?;
    Ok(bytes)
}

/// Runs `seed` twice, in processes of their own, and compares the digests.
#[must_use]
pub fn run_twice(seed: u64) -> Outcome {
    twice(seed, &[])
}

/// As [`run_twice`], with disks of files under the content log.
#[must_use]
pub fn run_twice_on_files(seed: u64) -> Outcome {
    twice(seed, &[ON_FILES])
}

fn twice(seed: u64, variables: &[(&str, &str)]) -> Outcome {
    let first = run_apart_with(seed, variables);
    if first.failure.is_some() {
        return first;
    }
    let second = run_apart_with(seed, variables);
    if second.digest == first.digest && second.failure.is_none() {
        return first;
    }
    let block = first
        .blocks
        .iter()
        .zip(&second.blocks)
        .position(|(one, other)| one != other)
        .unwrap_or_else(|| first.blocks.len().min(second.blocks.len()));
    Outcome {
        failure: Some(format!(
            "not deterministic: two runs differ from block {block} on; compare two runs of \
             `run --seed {seed} --block {block}`"
        )),
        ..first
    }
}

/// What many seeds add up to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that went well.
    pub passed: u64,
    /// Those that did not.
    pub failed: Vec<(u64, String)>,
    /// Simulated time of all.
    pub simulated: Duration,
    /// Events of all.
    pub events: u64,
    /// How often each fault struck and each oracle asked after it, and in how many seeds.
    pub faults: BTreeMap<String, (Fault, u64)>,
    /// How often each rare situation was reached, and in how many seeds.
    pub marks: BTreeMap<String, (u64, u64)>,
    /// Real time.
    pub took: Duration,
    /// Processes at once.
    pub cores: usize,
}

impl Summary {
    /// Adds a seed.
    pub fn add(&mut self, outcome: Outcome) {
        self.simulated += outcome.simulated;
        self.events += outcome.events;
        for (name, fault) in outcome.faults {
            let (sum, seeds) = self.faults.entry(name).or_default();
            sum.count += fault.count;
            for (sum, checks) in sum.checks.iter_mut().zip(fault.checks) {
                *sum += checks;
            }
            *seeds += 1;
        }
        for (name, count) in outcome.marks {
            let entry = self.marks.entry(name).or_default();
            *entry = (entry.0 + count, entry.1 + 1);
        }
        match outcome.failure {
            None => self.passed += 1,
            Some(failure) => self.failed.push((outcome.seed, failure)),
        }
    }
}

/// Runs seeds from `next` on all cores until it has no more, and reports each through `progress`.
pub fn run_many(
    next: impl FnMut() -> Option<u64> + Send,
    run: impl Fn(u64) -> Outcome + Sync,
    progress: impl Fn(&Summary) + Sync,
) -> Summary {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, began) = (Mutex::new(next), Instant::now());
    let summary = Mutex::new(Summary {
        cores,
        ..Summary::default()
    });
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = (next.lock().expect("drawing a seed does not panic"))();
                    let Some(seed) = seed else { return };
                    let outcome = run(seed);
                    let mut summary = summary.lock().expect("adding does not panic");
                    summary.add(outcome);
                    summary.took = began.elapsed();
                    progress(&summary);
                }
            });
        }
    });
    summary.into_inner().expect("adding does not panic")
}
