//! What figures promise: every row and column kept, text that cannot act, numbers that need not be finite.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headlight::{Axis, Error, ErrorKind, Figure, NamedTensor, Page, Remedy, Section, Table, ValueKind, View};
use serde_json::Value;

const NASTY: [&str; 12] = [
    "<b>x</b>",
    "$a$",
    "%{y}",
    "</script>",
    "\u{1b}[31m",
    "]]>",
    "\n",
    "",
    "\"'&amp;",
    "😀",
    "日本語",
    "<a href=\"javascript:alert(1)\">\u{202e}",
];

fn labels(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

fn square(tokens: &[&str], values: Vec<f32>, value_kind: ValueKind) -> NamedTensor {
    let axes = vec![Axis::labelled("query", labels(tokens)), Axis::labelled("key", labels(tokens))];
    NamedTensor::from_vec("pattern", values, axes).unwrap().with_value_kind(value_kind)
}

fn counted(lens: &[usize]) -> NamedTensor {
    let names = ["head", "row", "column"];
    let axes =
        lens.iter().zip(&names[3 - lens.len()..]).map(|(len, name)| Axis::unlabelled(name, *len)).collect();
    let count = lens.iter().product::<usize>();
    NamedTensor::from_vec("counted", (0..count).map(|i| (i as f32 * 0.7).sin()).collect(), axes).unwrap()
}

fn multiples(values: NamedTensor) -> View {
    View::SmallMultiples { values, selected: None }
}

/// Draws a view in every way, looks at what must hold of any figure, and hands over the JSON.
fn check(view: View) -> Value {
    let figure = Figure::new(vec![view]).unwrap();
    let (width, height) = figure.size();
    let json: Value = serde_json::from_str(&figure.to_json().unwrap()).unwrap();
    assert_eq!(json["layout"]["width"], width);
    assert_eq!(json["layout"]["height"], height);
    assert!(!json["data"].as_array().unwrap().is_empty());

    let png = figure.to_png().unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((side(16), side(20)), (2 * width, 2 * height));
    assert!((200..=1400).contains(&width) && (60..=16_000).contains(&height), "{width} x {height}");

    let svg = figure.to_svg();
    assert!(svg.chars().all(|c| !c.is_control() || c == '\n'), "control characters in the SVG");
    assert!(["=\"NaN", "=\"inf", "MNaN", "LNaN", "<b>", "<a "].iter().all(|part| !svg.contains(part)));
    assert!(!figure.to_text().is_empty());
    assert!(figure.to_text().chars().all(|c| !c.is_control() || c == '\n'));
    json
}

#[test]
fn text_figures() {
    let tokens = ["<|endoftext|>", " the", " cat", "\n", "日本語", ""];
    let values = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin().abs()).collect::<Vec<_>>();
    let row = |values| {
        let axes = vec![Axis::labelled("token", labels(&tokens))];
        NamedTensor::from_vec("of tokens", values, axes).unwrap()
    };
    let mut table = Table::new("a table", ["head", "score", "text"]);
    table.push([
        "L0H1",
        "0.5",
        "more words than a column has room for, so that they go on in the line below it",
    ]);
    table.push(["L11H0", "-12", "few\nwords"]);
    let views = [
        ("numbers", View::Heatmap(square(&tokens, values(36), ValueKind::Probability))),
        ("shades", View::Heatmap(counted(&[5, 150]))),
        ("shades of one sign", View::Heatmap(counted(&[3, 30]).with_value_kind(ValueKind::Magnitude))),
        ("an overview", View::Heatmap(counted(&[300, 400]))),
        ("matrices", multiples(counted(&[6, 3, 4]))),
        ("bars", View::Bars(row(vec![1.0, -0.3, f32::NAN, f32::INFINITY, 0.0, 1e-9]))),
        ("groups of bars", View::Bars(counted(&[3, 4]))),
        ("lines", View::Lines(counted(&[3, 200]))),
        ("a line with labels", View::Lines(row(values(6)))),
        ("tokens", View::Tokens(row(values(6)))),
        ("a table", View::Table(table)),
        ("nasty text", View::Heatmap(square(&NASTY, values(NASTY.len() * NASTY.len()), ValueKind::Score))),
    ];
    let shown =
        views.map(|(what, view)| format!("== {what}\n{}", Figure::new(vec![view]).unwrap().to_text()));
    insta::assert_snapshot!(shown.join("\n"));
}

fn axis<'a>(json: &'a Value, name: &str) -> &'a Value {
    &json["layout"][name]
}

