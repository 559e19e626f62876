//! Notebook files: read as Jupyter reads them, written so that a rerun changes what has changed.
//!
//! A notebook stays the JSON that it came as, so that what this program does not know is kept.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;

/// The minor format that is written; a file of a later one keeps its own.
const MINOR: u64 = 5;
const UPGRADE: &str = "open it in JupyterLab and save it, which writes format 4.5";

/// How Jupyter knows the kernel, and how it shows it.
pub const KERNEL_NAME: &str = "headlight";
pub const DISPLAY_NAME: &str = "Rust (headlight)";

/// The language, as notebooks and kernels describe it.
pub fn language_info() -> Value {
    json!({
        "codemirror_mode": "rust",
        "file_extension": ".rs",
        "mimetype": "text/rust",
        "name": "rust",
        "pygments_lexer": "rust",
    })
}

pub struct Notebook {
    pub cells: Vec<Cell>,
    /// All but the cells.
    fields: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CellKind {
    Code,
    Markdown,
    Raw,
    /// Of a later format.
    Other,
}

/// The fields of a cell. What all cells have was checked when it was read.
pub struct Cell(Map<String, Value>);

impl Cell {
    /// A code cell that has not run.
    pub fn code(id: &str, tags: &[&str], source: &str) -> Cell {
        let mut cell = Cell(Map::new());
        cell.0.insert("cell_type".to_string(), "code".into());
        cell.0.insert("id".to_string(), id.into());
        cell.0.insert("metadata".to_string(), json!({"tags": tags}));
        cell.set_source(source);
        cell.clear();
        cell
    }

    pub fn kind(&self) -> CellKind {
        match self.0.get("cell_type").and_then(Value::as_str) {
            Some("code") => CellKind::Code,
            Some("markdown") => CellKind::Markdown,
            Some("raw") => CellKind::Raw,
            _ => CellKind::Other,
        }
    }

    pub fn id(&self) -> &str {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn source(&self) -> String {
        self.0.get("source").and_then(join_text).unwrap_or_default()
    }

    pub fn set_source(&mut self, source: &str) {
        // As a notebook keeps text: in lines, each with its end.
        let lines: Vec<&str> = source.split_inclusive('\n').collect();
        self.0.insert("source".to_string(), lines.into());
    }

    pub fn has_tag(&self, tag: &str) -> bool {
        self.metadata("/tags").and_then(Value::as_array).is_some_and(|tags| tags.iter().any(|own| own == tag))
    }

    /// Whether the metadata says so, at a path as `/jupyter/source_hidden`.
    pub fn is_set(&self, path: &str) -> bool {
        self.metadata(path) == Some(&Value::Bool(true))
    }

    fn metadata(&self, path: &str) -> Option<&Value> {
        self.0.get("metadata")?.pointer(path)
    }

    pub fn attachments(&self) -> Option<&Value> {
        self.0.get("attachments")
    }

    pub fn execution_count(&self) -> Option<u64> {
        self.0.get("execution_count")?.as_u64()
    }

    pub fn outputs(&self) -> &[Value] {
        self.0.get("outputs").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Whether a run of the notebook runs it.
    pub fn runs(&self) -> bool {
        self.kind() == CellKind::Code && !self.is_skipped() && !self.source().trim().is_empty()
    }

    fn is_skipped(&self) -> bool {
        self.has_tag("skip-execution")
    }

    pub fn set_execution_count(&mut self, number: usize) {
        self.0.insert("execution_count".to_string(), number.into());
    }

    pub fn set_outputs(&mut self, outputs: Vec<Value>) {
        self.0.insert("outputs".to_string(), outputs.into());
    }

    /// Takes away what an earlier run has left.
    fn clear(&mut self) {
        self.0.insert("execution_count".to_string(), Value::Null);
        self.set_outputs(Vec::new());
        // When it ran: Jupyter's record of an earlier time.
        if let Some(Value::Object(metadata)) = self.0.get_mut("metadata") {
            metadata.remove("execution");
        }
    }
}

/// A text, which a notebook may keep in pieces.
pub fn join_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(lines) => lines.iter().map(Value::as_str).collect::<Option<String>>(),
        _ => None,
    }
}

/// Reads a notebook; one of an older format as the current one has it.
pub fn read(path: &Path) -> Result<Notebook> {
    let name = path.display();
    if path.is_dir() {
        return Err(format!(
            "{name} is a folder; name the notebooks in it, as in {}",
            path.join("*.ipynb").display()
        )
        .into());
    }
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{name} does not exist"),
        _ => format!("{name} cannot be read: {error}"),
    })?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("{name} is not a notebook: it is not UTF-8 text"))?;
    parse(text.trim_start_matches('\u{feff}')).map_err(|why| format!("{name} {why}").into())
}

