//! Long work: it shows how far it is, and stops when asked.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::error::{Error, ErrorKind, Result};
use crate::markup::{ACCENT, for_markup};
use crate::notebook;
use crate::notebook::Content;

static STOP: AtomicBool = AtomicBool::new(false);

/// Work that is shorter shows no bar in a notebook.
const PATIENCE: Duration = Duration::from_millis(400);
/// The time from one drawing of a bar to the next.
const BETWEEN: Duration = Duration::from_millis(125);

thread_local! {
    /// The work under way on this thread, the outermost first.
    static WORK: RefCell<Vec<Rc<Work>>> = const { RefCell::new(Vec::new()) };
}

/// Asks whatever long work is running to stop, from another thread. Within about a second it fails with
/// [`ErrorKind::Stopped`], and nothing is lost: models and runs stay as they are.
///
/// ```standalone_crate
/// headlight::request_stop();
/// # let model = headlight::Model::open("built-in")?;
/// # assert!(headlight::analysis::induction_scores(&model).is_err());
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn request_stop() {
    STOP.store(true, Ordering::Relaxed);
}

/// Fails with [`ErrorKind::Stopped`] if work was asked to stop, and forgets that it was: for loops of one's own. Calls
/// of this crate that take long look for themselves.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let mut sum = 0.0;
/// for text in ["the cat sat", "the dog sat", "the king sat"] {
///     check_stop()?;
///     sum += model.loss(text)?;
/// }
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn check_stop() -> Result<()> {
    check("the work")
}

/// Forgets that work was asked to stop: a kernel calls it before each cell, so that what was asked when nothing was
/// running stops nothing.
#[doc(hidden)]
pub fn clear_stop() {
    STOP.store(false, Ordering::Relaxed);
}

/// Fails if work was asked to stop, and forgets that it was. `what` is said to be stopped where no [`Progress`] says
/// more.
pub(crate) fn check(what: &str) -> Result<()> {
    if !is_stopping() || !STOP.swap(false, Ordering::Relaxed) {
        return Ok(());
    }
    let stopped = WORK.with_borrow(|work| match work.first() {
        Some(work) => {
            let (done, steps) = (work.unit.count(work.done.get()), work.unit.count(work.steps));
            let unit = if work.unit == Unit::Steps { " steps" } else { "" };
            (format!("{} was stopped after {done} of {steps}{unit}", work.what), work.unit.again())
        }
        None => (format!("{what} was stopped"), Unit::Steps.again()),
    });
    Err(Error::new(ErrorKind::Stopped, stopped.0).help(stopped.1))
}

/// Whether work was asked to stop. Work asks often, so bars that are due are drawn on the way.
pub(crate) fn is_stopping() -> bool {
    WORK.with_borrow(|work| work.iter().for_each(|work| work.draw()));
    STOP.load(Ordering::Relaxed)
}

/// How far a piece of work is: a bar in a terminal and in a notebook that can change it, nothing elsewhere.
pub(crate) struct Progress(Rc<Work>);

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Steps,
    /// Of a file, which may have been begun before.
    Bytes,
}

struct Work {
    what: String,
    unit: Unit,
    steps: usize,
    done: Cell<usize>,
    effort: Arc<Effort>,
    started: Instant,
    terminal: ProgressBar,
    id: String,
    drawn: Cell<Option<Instant>>,
}

/// What there is to do since this began, in steps or, where these differ in how long they take, in what they ask for; the bar in a
/// terminal looks here too.
struct Effort {
    /// The steps that were done before.
    begun: AtomicUsize,
    all: AtomicUsize,
    done: AtomicUsize,
}

impl Progress {
    pub(crate) fn new(what: &str, steps: usize) -> Progress {
        Progress::of(what, Unit::Steps, steps)
    }

    /// Of a file of so many bytes.
    pub(crate) fn of_bytes(what: &str, bytes: usize) -> Progress {
        Progress::of(what, Unit::Bytes, bytes)
    }

