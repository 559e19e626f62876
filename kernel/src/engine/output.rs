//! What the process that runs the cells prints, taken apart: text for the reader, displays, and evcxr's control lines.

use serde::Deserialize;
use serde_json::{Map, Value};

/// A value in several forms, by MIME type.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Bundle {
    #[serde(default)]
    pub data: Map<String, Value>,
    /// How to show it, by MIME type.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl Bundle {
    pub fn text(text: &str) -> Bundle {
        [("text/plain".to_string(), text.into())].into_iter().collect()
    }
}

impl FromIterator<(String, Value)> for Bundle {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(forms: T) -> Bundle {
        Bundle { data: forms.into_iter().collect(), metadata: Map::new() }
    }
}

/// One thing that was printed.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    /// Shown in mid-cell; with a name if it is to be updated.
    Display(Bundle, Option<String>),
    Update(Bundle, String),
    /// What the cell ends with, if nothing follows.
    Result(Bundle),
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

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Panic {
    pub message: String,
    #[serde(default)]
    pub thread: String,
    #[serde(flatten)]
    pub at: Option<Location>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EarlyReturn {
    pub message: String,
    /// The type of the error.
    pub error: String,
    #[serde(flatten)]
    pub at: Option<Location>,
}

/// A place in what was compiled.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Location {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

const BLOCK_BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
const BLOCK_END: &str = "EVCXR_END_CONTENT";
/// What evcxr itself reads. Of these a cell prints only the last as it is; the others it tells under the token.
pub const PANICKED: &str = "EVCXR_PANIC_NOTIFICATION";
pub const RETURNED_EARLY: &str = "EVCXR_ERROR_OCCURRED";
const CHANGED: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
const ASKS: &str = "EVCXR_INPUT_REQUEST";

/// Takes a stream of bytes apart, in whatever portions it comes.
pub struct Parser {
    mark: String,
    buffer: Vec<u8>,
    block: Option<Block>,
    /// Blocks in a row are the forms of one value, until something else is printed.
    bundle: Bundle,
}

struct Block {
    mime: String,
    lines: Vec<String>,
}

impl Parser {
    pub fn new(token: &str) -> Parser {
        Parser { mark: format!("\u{1}{token} "), buffer: Vec::new(), block: None, bundle: Bundle::default() }
    }

    /// What these bytes complete. A marked line may begin anywhere in a line: text without a newline may precede it.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            self.line(&String::from_utf8_lossy(&line), &mut pieces);
        }
        if self.block.is_none() {
            let ready = self.ready();
            if ready > 0 {
                let text: Vec<u8> = self.buffer.drain(..ready).collect();
                self.text(&String::from_utf8_lossy(&text), &mut pieces);
            }
        }
        pieces
    }

    /// What is left when the process is gone.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let rest = std::mem::take(&mut self.buffer);
        let begun = self.block.take().map(|block| block.lines.join("\n")).unwrap_or_default();
        self.text(&format!("{begun}{}", String::from_utf8_lossy(&rest)), &mut pieces);
        self.flush_bundle(&mut pieces);
        pieces
    }

    fn line(&mut self, line: &str, pieces: &mut Vec<Piece>) {
        let content = line.strip_suffix('\n').unwrap_or(line);
        if let Some(block) = &mut self.block {
            if content != BLOCK_END {
                block.lines.push(content.to_string());
                return;
            }
            if let Some(Block { mime, lines }) = self.block.take() {
                if self.bundle.data.contains_key(&mime) {
                    self.flush_bundle(pieces);
                }
                self.bundle.data.insert(mime.clone(), value_of(&mime, lines.join("\n")));
            }
            return;
        }
        let Some(start) = self.markers().filter_map(|marker| content.find(marker)).min() else {
            return self.text(line, pieces);
        };
        let (before, marked) = content.split_at(start);
        self.text(before, pieces);
        if let Some(mime) = marked.strip_prefix(BLOCK_BEGIN) {
            self.block = Some(Block { mime: mime.trim().to_string(), lines: Vec::new() });
        } else if let Some(json) = marked.strip_prefix(&self.mark) {
            match serde_json::from_str(json) {
                Ok(message) => self.message(message, pieces),
                Err(_) => self.text(line, pieces),
            }
        } else {
            pieces.push(Piece::Control(marked.to_string()));
        }
    }

    fn message(&mut self, message: Value, pieces: &mut Vec<Piece>) {
        let data = || serde_json::from_value::<Bundle>(message.clone()).unwrap_or_default();
        let id = || message["id"].as_str().map(str::to_string);
        let op = message["op"].as_str().unwrap_or_default();
        if op != "panic" && op != "early_return" {
            self.flush_bundle(pieces);
        }
        match (op, id()) {
            ("display", id) => pieces.push(Piece::Display(data(), id)),
            ("update", Some(id)) => pieces.push(Piece::Update(data(), id)),
            ("result", _) => pieces.push(Piece::Result(data())),
            ("clear", _) => pieces.push(Piece::Clear { wait: message["wait"].as_bool().unwrap_or(false) }),
            ("begin", _) => pieces.push(Piece::Begin(message["process"].as_u64().unwrap_or(0))),
            ("panicked", _) => pieces.push(Piece::Control(PANICKED.to_string())),
            ("changed", _) => {
                let name = message["name"].as_str().unwrap_or_default();
                pieces.push(Piece::Control(format!("{CHANGED}{name}")));
            }
            ("early_return", _) => {
                pieces.push(Piece::EarlyReturn(serde_json::from_value(message).unwrap_or_default()));
                pieces.push(Piece::Control(RETURNED_EARLY.to_string()));
            }
            ("panic", _) => pieces.push(Piece::Panic(serde_json::from_value(message).unwrap_or_default())),
            ("done", _) => pieces.push(Piece::Done),
            ("gone", _) => {
                pieces.extend(self.finish());
                pieces.push(Piece::Gone);
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        if text.is_empty() {
            return;
        }
        self.flush_bundle(pieces);
        match pieces.last_mut() {
            Some(Piece::Text(before)) => before.push_str(text),
            _ => pieces.push(Piece::Text(text.to_string())),
        }
    }

    fn flush_bundle(&mut self, pieces: &mut Vec<Piece>) {
        if !self.bundle.data.is_empty() {
            pieces.push(Piece::Result(std::mem::take(&mut self.bundle)));
        }
    }

    fn markers(&self) -> impl Iterator<Item = &str> {
        [ASKS, BLOCK_BEGIN, self.mark.as_str()].into_iter()
    }

    /// How much of a line that has not ended yet can be shown: up to where a marker begins or may be about to.
    fn ready(&self) -> usize {
        let text = &self.buffer;
        let begins = |marker: &&str, at: usize| {
            let rest = &text[at..];
            let n = rest.len().min(marker.len());
            rest[..n] == marker.as_bytes()[..n]
        };
        let held = (0..text.len())
            .find(|at| matches!(text[*at], 1 | b'E') && self.markers().any(|marker| begins(&marker, *at)))
            .unwrap_or(text.len());
        // A character of several bytes may be on its way.
        match std::str::from_utf8(&text[..held]) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => held,
        }
    }
}

