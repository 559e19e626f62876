//! A scene as Plotly's JSON, where axes can be zoomed, cells hovered and heads chosen.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plotly::color::Color;
use plotly::common::{
    Anchor, ColorBar, ColorScale, ColorScaleElement, DashType, Font, HoverInfo, Label, Line, Marker,
    MarkerSymbol, Mode, Orientation, ThicknessMode, TickMode,
};
use plotly::configuration::{DisplayModeBar, ModeBarButtonName};
use plotly::layout::update_menu::{Button, ButtonMethod, UpdateMenu, UpdateMenuDirection};
use plotly::layout::{
    Annotation, Axis, BarMode, DragMode, HoverMode, Legend, Margin, Shape, ShapeLayer, ShapeLine, ShapeType,
};
use plotly::{Bar, Configuration, HeatMap, Layout, Scatter};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::figure::label::cut;
use crate::figure::pixels;
use crate::figure::scale::{CHOSEN, FRAME, INK, MASKED, MUTED, RULE, Scale, number, rounded, ticks};
use crate::figure::scene::{
    Area, AxisScale, CHIP_FONT, Cells, Chip, Grid, Item, Marks, Panel, Ribbons, Scene, Series, Side,
    TABLE_FONT, TABLE_ROW, Text, Thumbnails, TokenChips, cell_text,
};
use crate::markup::for_plotly;

const MONO: &str = "Hack, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
const SANS: &str = "Ubuntu, 'Helvetica Neue', Arial, sans-serif";

/// Above this many entries Plotly takes a tick's text for its neighbour's, so that the hover says the index.
const NAMED: usize = 4000;

/// The scene as the object that `application/vnd.plotly.v1+json` carries.
pub(super) fn draw(scene: &Scene) -> Result<Value> {
    let mut plot = Plot { size: (scene.width, scene.height), ..Plot::default() };
    for item in &scene.items {
        match item {
            Item::Text(text) => plot.text(text),
            Item::Panel(panel) => {
                plot.panel(panel, &[])?;
            }
            Item::Thumbnails(thumbs) => plot.thumbs(thumbs)?,
            Item::TokenChips(chips) => plot.chips(chips)?,
            Item::Ribbons(ribbons) => plot.ribbons(ribbons)?,
            Item::Table(grid) => plot.table(grid)?,
        }
    }
    plot.finish()
}

#[derive(Default)]
struct Plot {
    size: (f64, f64),
    traces: Vec<Value>,
    /// The axes and legends, which may be more than the `Layout` type has fields for.
    numbered: Map<String, Value>,
    annotations: Vec<Annotation>,
    shapes: Vec<Shape>,
    menus: Vec<UpdateMenu>,
    pairs: usize,
    legends: usize,
}

/// A number to four digits, whole where it is whole, null where it is not finite. What is as small as rounding errors is
/// 0: it would differ from machine to machine.
#[derive(Clone, Copy)]
struct RoundedF32(f32);

impl Serialize for RoundedF32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = rounded(f64::from(self.0));
        match value {
            v if !v.is_finite() => serializer.serialize_none(),
            v if v.abs() < 1e-9 => serializer.serialize_i64(0),
            v if v.fract() == 0.0 && v.abs() < 1e9 => serializer.serialize_i64(v as i64),
            v => serializer.serialize_f64(v),
        }
    }
}

impl Plot {
    /// A new pair of axes over an area, and its names: `x3`, `y3`.
    fn pair(&mut self, area: &Area, x: Axis, y: Axis) -> Result<(String, String)> {
        self.pairs += 1;
        let number = if self.pairs == 1 { String::new() } else { self.pairs.to_string() };
        let (x_name, y_name) = (format!("x{number}"), format!("y{number}"));
        let x = x.domain(&[self.right(area.x), self.right(area.x + area.w)]).anchor(&y_name);
        let y = y.domain(&[self.up(area.y + area.h), self.up(area.y)]).anchor(&x_name);
        self.numbered.insert(format!("xaxis{number}"), value(&x)?);
        self.numbered.insert(format!("yaxis{number}"), value(&y)?);
        Ok((x_name, y_name))
    }

    fn right(&self, x: f64) -> f64 {
        fraction(x / self.size.0)
    }

    fn up(&self, y: f64) -> f64 {
        fraction(1.0 - y / self.size.1)
    }

    fn add(&mut self, trace: &impl Serialize, more: Value) -> Result<usize> {
        let mut trace = value(trace)?;
        if let (Value::Object(trace), Value::Object(more)) = (&mut trace, more) {
            trace.extend(more);
        }
        self.traces.push(trace);
        Ok(self.traces.len() - 1)
    }

