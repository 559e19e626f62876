//! Keeps what one cell shows to a size, however long it goes on: the first of it at once, the last of it when the cell
//! ends, and between them how much is missing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::engine::event::{Event, EventSink, MimeBundle, Stream, notice_id};

/// So many bytes of text are kept of the beginning, and as many of the end; of figures likewise.
const MAX_TEXT: usize = 1 << 20;
const MAX_FIGURES: usize = 32 << 20;
/// What a display takes beside its data.
const DISPLAY_OVERHEAD: usize = 1 << 10;
/// Text is held in chunks about so long, which are let go one by one.
const CHUNK: usize = 1 << 16;
/// How often the reader is told of what is held back.
const NOTICE_INTERVAL: Duration = Duration::from_millis(500);

/// Hands on what a cell shows.
pub struct OutputLimit {
    sink: EventSink,
    /// Bytes that were handed on since the output was cleared.
    text: usize,
    figures: usize,
    ends_line: bool,
    held: Option<HeldOutput>,
    /// All is to be cleared as soon as something else is shown.
    clears: bool,
}

/// What came after the beginning.
struct HeldOutput {
    events: VecDeque<Event>,
    text: usize,
    figures: usize,
    missing_text: usize,
    missing_figures: usize,
    /// The display that says so.
    notice: String,
    noticed: Instant,
}

impl OutputLimit {
    pub fn new(sink: EventSink) -> OutputLimit {
        OutputLimit { sink, text: 0, figures: 0, ends_line: true, held: None, clears: false }
    }

    pub fn take(&mut self, event: Event) {
        match event {
            Event::Clear { wait: true } => self.clears = true,
            Event::Clear { wait: false } => self.clear(false),
            Event::Update(bundle, id) => {
                let update = |held: &mut HeldOutput| held.update(&bundle, &id);
                if !self.held.as_mut().is_some_and(update) {
                    (self.sink)(Event::Update(bundle, id));
                }
            }
            event => {
                if std::mem::take(&mut self.clears) {
                    self.clear(true);
                }
                if let Some(event) = self.hand_on(event) {
                    let held = self.held.get_or_insert_with(|| HeldOutput::begin(&self.sink));
                    held.hold(event);
                    held.update_notice(&self.sink);
                }
            }
        }
    }

    /// Shows what was held back. The cell has ended; what its threads still print counts anew.
    pub fn finish(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.clear_notice(&self.sink);
            held.trim(0);
            if let Some(note) = held.gap_note() {
                let stream = held.events.iter().find_map(|event| match event {
                    Event::Text(stream, _) => Some(*stream),
                    _ => None,
                });
                let line = if self.ends_line { "" } else { "\n" };
                (self.sink)(Event::Text(stream.unwrap_or(Stream::Out), format!("{line}{note}\n")));
            }
            held.events.into_iter().for_each(|event| (self.sink)(event));
        }
        if self.clears {
            // For what follows from elsewhere: the value that the cell ends with.
            (self.sink)(Event::Clear { wait: true });
        }
        *self = OutputLimit::new(self.sink.clone());
    }

    fn clear(&mut self, wait: bool) {
        if let Some(held) = self.held.take() {
            held.clear_notice(&self.sink);
        }
        (self.sink)(Event::Clear { wait });
        *self = OutputLimit::new(self.sink.clone());
    }

    /// Shows what there is room for, in the order in which things come; gives back what is left.
    fn hand_on(&mut self, event: Event) -> Option<Event> {
        if self.held.is_some() {
            return Some(event);
        }
        match event {
            Event::Text(stream, mut text) => {
                let room = MAX_TEXT - self.text;
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
                if self.figures + size > MAX_FIGURES && self.figures > 0 {
                    return Some(event);
                }
                self.figures += size;
                (self.sink)(event);
                None
            }
        }
    }
}

impl HeldOutput {
    fn begin(sink: &EventSink) -> HeldOutput {
        let notice = notice_id();
        let text = "the cell shows much: what follows appears when it ends";
        sink(Event::Display(MimeBundle::text(text), Some(notice.clone())));
        HeldOutput {
            events: VecDeque::new(),
            text: 0,
            figures: 0,
            missing_text: 0,
            missing_figures: 0,
            notice,
            noticed: Instant::now(),
        }
    }

