//! A scene as SVG text.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::figure::label::cut;
use crate::figure::scale::{CHOSEN, FRAME, INK, MASKED, MUTED, RULE, Scale, ticks};
use crate::figure::scene::{
    Area, CHIP_FONT, Cells, Grid, Item, Marks, Panel, Ribbons, Scene, Series, Side, TABLE_FONT, TABLE_LINE,
    TABLE_ROW, Text, Thumbnails, TokenChips, cell_text, pooled,
};
use crate::markup::{ACCENT, for_markup};

/// More cells than this on a side are pooled: they would be smaller than a pixel of the PNG.
const FINEST: usize = 512;

/// The whole scene as an SVG document.
pub(super) fn draw(scene: &Scene) -> String {
    let mut svg = Svg(String::new());
    let (w, h) = (scene.width, scene.height);
    svg.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n"
    ));
    for item in &scene.items {
        match item {
            Item::Text(text) => svg.text(text),
            Item::Panel(panel) => svg.panel(panel),
            Item::Thumbnails(thumbs) => svg.thumbs(thumbs),
            Item::TokenChips(chips) => svg.chips(chips),
            Item::Ribbons(ribbons) => svg.ribbons(ribbons),
            Item::Table(grid) => svg.table(grid),
        }
    }
    svg.put(format_args!("</svg>\n"));
    svg.0
}

struct Svg(String);

impl Svg {
    fn put(&mut self, text: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(text);
    }

    fn rect(&mut self, area: &Area, fill: &str, stroke: &str) {
        let Area { x, y, w, h } = area;
        self.put(format_args!(
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{fill}\" stroke=\"{stroke}\"/>\n"
        ));
    }

    fn line(&mut self, (x, y): (f64, f64), (to_x, to_y): (f64, f64), color: &str) {
        self.put(format_args!(
            "<path d=\"M{x:.2} {y:.2}L{to_x:.2} {to_y:.2}\" stroke=\"{color}\" fill=\"none\"/>\n"
        ));
    }

    fn text(&mut self, text: &Text) {
        let anchor = match text.side {
            Side::Start => "start",
            Side::Middle => "middle",
            Side::End => "end",
        };
        let (family, weight) = match text.mono {
            true => ("Hack, 'DejaVu Sans Mono', Menlo, Consolas, monospace", 400),
            false => ("Ubuntu, 'Helvetica Neue', Arial, sans-serif", 300),
        };
        let turn = if text.turned {
            format!(" transform=\"rotate(-90 {:.2} {:.2})\"", text.x, text.y)
        } else {
            String::new()
        };
        // The middle of a line of text lies about a third of its size above the baseline.
        self.put(format_args!(
            "<text x=\"{:.2}\" y=\"{:.2}\" dy=\"{:.2}\"{turn} font-family=\"{family}\" font-weight=\"{weight}\" \
             font-size=\"{}\" fill=\"{}\" text-anchor=\"{anchor}\" xml:space=\"preserve\">{}</text>\n",
            text.x,
            text.y,
            text.size * 0.35,
            text.size,
            text.color,
            for_markup(&text.text)
        ));
    }

    fn small_text(&mut self, text: &str, (x, y): (f64, f64), size: f64, color: &'static str, side: Side) {
        let text = Text { x, y, text: text.to_string(), size, color, mono: true, side, turned: false };
        self.text(&text);
    }

    fn panel(&mut self, panel: &Panel) {
        let area = &panel.area;
        match &panel.marks {
            Marks::Cells(cells) => {
                self.matrix(area, (cells.rows, cells.columns), &cells.values, &cells.scale);
                self.rect(area, "none", FRAME);
                if cells.written {
                    self.written(area, cells);
                }
                self.scale_bar(&cells.scale, &cells.bar);
            }
            Marks::Bars(series) => {
                self.rules(panel);
                self.bars(panel, series);
            }
            Marks::Lines(series) => {
                self.rules(panel);
                self.lines(panel, series);
            }
        }
        panel.tick_labels().iter().for_each(|label| self.text(label));
        if let (Some((x, y)), Marks::Bars(series) | Marks::Lines(series)) = (panel.legend, &panel.marks) {
            for (i, one) in series.iter().filter(|one| !one.muted).enumerate() {
                let y = y + 8.0 + 20.0 * i as f64;
                let dash = if one.dashed { " stroke-dasharray=\"5 3\"" } else { "" };
                let thick = if matches!(panel.marks, Marks::Bars(_)) { 10 } else { 2 };
                self.put(format_args!(
                    "<path d=\"M{x:.2} {y:.2}h18\" stroke=\"{}\" stroke-width=\"{thick}\"{dash} fill=\"none\"/>\n",
                    one.color
                ));
                self.small_text(&cut(&one.name, 20), (x + 26.0, y), 12.0, INK, Side::Start);
            }
        }
    }