#[test]
fn repeated_labels_keep_every_row_and_column_and_query_0_is_on_top() {
    let tokens = ["<|endoftext|>", " the", " cat", " the", " cat"];
    let values: Vec<f32> = (0..25).map(|i| i as f32 / 25.0).collect();
    let json = check(View::Heatmap(square(&tokens, values, ValueKind::Probability)));
    let z = json["data"][0]["z"].as_array().unwrap();
    assert_eq!(z.len(), 5);
    assert!(z.iter().all(|row| row.as_array().unwrap().len() == 5));
    assert_eq!(z[2][3], 0.52);
    for name in ["xaxis", "yaxis"] {
        let axis = axis(&json, name);
        assert_eq!(axis["tickvals"].as_array().unwrap().len(), 5, "{name}");
        assert_eq!(axis["ticktext"][3], "' the' (3)", "{name}");
        assert_ne!(axis["type"], "category");
    }
    let range =
        |name| axis(&json, name)["range"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let (across, down): (Vec<f64>, Vec<f64>) = (range("xaxis"), range("yaxis"));
    assert_eq!((across, down), (vec![-0.5, 4.5], vec![4.5, -0.5]));
}

#[test]
fn colours_follow_the_meaning() {
    let table = [
        (ValueKind::Probability, [0.0, 0.2, 0.3, 0.9], 0.0, 1.0),
        (ValueKind::Probability, [0.0, 0.1, 0.21, 0.0], 0.0, 0.25),
        (ValueKind::Probability, [0.0; 4], 0.0, 1.0),
        (ValueKind::Magnitude, [1.0, 7.3, 2.0, 0.0], 0.0, 8.0),
        (ValueKind::Signed, [1.0, -7.3, 2.0, 0.0], -7.3, 7.3),
        (ValueKind::Signed, [0.0; 4], -1.0, 1.0),
        (ValueKind::Signed, [f32::NEG_INFINITY, 2.0, f32::NAN, -1.0], -2.0, 2.0),
    ];
    for (value_kind, values, low, high) in table {
        let json = check(View::Heatmap(square(&["a", "b"], values.to_vec(), value_kind)));
        let trace = &json["data"][0];
        assert_eq!(
            (trace["zmin"].as_f64(), trace["zmax"].as_f64()),
            (Some(low), Some(high)),
            "{value_kind:?}"
        );
        let stops = trace["colorscale"].as_array().unwrap();
        assert_eq!((stops[0][0].as_f64(), stops[stops.len() - 1][0].as_f64()), (Some(0.0), Some(1.0)));
    }
}

#[test]
fn numbers_that_are_not_finite_are_null_and_are_told() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let json = check(View::Heatmap(square(&["a", "b"], vec![1.0, -inf, nan, inf], ValueKind::Signed)));
    assert_eq!(json["data"][0]["z"].to_string(), "[[1,null],[null,null]]");
    let told: Vec<&str> = json["data"].as_array().unwrap()[1..]
        .iter()
        .map(|trace| trace["hovertemplate"].as_str().unwrap().split("value ").nth(1).unwrap())
        .collect();
    assert_eq!(told, ["-inf<extra></extra>", "inf<extra></extra>", "NaN<extra></extra>"]);
    let figure = square(&["a", "b"], vec![1.0, -inf, nan, inf], ValueKind::Signed).figure().unwrap();
    assert!(["-inf", "NaN", " inf"].iter().all(|word| figure.to_text().contains(word)), "{figure:?}");

    let axes = ["head", "query", "key"].map(|name| Axis::unlabelled(name, 2)).to_vec();
    let heads = NamedTensor::from_vec("heads", vec![1.0, 5.0, 1.0, 1.0, 1.0, nan, 1.0, 1.0], axes).unwrap();
    let json = check(multiples(heads));
    assert_eq!(json["layout"]["updatemenus"][0]["active"], 0);
    let button = &json["layout"]["updatemenus"][0]["buttons"][1]["args"];
    assert_eq!(button[0]["z"].to_string(), "[[[1,null],[1,1]],[[null,1],[null,null]]]");
    assert_eq!(button[2].to_string(), "[0,1]");

    let row =
        || NamedTensor::from_vec("row", vec![nan, -inf, inf], vec![Axis::unlabelled("token", 3)]).unwrap();
    let all = [View::Bars(row()), View::Lines(row()), View::Tokens(row())];
    all.into_iter().for_each(|view| drop(check(view)));
}

