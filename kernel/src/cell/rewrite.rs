//! What the user wrote, what evcxr made of it, and how a line of the one is found in the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::build::template::AT_ONCE;
use crate::cell::lex::{Kind, words};
use crate::cell::report::{self, Failure};

const CELL: &str = "cell";
const PANICKED: &str = "println!(\"EVCXR_PANIC_NOTIFICATION\");";
const EARLY: &str = "println!(\"{}\", evcxr_internal_runtime::USER_ERROR_OCCURRED);";
/// Deeper than anybody writes; parsers of Rust call themselves for each level.
pub const DEEPEST: usize = 256;

/// Whether code is nested so deep that parsing it would end the kernel. What is in texts and comments does not count.
pub fn is_too_deep(code: &str) -> bool {
    // For each bracket that is open, how many generics are open in it: a comparison begins one that never closes.
    let mut open = vec![0usize];
    let mut generics = 0usize;
    // Signs and keywords in a row, as in `!!!x`: each may hold all that follows.
    let mut prefixes = 0usize;
    let (mut before, mut spaced, mut opened) = ((Kind::Punctuation, ""), false, false);
    for (kind, word) in words(code) {
        match kind {
            Kind::Space | Kind::Comment => {}
            Kind::Keyword => prefixes += 1,
            Kind::Punctuation if matches!(word, "!" | "-" | "*" | "&" | "|") => prefixes += 1,
            _ => prefixes = 0,
        }
        let of_brackets = matches!(kind, Kind::Punctuation | Kind::Attribute);
        for c in word.chars().filter(|_| of_brackets) {
            let here = open.last_mut();
            match (c, here) {
                ('{', Some(here)) => {
                    generics -= std::mem::take(here);
                    open.push(0);
                }
                ('(' | '[', _) => open.push(0),
                (')' | ']' | '}', Some(here)) => {
                    generics -= std::mem::take(here);
                    if open.len() > 1 {
                        open.pop();
                    }
                }
                (';', Some(here)) => generics -= std::mem::take(here),
                ('<', Some(here)) => {
                    opened = match before {
                        (Kind::Punctuation, "<") => opened,
                        (Kind::Punctuation, ")" | "]" | "}" | "?") => false,
                        (Kind::Keyword | Kind::Punctuation, _) => true,
                        // With a space before it, `<` compares.
                        (Kind::Type | Kind::Name, name) => !spaced && name.starts_with(char::is_uppercase),
                        _ => false,
                    };
                    *here += usize::from(opened);
                    generics += usize::from(opened);
                }
                ('>', Some(here)) if *here > 0 && !matches!(before, (Kind::Punctuation, "-" | "=")) => {
                    *here -= 1;
                    generics -= 1;
                }
                _ => {}
            }
        }
        if open.len() - 1 + generics > DEEPEST || prefixes > DEEPEST {
            return true;
        }
        spaced = matches!(kind, Kind::Space | Kind::Comment);
        if !spaced {
            before = (kind, word);
        }
    }
    false
}

/// A line that the user wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub cell: usize,
    pub line: usize,
    pub text: String,
    /// How many characters further right the code stands than in what was compiled.
    pub shift: isize,
}

impl Place {
    pub fn column(&self, compiled: usize) -> usize {
        compiled.saturating_add_signed(self.shift)
    }
}

/// The cells of a session, by number.
pub struct Sources {
    folder: PathBuf,
    cells: BTreeMap<usize, String>,
}

impl Sources {
    pub fn new(folder: &Path) -> Sources {
        Sources { folder: folder.to_path_buf(), cells: BTreeMap::new() }
    }

    /// From now on this cell is compiled.
    pub fn begin(&mut self, number: usize, code: &str) {
        self.cells.insert(number, code.to_string());
        let _ = fs::write(self.folder.join(CELL), number.to_string());
    }

    /// Whether a cell has this name in it.
    pub fn mentions(&self, name: &str) -> bool {
        self.cells.values().any(|code| code.contains(name))
    }

