//! Keeps what one cell shows to a size, however long it goes on: the first of it at once, the last of it when the cell
//! ends, and between them how much is missing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::engine::handle::{Event, Sink, Stream};
use crate::engine::output::Bundle;

/// So many bytes of text are kept of the beginning, and as many of the end; of figures likewise.
const TEXT: usize = 1 << 20;
const FIGURES: usize = 32 << 20;
/// What a display takes beside its data.
const FRAME: usize = 1 << 10;
/// Text is held in pieces about so long, which are let go one by one.
const PIECE: usize = 1 << 16;
/// How often the reader is told of what is held back.
const OFTEN: Duration = Duration::from_millis(500);

/// Hands on what a cell shows.
pub struct Limited {
    sink: Sink,
    /// Bytes that were handed on since the output was cleared.
    text: usize,
    figures: usize,
    ends_line: bool,
    rest: Option<Rest>,
    /// All is to be cleared as soon as something else is shown.
    clears: bool,
}

/// What came after the beginning.
struct Rest {
    held: VecDeque<Event>,
    text: usize,
    figures: usize,
    missing_text: usize,
    missing_figures: usize,
    /// The display that says so.
    notice: String,
    told: Instant,
}

impl Limited {
    pub fn new(sink: Sink) -> Limited {
        Limited { sink, text: 0, figures: 0, ends_line: true, rest: None, clears: false }
    }

    pub fn take(&mut self, event: Event) {
        match event {
            Event::Clear { wait: true } => self.clears = true,
            Event::Clear { wait: false } => self.clear(false),
            Event::Update(bundle, id) => {
                let own = |rest: &mut Rest| rest.update(&bundle, &id);
                if !self.rest.as_mut().is_some_and(own) {
                    (self.sink)(Event::Update(bundle, id));
                }
            }
            event => {
                if std::mem::take(&mut self.clears) {
                    self.clear(true);
                }
                if let Some(event) = self.hand_on(event) {
                    let rest = self.rest.get_or_insert_with(|| Rest::begin(&self.sink));
                    rest.hold(event);
                    rest.tell(&self.sink);
                }
            }
        }
    }

    /// Shows what was held back. The cell has ended; what its threads still print counts anew.
    pub fn finish(&mut self) {
        if let Some(mut rest) = self.rest.take() {
            rest.end(&self.sink);
            rest.trim(0);
            if let Some(note) = rest.note() {
                let stream = rest.held.iter().find_map(|event| match event {
                    Event::Text(stream, _) => Some(*stream),
                    _ => None,
                });
                let line = if self.ends_line { "" } else { "\n" };
                (self.sink)(Event::Text(stream.unwrap_or(Stream::Out), format!("{line}{note}\n")));
            }
            rest.held.into_iter().for_each(|event| (self.sink)(event));
        }
        if self.clears {
            // For what follows from elsewhere: the value that the cell ends with.
            (self.sink)(Event::Clear { wait: true });
        }
        *self = Limited::new(self.sink.clone());
    }

    fn clear(&mut self, wait: bool) {
        if let Some(rest) = self.rest.take() {
            rest.end(&self.sink);
        }
        (self.sink)(Event::Clear { wait });
        *self = Limited::new(self.sink.clone());
    }

    /// Shows what there is room for, in the order in which things come; gives back what is left.
    fn hand_on(&mut self, event: Event) -> Option<Event> {
        if self.rest.is_some() {
            return Some(event);
        }
        match event {
            Event::Text(stream, mut text) => {
                let room = TEXT - self.text;
                let at = if text.len() > room { cut(&text, room, self.ends_line) } else { text.len() };
                let left = text.split_off(at);
                self.text += text.len();
                if !text.is_empty() {
                    self.ends_line = text.ends_with('\n');
                    (self.sink)(Event::Text(stream, text));
                }
                (!left.is_empty()).then_some(Event::Text(stream, left))
            }
            event => {
                let size = size(&event);
                if self.figures + size > FIGURES && self.figures > 0 {
                    return Some(event);
                }
                self.figures += size;
                (self.sink)(event);
                None
            }
        }
    }
}

impl Rest {
    fn begin(sink: &Sink) -> Rest {
        let notice = format!("headlight-notice-{:x}", crate::random());
        let text = "the cell shows much: what follows appears when it ends";
        sink(Event::Display(Bundle::text(text), Some(notice.clone())));
        Rest {
            held: VecDeque::new(),
            text: 0,
            figures: 0,
            missing_text: 0,
            missing_figures: 0,
            notice,
            told: Instant::now(),
        }
    }

    fn hold(&mut self, event: Event) {
        match (self.held.back_mut(), event) {
            (Some(Event::Text(last, before)), Event::Text(stream, text))
                if *last == stream && before.len() < PIECE =>
            {
                self.text += text.len();
                before.push_str(&text);
            }
            (_, Event::Text(stream, text)) => {
                self.text += text.len();
                self.held.push_back(Event::Text(stream, text));
            }
            (_, event) => {
                self.figures += size(&event);
                self.held.push_back(event);
            }
        }
        self.trim(PIECE);
    }

