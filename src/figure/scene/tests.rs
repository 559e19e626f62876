//! Where each item of each kind of view stands, as a list that can be read.

use std::fmt::Write;

use super::*;
use crate::figure::scale::Scale;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::Table;

fn words(count: usize) -> Vec<String> {
    ["<|endoftext|>", " the", " cat", " sat", "\n", "日本", " unpronounceable", ""]
        .into_iter()
        .cycle()
        .take(count)
        .map(String::from)
        .collect()
}

fn steps(count: usize) -> Vec<String> {
    (0..count).map(|i| (250 * i).to_string()).collect()
}

fn heads(layers: usize, each: usize) -> Vec<String> {
    (0..layers * each).map(|i| format!("L{}H{}", i / each, i % each)).collect()
}

/// Numbers from -1 to 1 that no row or column repeats.
fn signed(axes: Vec<Axis>) -> NamedTensor {
    let count: usize = axes.iter().map(Axis::len).product();
    NamedTensor::from_vec("numbers", (0..count).map(|i| (i as f32 * 0.7).sin()).collect(), axes).unwrap()
}

/// Each row even over what is not above the diagonal.
fn pattern(mut axes: Vec<Axis>, tokens: Vec<String>) -> NamedTensor {
    let n = tokens.len();
    axes.extend(["query", "key"].map(|name| Axis::labelled(name, tokens.clone())));
    let count: usize = axes.iter().map(Axis::len).product();
    let value = |i: usize| match (i / n % n, i % n) {
        (query, key) if key > query => 0.0,
        (query, _) => 1.0 / (query + 1) as f32,
    };
    let values = (0..count).map(value).collect();
    NamedTensor::from_vec("pattern", values, axes).unwrap().with_value_kind(ValueKind::Probability)
}

/// Each word of a target with all it has at one word of its source, and a little at the next.
fn links(targets: usize, sources: usize) -> View {
    let axes = || vec![Axis::labelled("target", words(targets)), Axis::labelled("source", words(sources))];
    let of = |name: &str, value: &dyn Fn(usize, usize) -> f32| {
        let values = (0..targets * sources).map(|at| value(at / sources, at % sources)).collect();
        NamedTensor::from_vec(name, values, axes()).unwrap()
    };
    let widths = of("attention", &|target, source| match source {
        source if source == target % sources => 0.9,
        source if source == (target + 1) % sources => 0.1,
        _ => 0.0,
    });
    let effects = of("nats lost", &|target, source| if target == source { 3.0 } else { -0.5 });
    View::Ribbons { widths, effects: Some(effects.with_value_kind(ValueKind::Signed)) }
}

#[test]
fn layouts() {
    let labelled = Axis::labelled;
    let plain = Axis::unlabelled;
    let multiples = |values, selected| View::SmallMultiples { values, selected };
    let mut broken = signed(vec![labelled("token", words(5))]).to_vec().unwrap();
    broken[1..4].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let broken = NamedTensor::from_vec("not finite", broken, vec![labelled("token", words(5))]).unwrap();
    let losses = signed(vec![labelled("position", words(9))]).with_value_kind(ValueKind::Magnitude);
    let mut table = Table::new("a table", ["head", "score", "text"]);
    let long = "words that are many more than a column of a table has room for, and so go on below";
    table.push(["L0H1", "0.5", long]);
    (0..201).for_each(|i| table.push([format!("L{i}H0"), i.to_string()]));

    let views: Vec<(&str, Vec<View>)> = vec![
        ("a matrix with its numbers", vec![View::Heatmap(pattern(vec![], words(5)))]),
        (
            "a matrix of other numbers of rows and columns",
            vec![View::Heatmap(signed(vec![plain("layer", 3), plain("neuron", 400)]))],
        ),
        ("a matrix as pixels", vec![View::Heatmap(pattern(vec![], words(300)))]),
        (
            "few matrices, the last enlarged",
            vec![multiples(pattern(vec![plain("head", 6)], words(5)), Some(5))],
        ),
        (
            "many matrices",
            vec![multiples(
                signed(vec![labelled("head", heads(5, 4)), plain("query", 40), plain("key", 20)]),
                None,
            )],
        ),
        ("bars, some not finite", vec![View::Bars(broken)]),
        ("groups of bars", vec![View::Bars(signed(vec![labelled("run", words(3)), plain("layer", 4)]))]),
        ("more groups than colours", vec![View::Bars(signed(vec![plain("head", 12), plain("layer", 2)]))]),
        ("a line over steps", vec![View::Lines(signed(vec![labelled("step", steps(100))]))]),
        (
            "more lines than colours",
            vec![View::Lines(signed(vec![plain("layer", 12), plain("position", 8)]))],
        ),
        ("tokens", vec![View::Tokens(losses.clone())]),
        ("ribbons between rows", vec![links(4, 3)]),
        ("ribbons between columns", vec![links(30, 28)]),
        ("a table", vec![View::Table(table)]),
        (
            "one below the other",
            vec![View::Tokens(losses), View::Lines(signed(vec![plain("layer", 2), plain("position", 3)]))],
        ),
    ];
    let mut out = String::new();
    for (what, views) in views {
        let _ = writeln!(out, "== {what}\n{}", list(&lay_out(&views).unwrap()));
    }
    insta::with_settings!({
        snapshot_path => "../../../tests/it/snapshots", prepend_module_to_snapshot => false, omit_expression => true,
    }, { insta::assert_snapshot!("layouts", out) });
}

