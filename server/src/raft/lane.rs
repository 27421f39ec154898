//! Threads of Raft's own. On a machine that is busy with other work, a heartbeat must not wait
//! behind requests, scripts and encoders of this process as well: those share the other threads.

use std::future::Future;
use std::io;
use std::sync::Arc;

use rt::Tasks;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One may be busy with a large apply; the other goes on sending and answering heartbeats.
const THREADS: usize = 2;

/// The threads. They end with the last clone.
#[derive(Clone)]
pub(super) struct Lane {
    handle: Handle,
    _open: Arc<oneshot::Sender<()>>,
}

impl Lane {
    /// Starts them.
    pub(super) fn open() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel::<()>();
        // A runtime must not be dropped on one of its own or another's threads. What this one waits
        // for is the end of the last clone; it decides nothing.
        std::thread::Builder::new().name("raft-lane".to_owned()).spawn(move || {
            let _ = closed.blocking_recv();
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _open: Arc::new(open) })
    }

    /// Where tasks have to be started to run here.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs this here, with all that it starts; `None`: it panicked, or the process stops.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        tasks: &Tasks,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        {
            let _here = self.handle.enter();
            tasks.spawn("raft start", async move {
                let _ = done.send(work.await);
            });
        }
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_in_the_lane_runs_on_its_threads() {
        let (lane, tasks) = (Lane::open().expect("threads"), Tasks::new());
        let name = || std::thread::current().name().map(str::to_owned);
        let found = lane.run(&tasks, async move { name() }).await;
        assert_eq!(found, Some(Some("raft".to_owned())));
        assert_ne!(name(), Some("raft".to_owned()));
        assert_eq!(lane.run(&tasks, async { panic!("a defect") }).await, None::<()>);
        drop(lane);
    }
}