    fn hold(&mut self, event: Event) {
        match (self.events.back_mut(), event) {
            (Some(Event::Text(last, before)), Event::Text(stream, text))
                if *last == stream && before.len() < CHUNK =>
            {
                self.text += text.len();
                before.push_str(&text);
            }
            (_, Event::Text(stream, text)) => {
                self.text += text.len();
                self.events.push_back(Event::Text(stream, text));
            }
            (_, event) => {
                self.figures += size(&event);
                self.events.push_back(event);
            }
        }
        self.trim(CHUNK);
    }

    /// Changes a display that is held back; false if there is none of this name.
    fn update(&mut self, bundle: &MimeBundle, id: &str) -> bool {
        let mut is_held = false;
        for event in &mut self.events {
            if matches!(event, Event::Display(_, Some(own)) if own == id) {
                self.figures -= size(event);
                *event = Event::Display(bundle.clone(), Some(id.to_string()));
                self.figures += size(event);
                is_held = true;
            }
        }
        self.trim(CHUNK);
        is_held
    }

    /// Lets go of what came first: so much more than the limit may stay.
    fn trim(&mut self, more: usize) {
        let is_text = |event: &Event| matches!(event, Event::Text(..));
        while self.text > MAX_TEXT + more {
            let Some(at) = self.events.iter().position(is_text) else { break };
            let over = self.text - MAX_TEXT;
            let removed = match &mut self.events[at] {
                Event::Text(_, text) if text.len() > over => {
                    let from = text.ceil_char_boundary(over);
                    // A line that is cut through goes whole, if it ends soon.
                    let line = text[from..].find('\n').map_or(0, |end| end + 1);
                    let whole = text[..from].ends_with('\n') || line > CHUNK;
                    let from = if whole { from } else { from + line };
                    text.drain(..from);
                    from
                }
                event => {
                    let removed = size(event);
                    self.events.remove(at);
                    removed
                }
            };
            self.text -= removed;
            self.missing_text += removed;
        }
        while self.figures > MAX_FIGURES {
            let Some(at) = self.events.iter().position(|event| !is_text(event)) else { break };
            // The last stays, however large it is.
            if self.figures == size(&self.events[at]) {
                break;
            }
            let removed = self.events.remove(at).map_or(0, |event| size(&event));
            self.figures -= removed;
            self.missing_figures += 1;
        }
    }

    fn update_notice(&mut self, sink: &EventSink) {
        if self.noticed.elapsed() < NOTICE_INTERVAL {
            return;
        }
        self.noticed = Instant::now();
        let more =
            describe_amount(self.missing_text + self.text, self.missing_figures + self.count_figures());
        let last = self.events.iter().rev().find_map(|event| match event {
            Event::Text(_, text) => text.lines().rev().find(|line| !line.trim().is_empty()),
            _ => None,
        });
        let last: String = last.unwrap_or_default().chars().take(200).collect();
        let text = format!("{more} more so far: the last of it appears when the cell ends\n{last}");
        sink(Event::Update(MimeBundle::text(&text), self.notice.clone()));
    }

    /// The display that told of it is emptied.
    fn clear_notice(&self, sink: &EventSink) {
        sink(Event::Update(MimeBundle::text(""), self.notice.clone()));
    }

    fn count_figures(&self) -> usize {
        self.events.iter().filter(|event| !matches!(event, Event::Text(..))).count()
    }

    fn gap_note(&self) -> Option<String> {
        let missing = self.missing_text + self.missing_figures > 0;
        missing.then(|| {
            format!("[… {} left out here …]", describe_amount(self.missing_text, self.missing_figures))
        })
    }
}

