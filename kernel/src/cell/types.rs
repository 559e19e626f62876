//! Variables whose types evcxr does not know how to write. It keeps a variable under the text of its type, in which
//! rust-analyzer leaves out where traits come from; and an error in that text is about code that no user wrote.

use std::collections::BTreeMap;

use evcxr::CompilationError;
use ra_ap_syntax::ast::{self, AstNode, HasName};
use ra_ap_syntax::{Edition, SourceFile};

use serde_json::Value;

use crate::cell::lex::words;
use crate::cell::rewrite::code_start;

/// So many ways to write a type are tried.
const MOST: usize = 4;

/// A variable, and the text that evcxr has for its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub variable: String,
    pub text: String,
}

/// Names that rustc did not find, each with the paths that it proposes.
type Missing = BTreeMap<String, Vec<String>>;

/// The variable that `with_types` has written a line for.
pub fn typed(line: &str) -> Option<Kept> {
    let defined = line.trim().strip_prefix("let ")?.strip_suffix(';')?;
    let (variable, rest) = defined.strip_prefix("mut ").unwrap_or(defined).split_once(": ")?;
    let text = rest.strip_suffix(variable)?.strip_suffix(" = ")?;
    Some(Kept { variable: variable.to_string(), text: text.to_string() })
}

/// The variable that a line of evcxr's own keeps, or takes out again.
pub fn kept(line: &str) -> Option<Kept> {
    let (_, call) = line.split_once("evcxr_variable_store.")?;
    let call = call.strip_prefix("put_variable::<").or_else(|| call.strip_prefix("take_variable::<"))?;
    let (text, rest) = call.rsplit_once(">(stringify!(")?;
    Some(Kept { variable: rest.split(')').next()?.to_string(), text: text.to_string() })
}

/// Types in which names are missing, and the ways to write them.
pub struct Unwritten {
    variables: Vec<Kept>,
    missing: Missing,
    tried: usize,
}

impl Unwritten {
    /// Those of a cell, from what rustc says of it and from what was compiled.
    pub fn of(errors: &[CompilationError], generated: &str) -> Option<Unwritten> {
        let missing = missing(errors);
        let variables = unwritten(generated, &missing);
        (!variables.is_empty()).then_some(Unwritten { variables, missing, tried: 0 })
    }

    /// The cell with the types written out in a way that was not tried yet.
    pub fn next(&mut self, code: &str) -> Option<String> {
        let ways = self.missing.values().map(Vec::len).max().unwrap_or(0).min(MOST);
        let choice = self.tried;
        self.tried += 1;
        let write = |kept: &Kept| Kept { text: written(&kept.text, &self.missing, choice), ..kept.clone() };
        (choice < ways).then(|| with_types(code, &self.variables.iter().map(write).collect::<Vec<_>>()))
    }
}

/// What rustc could not find in a cell.
fn missing(errors: &[CompilationError]) -> Missing {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut missing = Missing::new();
    // Of an error whose remedy lies in the user's code evcxr hands on the remedy alone.
    let helps =
        errors.iter().flat_map(|error| list(&error.json["children"]).into_iter().chain([error.json.clone()]));
    for span in helps.flat_map(|help| list(&help["spans"])) {
        let import = span["suggested_replacement"].as_str().and_then(|text| text.trim().strip_prefix("use "));
        let Some((root, rest)) = import.and_then(|path| path.trim_end_matches(';').split_once("::")) else {
            continue;
        };
        let name = rest.rsplit("::").next().unwrap_or(rest);
        let paths: &mut Vec<String> = missing.entry(name.to_string()).or_default();
        // What `std` has is often `core`'s too.
        let of_std = paths.iter().any(|known| known.strip_prefix("std::") == Some(rest));
        if !(of_std && matches!(root, "core" | "alloc")) {
            paths.push(format!("{root}::{rest}"));
        }
    }
    missing
}

/// The variables of what was compiled in whose types one of the names is missing.
fn unwritten(generated: &str, missing: &Missing) -> Vec<Kept> {
    let lacks = |kept: &Kept| words(&kept.text).iter().any(|(_, word)| missing.contains_key(*word));
    generated
        .lines()
        .filter(|line| line.contains(".put_variable::<"))
        .filter_map(kept)
        .filter(lacks)
        .collect()
}

/// A name that rustc proposes to import, and the first variable of what was compiled in whose type it stands.
pub fn lacking(error: &CompilationError, generated: &str) -> Option<(String, Kept)> {
    let missing = missing(std::slice::from_ref(error));
    let kept = unwritten(generated, &missing).into_iter().next()?;
    let name = missing.into_keys().find(|name| words(&kept.text).iter().any(|(_, word)| word == name))?;
    Some((name, kept))
}

/// The text with the paths of what is missing in it: of several that rustc proposes, the first, the second and so on.
fn written(text: &str, missing: &Missing, choice: usize) -> String {
    let mut whole = String::new();
    for (_, word) in words(text) {
        let path = missing.get(word).filter(|_| !whole.ends_with("::"));
        whole += path.and_then(|paths| paths.get(choice).or(paths.last())).map_or(word, String::as_str);
    }
    whole
}

