//! Text that is data wherever it goes: made visible, and escaped for markup.

/// The colour of what is pointed out.
pub(crate) const ACCENT: &str = "#2b6cb0";

/// Text on one line, with nothing in it that a terminal or a renderer would obey.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c => push_visible(&mut out, c),
        }
    }
    out
}

pub(crate) fn push_visible(out: &mut String, c: char) {
    match c {
        '\n' => out.push('↵'),
        '\r' => out.push_str("\\r"),
        '\t' => out.push('⇥'),
        c if obeyed(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        c => out.push(c),
    }
}

/// Control characters, and those that turn the direction of the text around them.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}')
}

/// Text for XML and HTML, in content and in quoted attributes.
pub(crate) fn for_markup(text: &str) -> String {
    escaped(text, &[('"', "&quot;"), ('\'', "&#39;")])
}

/// Text for Plotly, which would otherwise read tags, `$math$` and `%{templates}` in it.
pub(crate) fn for_plotly(text: &str) -> String {
    escaped(text, &[('$', "&#36;"), ('%', "&#37;")])
}

/// Text on one line without tags and entities, and without what else a reader would obey.
fn escaped(text: &str, others: &[(char, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => match others.iter().find(|(other, _)| *other == c) {
                Some((_, entity)) => out.push_str(entity),
                None => out.push(c),
            },
        }
    }
    out
}

/// JSON that can stand inside a `<script>` element: the same value, without `<`, `>` and `&`.
pub(crate) fn json_for_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
