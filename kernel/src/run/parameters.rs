//! `--set name=value`: a cell after the one tagged `parameters` gives its names other values, as papermill does.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::Result;
use crate::cell::lex::{TokenKind, lex, lex_code};
use crate::notebook::{self, Cell, Notebook, fresh_id};

const TAG: &str = "parameters";
const INJECTED: &str = "injected-parameters";

/// One name and the value that it gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub name: String,
    /// As it was written.
    value: String,
    literal: Literal,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Integer,
    /// A float, a bool or a string in quotes: Rust as it stands.
    Rust,
    Text,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Setting, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} has no \"=\"; write name=value, as in --set model=gpt2"))?;
        let (name, value) = (name.trim(), value.trim());
        if !matches!(lex(name)[..], [(TokenKind::Name | TokenKind::Type, _)]) {
            return Err(format!("{name:?} is no name of a Rust variable; write name=value"));
        }
        let literal = Literal::parse(value)?;
        Ok(Setting { name: name.to_string(), value: value.to_string(), literal })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl Literal {
    fn parse(value: &str) -> std::result::Result<Literal, String> {
        let unsigned = value.strip_prefix('-').unwrap_or(value);
        match lex(unsigned)[..] {
            [(TokenKind::Number, number)] if is_float(number) => Ok(Literal::Rust),
            [(TokenKind::Number, number)] if is_integer(number) => Ok(Literal::Integer),
            [(TokenKind::Keyword, "true" | "false")] if unsigned == value => Ok(Literal::Rust),
            [(TokenKind::Text, text)] if text.starts_with('"') && text.len() > 1 && text.ends_with('"') => {
                Ok(Literal::Rust)
            }
            _ if value.starts_with('"') => {
                Err(format!("{value} begins as a string in quotes and is none; write \\\" within it"))
            }
            _ => Ok(Literal::Text),
        }
    }
}

fn is_integer(number: &str) -> bool {
    let suffixes = ["i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize"];
    let plain = suffixes.iter().find_map(|suffix| number.strip_suffix(suffix)).unwrap_or(number);
    let digits = plain.replace('_', "");
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0b") => (&digits[2..], 2),
        Some("0o") => (&digits[2..], 8),
        _ => (&digits[..], 10),
    };
    u128::from_str_radix(digits, radix).is_ok()
}

fn is_float(number: &str) -> bool {
    let plain = ["f32", "f64"].iter().find_map(|suffix| number.strip_suffix(suffix));
    let digits = plain.unwrap_or(number).replace('_', "");
    let is_float = plain.is_some() || digits.contains(['.', 'e', 'E']);
    is_float && !number.starts_with("0x") && digits.parse::<f64>().is_ok_and(f64::is_finite)
}

/// How the cell of parameters defines a name.
#[derive(Debug, Default, PartialEq)]
struct Definition {
    mutable: bool,
    annotation: Option<String>,
    float: bool,
}

/// The names that the code defines with `let`.
fn parse_definitions(code: &str) -> BTreeMap<String, Definition> {
    let tokens: Vec<(TokenKind, &str)> = lex_code(code).collect();
    let mut definitions = BTreeMap::new();
    for (at, _) in tokens.iter().enumerate().filter(|(_, word)| **word == (TokenKind::Keyword, "let")) {
        let mut rest = tokens[at + 1..].iter().peekable();
        let mutable = rest.next_if(|word| **word == (TokenKind::Keyword, "mut")).is_some();
        let Some((TokenKind::Name | TokenKind::Type, name)) = rest.next() else { continue };
        let mut definition = Definition { mutable, ..Definition::default() };
        if rest.next_if(|(_, word)| *word == ":").is_some() {
            let mut annotation = String::new();
            while let Some((kind, word)) = rest.next_if(|(_, word)| !["=", ";"].contains(word)) {
                annotation.push_str(word);
                // `&'a str`, `dyn Trait`.
                if matches!(kind, TokenKind::Lifetime | TokenKind::Keyword) {
                    annotation.push(' ');
                }
            }
            definition.annotation = Some(annotation);
        }
        if rest.next_if(|(_, word)| *word == "=").is_some() {
            rest.next_if(|(_, word)| *word == "-");
            definition.float = matches!(rest.next(), Some((TokenKind::Number, number)) if is_float(number));
        }
        if let Some(annotation) = &definition.annotation {
            definition.float = ["f32", "f64"].contains(&annotation.as_str());
        }
        definitions.insert(name.to_string(), definition);
    }
    definitions
}

