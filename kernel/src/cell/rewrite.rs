//! What evcxr wrote for a cell, as it is compiled. Every rewriting keeps the numbers of lines.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::cell::lex::{TokenKind, lex_code};
use crate::cell::locate::{current_cell, generated_file};

const PANICKED: &str = "println!(\"EVCXR_PANIC_NOTIFICATION\");";
const RETURNED_EARLY: &str = "println!(\"{}\", evcxr_internal_runtime::USER_ERROR_OCCURRED);";

/// Puts what evcxr wrote where it is kept under the number of its cell; gives its path, within the session's folder.
pub fn stage(folder: &Path) -> Result<String> {
    let file = generated_file(current_cell(folder));
    let path = folder.join(&file);
    fs::create_dir_all(path.parent().unwrap_or(folder))?;
    let source = fs::read_to_string(folder.join("src/lib.rs"))?;
    let reporting = with_panic_report(&with_early_return_report(&without_warnings(&source)));
    fs::write(path, with_value_display(&with_session_variables(&with_macro_imports(&reporting))))?;
    Ok(file)
}

/// Warnings, which evcxr shows nobody unless something else fails, and then as if they were errors; and a bound by which a check
/// finds that variables of earlier cells may not live long enough, which they do.
fn without_warnings(source: &str) -> String {
    source.replacen("#![allow(unused_imports, unused_mut, dead_code)]", "#![allow(warnings)]", 1).replacen(
        "fn evcxr_variable_store<T: 'static>(_: T) {}",
        "fn evcxr_variable_store<T>(_: T) {}",
        1,
    )
}

/// evcxr prints an error that `?` returns as any text; the kernel must know that it is one, and where it came from.
fn with_early_return_report(source: &str) -> String {
    let Some(start) = source.find("From<T> for EvcxrUserCodeError") else { return source.to_string() };
    let (before, rest) = source.split_at(start);
    let impl_block = rest.replacen("fn from(error: T)", "#[track_caller] fn from(error: T)", 1);
    let (Some(print), Some(end)) = (impl_block.find("eprintln!("), impl_block.find(", error);")) else {
        return source.to_string();
    };
    let format = &impl_block[print + "eprintln!(".len()..end];
    let call = format!("::headlight::headlight_early_return(&error, &format!({format}, error));");
    let after = impl_block[end + ", error);".len()..].replacen(RETURNED_EARLY, "", 1);
    format!("{before}{}{call}{after}", &impl_block[..print])
}

/// What evcxr prints to itself when a cell has panicked could be printed by anybody; this is said under the token.
fn with_panic_report(source: &str) -> String {
    match source.rfind(PANICKED) {
        Some(at) => {
            format!("{}::headlight::headlight_panicked();{}", &source[..at], &source[at + PANICKED.len()..])
        }
        None => source.to_string(),
    }
}

/// evcxr writes items in any order, and a macro is known only below its definition; a `use` makes it known everywhere.
fn with_macro_imports(source: &str) -> String {
    const DEFINES: &str = "macro_rules!";
    let mut uses = String::new();
    if source.contains(DEFINES) {
        let mut tokens = lex_code(source);
        let (mut depth, mut is_exported) = (0usize, false);
        while let Some(token) = tokens.next() {
            match token {
                (TokenKind::Macro, DEFINES) => {
                    // One that is exported is known everywhere.
                    let needs_use = !std::mem::take(&mut is_exported) && depth == 0;
                    if let Some((_, name)) = tokens.next().filter(|_| needs_use) {
                        uses += &format!(" pub(crate) use {name};");
                    }
                }
                (TokenKind::Name | TokenKind::Function, "macro_export") => is_exported = true,
                (TokenKind::Punctuation, "(" | "[" | "{") => depth += 1,
                (TokenKind::Punctuation, ")" | "]" | "}") => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    format!("{}{uses}\n", source.trim_end())
}

/// Where the first attempt to compile a cell fails, for its last value takes a variable with it for instance, evcxr shows
/// that value as text. It is shown as it would have been.
fn with_value_display(source: &str) -> String {
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
fn with_session_variables(source: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_takes_a_variable_with_it_is_shown_as_any() {
        let source =
            "let t = 1;\nevcxr_send_text_plain(&format!(\"{:?}\",&(\nf(g(h(t\n)))\n)));\nOk(())})();\n";
        let rewritten = with_value_display(source);
        assert_eq!(
            rewritten,
            "let t = 1;\n{ use ::headlight::EvcxrDisplay as _; (&(\nf(g(h(t\n)))\n)).evcxr_display(); }\nOk(())})();\n"
        );
        assert_eq!(rewritten.lines().count(), source.lines().count());
        for other in ["", "evcxr_send_text_plain(&format!(\"{:#?}\",&(\nx\n)));\n"] {
            assert_eq!(with_value_display(other), other);
        }
    }

    #[test]
    fn what_could_be_printed_by_anybody_is_said_under_the_token() {
        let source = format!("user({PANICKED:?});\n{PANICKED}\n}}");
        let rewritten = with_panic_report(&source);
        assert_eq!(rewritten, format!("user({PANICKED:?});\n::headlight::headlight_panicked();\n}}"));
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
            ("#[macro_export(local_inner_macros)]\nmacro_rules! m { () => {} }", ""),
            (
                "mod a { #[macro_export] macro_rules! m { () => {} } }\nmacro_rules! n { () => {} }",
                " pub(crate) use n;",
            ),
            ("mod a { macro_rules! m { () => {} } }", ""),
            ("const S: &str = \"macro_rules! m { () => {} }\";", ""),
        ] {
            assert_eq!(with_macro_imports(source), format!("{}{uses}\n", source.trim_end()));
        }
    }

    #[test]
    fn variables_are_kept_by_the_session() {
        let source = "use a;\nmod evcxr_internal_runtime {\n// x\npub fn y() {}\n}\n#[unsafe(no_mangle)]\npub extern \"C\" fn run() {}\n";
        let shared = with_session_variables(source);
        assert_eq!(shared.lines().count(), source.lines().count());
        assert_eq!(shared.lines().nth(5), source.lines().nth(5));
        assert!(
            shared.contains("use ::headlight::variables as evcxr_internal_runtime;")
                && !shared.contains("pub fn y")
        );
    }

    #[test]
    fn an_early_return_is_reported_on_the_same_line() {
        let source = "a\nimpl<T: std::fmt::Display> From<T> for EvcxrUserCodeError {\nfn from(error: T) -> Self {\n\
            eprintln!(\"{}\", error);\nprintln!(\"x\");\n";
        let rewritten = with_early_return_report(source);
        assert_eq!(rewritten.lines().count(), source.lines().count());
        assert!(rewritten.contains("headlight_early_return(&error, &format!(\"{}\", error));"));
        assert!(rewritten.contains("#[track_caller] fn from"));
        assert!(!rewritten.contains("eprintln"));
    }
}
