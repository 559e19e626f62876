//! How a cell failed, as the reader is told it.

use std::collections::BTreeSet;

use evcxr::CompilationError;
use serde::Deserialize;

use crate::cell::dependencies::VersionConflict;
use crate::cell::items::strip_marks;
use crate::cell::locate::{CellLine, CellSources, Location, cell_number};
use crate::cell::nesting::MAX_DEPTH;
use crate::cell::types::{self, StoredVariable};
use crate::terminal::escape::strip_escapes;

const RED: &str = "\u{1b}[1;31m";
const BLUE: &str = "\u{1b}[1;34m";
const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// As Jupyter has it: a name, a text, and the lines that are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub name: String,
    pub value: String,
    pub traceback: Vec<String>,
}

/// A panic, as the process that runs cells tells of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Panic {
    pub message: String,
    #[serde(default)]
    pub thread: String,
    #[serde(flatten)]
    pub at: Option<Location>,
}

/// An error that a `?` returned early with.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EarlyReturn {
    pub message: String,
    /// The type of the error.
    pub error: String,
    #[serde(flatten)]
    pub at: Option<Location>,
}

impl Failure {
    /// `more` are the lines below what it says.
    pub fn new(name: &str, value: &str, more: Vec<String>) -> Failure {
        let head = format!("{RED}{name}{PLAIN}{BOLD}: {value}{PLAIN}");
        let traceback = [head].into_iter().chain(more).collect();
        Failure { name: name.to_string(), value: value.to_string(), traceback }
    }
}

/// `lost` are variables of earlier cells that are no more.
pub fn panic(panic: &Panic, sources: &CellSources, lost: &[String]) -> Failure {
    let mut more = render_location(panic.at.as_ref(), sources);
    more.push(describe_lost(lost).unwrap_or("The variables of earlier cells are kept.".to_string()));
    Failure::new("panic", &panic.message, more)
}

pub fn early_return(early: &EarlyReturn, sources: &CellSources, lost: &[String]) -> Failure {
    let mut more = render_location(early.at.as_ref(), sources);
    more.extend(describe_lost(lost));
    Failure::new(&short_type(&early.error), &early.message, more)
}

/// What a cell that failed took with it.
fn describe_lost(lost: &[String]) -> Option<String> {
    let first = lost.first()?;
    let (names, are, them) = match lost {
        [one] => (format!("`{one}`"), "is", "it"),
        [before @ .., last] => (format!("`{}` and `{last}`", before.join("`, `")), "are", "them"),
        [] => return None,
    };
    Some(format!(
        "{names} {are} gone: the cell took or redefined {them}. The other variables of earlier cells are kept.\n\
         Run again what made {them}; a cell that borrows (`&{first}`) or clones (`{first}.clone()`) leaves {them}."
    ))
}

pub fn compilation(errors: &[CompilationError], sources: &CellSources) -> Failure {
    let mut traceback = Vec::new();
    let mut unstorable = Vec::new();
    let mut head = None;
    for error in errors {
        let rendered = error.rendered();
        let code = error.code().map_or("error".to_string(), |code| format!("error[{code}]"));
        if let Some((variable, why)) = find_stored_type_error(error, sources) {
            let message = format!("the variable `{}` cannot be kept for later cells", variable.name);
            head.get_or_insert(("error".to_string(), message.clone()));
            if unstorable.contains(&variable.name) {
                continue;
            }
            traceback.extend([
                format!("{RED}error{PLAIN}{BOLD}: {message}{PLAIN}"),
                format!("  {BLUE}|{PLAIN} its type is {}: {why}", variable.type_text),
                help("give it a type that can be written here, as in `let x: Box<dyn std::any::Any> = …`, or put the code in braces, which keep nothing"),
            ]);
            unstorable.push(variable.name);
        } else if let Some(type_name) = find_type_without_debug(error) {
            let message = "the value that the cell ends with cannot be shown".to_string();
            head.get_or_insert(("error".to_string(), message.clone()));
            traceback.extend([
                format!("{RED}error{PLAIN}{BOLD}: {message}{PLAIN}"),
                format!("  {BLUE}|{PLAIN} its type is {type_name}, which has no `Debug`"),
                help("write `#[derive(Debug)]` before the type, or end the cell with `;`"),
            ]);
        } else if rendered.is_empty() {
            traceback.push(format!("{RED}error{PLAIN}{BOLD}: {}{PLAIN}", error.message()));
            for message in error.spanned_messages() {
                // The statement, and the line that it is in.
                let lines: Vec<String> = message.lines.iter().map(|line| strip_marks(line)).collect();
                let last = lines
                    .iter()
                    .enumerate()
                    .filter(|(at, line)| !lines[at + 1..].iter().any(|later| later.contains(line.trim())));
                traceback.extend(last.map(|(_, line)| format!("  {BLUE}|{PLAIN} {}", line.trim_end())));
            }
        } else {
            traceback.extend(with_cell_lines(rendered.trim_end(), sources).lines().map(str::to_string));
        }
        if error.level() == "help" && unstorable.is_empty() {
            // The remedy alone, which lies in the user's code, for an error in what evcxr wrote.
            let keep = "what evcxr makes of the cell does not compile: give variables their types, or put the code in braces";
            traceback.push(format!("{RED}error{PLAIN}{BOLD}: {keep}{PLAIN}"));
        }
        head.get_or_insert((code, error.message()));
        traceback.extend(hint(error, sources).as_deref().map(help));
        traceback.push(String::new());
    }
    traceback.pop();
    let (name, value) = head.unwrap_or(("error".to_string(), String::new()));
    Failure { name, value, traceback }
}

