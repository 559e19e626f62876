//! The engine, as the rest of the kernel sees it: cells in, events out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::build::compile;
use crate::cell::nesting::is_too_deep;
use crate::cell::report;
use crate::engine::event::{Event, EventSink, MimeBundle, notice_id};
use crate::engine::state::{EngineState, Phase};
use crate::engine::worker::{Completions, InputReader, Inspection, Outcome, Request, Worker, refuse};
use crate::html::ansi::escape_html;

/// How long code that does not listen may go on after an interrupt.
const GRACE: Duration = Duration::from_secs(4);
/// How long the page waits for what it asks beside cells, and for the end.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits for a kernel that starts; one that builds first says so.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A handle on the thread that runs cells.
#[derive(Clone)]
pub struct Engine {
    requests: Sender<Request>,
    state: Arc<EngineState>,
}

impl Engine {
    /// Starts the thread, which makes itself ready. Cells that come meanwhile wait, and say for what.
    pub fn start() -> Engine {
        let (requests, incoming) = channel();
        let state = Arc::new(EngineState::new());
        let engine = Engine { requests, state: state.clone() };
        std::thread::spawn(move || {
            match catch_unwind(AssertUnwindSafe(|| Worker::new(&state)))
                .unwrap_or_else(|_| Err("evcxr failed".into()))
            {
                Ok(mut worker) => {
                    state.enter(Phase::Idle);
                    worker.serve(&incoming);
                }
                Err(error) => {
                    state.enter(Phase::Broken);
                    refuse(&incoming, &error.to_string());
                }
            }
        });
        engine
    }

    /// Runs a cell; returns when it has ended.
    pub fn execute(&self, code: &str, number: usize, sink: EventSink, input: InputReader) -> Outcome {
        let (reply, outcome) = channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let request = Request::Execute {
            code: code.to_string(),
            number,
            sink: sink.clone(),
            input,
            cancelled: cancelled.clone(),
            reply,
        };
        self.state.interrupted.store(false, SeqCst);
        self.state.waiting.fetch_add(1, SeqCst);
        let ended = Arc::new(AtomicBool::new(false));
        let announcer = self.announce(sink, ended.clone());
        // If nobody takes it, its reply is let go with it, and there is no outcome to wait for.
        let _ = self.requests.send(request);
        let outcome = loop {
            match outcome.recv_timeout(Duration::from_millis(50)) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Disconnected) => break Err(report::kernel_fault()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.is_interrupted() && matches!(*self.state.phase(), Phase::Starting(_)) {
                cancelled.store(true, SeqCst);
                break Err(report::interrupted_start());
            }
        };
        self.state.waiting.fetch_sub(1, SeqCst);
        ended.store(true, SeqCst);
        announcer.thread().unpark();
        let _ = announcer.join();
        outcome
    }

    /// Shows what the cell waits for: the start of the kernel, a dependency that is built.
    fn announce(&self, sink: EventSink, ended: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let state = self.state.clone();
        std::thread::spawn(move || {
            let id = notice_id();
            let mut last = String::new();
            // Most cells are done before there is anything to say.
            std::thread::park_timeout(Duration::from_millis(300));
            while !ended.load(SeqCst) {
                let text = state.notice().unwrap_or_default();
                if text != last {
                    match last.is_empty() {
                        true => sink(Event::Display(MimeBundle::text(&text), Some(id.clone()))),
                        false => sink(Event::Update(MimeBundle::text(&text), id.clone())),
                    }
                    last = text;
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
            if !last.is_empty() {
                sink(Event::Update(MimeBundle::text(""), id));
            }
        })
    }

    /// Whether it can answer at once.
    pub fn is_idle(&self) -> bool {
        *self.state.phase() == Phase::Idle && self.state.waiting.load(SeqCst) == 0
    }

    /// What it still does before it can run a first cell.
    pub fn starting(&self) -> Option<String> {
        match &*self.state.phase() {
            Phase::Starting(what) => Some(what.clone()),
            _ => None,
        }
    }

    /// Waits until it has started, or starting takes too long.
    fn wait_for_start(&self) {
        let begun = Instant::now();
        while self.starting().is_some() && begun.elapsed() < START_PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the cell that runs was asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.state.interrupted.load(SeqCst)
    }

    /// What could stand at a byte of the code; nothing while a cell runs.
    pub fn complete(&self, code: &str, at: usize) -> Completions {
        let (reply, completions) = channel();
        let nothing = || Completions::none(at);
        self.wait_for_start();
        if !self.is_idle() || is_too_deep(code) {
            return nothing();
        }
        let _ = self.requests.send(Request::Complete { code: code.to_string(), at, reply });
        completions.recv_timeout(PATIENCE).unwrap_or_else(|_| nothing())
    }

    /// What is known of the name at a byte of the code.
    pub fn inspect(&self, code: &str, at: usize) -> Option<Inspection> {
        let (reply, inspection) = channel();
        self.wait_for_start();
        let busy = match &*self.state.phase() {
            Phase::Idle => None,
            Phase::Starting(what) => Some(what.clone()),
            Phase::Compiling | Phase::Running => {
                Some("a cell is running; ask again when it is done".to_string())
            }
            Phase::Broken => return None,
        };
        if let Some(busy) = busy {
            return Some(Inspection { html: escape_html(&busy), text: busy });
        }
        if is_too_deep(code) {
            return None;
        }
        self.requests.send(Request::Inspect { code: code.to_string(), at, reply }).ok()?;
        inspection.recv_timeout(PATIENCE).ok()?
    }

    /// Stops the cell that compiles or runs: gently, if its code listens; else, after a while, with its process.
    pub fn interrupt(&self) {
        let state = self.state.clone();
        let serial = state.serial.load(SeqCst);
        if state.waiting.load(SeqCst) == 0 {
            return;
        }
        state.interrupted.store(true, SeqCst);
        if cfg!(not(unix)) {
            // Nothing gentler is known there.
            state.killed.store(true, SeqCst);
            return state.signal_child(true);
        }
        std::thread::spawn(move || {
            let mut signalled: Option<Instant> = None;
            while state.serial.load(SeqCst) == serial && state.waiting.load(SeqCst) > 0 {
                match state.phase().clone() {
                    Phase::Compiling => state.stop_compiler(),
                    Phase::Running => match signalled {
                        None => {
                            state.signal_child(false);
                            signalled = Some(Instant::now());
                        }
                        Some(since) if since.elapsed() > GRACE => {
                            state.killed.store(true, SeqCst);
                            state.signal_child(true);
                            return;
                        }
                        Some(_) => {}
                    },
                    // It is about to begin, or just ending.
                    Phase::Idle | Phase::Starting(_) => {}
                    Phase::Broken => return,
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// Ends all that it started. The program ends after this.
    pub fn quit(&self) {
        compile::stop_build();
        self.state.stop_compiler();
        self.state.signal_child(true);
        if let Some(folder) = self.state.folder.get() {
            // What was killed may write until it is gone, and a folder that is written to stays.
            let end = Instant::now() + PATIENCE;
            while std::fs::remove_dir_all(folder).is_err() && folder.exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
