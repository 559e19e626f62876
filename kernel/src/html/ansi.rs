//! Text with a terminal's colours as HTML.

use crate::terminal::escape::split_escape;

const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

#[derive(Clone, Default, PartialEq)]
struct Style {
    classes: Vec<&'static str>,
    ink: Option<Colour>,
    paper: Option<Colour>,
}

#[derive(Clone, PartialEq)]
enum Colour {
    /// One of the eight, that the page has its own shades of.
    Named(usize),
    Exact(u8, u8, u8),
}

/// Text that can stand in an element or in an attribute in quotes.
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in HTML, and nothing to see.
            c if c.is_control() && !matches!(c, '\n' | '\t') => {}
            c => out.push(c),
        }
    }
    out
}

/// The text, escaped, its colours as spans. Other escape sequences are left out.
pub fn html(text: &str) -> String {
    let mut out = String::new();
    let mut style = Style::default();
    let mut rest = text;
    loop {
        let plain = rest.find('\u{1b}').unwrap_or(rest.len());
        style.write(&rest[..plain], &mut out);
        let Some((sequence, after)) = split_escape(&rest[plain..]) else { return out };
        if let Some(codes) = sequence.strip_prefix("\u{1b}[").and_then(|codes| codes.strip_suffix('m')) {
            style.obey(codes);
        }
        rest = after;
    }
}

impl Style {
    fn write(&self, text: &str, out: &mut String) {
        if text.is_empty() {
            return;
        }
        let mut classes: Vec<String> = self.classes.iter().map(|class| format!("ansi-{class}")).collect();
        let mut exact = String::new();
        for (colour, part, property) in [(&self.ink, "", "color"), (&self.paper, "-bg", "background-color")] {
            match colour {
                Some(Colour::Named(n)) => classes.push(format!("ansi-{}{part}", NAMES[*n % NAMES.len()])),
                Some(Colour::Exact(r, g, b)) => exact += &format!("{property}:rgb({r},{g},{b});"),
                None => {}
            }
        }
        let text = escape_html(text);
        if classes.is_empty() && exact.is_empty() {
            out.push_str(&text);
            return;
        }
        let mut attributes = String::new();
        if !classes.is_empty() {
            attributes += &format!(" class=\"{}\"", classes.join(" "));
        }
        if !exact.is_empty() {
            attributes += &format!(" style=\"{exact}\"");
        }
        *out += &format!("<span{attributes}>{text}</span>");
    }

    fn obey(&mut self, codes: &str) {
        let mut codes = codes.split([';', ':']).map(|code| code.parse::<usize>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Style::default(),
                1 => self.add("bold"),
                2 => self.add("dim"),
                3 => self.add("italic"),
                4 => self.add("underline"),
                22 => self.classes.retain(|class| !["bold", "dim"].contains(class)),
                23 => self.classes.retain(|class| *class != "italic"),
                24 => self.classes.retain(|class| *class != "underline"),
                30..=37 => self.ink = Some(Colour::Named(code - 30)),
                38 => self.ink = parse_extended(&mut codes),
                39 => self.ink = None,
                40..=47 => self.paper = Some(Colour::Named(code - 40)),
                48 => self.paper = parse_extended(&mut codes),
                49 => self.paper = None,
                90..=97 => self.ink = Some(Colour::Named(code - 90)),
                100..=107 => self.paper = Some(Colour::Named(code - 100)),
                _ => {}
            }
        }
    }

    fn add(&mut self, class: &'static str) {
        if !self.classes.contains(&class) {
            self.classes.push(class);
        }
    }
}

/// The colour after 38 or 48: one of 256, or red, green and blue.
fn parse_extended(codes: &mut impl Iterator<Item = usize>) -> Option<Colour> {
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    match codes.next()? {
        5 => Some(match codes.next()? {
            n @ 0..=15 => Colour::Named(n % 8),
            n @ 16..=231 => {
                let level = |n: usize| [0, 95, 135, 175, 215, 255][n % 6];
                let n = n - 16;
                Colour::Exact(level(n / 36), level(n / 6), level(n))
            }
            n => {
                let grey = byte(8 + 10 * n.saturating_sub(232).min(23));
                Colour::Exact(grey, grey, grey)
            }
        }),
        2 => Some(Colour::Exact(byte(codes.next()?), byte(codes.next()?), byte(codes.next()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_spans() {
        for (text, page) in [
            ("a < b & \"c\"", "a &lt; b &amp; &quot;c&quot;"),
            ("\u{1b}[1;31merror\u{1b}[0m: x", "<span class=\"ansi-bold ansi-red\">error</span>: x"),
            ("\u{1b}[31m\u{1b}[39m\u{1b}[mx", "x"),
            ("\u{1b}[94;41m<b>\u{1b}[m", "<span class=\"ansi-blue ansi-red-bg\">&lt;b&gt;</span>"),
            ("\u{1b}[38;5;9mx", "<span class=\"ansi-red\">x</span>"),
            ("\u{1b}[38;5;196mx", "<span style=\"color:rgb(255,0,0);\">x</span>"),
            ("\u{1b}[48;2;1;2;999mx", "<span style=\"background-color:rgb(1,2,255);\">x</span>"),
            ("\u{1b}[1mx\u{1b}[22my", "<span class=\"ansi-bold\">x</span>y"),
            ("\u{1b}]8;;javascript:x\u{7}link", "link"),
            ("\u{1b}[2Kx\u{1b}", "x"),
            ("a\u{0}\u{8}b\tc\n", "ab\tc\n"),
            ("\u{1b}[38;5mx\u{1b}[38mx\u{1b}[99999999999999999999mx", "xxx"),
        ] {
            assert_eq!(html(text), page, "of {text:?}");
        }
    }
}