    fn text(&mut self, text: &Text) {
        let annotation =
            annotation(text).x_ref("paper").y_ref("paper").x(self.right(text.x)).y(self.up(text.y));
        self.annotations.push(annotation);
    }

    /// `others` are further numbers that the panel's matrix may come to show.
    fn panel(&mut self, panel: &Panel, others: &[Vec<f32>]) -> Result<Vec<usize>> {
        let (x, y) = self.pair(&panel.area, axis(&panel.x), axis(&panel.y))?;
        let traces = match &panel.marks {
            Marks::Cells(cells) => {
                self.shapes.push(frame(&x, &y, &panel.x, &panel.y));
                let non_finite_kinds = non_finite_kinds(others.iter().flatten().chain(&cells.values));
                match cells.pixels {
                    true => self.pixels(panel, cells, (&x, &y))?,
                    false => self.cells(panel, cells, &non_finite_kinds, (&x, &y))?,
                }
            }
            Marks::Bars(series) => self.bars(panel, series, (&x, &y))?,
            Marks::Lines(series) => self.lines(panel, series, (&x, &y))?,
        };
        // Where an axis is one of entries, its own labels serve the hover, and these are the ones seen: only as
        // many as there is room for, and cut to length.
        for (i, label) in panel.tick_labels().iter().enumerate() {
            let across = i < panel.x.ticks.len();
            let entries = if across { &panel.x.entries } else { &panel.y.entries };
            if entries.is_none() {
                continue;
            }
            let annotation = annotation(label);
            self.annotations.push(if across {
                let (at, _) = panel.x.ticks[i];
                annotation.x_ref(&x).x(at).y_ref("paper").y(self.up(label.y))
            } else {
                let (at, _) = panel.y.ticks[i - panel.x.ticks.len()];
                annotation.x_ref("paper").x(self.right(label.x)).y_ref(&y).y(at)
            });
        }
        Ok(traces)
    }

    /// An image in the matrix's colours; over it, unseen, one whose pixels are the numbers' digits, for the hover.
    fn pixels(&mut self, panel: &Panel, cells: &Cells, (x, y): (&str, &str)) -> Result<Vec<usize>> {
        let image = |png: Vec<u8>| format!("data:image/png;base64,{}", STANDARD.encode(png));
        // An image has no colour bar of its own: this one cell, out of sight, brings it.
        let bar = HeatMap::new(vec![-9], vec![-9], vec![vec![RoundedF32(cells.scale.low as f32)]])
            .zmin(cells.scale.low)
            .zmax(cells.scale.high)
            .color_scale(palette(&cells.scale))
            .color_bar(self.color_bar(&cells.scale, &cells.bar))
            .hover_info(HoverInfo::Skip)
            .x_axis(x)
            .y_axis(y);
        let mut traces = vec![self.add(&*bar, json!({}))?];
        let trace = |source: String| json!({ "type": "image", "source": source, "xaxis": x, "yaxis": y });
        let mut seen = trace(image(pixels::colour(cells)?));
        // Not the nearest pixels, of which a picture smaller than the matrix would leave most out.
        seen["zsmooth"] = json!("fast");
        let mut digits = None;
        match pixels::digits(cells)? {
            Some((png, template)) => {
                let mut trace = trace(image(png));
                trace["opacity"] = json!(0);
                trace["hovertemplate"] = json!(hover(panel, Some(&template)));
                seen["hoverinfo"] = json!("skip");
                digits = Some(trace);
            }
            None => seen["hovertemplate"] = json!(hover(panel, None)),
        }
        for trace in std::iter::once(seen).chain(digits) {
            traces.push(self.add(&trace, json!({}))?);
        }
        // Plotly would give pixels one scale both ways.
        if let Some(axis) = self.numbered.get_mut(&y.replacen('y', "yaxis", 1)) {
            axis["scaleanchor"] = json!(false);
        }
        Ok(traces)
    }

