//! Labels as they are drawn: whitespace made visible, lengths cut, and text escaped for where it goes.

use unicode_width::UnicodeWidthChar;

use crate::markup::{plain, push_visible};
use crate::named::Axis;

/// A label as it stands on an axis: `·cat`, `↵`, `⇥`, `∅`.
pub(super) fn make_visible(label: &str) -> String {
    if label.is_empty() {
        return "∅".to_string();
    }
    let leading = label.chars().take_while(|c| *c == ' ').count();
    let mut out = "·".repeat(leading);
    label.chars().skip(leading).for_each(|c| push_visible(&mut out, c));
    out
}

/// A label in quotes, for the hover and the terminal: `' cat'`.
pub(super) fn quote(label: &str) -> String {
    let mut out = String::from("'");
    for c in label.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => push_visible(&mut out, c),
        }
    }
    out.push('\'');
    out
}

/// The text of a table's cell: line breaks shown, spaces as they are.
pub(super) fn cell(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|c| push_visible(&mut out, c));
    out
}

/// Whether the entries of an axis are pieces of text, to be quoted.
pub(super) fn of_tokens(axis: &Axis) -> bool {
    axis.labels().is_some()
        && matches!(axis.name(), "query" | "key" | "position" | "token" | "source" | "destination" | "target")
}

/// Entry `index` of an axis in full, for the hover: `' cat' (3)`.
pub(super) fn entry(axis: &Axis, index: usize) -> String {
    match axis.labels() {
        Some(labels) if of_tokens(axis) => format!("{} ({index})", quote(&labels[index])),
        Some(labels) => plain(&labels[index]),
        None => index.to_string(),
    }
}

/// The name of an entry that has a picture or a line of its own.
pub(super) fn facet_title(axis: &Axis, index: usize) -> String {
    match (axis.labels(), axis.name()) {
        (Some(labels), _) => make_visible(&labels[index]),
        (None, "head") => format!("H{index}"),
        (None, "layer") => format!("L{index}"),
        (None, name) => format!("{} {index}", plain(name)),
    }
}

/// The text, cut with an ellipsis where it is wider than `columns`.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_string();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += char_width(c);
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// The text in lines of at most so many columns, broken behind spaces, line breaks and the joints of long names where it can be.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split_inclusive([' ', '↵', '-', '/', '_']) {
        if line.ends_with('↵') || used > 0 && used + width(word.trim_end_matches(' ')) > columns {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for c in word.chars() {
            if used > 0 && used + char_width(c) > columns && c != ' ' {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += char_width(c);
        }
    }
    lines.push(line);
    lines
}

/// The columns of a terminal that the text takes: the sum of its characters', so that what is cut or wrapped between any two
/// is as wide as its parts.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(1)
}

/// Text padded with spaces to `columns`, on the left for numbers.
pub(super) fn pad(text: &str, columns: usize, right: bool) -> String {
    let space = " ".repeat(columns.saturating_sub(width(text)));
    if right { space + text } else { text.to_string() + &space }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Unicode says of East Asian width, emoji and marks.
    #[test]
    fn widths() {
        for (text, columns) in [
            ("cat…", 4),
            ("e\u{301}", 1),
            ("日本語", 6),
            ("Ａ", 2),
            ("ｶﾅ", 2),
            ("𛀁", 2),
            // Circled numbers take one column where the text around them is not East Asian.
            ("㉈", 1),
            // Korean in its parts: what follows the first joins it.
            ("\u{1112}\u{1161}\u{11ab}", 2),
            // Marks of Hindi and Arabic.
            ("क\u{941}", 1),
            ("ب\u{64e}", 1),
            ("😀🀄", 4),
            ("⌚⚡✅", 6),
            // An emoji that is text unless asked.
            ("🌤", 1),
            ("❤\u{fe0f}", 1),
            // Three that some terminals draw as one.
            ("👨\u{200d}👩\u{200d}👧", 6),
        ] {
            assert_eq!(width(text), columns, "{text}");
        }
    }

    #[test]
    fn wrapped_text_is_all_there_in_lines_that_fit() {
        for (text, columns, lines) in [
            ("", 5, vec![""]),
            ("the cat sat", 20, vec!["the cat sat"]),
            ("the cat sat", 7, vec!["the cat ", "sat"]),
            ("one↵two three", 9, vec!["one↵", "two three"]),
            ("owner/name-of-model", 12, vec!["owner/name-", "of-model"]),
            ("unbreakable", 4, vec!["unbr", "eaka", "ble"]),
            ("日本語", 4, vec!["日本", "語"]),
            ("a", 0, vec!["a"]),
        ] {
            assert_eq!(wrap(text, columns), lines, "{text:?} in {columns}");
        }
    }
}
