//! One figure of each kind, of made-up numbers, written to a folder: `cargo run --example figures -- out`.

use std::path::PathBuf;

use headlight::{Axis, Figure, NamedTensor, Page, Result, Section, Table, ValueKind, View};

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/figures".into()));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        eprintln!("{} could not be made: {error}", folder.display());
        std::process::exit(1);
    }
    let figures = [
        ("heads", Figure::new(vec![View::SmallMultiples { values: pattern(8, &fox())?, selected: None }])?),
        ("one-head", pattern(8, &fox())?.select("head", 5)?.figure()?),
        ("scores", Figure::new(vec![View::Heatmap(masked()?)])?),
        ("layers-heads", head_scores()?.figure()?),
        ("all-heads", Figure::new(vec![View::SmallMultiples { values: all_heads()?, selected: None }])?),
        ("residual", residual()?.figure()?),
        ("long", pattern(3, &long())?.figure()?),
        ("bars", bars()?.figure()?),
        ("groups", Figure::new(vec![View::Bars(groups()?)])?),
        ("lines", Figure::new(vec![View::Lines(losses(3)?)])?),
        ("many-lines", Figure::new(vec![View::Lines(losses(24)?)])?),
        ("tokens", Figure::new(vec![View::Tokens(token_losses()?)])?),
        ("table", Figure::new(vec![View::Table(table())])?),
        (
            "nasty",
            Figure::new(vec![
                View::Heatmap(nasty()?),
                View::Bars(nasty()?.select("query", 1)?),
                View::Lines(nasty()?.slice("query", 0..3)?),
                View::Tokens(nasty()?.select("query", 2)?),
                View::Table(nasty_table()),
            ])?,
        ),
    ];
    let mut sections = vec![Section::Text(
        "One figure of each kind, of made-up numbers.\n\nEach is also saved alone beside this page.".into(),
    )];
    for (name, figure) in &figures {
        for extension in ["html", "png", "svg", "json", "txt"] {
            figure.save(folder.join(format!("{name}.{extension}")))?;
        }
        let json = figure.to_json()?.len() as f64 / 1024.0;
        println!("{name}: {json:.0} KiB of JSON\n{}", figure.to_text());
        sections.push(Section::Heading(name.replace('-', " ")));
        sections.push(Section::Figure(figure.clone()));
    }
    Page::new("All kinds of figures", sections).save(folder.join("all.html"))
}

fn fox() -> Vec<String> {
    let words = "the quick brown fox jumps the quick brown fox jumps";
    let words =
        words.split(' ').enumerate().map(|(i, w)| if i == 0 { w.to_string() } else { format!(" {w}") });
    std::iter::once("<|endoftext|>".to_string()).chain(words).collect()
}

fn long() -> Vec<String> {
    (0..96)
        .map(|i| ["<|endoftext|>", " a", " rather", " unpronounceable", " word", "s", ","][i % 7].to_string())
        .collect()
}

/// A number between 0 and 1 that looks random.
fn noise(seed: usize) -> f32 {
    let mixed = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635;
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 40) as f32) / ((1_u64 << 24) as f32)
}

/// Attention that looks at the first token, the previous one, or the one after the last occurrence.
fn attention(head: usize, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n * n];
    for query in 0..n {
        let logit = |key: usize| {
            let liking = match head % 4 {
                0 if key + 1 == query => 3.5,
                1 if query >= 6 && key == query - 4 => 4.5,
                2 if key == query => 2.0,
                _ if key == 0 => 2.5,
                _ => 0.0,
            };
            liking + noise(head * 7919 + query * 131 + key) * 1.5
        };
        let total: f32 = (0..=query).map(|key| logit(key).exp()).sum();
        (0..=query).for_each(|key| out[query * n + key] = logit(key).exp() / total);
    }
    out
}

fn square(tokens: &[String]) -> [Axis; 2] {
    [Axis::labelled("query", tokens.to_vec()), Axis::labelled("key", tokens.to_vec())]
}

fn pattern(heads: usize, tokens: &[String]) -> Result<NamedTensor> {
    let [query, key] = square(tokens);
    let values = (0..heads).flat_map(|head| attention(head, tokens.len())).collect();
    let axes = vec![Axis::unlabelled("head", heads), query, key];
    Ok(NamedTensor::from_vec("blocks.5.attn.hook_pattern", values, axes)?
        .with_value_kind(ValueKind::Probability))
}

fn all_heads() -> Result<NamedTensor> {
    let tokens = fox();
    let [query, key] = square(&tokens);
    let labels: Vec<String> = (0..144).map(|i| format!("L{}H{}", i / 12, i % 12)).collect();
    let values = (0..144).flat_map(|head| attention(head * 5 + head / 12, tokens.len())).collect();
    let axes = vec![Axis::labelled("head", labels), query, key];
    Ok(NamedTensor::from_vec("attention of every head", values, axes)?
        .with_value_kind(ValueKind::Probability))
}

