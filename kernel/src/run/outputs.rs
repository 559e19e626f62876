//! What cells show, gathered as a notebook keeps it.

use nbformat::v4::{DisplayData, ErrorOutput, ExecuteResult, MultilineString, Output};
use serde_json::{Map, Value};

use crate::cell::report::Failure;
use crate::engine::handle::{Event, Stream};
use crate::engine::output::Bundle;
use crate::terminal::screen::settled;

enum Shown {
    Text(Stream, String),
    Display(Bundle, Option<String>),
    Result(Bundle, usize),
    Error(Failure),
}

/// The outputs of the cells that have run so far, in their order.
#[derive(Default)]
pub struct Collected {
    cells: Vec<Vec<Shown>>,
    /// The cell that is to be cleared as soon as it shows something else.
    clears: Option<usize>,
}

impl Collected {
    /// A place for the next cell.
    pub fn begin(&mut self) -> usize {
        self.cells.push(Vec::new());
        self.cells.len() - 1
    }

    /// Takes what a cell shows. An update may be of what an earlier cell has shown.
    pub fn take(&mut self, cell: usize, event: Event) {
        match event {
            Event::Text(stream, text) => match self.of(cell).last_mut() {
                Some(Shown::Text(last, before)) if *last == stream => before.push_str(&text),
                _ => self.of(cell).push(Shown::Text(stream, text)),
            },
            Event::Display(bundle, id) => self.of(cell).push(Shown::Display(bundle, id)),
            Event::Update(bundle, id) => {
                for shown in self.cells.iter_mut().flatten() {
                    if let Shown::Display(old, Some(own)) = shown
                        && *own == id
                    {
                        old.clone_from(&bundle);
                    }
                }
            }
            Event::Clear { wait: true } => self.clears = Some(cell),
            Event::Clear { wait: false } => {
                self.clears = None;
                self.of(cell).clear();
            }
        }
    }

    pub fn end_with_value(&mut self, cell: usize, bundle: Bundle, number: usize) {
        self.of(cell).push(Shown::Result(bundle, number));
    }

    pub fn end_with_error(&mut self, cell: usize, failure: Failure) {
        self.of(cell).push(Shown::Error(failure));
    }

    fn of(&mut self, cell: usize) -> &mut Vec<Shown> {
        let outputs = &mut self.cells[cell];
        if self.clears == Some(cell) {
            self.clears = None;
            outputs.clear();
        }
        outputs
    }

    /// The outputs, cell by cell. What was emptied, as a progress bar that is done, is left out.
    pub fn finish(self) -> Vec<Vec<Value>> {
        let shown = |cell: Vec<Shown>| merged(cell.into_iter().filter(|shown| !shown.is_empty()));
        let stored = |shown: Shown| serde_json::to_value(stored(shown)?).ok();
        self.cells.into_iter().map(|cell| shown(cell).filter_map(stored).collect()).collect()
    }
}

impl Shown {
    fn is_empty(&self) -> bool {
        match self {
            Shown::Text(_, text) => text.is_empty(),
            Shown::Display(bundle, _) | Shown::Result(bundle, _) => {
                bundle.data.values().all(|value| match value {
                    Value::Null => true,
                    Value::String(text) => text.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    Value::Object(fields) => fields.is_empty(),
                    _ => false,
                })
            }
            Shown::Error(_) => false,
        }
    }
}

/// Texts of one stream that stand together once what was between them is gone.
fn merged(shown: impl Iterator<Item = Shown>) -> std::vec::IntoIter<Shown> {
    let mut whole: Vec<Shown> = Vec::new();
    for next in shown {
        match (whole.last_mut(), next) {
            (Some(Shown::Text(stream, before)), Shown::Text(other, text)) if *stream == other => {
                before.push_str(&text);
            }
            (_, next) => whole.push(next),
        }
    }
    whole.into_iter()
}