fn help(text: &str) -> String {
    format!("  {BLUE}={PLAIN} {BOLD}help{PLAIN}: {text}")
}

/// The type of a value that has no text, where evcxr wants one.
fn find_type_without_debug(error: &CompilationError) -> Option<String> {
    let message = error.message();
    let type_name = message.split_once("`evcxr_display`")?.1.split('`').nth(1)?;
    Some(type_name.trim_start_matches('&').to_string())
}

/// The variable whose type an error is about, where evcxr wrote that type; and what is wrong with it.
fn find_stored_type_error(
    error: &CompilationError,
    sources: &CellSources,
) -> Option<(StoredVariable, String)> {
    let spans = error.json["spans"].as_array()?;
    let lines = spans.iter().filter(|span| span["is_primary"] == true).filter_map(|span| {
        let file = span["file_name"].as_str()?;
        Some((file, usize::try_from(span["line_start"].as_u64()?).ok()?))
    });
    for (file, at) in lines {
        let generated = sources.read_generated(cell_number(file)?)?;
        let line = generated.lines().nth(at.checked_sub(1)?)?;
        let annotated = || types::parse_annotation(line).filter(|_| sources.locate(file, at).is_none());
        if let Some(variable) = types::parse_store_call(line).or_else(annotated) {
            return Some((variable, error.message()));
        }
        // Of an error whose remedy lies in the user's code evcxr hands on the remedy alone.
        if error.level() == "help"
            && let Some((name, variable)) = types::find_missing_name(error, &generated)
        {
            return Some((variable, format!("cannot find `{name}` in this scope")));
        }
    }
    None
}

/// What rustc cannot know: how variables and items live on between cells.
fn hint(error: &CompilationError, sources: &CellSources) -> Option<String> {
    let hint = match error.code()? {
        "E0384" | "E0596" => "to change a variable of an earlier cell, first write `let mut x = x;`",
        "E0597" => "what a cell defines is kept for the next, and cannot borrow from other variables",
        "E0405" | "E0412" | "E0422" | "E0423" | "E0425" | "E0433" | "E0531" => {
            let message = error.message();
            let name = message.split('`').nth(1)?;
            let cell = sources.find_macro_cell(name)?;
            return Some(format!(
                "`{name}` is of a macro in cell {cell}, and what a call of a macro makes stays in its cell: \
                 call the macro in this cell too, or write out what it makes"
            ));
        }
        _ => return None,
    };
    Some(hint.to_string())
}

/// Of items that no longer go together with what a cell has defined.
pub fn stale_items_notice(items: &BTreeSet<String>) -> String {
    let names: Vec<String> = items.iter().map(|item| format!("`{item}`")).collect();
    let (are, they) =
        if items.len() == 1 { ("is", "it no longer compiles") } else { ("are", "they no longer compile") };
    format!(
        "{} of earlier cells {are} left out, for {they} beside what this cell defines. Run again what defined {}.\n",
        names.join(", "),
        if items.len() == 1 { "it" } else { "them" },
    )
}

pub fn interrupted_compilation() -> Failure {
    let more = vec!["Nothing is lost: the cell has not run.".to_string()];
    Failure::new("interrupted", "stopped while compiling", more)
}

pub fn interrupted_start() -> Failure {
    let more = vec!["The kernel is still getting ready. Run the cell again when it is.".to_string()];
    Failure::new("interrupted", "stopped waiting for the kernel to start", more)
}

pub fn process_end(how: &str, by_interrupt: bool) -> Failure {
    let lost = "All variables are lost, models among them; functions, types and imports are kept. \
                Run the cells again that made the variables.";
    if by_interrupt {
        let more = vec![
            lost.to_string(),
            "A loop can listen with `check_stop()?`; headlight's own long work does.".to_string(),
        ];
        return Failure::new("interrupted", "the code did not listen, and its process was ended", more);
    }
    let how = how.lines().last().unwrap_or_default().replace("Subprocess terminated with status: ", "");
    Failure::new("crash", &format!("the process that ran the cell ended ({how})"), vec![lost.to_string()])
}

pub fn evcxr_error(message: &str) -> Failure {
    Failure::new("error", message.trim(), Vec::new())
}

/// Of code that would end the kernel.
pub fn too_deep() -> Failure {
    let more = vec!["Give inner parts names of their own, with `let` or as functions.".to_string()];
    Failure::new("error", &format!("the code is nested deeper than {MAX_DEPTH} times"), more)
}