    fn cells(
        &mut self,
        panel: &Panel,
        cells: &Cells,
        non_finite_kinds: &[&str],
        (x, y): (&str, &str),
    ) -> Result<Vec<usize>> {
        let hover = |value: &str| hover(panel, Some(value));
        let trace = HeatMap::new_z(rows(&cells.values, cells))
            .zmin(cells.scale.low)
            .zmax(cells.scale.high)
            .color_scale(palette(&cells.scale))
            .color_bar(self.color_bar(&cells.scale, &cells.bar))
            .hover_on_gaps(false)
            .hover_template(hover(&format!("%{{z:{}}}", format_of(&cells.values))))
            .x_axis(x)
            .y_axis(y);
        let written = match cells.written {
            true => {
                json!({ "text": texts(cells), "texttemplate": "%{text}", "textfont": { "family": MONO, "size": 10 } })
            }
            false => json!({}),
        };
        let mut traces = vec![self.add(&*trace, written)?];
        for sort in non_finite_kinds {
            let trace = HeatMap::new_z(mask(&cells.values, cells, sort))
                .color_scale(grey())
                .show_scale(false)
                .hover_on_gaps(false)
                .hover_template(hover(sort))
                .x_axis(x)
                .y_axis(y);
            traces.push(self.add(&*trace, json!({ "zmin": 0, "zmax": 1 }))?);
        }
        Ok(traces)
    }

    fn color_bar(&self, scale: &Scale, bar: &Area) -> ColorBar {
        let (at, text) = ticks(scale.low, scale.high, 4).into_iter().unzip();
        ColorBar::new()
            .x(self.right(bar.x))
            .x_anchor(Anchor::Left)
            .x_pad(0.0)
            .y(self.up(bar.y))
            .y_anchor(Anchor::Top)
            .y_pad(0.0)
            .len(bar.h as usize)
            .len_mode(ThicknessMode::Pixels)
            .thickness(bar.w as usize)
            .thickness_mode(ThicknessMode::Pixels)
            .outline_width(0)
            .tick_mode(TickMode::Array)
            .tick_vals(at)
            .tick_text(text)
            .tick_font(font(MONO, 10.0, INK))
    }

    fn bars(&mut self, panel: &Panel, series: &[Series], (x, y): (&str, &str)) -> Result<Vec<usize>> {
        let each = 0.8 / series.len() as f64;
        let legend = self.legend(panel)?;
        let mut traces = Vec::new();
        for (i, one) in series.iter().enumerate() {
            let trace = Bar::new(
                (0..one.values.len()).collect(),
                one.values.iter().map(|v| RoundedF32(*v)).collect(),
            )
            .name(for_plotly(&one.name))
            .width(each)
            .offset(each * i as f64 - 0.4)
            .marker(Marker::new().color(one.color))
            .show_legend(legend.is_some())
            .hover_template(self.series_hover(panel, one))
            .x_axis(x)
            .y_axis(y);
            traces.push(self.add(&*trace, of_legend(&legend))?);
        }
        Ok(traces)
    }

    fn lines(&mut self, panel: &Panel, series: &[Series], (x, y): (&str, &str)) -> Result<Vec<usize>> {
        let legend = self.legend(panel)?;
        let mut traces = Vec::new();
        for one in series {
            let dash = if one.dashed { DashType::Dash } else { DashType::Solid };
            let width = if one.muted { 1.0 } else { 1.8 };
            let dots = one.values.len() <= 48 && !one.muted;
            let trace = Scatter::new(
                (0..one.values.len()).collect(),
                one.values.iter().map(|v| RoundedF32(*v)).collect(),
            )
            .name(for_plotly(&one.name))
            .mode(if dots { Mode::LinesMarkers } else { Mode::Lines })
            .line(Line::new().color(one.color).width(width).dash(dash))
            .marker(Marker::new().color(one.color).size(5))
            .opacity(if one.muted { 0.6 } else { 1.0 })
            .show_legend(legend.is_some() && !one.muted)
            .clip_on_axis(false)
            .hover_template(self.series_hover(panel, one))
            .x_axis(x)
            .y_axis(y);
            traces.push(self.add(&*trace, of_legend(&legend))?);
        }
        Ok(traces)
    }

    fn series_hover(&self, panel: &Panel, one: &Series) -> String {
        let name = if one.name.is_empty() { String::new() } else { format!("{}<br>", for_plotly(&one.name)) };
        let format = format_of(&one.values);
        format!("{name}{}: %{{x}}<br>value %{{y:{format}}}<extra></extra>", for_plotly(&panel.x.name))
    }

    /// A legend of a panel's own, so that those of a stack of panels do not run into one.
    fn legend(&mut self, panel: &Panel) -> Result<Option<String>> {
        let Some((x, y)) = panel.legend else { return Ok(None) };
        self.legends += 1;
        let name = if self.legends == 1 { "legend".to_string() } else { format!("legend{}", self.legends) };
        let legend = Legend::new()
            .x(self.right(x - 6.0))
            .x_anchor(Anchor::Left)
            .y(self.up(y - 4.0))
            .y_anchor(Anchor::Top)
            .background_color("rgba(255,255,255,0)")
            .font(font(MONO, 12.0, INK));
        self.numbered.insert(name.clone(), value(&legend)?);
        Ok(Some(name))
    }