fn describe_amount(text: usize, figures: usize) -> String {
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
        Some(end) if at - end < CHUNK => end + 1,
        None if begins_line && at < CHUNK => 0,
        _ => at,
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Text(_, text) => text.len(),
        Event::Display(bundle, _) | Event::Update(bundle, _) => {
            DISPLAY_OVERHEAD + bundle.data.values().chain(bundle.metadata.values()).map(bytes).sum::<usize>()
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
        Event::Display(MimeBundle::text(text), Some(id.to_string()))
    }

    /// What is handed on of these events, without what is said meanwhile.
    fn limit(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
        let passed = Arc::new(Mutex::new(Vec::new()));
        let sink = passed.clone();
        let mut limited = OutputLimit::new(Arc::new(move |event| crate::sync::lock(&sink).push(event)));
        events.into_iter().for_each(|event| limited.take(event));
        limited.finish();
        let is_notice = |event: &Event| match event {
            Event::Display(_, Some(id)) | Event::Update(_, id) => id.starts_with("headlight-notice-"),
            _ => false,
        };
        let passed = std::mem::take(&mut *crate::sync::lock(&passed));
        passed.into_iter().filter(|event| !is_notice(event)).collect()
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
            ("what fills both ends", 2 * MAX_TEXT / line(0).len() - 2, line(0)),
            ("lines", 200_000, line(0)),
            ("one line", 300_000, "no end é ".to_string()),
            ("large pieces", 60, "xyz é\n".repeat(20_000)),
        ] {
            let pieces = (0..total).map(|n| if piece.starts_with("line") { line(n) } else { piece.clone() });
            let whole: String = pieces.clone().collect();
            let output = text_of(&limit(pieces.map(|piece| out(&piece))));
            if whole.len() <= 2 * MAX_TEXT - 2 * line(0).len() {
                assert_eq!(output, whole, "of {name}");
                continue;
            }
            let (first, rest) =
                output.split_once("[… ").unwrap_or_else(|| panic!("of {name} nothing is missing"));
            let (note, last) = rest.split_once(" left out here …]\n").unwrap();
            assert!(whole.starts_with(first.trim_end_matches('\n')) && whole.ends_with(last), "of {name}");
            for end in [first, last] {
                assert!(
                    end.len() <= MAX_TEXT + 1 && end.len() > MAX_TEXT - 2 * CHUNK,
                    "of {name}: {}",
                    end.len()
                );
            }
            assert!(first.ends_with('\n'));
            let missing = whole.len() - first.len() - last.len();
            let (amount, unit) = note.split_once(' ').unwrap();
            let unit = if unit.starts_with("kB") { 1e3 } else { 1e6 };
            let amount = amount.parse::<f64>().unwrap() * unit;
            assert!((amount - missing as f64).abs() < unit, "of {name}: {note} for {missing}");
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
        let output = limit(events);
        let last: Vec<String> = output[output.len() - 3..].iter().map(|event| format!("{event:?}")).collect();
        assert!(
            last[0].contains("39999 of") && last[1].contains("39999 err") && last[2].contains("figure"),
            "{last:?}"
        );
        assert_eq!(output.iter().filter(|event| matches!(event, Event::Display(..))).count(), 4);
    }

    #[test]
    fn of_many_figures_the_first_and_the_last_are_kept() {
        let large = "x".repeat(MAX_FIGURES / 10);
        let figures = (0..50).map(|n| display(&large, &n.to_string()));
        // One of the first is still updated, and so is one of the last.
        let updates = ["0", "49", "25"].map(|id| Event::Update(MimeBundle::text("new"), id.to_string()));
        let output = limit(figures.chain([out("done\n")]).chain(updates));
        let named = |event: &Event| match event {
            Event::Display(bundle, Some(id)) if bundle.data["text/plain"] == "new" => format!("{id} new"),
            Event::Display(_, Some(id)) => id.clone(),
            Event::Update(_, id) => format!("update {id}"),
            Event::Text(_, text) => text.trim().to_string(),
            _ => String::new(),
        };
        let names: Vec<String> = output.iter().map(named).collect();
        let first: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        let last: Vec<String> = (41..49).map(|n| n.to_string()).collect();
        let between = ["update 0", "update 25", "[… 32 figures left out here …]"].map(str::to_string);
        let end = ["49 new", "done"].map(str::to_string);
        assert_eq!(names, [&first[..], &between, &last, &end].concat());
    }

    #[test]
    fn what_is_cleared_does_not_count() {
        let much = "y".repeat(MAX_TEXT - 10);
        for wait in [false, true] {
            let events = (0..10).flat_map(|n| [Event::Clear { wait }, out(&format!("{n}{much}"))]);
            let output = limit(events);
            assert_eq!(output.len(), 20, "with wait {wait}");
            assert!(text_of(&output).len() > 9 * MAX_TEXT);
            // After the limit too.
            let events = (0..9).map(|_| out(&much)).chain([Event::Clear { wait }, out("last")]);
            let output = limit(events);
            assert!(
                matches!(&output[output.len() - 2..], [Event::Clear { .. }, Event::Text(_, text)] if text == "last")
            );
            assert!(!text_of(&output).contains("left out"));
        }
        // Nothing follows that would be shown instead.
        let output = limit((0..9).map(|_| out(&much)).chain([Event::Clear { wait: true }]));
        assert!(text_of(&output).contains("left out"));
        assert!(matches!(output.last(), Some(Event::Clear { wait: true })));
    }
}
