//! What stands in a scene, and where.

use crate::figure::label::{cut, width};
use crate::figure::scale::{INK, MUTED, Scale};
use crate::markup::plain;

/// Room at the edges.
pub(super) const PAD: f64 = 16.0;
/// As wide as a figure is where its contents can be arranged.
pub(super) const WIDE: f64 = 860.0;
/// From one line of text to the next.
pub(super) const LINE: f64 = 18.0;

/// The font sizes of ticks and titles.
pub(super) const TICK: f64 = 11.0;
const TITLE: f64 = 15.0;
pub(crate) const CHIP_FONT: f64 = 14.0;
pub(crate) const TABLE_FONT: f64 = 12.0;

/// The advance of a character of the monospaced font, for a font size of 1.
pub(super) const MONO: f64 = 0.602;
/// The same for the other font, on average and on the safe side.
const SANS: f64 = 0.54;

/// A row of one line, the head among them.
pub(crate) const TABLE_ROW: f64 = 30.0;
/// From one line of a cell to the next: what Plotly makes of `<br>`.
pub(crate) const TABLE_LINE: f64 = 1.3 * TABLE_FONT;

/// A figure laid out, and what stands in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scene {
    pub width: f64,
    pub height: f64,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Text(Text),
    Panel(Box<Panel>),
    Thumbnails(Box<Thumbnails>),
    TokenChips(TokenChips),
    Ribbons(Ribbons),
    Table(Grid),
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Area {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    Start,
    Middle,
    End,
}

/// A line of text; `y` is the middle of its height.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub x: f64,
    pub y: f64,
    pub text: String,
    pub size: f64,
    pub color: &'static str,
    pub mono: bool,
    pub side: Side,
    pub turned: bool,
}

/// A plot with its two axes.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub area: Area,
    pub x: AxisScale,
    pub y: AxisScale,
    pub marks: Marks,
    pub legend: Option<(f64, f64)>,
}

/// One axis of a panel: the values at its two ends, and the ticks between.
#[derive(Clone, Debug)]
pub(crate) struct AxisScale {
    pub name: String,
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<(f64, String)>,
    /// What the hover says at each whole number; nothing where the axis is one of numbers.
    pub entries: Option<Vec<String>>,
    pub turned: bool,
}

impl AxisScale {
    pub fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Marks {
    Cells(Cells),
    Bars(Vec<Series>),
    Lines(Vec<Series>),
}

#[derive(Clone, Debug)]
pub(crate) struct Cells {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f32>,
    pub scale: Scale,
    /// The value is written in each cell.
    pub written: bool,
    /// Nothing lies above the diagonal, so nothing is written there.
    pub lower: bool,
    /// Nor are the numbers there handed on.
    pub short: bool,
    /// There are so many that they are handed on as the pixels of an image.
    pub pixels: bool,
    pub bar: Area,
}

#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub name: String,
    pub values: Vec<f32>,
    pub color: &'static str,
    pub dashed: bool,
    pub muted: bool,
}

/// Small pictures of many matrices, and one of them enlarged.
#[derive(Clone, Debug)]
pub(crate) struct Thumbnails {
    pub tiles: Tiles,
    pub titles: Vec<String>,
    /// The matrices made small.
    pub small: Vec<Vec<f32>>,
    pub small_shape: (usize, usize),
    /// The matrices whole.
    pub whole: Vec<Vec<f32>>,
    pub chosen: usize,
    pub enlarged: Panel,
    /// Where the name of the enlarged one stands, or the menu that chooses it.
    pub heading: (f64, f64),
}

/// Where small pictures stand: so many in a row, each as large as a tile, and a step from one to the next.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    pub area: Area,
    pub tile: (f64, f64),
    pub step: (f64, f64),
    pub across: usize,
}

impl Tiles {
    /// The corner of the small picture at `index`.
    pub fn corner(&self, index: usize) -> (f64, f64) {
        let (row, column) = (index / self.across, index % self.across);
        (self.area.x + column as f64 * self.step.0, self.area.y + row as f64 * self.step.1)
    }
}

