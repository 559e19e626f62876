//! The axes of panels, with as many ticks as there is room for.

use crate::figure::label::{cut, entry, make_visible, width};
use crate::figure::scale::ticks;
use crate::figure::scene::items::{AxisScale, MONO, TICK};
use crate::markup::plain;
use crate::named::Axis;

/// From the middle of one label to the next below it.
const TICK_GAP: f64 = 14.0;

/// The ruler of entries that are labelled by rising numbers, such as steps: its ticks are at round ones.
pub(super) fn counted(axis: &Axis, ruler: AxisScale, room: f64) -> AxisScale {
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
pub(super) fn entries(axis: &Axis, room: f64, down: bool, margin: f64) -> AxisScale {
    let n = axis.len();
    // Among so many, a label does not say where it is.
    let far = n > FAR;
    // Whole texts often differ in their last words alone.
    let most = if axis.name() == "text" { 40 } else { 18 };
    let label = |i: usize| match axis.labels() {
        Some(labels) if far => format!("{} {i}", cut(&make_visible(&labels[i]), 12)),
        Some(labels) => cut(&make_visible(&labels[i]), most),
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

pub(super) fn label_width(ruler: &AxisScale) -> f64 {
    ruler.ticks.iter().map(|(_, text)| width(text)).max().unwrap_or(0) as f64 * MONO * TICK + 6.0
}

pub(super) fn label_height(ruler: &AxisScale) -> f64 {
    if ruler.turned { label_width(ruler) + 2.0 } else { 20.0 }
}
