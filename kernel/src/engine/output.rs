//! What the process that runs the cells prints, taken apart: text for the reader, displays, and evcxr's control lines.

use serde_json::Value;

use crate::cell::report::{EarlyReturn, Panic};
use crate::engine::event::{MimeBundle, parse_value};

/// One thing that was printed.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputItem {
    Text(String),
    /// Shown in mid-cell; with a name if it is to be updated.
    Display(MimeBundle, Option<String>),
    Update(MimeBundle, String),
    /// What the cell ends with, if nothing follows.
    Result(MimeBundle),
    Clear {
        wait: bool,
    },
    Panic(Panic),
    /// The error that a `?` returned early with.
    EarlyReturn(EarlyReturn),
    /// A line that evcxr waits for.
    Control(String),
    /// The cell was compiled, and runs in the process with this id.
    Begin(u64),
    /// The cell is done, and all it printed to this stream has come.
    Done,
    /// The process that ran the cell is gone, and all it printed to this stream has come.
    Gone,
}

const BLOCK_BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
const BLOCK_END: &str = "EVCXR_END_CONTENT";
/// What evcxr itself reads. Of these a cell prints only the last as it is; the others it says under the token.
pub const PANIC_LINE: &str = "EVCXR_PANIC_NOTIFICATION";
const EARLY_RETURN_LINE: &str = "EVCXR_ERROR_OCCURRED";
const CHANGED_TYPE_LINE: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
const INPUT_REQUEST: &str = "EVCXR_INPUT_REQUEST";

/// Takes a stream of bytes apart, in whatever portions it comes.
pub struct OutputParser {
    mark: String,
    buffer: Vec<u8>,
    block: Option<Block>,
    /// Blocks in a row are the forms of one value, until something else is printed.
    bundle: MimeBundle,
}

struct Block {
    mime: String,
    lines: Vec<String>,
}

impl OutputParser {
    pub fn new(token: &str) -> OutputParser {
        OutputParser {
            mark: format!("\u{1}{token} "),
            buffer: Vec::new(),
            block: None,
            bundle: MimeBundle::default(),
        }
    }