#[test]
fn text_is_only_text() {
    let n = NASTY.len();
    let values: Vec<f32> = (0..n * n).map(|i| (i as f32).sin()).collect();
    let square = square(&NASTY, values, ValueKind::Signed).renamed(NASTY.join(" "));
    let row = square.select("query", 1).unwrap();
    let mut table = Table::new(NASTY.join(" "), NASTY);
    table.push(NASTY);
    let heads = NamedTensor::new(
        NASTY.join(" "),
        square.tensor().unsqueeze(0).unwrap(),
        vec![Axis::labelled("head", labels(&[NASTY[0]])), square.axes()[0].clone(), square.axes()[1].clone()],
    );
    let views = [
        View::Heatmap(square.clone()),
        multiples(heads.unwrap()),
        View::Bars(row.clone()),
        View::Bars(square.slice("query", 0..4).unwrap()),
        View::Lines(square.clone()),
        View::Lines(square.slice("query", 0..9).unwrap()),
        View::Tokens(row),
        View::Table(table),
    ];
    for view in views {
        let json = check(view.clone());
        strings(&json, &mut |text| {
            let own = text.replace("<br>", "").replace("<extra></extra>", "");
            assert!(!own.contains('<') && !own.contains('$'), "{text}");
            let templates = own.matches("%{").count();
            let known: usize =
                ["%{x}", "%{y}", "%{text}", "%{z:", "%{y:"].iter().map(|t| own.matches(t).count()).sum();
            assert_eq!(templates, known, "{text}");
            assert!(own != "%{y}");
        });
        let html = Figure::new(vec![view]).unwrap().to_html().unwrap();
        let after = html.split("<body>").nth(1).unwrap();
        let scripts = (after.matches("<script").count(), after.matches("</script>").count());
        assert_eq!(scripts.0, scripts.1);
        let own = after.split("<script>").next().unwrap();
        assert!(!own.contains("<b>x") && !own.contains("src=\"http"));
    }
}

fn strings(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, look)),
        Value::Object(items) => items.values().for_each(|item| strings(item, look)),
        _ => {}
    }
}

#[test]
fn any_shape_is_drawn_or_refused_with_a_remedy() {
    for (rows, columns) in [(1, 1), (1, 300), (300, 1), (3, 1500), (700, 2), (12, 12), (13, 13), (90, 90)] {
        check(View::Heatmap(counted(&[rows, columns])));
        check(multiples(counted(&[3, rows, columns])));
        check(View::Bars(counted(&[rows.min(40), columns.min(40)])));
        check(View::Lines(counted(&[rows, columns])));
        check(View::Bars(counted(&[columns])));
        check(View::Lines(counted(&[columns])));
        check(View::Tokens(counted(&[columns])));
    }
    for heads in [1, 2, 16, 17, 150] {
        check(multiples(counted(&[heads, 3, 5])));
    }
    let table = Table::new("empty", Vec::<String>::new());
    check(View::Table(table));

    let refused: [(View, &str); 11] = [
        (View::Heatmap(counted(&[0, 3])), "no entries on axis `row`"),
        (View::Heatmap(counted(&[3, 0])), "no entries on axis `column`"),
        (multiples(counted(&[0, 3, 3])), "no entries on axis `head`"),
        (View::Bars(counted(&[0])), "no entries"),
        (View::Lines(counted(&[0, 4])), "no entries"),
        (View::Tokens(counted(&[0])), "no entries"),
        (View::Heatmap(counted(&[3])), "1 axes; this view draws 2"),
        (View::Bars(counted(&[2, 2, 2])), "3 axes; this view draws 1 or 2"),
        (View::Heatmap(counted(&[4100, 4100])), "at most 16777216"),
        (multiples(counted(&[2, 1000, 600])), "at most 1000000"),
        (multiples(counted(&[2000, 2, 2])), "at most 1024"),
    ];
    for (view, why) in refused {
        let error: Error = Figure::new(vec![view]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Figure);
        let text = error.to_string();
        assert!(text.contains(why) && text.contains("help:"), "{text}");
    }
    assert!(Figure::new(Vec::new()).is_err());
}

