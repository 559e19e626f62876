//! A notebook as one HTML file that needs no network.
//!
//! Nothing of a notebook is trusted: all text is escaped, HTML that a cell has made stands in a frame that runs no
//! scripts and fetches nothing.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::Result;
use crate::cell::lex::words;
use crate::html::ansi::{self, escaped};
use crate::html::markdown::{self, Attached, is_base64};
use crate::notebook::{self, Cell, Kind, Notebook};

const PLOTLY: &str = "application/vnd.plotly.v1+json";
/// As Jupyter draws a figure that does not say how large it is.
const FIGURE_SIZE: (u64, u64) = (700, 450);

/// The page. Pictures that the text refers to are looked up in the folder, and become part of it.
pub fn html(notebook: &Notebook, name: &str, folder: &Path) -> Result<String> {
    let mut page = Page { body: String::new(), figures: false, frames: false, folder };
    for cell in &notebook.cells {
        page.cell(cell);
    }
    let of_text = notebook.cells.iter().filter(|cell| cell.kind() == Kind::Markdown);
    let heading = of_text.filter_map(|cell| markdown::first_heading(&cell.source())).next();
    let title = escaped(&heading.unwrap_or_else(|| name.to_string()));
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
        let tagged = |tag: &str| cell.has_tag(tag) || cell.has_tag(&tag.replace('-', "_"));
        if tagged("remove-cell") {
            return;
        }
        match cell.kind() {
            Kind::Markdown if !source.trim().is_empty() => {
                let attached = Attached { folder: Some(self.folder), attachments: cell.attachments() };
                self.body +=
                    &format!("<section class=\"text\">\n{}</section>\n", markdown::html(&source, &attached));
            }
            Kind::Code if !source.trim().is_empty() || !cell.outputs().is_empty() => {
                self.code(cell, &source, &tagged);
            }
            // Raw cells are for other programs.
            _ => {}
        }
    }

    fn code(&mut self, cell: &Cell, source: &str, tagged: &dyn Fn(&str) -> bool) {
        self.body += "<section class=\"cell\">\n";
        if !source.trim().is_empty() && !tagged("remove-input") {
            let count =
                cell.count().map(|count| format!("<span class=\"count\">{count}</span>")).unwrap_or_default();
            let code =
                format!("<pre class=\"code\">{count}<code>{}</code></pre>", coloured(source.trim_end()));
            let hide = cell.is_set("/jupyter/source_hidden") || tagged("hide-input") || tagged("hide-cell");
            self.folded(&code, "Code", hide);
        }
        let start = self.body.len();
        cell.outputs().iter().for_each(|output| self.output(output));
        let shown = self.body.split_off(start);
        let hide = cell.is_set("/collapsed")
            || cell.is_set("/jupyter/outputs_hidden")
            || tagged("hide-output")
            || tagged("hide-cell");
        if !shown.is_empty() && !tagged("remove-output") {
            self.folded(&shown, "Output", hide);
        }
        self.body += "</section>\n";
    }

    fn folded(&mut self, content: &str, name: &str, fold: bool) {
        self.body += &if fold {
            format!("<details><summary>{name}</summary>\n{content}\n</details>\n")
        } else {
            format!("{content}\n")
        };
    }

    fn output(&mut self, output: &Value) {
        let text = |field: &str| notebook::text(&output[field]).unwrap_or_default();
        match output["output_type"].as_str() {
            Some("stream") => {
                let class = if output["name"] == "stderr" { "out stderr" } else { "out" };
                self.body += &preformatted(class, &text("text"));
            }
            Some("error") => {
                let lines: Vec<&str> =
                    output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let text = match lines.is_empty() {
                    true => format!("{}: {}", text("ename"), text("evalue")),
                    false => lines.join("\n"),
                };
                self.body += &preformatted("out error", &text);
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
        let text = |mime: &str| text_of(bundle, mime);
        let picture = picture(bundle);
        if let Some(figure) = bundle.get(PLOTLY).filter(|figure| figure["data"].is_array()) {
            self.figures = true;
            self.body += &plotly(figure, picture.as_deref());
        } else if let Some(html) =
            text("text/html").filter(|html| picture.is_none() || !html.contains("<script"))
        {
            self.frames = true;
            self.body += &frame(&html);
        } else if let Some(picture) = picture {
            self.body += &format!("<figure><img alt=\"\" src=\"{picture}\"></figure>\n");
        } else if let Some(text) = text("text/markdown") {
            let html = markdown::html(&text, &Attached { folder: None, attachments: None });
            self.body += &format!("<div class=\"text\">{html}</div>\n");
        } else if let Some(text) = text("text/plain").or_else(|| text("text/latex")) {
            self.body += &preformatted("out", &text);
        }
    }
}

fn text_of(bundle: &Map<String, Value>, mime: &str) -> Option<String> {
    bundle.get(mime).and_then(notebook::text).filter(|text| !text.is_empty())
}

fn preformatted(class: &str, text: &str) -> String {
    format!("<pre class=\"{class}\">{}</pre>\n", ansi::html(text.trim_end_matches('\n')))
}

fn coloured(code: &str) -> String {
    let mut out = String::new();
    for (kind, word) in words(code) {
        let word = escaped(word);
        match kind.class() {
            Some(class) => out += &format!("<span class=\"{class}\">{word}</span>"),
            None => out += &word,
        }
    }
    out
}

/// An image of the bundle as an address that holds it. In an `img` an SVG runs no scripts.
fn picture(bundle: &Map<String, Value>) -> Option<String> {
    if let Some(svg) = text_of(bundle, "image/svg+xml") {
        return Some(format!("data:image/svg+xml;base64,{}", STANDARD.encode(svg.as_bytes())));
    }
    ["image/png", "image/jpeg", "image/gif"].into_iter().find_map(|mime| {
        let data: String = text_of(bundle, mime)?.chars().filter(|c| !c.is_whitespace()).collect();
        is_base64(&data).then(|| format!("data:{mime};base64,{data}"))
    })
}

fn plotly(figure: &Value, picture: Option<&str>) -> String {
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
fn frame(html: &str) -> String {
    let page = format!(
        "<!DOCTYPE html><meta charset=\"utf-8\"><meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:\">\
         <style>{FRAME_STYLE}</style>{html}"
    );
    format!(
        "<iframe class=\"html\" sandbox=\"allow-same-origin\" title=\"output\" srcdoc=\"{}\"></iframe>\n",
        escaped(&page)
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

const FRAME_STYLE: &str = "
:root { color-scheme: light; }
body { margin: 8px 10px; background: #fff; color: #1f2933; font: 14px/1.5 Ubuntu, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; }
table { border-collapse: collapse; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #e1e5ea; }
th { font-weight: 600; }
";

const STYLE: &str = "
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1f2933; --soft: #66717e; --rule: #e1e5ea; --well: #f6f7f9; --link: #0b62b5;
  --comment: #6b7683; --string: #2f6f3e; --number: #a4460f; --keyword: #8a2da5; --type: #17637a;
  --function: #1b55a8; --macro: #1b55a8; --bad: #b3261e; --bad-well: #fdf3f2;
  --black: #3b444f; --red: #b3261e; --green: #2b7a3b; --yellow: #8a6100; --blue: #1b55a8; --magenta: #8a2da5;
  --cyan: #17637a; --white: #66717e; --sans: Ubuntu, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif;
  --mono: 'DejaVu Sans Mono', Menlo, Consolas, monospace; --width: 800px; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15191e; --ink: #dfe4ea; --soft: #94a0ad; --rule: #303841; --well: #1d2329; --link: #78b4f2;
  --comment: #8793a0; --string: #93cf9d; --number: #eba26f; --keyword: #d298e6; --type: #7cc7dc;
  --function: #8fb8f2; --macro: #8fb8f2; --bad: #ff9d94; --bad-well: #2b1c1c;
  --black: #94a0ad; --red: #ff9d94; --green: #93cf9d; --yellow: #e2be6a; --blue: #8fb8f2; --magenta: #d298e6;
  --cyan: #7cc7dc; --white: #dfe4ea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16.5px/1.62 var(--sans); }
main { max-width: calc(var(--width) + 96px); margin: 0 auto; padding: 48px 48px 96px; }
h1, h2, h3, h4, h5, h6 { line-height: 1.25; font-weight: 600; margin: 1.9em 0 0.6em; text-wrap: balance; }
h1 { font-size: 1.9em; margin-top: 0.2em; } h2 { font-size: 1.4em; } h3 { font-size: 1.15em; }
h4, h5, h6 { font-size: 1em; }
p, ul, ol, blockquote { margin: 0 0 0.9em; overflow-wrap: break-word; }
li > p { margin-bottom: 0.4em; }
a { color: var(--link); text-underline-offset: 2px; }
blockquote { padding: 0 0 0 1em; border-left: 3px solid var(--rule); color: var(--soft); }
hr { border: 0; border-top: 1px solid var(--rule); margin: 2em 0; }
code { font: 0.86em/1.5 var(--mono); background: var(--well); border-radius: 4px; padding: 0.1em 0.3em; }
pre { font: 13.5px/1.55 var(--mono); margin: 0; overflow-x: auto; tab-size: 4; }
pre code { font: inherit; background: none; padding: 0; }
.text > pre { background: var(--well); border-radius: 6px; padding: 10px 14px; margin: 0 0 0.9em; }
.text img { max-width: 100%; }
.text table { border-collapse: collapse; margin: 0 0 1.1em; display: block; overflow-x: auto; font-size: 0.94em; }
.text th, .text td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
.text th { font-weight: 600; }
summary { cursor: pointer; color: var(--soft); font-size: 0.9em; }
.text details { margin: 0 0 0.9em; }
.cell { position: relative; margin: 1em 0 1.4em; }
.cell .code { background: var(--well); border: 1px solid var(--rule); border-radius: 6px; padding: 10px 14px; }
.count { position: absolute; right: calc(100% + 10px); font-size: 12px; color: var(--soft); opacity: 0.75; user-select: none; }
.out { padding: 10px 14px 2px; }
.out + .out { padding-top: 4px; }
.error { margin-top: 8px; padding: 10px 14px; background: var(--bad-well); border-left: 3px solid var(--bad); border-radius: 0 6px 6px 0; }
.stderr { color: var(--soft); }
.c { color: var(--comment); } .s { color: var(--string); } .n { color: var(--number); } .k { color: var(--keyword); }
.t { color: var(--type); } .f { color: var(--function); } .m { color: var(--macro); } .l { color: var(--number); }
.a, .d { color: var(--comment); }
.ansi-bold { font-weight: 700; } .ansi-dim { opacity: 0.7; } .ansi-italic { font-style: italic; }
.ansi-underline { text-decoration: underline; }
.ansi-black { color: var(--black); } .ansi-red { color: var(--red); } .ansi-green { color: var(--green); }
.ansi-yellow { color: var(--yellow); } .ansi-blue { color: var(--blue); } .ansi-magenta { color: var(--magenta); }
.ansi-cyan { color: var(--cyan); } .ansi-white { color: var(--white); }
.ansi-black-bg { background: #d3d8de; color: #111; } .ansi-red-bg { background: #f6c1bd; color: #111; }
.ansi-green-bg { background: #bfe3c6; color: #111; } .ansi-yellow-bg { background: #f3e2a9; color: #111; }
.ansi-blue-bg { background: #c3d8f5; color: #111; } .ansi-magenta-bg { background: #e3c8ec; color: #111; }
.ansi-cyan-bg { background: #bfe3ec; color: #111; } .ansi-white-bg { background: #eceff2; color: #111; }
figure { margin: 14px calc((100% - max(100%, min(100vw - 48px, 1180px))) / 2) 6px; display: flex;
  justify-content: safe center; overflow-x: auto; }
figure > .plot, figure > img, figure > noscript > img { flex: none; background: #fff; border-radius: 6px; overflow: hidden; }
figure > img { max-width: 100%; height: auto; flex: 0 1 auto; }
.plot.chooses .scatterlayer { cursor: pointer; }
iframe.html { display: block; width: 100%; height: 160px; margin: 10px 0 0; border: 1px solid var(--rule); border-radius: 6px; background: #fff; }
@media (max-width: 760px) { main { padding: 24px 20px 64px; } .count { display: none; } body { font-size: 16px; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #1f2933; --soft: #66717e; --rule: #d5dae0; --well: #f6f7f9;
    --comment: #6b7683; --string: #2f6f3e; --number: #a4460f; --keyword: #8a2da5; --type: #17637a;
    --function: #1b55a8; --macro: #1b55a8; --bad: #b3261e; --bad-well: #fdf3f2; --black: #3b444f; --red: #b3261e;
    --green: #2b7a3b; --yellow: #8a6100; --blue: #1b55a8; --magenta: #8a2da5; --cyan: #17637a; --white: #66717e; }
  body { font-size: 11pt; } main { max-width: none; padding: 0 0 0 2em; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 9pt; }
  figure { break-inside: avoid; margin-inline: 0; overflow: visible; } .code { break-inside: avoid; }
  h1, h2, h3, h4 { break-after: avoid; } a { color: inherit; }
}
";

/// Draws each figure, and lets a click on a small picture do what the menu does.
const DRAW: &str = "
document.querySelectorAll('figure > .plot').forEach(function (plot) {
  var about = JSON.parse(plot.parentNode.querySelector('script').textContent);
  Plotly.newPlot(plot, about.data, about.layout || {}, about.config || {}).then(function () {
    plot.on('plotly_click', function (event) {
      var point = event.points[0];
      var meta = point.data.meta;
      if (!meta || meta.menu === undefined) return;
      var args = plot.layout.updatemenus[meta.menu].buttons[point.pointNumber].args;
      var layout = Object.assign({}, args[1]);
      layout['updatemenus[' + meta.menu + '].active'] = point.pointNumber;
      Plotly.update(plot, args[0], layout, args[2]);
    });
  });
});
";

/// Makes each frame as high as what is in it.
const FIT: &str = "
document.querySelectorAll('iframe.html').forEach(function (frame) {
  function fit() {
    var page = frame.contentDocument;
    if (page && page.body) frame.style.height = Math.min(page.documentElement.offsetHeight + 2, 1200) + 'px';
  }
  frame.addEventListener('load', fit);
  fit();
});
";

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
        for (metadata, gone, folded) in [
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
                assert_eq!(page.contains(text), !gone.contains(&text), "{text} of {metadata}");
            }
            for name in ["Code", "Output"] {
                let found = page.contains(&format!("<summary>{name}</summary>"));
                assert_eq!(found, folded.contains(&name), "{name} of {metadata}");
            }
        }
    }
}
