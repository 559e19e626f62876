//! The kernel's sockets: a task for each direction of each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use jupyter_protocol::{ConnectionInfo, JupyterMessage, JupyterMessageContent as Content};
use jupyter_zmq_client as zmq;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zeromq::SocketSend;

use crate::Result;
use crate::engine::handle::Engine;
use crate::jupyter::kernel::{Kernel, kernel_info};
use crate::jupyter::message::{merge_waiting_text, receive, reply};
use crate::process::parent_exit;
use crate::terminal::signals::{Signal, Signals};

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
    runtime.block_on(serve_sockets(&connection, engine))
}

async fn serve_sockets(connection: &ConnectionInfo, engine: Engine) -> Result<()> {
    let session = format!("{:016x}", getrandom::u64()?);
    let heartbeat = zmq::create_kernel_heartbeat_connection(connection).await?;
    let iopub = zmq::create_kernel_iopub_connection(connection, &session).await?;
    let (shell_out, shell) = zmq::create_kernel_shell_connection(connection, &session).await?.split();
    let control = zmq::create_kernel_control_connection(connection, &session).await?;
    let (stdin_out, stdin) = zmq::create_kernel_stdin_connection(connection, &session).await?.split();

    let (to_iopub, for_iopub) = unbounded_channel();
    let (to_shell, for_shell) = unbounded_channel();
    let (to_stdin, for_stdin) = unbounded_channel();
    let (to_cells, for_cells) = unbounded_channel();
    let kernel = Kernel::new(engine.clone(), to_iopub, to_shell, to_stdin);

    tokio::spawn(beat(heartbeat));
    tokio::spawn(publish_all(iopub, for_iopub, kernel.waiting.clone()));
    tokio::spawn(send_all(shell_out, for_shell));
    tokio::spawn(send_all(stdin_out, for_stdin));
    tokio::spawn(run_cells(kernel.clone(), for_cells));
    tokio::spawn(serve_stdin(kernel.clone(), stdin));
    tokio::spawn(serve_shell(kernel.clone(), shell, to_cells));
    serve_control(&kernel, control).await?;
    engine.quit();
    std::process::exit(0)
}

async fn beat(mut heartbeat: zmq::KernelHeartbeatConnection) {
    loop {
        if heartbeat.single_heartbeat().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn publish_all(
    mut iopub: zmq::KernelIoPubConnection,
    mut messages: UnboundedReceiver<JupyterMessage>,
    waiting: Arc<AtomicUsize>,
) {
    let mut next = None;
    loop {
        let Some(message) = (match next.take() {
            Some(message) => Some(message),
            None => messages.recv().await,
        }) else {
            break;
        };
        let (message, after) = merge_waiting_text(message, &mut messages);
        next = after;
        let _ = iopub.send(message).await;
        waiting.store(messages.len(), SeqCst);
    }
}

async fn send_all<S: SocketSend>(
    mut socket: zmq::Connection<S>,
    mut messages: UnboundedReceiver<JupyterMessage>,
) {
    while let Some(message) = messages.recv().await {
        let _ = socket.send(message).await;
    }
}

async fn serve_stdin(kernel: Kernel, mut stdin: zmq::RouterRecvConnection) {
    loop {
        if let Some(JupyterMessage { content: Content::InputReply(reply), .. }) = receive(&mut stdin).await {
            kernel.take_input(reply.value);
        }
    }
}

async fn serve_shell(
    kernel: Kernel,
    mut shell: zmq::RouterRecvConnection,
    cells: UnboundedSender<JupyterMessage>,
) {
    loop {
        let Some(message) = receive(&mut shell).await else { continue };
        match &message.content {
            Content::ExecuteRequest(_) => drop(cells.send(message)),
            _ => kernel.clone().reply_to(message),
        }
    }
}

/// Ends when the kernel is to end: by a message, a signal, or with the process that started it.
async fn serve_control(kernel: &Kernel, control: zmq::KernelControlConnection) -> Result<()> {
    let (mut control_out, mut control) = control.split();
    let parent = parent_exit();
    tokio::pin!(parent);
    let mut signals = Signals::new()?;
    loop {
        let message = tokio::select! {
            message = receive(&mut control) => message,
            () = &mut parent => return Ok(()),
            signal = signals.next() => match signal {
                Signal::Interrupt => { kernel.engine.interrupt(); continue }
                Signal::Terminate => return Ok(()),
            },
        };
        let Some(message) = message else { continue };
        kernel.publish_status("busy", &message);
        let answer = match &message.content {
            Content::ShutdownRequest(request) => {
                Some(("shutdown_reply", json!({"status": "ok", "restart": request.restart})))
            }
            Content::InterruptRequest(_) => {
                kernel.engine.interrupt();
                Some(("interrupt_reply", json!({"status": "ok"})))
            }
            Content::KernelInfoRequest(_) => Some(("kernel_info_reply", kernel_info())),
            _ => None,
        };
        if let Some((kind, content)) = answer {
            let _ = control_out.send(reply(kind, content, &message)).await;
        }
        kernel.publish_status("idle", &message);
        if matches!(message.content, Content::ShutdownRequest(_)) {
            // The reply and the status are still on their way.
            tokio::time::sleep(Duration::from_millis(60)).await;
            return Ok(());
        }
    }
}

/// One cell after the other. Those that were sent before the user could see one fail are not run.
async fn run_cells(kernel: Kernel, mut incoming: UnboundedReceiver<JupyterMessage>) {
    while let Some(message) = incoming.recv().await {
        let (runner, cell) = (kernel.clone(), message.clone());
        let reply = tokio::task::spawn_blocking(move || runner.run_cell(&cell)).await.ok().flatten();
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
            kernel.send_reply(reply);
        }
        kernel.publish_status("idle", &message);
        unseen.iter().for_each(|message| kernel.abort(message));
    }
}
