//! Runs the code cells of one notebook, in order, and puts what they show into it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cell::report::Failure;
use crate::engine::event::EventSink;
use crate::engine::handle::Engine;
use crate::engine::worker::Outcome;
use crate::notebook::Notebook;
use crate::run::outputs::NotebookOutputs;
use crate::run::stop::Stop;
use crate::sync::lock;
use crate::terminal::escape::strip_escapes;
use crate::terminal::progress::ProgressLine;

/// How the run of a notebook went.
#[derive(Debug)]
pub enum RunOutcome {
    Done,
    /// A cell failed, and the run stopped there.
    Failed(Box<FailedCell>),
    /// Ctrl-C.
    Stopped,
}

#[derive(Debug)]
pub struct FailedCell {
    pub number: usize,
    pub source: String,
    pub failure: Failure,
}

pub struct RunConfig {
    pub timeout: Option<Duration>,
    pub allow_errors: bool,
}

/// Runs the notebook. What it shows is in it afterwards, also where a cell failed.
pub fn run(
    notebook: &mut Notebook,
    engine: &Engine,
    config: &RunConfig,
    stop: &Stop,
    progress: &ProgressLine,
) -> RunOutcome {
    let outputs = Arc::new(Mutex::new(NotebookOutputs::default()));
    let ready = wait_until_ready(engine, stop, progress);
    let mut outcome = if ready { RunOutcome::Done } else { RunOutcome::Stopped };
    // The cells of the notebook that ran, in the order of what they showed.
    let mut ran = Vec::new();
    if ready {
        for (at, cell) in notebook.cells.iter_mut().enumerate() {
            if !cell.runs() {
                continue;
            }
            let may_fail = config.allow_errors || cell.has_tag("raises-exception");
            let source = cell.source();
            let number = ran.len() + 1;
            cell.set_execution_count(number);
            progress.show_cell(number, &source);
            let place = lock(&outputs).begin();
            ran.push(at);
            let result = execute(engine, &source, number, place, &outputs, config.timeout);
            match result {
                Ok(None) => {}
                Ok(Some(bundle)) => lock(&outputs).end_with_value(place, bundle, number),
                Err(failure) => {
                    lock(&outputs).end_with_error(place, failure.clone());
                    if !may_fail && !stop.is_requested() {
                        outcome = RunOutcome::Failed(Box::new(FailedCell { number, source, failure }));
                        break;
                    }
                }
            }
            if stop.is_requested() {
                outcome = RunOutcome::Stopped;
                break;
            }
        }
    }
    let outputs = std::mem::take(&mut *lock(&outputs)).finish();
    for (at, outputs) in ran.into_iter().zip(outputs) {
        notebook.cells[at].set_outputs(outputs);
    }
    outcome
}

/// Waits for the engine, so that no cell's time limit counts the building. False if the user stopped it.
fn wait_until_ready(engine: &Engine, stop: &Stop, progress: &ProgressLine) -> bool {
    let mut last = String::new();
    while let Some(what) = engine.starting() {
        if stop.is_requested() {
            return false;
        }
        if what != last {
            progress.show(&what);
            last = what;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    !stop.is_requested()
}

fn execute(
    engine: &Engine,
    source: &str,
    number: usize,
    place: usize,
    outputs: &Arc<Mutex<NotebookOutputs>>,
    timeout: Option<Duration>,
) -> Outcome {
    let sink: EventSink = {
        let outputs = outputs.clone();
        Arc::new(move |event| lock(&outputs).take(place, event))
    };
    let request = Arc::new(Mutex::new(None));
    let input = {
        let request = request.clone();
        Arc::new(move |prompt: &str, _| {
            *lock(&request) = Some(prompt.to_string());
            None
        })
    };
    let overdue = Arc::new(AtomicBool::new(false));
    let (done, is_done) = channel::<()>();
    let watch = timeout.map(|limit| {
        let (engine, overdue) = (engine.clone(), overdue.clone());
        std::thread::spawn(move || {
            if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                overdue.store(true, SeqCst);
                engine.interrupt();
            }
        })
    });
    let outcome = engine.execute(source, number, sink, input);
    drop(done);
    if let Some(watch) = watch {
        let _ = watch.join();
    }
    if let Some(limit) = timeout.filter(|_| overdue.load(SeqCst)) {
        let seconds = limit.as_secs_f64();
        return Err(failure(
            "timeout",
            &format!("the cell took longer than --timeout {seconds} allows"),
            outcome,
        ));
    }
    if let Some(prompt) = lock(&request).take() {
        let value = format!("the cell asks for input ({prompt:?}), and nobody is there to answer");
        return Err(failure("no input", &value, outcome));
    }
    outcome
}

/// A failure of the run itself, followed by what the cell said of its end.
fn failure(name: &str, value: &str, outcome: Outcome) -> Failure {
    Failure::new(name, value, outcome.err().map(|failure| failure.traceback).unwrap_or_default())
}

/// The error, for a terminal or a log.
pub fn format_failure(notebook: &Path, failed: &FailedCell, colours: bool) -> String {
    let code: String = failed.source.lines().map(|line| format!("    {line}\n")).collect();
    let traceback = failed.failure.traceback.join("\n");
    let traceback = if colours { traceback } else { strip_escapes(&traceback) };
    format!("{}: cell {} failed:\n\n{code}\n{traceback}\n", notebook.display(), failed.number)
}
