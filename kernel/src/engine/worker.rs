//! The thread of the engine: one cell after the other, compiled by evcxr.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use evcxr::{CommandContext, EvalCallbacks, EvalContext, EvalContextOutputs, EvalOutputs};

use crate::Result;
use crate::build::completion_filter::{self, PrivateNames};
use crate::build::template::Template;
use crate::cell::cursor::{name_around, type_in, variable_before, without_hidden_lines};
use crate::cell::dependencies::{PRELOADED, use_available};
use crate::cell::items::{self, Items, StaleItems};
use crate::cell::lex::code_start;
use crate::cell::locate::CellSources;
use crate::cell::nesting::is_too_deep;
use crate::cell::report::{self, Failure};
use crate::cell::types::UnresolvedTypes;
use crate::engine::child;
use crate::engine::event::{Event, EventSink, MimeBundle, Stream, parse_value};
use crate::engine::limit::OutputLimit;
use crate::engine::output::OutputParser;
use crate::engine::session::Session;
use crate::engine::state::{EngineState, Phase, RunningCell};
use crate::shim::protocol;
use crate::sync::lock;

/// How often a cell is compiled, at the most, where it is not the cell that is at fault.
const MAX_ATTEMPTS: usize = 10;
/// The first cell of every session. After the imports it has evcxr learn that `?` occurs, and rust-analyzer look up what
/// the user's first cell would else wait for. None of the variables stays.
const PRELUDE: &str = r#"use headlight::prelude::*;
let model = Model::open("built-in")?;
let run = model.run_with_cache("a")?;
let tensor = candle_core::Tensor::zeros(1, candle_core::DType::F32, &candle_core::Device::Cpu)?;
let text = format!("{}", tensor.sum_all()?.to_scalar::<f32>()?);
drop((model, run, tensor, text));"#;

/// Asks the user for a line: the prompt, and whether it is a password.
pub type InputReader = Arc<dyn Fn(&str, bool) -> Option<String> + Send + Sync>;
/// How a cell ended: the value that it ends with, or why it failed.
pub type Outcome = std::result::Result<Option<MimeBundle>, Failure>;

#[derive(Clone, Debug)]
pub struct Completion {
    pub text: String,
    pub kind: &'static str,
    pub signature: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Completions {
    pub items: Vec<Completion>,
    /// The bytes of the code that they replace.
    pub range: std::ops::Range<usize>,
}

impl Completions {
    pub fn none(at: usize) -> Completions {
        Completions { items: Vec::new(), range: at..at }
    }
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub text: String,
    pub html: String,
}

/// What the thread is asked for.
pub enum Request {
    Execute {
        code: String,
        number: usize,
        sink: EventSink,
        input: InputReader,
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
        reply: Sender<Option<Inspection>>,
    },
}

/// What lives on the thread.
pub struct Worker {
    state: Arc<EngineState>,
    context: CommandContext,
    /// The dependencies that the template holds.
    available: BTreeMap<String, String>,
    sources: CellSources,
    items: Items,
    session: Session,
    /// What completion does not offer.
    private: PrivateNames,
    token: String,
    /// Where the child's output and errors go.
    pipes: [PipeWriter; 2],
}

impl Worker {
    pub fn new(state: &Arc<EngineState>) -> Result<Worker> {
        let starting = |what: &str| state.enter(Phase::Starting(what.to_string()));
        let template = Template::prepare(&mut |what| starting(what))?;
        starting("the kernel is starting");
        let session = Session::create(&template)?;
        let _ = state.folder.set(session.folder.clone());
        let (out, out_end) = std::io::pipe()?;
        let (err, err_end) = std::io::pipe()?;
        let (control_end, control) = std::io::pipe()?;
        *lock(&state.control) = Some(control);
        let token = format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?);
        relay(state, Stream::Out, out, &token);
        relay(state, Stream::Err, err, &token);
        let pipes = [out_end.try_clone()?, err_end.try_clone()?];
        let mut command = Command::new(std::env::current_exe()?);
        child::prepare(&mut command, &template, &session, &token, (out_end, err_end, control_end))?;
        let (mut context, outputs) = start_evcxr(command, &session)?;
        let _ = state.child.set(context.process_handle());
        let [mut out, mut err] = [pipes[0].try_clone()?, pipes[1].try_clone()?];
        std::thread::spawn(move || outputs.stdout.iter().for_each(|line| child::forward(&line, &mut out)));
        std::thread::spawn(move || outputs.stderr.iter().for_each(|line| child::forward(&line, &mut err)));
        let dependencies: String = PRELOADED
            .iter()
            .filter_map(|name| Some(format!(":dep {name} = {}\n", template.dependencies.get(*name)?)))
            .collect();
        context.execute(&format!("{dependencies}{PRELUDE}")).map_err(|error| error.to_string())?;
        let sources = CellSources::new(&session.folder);
        let private = template.private_names();
        Ok(Worker {
            state: state.clone(),
            context,
            available: template.dependencies,
            sources,
            items: Items::default(),
            session,
            private,
            token,
            pipes,
        })
    }