    /// The cell in which one of the user's macros, or `thread_local!`, was given or has in it this name: evcxr keeps
    /// nothing of what such a call makes.
    pub fn made_by_macro(&self, name: &str) -> Option<usize> {
        let plain = |code: &'_ str| -> Vec<String> {
            let words =
                words(code).into_iter().filter(|(kind, _)| !matches!(kind, Kind::Space | Kind::Comment));
            words.map(|(_, word)| word.to_string()).collect()
        };
        let cells: Vec<(usize, Vec<String>)> =
            self.cells.iter().map(|(cell, code)| (*cell, plain(code))).collect();
        let all = cells.iter().flat_map(|(_, words)| words.windows(2));
        let defined = all.filter(|pair| pair[0] == "macro_rules!").map(|pair| format!("{}!", pair[1]));
        let makers: Vec<String> =
            defined.chain(["macro_rules!".to_string(), "thread_local!".to_string()]).collect();
        cells.iter().rev().skip(1).find_map(|(cell, words)| {
            let calls = words.iter().enumerate().filter(|(_, word)| makers.contains(word));
            let named = calls
                .map(|(at, _)| up_to_its_end(&words[at + 1..]))
                .any(|call| call.contains(&name.to_string()));
            named.then_some(*cell)
        })
    }

    /// What was last compiled for a cell.
    pub fn generated(&self, number: usize) -> Option<String> {
        fs::read_to_string(self.folder.join(file_of(number))).ok()
    }

    /// The user's line behind a line of what was compiled: a cell is compiled together with the items of earlier ones.
    pub fn place(&self, file: &str, line: usize) -> Option<Place> {
        let number = cell_of(file)?;
        let generated = self.generated(number)?;
        let text = generated.lines().nth(line.checked_sub(1)?)?;
        if text.trim().is_empty() {
            return None;
        }
        // The same line; or one of which evcxr made several, a statement each.
        let same = |theirs: &str| theirs.trim() == text.trim();
        let part = |theirs: &str| theirs.contains(text.trim());
        let before = generated.lines().take(line - 1).filter(|other| same(other)).count();
        let find = |is: &dyn Fn(&str) -> bool| {
            self.cells.range(..=number).rev().find_map(|(cell, code)| {
                let lines: Vec<usize> =
                    code.lines().enumerate().filter(|(_, theirs)| is(theirs)).map(|(at, _)| at + 1).collect();
                Some((*cell, *lines.get(before).or(lines.first())?))
            })
        };
        let (cell, at) = find(&same).or_else(|| find(&part))?;
        let theirs = self.cells.get(&cell)?.lines().nth(at - 1)?.to_string();
        let shift = theirs.find(text.trim()).zip(text.find(text.trim())).map_or(0, |(there, here)| {
            theirs[..there].chars().count() as isize - text[..here].chars().count() as isize
        });
        Some(Place { cell, line: at, text: theirs, shift })
    }
}

/// The words of a call of a macro, which end with the bracket that closes the first one.
fn up_to_its_end(words: &[String]) -> &[String] {
    let mut depth = 0;
    let end = words.iter().position(|word| {
        match word.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => return false,
        }
        depth == 0
    });
    &words[..end.unwrap_or(words.len())]
}

/// The number in a path of `file_of`.
pub fn cell_of(file: &str) -> Option<usize> {
    let mut parts = file.rsplit(['/', '\\']);
    (parts.next()? == "lib.rs").then_some(())?;
    let number = parts.next()?.parse().ok()?;
    (parts.next()? == "cells").then_some(number)
}

fn file_of(number: usize) -> String {
    format!("cells/{number}/lib.rs")
}

/// Puts what evcxr wrote where it is kept under the number of its cell; gives its path, within the session's folder.
pub fn stage(folder: &Path) -> Result<String> {
    let number =
        fs::read_to_string(folder.join(CELL)).ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    let file = file_of(number);
    let path = folder.join(&file);
    fs::create_dir_all(path.parent().unwrap_or(folder))?;
    let source = fs::read_to_string(folder.join("src/lib.rs"))?;
    let told = with_panics_told(&with_early_returns_told(&without_needless_complaints(&source)));
    fs::write(path, with_values_shown(&with_shared_variables(&with_macros_in_scope(&told))))?;
    Ok(file)
}

/// Warnings, which evcxr shows nobody unless something else fails, and then as if they were errors; and a bound by which a check
/// finds that variables of earlier cells may not live long enough, which they do.
fn without_needless_complaints(source: &str) -> String {
    source.replacen("#![allow(unused_imports, unused_mut, dead_code)]", "#![allow(warnings)]", 1).replacen(
        "fn evcxr_variable_store<T: 'static>(_: T) {}",
        "fn evcxr_variable_store<T>(_: T) {}",
        1,
    )
}