fn masked() -> Result<NamedTensor> {
    let n = fox().len();
    let values =
        (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { noise(i) * 12.0 - 7.0 }).collect();
    NamedTensor::from_vec("blocks.5.attn.hook_attn_scores", values, square(&fox()).to_vec())
}

fn head_scores() -> Result<NamedTensor> {
    let values =
        (0..144).map(|i| noise(i * 31).powi(6) * if noise(i + 9) > 0.4 { 1.0 } else { -0.6 }).collect();
    NamedTensor::from_vec(
        "change of the logit difference, head ablated",
        values,
        vec![Axis::unlabelled("layer", 12), Axis::unlabelled("head", 12)],
    )
}

fn residual() -> Result<NamedTensor> {
    let values =
        (0..11 * 768).map(|i| (noise(i * 3) - 0.5) * if i % 768 == 447 { 20.0 } else { 3.0 }).collect();
    let axes = vec![Axis::labelled("position", fox()), Axis::unlabelled("d_model", 768)];
    NamedTensor::from_vec("blocks.5.hook_resid_post", values, axes)
}

fn bars() -> Result<NamedTensor> {
    let labels: Vec<String> = [" Paris", " the", " a", " London", " France", "\n"].map(String::from).to_vec();
    let values = vec![0.62, 0.11, 0.06, 0.03, 0.012, 0.004];
    Ok(NamedTensor::from_vec("next token", values, vec![Axis::labelled("token", labels)])?
        .with_value_kind(ValueKind::Probability))
}

fn groups() -> Result<NamedTensor> {
    let sorts: Vec<String> = ["clean", "corrupted", "patched"].map(String::from).to_vec();
    let axes = vec![Axis::labelled("run", sorts), Axis::unlabelled("layer", 6)];
    NamedTensor::from_vec(
        "logit difference by layer",
        (0..18).map(|i| noise(i * 17) * 6.0 - 2.0).collect(),
        axes,
    )
}

fn losses(lines: usize) -> Result<NamedTensor> {
    let n = fox().len();
    let values =
        (0..lines * n).map(|i| 9.0 - 6.0 * ((i % n) as f32 / n as f32) + 2.0 * noise(i * 5)).collect();
    let axes = vec![Axis::unlabelled("layer", lines), Axis::labelled("position", fox())];
    Ok(NamedTensor::from_vec("loss at each token", values, axes)?.with_value_kind(ValueKind::Magnitude))
}

fn token_losses() -> Result<NamedTensor> {
    let text = "When Mary and John went to the store, John gave a drink to Mary.\nThen they left; nobody knew why, but the \
                shopkeeper kept the change and closed the store for good.";
    let mut tokens = vec!["<|endoftext|>".to_string()];
    for word in text.split_inclusive('\n').flat_map(|line| line.split_inclusive(' ')) {
        match word.strip_suffix('\n') {
            Some(word) => tokens.extend([format!(" {}", word.trim()), "\n".to_string()]),
            None => tokens.push(format!(" {}", word.trim())),
        }
    }
    let values =
        (0..tokens.len()).map(|i| if i == 0 { f32::NAN } else { noise(i * 7).powi(2) * 9.0 }).collect();
    Ok(NamedTensor::from_vec("loss", values, vec![Axis::labelled("position", tokens)])?
        .with_value_kind(ValueKind::Magnitude))
}

fn table() -> Table {
    let mut table = Table::new(
        "Heads with the largest induction score",
        ["head", "score", "previous token", "most attended"],
    );
    for i in 0..8 {
        let score = format!("{:.4}", 0.93 - 0.07 * i as f32);
        let previous = format!("{:.4}", noise(i));
        table.push([format!("L{}H{}", 5 + i % 4, (i * 5) % 12), score, previous, fox()[i].clone()]);
    }
    table
}

fn nasty_tokens() -> Vec<String> {
    let tokens = [
        "<b>x</b>",
        "$a$",
        "%{y}",
        "</script>",
        "😀",
        "日本語",
        "\n",
        "",
        "\"'&amp;",
        " the",
        " the",
        "\u{1b}[31m",
        " antidisestablishmentarianism",
        "<a href=\"http://x\">",
    ];
    tokens.map(String::from).to_vec()
}

fn nasty() -> Result<NamedTensor> {
    let n = nasty_tokens().len();
    let values = (0..n * n)
        .map(|i| match i {
            3 => f32::NAN,
            17 => f32::INFINITY,
            i if i % n > i / n + 8 => f32::NEG_INFINITY,
            i => noise(i) * 2.0 - 1.0,
        })
        .collect();
    NamedTensor::from_vec("<i>nasty</i> $x$ </script>", values, square(&nasty_tokens()).to_vec())
}

fn nasty_table() -> Table {
    let mut table = Table::new("tokens & such", ["<b>id</b>", "text"]);
    for (i, token) in nasty_tokens().into_iter().enumerate() {
        table.push([i.to_string(), token]);
    }
    table
}
