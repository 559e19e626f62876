//! Pages of HTML that need no network: plotly.js is inlined, once for all figures of a page.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{Error, ErrorKind, Result};
use crate::figure::figure::Figure;
use crate::figure::png;
use crate::files;
use crate::markup::{for_markup, json_for_script};

/// A part of a page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Section {
    /// A heading.
    Heading(String),
    /// A paragraph of plain text. Blank lines divide it into several.
    Text(String),
    /// A figure.
    Figure(Figure),
}

/// A page of headings, paragraphs and figures: one HTML file that works without a network.
///
/// ```
/// use headlight::{Page, Section};
/// let page = Page::new("Report", [Section::Heading("Heads".into()), Section::Text("Two of them.".into())]);
/// assert!(page.to_html()?.contains("<h2>Heads</h2>"));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    sections: Vec<Section>,
}

impl Page {
    /// A page with a title above its sections; none where it is empty.
    pub fn new(title: impl Into<String>, sections: impl IntoIterator<Item = Section>) -> Page {
        Page { title: title.into(), sections: sections.into_iter().collect() }
    }

    /// The page as the text of its file.
    pub fn to_html(&self) -> Result<String> {
        let mut body = String::new();
        if !self.title.is_empty() {
            body += &format!("<h1>{}</h1>\n", for_markup(&self.title));
        }
        let mut plots = false;
        for section in &self.sections {
            match section {
                Section::Heading(text) => body += &format!("<h2>{}</h2>\n", for_markup(text)),
                Section::Text(text) => {
                    let paragraphs = text.split("\n\n").map(str::trim).filter(|part| !part.is_empty());
                    paragraphs.for_each(|part| body += &format!("<p>{}</p>\n", for_markup(part)));
                }
                Section::Figure(figure) => {
                    plots = true;
                    body += &figure_html(figure)?;
                }
            }
        }
        let title = if self.title.is_empty() { "headlight".to_string() } else { for_markup(&self.title) };
        let scripts = if plots {
            format!(
                "<script type=\"application/gzip\" id=\"plotly\">{}</script>\n<script>{START}</script>\n",
                STANDARD.encode(compressed(&plotly_js()?)?)
            )
        } else {
            String::new()
        };
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n{scripts}</body>\n</html>\n"
        ))
    }

    /// Writes the page to a file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), self.to_html()?.as_bytes())
    }
}

impl Figure {
    /// A page with the figure alone, which works without a network.
    pub fn to_html(&self) -> Result<String> {
        Page::new("", [Section::Figure(self.clone())]).to_html()
    }
}

fn figure_html(figure: &Figure) -> Result<String> {
    let json = json_for_script(&figure.to_json()?);
    // As large as it is shown: where scripts run, nobody sees it.
    let png = STANDARD.encode(png::render(&figure.to_svg(), 1.0)?);
    let (width, height) = figure.size();
    Ok(format!(
        "<figure>\n<div class=\"plot\" style=\"width:{width}px;height:{height}px\"></div>\n\
         <script type=\"application/json\">{json}</script>\n\
         <noscript><img alt=\"\" width=\"{width}\" height=\"{height}\" src=\"data:image/png;base64,{png}\"></noscript>\n\
         </figure>\n"
    ))
}

/// plotly.js alone: the crate hands it out together with MathJax, which would read text as formulas.
fn plotly_js() -> Result<String> {
    let all = plotly::Plot::offline_js_sources();
    let script = all.split_once("</script>").and_then(|(first, _)| first.split_once('>')).map(|(_, js)| js);
    script.filter(|js| js.contains("plotly.js")).map(str::to_string).ok_or_else(|| {
        Error::new(ErrorKind::Figure, "plotly.js was not found in the plotly crate")
            .help("build headlight with the versions of its own Cargo.lock")
    })
}

/// In 1.4 MB rather than 4.7: browsers have known how to unpack it since 2023.
fn compressed(js: &str) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(js.as_bytes()).and_then(|()| encoder.finish()).map_err(|error| {
        Error::new(ErrorKind::Figure, "plotly.js could not be packed for a page").caused_by(error)
    })
}

const STYLE: &str = "
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1f2933;
  font: 16px/1.6 Ubuntu, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 40px 32px 64px; box-sizing: border-box; }
h1 { font-size: 28px; line-height: 1.25; font-weight: 600; margin: 0 0 20px; }
h2 { font-size: 20px; line-height: 1.3; font-weight: 600; margin: 44px 0 10px; }
p { max-width: 46em; margin: 0 0 14px; white-space: pre-line; overflow-wrap: anywhere; }
figure { margin: 18px 0 24px; padding: 8px; background: #fff; border: 1px solid #e1e5ea; border-radius: 8px;
  overflow-x: auto; width: fit-content; max-width: 100%; box-sizing: border-box; }
@media print {
  body { background: #fff; }
  main { max-width: none; padding: 0; }
  figure { border: 0; padding: 0; break-inside: avoid; overflow: visible; }
  h2 { break-after: avoid; }
}
";

/// Unpacks plotly.js and draws each figure, and lets a click on a small picture do what the menu does. Where a browser cannot, the
/// still pictures stand in.
const START: &str = "
// Of an image's pixel Plotly's hover knows the place alone. Here it says the labels too, made when they are asked for.
function name(trace, layout) {
  if (trace.type !== 'image' || !trace.hovertemplate) return;
  var labels = function (axis) { return layout[axis[0] + 'axis' + axis.slice(1)].ticktext; };
  var across = labels(trace.xaxis), down = labels(trace.yaxis);
  if (!across || !down) return;
  var end = trace.hovertemplate.indexOf('%{x}') + 4;
  var place = trace.hovertemplate.slice(0, end);
  trace.hovertemplate = '%{text}' + trace.hovertemplate.slice(end);
  trace.text = down.map(function (row) {
    return new Proxy(across, { get: function (columns, at) {
      return /^[0-9]+$/.test(String(at)) ? place.replace('%{y}', row).replace('%{x}', columns[at]) : columns[at];
    } });
  });
}
(async function () {
  var figures = document.querySelectorAll('figure');
  try {
    var packed = Uint8Array.from(atob(document.getElementById('plotly').textContent), function (c) { return c.charCodeAt(0); });
    var unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
    var script = document.createElement('script');
    script.textContent = await new Response(unpacked).text();
    document.head.appendChild(script);
  } catch (error) {
    figures.forEach(function (figure) {
      figure.innerHTML = figure.querySelector('noscript').textContent;
    });
    return;
  }
  figures.forEach(function (figure) {
    var plot = figure.querySelector('.plot');
    var about = JSON.parse(figure.querySelector('script').textContent);
    about.data.forEach(function (trace) { name(trace, about.layout); });
    Plotly.newPlot(plot, about.data, about.layout, about.config).then(function () {
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
})();
";