    fn thumbs(&mut self, thumbs: &Thumbnails) -> Result<()> {
        let Marks::Cells(cells) = &thumbs.enlarged.marks else { return Ok(()) };
        let enlarged = self.panel(&thumbs.enlarged, &thumbs.whole)?;
        let pixels = |far: f64, down: bool| {
            let range = if down { vec![far, 0.0] } else { vec![0.0, far] };
            Axis::new().visible(false).fixed_range(true).range(range)
        };
        let area = thumbs.tiles.area;
        let (x, y) = self.pair(&area, pixels(area.w, false), pixels(area.h, true))?;

        // All the small pictures are one trace, with gaps between: two hundred traces would take seconds.
        let down = thumbs.small.len().div_ceil(thumbs.tiles.across);
        let (rows, columns) = thumbs.small_shape;
        let across = thumbs.tiles.across.min(thumbs.small.len());
        let edges_x = edges(across, columns, thumbs.tiles.tile.0, thumbs.tiles.step.0);
        let edges_y = edges(down, rows, thumbs.tiles.tile.1, thumbs.tiles.step.1);
        let blank = vec![vec![RoundedF32(f32::NAN); edges_x.len() - 1]; edges_y.len() - 1];
        let (mut z, mut masked) = (blank.clone(), None);
        for (i, small) in thumbs.small.iter().enumerate() {
            let (top, left) = (i / thumbs.tiles.across * (rows + 1), i % thumbs.tiles.across * (columns + 1));
            for (j, v) in small.iter().enumerate() {
                z[top + j / columns][left + j % columns] = RoundedF32(*v);
                if !v.is_finite() {
                    masked.get_or_insert_with(|| blank.clone())[top + j / columns][left + j % columns] =
                        RoundedF32(1.0);
                }
            }
        }
        if let Some(masked) = masked {
            let trace = HeatMap::new(edges_x.clone(), edges_y.clone(), masked)
                .color_scale(grey())
                .show_scale(false)
                .hover_info(HoverInfo::Skip)
                .x_axis(&x)
                .y_axis(&y);
            self.add(&*trace, json!({ "zmin": 0, "zmax": 1 }))?;
        }
        let trace = HeatMap::new(edges_x, edges_y, z)
            .zmin(cells.scale.low)
            .zmax(cells.scale.high)
            .color_scale(palette(&cells.scale))
            .show_scale(false)
            .hover_info(HoverInfo::Skip)
            .x_axis(&x)
            .y_axis(&y);
        self.add(&*trace, json!({}))?;
        self.tile_frames(thumbs, (&x, &y))?;
        self.tile_targets(thumbs, (&x, &y))?;
        self.choice(thumbs, cells, &enlarged)
    }

    fn tile_frames(&mut self, thumbs: &Thumbnails, (x, y): (&str, &str)) -> Result<()> {
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for i in 0..thumbs.small.len() {
            let (left, top) = self.tile_corner(thumbs, i);
            let (right, bottom) = (left + thumbs.tiles.tile.0, top + thumbs.tiles.tile.1);
            xs.extend([Some(left), Some(right), Some(right), Some(left), Some(left), None]);
            ys.extend([Some(top), Some(top), Some(bottom), Some(bottom), Some(top), None]);
        }
        let trace = Scatter::new(xs, ys)
            .mode(Mode::Lines)
            .line(Line::new().color(FRAME).width(1.0))
            .hover_info(HoverInfo::Skip)
            .show_legend(false)
            .clip_on_axis(false)
            .x_axis(x)
            .y_axis(y);
        self.add(&*trace, json!({})).map(drop)
    }

    /// What the pointer meets upon the small pictures. `meta` says which menu a click works, in our own pages.
    fn tile_targets(&mut self, thumbs: &Thumbnails, (x, y): (&str, &str)) -> Result<()> {
        let centers: Vec<(f64, f64)> = (0..thumbs.small.len())
            .map(|i| self.tile_corner(thumbs, i))
            .map(|(left, top)| (left + thumbs.tiles.tile.0 / 2.0, top + thumbs.tiles.tile.1 / 2.0))
            .collect();
        let hover = thumbs.titles.iter().zip(&thumbs.small).map(|(title, small)| {
            let finite = small.iter().copied().filter(|v| v.is_finite());
            let largest = finite.reduce(|a, b| if b.abs() > a.abs() { b } else { a });
            format!("{}<br>largest {}", for_plotly(title), largest.map_or("none".to_string(), number))
        });
        let side = thumbs.tiles.tile.0.min(thumbs.tiles.tile.1) as usize;
        let trace =
            Scatter::new(centers.iter().map(|c| c.0).collect(), centers.iter().map(|c| c.1).collect())
                .mode(Mode::Markers)
                .marker(Marker::new().symbol(MarkerSymbol::Square).size(side).color("rgba(0,0,0,0)"))
                .hover_text_array(hover.collect::<Vec<_>>())
                .hover_info(HoverInfo::Text)
                .show_legend(false)
                .x_axis(x)
                .y_axis(y);
        self.add(&*trace, json!({ "meta": { "menu": self.menus.len() } })).map(drop)
    }

