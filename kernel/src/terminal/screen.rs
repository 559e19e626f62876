//! Printed text as a terminal would leave it: what a carriage return or a cursor movement writes over is gone.

use crate::terminal::escape::split_escape;

/// A character, and the colours that were switched on before it.
#[derive(Clone, Default)]
struct Glyph {
    colours: String,
    character: char,
}

#[derive(Default)]
struct Screen {
    rows: Vec<Vec<Glyph>>,
    row: usize,
    column: usize,
    colours: String,
}

/// No text moves the cursor farther than this: a number in an escape sequence must not cost memory.
const MAX_MOVE: usize = 1000;

/// The text that stays. Colours are kept, movements are carried out.
pub fn settle(text: &str) -> String {
    if !moves(text) {
        return text.to_string();
    }
    let mut screen = Screen { rows: vec![Vec::new()], ..Screen::default() };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((sequence, after)) = split_escape(rest) {
            screen.obey(sequence);
            rest = after;
        } else {
            screen.put(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    screen.text()
}

fn moves(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['\r', '\u{8}', '\u{1b}']) {
        match split_escape(&rest[at..]) {
            Some((sequence, after)) if sequence.ends_with('m') => rest = after,
            _ => return true,
        }
    }
    false
}

impl Screen {
    fn put(&mut self, character: char) {
        match character {
            '\n' => self.go_to(self.row + 1, 0),
            '\r' => self.column = 0,
            '\u{8}' => self.column = self.column.saturating_sub(1),
            _ => {
                let column = self.column;
                let glyph = Glyph { colours: self.colours.clone(), character };
                let row = self.line();
                if row.len() <= column {
                    row.resize(column + 1, Glyph { colours: String::new(), character: ' ' });
                }
                row[column] = glyph;
                self.column += 1;
            }
        }
    }

    fn line(&mut self) -> &mut Vec<Glyph> {
        if self.rows.len() <= self.row {
            self.rows.resize(self.row + 1, Vec::new());
        }
        &mut self.rows[self.row]
    }

    fn go_to(&mut self, row: usize, column: usize) {
        (self.row, self.column) = (row, column);
        self.line();
    }

    fn obey(&mut self, sequence: &str) {
        let Some(body) = sequence.strip_prefix("\u{1b}[") else { return };
        let Some(kind) = body.chars().last() else { return };
        let parameters = &body[..body.len() - kind.len_utf8()];
        let number: Option<usize> = parameters.split(';').next().and_then(|text| text.parse().ok());
        let by = number.unwrap_or(1).clamp(1, MAX_MOVE);
        let column = self.column;
        match kind {
            'm' if parameters.is_empty() || parameters == "0" => self.colours.clear(),
            'm' => self.colours.push_str(sequence),
            'A' | 'F' => self.row = self.row.saturating_sub(by),
            'B' | 'E' => self.go_to((self.row + by).min(self.rows.len().saturating_sub(1)), column),
            'C' => self.column += by,
            'D' => self.column = column.saturating_sub(by),
            'G' => self.column = by - 1,
            'K' => match number.unwrap_or(0) {
                0 => self.line().truncate(column),
                1 => self.line().iter_mut().take(column + 1).for_each(|glyph| glyph.character = ' '),
                _ => self.line().clear(),
            },
            'J' => {
                self.line().truncate(column);
                self.rows.truncate(self.row + 1);
            }
            _ => {}
        }
        if matches!(kind, 'E' | 'F') {
            self.column = 0;
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut colours = "";
        for (at, row) in self.rows.iter().enumerate() {
            if at > 0 {
                out.push('\n');
            }
            for glyph in row {
                if glyph.colours != colours {
                    // Colours only add up; others begin from none.
                    match glyph.colours.strip_prefix(colours) {
                        Some(more) => out.push_str(more),
                        None => {
                            out.push_str("\u{1b}[0m");
                            out.push_str(&glyph.colours);
                        }
                    }
                    colours = &glyph.colours;
                }
                out.push(glyph.character);
            }
        }
        if !colours.is_empty() {
            out.push_str("\u{1b}[0m");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_is_gone() {
        for (printed, stays) in [
            ("plain\ntext\n", "plain\ntext\n"),
            ("1 %\r2 %\r100 %\n", "100 %\n"),
            ("100 %\rdone\n", "done%\n"),
            ("100 %\r\u{1b}[Kdone\n", "done\n"),
            ("100 %\u{1b}[2K\rdone", "done"),
            ("windows\r\nlines\r\n", "windows\nlines\n"),
            ("ab\u{8}c", "ac"),
            ("one\ntwo\n\u{1b}[1A\u{1b}[2Knew\n", "one\nnew\n"),
            ("one\ntwo\u{1b}[1A\r\u{1b}[Jx", "x"),
            ("a\u{1b}[3Cb", "a   b"),
            ("\u{1b}[31mred\u{1b}[0m", "\u{1b}[31mred\u{1b}[0m"),
            ("x\r\u{1b}[31mred\u{1b}[0m!", "\u{1b}[31mred\u{1b}[0m!"),
            ("\u{1b}]0;title\u{7}text\r", "text"),
            ("cut \u{1b}[12", "cut "),
            ("\u{1b}", ""),
            ("", ""),
            ("é日\r本", "本日"),
        ] {
            assert_eq!(settle(printed), stays, "of {printed:?}");
        }
    }

    #[test]
    fn a_far_movement_costs_no_memory() {
        assert!(settle("\u{1b}[99999999999999999999C\u{1b}[999999999Bx\r\n").len() < 3 * MAX_MOVE);
    }
}
