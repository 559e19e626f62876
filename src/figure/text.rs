//! Views as text, for terminals and for whatever shows nothing else.

use crate::error::Result;
use crate::figure::label::{cell, cut, facet_title, make_visible, of_tokens, pad, quote, width, wrap};
use crate::figure::scale::{PIXELS, Scale, number, short};
use crate::figure::scene::{most_telling, pooled};
use crate::markup::plain;
use crate::named::{Axis, NamedTensor};
use crate::view::{Table, View};

const WIDE: usize = 100;
const ROWS: usize = 48;

/// The views one below the other.
pub(super) fn write(views: &[View]) -> Result<String> {
    let blocks: Result<Vec<String>> = views.iter().map(block).collect();
    Ok(blocks?.join("\n"))
}

fn block(view: &View) -> Result<String> {
    Ok(match view {
        View::Heatmap(named) => {
            let (rows, columns) = (&named.axes()[0], &named.axes()[1]);
            let values = named.to_vec()?;
            let scale = Scale::of_matrix(&values, named.value_kind());
            head(named) + &legend_of(matrix(&values, rows, columns, &scale), &scale)
        }
        View::SmallMultiples { values, .. } => multiples(values)?,
        View::Bars(named) => head(named) + &bars(named)?,
        View::Lines(named) => head(named) + &lines(named)?,
        View::Tokens(named) => head(named) + &tokens(named)?,
        View::Ribbons { widths, effects } => head(widths) + &ribbons(widths, effects.as_ref())?,
        View::Table(table) => format!("{}\n{}", plain(table.title()), self::table(table)),
    })
}

fn head(named: &NamedTensor) -> String {
    let axes: Vec<String> = named.axes().iter().map(|a| format!("{} {}", plain(a.name()), a.len())).collect();
    format!("{} [{}]\n", plain(named.name()), axes.join(", "))
}

fn label(axis: &Axis, index: usize, columns: usize) -> String {
    axis.labels().map_or_else(|| index.to_string(), |labels| cut(&make_visible(&labels[index]), columns))
}

/// Numbers in columns where they fit, shades where they do not, and of many the largest of their neighbours.
fn matrix(values: &[f32], rows: &Axis, columns: &Axis, scale: &Scale) -> String {
    if values.len() > PIXELS {
        return overview(values, rows, columns, scale);
    }
    let side = (0..rows.len()).map(|i| width(&label(rows, i, 14))).max().unwrap_or(0);
    let row = |i: usize| pad(&label(rows, i, 14), side, true);
    let shown_rows = rows.len().min(ROWS);
    let wide = (0..columns.len().min(13))
        .map(|i| width(&label(columns, i, 9)))
        .chain(values.iter().take(4096).map(|v| width(&short(*v, scale.high))))
        .max()
        .unwrap_or(1);
    let mut out = String::new();
    if columns.len() <= 12 && side + columns.len() * (wide + 1) <= WIDE {
        let heads: Vec<String> = (0..columns.len()).map(|i| pad(&label(columns, i, 9), wide, true)).collect();
        out += &format!("{} {}\n", " ".repeat(side), heads.join(" "));
        for (i, line) in values.chunks(columns.len()).take(shown_rows).enumerate() {
            let cells: Vec<String> = line.iter().map(|v| pad(&short(*v, scale.high), wide, true)).collect();
            out += &format!("{} {}\n", row(i), cells.join(" "));
        }
    } else {
        let shown = columns.len().min(WIDE - side.min(WIDE / 2) - 2);
        for (i, line) in values.chunks(columns.len()).take(shown_rows).enumerate() {
            let cells: String = line.iter().take(shown).map(|v| shade(*v, scale)).collect();
            out += &format!("{} │{cells}│\n", row(i));
        }
        if shown < columns.len() {
            out += &format!("{} more columns ({})\n", columns.len() - shown, plain(columns.name()));
        }
    }
    if shown_rows < rows.len() {
        out += &format!("{} more rows ({})\n", rows.len() - shown_rows, plain(rows.name()));
    }
    out
}

/// A matrix as so few marks that all of it is seen.
fn overview(values: &[f32], rows: &Axis, columns: &Axis, scale: &Scale) -> String {
    let (down, across) = (rows.len().min(ROWS), columns.len().min(ROWS));
    let marks = pooled(values, rows.len(), columns.len(), ROWS);
    // Where a mark's first row is.
    let row = |i: usize| label(rows, (i * rows.len()).div_ceil(down), 14);
    let side = (0..down).map(|i| width(&row(i))).max().unwrap_or(0);
    let mut out = String::new();
    for (i, line) in marks.chunks(across).enumerate() {
        let cells: String = line.iter().map(|v| shade(*v, scale)).collect();
        out += &format!("{} │{cells}│\n", pad(&row(i), side, true));
    }
    let (a, b) = (rows.len().div_ceil(down), columns.len().div_ceil(across));
    out + &format!(
        "each mark is the farthest from 0 of {a} by {b} ({} by {})\n",
        plain(rows.name()),
        plain(columns.name())
    )
}