fn list(scene: &Scene) -> String {
    let mut out = format!("figure {} by {}\n", short(scene.width), short(scene.height));
    for item in &scene.items {
        out += &match item {
            Item::Text(text) => self::text(text),
            Item::Panel(panel) => self::panel(panel),
            Item::Thumbnails(thumbs) => thumbnails(thumbs),
            Item::TokenChips(chips) => token_chips(chips),
            Item::Ribbons(ribbons) => self::ribbons(ribbons),
            Item::Table(grid) => self::grid(grid),
        };
    }
    out
}

fn ribbons(ribbons: &Ribbons) -> String {
    let mut out = format!("ribbons {}\n", area(&ribbons.area));
    for own in &ribbons.all {
        let [from, .., to] = ribbons.bend(own);
        let ends = [from.0, from.1, to.0, to.1].map(short).join(" ");
        out +=
            &format!("  {ends}, {} wide, {}: {}\n", short(own.width), short(f64::from(own.value)), own.hover);
    }
    out
}

fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map(String::from).unwrap_or(text)
}

fn area(area: &Area) -> String {
    format!("at {} {}, {} by {}", short(area.x), short(area.y), short(area.w), short(area.h))
}

fn scale(scale: &Scale, bar: &Area) -> String {
    format!("colours {} from {} to {}, bar {}", scale.title, scale.low, scale.high, area(bar))
}

fn text(text: &Text) -> String {
    let Text { x, y, text, size, color, mono, side, turned } = text;
    let (font, turned) = (if *mono { "mono" } else { "sans" }, if *turned { ", turned" } else { "" });
    format!("text at {} {}, {side:?}{turned}, {font} {size} {color}: {text:?}\n", short(*x), short(*y))
}

fn axis(name: &str, axis: &AxisScale) -> String {
    let ticks: Vec<String> = axis.ticks.iter().map(|(at, text)| format!("{} {text:?}", short(*at))).collect();
    let entries =
        axis.entries.as_ref().map(|entries| (entries.len(), entries.last().cloned().unwrap_or_default()));
    let entries = entries.map_or("numbers".into(), |(count, last)| format!("{count} entries to {last:?}"));
    let turned = if axis.turned { ", labels turned" } else { "" };
    let (low, high) = (short(axis.low), short(axis.high));
    format!("  {name} {:?}, {entries}, {low} to {high}{turned}: {}\n", axis.name, ticks.join(", "))
}

fn panel(panel: &Panel) -> String {
    let mut out = format!("panel {}\n{}{}", area(&panel.area), axis("x", &panel.x), axis("y", &panel.y));
    if let Some((x, y)) = panel.legend {
        let _ = writeln!(out, "  legend at {} {}", short(x), short(y));
    }
    match &panel.marks {
        Marks::Cells(cells) => {
            let Cells { rows, columns, written, lower, short, pixels, bar, .. } = cells;
            let is = [("written", written), ("lower", lower), ("short", short), ("pixels", pixels)];
            let is: Vec<&str> = is.into_iter().filter(|(_, is)| **is).map(|(name, _)| name).collect();
            let _ =
                writeln!(out, "  {rows} by {columns} cells [{}], {}", is.join(" "), scale(&cells.scale, bar));
        }
        Marks::Bars(series) => series.iter().for_each(|one| out += &self::series("bars", one)),
        Marks::Lines(series) => series.iter().for_each(|one| out += &self::series("line", one)),
    }
    out
}

fn series(what: &str, series: &Series) -> String {
    let Series { name, values, color, dashed, muted } = series;
    let (dashed, muted) = (if *dashed { ", dashed" } else { "" }, if *muted { ", muted" } else { "" });
    format!("  {what} {name:?} of {}, {color}{dashed}{muted}\n", values.len())
}

fn thumbnails(thumbs: &Thumbnails) -> String {
    let tiles = &thumbs.tiles;
    let pair = |(x, y): (f64, f64)| format!("{} {}", short(x), short(y));
    let last = thumbs.titles.len() - 1;
    format!(
        "thumbnails {}, {} in rows of {}, each {} of {:?} cells, a step {}, the last {:?} at {}\n  {} enlarged, heading at {}\n{}",
        area(&tiles.area),
        thumbs.small.len(),
        tiles.across,
        pair(tiles.tile),
        thumbs.small_shape,
        pair(tiles.step),
        thumbs.titles[last],
        pair(tiles.corner(last)),
        thumbs.titles[thumbs.chosen],
        pair(thumbs.heading),
        panel(&thumbs.enlarged)
    )
}

fn token_chips(chips: &TokenChips) -> String {
    let mut out = format!("tokens {}, {}\n", area(&chips.area), scale(&chips.scale, &chips.bar));
    for Chip { area, text, hover, .. } in &chips.pieces {
        let _ = writeln!(out, "  {text:?} {}, hover {hover:?}", self::area(area));
    }
    out
}

fn grid(grid: &Grid) -> String {
    let mut out = format!("table {}, rows {:?}\n", area(&grid.area), &grid.rows[..2]);
    for (head, column) in grid.head.iter().zip(&grid.columns) {
        let right = if column.right { ", to the right" } else { "" };
        let width = short(column.width);
        let (rows, first) = (column.cells.len(), &column.cells[0]);
        let _ = writeln!(out, "  column {head:?}, {width} wide{right}, {rows} rows, the first {first:?}");
    }
    out
}