    fn tile_corner(&self, thumbs: &Thumbnails, index: usize) -> (f64, f64) {
        let (x, y) = thumbs.tiles.corner(index);
        (fraction(x - thumbs.tiles.area.x), fraction(y - thumbs.tiles.area.y))
    }

    /// The menu that chooses which matrix is enlarged, and the outline of the chosen small picture.
    fn choice(&mut self, thumbs: &Thumbnails, cells: &Cells, traces: &[usize]) -> Result<()> {
        // On the paper, since an axis would cut off what lies beyond its ends.
        let outline = |i: usize| {
            let (left, top) = thumbs.tiles.corner(i);
            let (right, bottom) = (left + thumbs.tiles.tile.0, top + thumbs.tiles.tile.1);
            [self.right(left - 2.0), self.up(top - 2.0), self.right(right + 2.0), self.up(bottom + 2.0)]
        };
        let shape = self.shapes.len();
        let non_finite_kinds = non_finite_kinds(thumbs.whole.iter().flatten());
        let masks: Vec<Vec<Mask>> = (thumbs.whole.iter())
            .map(|matrix| non_finite_kinds.iter().map(|sort| mask(matrix, cells, sort)).collect())
            .collect();
        let masked_alike = masks.windows(2).all(|pair| pair[0] == pair[1]);
        let traces = if masked_alike { &traces[..1] } else { traces };
        let mut buttons = Vec::with_capacity(thumbs.whole.len());
        for (i, matrix) in thumbs.whole.iter().enumerate() {
            let mut z = vec![value(&rows(matrix, cells))?];
            if !masked_alike {
                for mask in &masks[i] {
                    z.push(value(mask)?);
                }
            }
            let mut data = json!({ "z": z });
            if cells.written {
                data["text"] = json!([texts(&Cells { values: matrix.clone(), ..cells.clone() })]);
            }
            let mut layout = Map::new();
            for (name, at) in ["x0", "y0", "x1", "y1"].into_iter().zip(outline(i)) {
                layout.insert(format!("shapes[{shape}].{name}"), json!(at));
            }
            let button = Button::new()
                .label(for_plotly(&cut(&thumbs.titles[i], 24)))
                .method(ButtonMethod::Update)
                .args(json!([data, layout, traces]));
            buttons.push(button);
        }
        let [x0, y0, x1, y1] = outline(thumbs.chosen);
        let line = ShapeLine::new().color(CHOSEN).width(2.0);
        self.shapes.push(
            Shape::new()
                .shape_type(ShapeType::Rect)
                .x_ref("paper")
                .y_ref("paper")
                .x0(x0)
                .y0(y0)
                .x1(x1)
                .y1(y1)
                .line(line),
        );
        let (left, middle) = thumbs.heading;
        let menu = UpdateMenu::new()
            .buttons(buttons)
            .active(thumbs.chosen as i32)
            .direction(UpdateMenuDirection::Down)
            .show_active(true)
            .x(self.right(left))
            .x_anchor(Anchor::Left)
            .y(self.up(middle))
            .y_anchor(Anchor::Middle)
            .background_color("#ffffff")
            .border_color(FRAME)
            .font(font(MONO, 12.0, INK));
        self.menus.push(menu);
        Ok(())
    }