#[test]
fn many_heads_are_one_small_trace_and_a_menu() {
    let n = 64;
    let mut values = vec![0.0; 4 * n * n];
    for head in 0..4 {
        for query in 0..n {
            values[head * n * n + query * n + if head == 2 { query / 2 } else { 0 }] = 0.9;
        }
    }
    let axes = vec![Axis::unlabelled("head", 4), Axis::unlabelled("query", n), Axis::unlabelled("key", n)];
    let named =
        NamedTensor::from_vec("pattern", values, axes).unwrap().with_value_kind(ValueKind::Probability);
    let json = check(multiples(named));
    let menu = &json["layout"]["updatemenus"][0];
    assert_eq!(menu["active"], 2, "the head that looks elsewhere than at the first token");
    assert_eq!(menu["buttons"].as_array().unwrap().len(), 4);
    assert_eq!(menu["buttons"][1]["label"], "H1");
    let small = json["data"][1]["z"].as_array().unwrap();
    assert_eq!(small.len(), 4 * 33 - 1, "four pictures of 32 rows, one gap after each but the last");
    assert!(json.to_string().len() < 120_000, "{}", json.to_string().len());
}

#[test]
fn figures_stack_beyond_plotlys_eight_axes() {
    let one = counted(&[3, 4]).figure().unwrap();
    let height = one.size().1;
    let stack = Figure::stack(std::iter::repeat_n(one, 10)).unwrap();
    assert!(stack.size().1 > 9 * height);
    let json: Value = serde_json::from_str(&stack.to_json().unwrap()).unwrap();
    assert!(json["layout"]["xaxis10"]["domain"].is_array());
    assert_eq!(json["data"][9]["xaxis"], "x10");
    assert_eq!(stack.to_text().matches("counted").count(), 10);
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let figure = counted(&[3, 4]).figure().unwrap();
    let starts: [(&str, &[u8]); 5] = [
        ("html", b"<!DOCTYPE html>"),
        ("png", b"\x89PNG"),
        ("svg", b"<svg"),
        ("json", b"{"),
        ("txt", b"counted"),
    ];
    for (extension, start) in starts {
        let path = folder.path().join(format!("figure.{extension}"));
        figure.save(&path).unwrap();
        assert!(std::fs::read(path).unwrap().starts_with(start), "{extension}");
    }
    for (name, kind, why) in [
        ("figure.gif", ErrorKind::Figure, "html, png, svg, json, txt"),
        ("figure", ErrorKind::Figure, "html, png, svg, json, txt"),
        ("no/such/figure.png", ErrorKind::File, "help:"),
    ] {
        let error = figure.save(folder.path().join(name)).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5, "nothing is left of what failed");
}

#[test]
fn a_page_holds_plotly_once() {
    let figure = counted(&[3, 4]).figure().unwrap();
    let sections = [
        Section::Heading("<A>".into()),
        Section::Text("one\n\ntwo".into()),
        Section::Figure(figure.clone()),
        Section::Figure(figure),
    ];
    let page = Page::new("R & D", sections).to_html().unwrap();
    let packed: Vec<&str> = page.split("id=\"plotly\">").skip(1).collect();
    assert_eq!(packed.len(), 1);
    let packed = STANDARD.decode(packed[0].split('<').next().unwrap()).unwrap();
    let mut script = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut script).unwrap();
    assert_eq!(script.matches("* plotly.js v").count(), 1);
    assert!(!script.contains("MathJax.loader"), "MathJax would read text as formulas");
    assert_eq!(page.matches("<script type=\"application/json\">").count(), 2);
    for part in ["<h1>R &amp; D</h1>", "<h2>&lt;A&gt;</h2>", "<p>one</p>", "<p>two</p>"] {
        assert!(page.contains(part), "{part}");
    }
}

