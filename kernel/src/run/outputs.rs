//! What cells show, gathered as a notebook keeps it.

use nbformat::v4::{DisplayData, ErrorOutput, ExecuteResult, MultilineString, Output};
use serde_json::{Map, Value};

use crate::cell::report::Failure;
use crate::engine::event::{Event, MimeBundle, Stream};
use crate::terminal::screen::settle;

enum CellOutput {
    Text(Stream, String),
    Display(MimeBundle, Option<String>),
    Result(MimeBundle, usize),
    Error(Failure),
}

/// The outputs of the cells that have run so far, in their order.
#[derive(Default)]
pub struct NotebookOutputs {
    cells: Vec<Vec<CellOutput>>,
    /// The cell that is to be cleared as soon as it shows something else.
    clears: Option<usize>,
}

impl NotebookOutputs {
    /// A place for the next cell.
    pub fn begin(&mut self) -> usize {
        self.cells.push(Vec::new());
        self.cells.len() - 1
    }

    /// Takes what a cell shows. An update may be of what an earlier cell has shown.
    pub fn take(&mut self, cell: usize, event: Event) {
        match event {
            Event::Text(stream, text) => match self.cell(cell).last_mut() {
                Some(CellOutput::Text(last, before)) if *last == stream => before.push_str(&text),
                _ => self.cell(cell).push(CellOutput::Text(stream, text)),
            },
            Event::Display(bundle, id) => self.cell(cell).push(CellOutput::Display(bundle, id)),
            Event::Update(bundle, id) => {
                for output in self.cells.iter_mut().flatten() {
                    if let CellOutput::Display(old, Some(own)) = output
                        && *own == id
                    {
                        old.clone_from(&bundle);
                    }
                }
            }
            Event::Clear { wait: true } => self.clears = Some(cell),
            Event::Clear { wait: false } => {
                self.clears = None;
                self.cell(cell).clear();
            }
        }
    }

    pub fn end_with_value(&mut self, cell: usize, bundle: MimeBundle, number: usize) {
        self.cell(cell).push(CellOutput::Result(bundle, number));
    }

    pub fn end_with_error(&mut self, cell: usize, failure: Failure) {
        self.cell(cell).push(CellOutput::Error(failure));
    }

    fn cell(&mut self, cell: usize) -> &mut Vec<CellOutput> {
        let outputs = &mut self.cells[cell];
        if self.clears == Some(cell) {
            self.clears = None;
            outputs.clear();
        }
        outputs
    }

    /// The outputs, cell by cell. What was emptied, as a progress bar that is done, is left out.
    pub fn finish(self) -> Vec<Vec<Value>> {
        let left = |cell: Vec<CellOutput>| merge_text(cell.into_iter().filter(|output| !output.is_empty()));
        let to_json = |output: CellOutput| serde_json::to_value(to_nbformat(output)?).ok();
        self.cells.into_iter().map(|cell| left(cell).filter_map(to_json).collect()).collect()
    }
}

impl CellOutput {
    fn is_empty(&self) -> bool {
        match self {
            CellOutput::Text(_, text) => text.is_empty(),
            CellOutput::Display(bundle, _) | CellOutput::Result(bundle, _) => {
                bundle.data.values().all(|value| match value {
                    Value::Null => true,
                    Value::String(text) => text.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    Value::Object(fields) => fields.is_empty(),
                    _ => false,
                })
            }
            CellOutput::Error(_) => false,
        }
    }
}

/// Texts of one stream that stand together once what was between them is gone.
fn merge_text(outputs: impl Iterator<Item = CellOutput>) -> std::vec::IntoIter<CellOutput> {
    let mut whole: Vec<CellOutput> = Vec::new();
    for next in outputs {
        match (whole.last_mut(), next) {
            (Some(CellOutput::Text(stream, before)), CellOutput::Text(other, text)) if *stream == other => {
                before.push_str(&text);
            }
            (_, next) => whole.push(next),
        }
    }
    whole.into_iter()
}

fn to_nbformat(output: CellOutput) -> Option<Output> {
    Some(match output {
        CellOutput::Text(stream, text) => {
            let text = settle(&text);
            if text.is_empty() {
                return None;
            }
            Output::Stream { name: stream.name().to_string(), text: MultilineString(text) }
        }
        CellOutput::Display(bundle, _) => {
            Output::DisplayData(DisplayData { data: media(bundle.data)?, metadata: bundle.metadata })
        }
        CellOutput::Result(bundle, number) => Output::ExecuteResult(ExecuteResult {
            execution_count: number.into(),
            data: media(bundle.data)?,
            metadata: bundle.metadata,
        }),
        CellOutput::Error(failure) => Output::Error(ErrorOutput {
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

    fn bundle(text: &str) -> MimeBundle {
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
        let text = |value: &Value| crate::notebook::join_text(value).unwrap();
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
            let mut notebook = NotebookOutputs::default();
            let cell = notebook.begin();
            let named = format!("{events:?}");
            for event in events {
                notebook.take(cell, event);
            }
            assert_eq!(words(&notebook.finish()[0]), outputs, "of {named}");
        }
    }

    #[test]
    fn an_update_reaches_an_earlier_cell() {
        let mut outputs = NotebookOutputs::default();
        let first = outputs.begin();
        outputs.take(first, display("old", "1"));
        let second = outputs.begin();
        outputs.take(second, update("new", "1"));
        outputs.end_with_value(second, bundle("7"), 2);
        let cells = outputs.finish();
        assert_eq!(words(&cells[0]), ["display:new"]);
        assert_eq!(words(&cells[1]), ["2:7"]);
    }
}