    fn chips(&mut self, chips: &TokenChips) -> Result<()> {
        let area = chips.area;
        let pixels = |range| Axis::new().visible(false).fixed_range(true).range(range);
        let (x, y) = self.pair(&area, pixels(vec![0.0, area.w]), pixels(vec![area.h, 0.0]))?;
        let (finite, masked): (Vec<_>, Vec<_>) = chips.pieces.iter().partition(|p| p.value.is_finite());
        for (pieces, colored) in [(finite, true), (masked, false)] {
            let Some(first) = pieces.first() else { continue };
            let height = first.area.h;
            let marker = match colored {
                true => Marker::new()
                    .color_array(pieces.iter().map(|p| rounded(f64::from(p.value))).collect())
                    .cmin(chips.scale.low)
                    .cmax(chips.scale.high)
                    .color_scale(palette(&chips.scale))
                    .show_scale(true)
                    .color_bar(self.color_bar(&chips.scale, &chips.bar)),
                false => Marker::new().color(MASKED),
            };
            let hover = |p: &&Chip| format!("{}<br>value {}", for_plotly(&p.hover), number(p.value));
            let trace = Bar::new(
                pieces.iter().map(|p| p.area.w).collect(),
                pieces.iter().map(|p| fraction(p.area.y - area.y + height / 2.0)).collect(),
            )
            .orientation(Orientation::Horizontal)
            .width(height)
            .offset(-height / 2.0)
            .marker(marker)
            .hover_text_array(pieces.iter().map(hover).collect::<Vec<_>>())
            .hover_info(HoverInfo::Text)
            .show_legend(false)
            .x_axis(&x)
            .y_axis(&y);
            let base: Vec<f64> = pieces.iter().map(|p| fraction(p.area.x - area.x)).collect();
            self.add(&*trace, json!({ "base": base }))?;
        }
        // A trace of text has one colour, and dark ground needs another than light.
        for ink in [INK, "#ffffff"] {
            let pieces: Vec<_> = chips.pieces.iter().filter(|p| chips.scale.ink_on(p.value) == ink).collect();
            if pieces.is_empty() {
                continue;
            }
            let trace = Scatter::new(
                pieces.iter().map(|p| fraction(p.area.x - area.x + p.area.w / 2.0)).collect(),
                pieces.iter().map(|p| fraction(p.area.y - area.y + p.area.h / 2.0)).collect(),
            )
            .mode(Mode::Text)
            .text_array(pieces.iter().map(|p| for_plotly(&p.text)).collect::<Vec<_>>())
            .text_font(font(MONO, CHIP_FONT, ink))
            .hover_info(HoverInfo::Skip)
            .show_legend(false)
            .clip_on_axis(false)
            .x_axis(&x)
            .y_axis(&y);
            self.add(&*trace, json!({}))?;
        }
        Ok(())
    }

    /// Each ribbon a shape; over its middle, unseen, what the hover says.
    fn ribbons(&mut self, ribbons: &Ribbons) -> Result<()> {
        let area = ribbons.area;
        let pixels = |range| Axis::new().visible(false).fixed_range(true).range(range);
        let (x, y) = self.pair(&area, pixels(vec![0.0, area.w]), pixels(vec![area.h, 0.0]))?;
        let at = |(px, py): (f64, f64)| (fraction(px - area.x), fraction(py - area.y));
        for ribbon in &ribbons.all {
            let [from, a, b, to] = ribbons.bend(ribbon).map(at);
            let path = format!("M {},{} C {},{} {},{} {},{}", from.0, from.1, a.0, a.1, b.0, b.1, to.0, to.1);
            let shape = Shape::new()
                .shape_type(ShapeType::Path)
                .x_ref(&x)
                .y_ref(&y)
                .path(path)
                .opacity(0.85)
                .layer(ShapeLayer::Below)
                .line(ShapeLine::new().color(ribbons.scale.color(ribbon.value)).width(rounded(ribbon.width)));
            self.shapes.push(shape);
        }
        let middles: Vec<(f64, f64)> = ribbons
            .all
            .iter()
            .map(|own| at(((own.from.0 + own.to.0) / 2.0, (own.from.1 + own.to.1) / 2.0)))
            .collect();
        let mut marker = Marker::new().size(14).opacity(0.0);
        if let Some(bar) = &ribbons.bar {
            marker = marker
                .color_array(ribbons.all.iter().map(|own| rounded(f64::from(own.value))).collect())
                .cmin(ribbons.scale.low)
                .cmax(ribbons.scale.high)
                .color_scale(palette(&ribbons.scale))
                .show_scale(true)
                .color_bar(self.color_bar(&ribbons.scale, bar));
        }
        let trace = Scatter::new(
            middles.iter().map(|(px, _)| *px).collect(),
            middles.iter().map(|(_, py)| *py).collect(),
        )
        .mode(Mode::Markers)
        .marker(marker)
        .hover_text_array(ribbons.all.iter().map(|own| for_plotly(&own.hover)).collect::<Vec<_>>())
        .hover_info(HoverInfo::Text)
        .show_legend(false)
        .x_axis(&x)
        .y_axis(&y);
        self.add(&*trace, json!({}))?;
        Ok(())
    }