fn assignment(setting: &Setting, definition: &Definition) -> String {
    let mutable = if definition.mutable { "mut " } else { "" };
    let annotation = definition.annotation.as_ref().map(|kind| format!(": {kind}")).unwrap_or_default();
    let value = match setting.literal {
        // What was a float stays one.
        Literal::Integer if definition.float && setting.value.parse::<i128>().is_ok() => {
            format!("{}.0", setting.value)
        }
        Literal::Integer | Literal::Rust => setting.value.clone(),
        Literal::Text => format!("{:?}", setting.value),
    };
    let owned = if definition.annotation.as_deref() == Some("String") && value.starts_with('"') {
        ".to_string()"
    } else {
        ""
    };
    format!("let {mutable}{}{annotation} = {value}{owned};", setting.name)
}

/// Puts the cell in, in the place of one from an earlier run. The last of several settings of a name counts.
pub fn inject(notebook: &mut Notebook, settings: &[Setting]) -> Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    let place = notebook
        .cells
        .iter()
        .position(|cell| cell.kind() == notebook::CellKind::Code && cell.has_tag(TAG))
        .ok_or(
            "has no code cell tagged \"parameters\", which --set needs; in JupyterLab tags are set in the \
             panel that the gear wheels at the upper right open",
        )?;
    let known = parse_definitions(&notebook.cells[place].source());
    let mut code = Vec::new();
    for (at, setting) in settings.iter().enumerate() {
        let definition = known.get(&setting.name).ok_or_else(|| {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let names = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            format!("has no parameter {:?}; its parameters: {names}", setting.name)
        })?;
        if !settings[at + 1..].iter().any(|later| later.name == setting.name) {
            code.push(assignment(setting, definition));
        }
    }
    let source = code.join("\n");
    if let Some(earlier) = notebook.cells.iter_mut().find(|cell| cell.has_tag(INJECTED)) {
        earlier.set_source(&source);
        return Ok(());
    }
    let id = fresh_id(INJECTED, &notebook.ids());
    notebook.cells.insert(place + 1, Cell::code(&id, &[INJECTED], &source));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_literals() {
        for (text, line) in [
            ("n=3", "let n = 3;"),
            ("n=-3", "let n = -3;"),
            ("n=1_000usize", "let n = 1_000usize;"),
            ("n=0x1f", "let n = 0x1f;"),
            ("n=0.5", "let n = 0.5;"),
            ("n=-1e-3", "let n = -1e-3;"),
            ("n=2f32", "let n = 2f32;"),
            ("n=true", "let n = true;"),
            ("n=\"3\"", "let n = \"3\";"),
            ("n=\"a \\\" b\"", "let n = \"a \\\" b\";"),
            ("n=gpt2", "let n = \"gpt2\";"),
            ("n=a b=c", "let n = \"a b=c\";"),
            ("n=C:\\models\\x", "let n = \"C:\\\\models\\\\x\";"),
            ("n=say \"hi\"", "let n = \"say \\\"hi\\\"\";"),
            ("n=two\nlines", "let n = \"two\\nlines\";"),
            ("n=", "let n = \"\";"),
            ("n=1.2.3", "let n = \"1.2.3\";"),
            ("n=3 + 4", "let n = \"3 + 4\";"),
            ("n=-true", "let n = \"-true\";"),
            ("n=nan", "let n = \"nan\";"),
            ("n=3apples", "let n = \"3apples\";"),
            (" n = 3 ", "let n = 3;"),
        ] {
            let setting: Setting = text.parse().unwrap();
            assert_eq!(assignment(&setting, &Definition::default()), line, "of {text:?}");
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        for (text, says) in [
            ("n", "has no \"=\""),
            ("", "has no \"=\""),
            ("=3", "no name"),
            ("a b=3", "no name"),
            ("let=3", "no name"),
            ("1n=3", "no name"),
            ("a.b=3", "no name"),
            ("n=\"open", "in quotes"),
            ("n=\"a\" b \"c\"", "in quotes"),
        ] {
            let message = text.parse::<Setting>().expect_err(text);
            assert!(message.contains(says), "of {text:?} it says {message:?}");
        }
    }

    #[test]
    fn a_definition_keeps_its_form() {
        let code = "// let no = 1;\nlet model = \"built-in\"; let mut n: usize = 3;\nlet rate = -0.5;\n\
                    let r: f32 = 1.0; let name: String = \"x\".to_string(); let s: &'static str = \"let y = 1\";";
        let known = parse_definitions(code);
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        assert_eq!(names, ["model", "n", "name", "r", "rate", "s"]);
        for (setting, expected) in [
            ("model=3", "let model = 3;"),
            ("n=4", "let mut n: usize = 4;"),
            ("rate=2", "let rate = 2.0;"),
            ("r=-2", "let r: f32 = -2.0;"),
            ("r=0.25", "let r: f32 = 0.25;"),
            ("name=y", "let name: String = \"y\".to_string();"),
            ("s=y", "let s: &'static str = \"y\";"),
        ] {
            let setting: Setting = setting.parse().unwrap();
            assert_eq!(assignment(&setting, &known[&setting.name]), expected);
        }
    }

    fn notebook(cells: &[(&str, &str)]) -> Notebook {
        let cells: Vec<_> = cells
            .iter()
            .enumerate()
            .map(|(at, (tag, source))| {
                serde_json::json!({
                    "cell_type": "code", "id": format!("c{at}"), "metadata": {"tags": [tag]},
                    "execution_count": null, "source": source, "outputs": [],
                })
            })
            .collect();
        let about = serde_json::json!({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
        notebook::parse(&about.to_string()).unwrap()
    }

    #[test]
    fn the_cell_stands_after_the_parameters_once() {
        let mut notebook = notebook(&[("x", "1"), ("parameters", "let a = 1;\nlet b = 2;"), ("y", "a + b")]);
        let set =
            |texts: &[&str]| -> Vec<Setting> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        inject(&mut notebook, &[]).unwrap();
        assert_eq!(notebook.cells.len(), 3);
        inject(&mut notebook, &set(&["a=7", "b=8", "a=9"])).unwrap();
        assert_eq!(notebook.cells[2].source(), "let b = 8;\nlet a = 9;");
        assert_eq!(notebook.cells[2].id(), INJECTED);
        inject(&mut notebook, &set(&["b=1"])).unwrap();
        assert_eq!(notebook.cells.len(), 4);
        assert_eq!(notebook.cells[2].source(), "let b = 1;");
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        let set = |text: &str| vec![text.parse::<Setting>().unwrap()];
        let message = inject(&mut notebook(&[("x", "let a = 1;")]), &set("a=1")).unwrap_err().to_string();
        assert!(message.contains("tagged \"parameters\""), "{message}");
        let mut defines = notebook(&[("parameters", "let a = 1; let c = 2;")]);
        let message = inject(&mut defines, &set("b=1")).unwrap_err().to_string();
        assert!(message.contains("no parameter \"b\"; its parameters: a, c"), "{message}");
        let mut empty = notebook(&[("parameters", "")]);
        let message = inject(&mut empty, &set("b=1")).unwrap_err().to_string();
        assert!(message.ends_with("its parameters: none"), "{message}");
    }
}
