//! How far a build or the run of a notebook is: one line in a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub struct ProgressLine {
    /// Hidden where there is no terminal.
    bar: ProgressBar,
    print: fn(&str),
    /// What is run, and how many cells it has.
    notebook: Option<(String, usize)>,
}

impl ProgressLine {
    /// For a build, on the standard output.
    pub fn for_build() -> ProgressLine {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        ProgressLine::new(bar, "{wide_msg}", |line| println!("{line}"), None)
    }

    /// For the run of a notebook, on the standard error.
    pub fn for_notebook(name: &str, cells: usize) -> ProgressLine {
        let bar = ProgressBar::with_draw_target(Some(cells as u64), ProgressDrawTarget::stderr());
        let template = "{prefix} {bar:20} {pos}/{len} {elapsed} {wide_msg}";
        let bar = bar.with_prefix(name.to_string());
        ProgressLine::new(bar, template, |line| eprintln!("{line}"), Some((name.to_string(), cells)))
    }

    fn new(
        bar: ProgressBar,
        template: &str,
        print: fn(&str),
        notebook: Option<(String, usize)>,
    ) -> ProgressLine {
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        ProgressLine { bar, print, notebook }
    }

    /// What is done now.
    pub fn show(&self, what: &str) {
        self.update(what, what);
    }

    /// A cell begins.
    pub fn show_cell(&self, number: usize, source: &str) {
        let code = source.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("//"));
        let code = code.or(source.lines().next()).unwrap_or_default();
        let cells = self.notebook.as_ref().map_or(0, |(_, cells)| *cells);
        self.bar.set_position(number.saturating_sub(1) as u64);
        self.update(code, &format!("cell {number} of {cells}: {code}"));
    }

    fn update(&self, message: &str, line: &str) {
        match self.bar.is_hidden() {
            true => self.print(line),
            false => self.bar.set_message(message.to_string()),
        }
    }

    /// The line goes.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// The line goes, and another one stays.
    pub fn end(&self, line: &str) {
        self.clear();
        self.print(line);
    }

    fn print(&self, line: &str) {
        match &self.notebook {
            Some((name, _)) => (self.print)(&format!("{name}: {line}")),
            None => (self.print)(line),
        }
    }
}