/// A notebook from its JSON; else what is wrong with it, to follow its name.
pub fn parse(text: &str) -> std::result::Result<Notebook, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is not a notebook: it is not JSON ({error})"))?;
    let Some(format) = value.get("nbformat") else {
        return Err("is not a notebook: it has no \"nbformat\"; Jupyter writes notebooks".to_string());
    };
    let value = match format.as_u64() {
        Some(4) => value,
        Some(3) => upgrade(text)?,
        _ => {
            let minor = value.get("nbformat_minor").unwrap_or(&Value::Null);
            let version = if minor.is_null() { format.to_string() } else { format!("{format}.{minor}") };
            return Err(format!("has the format {version}, where 3 and 4 can be read; {UPGRADE}"));
        }
    };
    let Value::Object(mut fields) = value else { return Err("is not a notebook".to_string()) };
    let Some(Value::Array(cells)) = fields.remove("cells") else {
        return Err("is not a notebook: it has no list of \"cells\"".to_string());
    };
    let damaged = |what: &str| format!("is damaged: {what}; {UPGRADE}");
    if !fields.get("metadata").is_some_and(Value::is_object) {
        return Err(damaged("its \"metadata\" are missing, or no object"));
    }
    let minor = fields.get("nbformat_minor").and_then(Value::as_u64);
    let minor = minor.ok_or_else(|| damaged("its \"nbformat_minor\" is missing, or no number"))?;
    let cells = cells
        .into_iter()
        .enumerate()
        .map(|(at, cell)| {
            check_cell(cell, minor > MINOR).map_err(|what| damaged(&format!("cell {} {what}", at + 1)))
        })
        .collect::<std::result::Result<_, String>>()?;
    fields.insert("nbformat_minor".to_string(), minor.max(MINOR).into());
    let mut notebook = Notebook { cells, fields };
    assign_ids(&mut notebook);
    Ok(notebook)
}

