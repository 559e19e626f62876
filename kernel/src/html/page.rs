//! A notebook as one HTML file that needs no network.
//!
//! Nothing of a notebook is trusted: all text is escaped, HTML that a cell has made stands in a frame that runs no
//! scripts and fetches nothing.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Result;
use crate::html::ansi::{self, escape_html};
use crate::html::highlight;
use crate::html::markdown::{self, PictureSources, base64_address, data_address};
use crate::notebook::{self, Cell, CellKind, Notebook};

const STYLE: &str = include_str!("../../assets/page.css");
const FRAME_STYLE: &str = include_str!("../../assets/frame.css");
const DRAW: &str = include_str!("../../assets/draw.js");
const FIT: &str = include_str!("../../assets/fit.js");
const PLOTLY: &str = "application/vnd.plotly.v1+json";
/// As Jupyter draws a figure that does not say how large it is.
const FIGURE_SIZE: (u64, u64) = (700, 450);

/// The page. Pictures that the text refers to are looked up in the folder, and become part of it.
pub fn html(notebook: &Notebook, name: &str, folder: &Path) -> Result<String> {
    let mut page = Page { body: String::new(), figures: false, frames: false, folder };
    for cell in &notebook.cells {
        page.cell(cell);
    }
    let text_cells = notebook.cells.iter().filter(|cell| cell.kind() == CellKind::Markdown);
    let heading = text_cells.filter_map(|cell| markdown::first_heading(&cell.source())).next();
    let title = escape_html(&heading.unwrap_or_else(|| name.to_string()));
    let mut scripts = String::new();
    if page.figures {
        scripts += &format!("<script>{}</script>\n<script>{DRAW}</script>\n", plotly_js()?);
    }
    if page.frames {
        scripts += &format!("<script>{FIT}</script>\n");
    }
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"headlight-kernel\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n{scripts}</body>\n</html>\n",
        page.body
    ))
}

struct Page<'a> {
    body: String,
    figures: bool,
    frames: bool,
    folder: &'a Path,
}

impl Page<'_> {
    fn cell(&mut self, cell: &Cell) {
        let source = cell.source();
        // The tags of nbconvert's users and of Jupyter Book, in both spellings.
        let has_tag = |tag: &str| cell.has_tag(tag) || cell.has_tag(&tag.replace('-', "_"));
        if has_tag("remove-cell") {
            return;
        }
        match cell.kind() {
            CellKind::Markdown if !source.trim().is_empty() => {
                let pictures = PictureSources { folder: Some(self.folder), attachments: cell.attachments() };
                self.body +=
                    &format!("<section class=\"text\">\n{}</section>\n", markdown::html(&source, &pictures));
            }
            CellKind::Code if !source.trim().is_empty() || !cell.outputs().is_empty() => {
                self.code(cell, &source, &has_tag);
            }
            // Raw cells are for other programs.
            _ => {}
        }
    }

    fn code(&mut self, cell: &Cell, source: &str, has_tag: &dyn Fn(&str) -> bool) {
        self.body += "<section class=\"cell\">\n";
        if !source.trim().is_empty() && !has_tag("remove-input") {
            let count = cell
                .execution_count()
                .map(|count| format!("<span class=\"count\">{count}</span>"))
                .unwrap_or_default();
            let code = format!(
                "<pre class=\"code\">{count}<code>{}</code></pre>",
                highlight::html(source.trim_end())
            );
            let hide = cell.is_set("/jupyter/source_hidden") || has_tag("hide-input") || has_tag("hide-cell");
            self.fold(&code, "Code", hide);
        }
        let start = self.body.len();
        cell.outputs().iter().for_each(|output| self.output(output));
        let outputs = self.body.split_off(start);
        let hide = cell.is_set("/collapsed")
            || cell.is_set("/jupyter/outputs_hidden")
            || has_tag("hide-output")
            || has_tag("hide-cell");
        if !outputs.is_empty() && !has_tag("remove-output") {
            self.fold(&outputs, "Output", hide);
        }
        self.body += "</section>\n";
    }

    fn fold(&mut self, content: &str, name: &str, fold: bool) {
        self.body += &if fold {
            format!("<details><summary>{name}</summary>\n{content}\n</details>\n")
        } else {
            format!("{content}\n")
        };
    }

    fn output(&mut self, output: &Value) {
        let text = |field: &str| notebook::join_text(&output[field]).unwrap_or_default();
        match output["output_type"].as_str() {
            Some("stream") => {
                let class = if output["name"] == "stderr" { "out stderr" } else { "out" };
                self.body += &render_pre(class, &text("text"));
            }
            Some("error") => {
                let lines: Vec<&str> =
                    output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let text = match lines.is_empty() {
                    true => format!("{}: {}", text("ename"), text("evalue")),
                    false => lines.join("\n"),
                };
                self.body += &render_pre("out error", &text);
            }
            _ => {
                if let Some(bundle) = output["data"].as_object() {
                    self.bundle(bundle);
                }
            }
        }
    }

    /// The form of a value that shows most.
    fn bundle(&mut self, bundle: &Map<String, Value>) {
        let text = |mime: &str| form_text(bundle, mime);
        let picture = picture_address(bundle);
        if let Some(figure) = bundle.get(PLOTLY).filter(|figure| figure["data"].is_array()) {
            self.figures = true;
            self.body += &render_plotly(figure, picture.as_deref());
        } else if let Some(html) =
            text("text/html").filter(|html| picture.is_none() || !html.contains("<script"))
        {
            self.frames = true;
            self.body += &render_frame(&html);
        } else if let Some(picture) = picture {
            self.body += &format!("<figure><img alt=\"\" src=\"{picture}\"></figure>\n");
        } else if let Some(text) = text("text/markdown") {
            let html = markdown::html(&text, &PictureSources { folder: None, attachments: None });
            self.body += &format!("<div class=\"text\">{html}</div>\n");
        } else if let Some(text) = text("text/plain").or_else(|| text("text/latex")) {
            self.body += &render_pre("out", &text);
        }
    }
}

