//! Ctrl-C and SIGTERM: what runs is asked to stop, and the program ends with nothing left behind.

use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::Result;
use crate::engine::handle::Engine;

/// As shells have it for a program that Ctrl-C ended.
pub const STOPPED: u8 = 130;
/// Longer than the engine waits before it ends code that does not listen.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whether the user wants to stop.
#[derive(Clone, Default)]
pub struct Stop {
    wanted: Arc<AtomicBool>,
    /// By a signal to this process alone, where Ctrl-C reaches all of a terminal.
    alone: Arc<AtomicBool>,
}

impl Stop {
    /// Begins to listen. The engine's cell is then interrupted; a second signal, or waiting in vain, ends the program.
    pub fn listen(engine: Option<Engine>) -> Result<Stop> {
        let stop = Stop::default();
        let noted = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _within = runtime.enter();
            Signals::new()?
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                let alone = signals.next().await == Signal::Terminate;
                noted.alone.store(alone, SeqCst);
                noted.wanted.store(true, SeqCst);
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

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst)
    }

    /// Waits for a process of ours, and lets it know.
    pub fn wait_for(&self, mut child: Child) -> Result<ExitStatus> {
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.alone.load(SeqCst) && !told {
                terminate(&mut child);
                told = true;
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

/// What the system asks of the process.
#[derive(Clone, Copy, PartialEq)]
pub enum Signal {
    /// Ctrl-C, which reaches all processes of a terminal.
    Interrupt,
    /// To this process alone.
    Terminate,
}

#[cfg(unix)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

#[cfg(windows)]
pub struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    pub fn new() -> Result<Signals> {
        Ok(Signals(tokio::signal::windows::ctrl_c()?))
    }

    pub async fn next(&mut self) -> Signal {
        self.0.recv().await;
        Signal::Interrupt
    }
}
