//! Runs the code cells of one notebook, in order, and puts what they show into it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cell::report::Failure;
use crate::engine::handle::{Engine, Outcome, Sink};
use crate::lock;
use crate::notebook::Notebook;
use crate::run::outputs::Collected;
use crate::run::stop::Stop;
use crate::terminal::steps::Steps;

/// How the run of a notebook went.
#[derive(Debug)]
pub enum Ended {
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

pub struct How {
    pub timeout: Option<Duration>,
    pub allow_errors: bool,
}

/// Runs the notebook. What it shows is in it afterwards, also where a cell failed.
pub fn run(notebook: &mut Notebook, engine: &Engine, how: &How, stop: &Stop, steps: &Steps) -> Ended {
    let collected = Arc::new(Mutex::new(Collected::default()));
    let ready = get_ready(engine, stop, steps);
    let mut ended = if ready { Ended::Done } else { Ended::Stopped };
    // The cells of the notebook that ran, in the order of what they showed.
    let mut ran = Vec::new();
    if ready {
        for (at, cell) in notebook.cells.iter_mut().enumerate() {
            if !cell.runs() {
                continue;
            }
            let may_fail = how.allow_errors || cell.has_tag("raises-exception");
            let source = cell.source();
            let number = ran.len() + 1;
            cell.set_count(number);
            steps.cell(number, &source);
            let place = lock(&collected).begin();
            ran.push(at);
            let outcome = execute(engine, &source, number, place, &collected, how.timeout);
            match outcome {
                Ok(None) => {}
                Ok(Some(bundle)) => lock(&collected).end_with_value(place, bundle, number),
                Err(failure) => {
                    lock(&collected).end_with_error(place, failure.clone());
                    if !may_fail && !stop.is_wanted() {
                        ended = Ended::Failed(Box::new(FailedCell { number, source, failure }));
                        break;
                    }
                }
            }
            if stop.is_wanted() {
                ended = Ended::Stopped;
                break;
            }
        }
    }
    let shown = std::mem::take(&mut *lock(&collected)).finish();
    for (at, shown) in ran.into_iter().zip(shown) {
        notebook.cells[at].set_outputs(shown);
    }
    ended
}

/// Waits for the engine, so that no cell's time limit counts the building. False if the user stopped it.
fn get_ready(engine: &Engine, stop: &Stop, steps: &Steps) -> bool {
    let mut told = String::new();
    while let Some(what) = engine.starting() {
        if stop.is_wanted() {
            return false;
        }
        if what != told {
            steps.starting(&what);
            told = what;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    !stop.is_wanted()
}

fn execute(
    engine: &Engine,
    source: &str,
    number: usize,
    place: usize,
    collected: &Arc<Mutex<Collected>>,
    timeout: Option<Duration>,
) -> Outcome {
    let sink: Sink = {
        let collected = collected.clone();
        Arc::new(move |event| lock(&collected).take(place, event))
    };
    let asked = Arc::new(Mutex::new(None));
    let ask = {
        let asked = asked.clone();
        Arc::new(move |prompt: &str, _| {
            *lock(&asked) = Some(prompt.to_string());
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
    let outcome = engine.execute(source, number, sink, ask);
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
    if let Some(prompt) = lock(&asked).take() {
        let value = format!("the cell asks for input ({prompt:?}), and nobody is there to answer");
        return Err(failure("no input", &value, outcome));
    }
    outcome
}

/// A failure of the run itself, followed by what the cell said of its end.
fn failure(name: &str, value: &str, outcome: Outcome) -> Failure {
    let mut traceback = vec![format!("\u{1b}[1;31m{name}\u{1b}[0m\u{1b}[1m: {value}\u{1b}[0m")];
    traceback.extend(outcome.err().into_iter().flat_map(|failure| failure.traceback));
    Failure { name: name.to_string(), value: value.to_string(), traceback }
}

/// The error as a reader in a terminal, or of a log, is told it.
pub fn told(notebook: &Path, failed: &FailedCell, colours: bool) -> String {
    let code: String = failed.source.lines().map(|line| format!("    {line}\n")).collect();
    let traceback = failed.failure.traceback.join("\n");
    let traceback = if colours { traceback } else { crate::cell::report::without_colours(&traceback) };
    format!("{}: cell {} failed:\n\n{code}\n{traceback}\n", notebook.display(), failed.number)
}
