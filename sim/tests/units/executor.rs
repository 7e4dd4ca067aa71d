use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sim::exhaustive::executor::{Executor, Handle, Pause, ProcessId};

const SECOND: Duration = Duration::from_secs(1);

fn counting(handle: &Handle, process: ProcessId, counter: &Arc<AtomicU64>) {
    let (handle, counter) = (handle.clone(), Arc::clone(counter));
    let own = handle.clone();
    let task = async move {
        for _ in 0..10 {
            handle.sleep(SECOND).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    };
    own.spawn(process, Box::pin(task));
}

#[test]
fn time_passes_when_nothing_else_can_run() {
    let mut executor = Executor::default();
    let counter = Arc::new(AtomicU64::new(0));
    counting(&executor.handle(), ProcessId(1), &counter);
    assert_eq!(executor.run(SECOND * 3, || false), Pause::Idle);
    assert_eq!(counter.load(Ordering::SeqCst), 3);
    let reached = || counter.load(Ordering::SeqCst) == 7;
    assert_eq!(executor.run(SECOND * 60, reached), Pause::Reached);
    assert_eq!(executor.handle().now(), SECOND * 7);
}

#[test]
fn the_frozen_go_on_and_the_killed_do_not() {
    let mut executor = Executor::default();
    let (one, other) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    counting(&executor.handle(), ProcessId(1), &one);
    counting(&executor.handle(), ProcessId(2), &other);
    executor.run(SECOND * 2, || false);
    executor.freeze(ProcessId(1));
    executor.kill(ProcessId(2));
    executor.run(SECOND * 60, || false);
    assert_eq!(one.load(Ordering::SeqCst), 2);
    executor.thaw(ProcessId(1));
    executor.run(SECOND * 60, || false);
    assert_eq!(one.load(Ordering::SeqCst), 10);
    assert_eq!(other.load(Ordering::SeqCst), 2);
}
