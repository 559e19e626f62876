//! What the kernel answers to each request.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::time::Duration;

use jupyter_protocol::{HistoryRequest, JupyterMessage, JupyterMessageContent as Content};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::cell::report::Failure;
use crate::engine::event::{Event, MimeBundle};
use crate::engine::handle::Engine;
use crate::engine::worker::{Completions, Inspection};
use crate::jupyter::completeness;
use crate::jupyter::history::History;
use crate::jupyter::message::reply;
use crate::notebook::{KERNEL_NAME, language_info};
use crate::sync::lock;

/// So many messages may wait to be sent.
const MAX_WAITING: usize = 100;

/// What the tasks share.
#[derive(Clone)]
pub struct Kernel {
    pub engine: Engine,
    iopub: UnboundedSender<JupyterMessage>,
    /// How many messages wait there.
    pub waiting: Arc<AtomicUsize>,
    shell: UnboundedSender<JupyterMessage>,
    stdin: UnboundedSender<JupyterMessage>,
    /// Who waits for a line from the user.
    input: Arc<Mutex<Option<blocking::Sender<String>>>>,
    history: Arc<History>,
    count: Arc<AtomicUsize>,
}

impl Kernel {
    pub fn new(
        engine: Engine,
        iopub: UnboundedSender<JupyterMessage>,
        shell: UnboundedSender<JupyterMessage>,
        stdin: UnboundedSender<JupyterMessage>,
    ) -> Kernel {
        Kernel {
            engine,
            iopub,
            waiting: Arc::default(),
            shell,
            stdin,
            input: Arc::default(),
            history: Arc::new(History::open()),
            count: Arc::default(),
        }
    }

    fn publish(&self, kind: &str, content: Value, parent: &JupyterMessage) {
        self.waiting.fetch_add(1, SeqCst);
        let _ = self.iopub.send(reply(kind, content, parent));
    }

    pub fn publish_status(&self, state: &str, parent: &JupyterMessage) {
        self.publish("status", json!({"execution_state": state}), parent);
    }

    pub fn send_reply(&self, message: JupyterMessage) {
        let _ = self.shell.send(message);
    }

    /// Answers what is asked on the shell channel beside cells, at once.
    pub fn reply_to(self, message: JupyterMessage) {
        let asks_engine = matches!(message.content, Content::CompleteRequest(_) | Content::InspectRequest(_));
        if asks_engine {
            tokio::task::spawn_blocking(move || self.reply_now(&message));
        } else {
            self.reply_now(&message);
        }
    }

    fn reply_now(&self, message: &JupyterMessage) {
        self.publish_status("busy", message);
        let answer = match &message.content {
            Content::KernelInfoRequest(_) => Some(("kernel_info_reply", kernel_info())),
            Content::CompleteRequest(request) => {
                Some(("complete_reply", self.complete(&request.code, request.cursor_pos)))
            }
            Content::InspectRequest(request) => {
                Some(("inspect_reply", self.inspect(&request.code, request.cursor_pos)))
            }
            Content::IsCompleteRequest(request) => {
                Some(("is_complete_reply", completeness::check(&request.code).reply()))
            }
            Content::HistoryRequest(request) => Some(("history_reply", self.read_history(request))),
            Content::CommInfoRequest(_) => Some(("comm_info_reply", json!({"status": "ok", "comms": {}}))),
            Content::CommOpen(open) => {
                self.publish("comm_close", json!({"comm_id": open.comm_id.0, "data": {}}), message);
                None
            }
            Content::ShutdownRequest(_) => {
                // Old clients ask here.
                let content = json!({"status": "ok", "restart": false});
                self.send_reply(reply("shutdown_reply", content, message));
                self.engine.quit();
                std::thread::sleep(Duration::from_millis(60));
                std::process::exit(0);
            }
            _ => None,
        };
        if let Some((kind, content)) = answer {
            self.send_reply(reply(kind, content, message));
        } else if let (Content::UnknownMessage(unknown), Some(kind)) =
            (&message.content, message.header.msg_type.strip_suffix("_request"))
        {
            let why =
                unknown.content["unreadable"].as_str().unwrap_or("this kernel does not know such a request");
            let content = json!({"status": "error", "ename": "request", "evalue": why, "traceback": []});
            self.send_reply(reply(&format!("{kind}_reply"), content, message));
        }
        self.publish_status("idle", message);
    }

