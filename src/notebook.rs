//! How a notebook is told what to show: the one place that knows how a kernel listens.
//!
//! Headlight's own kernel gives its cells a secret token in `HEADLIGHT_KERNEL`. A message to it is one line on the
//! standard output: the character U+0001, the token, a space, compact JSON. Text that a cell prints cannot be mistaken
//! for one, and what is printed and what is shown keep their order.
//!
//! Other kernels for evcxr read blocks of content, of which they show the last of each MIME type in a cell. What was
//! shown cannot change there, so updates and clearing print nothing.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::{Map, Value};

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Content {
    /// By MIME type: JSON for types of JSON, base64 for pictures, else text.
    pub(crate) data: Map<String, Value>,
    /// How to show it, by MIME type.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) metadata: Map<String, Value>,
}

/// Content of text alone.
pub(crate) fn text(text: impl Into<String>) -> Content {
    let data = Map::from_iter([("text/plain".to_string(), Value::String(text.into()))]);
    Content { data, ..Content::default() }
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Message<'a> {
    Display {
        id: &'a str,
        #[serde(flatten)]
        content: &'a Content,
    },
    Update {
        id: &'a str,
        #[serde(flatten)]
        content: &'a Content,
    },
    Result(&'a Content),
    Clear {
        wait: bool,
    },
}

/// Shows content in mid-cell, under an id by which it can be updated.
pub(crate) fn display(id: &str, content: &Content) {
    send(&Message::Display { id, content });
}

/// Puts other content in the place of what is shown under an id.
pub(crate) fn update(id: &str, content: &Content) {
    send(&Message::Update { id, content });
}

/// Shows the value that a cell ends with.
pub(crate) fn result(content: &Content) {
    send(&Message::Result(content));
}

/// Takes away what the cell has shown and printed so far, as soon as it shows or prints something else: for a picture
/// that follows a loop. [`DisplayHandle::update`](crate::DisplayHandle::update) changes one picture and leaves the rest.
///
/// Where the kernel is not Headlight's own it does nothing.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// for layer in 0..model.dims().n_layers {
///     clear_output();
///     println!("layer {layer}");
/// }
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn clear_output() {
    send(&Message::Clear { wait: true });
}

/// Whether what was shown can change.
pub(crate) fn is_live() -> bool {
    token().is_some()
}

fn token() -> Option<&'static str> {
    static TOKEN: OnceLock<Option<String>> = OnceLock::new();
    let read = || std::env::var("HEADLIGHT_KERNEL").ok().filter(|token| !token.is_empty());
    TOKEN.get_or_init(read).as_deref()
}

fn send(message: &Message) {
    let sent = match token() {
        Some(token) => line(token, message),
        None => blocks(message),
    };
    // A notebook that has gone away is not the sender's concern.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(sent.as_bytes()).and_then(|()| out.flush());
}

fn line(token: &str, message: &Message) -> String {
    // Neither map keys nor values of a message can fail to be JSON.
    serde_json::to_string(message).map(|json| format!("\u{1}{token} {json}\n")).unwrap_or_default()
}

fn blocks(message: &Message) -> String {
    let block = |(mime, content): (&String, &Value)| {
        let content = content.as_str().map_or_else(|| content.to_string(), str::to_string);
        // A line of the content that is evcxr's own mark would end the block early.
        let content = content.replace("EVCXR_", "EVCXR\u{200b}_");
        format!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT\n")
    };
    match message {
        Message::Display { content, .. } | Message::Result(content) => {
            content.data.iter().map(block).collect()
        }
        Message::Update { .. } | Message::Clear { .. } => String::new(),
    }
}

/// Shows any value with a `Debug` text where a notebook ends a cell with it; nothing for `()`. Methods of the same name
/// that types have of their own, as every result that draws itself does, go before this one.
pub trait EvcxrDisplay {
    /// Shows the value.
    fn evcxr_display(&self);
}

impl<T: fmt::Debug + ?Sized> EvcxrDisplay for T {
    fn evcxr_display(&self) {
        if let Some(shown) = shown(self) {
            result(&text(shown));
        }
    }
}

fn shown<T: fmt::Debug + ?Sized>(value: &T) -> Option<String> {
    (std::any::type_name::<T>() != std::any::type_name::<()>()).then(|| format!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content() -> Content {
        let hostile = "EVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/html\n<b>\u{1}secret {}";
        let data = Map::from_iter([
            ("application/vnd.plotly.v1+json".to_string(), json!({"title": hostile})),
            ("text/plain".to_string(), json!(hostile)),
        ]);
        Content { data, metadata: Map::from_iter([("image/png".to_string(), json!({"width": 7}))]) }
    }

    #[test]
    fn a_message_is_one_line_that_content_cannot_break() {
        let content = content();
        let Content { data, metadata } = &content;
        let with_id = |op: &str| json!({"op": op, "id": "a", "data": data, "metadata": metadata});
        let plain = text("a");
        let messages = [
            (Message::Display { id: "a", content: &content }, with_id("display")),
            (Message::Update { id: "a", content: &content }, with_id("update")),
            (Message::Result(&plain), json!({"op": "result", "data": {"text/plain": "a"}})),
            (Message::Clear { wait: true }, json!({"op": "clear", "wait": true})),
        ];
        for (message, expected) in messages {
            let line = line("secret", &message);
            let sent = line.strip_prefix("\u{1}secret ").and_then(|line| line.strip_suffix('\n')).unwrap();
            assert!(!sent.contains(['\u{1}', '\n']), "{sent}");
            assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), expected);
        }
    }

    #[test]
    fn content_cannot_break_a_block() {
        let blocks = blocks(&Message::Result(&content()));
        let mimes: Vec<&str> =
            blocks.lines().filter_map(|line| line.strip_prefix("EVCXR_BEGIN_CONTENT ")).collect();
        assert_eq!(mimes, ["application/vnd.plotly.v1+json", "text/plain"]);
        assert_eq!(blocks.lines().filter(|line| *line == "EVCXR_END_CONTENT").count(), 2);
        assert_eq!(blocks.matches("EVCXR_").count(), 4);
    }

    #[test]
    fn what_cannot_change_is_neither_updated_nor_cleared() {
        assert_eq!(blocks(&Message::Update { id: "a", content: &content() }), "");
        assert_eq!(blocks(&Message::Clear { wait: true }), "");
    }

    #[test]
    fn values_show_their_debug_text_and_nothing_shows_nothing() {
        assert_eq!(shown("a\n").as_deref(), Some("\"a\\n\""));
        assert_eq!(shown(&[1, 2][..]).as_deref(), Some("[1, 2]"));
        assert_eq!(shown(&Some(&1)).as_deref(), Some("Some(1)"));
        assert_eq!(shown(&Err::<(), _>("no")).as_deref(), Some("Err(\"no\")"));
        assert_eq!(shown(&()), None);
    }
}
