//! What the handle of the engine, its thread and the threads that read its pipes share.

use std::io::{PipeWriter, Write};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::cell::report::{EarlyReturn, Panic};
use crate::engine::event::{Event, MimeBundle, Stream};
use crate::engine::limit::OutputLimit;
use crate::engine::output::{OutputItem, PANIC_LINE};
use crate::shim::protocol;
use crate::sync::lock;

/// What the engine does.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    Starting(String),
    Idle,
    Compiling,
    Running,
    /// It never started.
    Broken,
}

pub struct EngineState {
    pub phase: Mutex<Phase>,
    pub cell: Mutex<RunningCell>,
    pub control: Mutex<Option<PipeWriter>>,
    pub child: OnceLock<Arc<Mutex<Child>>>,
    pub folder: OnceLock<PathBuf>,
    /// Cells that were asked for and have not ended.
    pub waiting: AtomicUsize,
    pub interrupted: AtomicBool,
    pub killed: AtomicBool,
    /// The compiler was ended by an interrupt.
    pub compiler_stopped: AtomicBool,
    /// The process that runs the cell: control lines are for it alone.
    pub process: AtomicU64,
    /// Counts cells: an interrupt that waits knows by it whether its cell is still the one.
    pub serial: AtomicUsize,
}

/// What is known so far of the cell that runs.
#[derive(Default)]
pub struct RunningCell {
    pub output: Option<OutputLimit>,
    /// A value that may turn out to be what the cell ends with.
    pub last: Option<MimeBundle>,
    pub panic: Option<Panic>,
    pub panicked: bool,
    pub early_return: Option<EarlyReturn>,
    pub streams_done: [bool; 2],
}

impl RunningCell {
    pub fn emit(&mut self, event: Event) {
        self.flush();
        if let Some(output) = &mut self.output {
            output.take(event);
        }
    }

    pub fn flush(&mut self) {
        if let (Some(last), Some(output)) = (self.last.take(), &mut self.output) {
            output.take(Event::Display(last, None));
        }
    }

    /// Shows what is still held back.
    pub fn finish(&mut self) {
        if let Some(output) = &mut self.output {
            output.finish();
        }
    }

    /// A panic that did not end the cell: of another thread, or caught.
    pub fn show_panic(&mut self, panic: &Panic) {
        if panic.thread != "main" {
            let text = format!("thread '{}' panicked: {}\n", panic.thread, panic.message);
            self.emit(Event::Text(Stream::Err, text));
        }
    }
}

impl EngineState {
    pub fn new() -> EngineState {
        EngineState {
            phase: Mutex::new(Phase::Starting("the kernel is starting".to_string())),
            cell: Mutex::default(),
            control: Mutex::default(),
            child: OnceLock::new(),
            folder: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            interrupted: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            compiler_stopped: AtomicBool::new(false),
            process: AtomicU64::new(0),
            serial: AtomicUsize::new(0),
        }
    }

    pub fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    pub fn enter(&self, phase: Phase) {
        *self.phase() = phase;
    }

    pub fn cell(&self) -> MutexGuard<'_, RunningCell> {
        lock(&self.cell)
    }

    pub fn notice(&self) -> Option<String> {
        match &*self.phase() {
            Phase::Starting(what) => Some(what.clone()),
            Phase::Compiling => {
                let notices = std::fs::read_to_string(self.folder.get()?.join(protocol::NOTICES)).ok()?;
                notices.lines().last().map(str::to_string)
            }
            _ => None,
        }
    }

    /// Sends a line to evcxr, by way of the child.
    pub fn send_to_evcxr(&self, line: &str) {
        let mut control = lock(&self.control);
        if let Some(control) = control.as_mut() {
            // A process that is gone may have left its lines unread.
            let process = self.process.load(SeqCst);
            let _ = control.write_all(format!("{process} {line}\n").as_bytes());
        }
    }

    pub fn take(&self, stream: Stream, item: OutputItem) {
        let mut cell = self.cell();
        match item {
            OutputItem::Text(text) => cell.emit(Event::Text(stream, text)),
            OutputItem::Display(bundle, id) => cell.emit(Event::Display(bundle, id)),
            OutputItem::Update(bundle, id) => cell.emit(Event::Update(bundle, id)),
            OutputItem::Clear { wait } => cell.emit(Event::Clear { wait }),
            OutputItem::Result(bundle) => {
                cell.flush();
                cell.last = Some(bundle);
            }
            OutputItem::Panic(panic) => {
                if let Some(earlier) = cell.panic.replace(panic) {
                    cell.show_panic(&earlier);
                }
            }
            OutputItem::EarlyReturn(early_return) => cell.early_return = Some(early_return),
            OutputItem::Control(line) => {
                cell.panicked |= line == PANIC_LINE;
                drop(cell);
                self.send_to_evcxr(&line);
            }
            OutputItem::Begin(process) => {
                drop(cell);
                self.process.store(process, SeqCst);
                self.forget_compiler();
                let mut phase = self.phase();
                // What the start itself runs is no cell.
                if *phase == Phase::Compiling {
                    *phase = Phase::Running;
                }
            }
            OutputItem::Gone => cell.streams_done[stream as usize] = true,
            OutputItem::Done => {
                cell.streams_done[stream as usize] = true;
                if cell.streams_done == [true, true] {
                    cell.streams_done = [false, false];
                    drop(cell);
                    self.send_to_evcxr("EVCXR_EXECUTION_COMPLETE");
                }
            }
        }
    }

    #[cfg(unix)]
    pub fn stop_compiler(&self) {
        let Some(folder) = self.folder.get() else { return };
        let group = std::fs::read_to_string(folder.join(protocol::COMPILER))
            .ok()
            .and_then(|id| id.trim().parse().ok());
        if let Some(group) = group.filter(|group: &i32| *group > 1) {
            // SAFETY: a signal to the group that the stand-in for cargo made of itself for this cell.
            if unsafe { libc::kill(-group, libc::SIGKILL) } == 0 {
                self.compiler_stopped.store(true, SeqCst);
            }
        }
    }

    #[cfg(not(unix))]
    pub fn stop_compiler(&self) {}

    /// Its id may be another's by and by.
    pub fn forget_compiler(&self) {
        if let Some(folder) = self.folder.get() {
            let _ = std::fs::remove_file(folder.join(protocol::COMPILER));
        }
    }

    pub fn signal_child(&self, kill: bool) {
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