    /// Cells of one colour are one path: far smaller than a rectangle each, and without seams.
    fn matrix(&mut self, area: &Area, (rows, columns): (usize, usize), values: &[f32], scale: &Scale) {
        let pool;
        let (values, down, across) = if rows > FINEST || columns > FINEST {
            pool = pooled(values, rows, columns, FINEST);
            (pool.as_slice(), rows.min(FINEST), columns.min(FINEST))
        } else {
            (values, rows, columns)
        };
        let (w, h) = (area.w / across as f64, area.h / down as f64);
        let mut paths: BTreeMap<String, String> = BTreeMap::new();
        for (row, line) in values.chunks(across).enumerate() {
            let mut from = 0;
            while from < line.len() {
                let color = scale.color(line[from]);
                let run = line[from..].iter().take_while(|v| scale.color(**v) == color).count();
                let (x, y) = (area.x + from as f64 * w, area.y + row as f64 * h);
                let path = paths.entry(color).or_default();
                let _ = write!(path, "M{x:.2} {y:.2}h{:.2}v{h:.2}h-{:.2}z", run as f64 * w, run as f64 * w);
                from += run;
            }
        }
        self.put(format_args!("<g shape-rendering=\"crispEdges\">\n"));
        for (color, path) in paths {
            self.put(format_args!("<path fill=\"{color}\" d=\"{path}\"/>\n"));
        }
        self.put(format_args!("</g>\n"));
    }

    fn written(&mut self, area: &Area, cells: &Cells) {
        let (w, h) = (area.w / cells.columns as f64, area.h / cells.rows as f64);
        for i in 0..cells.values.len() {
            let (row, column) = ((i / cells.columns) as f64, (i % cells.columns) as f64);
            let text = cell_text(cells, i);
            if !text.is_empty() {
                let at = (area.x + (column + 0.5) * w, area.y + (row + 0.5) * h);
                self.small_text(&text, at, 10.0, cells.scale.ink_on(cells.values[i]), Side::Middle);
            }
        }
    }

    fn scale_bar(&mut self, scale: &Scale, bar: &Area) {
        let steps = 64;
        let values: Vec<f32> = (0..steps)
            .map(|i| (scale.high - (scale.high - scale.low) * f64::from(i) / f64::from(steps - 1)) as f32)
            .collect();
        self.matrix(bar, (values.len(), 1), &values, scale);
        for (at, text) in ticks(scale.low, scale.high, 4) {
            let y = bar.y + (scale.high - at) / (scale.high - scale.low) * bar.h;
            self.small_text(&text, (bar.x + bar.w + 5.0, y), 10.0, INK, Side::Start);
        }
    }

    fn rules(&mut self, panel: &Panel) {
        let area = &panel.area;
        for (at, _) in &panel.y.ticks {
            let y = area.y + (1.0 - panel.y.place(*at)) * area.h;
            let color = if *at == 0.0 { "#b8c0c9" } else { RULE };
            self.line((area.x, y), (area.x + area.w, y), color);
        }
    }

