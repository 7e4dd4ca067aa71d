//! The scenario of a seed: a driver for each image that is served all the time, collectors, operators
//! who work on history, readers, visitors of clones; and the end, when everything comes right.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use madsim::task::spawn;
use madsim::time::{sleep, timeout};
use tokio::sync::watch;

use crate::driver::Driver;
use crate::environment::machine::{Machine, Site};
use crate::model::images::Images;
use crate::workload::clone_visitor::CloneVisitor;
use crate::workload::collectors::{Collecting, collect_all};
use crate::workload::history_operator::HistoryOperator;
use crate::workload::reader::Readers;
use crate::workload::reader_group::ReaderGroup;

/// Prefixes of the names of machines, one for each image that is served all the time.
const PREFIXES: [&str; 2] = ["", "second-"];

/// Whoever works on history ends within this time, once faults are off.
const END_LIMIT: Duration = Duration::from_hours(24);

/// How often somebody looks who is late.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

/// Passes after which nothing more is to be collected: a chain of clones lets go one by one.
const PASSES_MAX: u64 = 8;

/// Retained versions of one image that are read back at the end.
const READ_BACK_MAX: usize = 24;

/// Everybody who takes part in the run of a seed.
pub struct Scenario {
    sites: Vec<Arc<Site>>,
    images: Arc<Images>,
    /// How many of the images are served all the time.
    mains: usize,
}

impl Scenario {
    /// The scenario of these images.
    #[must_use]
    pub fn new(sites: Vec<Arc<Site>>, images: Arc<Images>) -> Self {
        let copies = usize::try_from(sites[0].plan.history.copies).expect("few");
        Self {
            mains: sites.len() - copies,
            sites,
            images,
        }
    }

    /// Everything that the seed does.
    pub async fn run(self) {
        let site = &self.sites[0];
        let mains = self.sites.iter().take(self.mains).zip(PREFIXES);
        let mut drivers: Vec<_> = mains
            .map(|(site, prefix)| Driver::new(site, prefix))
            .collect();
        if site.plan.profile.ignores_conditions {
            return drivers[0].refuse_the_store().await;
        }
        if self.mains > 1 {
            site.journal.mark("two images were served");
        }
        self.start_collectors();
        self.watch_the_time();
        let (stop, stopped) = watch::channel(false);
        let others = self.start_others(&stopped);
        join_all(drivers.iter_mut().map(Driver::rounds)).await;
        stop.send_replace(true);
        site.store.heal();
        for other in others {
            if timeout(END_LIMIT, other).await.is_err() {
                site.journal.fail(
                    "11 (liveness)",
                    format_args!("who works on history does not end"),
                );
            }
        }
        for driver in &mut drivers {
            driver.finish().await;
        }
        self.leave_nothing_behind().await;
    }

    /// Asks the models every now and then who is late.
    fn watch_the_time(&self) {
        let images = Arc::clone(&self.images);
        // It works until the run ends.
        drop(spawn(async move {
            loop {
                sleep(LOOKS_EVERY).await;
                images.models().for_each(|model| model.check_timely());
            }
        }));
    }

    fn start_collectors(&self) {
        let site = &self.sites[0];
        let count = usize::try_from(site.plan.collectors).expect("one or two");
        for name in ["collector", "sweeper"].into_iter().take(count) {
            // It works until the run ends.
            drop(spawn(Collecting::new(site, name).run()));
        }
    }

    fn start_others(&self, stopped: &watch::Receiver<bool>) -> Vec<madsim::task::JoinHandle<()>> {
        let plan = &self.sites[0].plan.history;
        let mut others = Vec::new();
        for number in 0..plan.history_operators {
            // This name and the next two are identities of streams (`random.rs`): they stay.
            let name = format!("archivist{number}");
            let operator = HistoryOperator::new(&self.sites, self.mains, &name);
            others.push(spawn(operator.run(stopped.clone())));
        }
        for number in 0..plan.readers {
            let name = format!("reader{number}");
            let group = Arc::new(ReaderGroup::new(&name, &self.sites[0].journal));
            let twin = (plan.twins && number == 0).then(|| format!("{name}-twin"));
            for machine in [Some(name), twin].into_iter().flatten() {
                let readers = Readers::new(&self.sites, &machine, &group);
                others.push(spawn(readers.run(stopped.clone())));
            }
        }
        if plan.clone_visitors {
            for site in &self.sites[self.mains..] {
                let visitor = CloneVisitor::new(site, &format!("guest-{}", site.image));
                others.push(spawn(visitor.run(stopped.clone())));
            }
        }
        others
    }

    /// Every retained version reads as it must; after collections there is nothing else.
    async fn leave_nothing_behind(&self) {
        let site = &self.sites[0];
        let contents = site.store.contents();
        for model in self.images.models() {
            model.check_retained(&contents, READ_BACK_MAX);
        }
        let process = Machine::new("last-collector", site).start();
        let mut at_rest = false;
        for _ in 0..PASSES_MAX {
            if collect_all(site, &process).await == Some(0) {
                at_rest = true;
                break;
            }
        }
        if !at_rest {
            site.journal.fail(
                "11 (liveness)",
                format_args!("collections do not come to rest"),
            );
        }
        self.images.check_space(&contents);
        for model in self.images.models() {
            model.check_retained(&contents, READ_BACK_MAX);
        }
    }
}