    fn table(&mut self, grid: &Grid) -> Result<()> {
        let area = grid.area;
        // Plotly would break a cell at its spaces, and its row would grow out of the table.
        let in_one_line = |text: &String| for_plotly(&text.replace(' ', "\u{a0}"));
        let align: Vec<&str> = grid.columns.iter().map(|c| if c.right { "right" } else { "left" }).collect();
        let in_lines = |lines: &Vec<String>| lines.iter().map(in_one_line).collect::<Vec<_>>().join("<br>");
        let cells: Vec<Vec<String>> =
            grid.columns.iter().map(|c| c.cells.iter().map(in_lines).collect()).collect();
        let head: Vec<String> = grid.head.iter().map(in_one_line).collect();
        // The crate's own type can say neither where a table stands nor how wide each column is.
        self.traces.push(json!({
            "type": "table",
            "domain": {
                "x": [self.right(area.x), self.right(area.x + area.w)],
                "y": [self.up(area.y + area.h + 2.0), self.up(area.y)],
            },
            "columnwidth": grid.columns.iter().map(|c| c.width.round()).collect::<Vec<_>>(),
            "header": {
                "values": head, "align": align, "height": TABLE_ROW,
                "fill": { "color": "#ffffff" }, "line": { "color": RULE, "width": 1 },
                "font": { "family": MONO, "size": TABLE_FONT, "color": MUTED },
            },
            "cells": {
                "values": cells, "align": align, "height": TABLE_ROW,
                "fill": { "color": "#ffffff" }, "line": { "color": RULE, "width": 1 },
                "font": { "family": MONO, "size": TABLE_FONT, "color": INK },
            },
        }));
        Ok(())
    }

    fn finish(self) -> Result<Value> {
        let layout = Layout::new()
            .width(self.size.0 as usize)
            .height(self.size.1 as usize)
            .auto_size(false)
            .margin(Margin::new().left(0).right(0).top(0).bottom(0).auto_expand(false))
            .paper_background_color("#ffffff")
            .plot_background_color("#ffffff")
            .font(font(SANS, 12.0, INK))
            .hover_mode(HoverMode::Closest)
            .hover_label(
                Label::new()
                    .background_color("#ffffff")
                    .border_color(FRAME)
                    .font(font(MONO, 12.0, INK))
                    .align("left"),
            )
            .drag_mode(DragMode::Zoom)
            .bar_mode(BarMode::Group)
            .annotations(self.annotations)
            .shapes(self.shapes)
            .update_menus(self.menus);
        let mut layout = value(&layout)?;
        if let Value::Object(layout) = &mut layout {
            layout.extend(self.numbered);
        }
        let config = Configuration::new()
            .display_logo(false)
            .typeset_math(false)
            .show_send_to_cloud(false)
            .mode_bar_buttons_to_remove(vec![
                ModeBarButtonName::Select2d,
                ModeBarButtonName::Lasso2d,
                ModeBarButtonName::ZoomIn2d,
                ModeBarButtonName::ZoomOut2d,
                ModeBarButtonName::AutoScale2d,
            ])
            .display_mode_bar(DisplayModeBar::Hover);
        Ok(json!({ "data": self.traces, "layout": layout, "config": value(&config)? }))
    }
}

/// What the hover says of a cell.
fn hover(panel: &Panel, value: Option<&str>) -> String {
    let (row, column) = (for_plotly(&panel.y.name), for_plotly(&panel.x.name));
    let value = value.map(|value| format!("<br>value {value}")).unwrap_or_default();
    format!("{row}: %{{y}}<br>{column}: %{{x}}{value}<extra></extra>")
}

type Mask = Vec<Vec<Option<u8>>>;

fn value(part: &(impl Serialize + ?Sized)) -> Result<Value> {
    serde_json::to_value(part).map_err(|error| {
        Error::new(ErrorKind::Figure, "the figure could not be written as JSON").caused_by(error)
    })
}

fn fraction(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

/// The rows of a matrix. Where nothing lies above the diagonal a row ends there, which halves the JSON.
fn rows(values: &[f32], cells: &Cells) -> Vec<Vec<RoundedF32>> {
    by_row(values, cells).map(|row| row.iter().map(|v| RoundedF32(*v)).collect()).collect()
}

fn by_row<'a>(values: &'a [f32], cells: &Cells) -> impl Iterator<Item = &'a [f32]> {
    let (columns, short) = (cells.columns, cells.short);
    values
        .chunks(columns)
        .enumerate()
        .map(move |(i, row)| if short { &row[..columns.min(i + 1)] } else { row })
}

