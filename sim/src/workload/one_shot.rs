//! One-shot processes: a pass of a collector, a command of an operator, a reader. Each runs on a
//! machine of its own, where it may be killed at any request, or frozen in the middle.

use std::time::Duration;

use madsim::time::{sleep, timeout};
use mvps_core::env::memory::Crash;
use tokio::sync::oneshot;

use crate::environment::machine::{Machine, Process};
use crate::environment::tripwire::DELETION;
use crate::journal::Journal;
use crate::random::RandomStream;

/// Calls of its environment after which such a process is killed, at most.
const CALLS_MAX: u64 = 60;

/// The process is frozen within this time.
const FREEZE_WITHIN: Duration = Duration::from_mins(1);

/// Longest time that it is.
const FROZEN_MAX: Duration = Duration::from_hours(1);

/// No such process takes longer, naps and freezes included: whoever does hangs, and is killed.
const ONE_SHOT_LIMIT: Duration = Duration::from_hours(24);

/// Longest pause of somebody who has done enough: the rest of the seed is about servers.
const REST: Duration = Duration::from_mins(20);

/// A pause before the next process, of which there were `done`. After `busy_max` it is long.
pub async fn rest(random: &RandomStream, done: u64, busy_max: u64, pause_max: Duration) {
    let longest = if done < busy_max { pause_max } else { REST };
    sleep(random.duration(Duration::from_millis(50), longest)).await;
    if done >= busy_max {
        sleep(REST / 2).await;
    }
}

/// The coverage marks for a process that was killed, and for one that was frozen.
pub struct Marks {
    /// It was killed.
    pub killed: &'static str,
    /// It was frozen.
    pub frozen: &'static str,
}

/// Runs `work` as a process on `machine` to its end, which may come early. Returns the name of
/// its process.
pub async fn run_one_shot<F>(
    journal: &Journal,
    machine: &Machine,
    random: &RandomStream,
    marks: &Marks,
    work: impl FnOnce(Process) -> F,
) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let process = machine.start();
    let (name, node) = (process.name.clone(), process.node.clone());
    let (done, mut end) = oneshot::channel();
    let work = work(process);
    node.spawn(async move {
        work.await;
        // Whoever waited may have killed the process.
        let _ = done.send(());
    });
    match random.below(10) {
        0 | 1 => {
            let tripwire = machine.tripwire.clone();
            if random.chance(300) {
                tripwire.arm_at(DELETION, random.below(3));
            } else {
                tripwire.arm(random.below(CALLS_MAX));
            }
            tokio::select! {
                biased;
                () = tripwire.tripped() => journal.mark(marks.killed),
                _ = &mut end => {}
            }
        }
        2 => {
            let frozen_after = random.duration(Duration::from_millis(1), FREEZE_WITHIN);
            if timeout(frozen_after, &mut end).await.is_err() {
                journal.mark(marks.frozen);
                machine.pause();
                sleep(random.duration(Duration::from_secs(1), FROZEN_MAX)).await;
                machine.resume();
                let _ = timeout(ONE_SHOT_LIMIT, end).await;
            }
        }
        _ => {
            let _ = timeout(ONE_SHOT_LIMIT, end).await;
        }
    }
    // Nothing of it goes on but what the store has been sent.
    machine.crash(Crash::ProcessKill, random);
    name
}
