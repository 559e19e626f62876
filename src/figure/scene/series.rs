//! Bars and lines.

use crate::error::Result;
use crate::figure::label::{facet_title, width};
use crate::figure::scale::{MUTED, SERIES, number, ticks};
use crate::figure::scene::axis::{counted, entries, label_height};
use crate::figure::scene::items::{
    Area, AxisScale, Item, LINE, MONO, Marks, PAD, Panel, Scene, Series, Side, TICK, Text,
};
use crate::figure::scene::limits::expect;
use crate::markup::plain;
use crate::named::{Axis, NamedTensor, ValueKind};

/// How many of many lines are told apart.
const COLOURED: usize = 8;
/// The colour of the others.
const PALE: &str = "#8aa4c4";

impl Scene {
    pub(super) fn bars(&mut self, named: &NamedTensor) -> Result<()> {
        self.series(named, true)
    }

    pub(super) fn lines(&mut self, named: &NamedTensor) -> Result<()> {
        self.series(named, false)
    }

    fn series(&mut self, named: &NamedTensor, bars: bool) -> Result<()> {
        let axes = expect(named, 1..=2, if bars { 20_000 } else { 200_000 })?;
        let (groups, along) = if axes.len() == 2 { (Some(&axes[0]), &axes[1]) } else { (None, &axes[0]) };
        let values = named.to_vec()?;
        let (count, n) = (groups.map_or(1, Axis::len), along.len());
        let series = in_colours(&values, groups, n, bars);

        self.title(named.name());
        let (low, high) = match named.value_kind() {
            ValueKind::Score if !bars => (0.0, 1.0),
            value_kind => extent(&values, bars || value_kind != ValueKind::Signed),
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
        let middle = area.x + area.w / 2.0;
        self.text(plain(along.name()), (middle, bottom + 9.0), 12.0, MUTED, false, Side::Middle);

        let coloured: Vec<&Series> = series.iter().filter(|one| !one.muted).collect();
        let mut right = area.x + area.w + PAD;
        let mut legend = None;
        if count > 1 && !coloured.is_empty() {
            legend = Some((area.x + area.w + 16.0, area.y));
            let widest = coloured.iter().map(|one| width(&one.name).min(20)).max().unwrap_or(0);
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
}

/// The rows of numbers in their colours; of more than there are colours for, few or none stand out. What is pale lies below.
fn in_colours(values: &[f32], groups: Option<&Axis>, n: usize, bars: bool) -> Vec<Series> {
    let count = groups.map_or(1, Axis::len);
    let coloured = match (count <= SERIES.len(), bars) {
        (true, _) => (0..count).collect(),
        (false, true) => Vec::new(),
        (false, false) => farthest(values, n, COLOURED),
    };
    let series = values.chunks(n).enumerate().map(|(i, values)| {
        let rank = coloured.iter().position(|&one| one == i);
        Series {
            name: groups.map_or(String::new(), |axis| facet_title(axis, i)),
            values: values.to_vec(),
            color: rank.map_or(PALE, |rank| SERIES[rank]),
            dashed: !bars && rank.is_some_and(|rank| rank >= 5),
            muted: rank.is_none(),
        }
    });
    let mut series: Vec<Series> = series.collect();
    series.sort_by_key(|one| !one.muted);
    series
}

/// Of rows of `n` numbers, those `most` that go farthest from zero, in their order.
fn farthest(values: &[f32], n: usize, most: usize) -> Vec<usize> {
    let reach = |row: &[f32]| row.iter().filter(|v| v.is_finite()).fold(0f32, |far, v| far.max(v.abs()));
    let reaches: Vec<f32> = values.chunks(n).map(reach).collect();
    let mut order: Vec<usize> = (0..reaches.len()).collect();
    order.sort_by(|&a, &b| reaches[b].total_cmp(&reaches[a]));
    order.truncate(most);
    order.sort_unstable();
    order
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