/// As evcxr's own kernel: what names itself JSON is JSON.
pub fn value_of(mime: &str, content: String) -> Value {
    if mime.contains("json") {
        serde_json::from_str(&content).unwrap_or(Value::String(content))
    } else {
        Value::String(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_string())
    }

    fn bundle(mime: &str, content: &str) -> Bundle {
        [(mime.to_string(), Value::String(content.to_string()))].into_iter().collect()
    }

    /// Joins what portions of a stream leave apart.
    fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
        let mut whole: Vec<Piece> = Vec::new();
        for piece in pieces {
            match (whole.last_mut(), piece) {
                (Some(Piece::Text(before)), Piece::Text(more)) => before.push_str(&more),
                (_, piece) => whole.push(piece),
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
            Piece::Display(bundle("text/plain", "a"), Some("7".to_string())),
            text("\rEVCXR and EVCXR_\n"),
            Piece::Result(first),
            Piece::Result(bundle("text/plain", "b")),
            text("\u{1}U {\"op\":\"clear\"}\n"),
            Piece::Clear { wait: true },
            text("EVCXR_PANIC_NOTIFICATION\nlast"),
            Piece::Control(PANICKED.to_string()),
            Piece::Control("EVCXR_INPUT_REQUEST:Name?".to_string()),
            Piece::Done,
        ];
        let bytes = stream.as_bytes();
        for portion in 1..bytes.len() {
            let mut parser = Parser::new("T");
            let mut pieces = Vec::new();
            for part in bytes.chunks(portion) {
                pieces.extend(parser.push(part));
            }
            pieces.extend(parser.finish());
            assert_eq!(joined(pieces), expected, "in portions of {portion} bytes");
        }
    }

    #[test]
    fn text_is_shown_at_once_unless_it_may_be_a_marker() {
        let mut parser = Parser::new("T");
        assert_eq!(parser.push(b"12 %\r"), [text("12 %\r")]);
        assert_eq!(parser.push(b"done EVC"), [text("done ")]);
        assert_eq!(parser.push(b"AR"), [text("EVCAR")]);
        assert_eq!(parser.push("é".as_bytes()[..1].as_ref()), []);
        assert_eq!(parser.push("é".as_bytes()[1..].as_ref()), [text("é")]);
        assert_eq!(parser.push(b"EVCXR_BEGIN_CONTENT text/plain\nhalf"), []);
        assert_eq!(parser.finish(), [text("half")]);
    }
}
