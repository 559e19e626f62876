//! The Jupyter protocol: messages in, the engine asked, messages out.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::time::Duration;

use jupyter_protocol::{
    ConnectionInfo, Header, HistoryRequest, JupyterMessage, JupyterMessageContent as Content, UnknownMessage,
};
use jupyter_zmq_client as zmq;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zeromq::SocketRecv;

use crate::Result;
use crate::cell::report::Failure;
use crate::engine::handle::{Completions, Engine, Event, Stream};
use crate::engine::output::Bundle;
use crate::jupyter::completeness;
use crate::jupyter::history::History;
use crate::lock;
use crate::run::stop::{Signal, Signals};

/// So many messages may wait to be sent.
const MANY: usize = 100;

/// Runs a kernel until it is told to shut down.
pub fn serve(connection_file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(connection_file).map_err(|error| {
        format!("the connection file {} cannot be read: {error}", connection_file.display())
    })?;
    let connection: ConnectionInfo = serde_json::from_str(&text)
        .map_err(|error| format!("{} is no connection file: {error}", connection_file.display()))?;
    // The engine first: it sets the environment, and nothing else may read that meanwhile.
    let engine = Engine::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(answer(&connection, engine))
}

/// What the tasks share.
#[derive(Clone)]
struct Kernel {
    engine: Engine,
    iopub: mpsc::UnboundedSender<JupyterMessage>,
    /// How many messages wait there.
    waiting: Arc<AtomicUsize>,
    shell: mpsc::UnboundedSender<JupyterMessage>,
    stdin: mpsc::UnboundedSender<JupyterMessage>,
    /// Who waits for a line from the user.
    answers: Arc<Mutex<Option<blocking::Sender<String>>>>,
    history: Arc<History>,
    count: Arc<AtomicUsize>,
}