    /// Changes a display that is held back; false if there is none of this name.
    fn update(&mut self, bundle: &Bundle, id: &str) -> bool {
        let mut found = false;
        for event in &mut self.held {
            if matches!(event, Event::Display(_, Some(own)) if own == id) {
                self.figures -= size(event);
                *event = Event::Display(bundle.clone(), Some(id.to_string()));
                self.figures += size(event);
                found = true;
            }
        }
        self.trim(PIECE);
        found
    }

    /// Lets go of what came first: so much more than the limit may stay.
    fn trim(&mut self, more: usize) {
        let is_text = |event: &Event| matches!(event, Event::Text(..));
        while self.text > TEXT + more {
            let Some(at) = self.held.iter().position(is_text) else { break };
            let over = self.text - TEXT;
            let gone = match &mut self.held[at] {
                Event::Text(_, text) if text.len() > over => {
                    let from = text.ceil_char_boundary(over);
                    // A line that is cut through goes whole, if it ends soon.
                    let line = text[from..].find('\n').map_or(0, |end| end + 1);
                    let whole = text[..from].ends_with('\n') || line > PIECE;
                    let from = if whole { from } else { from + line };
                    text.drain(..from);
                    from
                }
                event => {
                    let gone = size(event);
                    self.held.remove(at);
                    gone
                }
            };
            self.text -= gone;
            self.missing_text += gone;
        }
        while self.figures > FIGURES {
            let Some(at) = self.held.iter().position(|event| !is_text(event)) else { break };
            // The last stays, however large it is.
            if self.figures == size(&self.held[at]) {
                break;
            }
            let gone = self.held.remove(at).map_or(0, |event| size(&event));
            self.figures -= gone;
            self.missing_figures += 1;
        }
    }

    fn tell(&mut self, sink: &Sink) {
        if self.told.elapsed() < OFTEN {
            return;
        }
        self.told = Instant::now();
        let more = so_much(self.missing_text + self.text, self.missing_figures + self.count_figures());
        let last = self.held.iter().rev().find_map(|event| match event {
            Event::Text(_, text) => text.lines().rev().find(|line| !line.trim().is_empty()),
            _ => None,
        });
        let last: String = last.unwrap_or_default().chars().take(200).collect();
        let text = format!("{more} more so far: the last of it appears when the cell ends\n{last}");
        sink(Event::Update(Bundle::text(&text), self.notice.clone()));
    }

    /// The display that told of it is emptied.
    fn end(&self, sink: &Sink) {
        sink(Event::Update(Bundle::text(""), self.notice.clone()));
    }

    fn count_figures(&self) -> usize {
        self.held.iter().filter(|event| !matches!(event, Event::Text(..))).count()
    }

    fn note(&self) -> Option<String> {
        let missing = self.missing_text + self.missing_figures > 0;
        missing.then(|| format!("[… {} left out here …]", so_much(self.missing_text, self.missing_figures)))
    }
}

fn so_much(text: usize, figures: usize) -> String {
    let text = match text {
        0 => None,
        1..1_000_000 => Some(format!("{} kB of text", text.div_ceil(1000))),
        _ => Some(format!("{:.1} MB of text", text as f64 / 1e6)),
    };
    let figures = match figures {
        0 => None,
        1 => Some("1 figure".to_string()),
        _ => Some(format!("{figures} figures")),
    };
    text.into_iter().chain(figures).collect::<Vec<_>>().join(" and ")
}

/// Where to cut so that no more than `room` bytes stand before: at the beginning of a line, if there is one near.
fn cut(text: &str, room: usize, begins_line: bool) -> usize {
    let at = text.floor_char_boundary(room);
    match text[..at].rfind('\n') {
        Some(end) if at - end < PIECE => end + 1,
        None if begins_line && at < PIECE => 0,
        _ => at,
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Text(_, text) => text.len(),
        Event::Display(bundle, _) | Event::Update(bundle, _) => {
            FRAME + bundle.data.values().chain(bundle.metadata.values()).map(bytes).sum::<usize>()
        }
        Event::Clear { .. } => 0,
    }
}