/// A notebook of format 3 in the current one.
fn upgrade(text: &str) -> std::result::Result<Value, String> {
    let refuse = |error: String| format!("has the format 3, and cannot be converted: {error}; {UPGRADE}");
    match nbformat::parse_notebook(text) {
        Ok(nbformat::Notebook::V3(old)) => {
            let new = nbformat::upgrade_v3_notebook(old).map_err(|error| refuse(error.to_string()))?;
            let mut new = serde_json::to_value(new).map_err(|error| refuse(error.to_string()))?;
            // Random ones, other ones each time.
            for cell in new["cells"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                cell.remove("id");
            }
            Ok(new)
        }
        Ok(_) => Err(refuse("it is of another".to_string())),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// A cell in which all is as the rest of the program expects it; else what is wrong.
fn check_cell(cell: Value, later_format: bool) -> std::result::Result<Cell, String> {
    let Value::Object(fields) = cell else { return Err("is no object".to_string()) };
    let mut cell = Cell(fields);
    let invalid = |field: &str, wanted: &str| Err(format!("has a {field:?} that is missing, or no {wanted}"));
    if cell.kind() == CellKind::Other
        && !(later_format && cell.0.get("cell_type").is_some_and(Value::is_string))
    {
        let kind = cell.0.get("cell_type").unwrap_or(&Value::Null);
        return Err(format!("has the \"cell_type\" {kind}, where code, markdown and raw are known"));
    }
    if !cell.0.get("metadata").is_some_and(Value::is_object) {
        return invalid("metadata", "object");
    }
    if cell.kind() == CellKind::Other {
        return Ok(cell);
    }
    let Some(source) = cell.0.get("source").and_then(join_text) else { return invalid("source", "text") };
    cell.set_source(&source);
    if cell.kind() == CellKind::Code {
        let count = cell.0.entry("execution_count").or_insert(Value::Null);
        if !(count.is_null() || count.is_u64()) {
            return invalid("execution_count", "number");
        }
        let outputs = cell.0.entry("outputs").or_insert_with(|| json!([]));
        if !outputs.as_array().is_some_and(|outputs| outputs.iter().all(Value::is_object)) {
            return invalid("outputs", "list of objects");
        }
    }
    Ok(cell)
}

/// Gives an id to each cell that has none, or one that another has: the same from run to run, so that files can be compared.
fn assign_ids(notebook: &mut Notebook) {
    let mut ids = notebook.ids();
    let mut seen = HashSet::new();
    for (at, cell) in notebook.cells.iter_mut().enumerate() {
        if !is_id(cell.id()) || !seen.insert(cell.id().to_string()) {
            let fresh = fresh_id(&format!("cell-{}", at + 1), &ids);
            cell.0.insert("id".to_string(), fresh.as_str().into());
            ids.insert(fresh);
        }
    }
}

fn is_id(id: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=64).contains(&id.len()) && id.chars().all(valid)
}

/// An id that no cell has yet.
pub fn fresh_id(wish: &str, ids: &HashSet<String>) -> String {
    let mut id = wish.to_string();
    let mut n = 1;
    while ids.contains(&id) {
        n += 1;
        id = format!("{wish}-{n}");
    }
    id
}

impl Notebook {
    pub fn ids(&self) -> HashSet<String> {
        self.cells.iter().map(|cell| cell.id().to_string()).collect()
    }

    /// How many cells a run of it runs.
    pub fn count_runnable(&self) -> usize {
        self.cells.iter().filter(|cell| cell.runs()).count()
    }

    /// Makes it one of this kernel, without what an earlier run has left. No versions: they would change without need.
    pub fn prepare(&mut self) {
        for cell in self.cells.iter_mut().filter(|cell| cell.kind() == CellKind::Code && !cell.is_skipped()) {
            cell.clear();
        }
        if let Some(Value::Object(metadata)) = self.fields.get_mut("metadata") {
            metadata.insert(
                "kernelspec".to_string(),
                json!({"display_name": DISPLAY_NAME, "language": "rust", "name": KERNEL_NAME}),
            );
            metadata.insert("language_info".to_string(), language_info());
        }
    }

    /// As Jupyter writes it: sorted keys, one space for each level, a line end.
    pub fn to_json(&self) -> Result<String> {
        let mut whole = self.fields.clone();
        let cells = self.cells.iter().map(|cell| Value::Object(cell.0.clone())).collect();
        whole.insert("cells".to_string(), cells);
        let mut whole = Value::Object(whole);
        whole.sort_all_objects();
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
        serde::Serialize::serialize(&whole, &mut writer)?;
        text.push(b'\n');
        Ok(String::from_utf8(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_cells(minor: u8, cells: &str) -> std::result::Result<Notebook, String> {
        parse(&format!(
            "{{\"nbformat\": 4, \"nbformat_minor\": {minor}, \"metadata\": {{}}, \"cells\": [{cells}]}}"
        ))
    }

    fn ids(notebook: &Notebook) -> Vec<&str> {
        notebook.cells.iter().map(Cell::id).collect()
    }

    #[test]
    fn what_is_no_notebook_is_refused() {
        for (text, says) in [
            ("", "is not JSON"),
            ("{", "is not JSON"),
            ("[]", "no \"nbformat\""),
            ("7", "no \"nbformat\""),
            ("{}", "no \"nbformat\""),
            ("{\"nbformat\": 2}", "has the format 2,"),
            ("{\"nbformat\": 5, \"nbformat_minor\": 1}", "has the format 5.1"),
            ("{\"nbformat\": \"4\"}", "has the format \"4\""),
            ("{\"nbformat\": 3, \"worksheets\": 7}", "has the format 3, and cannot be converted"),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5}", "no list of \"cells\""),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5, \"cells\": {}}", "no list of \"cells\""),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5, \"cells\": []}", "its \"metadata\" are missing"),
            ("{\"nbformat\": 4, \"cells\": [], \"metadata\": {}}", "its \"nbformat_minor\" is missing"),
        ] {
            let message = parse(text).err().expect(text);
            assert!(message.contains(says), "of {text:?} it says {message:?}");
        }
        for (cell, says) in [
            ("1", "cell 1 is no object"),
            ("{\"metadata\": {}}", "cell 1 has the \"cell_type\" null"),
            ("{\"cell_type\": \"raw\"}", "cell 1 has a \"metadata\" that is missing"),
            ("{\"cell_type\": \"raw\", \"metadata\": {}, \"source\": [1]}", "cell 1 has a \"source\""),
        ] {
            let message = parse_cells(5, cell).err().expect(cell);
            assert!(
                message.contains(says) && message.contains("JupyterLab"),
                "of {cell:?} it says {message:?}"
            );
        }
    }

    #[test]
    fn cells_get_ids_that_stay() {
        let cell = "{\"cell_type\": \"markdown\", \"metadata\": {}, \"source\": \"a\\nb\"}";
        for minor in [0, 4, 5] {
            let notebook = parse_cells(minor, &format!("{cell}, {cell}")).unwrap();
            assert_eq!(ids(&notebook), ["cell-1", "cell-2"], "in format 4.{minor}");
            assert_eq!(notebook.cells[0].source(), "a\nb");
            assert!(notebook.to_json().unwrap().contains("\"nbformat_minor\": 5"));
        }
        let named = |id: &str| cell.replacen('{', &format!("{{\"id\": {id}, "), 1);
        for (given, expected) in [
            (["\"cell-2\"", "\"\"", "\"b\""], ["cell-2", "cell-2-2", "b"]),
            (["\"a\"", "\"a\"", "\"a\""], ["a", "cell-2", "cell-3"]),
            (["7", "\"a b\"", "null"], ["cell-1", "cell-2", "cell-3"]),
        ] {
            let notebook = parse_cells(5, &given.map(named).join(", ")).unwrap();
            assert_eq!(ids(&notebook), expected);
        }
        let old = "{\"nbformat\": 3, \"metadata\": {}, \"worksheets\": [{\"cells\": [{\"cell_type\": \"code\", \
                   \"input\": [\"1\"], \"language\": \"rust\", \"metadata\": {}, \"outputs\": []}]}]}";
        let notebook = parse(old).unwrap();
        assert_eq!((ids(&notebook), notebook.cells[0].source().as_str()), (vec!["cell-1"], "1"));
    }

    #[test]
    fn what_was_written_reads_and_writes_the_same() {
        let mut notebook = parse_cells(
            5,
            "{\"cell_type\": \"code\", \"id\": \"b7\", \"metadata\": {\"tags\": [\"t\"], \"zeta\": 1, \
             \"alpha\": {\"y\": 1, \"x\": 2}, \"execution\": {\"iopub.status.busy\": \"then\"}}, \
             \"execution_count\": 3, \"source\": [\"let a = 1;\\n\", \"a\"], \"outputs\": []}",
        )
        .unwrap();
        notebook.prepare();
        let text = notebook.to_json().unwrap();
        assert_eq!(parse(&text).unwrap().to_json().unwrap(), text);
        assert!(text.ends_with("}\n") && text.starts_with("{\n \"cells\": [\n  {\n   \"cell_type\""));
        assert!(!text.contains("execution\":") && !text.contains("version\":"), "{text}");
        assert!(text.find("alpha").unwrap() < text.find("zeta").unwrap());
        assert!(text.contains("\"display_name\": \"Rust (headlight)\""));
    }

    #[test]
    fn a_cell_that_is_skipped_keeps_what_it_showed() {
        let cell = |tag: &str| {
            format!(
                "{{\"cell_type\": \"code\", \"metadata\": {{\"tags\": [\"{tag}\"]}}, \"execution_count\": 3, \
                 \"source\": \"1\", \"outputs\": [{{\"output_type\": \"stream\", \"name\": \"stdout\", \"text\": \"a\"}}]}}"
            )
        };
        let mut notebook = parse_cells(5, &format!("{}, {}", cell("skip-execution"), cell("other"))).unwrap();
        notebook.prepare();
        let left: Vec<_> =
            notebook.cells.iter().map(|cell| (cell.execution_count(), cell.outputs().len())).collect();
        assert_eq!((left, notebook.count_runnable()), (vec![(Some(3), 1), (None, 0)], 1));
    }
}
