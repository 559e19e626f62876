//! Runs cells, one after the other, on a thread of its own: evcxr compiles them, a child process runs them.

use std::collections::BTreeSet;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use evcxr::{CommandContext, EvalCallbacks, EvalOutputs};

use crate::Result;
use crate::build::completion_filter as names;
use crate::build::template::{self, Template};
use crate::cell::items::{self, Items, Outdated};
use crate::cell::report::{self, Failure};
use crate::cell::rewrite as source;
use crate::cell::types::Unwritten;
use crate::engine::child;
use crate::engine::limit::Limited;
use crate::engine::output::{Bundle, EarlyReturn, PANICKED, Panic, Parser, Piece, RETURNED_EARLY, value_of};
use crate::engine::session::Session;
use crate::lock;

/// How long code that does not listen may go on after an interrupt.
const GRACE: Duration = Duration::from_secs(4);
/// How long the page waits for what it asks beside cells.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a cell is compiled, at the most, where it is not the cell that is at fault.
const TRIES: usize = 10;
/// The first cell of every session. After the imports it has evcxr learn that `?` occurs, and rust-analyzer look up what
/// the user's first cell would else wait for. None of the variables stays.
const PRELUDE: &str = r#"use headlight::prelude::*;
let model = Model::open("built-in")?;
let run = model.run_with_cache("a")?;
let tensor = candle_core::Tensor::zeros(1, candle_core::DType::F32, &candle_core::Device::Cpu)?;
let text = format!("{}", tensor.sum_all()?.to_scalar::<f32>()?);
drop((model, run, tensor, text));"#;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stream {
    Out,
    Err,
}

/// What a cell shows while it runs.
#[derive(Clone, Debug)]
pub enum Event {
    Text(Stream, String),
    Display(Bundle, Option<String>),
    Update(Bundle, String),
    Clear { wait: bool },
}

pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;
/// Asks the user for a line: the prompt, and whether it is a password.
pub type Ask = Arc<dyn Fn(&str, bool) -> Option<String> + Send + Sync>;
/// How a cell ended: the value that it ends with, or why it failed.
pub type Outcome = std::result::Result<Option<Bundle>, Failure>;

#[derive(Clone, Debug)]
pub struct Completion {
    pub text: String,
    pub kind: &'static str,
    pub signature: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Completions {
    pub items: Vec<Completion>,
    /// The bytes of the code that they replace.
    pub range: std::ops::Range<usize>,
}

enum Request {
    Execute {
        code: String,
        number: usize,
        sink: Sink,
        ask: Ask,
        cancelled: Arc<AtomicBool>,
        reply: Sender<Outcome>,
    },
    Complete {
        code: String,
        at: usize,
        reply: Sender<Completions>,
    },
    Inspect {
        code: String,
        at: usize,
        reply: Sender<Option<(String, String)>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Starting(String),
    Idle,
    Compiling,
    Running,
    /// It never started.
    Broken,
}

/// A handle on the thread that runs cells.
#[derive(Clone)]
pub struct Engine {
    requests: Sender<Request>,
    shared: Arc<Shared>,
}

struct Shared {
    phase: Mutex<Phase>,
    cell: Mutex<Cell>,
    control: Mutex<Option<PipeWriter>>,
    child: OnceLock<Arc<Mutex<Child>>>,
    folder: OnceLock<std::path::PathBuf>,
    /// Cells that were asked for and have not ended.
    waiting: AtomicUsize,
    interrupted: AtomicBool,
    killed: AtomicBool,
    /// The compiler was ended by an interrupt.
    stopped: AtomicBool,
    /// The process that runs the cell: control lines are for it alone.
    process: AtomicU64,
    /// Counts cells: an interrupt that waits knows by it whether its cell is still the one.
    serial: AtomicUsize,
}

/// What is known so far of the cell that runs.
#[derive(Default)]
struct Cell {
    shown: Option<Limited>,
    /// A value that may turn out to be what the cell ends with.
    last: Option<Bundle>,
    panic: Option<Panic>,
    panicked: bool,
    early: Option<EarlyReturn>,
    returned_early: bool,
    done: [bool; 2],
}

impl Cell {
    fn emit(&mut self, event: Event) {
        self.flush();
        if let Some(shown) = &mut self.shown {
            shown.take(event);
        }
    }

    fn flush(&mut self) {
        if let (Some(last), Some(shown)) = (self.last.take(), &mut self.shown) {
            shown.take(Event::Display(last, None));
        }
    }

