//! One line in a terminal that says how far a build is; plain lines elsewhere.

use std::io::{IsTerminal, Write};

pub struct Line {
    terminal: bool,
}

impl Line {
    pub fn new() -> Line {
        Line { terminal: std::io::stdout().is_terminal() }
    }

    pub fn tell(&self, what: &str) {
        let mut out = std::io::stdout().lock();
        let _ = match self.terminal {
            // Shorter than any terminal is wide, so that it stays one line.
            true => write!(out, "\r\u{1b}[K{}", what.chars().take(76).collect::<String>()),
            false => writeln!(out, "{what}"),
        };
        let _ = out.flush();
    }

    pub fn end(&self) {
        if self.terminal {
            print!("\r\u{1b}[K");
        }
    }
}