fn stored(shown: Shown) -> Option<Output> {
    Some(match shown {
        Shown::Text(stream, text) => {
            let text = settled(&text);
            if text.is_empty() {
                return None;
            }
            let name = match stream {
                Stream::Out => "stdout",
                Stream::Err => "stderr",
            };
            Output::Stream { name: name.to_string(), text: MultilineString(text) }
        }
        Shown::Display(bundle, _) => {
            Output::DisplayData(DisplayData { data: media(bundle.data)?, metadata: bundle.metadata })
        }
        Shown::Result(bundle, number) => Output::ExecuteResult(ExecuteResult {
            execution_count: number.into(),
            data: media(bundle.data)?,
            metadata: bundle.metadata,
        }),
        Shown::Error(failure) => Output::Error(ErrorOutput {
            ename: failure.name,
            evalue: failure.value,
            traceback: failure.traceback,
        }),
    })
}

fn media<T: serde::de::DeserializeOwned>(data: Map<String, Value>) -> Option<T> {
    serde_json::from_value(Value::Object(data)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bundle(text: &str) -> Bundle {
        [("text/plain".to_string(), json!(text))].into_iter().collect()
    }

    fn out(text: &str) -> Event {
        Event::Text(Stream::Out, text.to_string())
    }

    fn err(text: &str) -> Event {
        Event::Text(Stream::Err, text.to_string())
    }

    fn display(text: &str, id: &str) -> Event {
        Event::Display(bundle(text), (!id.is_empty()).then(|| id.to_string()))
    }

    fn update(text: &str, id: &str) -> Event {
        Event::Update(bundle(text), id.to_string())
    }

    /// One word for each output of a cell.
    fn words(outputs: &[Value]) -> Vec<String> {
        let text = |value: &Value| crate::notebook::text(value).unwrap();
        outputs
            .iter()
            .map(|output| match output["output_type"].as_str().unwrap() {
                "stream" => format!("{}:{}", output["name"].as_str().unwrap(), text(&output["text"])),
                "display_data" => format!("display:{}", text(&output["data"]["text/plain"])),
                "execute_result" => {
                    format!("{}:{}", output["execution_count"], text(&output["data"]["text/plain"]))
                }
                _ => format!("error:{}", output["ename"]),
            })
            .collect()
    }

    #[test]
    fn events_become_outputs() {
        let clear = || Event::Clear { wait: false };
        let wait = || Event::Clear { wait: true };
        for (events, outputs) in [
            (vec![], vec![]),
            (
                vec![out("a\n"), out("b\n"), err("c\n"), out("d")],
                vec!["stdout:a\nb\n", "stderr:c\n", "stdout:d"],
            ),
            (vec![out("1 %\r"), out("2 %\n")], vec!["stdout:2 %\n"]),
            (vec![out("\r\u{1b}[K")], vec![]),
            (vec![out("a"), display("x", ""), out("b")], vec!["stdout:a", "display:x", "stdout:b"]),
            (vec![display("x", "1"), display("y", "2"), update("z", "1")], vec!["display:z", "display:y"]),
            (vec![update("z", "unknown")], vec![]),
            (vec![out("a"), display("50 %", "1"), out("b"), update("", "1")], vec!["stdout:ab"]),
            (vec![out("a"), clear(), out("b")], vec!["stdout:b"]),
            (vec![out("a"), clear()], vec![]),
            (vec![out("a"), wait(), out("b"), out("c")], vec!["stdout:bc"]),
            (vec![out("a"), wait(), wait(), display("b", "")], vec!["display:b"]),
            (vec![out("a"), wait()], vec!["stdout:a"]),
        ] {
            let mut collected = Collected::default();
            let cell = collected.begin();
            let told = format!("{events:?}");
            for event in events {
                collected.take(cell, event);
            }
            assert_eq!(words(&collected.finish()[0]), outputs, "of {told}");
        }
    }

    #[test]
    fn an_update_reaches_an_earlier_cell() {
        let mut collected = Collected::default();
        let first = collected.begin();
        collected.take(first, display("old", "1"));
        let second = collected.begin();
        collected.take(second, update("new", "1"));
        collected.end_with_value(second, bundle("7"), 2);
        let cells = collected.finish();
        assert_eq!(words(&cells[0]), ["display:new"]);
        assert_eq!(words(&cells[1]), ["2:7"]);
    }
}