    fn complete(&self, code: &str, cursor: usize) -> Value {
        let Completions { items, range } = self.engine.complete(code, byte_offset(code, cursor));
        let (start, end) = (characters_before(code, range.start), characters_before(code, range.end));
        let matches: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
        let types: Vec<Value> = items
            .iter()
            .map(|item| {
                json!({"text": item.text, "type": item.kind, "signature": item.signature, "start": start, "end": end})
            })
            .collect();
        json!({
            "status": "ok",
            "matches": matches,
            "cursor_start": start,
            "cursor_end": end,
            "metadata": {"_jupyter_types_experimental": types},
        })
    }

    fn inspect(&self, code: &str, cursor: usize) -> Value {
        let data = match self.engine.inspect(code, byte_offset(code, cursor)) {
            Some(Inspection { text, html }) => json!({"text/plain": text, "text/html": html}),
            None => json!({}),
        };
        let found = data.as_object().is_some_and(|forms| !forms.is_empty());
        json!({"status": "ok", "found": found, "data": data, "metadata": {}})
    }

    fn read_history(&self, request: &HistoryRequest) -> Value {
        let (entries, output) = match request {
            HistoryRequest::Tail { n, output, .. } => (self.history.tail(non_negative(*n)), *output),
            HistoryRequest::Range { session, start, stop, output, .. } => {
                (self.history.range(session.unwrap_or(0), non_negative(*start), *stop), *output)
            }
            HistoryRequest::Search { pattern, unique, n, output, .. } => {
                (self.history.search(pattern, *unique, non_negative(*n)), *output)
            }
        };
        let entries: Vec<Value> = entries
            .into_iter()
            .map(|entry| match output {
                true => json!([entry.session, entry.line, [entry.input, entry.output]]),
                false => json!([entry.session, entry.line, entry.input]),
            })
            .collect();
        json!({"status": "ok", "history": entries})
    }

    /// Runs one cell to its end, and shows what it shows. The reply is not sent yet.
    pub fn run_cell(&self, message: &JupyterMessage) -> Option<JupyterMessage> {
        let Content::ExecuteRequest(request) = &message.content else { return None };
        self.publish_status("busy", message);
        let is_counted = request.store_history && !request.silent && !request.code.trim().is_empty();
        let count = self.count.fetch_add(usize::from(is_counted), SeqCst) + usize::from(is_counted);
        if !request.silent {
            self.publish("execute_input", json!({"code": request.code, "execution_count": count}), message);
        }
        let (output, input) = (self.clone(), self.clone());
        let (output_parent, input_parent) = (message.clone(), message.clone());
        let silent = request.silent;
        let may_ask = request.allow_stdin;
        let outcome = match request.code.trim().is_empty() {
            true => Ok(None),
            false => self.engine.execute(
                &request.code,
                // What is not counted is no cell that one could be sent back to.
                if is_counted { count } else { 0 },
                Arc::new(move |event| {
                    if !silent {
                        output.show(event, &output_parent);
                    }
                }),
                Arc::new(move |prompt, password| {
                    may_ask.then(|| input.ask(prompt, password, &input_parent)).flatten()
                }),
            ),
        };
        let output = outcome
            .as_ref()
            .ok()
            .and_then(|value| value.as_ref()?.data.get("text/plain")?.as_str().map(str::to_string));
        if is_counted {
            self.history.add(count, &request.code, output);
        }
        let content = match outcome {
            Ok(value) => {
                if let Some(MimeBundle { data, metadata }) = value.filter(|_| !silent) {
                    let content = json!({"execution_count": count, "data": data, "metadata": metadata, "transient": {}});
                    self.publish("execute_result", content, message);
                }
                json!({"status": "ok", "execution_count": count, "payload": [], "user_expressions": {}})
            }
            Err(Failure { name, value, traceback }) => {
                let mut content = json!({"ename": name, "evalue": value, "traceback": traceback});
                if !silent {
                    self.publish("error", content.clone(), message);
                }
                for (key, value) in [
                    ("status", json!("error")),
                    ("execution_count", json!(count)),
                    ("payload", json!([])),
                    ("user_expressions", json!({})),
                ] {
                    content[key] = value;
                }
                content
            }
        };
        Some(reply("execute_reply", content, message))
    }

