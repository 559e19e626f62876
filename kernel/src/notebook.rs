//! Notebook files: read with any of the formats there are, written so that a rerun changes what has changed.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use nbformat::v4::{Cell, CellId, CodemirrorMode, KernelSpec, LanguageInfo, Notebook};
use nbformat::{parse_notebook, serialize_notebook};
use serde_json::Value;

use crate::Result;

/// Reads a notebook; one of an older format as the current one has it.
pub fn read(path: &Path) -> Result<Notebook> {
    let shown = path.display();
    if path.is_dir() {
        return Err(format!(
            "{shown} is a folder; name the notebooks in it, as in {}",
            path.join("*.ipynb").display()
        )
        .into());
    }
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{shown} does not exist"),
        _ => format!("{shown} cannot be read: {error}"),
    })?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("{shown} is not a notebook: it is not UTF-8 text"))?;
    parse(text.trim_start_matches('\u{feff}')).map_err(|why| format!("{shown} {why}").into())
}

/// A notebook from its JSON; else what is wrong with it, to follow its name.
fn parse(text: &str) -> std::result::Result<Notebook, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is not a notebook: it is not JSON ({error})"))?;
    let format = &value["nbformat"];
    if !value.is_object() || format.is_null() {
        return Err("is not a notebook: it has no \"nbformat\"; Jupyter writes notebooks".to_string());
    }
    if format.as_i64() == Some(4) && !value["cells"].is_array() {
        return Err("is not a notebook: it has no list of \"cells\"".to_string());
    }
    let upgrade = "open it in JupyterLab and save it, which writes format 4.5";
    let parsed = parse_notebook(text).map_err(|error| match error {
        nbformat::NotebookError::UnsupportedVersion(major, minor) => {
            format!("has the format {major}.{minor}, where 3.0 to 4.5 can be read; {upgrade}")
        }
        error => format!("is damaged: {error}; {upgrade}"),
    })?;
    let mut notebook = match parsed {
        nbformat::Notebook::V4(notebook) => notebook,
        nbformat::Notebook::V4QuirksMode(quirks) => quirks.repair(),
        nbformat::Notebook::Legacy(old) => nbformat::upgrade_legacy_notebook(old)
            .map_err(|error| format!("cannot be converted: {error}; {upgrade}"))?,
        nbformat::Notebook::V3(old) => nbformat::upgrade_v3_notebook(old)
            .map_err(|error| format!("cannot be converted: {error}; {upgrade}"))?,
        _ => return Err(format!("has a format that cannot be read; {upgrade}")),
    };
    name_cells(&mut notebook, &ids_in(&value));
    for cell in &mut notebook.cells {
        let (Cell::Code { source, .. } | Cell::Markdown { source, .. } | Cell::Raw { source, .. }) = cell;
        *source = lines(&source.concat());
    }
    Ok(notebook)
}

fn ids_in(notebook: &Value) -> HashSet<String> {
    let cells = notebook["cells"].as_array().into_iter().flatten();
    cells.filter_map(|cell| cell["id"].as_str().map(str::to_string)).collect()
}

/// Cells that had no id got a random one; another that stays the same from run to run makes comparing easier.
fn name_cells(notebook: &mut Notebook, given: &HashSet<String>) {
    let mut taken = given.clone();
    for (at, cell) in notebook.cells.iter_mut().enumerate() {
        let (Cell::Code { id, .. } | Cell::Markdown { id, .. } | Cell::Raw { id, .. }) = cell;
        if !given.contains(id.as_str())
            && let Some(fresh) = fresh_id(&format!("cell-{}", at + 1), &taken)
        {
            taken.insert(fresh.as_str().to_string());
            *id = fresh;
        }
    }
}

/// An id that no cell has yet.
pub fn fresh_id(wish: &str, taken: &HashSet<String>) -> Option<CellId> {
    let mut names = (1..).map(|n| if n == 1 { wish.to_string() } else { format!("{wish}-{n}") });
    CellId::new(&names.find(|name| !taken.contains(name))?).ok()
}

/// As a notebook keeps text: in lines, each with its end.
pub fn lines(text: &str) -> Vec<String> {
    text.split_inclusive('\n').map(str::to_string).collect()
}

/// Whether the cell is tagged so.
pub fn has_tag(cell: &Cell, tag: &str) -> bool {
    cell.metadata().tags.iter().flatten().any(|own| own == tag)
}