/// Pieces of text on coloured ground.
#[derive(Clone, Debug)]
pub(crate) struct TokenChips {
    pub area: Area,
    pub pieces: Vec<Chip>,
    pub scale: Scale,
    pub bar: Area,
}

#[derive(Clone, Debug)]
pub(crate) struct Chip {
    pub area: Area,
    pub text: String,
    pub hover: String,
    pub value: f32,
}

/// Ribbons from one row of words to another, or from one column to another.
#[derive(Clone, Debug)]
pub(crate) struct Ribbons {
    pub area: Area,
    /// Whether words stand in rows.
    pub across: bool,
    pub all: Vec<Ribbon>,
    pub scale: Scale,
    /// Where the colours are explained, if they say anything.
    pub bar: Option<Area>,
}

#[derive(Clone, Debug)]
pub(crate) struct Ribbon {
    pub from: (f64, f64),
    pub to: (f64, f64),
    pub width: f64,
    pub value: f32,
    pub hover: String,
}

impl Ribbons {
    /// The points between which a ribbon bends, its ends among them.
    pub fn bend(&self, ribbon: &Ribbon) -> [(f64, f64); 4] {
        let ((x, y), (to_x, to_y)) = (ribbon.from, ribbon.to);
        let (middle_x, middle_y) = ((x + to_x) / 2.0, (y + to_y) / 2.0);
        match self.across {
            true => [(x, y), (x, middle_y), (to_x, middle_y), (to_x, to_y)],
            false => [(x, y), (middle_x, y), (middle_x, to_y), (to_x, to_y)],
        }
    }
}

/// A table laid out.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub area: Area,
    pub head: Vec<String>,
    pub columns: Vec<Column>,
    /// How high each row is.
    pub rows: Vec<f64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub width: f64,
    pub right: bool,
    /// Each in lines.
    pub cells: Vec<Vec<String>>,
}

impl Scene {
    pub(super) fn title(&mut self, title: &str) {
        let title = cut(&plain(title), 100);
        let wide = width(&title) as f64 * SANS * TITLE + 2.0 * PAD;
        self.text(title, (PAD, self.height + 8.0), TITLE, INK, false, Side::Start);
        let top = self.height + 32.0;
        self.grow_to(wide, top);
    }

    pub(super) fn scale_title(&mut self, scale: &Scale, bar: &Area) {
        self.text(scale.title, (bar.x, bar.y - 15.0), TICK, MUTED, false, Side::Start);
    }

    pub(super) fn text(
        &mut self,
        text: impl Into<String>,
        (x, y): (f64, f64),
        size: f64,
        color: &'static str,
        mono: bool,
        side: Side,
    ) {
        self.items.push(Item::Text(Text { x, y, text: text.into(), size, color, mono, side, turned: false }));
    }

    pub(super) fn grow_to(&mut self, right: f64, bottom: f64) {
        self.width = self.width.max(right);
        self.height = self.height.max(bottom);
    }
}

impl Panel {
    /// The labels at the ticks, where they stand.
    pub fn tick_labels(&self) -> Vec<Text> {
        let label = |x, y, text: &str, side, turned| Text {
            x,
            y,
            text: text.to_string(),
            size: TICK,
            color: INK,
            mono: true,
            side,
            turned,
        };
        let (area, x, y) = (&self.area, &self.x, &self.y);
        let below = x.ticks.iter().map(|(at, text)| {
            let (px, py) = (area.x + x.place(*at) * area.w, area.y + area.h);
            match x.turned {
                true => label(px, py + 6.0, text, Side::End, true),
                false => label(px, py + 12.0, text, Side::Middle, false),
            }
        });
        let left = y.ticks.iter().map(|(at, text)| {
            label(area.x - 6.0, area.y + (1.0 - y.place(*at)) * area.h, text, Side::End, false)
        });
        below.chain(left).collect()
    }
}
