//! How a line of what evcxr made of a cell is found in what the user wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cell::lex::lex_code;

/// In the folder of a session: the number of the cell that is compiled.
const CURRENT_CELL: &str = "cell";

/// A place in what was compiled.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Location {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

/// A line that the user wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct CellLine {
    pub cell: usize,
    pub line: usize,
    pub text: String,
    /// How many characters further right the code stands than in what was compiled.
    pub shift: isize,
}

impl CellLine {
    /// Where a column of what was compiled stands in it.
    pub fn column(&self, compiled: usize) -> usize {
        compiled.saturating_add_signed(self.shift)
    }
}

/// The cells of a session, by number.
pub struct CellSources {
    folder: PathBuf,
    cells: BTreeMap<usize, String>,
    /// What is named in them, but after a dot.
    names: BTreeSet<String>,
}

impl CellSources {
    pub fn new(folder: &Path) -> CellSources {
        CellSources { folder: folder.to_path_buf(), cells: BTreeMap::new(), names: BTreeSet::new() }
    }

    /// From now on this cell is compiled.
    pub fn begin(&mut self, number: usize, code: &str) {
        let mut after_dot = false;
        for (_, text) in lex_code(code) {
            if !after_dot && text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                self.names.insert(text.to_string());
            }
            after_dot = text == ".";
        }
        self.cells.insert(number, code.to_string());
        let _ = fs::write(self.folder.join(CURRENT_CELL), number.to_string());
    }

    /// Whether a cell names this otherwise than as a field or a method of something: what the user declares is named so.
    pub fn names(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The cell in which one of the user's macros, or `thread_local!`, was given or has in it this name: evcxr keeps
    /// nothing of what such a call makes.
    pub fn find_macro_cell(&self, name: &str) -> Option<usize> {
        let tokens = |code| lex_code(code).map(|(_, text)| text).collect::<Vec<&str>>();
        let cells: Vec<(usize, Vec<&str>)> =
            self.cells.iter().map(|(cell, code)| (*cell, tokens(code))).collect();
        let pairs = cells.iter().flat_map(|(_, tokens)| tokens.windows(2));
        let defined = pairs.filter(|pair| pair[0] == "macro_rules!").map(|pair| format!("{}!", pair[1]));
        let makers: Vec<String> =
            defined.chain(["macro_rules!".to_string(), "thread_local!".to_string()]).collect();
        cells.iter().rev().skip(1).find_map(|(cell, tokens)| {
            let is_maker = |text: &str| makers.iter().any(|maker| maker == text);
            let calls = tokens.iter().enumerate().filter(|(_, text)| is_maker(text));
            let names_it =
                calls.map(|(at, _)| macro_call(&tokens[at + 1..])).any(|call| call.contains(&name));
            names_it.then_some(*cell)
        })
    }

    /// What was last compiled for a cell.
    pub fn read_generated(&self, number: usize) -> Option<String> {
        fs::read_to_string(self.folder.join(generated_file(number))).ok()
    }

    /// The user's line behind a line of what was compiled: a cell is compiled together with the items of earlier ones.
    pub fn locate(&self, file: &str, line: usize) -> Option<CellLine> {
        let number = cell_number(file)?;
        let generated = self.read_generated(number)?;
        let text = generated.lines().nth(line.checked_sub(1)?)?;
        if text.trim().is_empty() {
            return None;
        }
        // The same line; or one of which evcxr made several, a statement each.
        let is_same = |own: &str| own.trim() == text.trim();
        let is_part = |own: &str| own.contains(text.trim());
        let before = generated.lines().take(line - 1).filter(|other| is_same(other)).count();
        let find = |matches: &dyn Fn(&str) -> bool| {
            self.cells.range(..=number).rev().find_map(|(cell, code)| {
                let lines: Vec<usize> =
                    code.lines().enumerate().filter(|(_, own)| matches(own)).map(|(at, _)| at + 1).collect();
                Some((*cell, *lines.get(before).or(lines.first())?))
            })
        };
        let (cell, line) = find(&is_same).or_else(|| find(&is_part))?;
        let own = self.cells.get(&cell)?.lines().nth(line - 1)?.to_string();
        let shift = own.find(text.trim()).zip(text.find(text.trim())).map_or(0, |(there, here)| {
            own[..there].chars().count() as isize - text[..here].chars().count() as isize
        });
        Some(CellLine { cell, line, text: own, shift })
    }
}

/// The tokens of a call of a macro, which end with the bracket that closes the first one.
fn macro_call<'a, 'b>(tokens: &'b [&'a str]) -> &'b [&'a str] {
    let mut depth = 0;
    let end = tokens.iter().position(|text| {
        match *text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => return false,
        }
        depth == 0
    });
    &tokens[..end.unwrap_or(tokens.len())]
}

/// The cell that is compiled in a session's folder; 0 if none has a number.
pub fn current_cell(folder: &Path) -> usize {
    fs::read_to_string(folder.join(CURRENT_CELL)).ok().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The number in a path of `generated_file`.
pub fn cell_number(file: &str) -> Option<usize> {
    let mut parts = file.rsplit(['/', '\\']);
    (parts.next()? == "lib.rs").then_some(())?;
    let number = parts.next()?.parse().ok()?;
    (parts.next()? == "cells").then_some(number)
}

/// Where what evcxr made of a cell is kept, within the session's folder.
pub fn generated_file(cell: usize) -> String {
    format!("cells/{cell}/lib.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_its_cell() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = CellSources::new(folder.path());
        sources.begin(1, "fn f() {\n    panic!();\n}");
        sources.begin(2, "let a = 1;\n\nf();\nlet a = 1;");
        fs::create_dir_all(folder.path().join("cells/2")).unwrap();
        let generated =
            "mod x {}\nfn f() {\n    panic!();\n}\npub fn run() {\nlet a = 1;\nf();\nlet a = 1;\n}\n";
        fs::write(folder.path().join("cells/2/lib.rs"), generated).unwrap();
        let located = |line| sources.locate("cells/2/lib.rs", line).map(|found| (found.cell, found.line));
        assert_eq!(located(3), Some((1, 2)));
        assert_eq!(located(6), Some((2, 1)));
        assert_eq!(located(7), Some((2, 3)));
        assert_eq!(located(8), Some((2, 4)));
        assert_eq!(located(1), None);
        assert_eq!(sources.locate("/rustc/library/core/src/option.rs", 3), None);
    }

    #[test]
    fn names_are_not_texts_nor_parts_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = CellSources::new(folder.path());
        sources.begin(1, "struct A { own: u8 }\nfn f() { println!(\"text {}\", run.field); } // comment");
        sources.begin(2, "longer");
        for name in ["A", "own", "f", "run", "longer"] {
            assert!(sources.names(name), "{name}");
        }
        for name in ["text", "field", "comment", "long"] {
            assert!(!sources.names(name), "{name}");
        }
    }

    #[test]
    fn what_a_macro_makes_is_known_by_its_cell() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = CellSources::new(folder.path());
        sources.begin(1, "macro_rules! make { ($n:ident) => { struct $n; fn inner() {} } }");
        sources.begin(2, "make!(Made); let after = 1;\nprintln!(\"{}\", other);");
        sources.begin(3, "thread_local! { static LOCAL: u8 = 1; }");
        sources.begin(4, "Made; inner; LOCAL; other; after");
        for (name, cell) in
            [("Made", Some(2)), ("inner", Some(1)), ("LOCAL", Some(3)), ("other", None), ("after", None)]
        {
            assert_eq!(sources.find_macro_cell(name), cell, "{name}");
        }
    }
}