const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
/// For numbers below zero, which shades alone would not tell from those above.
const BELOW: [char; 5] = [' ', '·', '-', '=', '≡'];

fn shade(value: f32, scale: &Scale) -> char {
    let Some(place) = scale.place(value) else { return '×' };
    let (part, shades) = match scale.diverging() {
        false => (place, SHADES),
        true if place < 0.5 => (1.0 - 2.0 * place, BELOW),
        true => (2.0 * place - 1.0, SHADES),
    };
    shades[(part * 4.0).round() as usize]
}

/// Matrices, followed by what their shades mean where they have any.
fn legend_of(matrices: String, scale: &Scale) -> String {
    if matrices.contains('│') { matrices + &legend(scale) } else { matrices }
}

fn legend(scale: &Scale) -> String {
    let (low, high) = (number(scale.low as f32), number(scale.high as f32));
    match scale.diverging() {
        false => format!("blank {low}  ░▒▓  █ {high}  × not finite\n"),
        true => format!("≡ {low}  =-·  blank 0  ░▒▓  █ {high}  × not finite\n"),
    }
}

fn multiples(named: &NamedTensor) -> Result<String> {
    const WHOLE: usize = 4;
    const LISTED: usize = 48;
    let (facets, rows, columns) = (&named.axes()[0], &named.axes()[1], &named.axes()[2]);
    let values = named.to_vec()?;
    let scale = Scale::of(&values, named.value_kind());
    let size = (rows.len() * columns.len()).max(1);
    let matrices: Vec<&[f32]> = values.chunks(size).collect();
    let telling = most_telling(&matrices, columns.len());
    let mut order: Vec<usize> = (0..facets.len()).collect();
    // The most telling one comes first, whichever a picture enlarges.
    order.retain(|i| *i != telling);
    order.insert(0, telling);
    let whole = if size <= 400 { WHOLE } else { 1 };
    let mut out = head(named);
    for &i in order.iter().take(whole) {
        out += &format!("{}\n{}", facet_title(facets, i), matrix(matrices[i], rows, columns, &scale));
    }
    let mut out = legend_of(out, &scale);
    let rest: Vec<String> = order.iter().skip(whole).take(LISTED).map(|&i| facet_title(facets, i)).collect();
    if !rest.is_empty() {
        let more = order.len().saturating_sub(whole + LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out += &format!("not shown: {}{more}\n", rest.join(" "));
    }
    Ok(out)
}

fn bars(named: &NamedTensor) -> Result<String> {
    const LONG: f64 = 40.0;
    let axes = named.axes();
    let along = &axes[axes.len() - 1];
    let values = named.to_vec()?;
    let largest = values.iter().filter(|v| v.is_finite()).fold(0.0_f32, |most, v| most.max(v.abs()));
    let side = (0..along.len()).map(|i| width(&label(along, i, 20))).max().unwrap_or(0);
    let groups = if axes.len() == 2 { axes[0].len() } else { 1 };
    let names: Vec<String> =
        (0..groups).map(|g| if axes.len() == 2 { facet_title(&axes[0], g) } else { String::new() }).collect();
    let name_width = names.iter().map(|n| width(n)).max().unwrap_or(0);
    let mut out = String::new();
    let shown = along.len().min((2 * ROWS / groups).max(1));
    for i in 0..shown {
        for (g, name) in names.iter().enumerate() {
            let value = values[g * along.len() + i];
            let label = if g == 0 { label(along, i, 20) } else { String::new() };
            let part =
                if value.is_finite() && largest > 0.0 { f64::from(value.abs() / largest) } else { 0.0 };
            let eighths = (part * LONG * 8.0).round() as usize;
            let mut bar = "█".repeat(eighths / 8);
            if !eighths.is_multiple_of(8) {
                bar.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
            }
            let gap = if name_width > 0 { " " } else { "" };
            let sign = if value < 0.0 && value.is_finite() { '-' } else { ' ' };
            let (label, name) = (pad(&label, side, true), pad(name, name_width, false));
            let number = pad(&number(value), 10, true);
            out += format!("{label}{gap}{name} {number} {sign}{bar}").trim_end();
            out.push('\n');
        }
    }
    if shown < along.len() {
        out += &format!("{} more ({})\n", along.len() - shown, plain(along.name()));
    }
    Ok(out)
}

/// For each word of the target the word of the source with the widest ribbon.
fn ribbons(widths: &NamedTensor, effects: Option<&NamedTensor>) -> Result<String> {
    let (targets, sources) = (&widths.axes()[0], &widths.axes()[1]);
    let (values, effects) = (widths.to_vec()?, effects.map(NamedTensor::to_vec).transpose()?);
    let side = (0..targets.len()).map(|i| width(&label(targets, i, 20))).max().unwrap_or(0);
    let mut out = String::new();
    for (target, row) in values.chunks(sources.len().max(1)).enumerate() {
        let Some(best) = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])) else { continue };
        let effect = effects.as_ref().map_or(String::new(), |all| {
            format!(", {} nats without it", number(all[target * sources.len() + best]))
        });
        let (target, source) = (pad(&label(targets, target, 20), side, true), label(sources, best, 20));
        out += &format!("{target} ← {source} {}{effect}\n", number(row[best]));
    }
    Ok(out)
}

