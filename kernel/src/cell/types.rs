//! Variables whose types evcxr does not know how to write. It keeps a variable under the text of its type, in which
//! rust-analyzer leaves out where traits come from; and an error in that text is about code that no user wrote.

use std::collections::BTreeMap;

use evcxr::CompilationError;
use ra_ap_syntax::ast::{self, AstNode, HasName};
use serde_json::Value;

use crate::cell::body::CellBody;
use crate::cell::lex::lex;

/// So many ways to write a type are tried.
const MOST: usize = 4;

/// A variable, and the text that evcxr has for its type.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredVariable {
    pub name: String,
    pub type_text: String,
}

/// Names that rustc did not find, each with the paths that it proposes.
type MissingPaths = BTreeMap<String, Vec<String>>;

/// The variable that `annotate` has written a line for.
pub fn parse_annotation(line: &str) -> Option<StoredVariable> {
    let defined = line.trim().strip_prefix("let ")?.strip_suffix(';')?;
    let (name, rest) = defined.strip_prefix("mut ").unwrap_or(defined).split_once(": ")?;
    let text = rest.strip_suffix(name)?.strip_suffix(" = ")?;
    Some(StoredVariable { name: name.to_string(), type_text: text.to_string() })
}

/// The variable that a line of evcxr's own stores, or takes out again.
pub fn parse_store_call(line: &str) -> Option<StoredVariable> {
    let (_, call) = line.split_once("evcxr_variable_store.")?;
    let call = call.strip_prefix("put_variable::<").or_else(|| call.strip_prefix("take_variable::<"))?;
    let (text, rest) = call.rsplit_once(">(stringify!(")?;
    Some(StoredVariable { name: rest.split(')').next()?.to_string(), type_text: text.to_string() })
}

/// Types in which names are missing, and the ways to write them.
pub struct UnresolvedTypes {
    variables: Vec<StoredVariable>,
    missing: MissingPaths,
    attempts: usize,
}

impl UnresolvedTypes {
    /// Those of a cell, from what rustc says of it and from what was compiled.
    pub fn find(errors: &[CompilationError], generated: &str) -> Option<UnresolvedTypes> {
        let missing = find_missing_paths(errors);
        let variables = variables_with(generated, &missing);
        (!variables.is_empty()).then_some(UnresolvedTypes { variables, missing, attempts: 0 })
    }

    /// The cell with the types written out in a way that was not tried yet.
    pub fn next_attempt(&mut self, code: &str) -> Option<String> {
        let ways = self.missing.values().map(Vec::len).max().unwrap_or(0).min(MOST);
        let choice = self.attempts;
        self.attempts += 1;
        let qualify = |variable: &StoredVariable| StoredVariable {
            type_text: qualify(&variable.type_text, &self.missing, choice),
            ..variable.clone()
        };
        (choice < ways).then(|| annotate(code, &self.variables.iter().map(qualify).collect::<Vec<_>>()))
    }
}

/// What rustc could not find in a cell.
fn find_missing_paths(errors: &[CompilationError]) -> MissingPaths {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut missing = MissingPaths::new();
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
fn variables_with(generated: &str, missing: &MissingPaths) -> Vec<StoredVariable> {
    let lacks_path = |variable: &StoredVariable| {
        lex(&variable.type_text).iter().any(|(_, text)| missing.contains_key(*text))
    };
    generated
        .lines()
        .filter(|line| line.contains(".put_variable::<"))
        .filter_map(parse_store_call)
        .filter(lacks_path)
        .collect()
}

/// A name that rustc proposes to import, and the first variable of what was compiled in whose type it stands.
pub fn find_missing_name(error: &CompilationError, generated: &str) -> Option<(String, StoredVariable)> {
    let missing = find_missing_paths(std::slice::from_ref(error));
    let variable = variables_with(generated, &missing).into_iter().next()?;
    let tokens = lex(&variable.type_text);
    let name = missing.into_keys().find(|name| tokens.iter().any(|(_, text)| text == name))?;
    Some((name, variable))
}

/// The text with the paths of what is missing in it: of several that rustc proposes, the first, the second and so on.
fn qualify(type_text: &str, missing: &MissingPaths, choice: usize) -> String {
    let mut whole = String::new();
    for (_, text) in lex(type_text) {
        let path = missing.get(text).filter(|_| !whole.ends_with("::"));
        whole += path.and_then(|paths| paths.get(choice).or(paths.last())).map_or(text, String::as_str);
    }
    whole
}

/// The cell with the types of variables written out where they are defined. No line moves.
fn annotate(code: &str, variables: &[StoredVariable]) -> String {
    let body = CellBody::parse(code);
    let mut annotated = code.to_string();
    let mut left: Vec<&StoredVariable> = variables.iter().collect();
    // From the end: what is defined last is kept, and places before it stay what they are.
    for defined in body.nodes::<ast::LetStmt>().iter().rev() {
        let patterns =
            defined.pat().into_iter().flat_map(|pattern| pattern.syntax().descendants().collect::<Vec<_>>());
        for pattern in patterns.filter_map(ast::IdentPat::cast) {
            let name = pattern.name().map(|name| name.text().to_string()).unwrap_or_default();
            let Some(at) = left.iter().position(|variable| variable.name == name) else { continue };
            let variable = left.swap_remove(at);
            let mutable = if pattern.mut_token().is_some() { "mut " } else { "" };
            let end = body.range(defined.syntax()).end;
            annotated.insert_str(end, &format!(" let {mutable}{name}: {} = {name};", variable.type_text));
        }
    }
    annotated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, text: &str) -> StoredVariable {
        StoredVariable { name: name.to_string(), type_text: text.to_string() }
    }

    #[test]
    fn evcxrs_lines_are_understood() {
        for (line, expected) in [
            ("evcxr_variable_store.put_variable::<Vec<u8>>(stringify!(v), v);", Some(stored("v", "Vec<u8>"))),
            (
                "let mut v = evcxr_variable_store.take_variable::<Box<dyn Any>>(stringify!(v));",
                Some(stored("v", "Box<dyn Any>")),
            ),
            ("put_variable::<u8>(stringify!(v), v);", None),
            ("let v = 1;", None),
        ] {
            assert_eq!(parse_store_call(line), expected);
        }
        for (line, expected) in [
            ("let mut v: Box<dyn Any> = v;", Some(stored("v", "Box<dyn Any>"))),
            ("let v: u8 = 1;", None),
            ("let v: u8 = w;", None),
        ] {
            assert_eq!(parse_annotation(line), expected);
        }
    }

    #[test]
    fn a_type_is_written_with_what_is_missing() {
        let paths = |paths: &[&str]| paths.iter().map(|path| path.to_string()).collect();
        let missing = MissingPaths::from([
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
            assert_eq!(qualify(text, &missing, choice), expected);
        }
        let generated = "let Any = 1;\nevcxr_variable_store.put_variable::<Box<dyn Any>>(stringify!(a), a);\n\
                         evcxr_variable_store.put_variable::<u8>(stringify!(b), b);";
        assert_eq!(variables_with(generated, &missing), [stored("a", "Box<dyn Any>")]);
    }

    #[test]
    fn types_stand_where_variables_are_defined() {
        let variables = [stored("r", "R<u8>"), stored("s", "S")];
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
            assert_eq!(annotate(code, &variables), expected);
        }
    }
}
