//! Ctrl-C and SIGTERM: what runs is asked to stop, and the program ends with nothing left behind.

use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::Result;
use crate::engine::handle::Engine;
use crate::terminal::signals::{Signal, Signals};

/// As shells have it for a program that Ctrl-C ended.
pub const STOPPED: u8 = 130;
/// Longer than the engine waits before it ends code that does not listen.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whether the user wants to stop.
#[derive(Clone, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    /// By a signal to this process alone, where Ctrl-C reaches all of a terminal.
    alone: Arc<AtomicBool>,
}

impl Stop {
    /// Begins to listen. The engine's cell is then interrupted; a second signal, or waiting in vain, ends the program.
    pub fn listen(engine: Option<Engine>) -> Result<Stop> {
        let stop = Stop::default();
        let listener = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _within = runtime.enter();
            Signals::new()?
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                let alone = signals.next().await == Signal::Terminate;
                listener.alone.store(alone, SeqCst);
                listener.requested.store(true, SeqCst);
                let Some(engine) = engine else {
                    // The processes of the notebooks end by themselves.
                    return std::future::pending::<()>().await;
                };
                engine.interrupt();
                let _ = tokio::time::timeout(PATIENCE, signals.next()).await;
                engine.quit();
                std::process::exit(i32::from(STOPPED));
            });
        });
        Ok(stop)
    }

    pub fn is_requested(&self) -> bool {
        self.requested.load(SeqCst)
    }

    /// Waits for a process of ours, and lets it know.
    pub fn wait_for(&self, mut child: Child) -> Result<ExitStatus> {
        let mut is_terminated = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.alone.load(SeqCst) && !is_terminated {
                terminate(&mut child);
                is_terminated = true;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

#[cfg(unix)]
fn terminate(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id()) {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(id, libc::SIGTERM) };
    }
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) {
    let _ = child.kill();
}
