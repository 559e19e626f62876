//! How a cell failed, as the reader is told it.

use crate::output::{EarlyReturn, Location, Panic};
use crate::source::{Place, Sources};

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

impl Failure {
    fn new(name: &str, value: &str, more: Vec<String>) -> Failure {
        let head = format!("{RED}{name}{PLAIN}{BOLD}: {value}{PLAIN}");
        let traceback = [head].into_iter().chain(more).collect();
        Failure { name: name.to_string(), value: value.to_string(), traceback }
    }
}

pub fn panic(panic: &Panic, sources: &Sources) -> Failure {
    let mut more = shown(panic.at.as_ref(), sources);
    more.push("The variables of earlier cells are kept.".to_string());
    Failure::new("panic", &panic.message, more)
}

pub fn early_return(early: &EarlyReturn, sources: &Sources) -> Failure {
    Failure::new(&short_type(&early.error), &early.message, shown(early.at.as_ref(), sources))
}

pub fn compilation(errors: &[evcxr::CompilationError], sources: &Sources) -> Failure {
    let mut traceback = Vec::new();
    for error in errors {
        let rendered = error.rendered();
        if rendered.is_empty() {
            traceback.push(format!("{RED}error{PLAIN}{BOLD}: {}{PLAIN}", error.message()));
            for message in error.spanned_messages() {
                traceback.extend(message.lines.iter().map(|line| format!("  {BLUE}|{PLAIN} {line}")));
            }
        } else {
            traceback.extend(in_cells(rendered.trim_end(), sources).lines().map(str::to_string));
        }
        if error.level() == "help" {
            // What rustc says of code that evcxr wrote: that a value cannot be kept under a type it can name.
            let keep = "the type of a variable cannot be written here: give the variable a type, or put the code in braces";
            traceback.push(format!("{RED}error{PLAIN}{BOLD}: {keep}{PLAIN}"));
        }
        if let Some(hint) = hint(error) {
            traceback.push(format!("  {BLUE}={PLAIN} {BOLD}help{PLAIN}: {hint}"));
        }
        traceback.push(String::new());
    }
    traceback.pop();
    let first = errors.first();
    let name =
        first.and_then(|error| error.code()).map_or("error".to_string(), |code| format!("error[{code}]"));
    Failure { name, value: first.map(|error| error.message()).unwrap_or_default(), traceback }
}

/// What rustc cannot know: how variables live on between cells.
fn hint(error: &evcxr::CompilationError) -> Option<&'static str> {
    match error.code()? {
        "E0384" | "E0596" => Some("to change a variable of an earlier cell, first write `let mut x = x;`"),
        "E0597" => Some("what a cell defines is kept for the next, and cannot borrow from other variables"),
        _ => None,
    }
}

pub fn stopped_compiling() -> Failure {
    let more = vec!["Nothing is lost: the cell has not run.".to_string()];
    Failure::new("interrupted", "stopped while compiling", more)
}

pub fn stopped_waiting() -> Failure {
    let more = vec!["The kernel is still getting ready. Run the cell again when it is.".to_string()];
    Failure::new("interrupted", "stopped waiting for the kernel to start", more)
}

pub fn terminated(how: &str, by_interrupt: bool) -> Failure {
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

pub fn other(message: &str) -> Failure {
    Failure::new("error", message.trim(), Vec::new())
}

pub fn other_version(name: &str, wanted: &str, have: &str) -> Failure {
    let more = vec![format!(
        "A second copy of {name} would have other types than headlight's. Leave the line out, or ask for a version that agrees, as headlight has it."
    )];
    Failure::new("error", &format!("this kernel has {name} = {have}; the cell asks for {wanted}"), more)
}

pub fn not_started(why: &str) -> Failure {
    Failure::new(
        "error",
        &format!("the kernel could not start: {why}"),
        vec!["Restart the kernel to try again.".to_string()],
    )
}

/// A fault of the kernel itself.
pub fn failed() -> Failure {
    let more = vec!["If it happens again, restart the kernel.".to_string()];
    Failure::new("error", "the kernel failed at this cell", more)
}

fn shown(at: Option<&Location>, sources: &Sources) -> Vec<String> {
    let Some(at) = at else { return Vec::new() };
    match sources.place(&at.file, at.line) {
        Some(place) => excerpt(&place, at.column),
        None => vec![format!(" {BLUE}-->{PLAIN} {}:{}:{}", at.file, at.line, at.column)],
    }
}

/// The line, as rustc shows one.
fn excerpt(place: &Place, column: usize) -> Vec<String> {
    let number = place.line.to_string();
    let room = " ".repeat(number.len());
    let column = place.column(column);
    // Up to the mark, tabs stay tabs, so that it stands below what it marks.
    let before: String =
        place.text.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { c } else { ' ' }).collect();
    vec![
        format!("{room}{BLUE}-->{PLAIN} cell {}, line {}", place.cell, place.line),
        format!("{room} {BLUE}|{PLAIN}"),
        format!("{BLUE}{number} |{PLAIN} {}", place.text.trim_end()),
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
fn in_cells(report: &str, sources: &Sources) -> String {
    let mut file = None;
    let lines: Vec<String> = report
        .lines()
        .map(|line| {
            if let Some((at, arrow)) =
                ["--> ", "::: "].iter().find_map(|arrow| Some((line.find(arrow)?, arrow)))
            {
                let place = line[at + arrow.len()..].trim_start_matches(' ').to_string();
                // rustc closes its colour between the arrow and the path.
                let path = without_colours(&place);
                let mut parts = path.rsplitn(3, ':');
                let (column, row, name) = (parts.next(), parts.next(), parts.next());
                file = name.filter(|name| name.contains("cells/")).map(str::to_string);
                if let (Some(name), Some(row), Some(column)) =
                    (&file, row.and_then(|row| row.parse().ok()), column)
                {
                    let place = sources.place(name, row);
                    let named =
                        place.map(|place| format!("cell {}, line {}:{column}", place.cell, place.line));
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
                    let place = line[range.clone()].parse().ok().and_then(|row| sources.place(name, row));
                    let number = place.map(|place| place.line.to_string()).unwrap_or_default();
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
    let start = past_colours(line, 0, &[' ']);
    let end = start + line[start..].find(|c: char| !c.is_ascii_digit())?;
    let next = past_colours(line, end, &[' ']);
    (end > start && line[next..].starts_with(['|', '+', '-', '~'])).then_some(start..end)
}

/// Skips colour codes and the characters given.
fn past_colours(line: &str, mut at: usize, skipped: &[char]) -> usize {
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

pub fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        match rest[start..].find(|c: char| c.is_ascii_alphabetic()) {
            Some(end) => rest = &rest[start + end + 1..],
            None => rest = "",
        }
    }
    plain.push_str(rest);
    plain
}