/// Each line as one row of eighths, all to one scale.
fn lines(named: &NamedTensor) -> Result<String> {
    const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let axes = named.axes();
    let along = &axes[axes.len() - 1];
    let values = named.to_vec()?;
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max));
    let groups = if axes.len() == 2 { axes[0].len() } else { 1 };
    let names: Vec<String> =
        (0..groups).map(|g| if axes.len() == 2 { facet_title(&axes[0], g) } else { String::new() }).collect();
    let side = names.iter().take(ROWS).map(|n| width(&cut(n, 20))).max().unwrap_or(0);
    let mut out = String::new();
    for (name, line) in names.iter().zip(values.chunks(along.len())).take(ROWS) {
        let per = line.len().div_ceil(WIDE - 28).max(1);
        let marks: String = (line.chunks(per))
            .map(|part| {
                let finite: Vec<f32> = part.iter().copied().filter(|v| v.is_finite()).collect();
                if finite.is_empty() {
                    return '×';
                }
                let mean = finite.iter().sum::<f32>() / finite.len() as f32;
                let place = if high > low { (mean - low) / (high - low) } else { 0.5 };
                EIGHTHS[((place * 7.0).round() as usize).min(7)]
            })
            .collect();
        let ends = format!("{} → {}", number(line[0]), number(line[line.len() - 1]));
        out += &format!("{} {marks}  {ends}\n", pad(&cut(name, 20), side, true));
    }
    if groups > ROWS {
        out += &format!("{} more lines\n", groups - ROWS);
    }
    if low <= high {
        out += &format!("▁ {}  █ {}\n", number(low), number(high));
    }
    if let (Some(_), true) = (along.labels(), along.len() <= 24) {
        let labels: Vec<String> = (0..along.len()).map(|i| label(along, i, 12)).collect();
        out += &format!("{}: {}\n", plain(along.name()), labels.join(" "));
    }
    Ok(out)
}

fn tokens(named: &NamedTensor) -> Result<String> {
    const MOST: usize = 512;
    let axis = &named.axes()[0];
    let values = named.to_vec()?;
    let scale = Scale::of(&values, named.value_kind());
    let (mut out, mut used) = (String::new(), 0);
    for (i, value) in values.iter().enumerate().take(MOST) {
        let text = axis.labels().map_or_else(|| i.to_string(), |labels| cut(&quote(&labels[i]), 40));
        let text = if of_tokens(axis) { text } else { label(axis, i, 40) };
        let mark = shade(*value, &scale).to_string();
        let piece = format!("{}{text} {}", mark.trim(), short(*value, scale.high));
        if used > 0 && used + width(&piece) + 3 > WIDE {
            out.push('\n');
            used = 0;
        }
        used += width(&piece) + 3;
        out += &format!("{piece}   ");
    }
    let mut out: String = out.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if values.len() > MOST {
        out += &format!("{} more\n", values.len() - MOST);
    }
    Ok(out + &legend(&scale))
}

fn table(table: &Table) -> String {
    const MOST: usize = 200;
    const WIDEST: usize = 60;
    let shown = &table.rows()[..table.rows().len().min(MOST)];
    let rows: Vec<Vec<Vec<String>>> =
        shown.iter().map(|row| row.iter().map(|text| wrap(&cell(text), WIDEST)).collect()).collect();
    let columns: Vec<(String, usize, bool)> = (table.columns().iter().enumerate())
        .map(|(i, head)| {
            let head = cut(&plain(head), WIDEST);
            let lines = rows.iter().flat_map(|row| &row[i]).map(|line| width(line.trim_end()));
            let most = lines.chain([width(&head)]).max().unwrap_or(0);
            let right = !shown.is_empty()
                && shown.iter().all(|row| row[i].is_empty() || row[i].parse::<f64>().is_ok());
            (head, most, right)
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&columns).map(|(cell, (_, wide, right))| pad(cell, *wide, *right));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut out = line(columns.iter().map(|(head, _, _)| head.as_str()).collect());
    let rules: Vec<String> = columns.iter().map(|(_, wide, _)| "─".repeat(*wide)).collect();
    out += &format!("{}\n", rules.join("  "));
    for row in &rows {
        for i in 0..row.iter().map(Vec::len).max().unwrap_or(0) {
            out += &line(row.iter().map(|lines| lines.get(i).map_or("", |line| line.trim_end())).collect());
        }
    }
    if table.rows().len() > shown.len() {
        out += &format!("{} more rows\n", table.rows().len() - shown.len());
    }
    out
}
