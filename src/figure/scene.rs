//! Where everything of a figure stands, in pixels: laid out once, then drawn by Plotly and as SVG alike.

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::figure::label::{cell, cut, entry, of_tokens, shown, width, wrapped};
use crate::figure::scale::{CHOSEN, INK, MUTED, SERIES, Scale, number, short, ticks};
use crate::markup::plain;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::{Table, View};

const PAD: f64 = 16.0;
const WIDE: f64 = 860.0;
const TICK: f64 = 11.0;
const TICK_GAP: f64 = 14.0;
const TITLE: f64 = 15.0;
const LINE: f64 = 18.0;

/// The advance of a character of the monospaced font, for a font size of 1.
pub(super) const MONO: f64 = 0.602;
/// The same for the other font, on average and on the safe side.
const SANS: f64 = 0.54;

/// A figure laid out, and what stands in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub width: f64,
    pub height: f64,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(super) enum Item {
    Text(Text),
    Panel(Box<Panel>),
    Thumbnails(Box<Thumbnails>),
    TokenChips(TokenChips),
    Table(Grid),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Area {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Side {
    Start,
    Middle,
    End,
}

/// A line of text; `y` is the middle of its height.
#[derive(Clone, Debug)]
pub(super) struct Text {
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
pub(super) struct Panel {
    pub area: Area,
    pub x: AxisScale,
    pub y: AxisScale,
    pub marks: Marks,
    pub legend: Option<(f64, f64)>,
}

/// One axis of a panel: the values at its two ends, and the ticks between.
#[derive(Clone, Debug)]
pub(super) struct AxisScale {
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
pub(super) enum Marks {
    Cells(Cells),
    Bars(Vec<Series>),
    Lines(Vec<Series>),
}

#[derive(Clone, Debug)]
pub(super) struct Cells {
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
pub(super) struct Series {
    pub name: String,
    pub values: Vec<f32>,
    pub color: &'static str,
    pub dashed: bool,
    pub muted: bool,
}

/// Small pictures of many matrices, and one of them enlarged.
#[derive(Clone, Debug)]
pub(super) struct Thumbnails {
    pub area: Area,
    pub tile: (f64, f64),
    pub step: (f64, f64),
    pub across: usize,
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

impl Thumbnails {
    /// The corner of the small picture at `index`.
    pub fn submatrix(&self, index: usize) -> (f64, f64) {
        let (row, column) = (index / self.across, index % self.across);
        (self.area.x + column as f64 * self.step.0, self.area.y + row as f64 * self.step.1)
    }
}

/// Pieces of text on coloured ground.
#[derive(Clone, Debug)]
pub(super) struct TokenChips {
    pub area: Area,
    pub pieces: Vec<Chip>,
    pub scale: Scale,
    pub bar: Area,
}

#[derive(Clone, Debug)]
pub(super) struct Chip {
    pub area: Area,
    pub text: String,
    pub hover: String,
    pub value: f32,
}

/// A table laid out.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub area: Area,
    pub head: Vec<String>,
    pub columns: Vec<Column>,
    /// How high each row is.
    pub rows: Vec<f64>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub width: f64,
    pub right: bool,
    /// Each in lines.
    pub cells: Vec<Vec<String>>,
}

pub(super) const CHIP_FONT: f64 = 14.0;
pub(super) const TABLE_FONT: f64 = 12.0;
/// A row of one line, the head among them.
pub(super) const TABLE_ROW: f64 = 30.0;
/// From one line of a cell to the next: what Plotly makes of `<br>`.
pub(super) const TABLE_LINE: f64 = 1.3 * TABLE_FONT;

/// Numbers that a view draws, one by one.
const MOST: usize = 1_000_000;
/// Numbers that it draws as pixels.
const MOST_PIXELS: usize = 1 << 24;
/// Numbers from which on an image is smaller, and drawn faster.
pub(super) const PIXELS: usize = 1 << 16;

/// Whether these are more than a view of several matrices draws.
pub(super) fn is_too_many(named: &NamedTensor) -> bool {
    named.shape().into_iter().fold(1, usize::saturating_mul) > MOST
}

/// The scale of a matrix by itself.
pub(super) fn scale_of_matrix(values: &[f32], meaning: ValueKind) -> Scale {
    if values.len() > PIXELS { Scale::of_pixels(values, meaning) } else { Scale::of(values, meaning) }
}

/// What so many numbers take until they are drawn: as they are, as JSON or as pixels, and in the text of a page.
pub(super) fn bytes_to_draw(numbers: u64) -> u64 {
    numbers.saturating_mul(if numbers > MOST as u64 { 21 } else { 140 })
}

/// Whether a matrix is drawn as pixels. Of one by itself the hover then says the numbers only where none is below zero.
fn is_of_pixels(values: &[f32]) -> bool {
    values.len() > MOST
        || values.len() > PIXELS && values.iter().all(|value| value.is_finite() && *value >= 0.0)
}

/// Lays the views out from top to bottom.
pub(super) fn lay_out(views: &[View]) -> Result<Scene> {
    let mut scene = Scene { width: 420.0, height: PAD, items: Vec::new() };
    for (i, view) in views.iter().enumerate() {
        if i > 0 {
            scene.height += LINE;
        }
        match view {
            View::Heatmap(named) => scene.heatmap(named)?,
            View::Multiples(named) => scene.multiples(named, None)?,
            View::MultiplesOf(named, enlarged) => scene.multiples(named, Some(*enlarged))?,
            View::Bars(named) => scene.series(named, true)?,
            View::Lines(named) => scene.series(named, false)?,
            View::Tokens(named) => scene.tokens(named)?,
            View::Table(table) => scene.table(table),
        }
    }
    scene.height = (scene.height + PAD).ceil();
    scene.width = scene.width.ceil();
    if scene.height > 16_000.0 {
        return Err(Error::new(ErrorKind::Figure, "the figure would be higher than 16000 pixels")
            .remedied_by(Remedy::DrawLess));
    }
    Ok(scene)
}

impl Scene {
    fn heatmap(&mut self, named: &NamedTensor) -> Result<()> {
        let axes = expect(named, 2..=2, MOST_PIXELS)?;
        let values = named.to_vec()?;
        let (scale, pixels) = (scale_of_matrix(&values, named.value_kind()), is_of_pixels(&values));
        self.title(named.name());
        let (mut panel, end) = cells((PAD, self.height), (&axes[0], &axes[1]), values, scale, (640.0, 560.0));
        if let Marks::Cells(cells) = &mut panel.marks {
            cells.pixels = pixels;
        }
        self.put_cells(&panel);
        self.items.push(Item::Panel(Box::new(panel)));
        self.grow_to(end.0, end.1);
        Ok(())
    }

    fn multiples(&mut self, named: &NamedTensor, enlarged: Option<usize>) -> Result<()> {
        let axes = expect(named, 3..=3, MOST)?;
        let (facets, rows, columns) = (&axes[0], &axes[1], &axes[2]);
        if facets.len() > 1024 {
            return Err(too_many(named, facets.len(), 1024, "matrices"));
        }
        let values = named.to_vec()?;
        let scale = Scale::of(&values, named.value_kind());
        let whole: Vec<Vec<f32>> = values.chunks(rows.len() * columns.len()).map(<[f32]>::to_vec).collect();
        let chosen = match enlarged {
            Some(index) if index >= facets.len() => {
                let what = format!(
                    "`{}` has {} matrices: there is no {index} to enlarge",
                    named.name(),
                    facets.len()
                );
                return Err(
                    Error::new(ErrorKind::Figure, what).help(format!("choose 0 to {}", facets.len() - 1))
                );
            }
            Some(index) => index,
            None => most_telling(&whole, columns.len()),
        };
        let lower = rows.len() == columns.len() && whole.iter().all(|m| is_lower(m, columns.len()));
        let titles: Vec<String> = (0..facets.len()).map(|i| facet_title(facets, i)).collect();
        let small: Vec<Vec<f32>> =
            whole.iter().map(|m| pooled(m, rows.len(), columns.len(), SMALL)).collect();
        let small_shape = (rows.len().min(SMALL), columns.len().min(SMALL));

        self.title(named.name());
        let beside = facets.len() <= 16;
        let (gap, head) = (10.0, 16.0);
        let across = if beside { facets.len().div_ceil(4) } else { per_row(facets) };
        let side = if beside { 84.0 } else { ((WIDE + gap) / across as f64 - gap).clamp(24.0, 84.0).floor() };
        let shape = if rows.len() == columns.len() {
            1.0
        } else {
            (rows.len() as f64 / columns.len() as f64).clamp(0.4, 1.4)
        };
        let tile = (side, (side * shape).round());
        let step = (tile.0 + gap, tile.1 + gap + head);
        let down = facets.len().div_ceil(across);
        let top = self.height;
        let area = Area {
            x: PAD,
            y: top + head,
            w: across as f64 * step.0 - gap,
            h: down as f64 * step.1 - gap - head,
        };
        let (corner, room) = if beside {
            ((area.x + area.w + 40.0, top + 36.0), (430.0, 430.0))
        } else {
            ((PAD, area.y + area.h + 62.0), (560.0, 500.0))
        };
        let enlarged = whole.get(chosen).cloned().unwrap_or_default();
        let (mut panel, end) = cells(corner, (rows, columns), enlarged, scale, room);
        if let Marks::Cells(cells) = &mut panel.marks {
            (cells.lower, cells.short) = (lower, lower);
        }
        self.put_cells(&panel);
        let heading = (panel.area.x, corner.1 - 18.0);
        for (i, title) in titles.iter().enumerate() {
            let (x, y) = (PAD + (i % across) as f64 * step.0, area.y + (i / across) as f64 * step.1);
            let text = cut(title, (tile.0 / (MONO * TICK)) as usize);
            self.text(text, (x, y - 8.0), TICK, MUTED, true, Side::Start);
        }
        self.grow_to(end.0.max(area.x + area.w + PAD), end.1.max(area.y + area.h));
        let thumbs = Thumbnails {
            area,
            tile,
            step,
            across,
            titles,
            small,
            small_shape,
            whole,
            chosen,
            enlarged: panel,
            heading,
        };
        self.items.push(Item::Thumbnails(Box::new(thumbs)));
        Ok(())
    }

    fn series(&mut self, named: &NamedTensor, bars: bool) -> Result<()> {
        let axes = expect(named, 1..=2, if bars { 20_000 } else { 200_000 })?;
        let (groups, along) = if axes.len() == 2 { (Some(&axes[0]), &axes[1]) } else { (None, &axes[0]) };
        let values = named.to_vec()?;
        let count = groups.map_or(1, Axis::len);
        let n = along.len();
        let coloured = match (count <= SERIES.len(), bars) {
            (true, _) => (0..count).collect(),
            (false, true) => Vec::new(),
            (false, false) => farthest(&values, n, COLOURED),
        };
        let mut series: Vec<Series> = values
            .chunks(n)
            .enumerate()
            .map(|(i, values)| {
                let rank = coloured.iter().position(|&one| one == i);
                Series {
                    name: groups.map_or(String::new(), |axis| facet_title(axis, i)),
                    values: values.to_vec(),
                    color: rank.map_or("#8aa4c4", |rank| SERIES[rank]),
                    dashed: !bars && rank.is_some_and(|rank| rank >= 5),
                    muted: rank.is_none(),
                }
            })
            .collect();
        // What is pale lies below.
        series.sort_by_key(|one| !one.muted);

        self.title(named.name());
        let (low, high) = match named.value_kind() {
            ValueKind::Score if !bars => (0.0, 1.0),
            meaning => extent(&values, bars || meaning != ValueKind::Signed),
        };
        let marks = ticks(low, high, 6);
        let left = marks.iter().map(|(_, text)| width(text)).max().unwrap_or(0) as f64 * MONO * TICK + 10.0;
        let mut area =
            Area { x: PAD + left, y: self.height + 6.0, w: 660.0, h: if bars { 240.0 } else { 280.0 } };
        if bars {
            area.w = (n as f64 * (14.0 * count as f64 + 12.0)).clamp(320.0, 660.0);
        }
        let room = area.w / n as f64;
        let x = entries(along, room, false, if bars || n <= 48 { 0.5 } else { 0.0 });
        let x = if bars { x } else { counted(along, x, area.w) };
        let y = AxisScale { name: "value".into(), low, high, ticks: marks, entries: None, turned: false };
        let bottom = area.y + area.h + label_height(&x);
        self.text(
            plain(along.name()),
            (area.x + area.w / 2.0, bottom + 9.0),
            12.0,
            MUTED,
            false,
            Side::Middle,
        );
        let legend = (count > 1 && !coloured.is_empty()).then_some((area.x + area.w + 16.0, area.y));
        let mut right = area.x + area.w + PAD;
        if legend.is_some() {
            let named = series.iter().filter(|s| !s.muted);
            let widest = named.map(|s| width(&s.name).min(20)).max().unwrap_or(0);
            right += 60.0 + widest as f64 * 12.0 * MONO;
        }
        if coloured.len() < count {
            let what = groups.map_or("line", Axis::name);
            let note = match coloured.len() {
                0 => format!("{count} {what}s"),
                some => format!("{count} {what}s, the {some} farthest from 0 in colour"),
            };
            self.text(note, (area.x + area.w, area.y - 14.0), 12.0, MUTED, false, Side::End);
        }
        if bars {
            self.unbounded(&series, &area, &y);
        }
        let marks = if bars { Marks::Bars(series) } else { Marks::Lines(series) };
        self.items.push(Item::Panel(Box::new(Panel { area, x, y, marks, legend })));
        self.grow_to(right, bottom + LINE);
        Ok(())
    }

    /// Where a bar has no height because its number is not finite, the number in words.
    fn unbounded(&mut self, series: &[Series], area: &Area, y: &AxisScale) {
        const MOST: usize = 64;
        let n = series.first().map_or(1, |s| s.values.len()) as f64;
        let each = 0.8 / series.len() as f64;
        let found = series.iter().enumerate().flat_map(|(s, one)| {
            one.values.iter().enumerate().filter(|(_, v)| !v.is_finite()).map(move |(i, v)| (s, i, *v))
        });
        for (s, i, value) in found.take(MOST) {
            let x = area.x + area.w / n * (i as f64 + 0.1 + each * (s as f64 + 0.5));
            let zero = area.y + (1.0 - y.place(0.0)) * area.h;
            let text = Text {
                x,
                y: zero - 4.0,
                text: number(value),
                size: 10.0,
                color: MUTED,
                mono: true,
                side: Side::Start,
                turned: true,
            };
            self.items.push(Item::Text(text));
        }
    }

    fn tokens(&mut self, named: &NamedTensor) -> Result<()> {
        let axes = expect(named, 1..=1, 8192)?;
        let values = named.to_vec()?;
        let scale = Scale::of(&values, named.value_kind());
        self.title(named.name());
        const ROOM: f64 = 700.0;
        let (advance, line, inner) = (MONO * CHIP_FONT, 28.0, 5.0);
        let (mut x, mut y) = (0.0, 0.0);
        let mut pieces = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let label = axes[0].label(i);
            // A space within running text shows as one: the coloured ground says where the piece begins.
            let blank = label.trim_matches(' ').is_empty();
            let text = if blank { shown(&label) } else { shown(&label).replace(['·', ' '], "\u{a0}") };
            let text = cut(&text, 60);
            let w = (width(&text).max(1) as f64 * advance + inner).ceil();
            if x > 0.0 && x + w > ROOM {
                (x, y) = (0.0, y + line);
            }
            let area = Area { x: PAD + x, y: self.height + y, w, h: line - 5.0 };
            pieces.push(Chip { area, text, hover: entry(&axes[0], i), value: *value });
            x += w + 2.0;
            if label.ends_with('\n') {
                (x, y) = (0.0, y + line);
            }
        }
        let bottom = self.height + y + if x > 0.0 { line } else { 0.0 };
        let used = pieces.iter().map(|p| p.area.x + p.area.w).fold(0.0, f64::max);
        let area = Area { x: PAD, y: self.height, w: used - PAD, h: bottom - self.height };
        let bar =
            Area { x: used + 20.0, y: self.height + 20.0, w: 12.0, h: (area.h - 20.0).clamp(60.0, 180.0) };
        self.scale_title(&scale, &bar);
        self.items.push(Item::TokenChips(TokenChips { area, pieces, scale, bar }));
        self.grow_to(bar.x + 70.0, bottom.max(bar.y + bar.h + 6.0));
        Ok(())
    }

    fn table(&mut self, table: &Table) {
        const ROWS: usize = 200;
        self.title(table.title());
        let widest = if table.columns().len() > 4 { 28 } else { 56 };
        let shown = table.rows().len().min(ROWS);
        let texts: Vec<Vec<String>> = (0..table.columns().len())
            .map(|i| table.rows()[..shown].iter().map(|row| cell(&row[i])).collect())
            .collect();
        let wide = |room: usize| room as f64 * MONO * TABLE_FONT + 24.0;
        let heads = table.columns().iter().map(|head| width(&plain(head)).min(widest));
        let mut rooms: Vec<usize> = (texts.iter().zip(heads))
            .map(|(texts, head)| texts.iter().map(|text| width(text).min(widest)).chain([head, 1]).max())
            .map(|most| most.unwrap_or(1))
            .collect();
        // What is wide is text: it is wrapped before a number is.
        while rooms.iter().map(|&room| wide(room)).sum::<f64>() > WIDE {
            match rooms.iter_mut().max() {
                Some(room) if *room > 1 => *room -= 1,
                _ => break,
            }
        }
        let columns: Vec<Column> = (texts.iter().zip(&rooms))
            .map(|(texts, &room)| Column {
                width: wide(room),
                right: !texts.is_empty() && texts.iter().all(|text| text.is_empty() || is_number(text)),
                cells: texts.iter().map(|text| wrapped(text, room)).collect(),
            })
            .collect();
        let head =
            (table.columns().iter().zip(&rooms)).map(|(head, room)| cut(&plain(head), *room)).collect();
        let rows: Vec<f64> = (0..shown)
            .map(|row| columns.iter().map(|column| column.cells[row].len()).max().unwrap_or(1))
            .map(|lines| TABLE_ROW + (lines - 1) as f64 * TABLE_LINE)
            .collect();
        let area = Area {
            x: PAD,
            y: self.height,
            w: columns.iter().map(|column| column.width).sum(),
            h: TABLE_ROW + rows.iter().sum::<f64>(),
        };
        self.grow_to(PAD + area.w + PAD, area.y + area.h + 2.0);
        if table.rows().len() > shown {
            let note = format!("{} more rows", table.rows().len() - shown);
            self.text(note, (PAD, self.height + 10.0), 12.0, MUTED, false, Side::Start);
            self.height += LINE;
        }
        self.items.push(Item::Table(Grid { area, head, columns, rows }));
    }

    fn title(&mut self, title: &str) {
        let title = cut(&plain(title), 100);
        let wide = width(&title) as f64 * SANS * TITLE + 2.0 * PAD;
        self.text(title, (PAD, self.height + 8.0), TITLE, INK, false, Side::Start);
        let top = self.height + 32.0;
        self.grow_to(wide, top);
    }

    /// The names of a matrix's axes and of its colours.
    fn put_cells(&mut self, panel: &Panel) {
        let area = panel.area;
        let below = area.y + area.h + label_height(&panel.x) + 9.0;
        self.text(panel.x.name.clone(), (area.x + area.w / 2.0, below), 12.0, MUTED, false, Side::Middle);
        let left = area.x - label_width(&panel.y) - 12.0;
        self.text(panel.y.name.clone(), (left, area.y + area.h / 2.0), 12.0, MUTED, false, Side::Middle);
        if let Some(Item::Text(text)) = self.items.last_mut() {
            text.turned = true;
        }
        if let Marks::Cells(cells) = &panel.marks {
            self.scale_title(&cells.scale, &cells.bar);
        }
    }

    fn scale_title(&mut self, scale: &Scale, bar: &Area) {
        self.text(scale.title, (bar.x, bar.y - 15.0), TICK, MUTED, false, Side::Start);
    }

    fn text(
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

    fn grow_to(&mut self, right: f64, bottom: f64) {
        self.width = self.width.max(right);
        self.height = self.height.max(bottom);
    }
}

const SMALL: usize = 32;

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

/// A matrix with its axes in a corner, and how far it reaches right and down.
fn cells(
    (x, y): (f64, f64),
    (rows, columns): (&Axis, &Axis),
    values: Vec<f32>,
    scale: Scale,
    room: (f64, f64),
) -> (Panel, (f64, f64)) {
    let (n, m) = (rows.len() as f64, columns.len() as f64);
    let alike = (n / m).max(m / n) <= 4.0 || (of_tokens(rows) && of_tokens(columns));
    let (w, h) = if alike {
        let side = (room.0 / m).min(room.1 / n).min(36.0);
        (side * m, side * n)
    } else {
        (room.0.min(36.0 * m).max(60.0), room.1.min(26.0 * n).max(26.0))
    };
    let written = n <= 12.0 && m <= 12.0 && w / m >= 28.0 && h / n >= 14.0;
    let mut across = entries(columns, w / m, false, 0.5);
    let down = entries(rows, h / n, true, 0.5);
    across.name = plain(columns.name());
    let area = Area { x: x + LINE + label_width(&down) + 4.0, y: y + 4.0, w, h };
    let bar = Area { x: area.x + w + 18.0, y: area.y + 22.0, w: 12.0, h: (h - 22.0).clamp(70.0, 240.0) };
    let end = (bar.x + 72.0, (area.y + h + label_height(&across) + LINE).max(bar.y + bar.h + 8.0));
    let lower = rows.len() == columns.len() && is_lower(&values, columns.len());
    let marks = Marks::Cells(Cells {
        rows: rows.len(),
        columns: columns.len(),
        values,
        scale,
        written,
        lower,
        short: false,
        pixels: false,
        bar,
    });
    (Panel { area, x: across, y: down, marks, legend: None }, end)
}

/// How many of many lines are told apart.
const COLOURED: usize = 8;

/// Of rows of `n` numbers, those `most` that go farthest from zero, in their order.
fn farthest(values: &[f32], n: usize, most: usize) -> Vec<usize> {
    let grow_to = |row: &[f32]| row.iter().filter(|v| v.is_finite()).fold(0f32, |far, v| far.max(v.abs()));
    let reaches: Vec<f32> = values.chunks(n).map(grow_to).collect();
    let mut order: Vec<usize> = (0..reaches.len()).collect();
    order.sort_by(|&a, &b| reaches[b].total_cmp(&reaches[a]));
    order.truncate(most);
    order.sort_unstable();
    order
}

/// The ruler of entries that are labelled by rising numbers, such as steps: its ticks are at round ones.
fn counted(axis: &Axis, ruler: AxisScale, room: f64) -> AxisScale {
    let labels = axis.labels().unwrap_or_default();
    let numbers: Vec<f64> = labels.iter().map_while(|label| label.parse().ok()).collect();
    let rising = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let (true, true, [first, .., last]) = (numbers.len() == labels.len(), rising, numbers.as_slice()) else {
        return ruler;
    };
    let widest = labels.iter().map(|label| width(label)).max().unwrap_or(0) as f64 * MONO * TICK;
    let count = (room / (widest + 24.0)).min(10.0) as usize;
    // A round number may lie between two entries.
    let place = |number: f64| {
        let after = numbers.iter().position(|&one| one >= number)?;
        let before = after.saturating_sub(1);
        let gap = numbers[after] - numbers[before];
        Some(before as f64 + if gap > 0.0 { (number - numbers[before]) / gap } else { 0.0 })
    };
    let ticks = ticks(*first, *last, count).into_iter();
    let ticks = ticks.filter_map(|(number, text)| Some((place(number)?, text))).collect();
    AxisScale { ticks, turned: false, ..ruler }
}

/// Entries from which on labels are told by their places too.
const FAR: usize = 256;

/// The ruler of an axis of entries, each `room` pixels wide, with as many ticks as there is room for.
fn entries(axis: &Axis, room: f64, down: bool, margin: f64) -> AxisScale {
    let n = axis.len();
    // Among so many, a label does not say where it is.
    let far = n > FAR;
    let label = |i: usize| match axis.labels() {
        Some(labels) if far => format!("{} {i}", cut(&shown(&labels[i]), 12)),
        Some(labels) => cut(&shown(&labels[i]), 18),
        None => i.to_string(),
    };
    let widest = (0..n).map(|i| width(&label(i))).max().unwrap_or(0) as f64 * MONO * TICK;
    let turned = !down && axis.labels().is_some() && widest + 8.0 > room;
    let needed = if down || turned { TICK_GAP } else { widest + 8.0 };
    let step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]
        .into_iter()
        .find(|step| *step as f64 * room >= needed)
        .unwrap_or(n.max(1));
    let (first, last) = (-margin, n as f64 - 1.0 + margin);
    let (low, high) = if down { (last, first) } else { (first, last) };
    AxisScale {
        name: plain(axis.name()),
        low,
        high,
        ticks: (0..n).step_by(step).map(|i| (i as f64, label(i))).collect(),
        entries: Some((0..n).map(|i| entry(axis, i)).collect()),
        turned,
    }
}

fn label_width(ruler: &AxisScale) -> f64 {
    ruler.ticks.iter().map(|(_, text)| width(text)).max().unwrap_or(0) as f64 * MONO * TICK + 6.0
}

fn label_height(ruler: &AxisScale) -> f64 {
    if ruler.turned { label_width(ruler) + 2.0 } else { 20.0 }
}

/// The axes of a tensor, where it has as many as the view wants, none empty, and not too many numbers.
fn expect(named: &NamedTensor, wanted: std::ops::RangeInclusive<usize>, most: usize) -> Result<&[Axis]> {
    let axes = named.axes();
    if !wanted.contains(&axes.len()) {
        let wanted = match (wanted.start(), wanted.end()) {
            (a, b) if a == b => a.to_string(),
            (a, b) => format!("{a} or {b}"),
        };
        return Err(Error::new(
            ErrorKind::Figure,
            format!("`{}` has {} axes; this view draws {wanted}", named.name(), axes.len()),
        )
        .help("take one entry of an axis with `.select(axis, index)?` first"));
    }
    if let Some(axis) = axes.iter().find(|axis| axis.len() == 0) {
        let message =
            format!("`{}` has no entries on axis `{}`: there is nothing to draw", named.name(), axis.name());
        return Err(Error::new(ErrorKind::Figure, message).help("check the slice that it came from"));
    }
    let count = axes.iter().fold(1_usize, |n, axis| n.saturating_mul(axis.len()));
    if count > most { Err(too_many(named, count, most, "numbers")) } else { Ok(axes) }
}

fn too_many(named: &NamedTensor, count: usize, most: usize, what: &str) -> Error {
    let message = format!("`{}` has {count} {what}; this view draws at most {most}", named.name());
    Error::new(ErrorKind::Figure, message).remedied_by(Remedy::DrawLess)
}

/// The ends of an axis of numbers, with a little room beyond the numbers.
fn extent(values: &[f32], from_zero: bool) -> (f64, f64) {
    let finite = || values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite());
    let (mut low, mut high) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return (0.0, 1.0);
    }
    if from_zero {
        (low, high) = (low.min(0.0), high.max(0.0));
    }
    if low == high {
        (low, high) = (low - 0.5 * low.abs().max(1.0), high + 0.5 * high.abs().max(1.0));
    }
    let room = (high - low) * 0.05;
    let below = if from_zero && low == 0.0 { 0.0 } else { room };
    let above = if from_zero && high == 0.0 { 0.0 } else { room };
    (low - below, high + above)
}

/// The matrix with the largest value off the diagonal and off the first column, where attention idles.
pub(super) fn most_telling<M: AsRef<[f32]>>(matrices: &[M], columns: usize) -> usize {
    let most = |matrix: &M| {
        let telling = matrix.as_ref().iter().enumerate().filter(|(i, v)| {
            let (row, column) = (i / columns, i % columns);
            v.is_finite() && column != 0 && column != row
        });
        telling.map(|(_, v)| v.abs()).fold(0.0, f32::max)
    };
    let mut best = (0, 0.0);
    for (i, matrix) in matrices.iter().enumerate() {
        let found = most(matrix);
        if found > best.1 {
            best = (i, found);
        }
    }
    best.0
}

fn is_lower(matrix: &[f32], columns: usize) -> bool {
    columns > 1 && matrix.iter().enumerate().all(|(i, v)| i % columns <= i / columns || *v == 0.0)
}

/// A matrix of at most `most` rows and columns, each cell the largest in size of those that it stands for.
pub(super) fn pooled(matrix: &[f32], rows: usize, columns: usize, most: usize) -> Vec<f32> {
    let (down, across) = (rows.min(most), columns.min(most));
    if (down, across) == (rows, columns) {
        return matrix.to_vec();
    }
    let mut out = vec![f32::NAN; down * across];
    for (i, value) in matrix.iter().enumerate() {
        let (row, column) = (i / columns * down / rows, i % columns * across / columns);
        let cell = &mut out[row * across + column];
        if value.is_finite() && (cell.is_nan() || value.abs() > cell.abs()) {
            *cell = *value;
        }
    }
    out
}

/// The name of an entry that has a picture or a line of its own.
pub(super) fn facet_title(axis: &Axis, index: usize) -> String {
    match (axis.labels(), axis.name()) {
        (Some(labels), _) => shown(&labels[index]),
        (None, "head") => format!("H{index}"),
        (None, "layer") => format!("L{index}"),
        (None, name) => format!("{} {index}", plain(name)),
    }
}

/// How many small pictures stand in a row: a layer's heads, where the labels say so.
fn per_row(axis: &Axis) -> usize {
    let layer = |label: &String| label.split_once('H').map(|(layer, _)| layer.to_string());
    let labels = axis.labels().unwrap_or_default();
    let first = labels.first().and_then(layer);
    let same = labels.iter().take_while(|label| first.is_some() && layer(label) == first).count();
    if (4..=16).contains(&same) { same } else { 12 }
}

fn is_number(text: &str) -> bool {
    text.trim_end_matches('%').trim().parse::<f64>().is_ok()
}

/// What is written in a cell.
pub(super) fn cell_text(cells: &Cells, index: usize) -> String {
    let (value, above) = (cells.values[index], index % cells.columns > index / cells.columns);
    if !value.is_finite() || (above && cells.lower) { String::new() } else { short(value, cells.scale.high) }
}

pub(super) const OUTLINE: &str = CHOSEN;