    fn bars(&mut self, panel: &Panel, series: &[Series]) {
        let area = &panel.area;
        let n = series.iter().map(|s| s.values.len()).max().unwrap_or(1) as f64;
        let group = area.w / n * 0.8;
        let each = group / series.len() as f64;
        let y = |v: f64| area.y + (1.0 - panel.y.place(v)) * area.h;
        for (s, one) in series.iter().enumerate() {
            for (i, value) in one.values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
                let x = area.x + area.w / n * (i as f64 + 0.5) - group / 2.0 + s as f64 * each;
                let (a, b) = (y(0.0), y(f64::from(*value)));
                self.rect(&Area { x, y: a.min(b), w: each, h: (a - b).abs() }, one.color, "none");
            }
        }
    }

    fn lines(&mut self, panel: &Panel, series: &[Series]) {
        let area = &panel.area;
        for one in series {
            let mut path = String::new();
            let mut dots = String::new();
            let mut broken = true;
            let width = if one.muted { 1.0 } else { 1.8 };
            for (i, value) in one.values.iter().enumerate() {
                if !value.is_finite() {
                    broken = true;
                    continue;
                }
                let x = area.x + panel.x.place(i as f64) * area.w;
                let y = area.y + (1.0 - panel.y.place(f64::from(*value))) * area.h;
                let _ = write!(path, "{}{x:.2} {y:.2}", if broken { 'M' } else { 'L' });
                if one.values.len() <= 48 && !one.muted {
                    let _ = writeln!(
                        dots,
                        "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"2.4\" fill=\"{}\"/>",
                        one.color
                    );
                }
                broken = false;
            }
            let dash = if one.dashed { " stroke-dasharray=\"5 3\"" } else { "" };
            let opacity = if one.muted { 0.6 } else { 1.0 };
            self.put(format_args!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-opacity=\"{opacity}\" \
                 stroke-linejoin=\"round\"{dash}/>\n{dots}",
                one.color
            ));
        }
    }

    fn thumbs(&mut self, thumbs: &Thumbnails) {
        let scale = match &thumbs.enlarged.marks {
            Marks::Cells(cells) => &cells.scale,
            _ => return,
        };
        for (i, small) in thumbs.small.iter().enumerate() {
            let (x, y) = thumbs.tiles.corner(i);
            let tile = Area { x, y, w: thumbs.tiles.tile.0, h: thumbs.tiles.tile.1 };
            self.matrix(&tile, thumbs.small_shape, small, scale);
            self.rect(&tile, "none", FRAME);
        }
        let (x, y) = thumbs.tiles.corner(thumbs.chosen);
        self.put(format_args!(
            "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"none\" stroke=\"{CHOSEN}\" \
             stroke-width=\"2\"/>\n",
            x - 2.0,
            y - 2.0,
            thumbs.tiles.tile.0 + 4.0,
            thumbs.tiles.tile.1 + 4.0
        ));
        let name = thumbs.titles.get(thumbs.chosen).map_or("", String::as_str);
        self.small_text(&cut(name, 40), thumbs.heading, 13.0, INK, Side::Start);
        self.panel(&thumbs.enlarged);
    }

    fn chips(&mut self, chips: &TokenChips) {
        for chip in &chips.pieces {
            let Area { x, y, w, h } = chip.area;
            let fill = chips.scale.color(chip.value);
            let edge = if chips.scale.place(chip.value).is_some() { &fill } else { MASKED };
            self.put(format_args!(
                "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" rx=\"2\" fill=\"{fill}\" stroke=\"{edge}\" \
                 stroke-width=\"0.5\"/>\n"
            ));
            self.small_text(
                &chip.text,
                (x + w / 2.0, y + h / 2.0),
                CHIP_FONT,
                chips.scale.ink_on(chip.value),
                Side::Middle,
            );
        }
        self.scale_bar(&chips.scale, &chips.bar);
    }

    fn ribbons(&mut self, ribbons: &Ribbons) {
        for ribbon in &ribbons.all {
            let [(x, y), (ax, ay), (bx, by), (to_x, to_y)] = ribbons.bend(ribbon);
            self.put(format_args!(
                "<path d=\"M{x:.2} {y:.2}C{ax:.2} {ay:.2} {bx:.2} {by:.2} {to_x:.2} {to_y:.2}\" fill=\"none\" stroke=\"{}\" \
                 stroke-width=\"{:.2}\" stroke-opacity=\"0.85\"/>\n",
                ribbons.scale.color(ribbon.value),
                ribbon.width
            ));
        }
        if let Some(bar) = &ribbons.bar {
            self.scale_bar(&ribbons.scale, bar);
        }
    }

    fn table(&mut self, grid: &Grid) {
        let area = &grid.area;
        let mut x = area.x;
        for (head, column) in grid.head.iter().zip(&grid.columns) {
            let (at, side) =
                if column.right { (x + column.width - 10.0, Side::End) } else { (x + 10.0, Side::Start) };
            self.small_text(head, (at, area.y + TABLE_ROW / 2.0), TABLE_FONT, MUTED, side);
            let mut y = area.y + TABLE_ROW;
            for (lines, height) in column.cells.iter().zip(&grid.rows) {
                for (i, line) in lines.iter().enumerate() {
                    let down = TABLE_ROW / 2.0 + i as f64 * TABLE_LINE;
                    self.small_text(line, (at, y + down), TABLE_FONT, INK, side);
                }
                y += height;
            }
            x += column.width;
        }
        let mut y = area.y + TABLE_ROW;
        self.line((area.x, y), (area.x + area.w, y), ACCENT);
        for height in &grid.rows {
            y += height;
            self.line((area.x, y), (area.x + area.w, y), RULE);
        }
    }
}
