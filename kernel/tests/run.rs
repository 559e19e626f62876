//! What `headlight-kernel run` and `lab` say of bad input, before anything is built or written.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn kernel(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headlight-kernel"))
        .args(arguments)
        .current_dir(folder)
        // Nothing may be built: there is no place to.
        .env("HEADLIGHT_CACHE", folder.join("a.ipynb/none"))
        .output()
        .expect("the program starts")
}

const NOTEBOOK: &str = "{\"nbformat\": 4, \"nbformat_minor\": 5, \"metadata\": {}, \"cells\": [\
    {\"cell_type\": \"code\", \"id\": \"a\", \"metadata\": {\"tags\": [\"parameters\"]}, \"execution_count\": 7, \
    \"source\": \"let n = 1;\", \"outputs\": []}]}";

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.ipynb"), NOTEBOOK).unwrap();
    fs::write(folder.path().join("plain.ipynb"), NOTEBOOK.replace("parameters", "other")).unwrap();
    fs::write(folder.path().join("text.ipynb"), "let n = 1;").unwrap();
    fs::write(folder.path().join("json.ipynb"), "{\"n\": 1}").unwrap();
    fs::write(folder.path().join("new.ipynb"), NOTEBOOK.replace("4,", "7,")).unwrap();
    fs::write(folder.path().join("bytes.ipynb"), [0xff, 0xfe, 0x00]).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    folder
}

/// Every file of a folder with its content.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

#[test]
fn bad_input_is_told_and_nothing_is_written() {
    let folder = prepared();
    let before = files(folder.path());
    for (arguments, says) in [
        (&["run"][..], "<NOTEBOOK>"),
        (&["run", "none.ipynb"], "none.ipynb does not exist"),
        (&["run", "folder"], "folder is a folder; name the notebooks in it"),
        (&["run", "text.ipynb"], "text.ipynb is not a notebook: it is not JSON"),
        (&["run", "json.ipynb"], "json.ipynb is not a notebook: it has no \"nbformat\""),
        (
            &["run", "new.ipynb"],
            "new.ipynb has the format 7.5, where 3 and 4 can be read; open it in JupyterLab",
        ),
        (&["run", "bytes.ipynb"], "bytes.ipynb is not a notebook: it is not UTF-8 text"),
        (&["run", "a.ipynb", "--out", "text.ipynb"], "--out text.ipynb is a file, where a folder is needed"),
        (&["run", "a.ipynb", "--out", "."], "leave --out out"),
        (&["run", "a.ipynb", "folder/a.ipynb", "--out", "x"], "would both become x/a.ipynb"),
        (&["run", "a.ipynb", "--set", "n"], "has no \"=\""),
        (&["run", "a.ipynb", "--set", "2n=1"], "\"2n\" is no name of a Rust variable"),
        (&["run", "a.ipynb", "--set", "n=\"x"], "begins as a string in quotes"),
        (&["run", "a.ipynb", "--set", "m=1"], "a.ipynb has no parameter \"m\"; its parameters: n"),
        (&["run", "plain.ipynb", "--set", "n=1"], "plain.ipynb has no code cell tagged \"parameters\""),
        (&["run", "a.ipynb", "--timeout", "soon"], "\"soon\" is not a number of seconds above 0"),
        (&["run", "a.ipynb", "--timeout", "0"], "\"0\" is not a number of seconds above 0"),
        (&["lab", "none"], "none does not exist; name a notebook or a folder of them"),
        (&["lab", "folder", "--headless"], "there are no notebooks (*.ipynb) in folder"),
        (&["lab", "--out", "x"], "--headless"),
    ] {
        let output = kernel(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(says), "{arguments:?} says {said:?}, not {says:?}");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!said.contains("panicked"), "{arguments:?} says {said:?}");
        assert_eq!(files(folder.path()), before, "after {arguments:?}");
    }
}

#[test]
fn several_are_run_and_their_errors_told_at_the_end() {
    let folder = prepared();
    let before = files(folder.path());
    let output = kernel(folder.path(), &["run", "none.ipynb", "text.ipynb", "plain.ipynb", "--set", "n=1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, end) = said.split_once("3 of 3 notebooks failed:").unwrap_or_else(|| panic!("it says {said:?}"));
    for line in ["none.ipynb does not exist", "text.ipynb is not a notebook", "plain.ipynb has no code cell"]
    {
        assert!(end.contains(line), "the end says {end:?}, not {line:?}");
    }
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(files(folder.path()), before);
}

#[test]
fn without_a_kernel_the_notebook_stays_as_it_was() {
    let folder = prepared();
    let before = files(folder.path());
    let output = kernel(folder.path(), &["run", "a.ipynb"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a.ipynb: cell 1 failed") && said.contains("let n = 1;"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(files(folder.path()), before);
}

#[test]
fn the_doctor_says_what_is_missing_and_what_mends_it() {
    let folder = prepared();
    let before = files(folder.path());
    let output = kernel(folder.path(), &["doctor"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let line = |of: &str| said.lines().find(|line| line.starts_with(of)).unwrap_or_else(|| panic!("{said}"));
    assert!(line("compiler").contains("rustc 1."), "{said}");
    assert!(line("template").contains("not built"), "{said}");
    assert!(said.contains("to mend it: headlight-kernel install"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(files(folder.path()), before);
}
