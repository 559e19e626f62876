//! What a cell shows while it runs.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A value in several forms, by MIME type.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct MimeBundle {
    #[serde(default)]
    pub data: Map<String, Value>,
    /// How to show it, by MIME type.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl MimeBundle {
    pub fn text(text: &str) -> MimeBundle {
        [("text/plain".to_string(), text.into())].into_iter().collect()
    }
}

impl FromIterator<(String, Value)> for MimeBundle {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(forms: T) -> MimeBundle {
        MimeBundle { data: forms.into_iter().collect(), metadata: Map::new() }
    }
}

/// As evcxr's own kernel: what names itself JSON is JSON.
pub fn parse_value(mime: &str, content: String) -> Value {
    if mime.contains("json") {
        serde_json::from_str(&content).unwrap_or(Value::String(content))
    } else {
        Value::String(content)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stream {
    Out,
    Err,
}

impl Stream {
    /// As Jupyter calls it.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// What a cell shows while it runs.
#[derive(Clone, Debug)]
pub enum Event {
    Text(Stream, String),
    Display(MimeBundle, Option<String>),
    Update(MimeBundle, String),
    Clear { wait: bool },
}

/// An id for a display of the kernel's own.
pub fn notice_id() -> String {
    // No secret: at the worst two notices share a place.
    format!("headlight-notice-{:x}", getrandom::u64().unwrap_or_default())
}

/// Who is told of events.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;
