//! Messages of Jupyter: read, made, and texts of them joined.

use std::time::Duration;

use jupyter_protocol::{Header, JupyterMessage, JupyterMessageContent as Content, UnknownMessage};
use jupyter_zmq_client as zmq;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zeromq::SocketRecv;

use crate::Result;

/// The next message; none if it is damaged or forged, and passed over.
pub async fn receive<S: SocketRecv>(connection: &mut zmq::Connection<S>) -> Option<JupyterMessage> {
    match read(connection).await {
        Ok(message) => Some(message),
        Err(error) => {
            eprintln!("headlight-kernel: a message was passed over: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
            None
        }
    }
}

/// Reads one message. Its signature is checked; content that is not as it should be is kept as it came, to be answered.
async fn read<S: SocketRecv>(connection: &mut zmq::Connection<S>) -> Result<JupyterMessage> {
    let raw = zmq::RawMessage::from_multipart(connection.socket.recv().await?, &connection.mac)?;
    let part = |at: usize| raw.jparts.get(at).map(|part| &part[..]).unwrap_or_default();
    let header: Header = serde_json::from_slice(part(0))?;
    let content: Value = serde_json::from_slice(part(3))?;
    let content = fill_defaults(&header.msg_type, content);
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
fn fill_defaults(kind: &str, mut content: Value) -> Value {
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
    if let (Some(fields), Some(defaults)) = (content.as_object_mut(), defaults.as_object()) {
        for (name, value) in defaults {
            if fields.get(name).is_none_or(Value::is_null) {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
    content
}

/// Text that waits behind text of the same kind goes out with it.
pub fn merge_waiting_text(
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
        let is_same = next.header.msg_type == "stream"
            && text.content["name"] == more.content["name"]
            && message.parent_header.as_ref().map(|header| &header.msg_id) == parent(&next).as_ref();
        let texts = text.content["text"].as_str().zip(more.content["text"].as_str());
        match texts.filter(|(text, _)| is_same && text.len() < 1 << 20) {
            Some((text_so_far, more)) => text.content["text"] = format!("{text_so_far}{more}").into(),
            None => return (message, Some(next)),
        }
    }
    (message, None)
}

/// A message that answers another, or tells of what it has begun.
pub fn reply(kind: &str, content: Value, parent: &JupyterMessage) -> JupyterMessage {
    JupyterMessage::new(UnknownMessage { msg_type: kind.to_string(), content }, Some(parent))
}