/// Says that the notebook is one for this kernel. No versions: they would change without need.
pub fn name_kernel(notebook: &mut Notebook) {
    notebook.metadata.kernelspec = Some(KernelSpec {
        display_name: "Rust (headlight)".to_string(),
        name: "headlight".to_string(),
        language: Some("rust".to_string()),
        additional: HashMap::new(),
    });
    let about = [("file_extension", ".rs"), ("mimetype", "text/rust"), ("pygments_lexer", "rust")];
    notebook.metadata.language_info = Some(LanguageInfo {
        name: "rust".to_string(),
        version: None,
        codemirror_mode: Some(CodemirrorMode::String("rust".to_string())),
        additional: about.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect(),
    });
}

/// Takes away what an earlier run has left.
pub fn clear_outputs(notebook: &mut Notebook) {
    for cell in &mut notebook.cells {
        if let Cell::Code { metadata, execution_count, outputs, .. } = cell {
            *execution_count = None;
            outputs.clear();
            // When it ran: Jupyter's record of an earlier time.
            metadata.execution = None;
        }
    }
}

/// The notebook as Jupyter writes it: sorted keys, one space for each level, a line end.
pub fn written(notebook: &Notebook) -> Result<String> {
    let whole = nbformat::Notebook::V4(notebook.clone());
    serialize_notebook(&whole).map_err(|error| format!("the notebook cannot be written: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_cells(minor: u8, cells: &str) -> std::result::Result<Notebook, String> {
        parse(&format!(
            "{{\"nbformat\": 4, \"nbformat_minor\": {minor}, \"metadata\": {{}}, \"cells\": [{cells}]}}"
        ))
    }

    #[test]
    fn what_is_no_notebook_is_told() {
        for (text, says) in [
            ("", "is not JSON"),
            ("{", "is not JSON"),
            ("[]", "no \"nbformat\""),
            ("7", "no \"nbformat\""),
            ("{}", "no \"nbformat\""),
            ("{\"nbformat\": 2}", "has the format 2.0"),
            ("{\"nbformat\": 5, \"nbformat_minor\": 1}", "has the format 5.1"),
            ("{\"nbformat\": \"4\"}", "has the format 0.0"),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5}", "no list of \"cells\""),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5, \"cells\": {}}", "no list of \"cells\""),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5, \"cells\": []}", "is damaged"),
            ("{\"nbformat\": 4, \"nbformat_minor\": 5, \"cells\": [1], \"metadata\": {}}", "is damaged"),
        ] {
            let said = parse(text).expect_err(text);
            assert!(said.contains(says), "of {text:?} it says {said:?}");
        }
    }

    #[test]
    fn older_formats_are_converted_with_ids_that_stay() {
        let cell = "{\"cell_type\": \"markdown\", \"metadata\": {}, \"source\": \"a\\nb\"}";
        for minor in [2, 4, 5] {
            let notebook = parse_cells(minor, &format!("{cell}, {cell}")).unwrap();
            let ids: Vec<&str> = notebook.cells.iter().map(|cell| cell.id().as_str()).collect();
            assert_eq!(ids, ["cell-1", "cell-2"], "in format 4.{minor}");
            assert_eq!(notebook.cells[0].source(), ["a\n", "b"]);
            assert_eq!((notebook.nbformat, notebook.nbformat_minor), (4, 5));
        }
        let with_id = "{\"cell_type\": \"raw\", \"id\": \"cell-2\", \"metadata\": {}, \"source\": []}";
        let notebook = parse_cells(5, &format!("{with_id}, {cell}")).unwrap();
        let ids: Vec<&str> = notebook.cells.iter().map(|cell| cell.id().as_str()).collect();
        assert_eq!(ids, ["cell-2", "cell-2-2"]);
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
        name_kernel(&mut notebook);
        clear_outputs(&mut notebook);
        let text = written(&notebook).unwrap();
        assert_eq!(written(&parse(&text).unwrap()).unwrap(), text);
        assert!(text.ends_with("}\n") && text.starts_with("{\n \"cells\": [\n  {\n   \"cell_type\""));
        assert!(!text.contains("execution\":") && !text.contains("version\":"), "{text}");
        assert!(text.find("alpha").unwrap() < text.find("zeta").unwrap());
        assert!(text.contains("\"display_name\": \"Rust (headlight)\""));
    }
}