    fn of(what: &str, unit: Unit, steps: usize) -> Progress {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (begun, all, done) = (AtomicUsize::new(0), AtomicUsize::new(steps), AtomicUsize::new(0));
        let effort = Arc::new(Effort { begun, all, done });
        let work = Rc::new(Work {
            what: what.to_string(),
            unit,
            steps,
            done: Cell::new(0),
            terminal: in_terminal(what, unit, steps, effort.clone()),
            effort,
            started: Instant::now(),
            id: format!(
                "headlight-progress-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            drawn: Cell::new(None),
        });
        WORK.with_borrow_mut(|all| all.push(work.clone()));
        Progress(work)
    }

    /// Counts steps that are done; fails if the work was asked to stop, and forgets that it was.
    pub(crate) fn advance(&self, steps: usize) -> Result<()> {
        self.advance_by(steps, steps)
    }

    /// The same where steps differ in what they ask for.
    pub(crate) fn advance_by(&self, steps: usize, effort: usize) -> Result<()> {
        self.0.done.set(self.0.done.get() + steps);
        self.0.effort.done.fetch_add(effort, Ordering::Relaxed);
        self.0.terminal.inc(steps as u64);
        check(&self.0.what)
    }

    /// So much was done before, or is left of what was: what follows is counted from there.
    pub(crate) fn begin_at(&self, done: usize) {
        self.begin_by(done, self.0.steps.saturating_sub(done));
    }

    /// The same where steps differ in what they ask for: how much all that are left do.
    pub(crate) fn begin_by(&self, done: usize, left: usize) {
        self.0.done.set(done);
        self.0.effort.begun.store(done, Ordering::Relaxed);
        self.0.effort.all.store(left, Ordering::Relaxed);
        self.0.effort.done.store(0, Ordering::Relaxed);
        self.0.terminal.set_position(done as u64);
        self.0.terminal.reset_eta();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // A thread that ends may have let go of the list first.
        let _ = WORK.try_with(|all| all.borrow_mut().retain(|work| !Rc::ptr_eq(work, &self.0)));
        self.0.terminal.finish_and_clear();
        if self.0.drawn.get().is_some() {
            notebook::update(&self.0.id, &notebook::text(""));
        }
    }
}

impl Work {
    /// Draws the bar in a notebook, if it is due.
    fn draw(&self) {
        if !notebook::is_live() || self.done.get() >= self.steps {
            return;
        }
        let wait = self.drawn.get().map_or(PATIENCE, |_| BETWEEN);
        if self.drawn.get().unwrap_or(self.started).elapsed() < wait {
            return;
        }
        let at = At::of(self.unit, &self.effort, self.done.get(), self.steps);
        let content = content(&self.what, at, self.started.elapsed());
        match self.drawn.replace(Some(Instant::now())) {
            None => notebook::display(&self.id, &content),
            Some(_) => notebook::update(&self.id, &content),
        }
    }
}

/// How far work is.
#[derive(Clone, Copy)]
struct At {
    unit: Unit,
    begun: usize,
    done: usize,
    steps: usize,
    /// Of what there was to do when this began, how much is done.
    share: f64,
}

impl At {
    fn of(unit: Unit, effort: &Effort, done: usize, steps: usize) -> At {
        let Effort { begun, all, done: new } = effort;
        let [begun, all, new] = [begun, all, new].map(|count| count.load(Ordering::Relaxed));
        At { unit, begun, done, steps, share: new as f64 / all.max(1) as f64 }
    }
}

impl Unit {
    fn count(self, number: usize) -> String {
        match self {
            Unit::Steps => number.to_string(),
            Unit::Bytes => bytes(number as f64),
        }
    }

    fn again(self) -> &'static str {
        match self {
            Unit::Steps => "call it again to start over; nothing else is lost",
            Unit::Bytes => "call it again to go on from there",
        }
    }
}

/// A number of bytes as people read it.
pub(crate) fn bytes(count: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) if count / unit < 9.95 => format!("{:.1} {name}", count / unit),
        Some((unit, name)) => format!("{:.0} {name}", count / unit),
        None => format!("{count:.0} bytes"),
    }
}

fn in_terminal(what: &str, unit: Unit, steps: usize, effort: Arc<Effort>) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pace}") {
        let pace = move |state: &ProgressState, out: &mut dyn Write| {
            // A terminal that cannot be written to shows nothing anyhow. A file's rate is indicatif's, of the last
            // seconds.
            let (done, steps) = (state.pos() as usize, state.len().unwrap_or(0) as usize);
            let _ = match unit {
                Unit::Steps => out.write_str(&pace(At::of(unit, &effort, done, steps), state.elapsed())),
                Unit::Bytes => {
                    let left = state.eta().as_secs().saturating_add(1);
                    out.write_str(&bytes_at(done, steps, state.per_sec(), left))
                }
            };
        };
        bar.set_style(style.with_key("pace", pace));
    }
    bar.set_message(what.to_string());
    bar
}

/// A bar as a notebook shows it, in characters and in HTML that suits light and dark pages.
fn content(what: &str, at: At, elapsed: Duration) -> Content {
    const WIDTH: usize = 16;
    let part = at.done as f64 / at.steps.max(1) as f64;
    let full = (part * WIDTH as f64).round() as usize;
    let bar = "━".repeat(full.min(WIDTH)) + &"─".repeat(WIDTH.saturating_sub(full));
    let pace = pace(at, elapsed);
    let mut content = notebook::text(format!("{what} {bar} {pace}"));
    let html = format!(
        "<div style=\"display:flex;align-items:center;gap:10px;max-width:640px;padding:4px 0;\
         font:13px system-ui,sans-serif\"><span>{}</span>\
         <span style=\"flex:1;min-width:80px;height:6px;border-radius:3px;overflow:hidden;\
         background:rgba(128,128,128,.25)\"><span style=\"display:block;height:100%;width:{:.1}%;\
         background:{ACCENT}\"></span></span>\
         <span style=\"white-space:nowrap;opacity:.75;font-variant-numeric:tabular-nums\">{pace}</span></div>",
        for_markup(what),
        part.min(1.0) * 100.0,
    );
    content.data.insert("text/html".into(), html.into());
    content
}