    /// Shows what is still held back.
    fn finish(&mut self) {
        if let Some(shown) = &mut self.shown {
            shown.finish();
        }
    }
}

impl Engine {
    /// Starts the thread, which makes itself ready. Cells that come meanwhile wait, and say for what.
    pub fn start() -> Engine {
        let (requests, incoming) = channel();
        let shared = Arc::new(Shared {
            phase: Mutex::new(Phase::Starting("the kernel is starting".to_string())),
            cell: Mutex::default(),
            control: Mutex::default(),
            child: OnceLock::new(),
            folder: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            interrupted: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            process: AtomicU64::new(0),
            serial: AtomicUsize::new(0),
        });
        let engine = Engine { requests, shared: shared.clone() };
        std::thread::spawn(move || {
            match catch_unwind(AssertUnwindSafe(|| Worker::new(&shared)))
                .unwrap_or_else(|_| Err("evcxr failed".into()))
            {
                Ok(mut worker) => {
                    shared.enter(Phase::Idle);
                    worker.serve(&incoming);
                }
                Err(error) => {
                    shared.enter(Phase::Broken);
                    refuse(&incoming, &error.to_string());
                }
            }
        });
        engine
    }

    /// Runs a cell; returns when it has ended.
    pub fn execute(&self, code: &str, number: usize, sink: Sink, ask: Ask) -> Outcome {
        let (reply, outcome) = channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let request = Request::Execute {
            code: code.to_string(),
            number,
            sink: sink.clone(),
            ask,
            cancelled: cancelled.clone(),
            reply,
        };
        self.shared.interrupted.store(false, SeqCst);
        self.shared.waiting.fetch_add(1, SeqCst);
        let ended = Arc::new(AtomicBool::new(false));
        let announcer = self.announce(sink, ended.clone());
        let mut sent = self.requests.send(request).map_err(|_| RecvTimeoutError::Disconnected);
        let outcome = loop {
            match sent.and_then(|()| outcome.recv_timeout(Duration::from_millis(50))) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Disconnected) => break Err(report::failed()),
                Err(RecvTimeoutError::Timeout) => sent = Ok(()),
            }
            if self.is_interrupted() && matches!(*self.shared.phase(), Phase::Starting(_)) {
                cancelled.store(true, SeqCst);
                break Err(report::stopped_waiting());
            }
        };
        self.shared.waiting.fetch_sub(1, SeqCst);
        ended.store(true, SeqCst);
        announcer.thread().unpark();
        let _ = announcer.join();
        outcome
    }

    /// Shows what the cell waits for: the start of the kernel, a dependency that is built.
    fn announce(&self, sink: Sink, ended: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            let id = format!("headlight-notice-{:x}", crate::random());
            let mut shown = String::new();
            // Most cells are done before there is anything to say.
            std::thread::park_timeout(Duration::from_millis(300));
            while !ended.load(SeqCst) {
                let text = shared.notice().unwrap_or_default();
                if text != shown {
                    match shown.is_empty() {
                        true => sink(Event::Display(Bundle::text(&text), Some(id.clone()))),
                        false => sink(Event::Update(Bundle::text(&text), id.clone())),
                    }
                    shown = text;
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
            if !shown.is_empty() {
                sink(Event::Update(Bundle::text(""), id));
            }
        })
    }

    /// Whether it can answer at once.
    pub fn is_idle(&self) -> bool {
        *self.shared.phase() == Phase::Idle && self.shared.waiting.load(SeqCst) == 0
    }

    /// What it still does before it can run a first cell.
    pub fn starting(&self) -> Option<String> {
        match &*self.shared.phase() {
            Phase::Starting(what) => Some(what.clone()),
            _ => None,
        }
    }

