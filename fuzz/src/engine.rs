//! One image, without sessions: changes, transactions, checkpoints, growth, crashes of the process
//! and of the machine, failures of the object store.
//!
//! Oracle: every state that the image went through, as a byte array. Reads see the newest. After a
//! crash the image is one of them: the newest after a kill, one not older than the last durable one
//! after a power cut (D3, D4).

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use mvps_core::engine::{
    Acknowledge, Attachment, Durability, EngineConfig, Intent, OpeningRequest, open,
};
use mvps_core::env::Clock as _;
use mvps_core::env::memory::{Crash, Verdict};
use mvps_core::ids::{ImageId, PageSize};

use crate::disk::Change;
use crate::world::World;

const PAGE_BYTES: u64 = 4096;
const SIZE_BYTES: u64 = 12 * PAGE_BYTES;
const STEPS_MAX: usize = 48;

#[derive(Debug, Clone, Copy, Arbitrary)]
struct Range {
    offset: u16,
    length: u16,
}

impl Range {
    fn clamped(self) -> (u64, u32) {
        let offset = u64::from(self.offset) % SIZE_BYTES;
        let length = (u64::from(self.length) % (4 * PAGE_BYTES)).min(SIZE_BYTES - offset);
        (offset, u32::try_from(length).expect("it is small"))
    }
}

#[derive(Debug, Arbitrary)]
enum Mutation {
    /// Content that differs from byte to byte and is hard to compress, or one byte throughout.
    Write(Range, u8, bool),
    Zero(Range),
    Trim(Range),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum When {
    Buffered,
    Local,
    ObjectStore,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Change(Mutation, When),
    Read(Range),
    Flush(bool),
    Transaction(Vec<(Mutation, Option<Range>)>, bool),
    Checkpoint,
    Wait(u8),
    Kill,
    PowerCut,
    CloseAndOpen,
    /// The object store's next answers are failures.
    Unavailable(u8),
}

/// One input: steps.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    let mut play = Play {
        states: vec![vec![0; usize::try_from(SIZE_BYTES).expect("it is small")]],
        durable: 0,
    };
    let mut image = play.open(&mut world);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else {
            break;
        };
        match step {
            Step::Kill => image = play.crash(&mut world, image, Crash::ProcessKill),
            Step::PowerCut => image = play.crash(&mut world, image, Crash::PowerCut),
            Step::CloseAndOpen => {
                world.objects.clear_script();
                world.run(image.image().close()).expect("it can be closed");
                play.durable = play.states.len() - 1;
                image = play.open(&mut world);
            }
            Step::Unavailable(count) => {
                let failures = (0..count % 8).map(|_| Verdict::unavailable());
                world.objects.set_verdicts(failures.collect::<Vec<_>>());
            }
            step => {
                let clock = world.clock.clone();
                world.run(play.step(&image, step, &clock));
            }
        }
    }
    let found = read(&mut world, &image);
    assert!(&found == play.newest(), "the image holds something else");
    world.objects.clear_script();
    world.run(image.image().close()).expect("it can be closed");
}

fn read(world: &mut World, image: &Attachment) -> Vec<u8> {
    let length = u32::try_from(SIZE_BYTES).expect("it is small");
    let found = world
        .run(image.read(0, length))
        .expect("nothing is damaged");
    found.into_bytes().to_vec()
}

struct Play {
    /// Every state, oldest first; the last one is what reads see.
    states: Vec<Vec<u8>>,
    /// Which of them survives a power cut.
    durable: usize,
}

impl Play {
    fn newest(&self) -> &Vec<u8> {
        self.states.last().expect("there is always one")
    }

    fn open(&mut self, world: &mut World) -> Attachment {
        let request = OpeningRequest {
            image: ImageId::parse("disk0").expect("a valid name"),
            page_size: PageSize::from_bits(12).expect("in range"),
            image_size_bytes: Some(SIZE_BYTES),
            intent: Intent::CreateOrGrow,
        };
        let config = EngineConfig {
            checkpoint_bytes: 24 * 1024,
            ..EngineConfig::default()
        };
        let host = world.host();
        let image = world
            .run(open(&host, &request, config))
            .expect("the image opens");
        image.attach()
    }

    fn crash(&mut self, world: &mut World, image: Attachment, crash: Crash) -> Attachment {
        let entropy = Arc::clone(&world.entropy);
        world.buffers.crash(crash, &*entropy);
        drop(image);
        world.end_tasks();
        let image = self.open(world);
        let found = read(world, &image);
        let oldest = match crash {
            Crash::ProcessKill => self.states.len() - 1,
            Crash::PowerCut => self.durable,
        };
        let which = self.states[oldest..]
            .iter()
            .rposition(|state| *state == found);
        let which = which.expect("the image is none of the states it may be") + oldest;
        self.states.truncate(which + 1);
        // What recovery found it does not lose again: it is synced before it is served, or found
        // once more. Only the durable bound is certain.
        self.durable = self.durable.min(which);
        image
    }