    /// What these bytes complete. A marked line may begin anywhere in a line: text without a newline may precede it.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<OutputItem> {
        let mut items = Vec::new();
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            self.push_line(&String::from_utf8_lossy(&line), &mut items);
        }
        if self.block.is_none() {
            let length = self.showable_length();
            if length > 0 {
                let text: Vec<u8> = self.buffer.drain(..length).collect();
                self.push_text(&String::from_utf8_lossy(&text), &mut items);
            }
        }
        items
    }

    /// What is left when the process is gone.
    pub fn finish(&mut self) -> Vec<OutputItem> {
        let mut items = Vec::new();
        let rest = std::mem::take(&mut self.buffer);
        let unfinished = self.block.take().map(|block| block.lines.join("\n")).unwrap_or_default();
        self.push_text(&format!("{unfinished}{}", String::from_utf8_lossy(&rest)), &mut items);
        self.flush_bundle(&mut items);
        items
    }

    fn push_line(&mut self, line: &str, items: &mut Vec<OutputItem>) {
        let content = line.strip_suffix('\n').unwrap_or(line);
        if let Some(block) = &mut self.block {
            if content != BLOCK_END {
                block.lines.push(content.to_string());
                return;
            }
            if let Some(Block { mime, lines }) = self.block.take() {
                if self.bundle.data.contains_key(&mime) {
                    self.flush_bundle(items);
                }
                self.bundle.data.insert(mime.clone(), parse_value(&mime, lines.join("\n")));
            }
            return;
        }
        let Some(start) = self.markers().filter_map(|marker| content.find(marker)).min() else {
            return self.push_text(line, items);
        };
        let (before, marked) = content.split_at(start);
        self.push_text(before, items);
        if let Some(mime) = marked.strip_prefix(BLOCK_BEGIN) {
            self.block = Some(Block { mime: mime.trim().to_string(), lines: Vec::new() });
        } else if let Some(json) = marked.strip_prefix(&self.mark) {
            match serde_json::from_str(json) {
                Ok(message) => self.push_message(message, items),
                Err(_) => self.push_text(line, items),
            }
        } else {
            items.push(OutputItem::Control(marked.to_string()));
        }
    }

    fn push_message(&mut self, message: Value, items: &mut Vec<OutputItem>) {
        let data = || serde_json::from_value::<MimeBundle>(message.clone()).unwrap_or_default();
        let id = || message["id"].as_str().map(str::to_string);
        let op = message["op"].as_str().unwrap_or_default();
        if op != "panic" && op != "early_return" {
            self.flush_bundle(items);
        }
        match (op, id()) {
            ("display", id) => items.push(OutputItem::Display(data(), id)),
            ("update", Some(id)) => items.push(OutputItem::Update(data(), id)),
            ("result", _) => items.push(OutputItem::Result(data())),
            ("clear", _) => {
                items.push(OutputItem::Clear { wait: message["wait"].as_bool().unwrap_or(false) })
            }
            ("begin", _) => items.push(OutputItem::Begin(message["process"].as_u64().unwrap_or(0))),
            ("panicked", _) => items.push(OutputItem::Control(PANIC_LINE.to_string())),
            ("changed", _) => {
                let name = message["name"].as_str().unwrap_or_default();
                items.push(OutputItem::Control(format!("{CHANGED_TYPE_LINE}{name}")));
            }
            ("early_return", _) => {
                items.push(OutputItem::EarlyReturn(serde_json::from_value(message).unwrap_or_default()));
                items.push(OutputItem::Control(EARLY_RETURN_LINE.to_string()));
            }
            ("panic", _) => {
                items.push(OutputItem::Panic(serde_json::from_value(message).unwrap_or_default()))
            }
            ("done", _) => items.push(OutputItem::Done),
            ("gone", _) => {
                items.extend(self.finish());
                items.push(OutputItem::Gone);
            }
            _ => {}
        }
    }

    fn push_text(&mut self, text: &str, items: &mut Vec<OutputItem>) {
        if text.is_empty() {
            return;
        }
        self.flush_bundle(items);
        match items.last_mut() {
            Some(OutputItem::Text(before)) => before.push_str(text),
            _ => items.push(OutputItem::Text(text.to_string())),
        }
    }

    fn flush_bundle(&mut self, items: &mut Vec<OutputItem>) {
        if !self.bundle.data.is_empty() {
            items.push(OutputItem::Result(std::mem::take(&mut self.bundle)));
        }
    }

    fn markers(&self) -> impl Iterator<Item = &str> {
        [INPUT_REQUEST, BLOCK_BEGIN, self.mark.as_str()].into_iter()
    }

    /// How much of a line that has not ended yet can be shown: up to where a marker begins or may be about to.
    fn showable_length(&self) -> usize {
        let text = &self.buffer;
        let begins = |marker: &&str, at: usize| {
            let rest = &text[at..];
            let n = rest.len().min(marker.len());
            rest[..n] == marker.as_bytes()[..n]
        };
        let end = (0..text.len())
            .find(|at| matches!(text[*at], 1 | b'E') && self.markers().any(|marker| begins(&marker, *at)))
            .unwrap_or(text.len());
        // A character of several bytes may be on its way.
        match std::str::from_utf8(&text[..end]) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> OutputItem {
        OutputItem::Text(text.to_string())
    }

    fn bundle(mime: &str, content: &str) -> MimeBundle {
        [(mime.to_string(), Value::String(content.to_string()))].into_iter().collect()
    }

    /// Joins what portions of a stream leave apart.
    fn join_texts(items: Vec<OutputItem>) -> Vec<OutputItem> {
        let mut whole: Vec<OutputItem> = Vec::new();
        for item in items {
            match (whole.last_mut(), item) {
                (Some(OutputItem::Text(before)), OutputItem::Text(more)) => before.push_str(&more),
                (_, item) => whole.push(item),
            }
        }
        whole
    }

    #[test]
    fn a_stream_is_taken_apart_alike_in_all_portions() {
        let stream = "plain é\nno newline\u{1}T {\"op\":\"display\",\"data\":{\"text/plain\":\"a\"},\"id\":\"7\"}\n\
            \rEVCXR and EVCXR_\nEVCXR_BEGIN_CONTENT text/plain\none\ntwo\nEVCXR_END_CONTENT\n\
            EVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/plain\nb\nEVCXR_END_CONTENT\n\
            \u{1}U {\"op\":\"clear\"}\n\u{1}T {\"op\":\"clear\",\"wait\":true}\nEVCXR_PANIC_NOTIFICATION\nlast\u{1}T {\"op\":\"panicked\"}\n\
            EVCXR_INPUT_REQUEST:Name?\n\u{1}T {\"op\":\"done\"}\n";
        let mut first = bundle("text/plain", "one\ntwo");
        first.data.extend(bundle("text/html", "<b>").data);
        let expected = vec![
            text("plain é\nno newline"),
            OutputItem::Display(bundle("text/plain", "a"), Some("7".to_string())),
            text("\rEVCXR and EVCXR_\n"),
            OutputItem::Result(first),
            OutputItem::Result(bundle("text/plain", "b")),
            text("\u{1}U {\"op\":\"clear\"}\n"),
            OutputItem::Clear { wait: true },
            text("EVCXR_PANIC_NOTIFICATION\nlast"),
            OutputItem::Control(PANIC_LINE.to_string()),
            OutputItem::Control("EVCXR_INPUT_REQUEST:Name?".to_string()),
            OutputItem::Done,
        ];
        let bytes = stream.as_bytes();
        for portion in 1..bytes.len() {
            let mut parser = OutputParser::new("T");
            let mut items = Vec::new();
            for part in bytes.chunks(portion) {
                items.extend(parser.push(part));
            }
            items.extend(parser.finish());
            assert_eq!(join_texts(items), expected, "in portions of {portion} bytes");
        }
    }

    #[test]
    fn text_is_shown_at_once_unless_it_may_be_a_marker() {
        let mut parser = OutputParser::new("T");
        assert_eq!(parser.push(b"12 %\r"), [text("12 %\r")]);
        assert_eq!(parser.push(b"done EVC"), [text("done ")]);
        assert_eq!(parser.push(b"AR"), [text("EVCAR")]);
        assert_eq!(parser.push("é".as_bytes()[..1].as_ref()), []);
        assert_eq!(parser.push("é".as_bytes()[1..].as_ref()), [text("é")]);
        assert_eq!(parser.push(b"EVCXR_BEGIN_CONTENT text/plain\nhalf"), []);
        assert_eq!(parser.finish(), [text("half")]);
    }
}
