//! Tasks. The engine starts them at few, named places.

use std::future::poll_fn;
use std::task::Poll;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

/// Starts tasks on the node's runtime.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `task` to its end, independently of the caller. `name` appears in traces.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);

    /// Runs `job`, which may take the processor for milliseconds (compression, checksums over
    /// large objects, blocking reads), where it does not hold up other tasks.
    fn compute(&self, job: Box<dyn FnOnce() + Send>);
}

/// `compute` with a result.
pub trait SpawnerExt {
    /// Runs `job` off the task's thread and returns what it returned.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;
}

impl<S: Spawner + ?Sized> SpawnerExt for S {
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send {
        let (sender, receiver) = oneshot::channel();
        self.compute(Box::new(move || {
            // A receiver that is gone no longer wants the result.
            let _ = sender.send(job());
        }));
        async move {
            receiver
                .await
                .expect("a computation ends by sending its result")
        }
    }
}

/// Ends this turn of the task: whoever is ready goes first.
pub async fn let_others_run() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
