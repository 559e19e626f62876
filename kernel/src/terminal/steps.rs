//! How far the run of a notebook is: a bar in a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub struct Steps {
    notebook: String,
    cells: usize,
    bar: Option<ProgressBar>,
}

impl Steps {
    pub fn new(notebook: &str, cells: usize) -> Steps {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(cells as u64);
            let style = ProgressStyle::with_template("{prefix} {bar:20} {pos}/{len} {elapsed} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(notebook.to_string());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Steps { notebook: notebook.to_string(), cells, bar }
    }

    /// What the kernel does before the first cell.
    pub fn starting(&self, what: &str) {
        self.tell(what, &format!("{}: {what}", self.notebook));
    }

    /// A cell begins.
    pub fn cell(&self, number: usize, source: &str) {
        let code = source.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("//"));
        let code = code.or(source.lines().next()).unwrap_or_default();
        if let Some(bar) = &self.bar {
            bar.set_position(number.saturating_sub(1) as u64);
        }
        self.tell(code, &format!("{}: cell {number} of {}: {code}", self.notebook, self.cells));
    }

    fn tell(&self, short: &str, line: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(short.to_string()),
            None => eprintln!("{line}"),
        }
    }

    /// The bar goes; the line stays.
    pub fn end(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}: {line}", self.notebook);
    }
}