pub fn version_conflict(conflict: &VersionConflict) -> Failure {
    let VersionConflict { name, requested, available } = conflict;
    let more = vec![format!(
        "A second copy of {name} would have other types than headlight's. Leave the line out, or ask for a version that agrees, as headlight has it."
    )];
    Failure::new(
        "error",
        &format!("this kernel has {name} = {available}; the cell asks for {requested}"),
        more,
    )
}

pub fn start_failure(why: &str) -> Failure {
    Failure::new(
        "error",
        &format!("the kernel could not start: {why}"),
        vec!["Restart the kernel to try again.".to_string()],
    )
}

/// A fault of the kernel itself.
pub fn kernel_fault() -> Failure {
    let more = vec!["If it happens again, restart the kernel.".to_string()];
    Failure::new("error", "the kernel failed at this cell", more)
}

fn render_location(at: Option<&Location>, sources: &CellSources) -> Vec<String> {
    let Some(at) = at else { return Vec::new() };
    match sources.locate(&at.file, at.line) {
        Some(line) => excerpt(&line, at.column),
        None => vec![format!(" {BLUE}-->{PLAIN} {}:{}:{}", at.file, at.line, at.column)],
    }
}

/// The line, as rustc shows one.
fn excerpt(line: &CellLine, column: usize) -> Vec<String> {
    let number = line.line.to_string();
    let room = " ".repeat(number.len());
    let column = line.column(column);
    // Up to the mark, tabs stay tabs, so that it stands below what it marks.
    let before: String =
        line.text.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { c } else { ' ' }).collect();
    vec![
        format!("{room}{BLUE}-->{PLAIN} cell {}, line {}", line.cell, line.line),
        format!("{room} {BLUE}|{PLAIN}"),
        format!("{BLUE}{number} |{PLAIN} {}", line.text.trim_end()),
        format!("{room} {BLUE}|{PLAIN} {before}{RED}^{PLAIN}"),
    ]
}

/// `headlight::error::Error` as `headlight::Error`: crate and name.
fn short_type(path: &str) -> String {
    let plain = path.split('<').next().unwrap_or_default().trim_start_matches('&');
    let parts: Vec<&str> = plain.split("::").collect();
    match parts[..] {
        [] | ["" | "str"] => "error".to_string(),
        ["alloc" | "core" | "std" | "ctx", .., last] | [last] => last.to_string(),
        [first, .., last] => format!("{first}::{last}"),
    }
}

/// rustc's report with the cells' own line numbers in place of those of what evcxr made of them.
fn with_cell_lines(report: &str, sources: &CellSources) -> String {
    let mut file = None;
    let lines: Vec<String> = report
        .lines()
        .map(|line| {
            if let Some((at, arrow)) =
                ["--> ", "::: "].iter().find_map(|arrow| Some((line.find(arrow)?, arrow)))
            {
                let place = line[at + arrow.len()..].trim_start_matches(' ').to_string();
                // rustc closes its colour between the arrow and the path.
                let path = strip_escapes(&place);
                let mut parts = path.rsplitn(3, ':');
                let (column, row, name) = (parts.next(), parts.next(), parts.next());
                file = name.filter(|name| name.contains("cells/")).map(str::to_string);
                if let (Some(name), Some(row), Some(column)) =
                    (&file, row.and_then(|row| row.parse().ok()), column)
                {
                    let found = sources.locate(name, row);
                    let named =
                        found.map(|found| format!("cell {}, line {}:{column}", found.cell, found.line));
                    return format!(
                        "{}{arrow}{PLAIN}{}",
                        &line[..at],
                        named.unwrap_or("the cell".to_string())
                    );
                }
                return line.to_string();
            }
            match (&file, gutter(line)) {
                (Some(name), Some(range)) => {
                    let found = line[range.clone()].parse().ok().and_then(|row| sources.locate(name, row));
                    let number = found.map(|found| found.line.to_string()).unwrap_or_default();
                    let number = format!("{number:>width$}", width = range.len());
                    format!("{}{number}{}", &line[..range.start], &line[range.end..])
                }
                _ => line.to_string(),
            }
        })
        .collect();
    lines.join("\n")
}

/// Where a line of the report begins with a line number.
fn gutter(line: &str) -> Option<std::ops::Range<usize>> {
    let start = skip_colours(line, 0, &[' ']);
    let end = start + line[start..].find(|c: char| !c.is_ascii_digit())?;
    let next = skip_colours(line, end, &[' ']);
    (end > start && line[next..].starts_with(['|', '+', '-', '~'])).then_some(start..end)
}

/// Skips colour codes and the characters given.
fn skip_colours(line: &str, mut at: usize, skipped: &[char]) -> usize {
    loop {
        let rest = &line[at..];
        if rest.starts_with('\u{1b}') {
            match rest.find('m') {
                Some(end) => at += end + 1,
                None => return at,
            }
        } else if rest.starts_with(skipped) {
            at += 1;
        } else {
            return at;
        }
    }
}
