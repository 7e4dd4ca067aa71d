//! One pass over a store, or over one image of it.
//!
//! First every image forgets what its policy says and lets go of pins (in rounds, because a clone
//! that lets go may free the one that it was made from), by publication. Then what the published
//! manifests leave behind is deleted. An image that fails is left alone from there on; the others
//! go on.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::abandon::abandon;
use super::amend::{Amendment, amend, imagine};
use super::context::Pass;
use super::expiry::choose_oldest;
use super::pins::{CloneId, PinVerdict, clones_of, judge_pin};
use super::policy::{Budget, CollectionPolicy};
use super::report::{CollectionReport, ImageCollection, Observer, Progress};
use super::survey;
use super::survey::{Survey, SurveyError};
use super::sweep::Sweep;
use crate::env::{Clock, Entropy, StoreError};
use crate::format::manifest::Manifest;
use crate::ids::{ImageId, Version};
use crate::mutant;
use crate::protocol::ManifestStore;
use crate::reachability::{Reachable, is_tombstone};
use crate::store::RetryingStore;

/// Images worked on at the same time. Each may hold the names of all its objects.
const IMAGES_IN_FLIGHT_MAX: usize = 4;

/// Clones of one image that are looked at at the same time.
const CLONES_IN_FLIGHT_MAX: usize = 8;

/// Rounds of releasing pins: how long a chain of clones of clones one pass takes apart.
const ROUNDS_MAX: usize = 16;

/// How often a name may be taken by somebody else just before it is abandoned.
const ABANDON_ATTEMPTS_MAX: usize = 4;

/// Runs passes over a store: forgets versions, releases pins, deletes what no version reaches.
pub struct Collector {
    store: RetryingStore,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    policy: CollectionPolicy,
    observer: Arc<dyn Observer>,
}

/// One image of a pass.
struct Work {
    image: ImageId,
    report: ImageCollection,
    /// What was decided about it so far.
    amendment: Amendment,
    /// The newest manifest still has pins of clones.
    has_pins: bool,
    /// Clones that had not appeared when they were looked at.
    suspects: BTreeSet<CloneId>,
    /// It has no manifest, or cannot be read or published.
    is_left_alone: bool,
}

impl Collector {
    /// A collector of `store`, which it asks no more patiently than that is.
    #[must_use]
    pub fn new(
        store: RetryingStore,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        policy: CollectionPolicy,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            store,
            clock,
            entropy,
            policy,
            observer,
        }
    }

    /// One pass over all images, or over `only` one.
    ///
    /// # Errors
    /// [`StoreError`] if the images cannot be listed. What fails later is in the report.
    pub async fn collect(&self, only: Option<&ImageId>) -> Result<CollectionReport, StoreError> {
        let manifests = ManifestStore::new(self.store.clone());
        let images = match only {
            Some(image) => vec![image.clone()],
            None => manifests.list_images().await?,
        };
        let pass = Pass {
            store: &self.store,
            manifests,
            policy: self.policy,
            clock: &*self.clock,
            entropy: &*self.entropy,
            budget: Budget::new(self.policy.deletes_max),
            progress: Mutex::new(Progress {
                images: images.len() as u64,
                ..Progress::default()
            }),
            limit_reached: AtomicBool::new(false),
            observer: &*self.observer,
        };
        let mut works: Vec<Work> = images.into_iter().map(Work::new).collect();
        works = pass.each(works, Step::Forget).await;
        works = pass.let_go(works).await;
        if works.iter().any(|work| !work.suspects.is_empty()) && !self.policy.dry_run {
            self.clock.sleep(self.policy.abandon_after).await;
            works = pass.each(works, Step::Abandon).await;
            works = pass.let_go(works).await;
        }
        works = pass.each(works, Step::Sweep).await;
        Ok(CollectionReport {
            dry_run: self.policy.dry_run,
            limit_reached: pass.limit_reached(),
            images: works.into_iter().map(|work| work.report).collect(),
        })
    }
}

impl Work {
    fn new(image: ImageId) -> Self {
        Self {
            report: ImageCollection::of(&image),
            image,
            amendment: Amendment::default(),
            has_pins: false,
            suspects: BTreeSet::new(),
            is_left_alone: false,
        }
    }
}

/// What is done to each image, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Expiry, by publication.
    Forget,
    /// Release of pins, by publication.
    LetGo,
    /// Take the names of clones that did not appear.
    Abandon,
    /// Deletion.
    Sweep,
}