    /// Whether the cell that runs was asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.shared.interrupted.load(SeqCst)
    }

    /// What could stand at a byte of the code; nothing while a cell runs.
    pub fn complete(&self, code: &str, at: usize) -> Completions {
        let (reply, completions) = channel();
        let nothing = || Completions { items: Vec::new(), range: at..at };
        if !self.is_idle() || source::is_too_deep(code) {
            return nothing();
        }
        let _ = self.requests.send(Request::Complete { code: code.to_string(), at, reply });
        completions.recv_timeout(PATIENCE).unwrap_or_else(|_| nothing())
    }

    /// What is known of the name at a byte of the code, as text and as HTML.
    pub fn inspect(&self, code: &str, at: usize) -> Option<(String, String)> {
        let (reply, found) = channel();
        let busy = match &*self.shared.phase() {
            Phase::Idle => None,
            Phase::Starting(what) => Some(what.clone()),
            Phase::Compiling | Phase::Running => {
                Some("a cell is running; ask again when it is done".to_string())
            }
            Phase::Broken => return None,
        };
        if let Some(busy) = busy {
            return Some((busy.clone(), busy));
        }
        if source::is_too_deep(code) {
            return None;
        }
        self.requests.send(Request::Inspect { code: code.to_string(), at, reply }).ok()?;
        found.recv_timeout(PATIENCE).ok()?
    }

    /// Stops the cell that compiles or runs: gently, if its code listens; else, after a while, with its process.
    pub fn interrupt(&self) {
        let shared = self.shared.clone();
        let serial = shared.serial.load(SeqCst);
        if shared.waiting.load(SeqCst) == 0 {
            return;
        }
        shared.interrupted.store(true, SeqCst);
        if cfg!(not(unix)) {
            // Nothing gentler is known there.
            shared.killed.store(true, SeqCst);
            return shared.signal_child(true);
        }
        std::thread::spawn(move || {
            let mut asked: Option<Instant> = None;
            while shared.serial.load(SeqCst) == serial && shared.waiting.load(SeqCst) > 0 {
                match shared.phase().clone() {
                    Phase::Compiling => shared.stop_compiler(),
                    Phase::Running => match asked {
                        None => {
                            shared.signal_child(false);
                            asked = Some(Instant::now());
                        }
                        Some(since) if since.elapsed() > GRACE => {
                            shared.killed.store(true, SeqCst);
                            shared.signal_child(true);
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
        template::stop_build();
        self.shared.stop_compiler();
        self.shared.signal_child(true);
        if let Some(folder) = self.shared.folder.get() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

impl Shared {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    fn enter(&self, phase: Phase) {
        *self.phase() = phase;
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        lock(&self.cell)
    }

    fn notice(&self) -> Option<String> {
        match &*self.phase() {
            Phase::Starting(what) => Some(what.clone()),
            Phase::Compiling => {
                let notices = std::fs::read_to_string(self.folder.get()?.join("notices")).ok()?;
                notices.lines().last().map(str::to_string)
            }
            _ => None,
        }
    }

    /// Sends a line to evcxr, by way of the child.
    fn tell_evcxr(&self, line: &str) {
        let mut control = lock(&self.control);
        if let Some(control) = control.as_mut() {
            // A process that is gone may have left its lines unread.
            let process = self.process.load(SeqCst);
            let _ = control.write_all(format!("{process} {line}\n").as_bytes());
        }
    }

    fn take(&self, stream: Stream, piece: Piece) {
        let mut cell = self.cell();
        match piece {
            Piece::Text(text) => cell.emit(Event::Text(stream, text)),
            Piece::Display(bundle, id) => cell.emit(Event::Display(bundle, id)),
            Piece::Update(bundle, id) => cell.emit(Event::Update(bundle, id)),
            Piece::Clear { wait } => cell.emit(Event::Clear { wait }),
            Piece::Result(bundle) => {
                cell.flush();
                cell.last = Some(bundle);
            }
            Piece::Panic(panic) => {
                if let Some(earlier) = cell.panic.replace(panic) {
                    cell.tell_panic(&earlier);
                }
            }
            Piece::EarlyReturn(early) => cell.early = Some(early),
            Piece::Control(line) => {
                cell.panicked |= line == PANICKED;
                cell.returned_early |= line == RETURNED_EARLY;
                drop(cell);
                self.tell_evcxr(&line);
            }
            Piece::Begin(process) => {
                drop(cell);
                self.process.store(process, SeqCst);
                self.forget_compiler();
                let mut phase = self.phase();
                // What the start itself runs is no cell.
                if *phase == Phase::Compiling {
                    *phase = Phase::Running;
                }
            }
            Piece::Gone => cell.done[stream as usize] = true,
            Piece::Done => {
                cell.done[stream as usize] = true;
                if cell.done == [true, true] {
                    cell.done = [false, false];
                    drop(cell);
                    self.tell_evcxr("EVCXR_EXECUTION_COMPLETE");
                }
            }
        }
    }

    #[cfg(unix)]
    fn stop_compiler(&self) {
        let Some(folder) = self.folder.get() else { return };
        let group =
            std::fs::read_to_string(folder.join("compiler")).ok().and_then(|id| id.trim().parse().ok());
        if let Some(group) = group.filter(|group: &i32| *group > 1) {
            // SAFETY: a signal to the group that the stand-in for cargo made of itself for this cell.
            if unsafe { libc::kill(-group, libc::SIGKILL) } == 0 {
                self.stopped.store(true, SeqCst);
            }
        }
    }

    #[cfg(not(unix))]
    fn stop_compiler(&self) {}

    /// Its id may be another's by and by.
    fn forget_compiler(&self) {
        if let Some(folder) = self.folder.get() {
            let _ = std::fs::remove_file(folder.join("compiler"));
        }
    }

    fn signal_child(&self, kill: bool) {
        let Some(child) = self.child.get() else { return };
        let mut child = lock(child);
        if kill {
            let _ = child.kill();
            return;
        }
        #[cfg(unix)]
        if let Ok(id) = i32::try_from(child.id()) {
            // SAFETY: our own child, not yet waited for: its handle is locked.
            unsafe { libc::kill(id, libc::SIGINT) };
        }
    }
}

impl Cell {
    /// A panic that did not end the cell: of another thread, or caught.
    fn tell_panic(&mut self, panic: &Panic) {
        if panic.thread != "main" {
            let text = format!("thread '{}' panicked: {}\n", panic.thread, panic.message);
            self.emit(Event::Text(Stream::Err, text));
        }
    }
}

/// What lives on the thread.
struct Worker {
    shared: Arc<Shared>,
    context: CommandContext,
    prepared: std::collections::BTreeMap<String, String>,
    sources: source::Sources,
    items: Items,
    session: Session,
    /// What completion does not offer.
    hidden: BTreeSet<String>,
    token: String,
    /// Where the child's output and errors go.
    pipes: [PipeWriter; 2],
}

impl Worker {
    fn new(shared: &Arc<Shared>) -> Result<Worker> {
        let starting = |what: &str| shared.enter(Phase::Starting(what.to_string()));
        let template = Template::prepare(&mut |what| starting(what))?;
        starting("the kernel is starting");
        let session = Session::create(&template)?;
        let _ = shared.folder.set(session.folder.clone());
        let (out, out_end) = std::io::pipe()?;
        let (err, err_end) = std::io::pipe()?;
        let (control_end, control) = std::io::pipe()?;
        *lock(&shared.control) = Some(control);
        let token = format!("{:016x}{:016x}", crate::random(), crate::random());
        relay(shared, Stream::Out, out, &token);
        relay(shared, Stream::Err, err, &token);
        let pipes = [out_end.try_clone()?, err_end.try_clone()?];
        let mut command = Command::new(std::env::current_exe()?);
        child::prepare(&mut command, &template, &session, &token, (out_end, err_end, control_end))?;
        // evcxr reads an evcxr.toml of the folder that it is in; that is for its own kernel.
        let here = std::env::current_dir()?;
        command.current_dir(&here);
        std::env::set_current_dir(session.folder.join("config"))?;
        let evaluation = evcxr::EvalContext::with_subprocess_command(command);
        std::env::set_current_dir(here)?;
        let (mut evaluation, outputs) = evaluation.map_err(|error| error.to_string())?;
        evaluation.set_opt_level("0").map_err(|error| error.to_string())?;
        let mut context = CommandContext::with_eval_context(evaluation);
        let _ = shared.child.set(context.process_handle());
        let [mut out, mut err] = [pipes[0].try_clone()?, pipes[1].try_clone()?];
        std::thread::spawn(move || outputs.stdout.iter().for_each(|line| child::pass_on(&line, &mut out)));
        std::thread::spawn(move || outputs.stderr.iter().for_each(|line| child::pass_on(&line, &mut err)));
        let dependencies: String = template::AT_ONCE
            .iter()
            .filter_map(|name| Some(format!(":dep {name} = {}\n", template.dependencies.get(*name)?)))
            .collect();
        context.execute(&format!("{dependencies}{PRELUDE}")).map_err(|error| error.to_string())?;
        let sources = source::Sources::new(&session.folder);
        let hidden = std::fs::read(template.folder.join("hidden.json")).ok();
        let hidden = hidden.and_then(|names| serde_json::from_slice(&names).ok()).unwrap_or_default();
        Ok(Worker {
            shared: shared.clone(),
            context,
            prepared: template.dependencies,
            sources,
            items: Items::default(),
            session,
            hidden,
            token,
            pipes,
        })
    }

    fn serve(&mut self, incoming: &Receiver<Request>) {
        while let Ok(request) = incoming.recv() {
            match request {
                Request::Execute { cancelled, .. } if cancelled.load(SeqCst) => {}
                Request::Execute { code, number, sink, ask, reply, .. } => {
                    let run = AssertUnwindSafe(|| self.execute(&code, number, sink, &ask));
                    let outcome = catch_unwind(run).unwrap_or_else(|_| Err(report::failed()));
                    self.shared.forget_compiler();
                    self.shared.enter(Phase::Idle);
                    self.shared.serial.fetch_add(1, SeqCst);
                    let _ = reply.send(outcome);
                }
                Request::Complete { code, at, reply } => {
                    let _ = reply.send(self.complete(&code, at));
                }
                Request::Inspect { code, at, reply } => {
                    let _ = reply.send(self.inspect(&code, at));
                }
            }
        }
    }

    fn execute(&mut self, code: &str, number: usize, sink: Sink, ask: &Ask) -> Outcome {
        let shared = self.shared.clone();
        shared.killed.store(false, SeqCst);
        let mut cell = shared.cell();
        // What threads of the cell before have printed since.
        cell.finish();
        *cell = Cell { shown: Some(Limited::new(sink)), ..Cell::default() };
        drop(cell);
        let folder = self.session.folder.clone();
        // Completion may have looked up a dependency since the last cell.
        shared.forget_compiler();
        shared.stopped.store(false, SeqCst);
        let _ = std::fs::write(folder.join("notices"), "");
        shared.enter(Phase::Compiling);
        if source::is_too_deep(code) {
            return Err(report::too_deep());
        }
        let code = source::with_prepared(code, &self.prepared)?;
        self.sources.begin(number, &code);
        let before = self.variables();
        let result = self.compile_and_run(&code, number, ask);
        let gone: Vec<String> = before.difference(&self.variables()).cloned().collect();
        if let Err(evcxr::Error::SubprocessTerminated(_)) = result {
            self.wait_for_output();
        }
        let mut cell = shared.cell();
        let panic = cell.panic.take();
        let failure = match result {
            Err(evcxr::Error::CompilationErrors(_) | evcxr::Error::Message(_))
                if shared.stopped.load(SeqCst) =>
            {
                Some(report::stopped_compiling())
            }
            Err(evcxr::Error::CompilationErrors(errors)) => Some(report::compilation(&errors, &self.sources)),
            Err(evcxr::Error::SubprocessTerminated(how)) => {
                Some(report::terminated(&how, shared.killed.load(SeqCst)))
            }
            Err(error) => Some(report::other(&error.to_string())),
            Ok(_) if cell.panicked => Some(report::panic(&panic.unwrap_or_default(), &self.sources, &gone)),
            Ok(_) if cell.returned_early => {
                Some(report::early_return(&cell.early.take().unwrap_or_default(), &self.sources, &gone))
            }
            Ok(outputs) => {
                if let Some(panic) = panic {
                    let last = cell.last.take();
                    cell.tell_panic(&panic);
                    cell.last = last;
                }
                let of_commands: Bundle = outputs
                    .content_by_mime_type
                    .into_iter()
                    .map(|(mime, content)| (mime.clone(), value_of(&mime, content)))
                    .collect();
                if !of_commands.data.is_empty() {
                    cell.flush();
                    cell.last = Some(of_commands);
                }
                None
            }
        };
        let last = match &failure {
            Some(_) => {
                cell.flush();
                None
            }
            None => cell.last.take(),
        };
        cell.finish();
        failure.map_or(Ok(last), Err)
    }

    fn variables(&self) -> BTreeSet<String> {
        self.context.variables_and_types().map(|(name, _)| name.to_string()).collect()
    }

    /// Has evcxr compile and run a cell; again, where what it made of the cell is at fault.
    fn compile_and_run(
        &mut self,
        code: &str,
        number: usize,
        ask: &Ask,
    ) -> std::result::Result<EvalOutputs, evcxr::Error> {
        // Commands to the shell are not given twice.
        let mut tries = if code.lines().any(|line| line.starts_with('!')) { 1 } else { TRIES };
        let mut outdated = Outdated::default();
        let mut typed = code.to_string();
        let mut ways: Option<Unwritten> = None;
        // The errors of the cell as it was given: they are told if nothing helps.
        let mut first = None;
        loop {
            let (marked, after) = self.items.with_cell(&typed, &outdated);
            let result = self.context.execute_with_callbacks(
                &marked,
                &mut EvalCallbacks {
                    input_reader: &|request| ask(&request.prompt, request.is_password).unwrap_or_default(),
                },
            );
            let Err(evcxr::Error::CompilationErrors(errors)) = result else {
                if result.is_ok() {
                    self.items = after;
                    if !outdated.told.is_empty() {
                        let told = report::left_out(&outdated.told);
                        self.shared.cell().emit(Event::Text(Stream::Err, told));
                    }
                }
                return result;
            };
            tries -= 1;
            let again = tries > 0 && !self.shared.stopped.load(SeqCst);
            let more = self.items.outdated(&errors, code, &self.sources);
            if again && more.is_some_and(|more| outdated.add(more)) {
                if !outdated.told.is_empty() {
                    first.get_or_insert(errors);
                }
                continue;
            }
            if ways.is_none() {
                let generated = self.sources.generated(number).unwrap_or_default();
                ways = Unwritten::of(&errors, &generated);
            } else if !errors.iter().any(|error| error.code() == Some("E0308")) {
                // Not that this way to write a type does not fit.
                first = None;
            }
            match ways.as_mut().filter(|_| again).and_then(|ways| ways.next(code)) {
                Some(next) => {
                    typed = next;
                    first.get_or_insert(errors);
                }
                None => return Err(evcxr::Error::CompilationErrors(first.unwrap_or(errors))),
            }
        }
    }

    /// The pipes outlive the process that filled them: what it printed last is still on its way.
    fn wait_for_output(&mut self) {
        let gone = format!("\u{1}{} {{\"op\":\"gone\"}}\n", self.token);
        for pipe in &mut self.pipes {
            let _ = pipe.write_all(gone.as_bytes());
        }
        for _ in 0..100 {
            let mut cell = self.shared.cell();
            if cell.done == [true, true] {
                cell.done = [false, false];
                return;
            }
            drop(cell);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn complete(&mut self, code: &str, at: usize) -> Completions {
        let Ok(found) = self.context.completions(code, at) else {
            return Completions { items: Vec::new(), range: at..at };
        };
        let mut items: Vec<Completion> = Vec::new();
        for item in found.completions {
            // What is more than a name is a piece of code to fill in, which Jupyter cannot.
            let name = item.code.split(['(', ' ', '\n', '{', ';']).next().unwrap_or_default().to_string();
            let is_name = item.kind == "magic" || !item.code[name.len()..].starts_with([' ', '\n', '{']);
            // The user's own names are shown, whatever they are.
            let arguments = item.code[name.len()..].trim_end_matches(';');
            let signature = arguments.starts_with('(').then(|| arguments.to_string());
            let listed = match (&signature, item.kind) {
                (Some(arguments), _) => names::of_function(&name, arguments),
                (None, "instance") => names::of_field(&name),
                _ => name.clone(),
            };
            let hidden =
                self.hidden.contains(&listed) && !self.sources.mentions(&name) || items::is_mark(&name);
            if is_name && !hidden && !name.is_empty() && items.iter().all(|known| known.text != name) {
                items.push(Completion { text: name, kind: item.kind, signature });
            }
        }
        Completions { range: found.start_offset..found.end_offset, items }
    }

    /// Looks for the name under the cursor: with all that stands before it in the cell, then by itself.
    fn inspect(&mut self, code: &str, at: usize) -> Option<(String, String)> {
        let (start, end) = source::name_around(code, at)?;
        let (all, alone) = (&code[..end], &code[start..end]);
        let tries = [all.to_string(), format!("{all}("), alone.to_string(), format!("{alone}(")];
        let (text, html) = tries.iter().find_map(|tried| {
            let found = self.context.hover_at(tried, tried.len()).ok();
            found.filter(|(text, _)| text != "No documentation found")
        })?;
        Some((source::as_shown(&text), source::as_shown(&html)))
    }
}

fn relay(shared: &Arc<Shared>, stream: Stream, mut pipe: PipeReader, token: &str) {
    let (shared, mut parser) = (shared.clone(), Parser::new(token));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n) = pipe.read(&mut buffer) {
            if n == 0 {
                break;
            }
            for piece in parser.push(&buffer[..n]) {
                shared.take(stream, piece);
            }
        }
    });
}

fn refuse(incoming: &Receiver<Request>, why: &str) {
    while let Ok(request) = incoming.recv() {
        match request {
            Request::Execute { reply, .. } => drop(reply.send(Err(report::not_started(why)))),
            Request::Complete { reply, at, .. } => {
                drop(reply.send(Completions { items: Vec::new(), range: at..at }))
            }
            Request::Inspect { reply, .. } => drop(reply.send(None)),
        }
    }
}