/// One head on many tokens: an image, whose page is small, and whose hover knows every number.
#[test]
fn a_large_matrix_is_an_image() {
    let side = 1500;
    let tokens: Vec<String> = (0..side).map(|i| format!(" t{i}")).collect();
    let value = |i: usize| match (i / side, i % side) {
        (query, key) if key > query => 0.0,
        (query, key) => {
            ((query * 7919 + key * 104_729) % 9973) as f32 / 9973.0 / (1.0 + (query - key) as f32)
        }
    };
    let axes = |names: [&'static str; 2]| names.map(|name| Axis::labelled(name, tokens.clone())).to_vec();
    let values: Vec<f32> = (0..side * side).map(value).collect();
    let pattern = NamedTensor::from_vec("pattern", values.clone(), axes(["query", "key"])).unwrap();
    let pattern = pattern.with_value_kind(ValueKind::Probability);
    let figure = pattern.figure().unwrap();
    assert!(figure.to_html().unwrap().len() < 5_000_000);
    let json: Value = serde_json::from_str(&figure.to_json().unwrap()).unwrap();
    let images: Vec<&Value> =
        json["data"].as_array().unwrap().iter().filter(|trace| trace["type"] == "image").collect();
    let pixels = |trace: &Value| {
        let source = trace["source"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
        let bytes = STANDARD.decode(source).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let palette = reader.info().palette.as_ref().map(|palette| palette.to_vec());
        assert_eq!((reader.info().width, reader.info().height), (side as u32, side as u32));
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (pixels, palette)
    };
    let (seen, palette) = pixels(images[0]);
    let palette = palette.expect("it is in the scale's colours");
    let digits = pixels(images[1]).0;
    let template = images[1]["hovertemplate"].as_str().unwrap();
    assert!(template.starts_with("query: %{y}<br>key: %{x}<br>value %{z[2]}.%{z[0]:02d}"), "{template}");
    let decimals = if template.contains("%{z[1]:02d}") { 4 } else { 3 };
    for i in (0..side * side).step_by(977) {
        let [hundredths, rest, whole] = [0, 1, 2].map(|part| u32::from(digits[3 * i + part]));
        let said = format!("{whole}.{hundredths:02}{rest:0width$}", width = decimals - 2);
        let apart = said.parse::<f64>().unwrap() - f64::from(values[i]);
        assert!(
            apart.abs() <= 0.500_001 * 10f64.powi(-(decimals as i32)),
            "at {i}: {said} for {}",
            values[i]
        );
        // Dark is much.
        let light = |i: usize| u32::from(palette[3 * usize::from(seen[i])]);
        assert!(values[i] < 0.9 || light(i) < 60, "at {i}: {}", light(i));
        assert!(values[i] > 0.01 || light(i) > 200, "at {i}: {}", light(i));
    }
    // Row 0 at the top, in Plotly's axis as in the image.
    let range = &json["layout"]["yaxis"]["range"];
    assert!(range[0].as_f64() > range[1].as_f64(), "{range}");
    assert_eq!(json["layout"]["yaxis"]["ticktext"][1499], "' t1499' (1499)");
    assert!(
        figure.to_text().contains("each mark is the farthest from 0 of 32 by 32"),
        "{}",
        figure.to_text()
    );
    // With numbers below zero, and some that are not finite, the hover says where it is.
    let scores = values.iter().map(|v| if *v == 0.0 { f32::NEG_INFINITY } else { v - 0.5 }).collect();
    let scores = NamedTensor::from_vec("scores", scores, axes(["query", "key"])).unwrap().figure().unwrap();
    let json: Value = serde_json::from_str(&scores.to_json().unwrap()).unwrap();
    let images: Vec<&Value> =
        json["data"].as_array().unwrap().iter().filter(|trace| trace["type"] == "image").collect();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0]["hovertemplate"], "query: %{y}<br>key: %{x}<extra></extra>");
    let (seen, palette) = pixels(images[0]);
    let at = 3 * usize::from(seen[1]);
    assert_eq!(palette.unwrap()[at..at + 3], [0xe3, 0xe4, 0xe8], "what is masked is grey");
}

/// Of patterns that are too many together, the one that was chosen is drawn.
#[test]
fn one_of_many_patterns_is_drawn() {
    let side = 400;
    let axes =
        vec![Axis::unlabelled("head", 8), Axis::unlabelled("query", side), Axis::unlabelled("key", side)];
    let values = (0..8 * side * side).map(|i| (i / (side * side)) as f32 / 8.0).collect();
    let patterns = NamedTensor::from_vec("pattern", values, axes).unwrap();
    let error = Figure::attention(&patterns).unwrap_err();
    assert_eq!(error.remedy(), Some(Remedy::DrawLess));
    let chosen = Figure::attention_of(&patterns, 3).unwrap();
    assert!(chosen.to_text().contains("(head 3)"), "{}", chosen.to_text());
    assert!(Figure::attention_of(&patterns, 8).is_err());
}

/// A type that says what of it is to be seen is one that a cell can end with.
#[test]
fn what_draws_itself_does_so_in_a_cell() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let list = std::fs::read_to_string(src.join("visualize.rs")).expect("visualize.rs");
    let (_, list) = list.split_once("impl_visualize! {").expect("the list");
    let listed: Vec<&str> = list.split([',', '}', '\n']).map(str::trim).collect();
    let (mut folders, mut seen) = (vec![src], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source");
            let named = text.lines().filter_map(|line| line.strip_prefix("impl Visualize for "));
            for name in
                named.map(|rest| rest.trim_end_matches([' ', '{', '}'])).filter(|name| *name != "Figure")
            {
                assert!(listed.contains(&name), "{name} of {} is not in visualize.rs", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