fn form_text(bundle: &Map<String, Value>, mime: &str) -> Option<String> {
    bundle.get(mime).and_then(notebook::join_text).filter(|text| !text.is_empty())
}

fn render_pre(class: &str, text: &str) -> String {
    format!("<pre class=\"{class}\">{}</pre>\n", ansi::html(text.trim_end_matches('\n')))
}

/// An image of the bundle as an address that holds it. In an `img` an SVG runs no scripts.
fn picture_address(bundle: &Map<String, Value>) -> Option<String> {
    if let Some(svg) = form_text(bundle, "image/svg+xml") {
        return Some(data_address("image/svg+xml", svg.as_bytes()));
    }
    ["image/png", "image/jpeg", "image/gif"]
        .into_iter()
        .find_map(|mime| base64_address(mime, &form_text(bundle, mime)?))
}

fn render_plotly(figure: &Value, picture: Option<&str>) -> String {
    let layout = &figure["layout"];
    let size =
        |key: &str, usual: u64| layout[key].as_f64().map_or(usual, |size| size.clamp(10.0, 10_000.0) as u64);
    let (width, height) = (size("width", FIGURE_SIZE.0), size("height", FIGURE_SIZE.1));
    let still = match picture {
        Some(picture) => format!("<img alt=\"\" width=\"{width}\" height=\"{height}\" src=\"{picture}\">"),
        None => "This figure needs scripts.".to_string(),
    };
    format!(
        "<figure>\n<div class=\"plot\" style=\"width:{width}px;height:{height}px\"></div>\n\
         <script type=\"application/json\">{}</script>\n<noscript>{still}</noscript>\n</figure>\n",
        json_for_script(&figure.to_string())
    )
}

/// JSON that can stand inside a `<script>` element: the same value, without `<`, `>` and `&`.
fn json_for_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// HTML that a cell has made. The frame may be measured from without, but runs and fetches nothing.
fn render_frame(html: &str) -> String {
    let page = format!(
        "<!DOCTYPE html><meta charset=\"utf-8\"><meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:\">\
         <style>{FRAME_STYLE}</style>{html}"
    );
    format!(
        "<iframe class=\"html\" sandbox=\"allow-same-origin\" title=\"output\" srcdoc=\"{}\"></iframe>\n",
        escape_html(&page)
    )
}