    fn push(&mut self, changes: &[Change]) {
        let mut state = self.newest().clone();
        for change in changes {
            change.apply(&mut state);
        }
        self.states.push(state);
    }

    async fn step(
        &mut self,
        image: &Attachment,
        step: Step,
        clock: &mvps_core::env::memory::ManualClock,
    ) {
        match step {
            Step::Change(mutation, when) => {
                let change = mutation.change();
                let acknowledge = match when {
                    When::Buffered => Acknowledge::Buffered,
                    When::Local => Acknowledge::Durable(Durability::Local),
                    When::ObjectStore => Acknowledge::Durable(Durability::ObjectStore),
                };
                let done = match &change {
                    Change::Write(offset, data) => {
                        image.write(*offset, data.clone(), acknowledge).await
                    }
                    Change::Zero(offset, length) => {
                        image.write_zeroes(*offset, *length, acknowledge).await
                    }
                    Change::Trim(offset, length) => image.trim(*offset, *length, acknowledge).await,
                };
                done.expect("a change within the image");
                self.push(&[change]);
                if !matches!(when, When::Buffered) {
                    self.durable = self.states.len() - 1;
                }
            }
            Step::Read(range) => {
                let (offset, length) = range.clamped();
                let found = image.read(offset, length).await.expect("within the image");
                let offset = usize::try_from(offset).expect("it is small");
                let expected = &self.newest()[offset..][..length as usize];
                assert!(
                    found.into_bytes()[..] == *expected,
                    "a read of {offset}+{length}"
                );
            }
            Step::Flush(object_store) => {
                let durability = match object_store {
                    true => Durability::ObjectStore,
                    false => Durability::Local,
                };
                image
                    .flush(durability)
                    .await
                    .expect("nothing fails for ever");
                self.durable = self.states.len() - 1;
            }
            Step::Transaction(steps, commit) => self.transaction(image, &steps, commit).await,
            Step::Checkpoint => {
                image
                    .image()
                    .checkpoint()
                    .await
                    .expect("nothing fails for ever");
                self.durable = self.states.len() - 1;
            }
            Step::Wait(seconds) => clock.sleep(Duration::from_secs(u64::from(seconds))).await,
            Step::Kill | Step::PowerCut | Step::CloseAndOpen | Step::Unavailable(_) => {
                unreachable!("the caller's")
            }
        }
    }

    async fn transaction(
        &mut self,
        image: &Attachment,
        steps: &[(Mutation, Option<Range>)],
        commit: bool,
    ) {
        let transaction = image.begin().await.expect("a transaction can begin");
        let mut view = self.newest().clone();
        let mut changes = Vec::new();
        for (mutation, range) in steps.iter().take(16) {
            let change = mutation.change();
            let done = match &change {
                Change::Write(offset, data) => transaction.write(*offset, data.clone()).await,
                Change::Zero(offset, length) => transaction.write_zeroes(*offset, *length).await,
                Change::Trim(offset, length) => transaction.trim(*offset, *length).await,
            };
            done.expect("a change within the image");
            change.apply(&mut view);
            changes.push(change);
            let Some(range) = range else { continue };
            let (offset, length) = range.clamped();
            let found = transaction
                .read(offset, length)
                .await
                .expect("within the image");
            let expected =
                &view[usize::try_from(offset).expect("it is small")..][..length as usize];
            assert!(found.into_bytes()[..] == *expected, "own writes are seen");
        }
        if commit {
            let done = transaction.commit(Acknowledge::Buffered).await;
            done.expect("nobody else commits");
            self.push(&changes);
        }
    }
}

impl Mutation {
    fn change(&self) -> Change {
        match self {
            Self::Write(range, byte, varied) => {
                let (offset, length) = range.clamped();
                let mut state = u32::from(*byte) | 1;
                let data = (0..length).map(|_| {
                    if *varied {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    }
                    (state >> if *varied { 24 } else { 0 }) as u8
                });
                Change::Write(offset, data.collect::<Vec<_>>().into())
            }
            Self::Zero(range) => {
                let (offset, length) = range.clamped();
                Change::Zero(offset, u64::from(length))
            }
            Self::Trim(range) => {
                let (offset, length) = range.clamped();
                Change::Trim(offset, u64::from(length))
            }
        }
    }
}