impl Pass<'_> {
    async fn each(&self, works: Vec<Work>, step: Step) -> Vec<Work> {
        let steps = stream::iter(works).map(|work| self.step(work, step).boxed());
        steps.buffered(IMAGES_IN_FLIGHT_MAX).collect().await
    }

    /// Rounds of releases until nothing more is released.
    async fn let_go(&self, mut works: Vec<Work>) -> Vec<Work> {
        for _ in 0..ROUNDS_MAX {
            let released = |works: &[Work]| -> usize {
                works.iter().map(|work| work.amendment.release.len()).sum()
            };
            let before = released(&works);
            works = self.each(works, Step::LetGo).await;
            if released(&works) == before {
                break;
            }
        }
        works
    }

    async fn step(&self, mut work: Work, step: Step) -> Work {
        if work.is_left_alone {
            return work;
        }
        let done = match step {
            Step::Forget => self.forget(&mut work).await,
            Step::LetGo if work.has_pins => self.release(&mut work).await,
            Step::Abandon if !work.suspects.is_empty() => self.abandon_suspects(&mut work).await,
            Step::LetGo | Step::Abandon => Ok(()),
            Step::Sweep => self.sweep(&mut work).await,
        };
        if let Err(problem) = done {
            work.report.problem(problem);
            work.is_left_alone = true;
        }
        if step == Step::Sweep || work.is_left_alone {
            self.advance(|progress| progress.images_done += 1);
        }
        work
    }

    /// Publishes which versions are forgotten.
    async fn forget(&self, work: &mut Work) -> Result<(), String> {
        let Some(newest) = self.newest(work).await? else {
            // Nothing says what may go of a name that has no manifest.
            work.is_left_alone = true;
            return Ok(());
        };
        work.has_pins = !clones_of(&newest).is_empty();
        let oldest = match self.choose_oldest(&newest).await {
            Ok(Some(oldest)) => oldest,
            Ok(None) => return Ok(()),
            // Somebody else is forgetting this image's versions just now.
            Err(SurveyError::Changing { .. }) => return Ok(()),
            Err(error) => return Err(text(error)),
        };
        work.report.versions_forgotten = oldest.0 - newest.oldest_retained.0;
        work.amendment.oldest_retained = Some(oldest);
        self.publish(work, newest).await
    }

    /// What the policy wants of this image.
    async fn choose_oldest(&self, newest: &Manifest) -> Result<Option<Version>, SurveyError> {
        let policy = self.policy.expiry;
        let has_history = newest.oldest_retained < newest.version;
        // What is deleted has no history, and its tombstones stay.
        if is_tombstone(newest) || !has_history {
            return Ok(None);
        }
        if policy.keeps_only_the_newest() {
            return Ok(Some(newest.version.next()));
        }
        let facts = survey::facts(&self.manifests, newest).await?;
        Ok(choose_oldest(&facts, policy, self.clock.wall()))
    }

    /// Publishes which pins are released.
    async fn release(&self, work: &mut Work) -> Result<(), String> {
        let Some(newest) = self.newest(work).await? else {
            return Ok(());
        };
        let clones = clones_of(&newest);
        let undecided: Vec<CloneId> = clones
            .into_iter()
            .filter(|it| !work.amendment.release.contains(it) && !work.suspects.contains(it))
            .collect();
        let image = &newest.image;
        let mut verdicts = stream::iter(undecided)
            .map(|clone| {
                let judged = async move {
                    let verdict = self.judge(image, &clone).await;
                    (clone, verdict)
                };
                judged.boxed()
            })
            .buffered(CLONES_IN_FLIGHT_MAX);
        let mut release = Vec::new();
        while let Some((clone, verdict)) = verdicts.next().await {
            match verdict {
                Ok((PinVerdict::Keep, _)) => {}
                Ok((PinVerdict::Release, _)) => release.push(clone),
                Ok((PinVerdict::Abandon, _)) => {
                    work.suspects.insert(clone);
                }
                Err(error) => {
                    let target = &clone.target;
                    work.report
                        .problem(format_args!("the pin of clone {target} stays: {error}"));
                }
            }
        }
        drop(verdicts);
        if release.is_empty() {
            return Ok(());
        }
        for clone in release {
            work.report.pins_released.insert(clone.target.to_string());
            work.amendment.release.insert(clone);
        }
        self.publish(work, newest).await
    }

    /// What becomes of the pins that `image` has for `clone`, with the newest manifest of that.
    async fn judge(
        &self,
        image: &ImageId,
        clone: &CloneId,
    ) -> Result<(PinVerdict, Option<Manifest>), SurveyError> {
        let newest = self.manifests.newest(&clone.target).await?;
        if let Some(verdict) = judge_wrongly(clone, newest.as_ref(), image) {
            return Ok((verdict, newest));
        }
        let shares = |newest: &Manifest| Reachable::of(newest).shares_with(image);
        if newest.as_ref().is_some_and(shares) {
            return Ok((PinVerdict::Keep, newest));
        }
        let (newest, shares) = match survey::survey(&self.manifests, &clone.target).await? {
            None => (None, false),
            Some(Survey { newest, reachable }) => (Some(newest), reachable.shares_with(image)),
        };
        let verdict = judge_pin(clone.incarnation, newest.as_ref(), shares);
        Ok((verdict, newest))
    }

    /// Clones that still have not appeared lose their names, and then their pins.
    async fn abandon_suspects(&self, work: &mut Work) -> Result<(), String> {
        let Some(newest) = self.newest(work).await? else {
            return Ok(());
        };
        let mut released = false;
        for clone in std::mem::take(&mut work.suspects) {
            match self.abandon(&newest, &clone).await {
                Ok(None) => {}
                Ok(Some(was_abandoned)) => {
                    released = true;
                    let target = clone.target.to_string();
                    if was_abandoned {
                        work.report.clones_abandoned.insert(target.clone());
                    }
                    work.report.pins_released.insert(target);
                    work.amendment.release.insert(clone);
                }
                Err(error) => {
                    let target = &clone.target;
                    work.report
                        .problem(format_args!("the pin of clone {target} stays: {error}"));
                }
            }
        }
        match released {
            true => self.publish(work, newest).await,
            false => Ok(()),
        }
    }

    /// `None` if the pins stay, else whether the name had to be taken.
    async fn abandon(&self, newest: &Manifest, clone: &CloneId) -> Result<Option<bool>, String> {
        for _ in 0..ABANDON_ATTEMPTS_MAX {
            let (verdict, seen) = self.judge(&newest.image, clone).await.map_err(text)?;
            match verdict {
                PinVerdict::Keep => return Ok(None),
                PinVerdict::Release => return Ok(Some(false)),
                PinVerdict::Abandon => {}
            }
            let taken = abandon(
                &self.manifests,
                self.entropy,
                &clone.target,
                seen.as_ref(),
                newest.page_size,
                self.clock.wall(),
            );
            if taken.await.map_err(text)? {
                return Ok(Some(true));
            }
        }
        Ok(None)
    }

    async fn newest(&self, work: &Work) -> Result<Option<Manifest>, String> {
        self.manifests.newest(&work.image).await.map_err(text)
    }

    async fn publish(&self, work: &Work, newest: Manifest) -> Result<(), String> {
        if !self.policy.dry_run {
            let amended = amend(
                &self.manifests,
                self.clock,
                self.entropy,
                newest,
                &work.amendment,
            );
            amended.await.map_err(text)?;
        }
        Ok(())
    }

    /// Deletes what the newest manifest, as it is published by now, leaves behind.
    async fn sweep(&self, work: &mut Work) -> Result<(), String> {
        let imagined =
            self.policy.dry_run || mutant::is("collection deletes before expiry is published");
        let (newest, reachable) = if imagined {
            let Some(base) = self.newest(work).await? else {
                return Ok(());
            };
            let newest = imagine(&base, &work.amendment, self.clock, self.entropy).map_err(text)?;
            let reachable = survey::reachable_from(&self.manifests, &newest).await;
            (newest, reachable.map_err(text)?)
        } else {
            let survey = survey::survey(&self.manifests, &work.image).await;
            match survey.map_err(text)? {
                None => return Ok(()),
                Some(Survey { newest, reachable }) => (newest, reachable),
            }
        };
        work.report.newest_version = Some(newest.version.0);
        work.report.oldest_retained_version = Some(newest.oldest_retained.0);
        let sweep = Sweep {
            pass: self,
            newest: &newest,
            reachable: &reachable,
            report: &mut work.report,
            aging: Vec::new(),
        };
        sweep.run().await;
        Ok(())
    }
}

/// What known-bad variants make of a clone's newest manifest.
fn judge_wrongly(
    clone: &CloneId,
    newest: Option<&Manifest>,
    image: &ImageId,
) -> Option<PinVerdict> {
    let newest = newest?;
    let another_life = newest.incarnation != clone.incarnation && !is_tombstone(newest);
    if another_life && mutant::is("an occupied name keeps its pins") {
        return Some(PinVerdict::Keep);
    }
    let judged = |shares| Some(judge_pin(clone.incarnation, Some(newest), shares));
    if is_tombstone(newest) && mutant::is("the pins of a deleted clone share nothing") {
        return judged(false);
    }
    if mutant::is("sharing is judged by the newest version") {
        return judged(Reachable::of(newest).shares_with(image));
    }
    None
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