    pub fn serve(&mut self, incoming: &Receiver<Request>) {
        while let Ok(request) = incoming.recv() {
            match request {
                Request::Execute { cancelled, .. } if cancelled.load(SeqCst) => {}
                Request::Execute { code, number, sink, input, reply, .. } => {
                    let run = AssertUnwindSafe(|| self.execute(&code, number, sink, &input));
                    let outcome = catch_unwind(run).unwrap_or_else(|_| Err(report::kernel_fault()));
                    self.state.forget_compiler();
                    self.state.enter(Phase::Idle);
                    self.state.serial.fetch_add(1, SeqCst);
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

    fn execute(&mut self, code: &str, number: usize, sink: EventSink, input: &InputReader) -> Outcome {
        let state = self.state.clone();
        state.killed.store(false, SeqCst);
        let mut cell = state.cell();
        // What threads of the cell before have printed since.
        cell.finish();
        *cell = RunningCell { output: Some(OutputLimit::new(sink)), ..RunningCell::default() };
        drop(cell);
        let folder = self.session.folder.clone();
        // Completion may have looked up a dependency since the last cell.
        state.forget_compiler();
        state.compiler_stopped.store(false, SeqCst);
        let _ = std::fs::write(folder.join(protocol::NOTICES), "");
        state.enter(Phase::Compiling);
        if is_too_deep(code) {
            return Err(report::too_deep());
        }
        let code =
            use_available(code, &self.available).map_err(|conflict| report::version_conflict(&conflict))?;
        self.sources.begin(number, &code);
        let before = self.variables();
        let result = self.compile_and_run(&code, number, input);
        let lost: Vec<String> = before.difference(&self.variables()).cloned().collect();
        if let Err(evcxr::Error::SubprocessTerminated(_)) = result {
            self.wait_for_output();
        }
        self.end_cell(result, &lost)
    }

    /// What the cell has come to, by evcxr and by its output.
    fn end_cell(&self, result: std::result::Result<EvalOutputs, evcxr::Error>, lost: &[String]) -> Outcome {
        let state = &self.state;
        let mut cell = state.cell();
        let panic = cell.panic.take();
        let failure = match result {
            Err(evcxr::Error::CompilationErrors(_) | evcxr::Error::Message(_))
                if state.compiler_stopped.load(SeqCst) =>
            {
                Some(report::interrupted_compilation())
            }
            Err(evcxr::Error::CompilationErrors(errors)) => Some(report::compilation(&errors, &self.sources)),
            Err(evcxr::Error::SubprocessTerminated(how)) => {
                Some(report::process_end(&how, state.killed.load(SeqCst)))
            }
            Err(error) => Some(report::evcxr_error(&error.to_string())),
            Ok(_) if cell.panicked => Some(report::panic(&panic.unwrap_or_default(), &self.sources, lost)),
            Ok(_) if cell.early_return.is_some() => {
                Some(report::early_return(&cell.early_return.take().unwrap_or_default(), &self.sources, lost))
            }
            Ok(outputs) => {
                if let Some(panic) = panic {
                    let last = cell.last.take();
                    cell.show_panic(&panic);
                    cell.last = last;
                }
                let value: MimeBundle = outputs
                    .content_by_mime_type
                    .into_iter()
                    .map(|(mime, content)| (mime.clone(), parse_value(&mime, content)))
                    .collect();
                if !value.data.is_empty() {
                    cell.flush();
                    cell.last = Some(value);
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
        input: &InputReader,
    ) -> std::result::Result<EvalOutputs, evcxr::Error> {
        // Commands to the shell are not given twice.
        let mut commands = code[..code_start(code)].lines();
        let mut attempts = if commands.any(|line| line.starts_with('!')) { 1 } else { MAX_ATTEMPTS };
        let mut stale = StaleItems::default();
        let mut annotated = code.to_string();
        let mut types: Option<UnresolvedTypes> = None;
        // The errors of the cell as it was given: they are reported if nothing helps.
        let mut first = None;
        loop {
            let (marked, after) = self.items.mark_cell(&annotated, &stale);
            let result = self.context.execute_with_callbacks(
                &marked,
                &mut EvalCallbacks {
                    input_reader: &|request| input(&request.prompt, request.is_password).unwrap_or_default(),
                },
            );
            let Err(evcxr::Error::CompilationErrors(errors)) = result else {
                if result.is_ok() {
                    self.items = after;
                    if !stale.headers.is_empty() {
                        let notice = report::stale_items_notice(&stale.headers);
                        self.state.cell().emit(Event::Text(Stream::Err, notice));
                    }
                }
                return result;
            };
            attempts -= 1;
            let again = attempts > 0 && !self.state.compiler_stopped.load(SeqCst);
            let more = self.items.find_stale(&errors, code, &self.sources);
            if again && more.is_some_and(|more| stale.add(more)) {
                if !stale.headers.is_empty() {
                    first.get_or_insert(errors);
                }
                continue;
            }
            if types.is_none() {
                let generated = self.sources.read_generated(number).unwrap_or_default();
                types = UnresolvedTypes::find(&errors, &generated);
            } else if !errors.iter().any(|error| error.code() == Some("E0308")) {
                // Not that this way to write a type does not fit.
                first = None;
            }
            match types.as_mut().filter(|_| again).and_then(|types| types.next_attempt(code)) {
                Some(next) => {
                    annotated = next;
                    first.get_or_insert(errors);
                }
                None => return Err(evcxr::Error::CompilationErrors(first.unwrap_or(errors))),
            }
        }
    }

    /// The pipes outlive the process that filled them: what it printed last is still on its way.
    fn wait_for_output(&mut self) {
        let line = format!("\u{1}{} {{\"op\":\"gone\"}}\n", self.token);
        for pipe in &mut self.pipes {
            let _ = pipe.write_all(line.as_bytes());
        }
        for _ in 0..100 {
            let mut cell = self.state.cell();
            if cell.streams_done == [true, true] {
                cell.streams_done = [false, false];
                return;
            }
            drop(cell);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn complete(&mut self, code: &str, at: usize) -> Completions {
        let Ok(completions) = self.context.completions(code, at) else {
            return Completions::none(at);
        };
        let of = self.type_before(code, completions.start_offset);
        let mut items: Vec<Completion> = Vec::new();
        for item in completions.completions {
            // What is more than a name is a piece of code to fill in, which Jupyter cannot.
            let name = item.code.split(['(', ' ', '\n', '{', ';']).next().unwrap_or_default().to_string();
            let is_name = item.kind == "magic" || !item.code[name.len()..].starts_with([' ', '\n', '{']);
            // The user's own names are shown, whatever they are.
            let arguments = item.code[name.len()..].trim_end_matches(';');
            let signature = arguments.starts_with('(').then(|| arguments.to_string());
            let entry = match (&signature, item.kind) {
                (Some(arguments), _) => completion_filter::function_entry(&name, arguments),
                (None, "instance") => completion_filter::field_entry(&name),
                _ => name.clone(),
            };
            let is_private = self.private.hide(&entry, of.as_deref());
            let is_hidden = is_private && !self.sources.names(&name) || items::is_mark(&name);
            if is_name && !is_hidden && !name.is_empty() && items.iter().all(|known| known.text != name) {
                items.push(Completion { text: name, kind: item.kind, signature });
            }
        }
        Completions { range: completions.start_offset..completions.end_offset, items }
    }

    /// The name of the type of the variable whose fields and methods are asked for.
    fn type_before(&mut self, code: &str, start: usize) -> Option<String> {
        let (end, name) = variable_before(code, start)?;
        let kept = self.context.variables_and_types().find(|(kept, _)| *kept == name);
        let kept = kept.map(|(_, kept)| kept.to_string());
        // One of this cell: only rust-analyzer knows it.
        let own = || type_in(&self.context.hover_at(&code[..end], end).ok()?.0, name);
        let found = kept.or_else(own)?;
        Some(completion_filter::type_name(&found).to_string())
    }

    /// Looks for the name under the cursor: with all that stands before it in the cell, then by itself.
    fn inspect(&mut self, code: &str, at: usize) -> Option<Inspection> {
        let (start, end) = name_around(code, at)?;
        let (all, alone) = (&code[..end], &code[start..end]);
        let candidates = [all.to_string(), format!("{all}("), alone.to_string(), format!("{alone}(")];
        let (text, html) = candidates.iter().find_map(|candidate| {
            let hover = self.context.hover_at(candidate, candidate.len()).ok();
            hover.filter(|(text, _)| text != "No documentation found")
        })?;
        Some(Inspection { text: without_hidden_lines(&text), html: without_hidden_lines(&html) })
    }
}

/// Has evcxr start the process that runs the cells.
fn start_evcxr(mut command: Command, session: &Session) -> Result<(CommandContext, EvalContextOutputs)> {
    // evcxr reads an evcxr.toml of the folder that it is in; that is for its own kernel.
    let here = std::env::current_dir()?;
    command.current_dir(&here);
    std::env::set_current_dir(session.folder.join("config"))?;
    let evaluation = EvalContext::with_subprocess_command(command);
    std::env::set_current_dir(here)?;
    let (mut evaluation, outputs) = evaluation.map_err(|error| error.to_string())?;
    evaluation.set_opt_level("0").map_err(|error| error.to_string())?;
    Ok((CommandContext::with_eval_context(evaluation), outputs))
}

/// Hands on what comes out of a pipe.
fn relay(state: &Arc<EngineState>, stream: Stream, mut pipe: PipeReader, token: &str) {
    let (state, mut parser) = (state.clone(), OutputParser::new(token));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n) = pipe.read(&mut buffer) {
            if n == 0 {
                break;
            }
            for item in parser.push(&buffer[..n]) {
                state.take(stream, item);
            }
        }
    });
}

/// Answers that the engine never started.
pub fn refuse(incoming: &Receiver<Request>, why: &str) {
    while let Ok(request) = incoming.recv() {
        match request {
            Request::Execute { reply, .. } => drop(reply.send(Err(report::start_failure(why)))),
            Request::Complete { reply, at, .. } => drop(reply.send(Completions::none(at))),
            Request::Inspect { reply, .. } => drop(reply.send(None)),
        }
    }
}