/// plotly.js alone: the crate hands it out together with MathJax, which would read text as formulas.
fn plotly_js() -> Result<String> {
    let all = plotly::Plot::offline_js_sources();
    let script = all.split_once("</script>").and_then(|(first, _)| first.split_once('>')).map(|(_, js)| js);
    script.filter(|js| js.contains("plotly.js")).map(str::to_string).ok_or_else(|| {
        "plotly.js was not found in the plotly crate; build headlight-kernel with --locked".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(cells: Value) -> String {
        let notebook = json!({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
        html(&notebook::parse(&notebook.to_string()).unwrap(), "name", Path::new(".")).unwrap()
    }

    fn with_output(output: Value) -> String {
        page(json!([{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": "x",
            "outputs": [output]}]))
    }

    fn shows(data: Value) -> String {
        with_output(json!({"output_type": "display_data", "metadata": {}, "data": data}))
    }

    const EVIL: &str = "</script><script>alert(1)</script><img src=x onerror=alert(1)>";

    #[test]
    fn nothing_of_a_notebook_becomes_markup() {
        let plain = page(json!([])).matches("<script").count();
        assert_eq!(plain, 0);
        let stream = |name: &str| json!({"output_type": "stream", "name": name, "text": EVIL});
        let pages = [
            (
                0,
                page(
                    json!([{"cell_type": "markdown", "id": "a", "metadata": {}, "source": format!("# {EVIL}\n\n{EVIL}")}]),
                ),
            ),
            (
                0,
                page(
                    json!([{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": EVIL, "outputs": []}]),
                ),
            ),
            (0, page(json!([{"cell_type": "raw", "id": "a", "metadata": {}, "source": EVIL}]))),
            (0, with_output(stream("stdout"))),
            (0, with_output(stream("stderr"))),
            (0, with_output(json!({"output_type": "error", "ename": EVIL, "evalue": EVIL, "traceback": []}))),
            (0, with_output(json!({"output_type": "error", "ename": "", "evalue": "", "traceback": [EVIL]}))),
            (0, shows(json!({"text/plain": EVIL}))),
            (0, shows(json!({"text/markdown": EVIL}))),
            (0, shows(json!({"image/png": EVIL}))),
            (0, shows(json!({"image/svg+xml": EVIL}))),
            (0, shows(json!({"application/javascript": EVIL}))),
            // The script that fits frames.
            (1, shows(json!({"text/html": EVIL}))),
        ];
        for (at, (scripts, page)) in pages.iter().enumerate() {
            assert_eq!(page.matches("<script").count(), *scripts, "page {at}: {page}");
            assert!(!page.contains("<img src=x"), "page {at}");
        }
    }

    #[test]
    fn a_figure_is_data_and_plotly_is_there_once() {
        let figure = json!({"data": [{"name": EVIL}], "layout": {"width": 640, "height": 320.5}});
        let output = json!({"output_type": "display_data", "metadata": {},
            "data": {PLOTLY: figure, "image/png": "aGk=", "text/plain": "x"}});
        let page = page(
            json!([{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": "x",
            "outputs": [output, output]}]),
        );
        assert_eq!(page.matches("class=\"plot\" style=\"width:640px;height:320px\"").count(), 2);
        assert_eq!(
            page.matches(
                "<noscript><img alt=\"\" width=\"640\" height=\"320\" src=\"data:image/png;base64,aGk=\""
            )
            .count(),
            2
        );
        assert!(!page.contains("</script><script>alert"));
        assert_eq!(page.matches("Plotly.newPlot(plot").count(), 1);
        assert!(page.len() > 3_000_000 && page.len() < 6_000_000);
    }

    #[test]
    fn a_value_shows_in_its_richest_form() {
        for (data, expected) in [
            (
                json!({"image/png": "aGk=", "text/plain": "x"}),
                "<img alt=\"\" src=\"data:image/png;base64,aGk=\">",
            ),
            (json!({"image/png": "aGk=", "text/html": "<b>"}), "srcdoc="),
            (json!({"image/png": "aGk=", "text/html": "<script>"}), "data:image/png"),
            (json!({"text/markdown": "*x*", "text/plain": "x"}), "<em>x</em>"),
            (json!({"text/plain": ["a\n", "\u{1b}[31mb"]}), "a\n<span class=\"ansi-red\">b</span>"),
            (json!({"image/svg+xml": "<svg/>"}), "data:image/svg+xml;base64,PHN2Zy8+"),
        ] {
            assert!(shows(data.clone()).contains(expected), "of {data}");
        }
    }

    #[test]
    fn the_title_is_the_first_heading() {
        let markdown = |text: &str| json!({"cell_type": "markdown", "id": text.len().to_string(), "metadata": {}, "source": text});
        assert!(
            page(json!([markdown("text"), markdown("## A `b` & *c*")]))
                .contains("<title>A b &amp; c</title>")
        );
        assert!(page(json!([markdown("text")])).contains("<title>name</title>"));
    }

    #[test]
    fn what_a_notebook_hides_is_folded() {
        let cell = |metadata: Value| {
            page(json!([
                {"cell_type": "code", "id": "a", "metadata": metadata, "execution_count": 1, "source": "secret",
                "outputs": [{"output_type": "stream", "name": "stdout", "text": "seen"}]},
                {"cell_type": "markdown", "id": "b", "metadata": metadata, "source": "told"},
            ]))
        };
        // What is left out, and what is folded.
        for (metadata, absent, folds) in [
            (json!({}), &[][..], &[][..]),
            (json!({"jupyter": {"source_hidden": true}}), &[], &["Code"]),
            (json!({"jupyter": {"outputs_hidden": true}}), &[], &["Output"]),
            (json!({"collapsed": true}), &[], &["Output"]),
            (json!({"tags": ["hide-input"]}), &[], &["Code"]),
            (json!({"tags": ["hide-output"]}), &[], &["Output"]),
            (json!({"tags": ["hide-cell"]}), &[], &["Code", "Output"]),
            (json!({"tags": ["remove-cell"]}), &["secret", "seen", "told"], &[]),
            (json!({"tags": ["remove_cell"]}), &["secret", "seen", "told"], &[]),
            (json!({"tags": ["remove-input"]}), &["secret"], &[]),
            (json!({"tags": ["remove_output"]}), &["seen"], &[]),
        ] {
            let page = cell(metadata.clone());
            for text in ["secret", "seen", "told"] {
                assert_eq!(page.contains(text), !absent.contains(&text), "{text} of {metadata}");
            }
            for name in ["Code", "Output"] {
                let folds_it = page.contains(&format!("<summary>{name}</summary>"));
                assert_eq!(folds_it, folds.contains(&name), "{name} of {metadata}");
            }
        }
    }
}