/// About as many bytes as the value takes as JSON.
fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| bytes(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(key, item)| key.len() + 4 + bytes(item)).sum::<usize>() + 2
        }
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn out(text: &str) -> Event {
        Event::Text(Stream::Out, text.to_string())
    }

    fn display(text: &str, id: &str) -> Event {
        Event::Display(Bundle::text(text), Some(id.to_string()))
    }

    /// What is handed on of these events, without what is said meanwhile.
    fn handed_on(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let mut limited = Limited::new(Arc::new(move |event| crate::lock(&sink).push(event)));
        events.into_iter().for_each(|event| limited.take(event));
        limited.finish();
        let is_notice = |event: &Event| match event {
            Event::Display(_, Some(id)) | Event::Update(_, id) => id.starts_with("headlight-notice-"),
            _ => false,
        };
        let seen = std::mem::take(&mut *crate::lock(&seen));
        seen.into_iter().filter(|event| !is_notice(event)).collect()
    }

    fn text_of(events: &[Event]) -> String {
        let text = |event: &Event| match event {
            Event::Text(_, text) => text.clone(),
            _ => String::new(),
        };
        events.iter().map(text).collect()
    }

    #[test]
    fn of_much_text_the_ends_are_kept_and_the_middle_is_counted() {
        let line = |n: usize| format!("line {n:>10}, é and more that makes it longer\n");
        for (name, total, piece) in [
            ("nothing", 0, String::new()),
            ("little", 1, line(0)),
            ("what fills both ends", 2 * TEXT / line(0).len() - 2, line(0)),
            ("lines", 200_000, line(0)),
            ("one line", 300_000, "no end é ".to_string()),
            ("large pieces", 60, "xyz é\n".repeat(20_000)),
        ] {
            let pieces = (0..total).map(|n| if piece.starts_with("line") { line(n) } else { piece.clone() });
            let whole: String = pieces.clone().collect();
            let kept = text_of(&handed_on(pieces.map(|piece| out(&piece))));
            if whole.len() <= 2 * TEXT - 2 * line(0).len() {
                assert_eq!(kept, whole, "of {name}");
                continue;
            }
            let (first, rest) =
                kept.split_once("[… ").unwrap_or_else(|| panic!("of {name} nothing is missing"));
            let (note, last) = rest.split_once(" left out here …]\n").unwrap();
            assert!(whole.starts_with(first.trim_end_matches('\n')) && whole.ends_with(last), "of {name}");
            for end in [first, last] {
                assert!(end.len() <= TEXT + 1 && end.len() > TEXT - 2 * PIECE, "of {name}: {}", end.len());
            }
            assert!(first.ends_with('\n'));
            let missing = whole.len() - first.len() - last.len();
            let (said, unit) = note.split_once(' ').unwrap();
            let unit = if unit.starts_with("kB") { 1e3 } else { 1e6 };
            let said = said.parse::<f64>().unwrap() * unit;
            assert!((said - missing as f64).abs() < unit, "of {name}: {note} for {missing}");
            if name == "lines" {
                assert!(last.starts_with("line ") && first.ends_with("longer\n"));
            }
        }
    }

    #[test]
    fn both_streams_and_figures_stay_in_their_order() {
        let events = (0..40_000).flat_map(|n| {
            let figure = (n % 10_000 == 9_999).then(|| display("figure", &n.to_string()));
            [
                out(&format!("{n} of the output, with some more text\n")),
                Event::Text(Stream::Err, format!("{n} err\n")),
            ]
            .into_iter()
            .chain(figure)
        });
        let kept = handed_on(events);
        let last: Vec<String> = kept[kept.len() - 3..].iter().map(|event| format!("{event:?}")).collect();
        assert!(
            last[0].contains("39999 of") && last[1].contains("39999 err") && last[2].contains("figure"),
            "{last:?}"
        );
        assert_eq!(kept.iter().filter(|event| matches!(event, Event::Display(..))).count(), 4);
    }

    #[test]
    fn of_many_figures_the_first_and_the_last_are_kept() {
        let large = "x".repeat(FIGURES / 10);
        let figures = (0..50).map(|n| display(&large, &n.to_string()));
        // One of the first is still updated, and so is one of the last.
        let updates = ["0", "49", "25"].map(|id| Event::Update(Bundle::text("new"), id.to_string()));
        let kept = handed_on(figures.chain([out("done\n")]).chain(updates));
        let named = |event: &Event| match event {
            Event::Display(bundle, Some(id)) if bundle.data["text/plain"] == "new" => format!("{id} new"),
            Event::Display(_, Some(id)) => id.clone(),
            Event::Update(_, id) => format!("update {id}"),
            Event::Text(_, text) => text.trim().to_string(),
            _ => String::new(),
        };
        let names: Vec<String> = kept.iter().map(named).collect();
        let first: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        let last: Vec<String> = (41..49).map(|n| n.to_string()).collect();
        let said = ["update 0", "update 25", "[… 32 figures left out here …]"].map(str::to_string);
        let end = ["49 new", "done"].map(str::to_string);
        assert_eq!(names, [&first[..], &said, &last, &end].concat());
    }

    #[test]
    fn what_is_cleared_does_not_count() {
        let much = "y".repeat(TEXT - 10);
        for wait in [false, true] {
            let events = (0..10).flat_map(|n| [Event::Clear { wait }, out(&format!("{n}{much}"))]);
            let kept = handed_on(events);
            assert_eq!(kept.len(), 20, "with wait {wait}");
            assert!(text_of(&kept).len() > 9 * TEXT);
            // After the limit too.
            let events = (0..9).map(|_| out(&much)).chain([Event::Clear { wait }, out("last")]);
            let kept = handed_on(events);
            assert!(
                matches!(&kept[kept.len() - 2..], [Event::Clear { .. }, Event::Text(_, text)] if text == "last")
            );
            assert!(!text_of(&kept).contains("left out"));
        }
        // Nothing follows that would be shown instead.
        let kept = handed_on((0..9).map(|_| out(&much)).chain([Event::Clear { wait: true }]));
        assert!(text_of(&kept).contains("left out"));
        assert!(matches!(kept.last(), Some(Event::Clear { wait: true })));
    }
}