async fn answer(connection: &ConnectionInfo, engine: Engine) -> Result<()> {
    let session = format!("{:016x}", crate::random());
    let mut heartbeat = zmq::create_kernel_heartbeat_connection(connection).await?;
    let mut iopub = zmq::create_kernel_iopub_connection(connection, &session).await?;
    let (mut shell_out, mut shell) = zmq::create_kernel_shell_connection(connection, &session).await?.split();
    let (mut control_out, mut control) =
        zmq::create_kernel_control_connection(connection, &session).await?.split();
    let (mut stdin_out, mut stdin) = zmq::create_kernel_stdin_connection(connection, &session).await?.split();

    let (to_iopub, mut for_iopub) = mpsc::unbounded_channel::<JupyterMessage>();
    let (to_shell, mut for_shell) = mpsc::unbounded_channel();
    let (to_stdin, mut for_stdin) = mpsc::unbounded_channel();
    let (jobs, incoming) = mpsc::unbounded_channel();
    let kernel = Kernel {
        engine: engine.clone(),
        iopub: to_iopub,
        waiting: Arc::default(),
        shell: to_shell,
        stdin: to_stdin,
        answers: Arc::default(),
        history: Arc::new(History::open()),
        count: Arc::default(),
    };

    tokio::spawn(async move {
        loop {
            if heartbeat.single_heartbeat().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let waiting = kernel.waiting.clone();
    tokio::spawn(async move {
        let mut next = None;
        loop {
            let Some(message) = (match next.take() {
                Some(message) => Some(message),
                None => for_iopub.recv().await,
            }) else {
                break;
            };
            let (message, after) = with_more_text(message, &mut for_iopub);
            next = after;
            let _ = iopub.send(message).await;
            waiting.store(for_iopub.len(), SeqCst);
        }
    });
    tokio::spawn(async move {
        while let Some(message) = for_shell.recv().await {
            let _ = shell_out.send(message).await;
        }
    });
    tokio::spawn(async move {
        while let Some(message) = for_stdin.recv().await {
            let _ = stdin_out.send(message).await;
        }
    });
    tokio::spawn(run_cells(kernel.clone(), incoming));
    let of_stdin = kernel.clone();
    tokio::spawn(async move {
        loop {
            let Some(message) = next_message(read(&mut stdin).await).await else { continue };
            if let Content::InputReply(reply) = message.content
                && let Some(waiting) = lock(&of_stdin.answers).take()
            {
                let _ = waiting.send(reply.value);
            }
        }
    });
    let of_shell = kernel.clone();
    tokio::spawn(async move {
        loop {
            let Some(message) = next_message(read(&mut shell).await).await else { continue };
            match &message.content {
                Content::ExecuteRequest(_) => drop(jobs.send(message)),
                _ => of_shell.clone().reply_to(message),
            }
        }
    });

    let gone = end_of_parent();
    tokio::pin!(gone);
    let mut signals = Signals::new()?;
    loop {
        let message = tokio::select! {
            message = read(&mut control) => next_message(message).await,
            () = &mut gone => break,
            signal = signals.next() => match signal {
                Signal::Interrupt => { engine.interrupt(); continue }
                Signal::Terminate => break,
            },
        };
        let Some(message) = message else { continue };
        kernel.status("busy", &message);
        let mut last = false;
        let reply = match &message.content {
            Content::ShutdownRequest(request) => {
                last = true;
                Some(reply("shutdown_reply", json!({"status": "ok", "restart": request.restart}), &message))
            }
            Content::InterruptRequest(_) => {
                engine.interrupt();
                Some(reply("interrupt_reply", json!({"status": "ok"}), &message))
            }
            Content::KernelInfoRequest(_) => Some(reply("kernel_info_reply", about(), &message)),
            _ => None,
        };
        if let Some(reply) = reply {
            let _ = control_out.send(reply).await;
        }
        kernel.status("idle", &message);
        if last {
            // The reply and the status are still on their way.
            tokio::time::sleep(Duration::from_millis(60)).await;
            break;
        }
    }
    engine.quit();
    std::process::exit(0)
}

/// Reads one message. Its signature is checked; content that is not as it should be is kept as it came, to be answered.
async fn read<S: SocketRecv>(connection: &mut zmq::Connection<S>) -> Result<JupyterMessage> {
    let raw = zmq::RawMessage::from_multipart(connection.socket.recv().await?, &connection.mac)?;
    let part = |at: usize| raw.jparts.get(at).map(|part| &part[..]).unwrap_or_default();
    let header: Header = serde_json::from_slice(part(0))?;
    let content: Value = serde_json::from_slice(part(3))?;
    let content = with_defaults(&header.msg_type, content);
    let parsed = Content::from_type_and_content(&header.msg_type, content.clone());
    let content = parsed.unwrap_or_else(|error| {
        let content = json!({"unreadable": error.to_string()});
        Content::UnknownMessage(UnknownMessage { msg_type: header.msg_type.clone(), content })
    });
    Ok(JupyterMessage {
        parent_header: serde_json::from_slice(part(1)).ok(),
        metadata: serde_json::from_slice(part(2)).unwrap_or_default(),
        zmq_identities: raw.zmq_identities,
        header,
        content,
        buffers: Vec::new(),
        channel: None,
    })
}

/// Clients may leave out what the protocol has a default for.
fn with_defaults(kind: &str, mut content: Value) -> Value {
    let defaults = match kind {
        "history_request" => {
            json!({"n": 1000, "unique": false, "output": false, "raw": true, "session": 0, "start": 0, "stop": 0, "pattern": "*"})
        }
        "execute_request" => {
            json!({"silent": false, "store_history": true, "allow_stdin": true, "stop_on_error": true})
        }
        "inspect_request" => json!({"detail_level": 0}),
        "shutdown_request" => json!({"restart": false}),
        _ => return content,
    };
    if let (Some(given), Some(defaults)) = (content.as_object_mut(), defaults.as_object()) {
        for (name, value) in defaults {
            if given.get(name).is_none_or(Value::is_null) {
                given.insert(name.clone(), value.clone());
            }
        }
    }
    content
}

/// A message, if one came; what is damaged or forged is passed over.
async fn next_message(message: Result<JupyterMessage>) -> Option<JupyterMessage> {
    match message {
        Ok(message) => Some(message),
        Err(error) => {
            eprintln!("headlight-kernel: a message was passed over: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
            None
        }
    }
}

/// Text that waits behind text of the same kind goes out with it.
fn with_more_text(
    mut message: JupyterMessage,
    waiting: &mut mpsc::UnboundedReceiver<JupyterMessage>,
) -> (JupyterMessage, Option<JupyterMessage>) {
    while message.header.msg_type == "stream" {
        let Ok(next) = waiting.try_recv() else { break };
        let (Content::UnknownMessage(text), Content::UnknownMessage(more)) =
            (&mut message.content, &next.content)
        else {
            return (message, Some(next));
        };
        let parent =
            |message: &JupyterMessage| message.parent_header.as_ref().map(|header| header.msg_id.clone());
        let same = next.header.msg_type == "stream"
            && text.content["name"] == more.content["name"]
            && message.parent_header.as_ref().map(|header| &header.msg_id) == parent(&next).as_ref();
        let joined = text.content["text"].as_str().zip(more.content["text"].as_str());
        match joined.filter(|(text, _)| same && text.len() < 1 << 20) {
            Some((text_so_far, more)) => text.content["text"] = format!("{text_so_far}{more}").into(),
            None => return (message, Some(next)),
        }
    }
    (message, None)
}

impl Kernel {
    fn publish(&self, kind: &str, content: Value, parent: &JupyterMessage) {
        self.waiting.fetch_add(1, SeqCst);
        let _ = self.iopub.send(reply(kind, content, parent));
    }

    fn status(&self, state: &str, parent: &JupyterMessage) {
        self.publish("status", json!({"execution_state": state}), parent);
    }

    /// Answers what is asked on the shell channel beside cells, at once.
    fn reply_to(self, message: JupyterMessage) {
        let waits = matches!(message.content, Content::CompleteRequest(_) | Content::InspectRequest(_));
        if waits {
            tokio::task::spawn_blocking(move || self.reply_now(&message));
        } else {
            self.reply_now(&message);
        }
    }

    fn reply_now(&self, message: &JupyterMessage) {
        self.status("busy", message);
        let answer = match &message.content {
            Content::KernelInfoRequest(_) => Some(("kernel_info_reply", about())),
            Content::CompleteRequest(request) => {
                Some(("complete_reply", self.complete(&request.code, request.cursor_pos)))
            }
            Content::InspectRequest(request) => {
                Some(("inspect_reply", self.inspect(&request.code, request.cursor_pos)))
            }
            Content::IsCompleteRequest(request) => {
                Some(("is_complete_reply", completeness::of(&request.code).reply()))
            }
            Content::HistoryRequest(request) => Some(("history_reply", self.recall(request))),
            Content::CommInfoRequest(_) => Some(("comm_info_reply", json!({"status": "ok", "comms": {}}))),
            Content::CommOpen(open) => {
                self.publish("comm_close", json!({"comm_id": open.comm_id.0, "data": {}}), message);
                None
            }
            Content::ShutdownRequest(_) => {
                // Old clients ask here.
                let _ = self.shell.send(reply(
                    "shutdown_reply",
                    json!({"status": "ok", "restart": false}),
                    message,
                ));
                self.engine.quit();
                std::thread::sleep(Duration::from_millis(60));
                std::process::exit(0);
            }
            _ => None,
        };
        if let Some((kind, content)) = answer {
            let _ = self.shell.send(reply(kind, content, message));
        } else if let (Content::UnknownMessage(unknown), Some(kind)) =
            (&message.content, message.header.msg_type.strip_suffix("_request"))
        {
            let why =
                unknown.content["unreadable"].as_str().unwrap_or("this kernel does not know such a request");
            let content = json!({"status": "error", "ename": "request", "evalue": why, "traceback": []});
            let _ = self.shell.send(reply(&format!("{kind}_reply"), content, message));
        }
        self.status("idle", message);
    }

    fn complete(&self, code: &str, cursor: usize) -> Value {
        let Completions { items, range } = self.engine.complete(code, byte_of(code, cursor));
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
        let data = match self.engine.inspect(code, byte_of(code, cursor)) {
            Some((text, html)) => json!({"text/plain": text, "text/html": html}),
            None => json!({}),
        };
        let found = data.as_object().is_some_and(|forms| !forms.is_empty());
        json!({"status": "ok", "found": found, "data": data, "metadata": {}})
    }

    fn recall(&self, request: &HistoryRequest) -> Value {
        let (entries, output) = match request {
            HistoryRequest::Tail { n, output, .. } => (self.history.tail(at_least_0(*n)), *output),
            HistoryRequest::Range { session, start, stop, output, .. } => {
                (self.history.range(session.unwrap_or(0), at_least_0(*start), *stop), *output)
            }
            HistoryRequest::Search { pattern, unique, n, output, .. } => {
                (self.history.search(pattern, *unique, at_least_0(*n)), *output)
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
    fn run_cell(&self, message: &JupyterMessage) -> Option<JupyterMessage> {
        let Content::ExecuteRequest(request) = &message.content else { return None };
        self.status("busy", message);
        let counted = request.store_history && !request.silent && !request.code.trim().is_empty();
        let count = self.count.fetch_add(usize::from(counted), SeqCst) + usize::from(counted);
        if !request.silent {
            self.publish("execute_input", json!({"code": request.code, "execution_count": count}), message);
        }
        let (shown, asked) = (self.clone(), self.clone());
        let (of_shown, of_asked) = (message.clone(), message.clone());
        let silent = request.silent;
        let may_ask = request.allow_stdin;
        let outcome = match request.code.trim().is_empty() {
            true => Ok(None),
            false => self.engine.execute(
                &request.code,
                // What is not counted is no cell that one could be sent back to.
                if counted { count } else { 0 },
                Arc::new(move |event| {
                    if !silent {
                        shown.show(event, &of_shown);
                    }
                }),
                Arc::new(move |prompt, password| {
                    may_ask.then(|| asked.ask(prompt, password, &of_asked)).flatten()
                }),
            ),
        };
        let output = outcome
            .as_ref()
            .ok()
            .and_then(|value| value.as_ref()?.data.get("text/plain")?.as_str().map(str::to_string));
        if counted {
            self.history.add(count, &request.code, output);
        }
        let content = match outcome {
            Ok(value) => {
                if let Some(Bundle { data, metadata }) = value.filter(|_| !silent) {
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
    fn abort(&self, message: &JupyterMessage) {
        self.status("busy", message);
        let content = json!({"status": "aborted", "execution_count": self.count.load(SeqCst)});
        let _ = self.shell.send(reply("execute_reply", content, message));
        self.status("idle", message);
    }

    fn show(&self, event: Event, parent: &JupyterMessage) {
        // A cell that shows faster than can be sent waits.
        while self.waiting.load(SeqCst) > MANY {
            std::thread::sleep(Duration::from_millis(1));
        }
        let transient = |id: &Option<String>| match id {
            Some(id) => json!({"display_id": id}),
            None => json!({}),
        };
        match event {
            Event::Text(stream, text) => {
                let name = if stream == Stream::Out { "stdout" } else { "stderr" };
                self.publish("stream", json!({"name": name, "text": text}), parent);
            }
            Event::Display(Bundle { data, metadata }, id) => {
                let content = json!({"data": data, "metadata": metadata, "transient": transient(&id)});
                self.publish("display_data", content, parent);
            }
            Event::Update(Bundle { data, metadata }, id) => {
                let content = json!({"data": data, "metadata": metadata, "transient": transient(&Some(id))});
                self.publish("update_display_data", content, parent);
            }
            Event::Clear { wait } => self.publish("clear_output", json!({"wait": wait}), parent),
        }
    }

    /// Asks the user for a line; none if the cell is interrupted first.
    fn ask(&self, prompt: &str, password: bool, parent: &JupyterMessage) -> Option<String> {
        let (answer, answered) = blocking::channel();
        *lock(&self.answers) = Some(answer);
        let _ =
            self.stdin.send(reply("input_request", json!({"prompt": prompt, "password": password}), parent));
        loop {
            match answered.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Some(line),
                Err(blocking::RecvTimeoutError::Timeout) if !self.engine.is_interrupted() => {}
                Err(_) => return None,
            }
        }
    }
}

/// One cell after the other. Those that were sent before the user could see one fail are not run.
async fn run_cells(kernel: Kernel, mut incoming: mpsc::UnboundedReceiver<JupyterMessage>) {
    while let Some(message) = incoming.recv().await {
        let (of_cell, cell) = (kernel.clone(), message.clone());
        let reply = tokio::task::spawn_blocking(move || of_cell.run_cell(&cell)).await.ok().flatten();
        let failed = matches!(reply.as_ref().map(|reply| &reply.content), Some(Content::UnknownMessage(answer)) if answer.content["status"] == "error");
        let stop = matches!(&message.content, Content::ExecuteRequest(request) if request.stop_on_error && !request.silent);
        let mut unseen = Vec::new();
        if failed && stop {
            // What "Run All" sent may still be on the wire; who waits for the reply has sent nothing yet.
            tokio::time::sleep(Duration::from_millis(30)).await;
            while let Ok(waiting) = incoming.try_recv() {
                unseen.push(waiting);
            }
        }
        if let Some(reply) = reply {
            let _ = kernel.shell.send(reply);
        }
        kernel.status("idle", &message);
        unseen.iter().for_each(|message| kernel.abort(message));
    }
}

fn reply(kind: &str, content: Value, parent: &JupyterMessage) -> JupyterMessage {
    JupyterMessage::new(UnknownMessage { msg_type: kind.to_string(), content }, Some(parent))
}

fn about() -> Value {
    json!({
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": "headlight",
        "implementation_version": env!("CARGO_PKG_VERSION"),
        "banner": format!("headlight {}: look inside transformers, in Rust", env!("CARGO_PKG_VERSION")),
        "help_links": [
            {"text": "Rust by example", "url": "https://doc.rust-lang.org/rust-by-example/"},
            {"text": "The standard library", "url": "https://doc.rust-lang.org/std/"},
        ],
        "language_info": language_info(),
    })
}

/// The language, as notebooks note it.
pub fn language_info() -> Value {
    json!({
        "name": "rust",
        "version": "",
        "mimetype": "text/rust",
        "file_extension": ".rs",
        "pygments_lexer": "rust",
        "codemirror_mode": "rust",
    })
}

fn byte_of(code: &str, character: usize) -> usize {
    code.char_indices().nth(character).map_or(code.len(), |(at, _)| at)
}

fn characters_before(code: &str, byte: usize) -> usize {
    code.char_indices().take_while(|(at, _)| *at < byte).count()
}

fn at_least_0(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// Waits until whoever started this kernel is gone, if it told who it is.
async fn end_of_parent() {
    #[cfg(unix)]
    if std::env::var_os("JPY_PARENT_PID").is_some() {
        // SAFETY: getppid cannot fail.
        let parent = unsafe { libc::getppid() };
        while unsafe { libc::getppid() } == parent {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        return;
    }
    std::future::pending().await
}