/// evcxr prints an error that `?` returns as any text; the kernel must know that it is one, and where it came from.
fn with_early_returns_told(source: &str) -> String {
    let Some(start) = source.find("From<T> for EvcxrUserCodeError") else { return source.to_string() };
    let (before, rest) = source.split_at(start);
    let told = rest.replacen("fn from(error: T)", "#[track_caller] fn from(error: T)", 1);
    let (Some(print), Some(end)) = (told.find("eprintln!("), told.find(", error);")) else {
        return source.to_string();
    };
    let format = &told[print + "eprintln!(".len()..end];
    let call = format!("::headlight::headlight_early_return(&error, &format!({format}, error));");
    let after = told[end + ", error);".len()..].replacen(EARLY, "", 1);
    format!("{before}{}{call}{after}", &told[..print])
}

/// What evcxr prints to itself when a cell has panicked could be printed by anybody; this is told under the token.
fn with_panics_told(source: &str) -> String {
    match source.rfind(PANICKED) {
        Some(at) => {
            format!("{}::headlight::headlight_panicked();{}", &source[..at], &source[at + PANICKED.len()..])
        }
        None => source.to_string(),
    }
}

/// evcxr writes items in any order, and a macro is known only below its definition; a `use` makes it known everywhere.
fn with_macros_in_scope(source: &str) -> String {
    const DEFINES: &str = "macro_rules!";
    let mut uses = String::new();
    if source.contains(DEFINES) {
        let all = words(source);
        let (mut depth, mut exported) = (0usize, false);
        for (at, (kind, word)) in all.iter().enumerate() {
            match (*kind, *word) {
                (Kind::Macro, DEFINES) if depth == 0 => {
                    let name = all[at + 1..].iter().find(|(kind, _)| *kind != Kind::Space);
                    // One that is exported is known everywhere.
                    if let Some((_, name)) = name.filter(|_| !std::mem::take(&mut exported)) {
                        uses += &format!(" pub(crate) use {name};");
                    }
                }
                (Kind::Attribute, attribute) if depth == 0 => exported |= attribute.contains("macro_export"),
                (Kind::Punctuation, "(" | "[" | "{") => depth += 1,
                (Kind::Punctuation, ")" | "]" | "}") => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    format!("{}{uses}\n", source.trim_end())
}

/// Where the first attempt to compile a cell fails, for its last value takes a variable with it for instance, evcxr shows
/// that value as text. It is shown as it would have been.
fn with_values_shown(source: &str) -> String {
    const AS_TEXT: (&str, &str) = ("evcxr_send_text_plain(&format!(\"{:?}\",&(\n", "\n)));\n");
    let parts = source.rsplit_once(AS_TEXT.0).and_then(|(before, rest)| {
        let (value, after) = rest.rsplit_once(AS_TEXT.1)?;
        Some((before, value, after))
    });
    match parts {
        // A reference, so that what types have of their own goes before the trait.
        Some((before, value, after)) => format!(
            "{before}{{ use ::headlight::EvcxrDisplay as _; (&(\n{value}\n)).evcxr_display(); }}\n{after}"
        ),
        None => source.to_string(),
    }
}

/// evcxr gives each cell its own copy of the code that keeps variables; the session's library has it compiled.
fn with_shared_variables(source: &str) -> String {
    const OWN: &str = "mod evcxr_internal_runtime {";
    let (Some(start), Some(end)) = (source.find(OWN), source.find("#[unsafe(no_mangle)]\npub extern")) else {
        return source.to_string();
    };
    if end < start {
        return source.to_string();
    }
    // Lines are counted: those after must keep their numbers.
    let lines = "\n".repeat(source[start..end].matches('\n').count());
    format!(
        "{}use ::headlight::variables as evcxr_internal_runtime;{lines}{}",
        &source[..start],
        &source[end..]
    )
}

/// Where the code of a cell begins, behind commands to evcxr.
pub fn code_start(code: &str) -> usize {
    let mut start = 0;
    for line in code.split_inclusive('\n') {
        let command = line.starts_with('!') || line.trim_start_matches(' ').starts_with(':');
        if !(command || line.starts_with("//") || line.trim().is_empty()) {
            break;
        }
        start += line.len();
    }
    start
}

/// Each `:dep` for a crate that the template holds asks for it as it is there: nothing is built, and there is no second
/// copy. What every session begins with is left out, so that the notebook is also one for stock evcxr.
pub fn with_prepared(
    code: &str,
    prepared: &BTreeMap<String, String>,
) -> std::result::Result<String, Failure> {
    let mut lines = Vec::new();
    // Commands stand before the code; later lines may be within a text.
    let mut in_code = false;
    for line in code.lines() {
        let text = line.trim_start();
        in_code |= !(text.is_empty() || text.starts_with([':', '!']) || text.starts_with("//"));
        let Some(dependency) = text.strip_prefix(":dep ").filter(|_| !in_code) else {
            lines.push(line.to_string());
            continue;
        };
        let (name, wanted) = dependency.split_once('=').unwrap_or((dependency, "\"*\""));
        let (name, wanted) = (name.trim(), wanted.trim());
        let Some((name, have)) =
            prepared.get_key_value(name).or_else(|| prepared.get_key_value(&name.replace('_', "-")))
        else {
            lines.push(line.to_string());
            continue;
        };
        if name != "headlight" && !is_served(wanted, have) {
            return Err(report::other_version(name, wanted, have));
        }
        // Where there was a line there is one: the numbers of the others must not change.
        let at_once = AT_ONCE.contains(&name.as_str());
        lines.push(if at_once { String::new() } else { format!(":dep {name} = {have}") });
    }
    Ok(lines.join("\n"))
}

fn is_served(wanted: &str, have: &str) -> bool {
    let field = |value: &str, key: &str| -> Option<toml::Value> {
        let table: toml::Table = format!("x = {value}").parse().ok()?;
        match table.get("x")? {
            version @ toml::Value::String(_) if key == "version" => Some(version.clone()),
            table => table.get(key).cloned(),
        }
    };
    let asks_for_more =
        ["features", "git", "path", "registry"].iter().any(|key| field(wanted, key).is_some());
    let version =
        |value: &str| field(value, "version").and_then(|version| version.as_str().map(str::to_string));
    let Some(have) = version(have) else { return false };
    let have: Vec<&str> = have.trim_start_matches('=').split('.').collect();
    let agrees = |wanted: &str| {
        let wanted = wanted.trim_start_matches(['^', '=', '~', ' ']);
        wanted == "*" || {
            let parts: Vec<&str> = wanted.split('.').collect();
            // The parts that make versions compatible: up to the first that is not 0.
            let upto = have.iter().position(|part| *part != "0").map_or(have.len(), |at| at + 1);
            parts.iter().take(upto).zip(&have).all(|(wanted, have)| wanted == have)
                && not_newer(&parts, &have)
        }
    };
    !asks_for_more && version(wanted).is_none_or(|wanted| agrees(&wanted))
}

fn not_newer(wanted: &[&str], have: &[&str]) -> bool {
    let number =
        |parts: &[&str], at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
    (0..3).map(|at| number(wanted, at)).le((0..3).map(|at| number(have, at)))
}

/// Documentation without the lines of its examples that rustdoc hides.
pub fn as_shown(documentation: &str) -> String {
    // A heading is of words.
    let is_code = |text: &str| text.contains([';', '(', '{', '}', ':']);
    let hidden = |line: &str| line == "#" || line.strip_prefix("# ").is_some_and(is_code);
    let lines: Vec<&str> = documentation.lines().filter(|line| !hidden(line)).collect();
    lines.join("\n")
}

/// The name at a byte of the code, with the path or the calls that lead to it: where they start and where it ends.
pub fn name_around(code: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = code.as_bytes();
    let in_name = |at: usize| bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let mut end = at.min(bytes.len());
    while in_name(end) {
        end += 1;
    }
    // Behind an opening bracket it is the function that is asked for.
    while end > 0 && matches!(bytes[end - 1], b'(' | b'!' | b'?' | b';' | b' ') {
        end -= 1;
    }
    if end == 0 || !in_name(end - 1) {
        return None;
    }
    let mut start = end;
    let mut depth = 0;
    while start > 0 {
        match bytes[start - 1] {
            b')' | b']' | b'>' => depth += 1,
            b'(' | b'[' | b'<' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            b':' | b'.' | b'?' => {}
            _ if in_name(start - 1) => {}
            _ => break,
        }
        start -= 1;
    }
    code.is_char_boundary(start).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_dependencies_are_served() {
        let prepared = BTreeMap::from([
            ("headlight".to_string(), "{ package = \"headlight-session\" }".to_string()),
            ("candle-core".to_string(), "{ version = \"=0.11.1\", default-features = false }".to_string()),
            ("plotly".to_string(), "{ version = \"=0.14.1\" }".to_string()),
        ]);
        for (line, left) in [
            (":dep headlight = { path = \"..\" }", ""),
            (":dep candle-core", ""),
            (":dep candle-core = \"0.11\"", ""),
            (":dep candle_core = { version = \"0.11.1\" }", ""),
            (":dep plotly = \"0.14\"", ":dep plotly = { version = \"=0.14.1\" }"),
            (":dep ndarray = \"0.16\"", ":dep ndarray = \"0.16\""),
            ("let x = 1;", "let x = 1;"),
        ] {
            let code = with_prepared(&format!("{line}\nlet y = 2;"), &prepared).unwrap();
            assert_eq!(code, format!("{left}\nlet y = 2;"), "of {line}");
        }
        for line in [
            ":dep candle-core = \"0.10\"",
            ":dep candle-core = \"0.11.9\"",
            ":dep candle-core = { git = \"x\" }",
        ] {
            assert!(with_prepared(line, &prepared).is_err(), "{line}");
        }
    }

    #[test]
    fn a_value_that_takes_a_variable_with_it_is_shown_as_any() {
        let source =
            "let t = 1;\nevcxr_send_text_plain(&format!(\"{:?}\",&(\nf(g(h(t\n)))\n)));\nOk(())})();\n";
        let shown = with_values_shown(source);
        assert_eq!(
            shown,
            "let t = 1;\n{ use ::headlight::EvcxrDisplay as _; (&(\nf(g(h(t\n)))\n)).evcxr_display(); }\nOk(())})();\n"
        );
        assert_eq!(shown.lines().count(), source.lines().count());
        for other in ["", "evcxr_send_text_plain(&format!(\"{:#?}\",&(\nx\n)));\n"] {
            assert_eq!(with_values_shown(other), other);
        }
    }

    #[test]
    fn hidden_lines_of_examples_are_left_out() {
        let docs = "Opens.\n# Errors\nNone.\n# use a::b;\nlet x = 1;\n# Ok::<(), E>(())\n#\n";
        assert_eq!(as_shown(docs), "Opens.\n# Errors\nNone.\nlet x = 1;");
    }

    #[test]
    fn a_name_is_found_around_the_cursor() {
        for (code, at, name) in [
            ("Model::open", 9, "Model::open"),
            ("Model::open", 2, "Model"),
            ("let r = model.run_with_cache(\"a b\")?;", 20, "model.run_with_cache"),
            (
                "let p = model.run_with_cache(\"a b\")?.pattern(1)?;",
                43,
                "model.run_with_cache(\"a b\")?.pattern",
            ),
            ("show(", 5, "show"),
            ("Vec::<i32>::new()", 13, "Vec::<i32>::new"),
            ("f(model)", 4, "model"),
        ] {
            assert_eq!(
                name_around(code, at).map(|(start, end)| &code[start..end]),
                Some(name),
                "{code} at {at}"
            );
        }
        assert_eq!(name_around("1 + é", 6), None);
        assert_eq!(name_around("", 0), None);
    }

    #[test]
    fn a_line_is_found_in_its_cell() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = Sources::new(folder.path());
        sources.begin(1, "fn f() {\n    panic!();\n}");
        sources.begin(2, "let a = 1;\n\nf();\nlet a = 1;");
        fs::create_dir_all(folder.path().join("cells/2")).unwrap();
        let generated =
            "mod x {}\nfn f() {\n    panic!();\n}\npub fn run() {\nlet a = 1;\nf();\nlet a = 1;\n}\n";
        fs::write(folder.path().join("cells/2/lib.rs"), generated).unwrap();
        let place = |line| sources.place("cells/2/lib.rs", line).map(|place| (place.cell, place.line));
        assert_eq!(place(3), Some((1, 2)));
        assert_eq!(place(6), Some((2, 1)));
        assert_eq!(place(7), Some((2, 3)));
        assert_eq!(place(8), Some((2, 4)));
        assert_eq!(place(1), None);
        assert_eq!(sources.place("/rustc/library/core/src/option.rs", 3), None);
    }

    #[test]
    fn what_a_macro_makes_is_known_by_its_cell() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = Sources::new(folder.path());
        sources.begin(1, "macro_rules! make { ($n:ident) => { struct $n; fn inner() {} } }");
        sources.begin(2, "make!(Made); let after = 1;\nprintln!(\"{}\", other);");
        sources.begin(3, "thread_local! { static LOCAL: u8 = 1; }");
        sources.begin(4, "Made; inner; LOCAL; other; after");
        for (name, cell) in
            [("Made", Some(2)), ("inner", Some(1)), ("LOCAL", Some(3)), ("other", None), ("after", None)]
        {
            assert_eq!(sources.made_by_macro(name), cell, "{name}");
        }
    }

    #[test]
    fn what_could_be_printed_by_anybody_is_told_otherwise() {
        let source = format!("user({PANICKED:?});\n{PANICKED}\n}}");
        let told = with_panics_told(&source);
        assert_eq!(told, format!("user({PANICKED:?});\n::headlight::headlight_panicked();\n}}"));
    }

    #[test]
    fn only_what_is_nested_is_too_deep() {
        let many = |text: &str| text.repeat(DEEPEST + 50);
        let within = |open: &str, close: &str| format!("{}x{}", many(open), many(close));
        for code in [
            many("{}"),
            format!("let p = \"{}\";", many("(")),
            format!("let p = r#\"{}\"#;", many("[\"")),
            format!("let p = b\"{}\";", many("{")),
            format!("// {}\n/* {} */ 1", many("("), many("(")),
            format!("let p = [{}];", many("'(', ")),
            format!("let p = [{}];", many("a < b, ")),
            format!("let p = [{}];", many("a<b, ")),
            format!("let p = [{}];", many("1<<2, ")),
            format!("let p = [{}];", many("a <= b, ")),
            format!("let p = {} true;", many("f(a) < 3 && ")),
            format!("let p = {} true;", many("f(a)<3 && x[i]<4 && f()?<5 && ")),
            many("if A<B { f() }\n"),
            many("let x = a < B;\n"),
            many("fn f<T>(x: &'static T) -> Vec<T> { g(|_| 1) }\n"),
            format!("match x {{ {} }}", many("1 => 2, ")),
            format!("let v = vec![{}];", many("-1, &x, !y, ")),
            many("#[allow(dead_code)]\n"),
            format!("let v = vec![{}];", many("Vec::<Vec<u8>>::new(), ")),
        ] {
            assert!(!is_too_deep(&code), "{}", &code[..60.min(code.len())]);
        }
        for code in [
            many("{"),
            within("(", ")"),
            within("[", "]"),
            within("f(", ")"),
            within("{ ", " }"),
            format!("let x: {} = y;", within("Vec<", ">")),
            format!("f::<{}>()", within("Vec::<", ">")),
            format!("let x = {}T{}::X", many("<"), many(" as A>::B")),
            many("!"),
            many("- "),
            many("&"),
            many("return "),
            format!("#[{}", many("(")),
            format!("f(\"{}\", {}", many("("), many("(")),
        ] {
            assert!(is_too_deep(&code), "{}", &code[..60.min(code.len())]);
        }
    }

    #[test]
    fn macros_are_known_above_their_definition() {
        for (source, uses) in [
            ("fn f() { m!() }\n", ""),
            ("fn f() { m!() }\nmacro_rules! m {\n() => { 1 };\n}\nfn g() {}", " pub(crate) use m;"),
            (
                "macro_rules! m(() => { 1 });\nmacro_rules! n { () => {} }\n",
                " pub(crate) use m; pub(crate) use n;",
            ),
            (
                "#[macro_export]\nmacro_rules! m { () => {} }\nmacro_rules! n { () => {} }",
                " pub(crate) use n;",
            ),
            ("mod a { macro_rules! m { () => {} } }", ""),
            ("const S: &str = \"macro_rules! m { () => {} }\";", ""),
        ] {
            assert_eq!(with_macros_in_scope(source), format!("{}{uses}\n", source.trim_end()));
        }
    }

    #[test]
    fn variables_are_kept_by_the_session() {
        let source = "use a;\nmod evcxr_internal_runtime {\n// x\npub fn y() {}\n}\n#[unsafe(no_mangle)]\npub extern \"C\" fn run() {}\n";
        let shared = with_shared_variables(source);
        assert_eq!(shared.lines().count(), source.lines().count());
        assert_eq!(shared.lines().nth(5), source.lines().nth(5));
        assert!(
            shared.contains("use ::headlight::variables as evcxr_internal_runtime;")
                && !shared.contains("pub fn y")
        );
    }

    #[test]
    fn an_early_return_is_told_on_the_same_line() {
        let source = "a\nimpl<T: std::fmt::Display> From<T> for EvcxrUserCodeError {\nfn from(error: T) -> Self {\n\
            eprintln!(\"{}\", error);\nprintln!(\"x\");\n";
        let told = with_early_returns_told(source);
        assert_eq!(told.lines().count(), source.lines().count());
        assert!(told.contains("headlight_early_return(&error, &format!(\"{}\", error));"));
        assert!(told.contains("#[track_caller] fn from"));
        assert!(!told.contains("eprintln"));
    }
}