fn texts(cells: &Cells) -> Vec<Vec<String>> {
    (0..cells.rows)
        .map(|row| {
            let across = if cells.short { cells.columns.min(row + 1) } else { cells.columns };
            (0..across).map(|column| cell_text(cells, row * cells.columns + column)).collect()
        })
        .collect()
}

/// Which sorts of number that are not finite there are among these.
fn non_finite_kinds<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<&'static str> {
    let mut found = [("-inf", false), ("inf", false), ("NaN", false)];
    for value in values.into_iter().filter(|v| !v.is_finite()) {
        let which = if value.is_nan() { 2 } else { usize::from(*value > 0.0) };
        found[which].1 = true;
    }
    found.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
}

/// Where numbers of one such sort stand.
fn mask(values: &[f32], cells: &Cells, sort: &str) -> Mask {
    let is = |v: &f32| !v.is_finite() && number(*v) == sort;
    by_row(values, cells).map(|row| row.iter().map(|v| is(v).then_some(1)).collect()).collect()
}

fn grey() -> ColorScale {
    ColorScale::Vector([0.0, 1.0].map(|at| ColorScaleElement(at, MASKED.into())).to_vec())
}

fn palette(scale: &Scale) -> ColorScale {
    ColorScale::Vector(scale.stops().into_iter().map(|(at, color)| ColorScaleElement(at, color)).collect())
}

fn font(family: &str, size: f64, color: impl Color) -> Font {
    Font::new().family(family).size(size as usize).color(color)
}

/// How the hover writes numbers like these.
fn format_of(values: &[f32]) -> &'static str {
    let largest = values.iter().filter(|v| v.is_finite()).fold(0.0_f32, |most, v| most.max(v.abs()));
    if largest > 0.0 && !(1e-2..1e6).contains(&largest) { ".3e" } else { ".4f" }
}

fn annotation(text: &Text) -> Annotation {
    let family = if text.mono { MONO } else { SANS };
    let (x, y) = match (text.turned, text.side) {
        (false, Side::Start) => (Anchor::Left, Anchor::Middle),
        (false, Side::Middle) | (true, Side::Middle) => (Anchor::Center, Anchor::Middle),
        (false, Side::End) => (Anchor::Right, Anchor::Middle),
        (true, Side::Start) => (Anchor::Center, Anchor::Bottom),
        (true, Side::End) => (Anchor::Center, Anchor::Top),
    };
    let annotation = Annotation::new()
        .text(for_plotly(&text.text))
        .font(font(family, text.size, text.color))
        .show_arrow(false)
        .border_pad(0.0)
        .x_anchor(x)
        .y_anchor(y);
    if text.turned { annotation.text_angle(-90.0) } else { annotation }
}

fn axis(ruler: &AxisScale) -> Axis {
    let axis = Axis::new()
        .range(vec![ruler.low, ruler.high])
        .auto_range(false)
        .zero_line(false)
        .tick_length(0)
        .tick_font(font(MONO, 11.0, INK));
    match &ruler.entries {
        None => axis.show_grid(true).grid_color(RULE).zero_line(true).zero_line_color("#b8c0c9").n_ticks(7),
        Some(entries) if entries.len() > NAMED => axis.show_grid(false).show_tick_labels(false),
        Some(entries) => axis
            .show_grid(false)
            .show_tick_labels(false)
            .tick_mode(TickMode::Array)
            .tick_values((0..entries.len()).map(|i| i as f64).collect())
            .tick_text(entries.iter().map(|entry| for_plotly(&cut(entry, 80))).collect()),
    }
}

fn frame(x: &str, y: &str, across: &AxisScale, down: &AxisScale) -> Shape {
    Shape::new()
        .shape_type(ShapeType::Rect)
        .layer(ShapeLayer::Above)
        .x_ref(x)
        .y_ref(y)
        .x0(across.low)
        .x1(across.high)
        .y0(down.low)
        .y1(down.high)
        .line(ShapeLine::new().color(FRAME).width(1.0))
}

fn of_legend(legend: &Option<String>) -> Value {
    legend.as_ref().map_or(json!({}), |name| json!({ "legend": name }))
}

/// The edges of the cells of small pictures in a row, with one cell between each two of them.
fn edges(tiles: usize, cells: usize, tile: f64, step: f64) -> Vec<f64> {
    (0..tiles)
        .flat_map(|i| (0..=cells).map(move |j| fraction(i as f64 * step + j as f64 * tile / cells as f64)))
        .collect()
}