/// How many steps are done, how fast, and how long the others take: `12/50 · 3.1/s · 12 s left`; of a file
/// `12 MB of 548 MB · 3.1 MB/s · 2 min 52 s left`.
fn pace(At { unit, begun, done, steps, share }: At, elapsed: Duration) -> String {
    let elapsed = elapsed.as_secs_f64();
    let new = done.saturating_sub(begun);
    let each = elapsed / new.max(1) as f64;
    // Rounded up, so that there is time left until there is none.
    let left = (elapsed * (1.0 / share - 1.0)).max(0.0).ceil() as u64;
    match unit {
        Unit::Steps if new == 0 || elapsed == 0.0 => format!("{done}/{steps}"),
        Unit::Bytes if new == 0 || elapsed == 0.0 => format!("{} of {}", unit.count(done), unit.count(steps)),
        Unit::Bytes => bytes_at(done, steps, 1.0 / each, left),
        Unit::Steps => {
            let rate = match 1.0 / each {
                rate if rate >= 9.95 => format!("{rate:.0}/s"),
                rate if rate >= 0.995 => format!("{rate:.1}/s"),
                rate if rate >= 0.1 => format!("{rate:.2}/s"),
                _ => format!("{each:.0} s each"),
            };
            format!("{done}/{steps} · {rate} · {} left", duration(left))
        }
    }
}

fn bytes_at(done: usize, all: usize, rate: f64, left: u64) -> String {
    let (done, all) = (Unit::Bytes.count(done), Unit::Bytes.count(all));
    format!("{done} of {all} · {}/s · {} left", bytes(rate), duration(left))
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_in_digits_that_can_be_read() {
        let at = |unit: Unit, begun: usize, done: usize, steps: usize| {
            let share = (done - begun) as f64 / (steps - begun) as f64;
            At { unit, begun, done, steps, share }
        };
        let cases = [
            (0, 50, 3.0, "0/50"),
            (12, 50, 3.87, "12/50 · 3.1/s · 13 s left"),
            (50, 50, 5.0, "50/50 · 10/s · 0 s left"),
            (1000, 5000, 2.0, "1000/5000 · 500/s · 8 s left"),
            (2, 60, 4.0, "2/60 · 0.50/s · 1 min 56 s left"),
            (1, 500, 20.0, "1/500 · 20 s each · 2 h 46 min left"),
        ];
        for (done, steps, seconds, expected) in cases {
            assert_eq!(pace(at(Unit::Steps, 0, done, steps), Duration::from_secs_f64(seconds)), expected);
        }
        let cases = [
            (0, 0, 0.0, "0 bytes of 548 MB"),
            (0, 137_000_000, 10.0, "137 MB of 548 MB · 14 MB/s · 30 s left"),
            (500_000_000, 502_000_000, 8.0, "502 MB of 548 MB · 250 kB/s · 3 min 04 s left"),
        ];
        for (begun, done, seconds, expected) in cases {
            let at = at(Unit::Bytes, begun, done, 548_000_000);
            assert_eq!(pace(at, Duration::from_secs_f64(seconds)), expected);
        }
        // The first step asked for a tenth of all.
        let uneven = At { share: 0.1, ..at(Unit::Steps, 0, 1, 50) };
        assert_eq!(pace(uneven, Duration::from_secs(2)), "1/50 · 0.50/s · 18 s left");
        let cases = [
            (0.0, "0 bytes"),
            (999.0, "999 bytes"),
            (9.94e6, "9.9 MB"),
            (5.48e8, "548 MB"),
            (2.1e9, "2.1 GB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn a_bar_in_characters_and_in_safe_html() {
        let content = content(
            "<b>heads</b>",
            At { unit: Unit::Steps, begun: 0, done: 12, steps: 48, share: 0.25 },
            Duration::from_secs(4),
        );
        assert_eq!(content.data["text/plain"], "<b>heads</b> ━━━━──────────── 12/48 · 3.0/s · 12 s left");
        let html = content.data["text/html"].as_str().unwrap();
        assert!(html.contains("width:25.0%") && html.contains("&lt;b&gt;heads"), "{html}");
        assert!(!html.contains("<b>") && !html.contains('\n'), "{html}");
    }

    #[test]
    fn a_bar_of_no_steps_or_too_many_is_a_bar() {
        for (done, steps) in [(0, 0), (7, 5)] {
            let content = content(
                "heads",
                At { unit: Unit::Steps, begun: 0, done, steps, share: 1.0 },
                Duration::from_secs(1),
            );
            assert_eq!(content.data["text/plain"].as_str().unwrap().matches(['━', '─']).count(), 16);
        }
    }
}