/// The cell with the types of variables written out where they are defined. No line moves.
fn with_types(code: &str, variables: &[Kept]) -> String {
    const BEFORE: &str = "fn cell() {";
    let start = code_start(code);
    let parsed = SourceFile::parse(&format!("{BEFORE}{}\n}}", &code[start..]), Edition::Edition2024);
    let function = parsed.tree().syntax().children().find_map(ast::Fn::cast);
    let list = function.and_then(|function| function.body()?.stmt_list());
    let mut typed = code.to_string();
    let mut left: Vec<&Kept> = variables.iter().collect();
    // From the end: what is defined last is kept, and places before it stay what they are.
    let lets: Vec<ast::LetStmt> =
        list.iter().flat_map(|list| list.syntax().children()).filter_map(ast::LetStmt::cast).collect();
    for defined in lets.iter().rev() {
        let patterns =
            defined.pat().into_iter().flat_map(|pattern| pattern.syntax().descendants().collect::<Vec<_>>());
        for pattern in patterns.filter_map(ast::IdentPat::cast) {
            let name = pattern.name().map(|name| name.text().to_string()).unwrap_or_default();
            let Some(at) = left.iter().position(|kept| kept.variable == name) else { continue };
            let kept = left.swap_remove(at);
            let mutable = if pattern.mut_token().is_some() { "mut " } else { "" };
            let end = usize::from(defined.syntax().text_range().end()) - BEFORE.len() + start;
            typed.insert_str(end, &format!(" let {mutable}{name}: {} = {name};", kept.text));
        }
    }
    typed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variable: &str, text: &str) -> Kept {
        Kept { variable: variable.to_string(), text: text.to_string() }
    }

    #[test]
    fn evcxrs_lines_are_understood() {
        for (line, expected) in [
            ("evcxr_variable_store.put_variable::<Vec<u8>>(stringify!(v), v);", Some(of("v", "Vec<u8>"))),
            (
                "let mut v = evcxr_variable_store.take_variable::<Box<dyn Any>>(stringify!(v));",
                Some(of("v", "Box<dyn Any>")),
            ),
            ("put_variable::<u8>(stringify!(v), v);", None),
            ("let v = 1;", None),
        ] {
            assert_eq!(kept(line), expected);
        }
        for (line, expected) in [
            ("let mut v: Box<dyn Any> = v;", Some(of("v", "Box<dyn Any>"))),
            ("let v: u8 = 1;", None),
            ("let v: u8 = w;", None),
        ] {
            assert_eq!(typed(line), expected);
        }
    }

    #[test]
    fn a_type_is_written_with_what_is_missing() {
        let paths = |paths: &[&str]| paths.iter().map(|path| path.to_string()).collect();
        let missing = Missing::from([
            ("Any".to_string(), paths(&["std::any::Any"])),
            ("Write".to_string(), paths(&["std::fmt::Write", "std::io::Write"])),
        ]);
        for (text, choice, expected) in [
            ("Result<u8, Box<dyn Any + Send>>", 0, "Result<u8, Box<dyn std::any::Any + Send>>"),
            ("Box<dyn Write>", 0, "Box<dyn std::fmt::Write>"),
            (
                "(Box<dyn Write>, &'static dyn Any)",
                1,
                "(Box<dyn std::io::Write>, &'static dyn std::any::Any)",
            ),
            ("std::any::Any", 0, "std::any::Any"),
            ("Vec<AnyOther>", 0, "Vec<AnyOther>"),
        ] {
            assert_eq!(written(text, &missing, choice), expected);
        }
        let generated = "let Any = 1;\nevcxr_variable_store.put_variable::<Box<dyn Any>>(stringify!(a), a);\n\
                         evcxr_variable_store.put_variable::<u8>(stringify!(b), b);";
        assert_eq!(unwritten(generated, &missing), [of("a", "Box<dyn Any>")]);
    }

    #[test]
    fn types_stand_where_variables_are_defined() {
        let kept = [of("r", "R<u8>"), of("s", "S")];
        for (code, expected) in [
            ("let r = f();\nr", "let r = f(); let r: R<u8> = r;\nr"),
            ("let mut r = f(\n1);", "let mut r = f(\n1); let mut r: R<u8> = r;"),
            (
                ":dep x\nlet (a, r) = f(); let s = 1;",
                ":dep x\nlet (a, r) = f(); let r: R<u8> = r; let s = 1; let s: S = s;",
            ),
            ("let r = f(); let r = g(r);", "let r = f(); let r = g(r); let r: R<u8> = r;"),
            ("{ let r = 1; }", "{ let r = 1; }"),
            ("let t = 1;", "let t = 1;"),
        ] {
            assert_eq!(with_types(code, &kept), expected);
        }
    }
}
