use headlight::prelude::*;
fn main() -> headlight::Result<()> {
    let model = Model::open("built-in-sentiment")?;
    let text = "the plot was not bad.";
    let edges = |layers: std::ops::Range<usize>, queries: &[usize], keys: &[usize]| -> Vec<AttentionEdge> {
        layers
            .flat_map(|layer| (0..4).map(move |index| head(layer, index)))
            .flat_map(|head| {
                queries
                    .iter()
                    .flat_map(move |&query| keys.iter().map(move |&key| AttentionEdge { head, query, key }))
            })
            .collect()
    };
    let m = Metric::class_diff(&model, "positive", "negative")?;
    let v = |m: &Model, t: &str| -> headlight::Result<f32> {
        let l = m.run_with_cache(t)?.get(Site::ClassLogits)?.to_vec()?;
        Ok(l[1] - l[0])
    };
    let all = [0, 1, 2, 3, 5, 6, 7];
    for (n, e) in [
        ("bad,cls -> not", edges(0..4, &[0, 5], &[4])),
        ("all -> not", edges(0..4, &all, &[4])),
        ("all -> not L0", edges(0..1, &all, &[4])),
        ("all -> not L0-1", edges(0..2, &all, &[4])),
        ("all -> not, not->bad", [edges(0..4, &all, &[4]), edges(0..4, &[4], &[5])].concat()),
        ("not -> bad", edges(0..4, &[4], &[5])),
        ("not -> bad L0", edges(0..1, &[4], &[5])),
        ("bad<->not", [edges(0..4, &[5], &[4]), edges(0..4, &[4], &[5])].concat()),
        ("bad<->not L0-1", [edges(0..2, &[5], &[4]), edges(0..2, &[4], &[5])].concat()),
        ("all -> bad", edges(0..4, &[0, 1, 2, 3, 4, 6, 7], &[5])),
        ("bad<->not, cls-> not", [edges(0..4, &[5, 0], &[4]), edges(0..4, &[4], &[5])].concat()),
        ("bad<->not, cls-> bad", [edges(0..4, &[5], &[4]), edges(0..4, &[4, 0], &[5])].concat()),
        ("cls -> not, bad", edges(0..4, &[0], &[4, 5])),
        ("L3 cls -> not, bad", edges(3..4, &[0], &[4, 5])),
        ("cls -> all", edges(1..4, &[0], &[1, 2, 3, 4, 5, 6, 7])),
        ("cls -> all L2-3", edges(2..4, &[0], &[1, 2, 3, 4, 5, 6, 7])),
    ] {
        println!("{n}: {:.2}", v(&model.knock_out(&e)?, text)?);
    }
    let praise: Vec<String> =
        ["good", "superb", "charming", "clever", "fresh", "warm", "witty", "lovely", "elegant", "smart"]
            .iter()
            .flat_map(|a| ["film", "plot", "cast", "score"].iter().map(move |n| format!("the {n} was {a}.")))
            .collect();
    let blame: Vec<String> =
        ["bad", "awful", "dull", "weak", "clumsy", "silly", "flat", "bland", "cheap", "lazy"]
            .iter()
            .flat_map(|a| ["film", "plot", "cast", "score"].iter().map(move |n| format!("the {n} was {a}.")))
            .collect();
    for l in 0..4 {
        for site in ["resid_pre", "normalized_resid_post"] {
            for p in [ConceptPosition::First, ConceptPosition::At(4), ConceptPosition::Mean] {
                let Ok(d) = concept_direction(
                    &model,
                    praise.clone(),
                    blame.clone(),
                    (site, l),
                    p,
                    ConceptMethod::DifferenceOfMeans,
                ) else {
                    continue;
                };
                let s: Vec<String> = [-2.0, -1.0, 1.0, 2.0]
                    .iter()
                    .map(|c| {
                        let s = model.steer(d.hook(), d.vector(), *c)?;
                        Ok(format!(
                            "{:.1}/{:.1}/{:.1}",
                            v(&s, "the plot was dull.")?,
                            v(&s, "the plot was superb.")?,
                            v(&s, text)?
                        ))
                    })
                    .collect::<headlight::Result<_>>()?;
                println!(
                    "{site} {l} {p}: {} | {:.2} {:.2}",
                    s.join("  "),
                    v(&model.ablate_direction(d.hook(), d.vector(), d.threshold())?, "the plot was superb.")?,
                    v(&model.ablate_direction(d.hook(), d.vector(), d.threshold())?, "the plot was dull.")?
                );
            }
        }
    }
    let _ = m;
    Ok(())
}