    /// Answers a cell that is not run, because one before it failed.
    pub fn abort(&self, message: &JupyterMessage) {
        self.publish_status("busy", message);
        let content = json!({"status": "aborted", "execution_count": self.count.load(SeqCst)});
        let _ = self.shell.send(reply("execute_reply", content, message));
        self.publish_status("idle", message);
    }

    fn show(&self, event: Event, parent: &JupyterMessage) {
        // A cell that shows faster than can be sent waits.
        while self.waiting.load(SeqCst) > MAX_WAITING {
            std::thread::sleep(Duration::from_millis(1));
        }
        let transient = |id: &Option<String>| match id {
            Some(id) => json!({"display_id": id}),
            None => json!({}),
        };
        match event {
            Event::Text(stream, text) => {
                self.publish("stream", json!({"name": stream.name(), "text": text}), parent);
            }
            Event::Display(MimeBundle { data, metadata }, id) => {
                let content = json!({"data": data, "metadata": metadata, "transient": transient(&id)});
                self.publish("display_data", content, parent);
            }
            Event::Update(MimeBundle { data, metadata }, id) => {
                let content = json!({"data": data, "metadata": metadata, "transient": transient(&Some(id))});
                self.publish("update_display_data", content, parent);
            }
            Event::Clear { wait } => self.publish("clear_output", json!({"wait": wait}), parent),
        }
    }

    /// Hands on a line that the user has given.
    pub fn take_input(&self, line: String) {
        if let Some(input) = lock(&self.input).take() {
            let _ = input.send(line);
        }
    }

    /// Asks the user for a line; none if the cell is interrupted first.
    fn ask(&self, prompt: &str, password: bool, parent: &JupyterMessage) -> Option<String> {
        let (line, input) = blocking::channel();
        *lock(&self.input) = Some(line);
        let _ =
            self.stdin.send(reply("input_request", json!({"prompt": prompt, "password": password}), parent));
        loop {
            match input.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Some(line),
                Err(blocking::RecvTimeoutError::Timeout) if !self.engine.is_interrupted() => {}
                Err(_) => return None,
            }
        }
    }
}

pub fn kernel_info() -> Value {
    let mut language = language_info();
    language["version"] = "".into();
    json!({
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": KERNEL_NAME,
        "implementation_version": env!("CARGO_PKG_VERSION"),
        "banner": format!("headlight {}: look inside transformers, in Rust", env!("CARGO_PKG_VERSION")),
        "help_links": [
            {"text": "Rust by example", "url": "https://doc.rust-lang.org/rust-by-example/"},
            {"text": "The standard library", "url": "https://doc.rust-lang.org/std/"},
        ],
        "language_info": language,
    })
}

fn byte_offset(code: &str, character: usize) -> usize {
    code.char_indices().nth(character).map_or(code.len(), |(at, _)| at)
}

fn characters_before(code: &str, byte: usize) -> usize {
    code.char_indices().take_while(|(at, _)| *at < byte).count()
}

fn non_negative(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}
