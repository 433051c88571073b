//! The admin API, on a thread of its own: a large answer must not hold up the heartbeat.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use wasmill::admin::{self, Admin, Place};

use super::Report;

/// How long requests of the admin API may go on when everything else has ended.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// The thread.
pub struct AdminThread {
    thread: JoinHandle<()>,
    fault: watch::Receiver<Option<String>>,
}

impl AdminThread {
    /// Serves until `stopped` says so.
    pub fn start(place: Place, admin: Admin, mut stopped: watch::Receiver<bool>) -> Result<AdminThread, Report> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Report::failure)?;
        let (report, fault) = watch::channel(None);
        let serve = async move {
            let mut leaving = stopped.clone();
            let shutdown = async move {
                // The sender is dropped when the worker ends, which is just as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let overdue = async move {
                let _ = leaving.wait_for(|stop| *stop).await;
                tokio::time::sleep(LEAVE_TIME).await;
            };
            tokio::select! {
                result = admin::serve(place, admin, shutdown) => {
                    if let Err(error) = result {
                        let _ = report.send(Some(error.to_string()));
                    }
                }
                // Clients that do not finish their requests, or do not read the answers.
                () = overdue => {}
            }
        };
        let thread = std::thread::Builder::new().name("admin".to_owned());
        let thread = thread.spawn(move || runtime.block_on(serve)).map_err(Report::failure)?;
        Ok(AdminThread { thread, fault })
    }

    /// Waits until it has ended, once it has been told to.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::warn!("the thread of the admin API has panicked");
        }
    }
}

/// Ends when the API cannot be served.
pub async fn failed(admin: Option<&AdminThread>) -> Report {
    if let Some(admin) = admin
        && let Ok(fault) = admin.fault.clone().wait_for(Option::is_some).await
        && let Some(fault) = &*fault
    {
        return Report::usage(fault);
    }
    std::future::pending().await
}
