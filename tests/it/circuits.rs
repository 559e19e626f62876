//! Circuits and composition against TransformerLens's, on tiny models of every architecture.

use crate::common::{Golden, MODELS, max_abs_diff, numbers, refused};
use headlight::analysis::course_project::*;
use headlight::analysis::*;
use headlight::prelude::*;
use headlight::{ErrorKind, Result};

fn heads(model: &Model) -> Vec<Head> {
    let dims = *model.dims();
    (0..dims.n_layers).flat_map(|layer| (0..dims.n_heads).map(move |index| head(layer, index))).collect()
}

fn f64s(named: &NamedTensor) -> Result<Vec<f64>> {
    Ok(named.to_vec()?.into_iter().map(f64::from).collect())
}

/// Each golden model as it is and folded, by the names that the goldens give them.
fn forms(golden: &Golden) -> Result<[(&'static str, Model); 2]> {
    let raw = Model::open(&golden.folder)?;
    let folded = raw.folded()?;
    Ok([("raw", raw), ("proc", folded)])
}

fn of_heads<T>(model: &Model, of: impl Fn(Head) -> Result<T>) -> Result<Vec<T>> {
    heads(model).into_iter().map(of).collect()
}

/// The largest number, in absolute value.
fn size(values: &[f64]) -> f64 {
    values.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()))
}

struct Check {
    what: String,
    golden: Vec<f64>,
}

impl Check {
    fn of(golden: &Golden, model: &str, form: &str, path: &[&str]) -> Check {
        let path: Vec<&str> = ["weights_fp64", form].iter().chain(path).copied().collect();
        Check { what: format!("{model}, {path:?}"), golden: numbers(golden.at(&path)).collect() }
    }

    fn within(&self, found: &[f64], tolerance: f64) {
        let apart = max_abs_diff(found, &self.golden);
        println!("{}: {apart:.1e}", self.what);
        assert!(apart <= tolerance, "{}: differs by {apart}", self.what);
    }

    /// Each head's numbers within 1e-5 of the largest of them.
    fn within_of_the_largest(&self, found: &[Vec<f64>]) {
        let len = self.golden.len() / found.len();
        let mut worst = 0f64;
        for (found, golden) in found.iter().zip(self.golden.chunks(len)) {
            worst = worst.max(max_abs_diff(found, golden) / size(golden));
        }
        println!("{}: {worst:.1e} of the largest", self.what);
        assert!(worst <= 1e-5, "{}: differs by {worst} of the largest", self.what);
    }
}

#[test]
fn spectra() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model) in forms(&golden)? {
            let check = |key: &str| Check::of(&golden, name, form, &[key]);
            for (kind, circuit) in [("OV", ov_circuit as fn(&Model, Head) -> _), ("QK", qk_circuit)] {
                let values = of_heads(&model, |head| f64s(&circuit(&model, head)?.singular_values()?))?;
                check(&format!("{kind}_S")).within_of_the_largest(&values);
                let values = of_heads(&model, |head| f64s(&circuit(&model, head)?.eigenvalues()?))?;
                check(&format!("{kind}_eig")).within_of_the_largest(&values);
                let traces: Vec<f64> = values.iter().map(|parts| parts.iter().step_by(2).sum()).collect();
                check(&format!("{kind}_trace")).within(&traces, 1e-5);
                let norms = of_heads(&model, |head| circuit(&model, head)?.norm())?;
                check(&format!("{kind}_norm")).within_of_the_largest(&[norms]);
                let positive = of_heads(&model, |head| circuit(&model, head)?.eigenvalue_positivity())?;
                check(&format!("{kind}_eig_positivity")).within(&positive, 1e-5);
            }
            let full = of_heads(&model, |head| ov_circuit(&model, head)?.full_eigenvalue_positivity())?;
            check("fullOV_eig_positivity").within(&full, 1e-5);
            let mass = of_heads(&model, |head| qk_circuit(&model, head)?.previous_token_mass());
            if model.spec().has(Site::PosEmbed) {
                check("posQK_prev_token_mass").within(&mass?, 1e-5);
            } else {
                assert!(
                    mass.expect_err("no position embeddings").to_string().contains("at_distance"),
                    "{name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn products() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model) in forms(&golden)? {
            let d_model = model.dims().d_model;
            let circuits =
                [("OV_L0H0", ov_circuit(&model, head(0, 0))?), ("QK_L1H1", qk_circuit(&model, head(1, 1))?)];
            for (key, circuit) in circuits {
                let expected = golden.tensor(&format!("W.{form}.{key}")).expect("a product");
                let apart = max_abs_diff(&f64s(&circuit.submatrix(d_model)?)?, &expected);
                println!("{name}, {form}, {key}: {apart:.1e} of {:.1e}", size(&expected));
                assert!(apart <= 1e-5 * size(&expected), "{name}, {form}, {key}: differs by {apart}");
                let corner = circuit.submatrix(2)?.to_vec()?;
                assert_eq!(corner.len(), 4);
                assert!((f64::from(corner[2]) - expected[d_model]).abs() < 1e-5);
            }
        }
    }
    Ok(())
}

#[test]
fn copying() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model) in forms(&golden)? {
            for (key, k) in [("fullOV_top1_acc", 1), ("fullOV_top5_acc", 5)] {
                let found = of_heads(&model, |head| copying_accuracy(&model, &[head], k))?;
                Check::of(&golden, name, form, &[key]).within(&found, 1e-9);
            }
            // Two heads together, by the definition.
            let pair = [head(1, 0), head(1, 2)];
            let ids: Vec<u32> = (0..model.dims().d_vocab as u32).collect();
            let of = |head| ov_circuit(&model, head)?.between_tokens(&ids)?.to_vec();
            let (one, two): (Vec<f32>, Vec<f32>) = (of(pair[0])?, of(pair[1])?);
            let sum: Vec<f32> = one.iter().zip(&two).map(|(a, b)| a + b).collect();
            let copied = sum.chunks(ids.len()).enumerate().filter(|(token, row)| {
                let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
                best == Some(*token)
            });
            let expected = copied.count() as f64 / ids.len() as f64;
            assert_eq!(copying_accuracy(&model, &pair, 1)?, expected, "{name}, {form}");
            assert_eq!(copying_accuracy(&model, &pair, ids.len())?, 1.0);
        }
    }
    Ok(())
}

#[test]
fn composition() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model) in forms(&golden)? {
            for (key, kind) in [("Q", Composition::Q), ("K", Composition::K), ("V", Composition::V)] {
                let scores = composition_scores(&model, kind)?;
                let found = f64s(scores.values())?;
                // TransformerLens has 0 where the second head is not later.
                let shown: Vec<f64> =
                    found.iter().map(|score| if score.is_nan() { 0.0 } else { *score }).collect();
                Check::of(&golden, name, form, &["composition", key]).within(&shown, 1e-5);
                let layers = model.dims().n_layers;
                let (later, all) = (16 * (layers * (layers - 1) / 2), 16 * layers * layers);
                assert_eq!(found.iter().filter(|score| score.is_nan()).count(), all - later);
                let ranked = scores.ranked()?;
                assert_eq!(ranked.len(), later);
                let (earlier, later, best) = ranked[0];
                assert_eq!(scores.score(earlier, later)?, best);
                assert!(ranked.iter().all(|(_, _, score)| *score <= best));
                let seen = scores.heatmap()?;
                let (row, column) = (4 * earlier.layer + earlier.head, 4 * (later.layer - 1) + later.head);
                assert_eq!(seen.value(&[row, column])?, best);
                assert_eq!(seen.axis("later head")?.label(0), "L1H0");
                // Random matrices, of rank 16 in 64 dimensions or of much the same shape.
                assert!((scores.baseline().mean - 0.17).abs() < 0.06, "{:?}", scores.baseline());
                assert!(scores.baseline().std > 0.0 && scores.baseline().std < 0.04);
            }
        }
    }
    Ok(())
}

/// The circuit between a query and a key some positions before it is what makes their score, position by position: without
/// biases and norms of heads, x QK x^T, scaled.
#[test]
fn circuits_at_distances_make_the_scores() -> Result<()> {
    for name in ["tiny-llama-random", "tiny-llama3", "tiny-mistral", "tiny-gptj"] {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let run = model.run_with_cache(golden.ids("A"))?;
        let (d_model, d_head) = (model.dims().d_model, model.dims().d_head);
        for head in heads(&model) {
            let mut x = f64s(&run.get(("ln1.hook_normalized", head.layer))?)?;
            let of_norm = |name: &str| model.weight(&format!("blocks.{}.ln1.{name}", head.layer));
            let gain = f64s(&of_norm("w")?)?;
            let bias = of_norm("b").and_then(|bias| f64s(&bias)).unwrap_or(vec![0.0; d_model]);
            x.iter_mut().enumerate().for_each(|(i, x)| *x = *x * gain[i % d_model] + bias[i % d_model]);
            let scores = run.attn_scores(head.layer)?.select("head", head.head)?;
            for (query, key) in [(5, 5), (5, 4), (9, 4), (11, 5)] {
                let circuit = qk_circuit(&model, head)?.at_distance(query - key)?;
                let qk = f64s(&circuit.submatrix(d_model)?)?;
                let row = |position: usize| &x[position * d_model..(position + 1) * d_model];
                let product: f64 = (0..d_model)
                    .map(|i| {
                        row(query)[i] * (0..d_model).map(|j| qk[i * d_model + j] * row(key)[j]).sum::<f64>()
                    })
                    .sum();
                let apart = product / (d_head as f64).sqrt() - f64::from(scores.value(&[query, key])?);
                assert!(apart.abs() < 1e-4, "{name}, {head}, {query} to {key}: differs by {apart}");
            }
            let here = qk_circuit(&model, head)?;
            assert_eq!(
                here.at_distance(0)?.submatrix(d_model)?.to_vec()?,
                here.submatrix(d_model)?.to_vec()?
            );
        }
    }
    let rotary = Model::open(&Golden::open("tiny-llama3").folder)?;
    let embedded = Model::open(&Golden::open("tiny-neo").folder)?;
    let (of_rotary, of_embedded) = (qk_circuit(&rotary, head(0, 0))?, qk_circuit(&embedded, head(0, 0))?);
    let run = rotary.run_with_cache(vec![1, 2, 3])?;
    refused(vec![
        ("too far", of_rotary.at_distance(64).map(|_| ()), ErrorKind::Input, &["64 positions", "0 to 63"]),
        (
            "embedded",
            of_embedded.at_distance(1).map(|_| ()),
            ErrorKind::Input,
            &["turn no queries and keys", "`positions`"],
        ),
        (
            "one distance of a run",
            of_rotary.at_distance(1)?.scores(&run).map(|_| ()),
            ErrorKind::Input,
            &["not at 1 alone", "qk_circuit"],
        ),
    ]);
    Ok(())
}

#[test]
fn scores_and_patterns_are_the_hooks() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model) in forms(&golden)? {
            let edited = model.ablate(head(0, 1), Ablation::Zero)?;
            for run in [model.run_with_cache(golden.ids("B"))?, edited.run_with_cache(golden.ids("A"))?] {
                for head in heads(&model) {
                    let qk = qk_circuit(&model, head)?;
                    let (scores, pattern) = (qk.scores(&run)?, qk.pattern(&run)?);
                    let hooks = [run.attn_scores(head.layer)?, run.pattern(head.layer)?];
                    for ((found, hook), tolerance) in [scores, pattern].iter().zip(&hooks).zip([5e-5, 1e-5]) {
                        let hook = hook.select("head", head.head)?;
                        assert_eq!(found.axis_names(), hook.axis_names());
                        assert_eq!(found.axes()[0].labels(), hook.axes()[0].labels());
                        let unmasked = |named: &NamedTensor| -> Result<Vec<f64>> {
                            let finite = |value: f64| if value == f64::NEG_INFINITY { 0.0 } else { value };
                            Ok(f64s(named)?.into_iter().map(finite).collect())
                        };
                        let apart = max_abs_diff(&unmasked(found)?, &unmasked(&hook)?);
                        assert!(apart < tolerance, "{name}, {form}, {head}: differs by {apart}");
                        let ahead = |named: &NamedTensor| named.value(&[0, 1]);
                        assert_eq!(ahead(found)?, ahead(&hook)?);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_full_circuit_in_parts() -> Result<()> {
    let golden = Golden::open(MODELS[1]);
    let model = Model::open(&golden.folder)?.folded()?;
    let d_vocab = model.dims().d_vocab;
    let ids: Vec<u32> = (0..d_vocab as u32).collect();
    for (circuit, sides) in [
        (ov_circuit(&model, head(1, 3))?, ["source", "output"]),
        (qk_circuit(&model, head(1, 3))?, ["query", "key"]),
    ] {
        let full = circuit.between_tokens(&ids)?;
        assert_eq!(full.axis_names(), sides);
        let values = full.to_vec()?;
        let few = circuit.between_tokens([7, 3])?;
        assert!((few.value(&[0, 1])? - values[7 * d_vocab + 3]).abs() < 1e-4);
        assert_eq!(few.axes()[0].labels(), Some(model.to_str_tokens([7, 3])?.as_slice()));

        for k in [1, 5, 200, d_vocab * d_vocab + 1] {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
            let found = circuit.top_pairs(k)?;
            assert_eq!(found.pairs().len(), k.min(values.len()));
            for (pair, &index) in found.pairs().iter().zip(&order).take(500) {
                assert!((pair.score - values[index]).abs() < 1e-4, "{pair:?} against {}", values[index]);
                let own = values[pair.from.0 as usize * d_vocab + pair.to.0 as usize];
                assert!((pair.score - own).abs() < 1e-4);
            }
        }

        // The core's eigenvalues are the big square's: their sum is its trace.
        let trace: f64 = (0..d_vocab).map(|i| f64::from(values[i * d_vocab + i])).sum();
        let eigenvalues = f64s(&circuit.full_eigenvalues()?)?;
        let sum: f64 = eigenvalues.iter().step_by(2).sum();
        assert!((sum - trace).abs() < 1e-4 * size(&eigenvalues), "{sum} against {trace}");

        let directions = circuit.directions(3)?;
        let values = circuit.singular_values()?.to_vec()?;
        for (direction, value) in directions.directions().iter().zip(values) {
            assert!((direction.singular_value - f64::from(value)).abs() < 1e-4);
            for tokens in [&direction.left, &direction.right] {
                assert_eq!(tokens.len(), 8);
                assert!(tokens.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            }
        }
    }
    Ok(())
}

#[test]
fn positions_are_the_definition() -> Result<()> {
    let golden = Golden::open(MODELS[0]);
    let model = Model::open(&golden.folder)?;
    let found = qk_circuit(&model, head(1, 2))?.positions(5)?;
    assert_eq!(found.axis_names(), ["query", "key"]);
    let embeddings = model.weight("W_pos")?.slice("position", 0..5)?;
    let weight = |name: &str| model.weight(&format!("blocks.1.attn.{name}"))?.select("head", 2);
    let q = embeddings.tensor().matmul(weight("W_Q")?.tensor())?;
    let k = embeddings.tensor().matmul(weight("W_K")?.tensor())?;
    let expected = NamedTensor::new("expected", q.matmul(&k.t()?)?, found.axes().to_vec())?;
    assert!(max_abs_diff(&f64s(&found)?, &f64s(&expected)?) < 1e-4);
    Ok(())
}

#[test]
fn the_published_matrix() -> Result<()> {
    let golden = Golden::open(MODELS[1]);
    let model = Model::open(&golden.folder)?;
    // Fewer tokens than heads, as many, and more.
    for (tokens, drawn) in [(3, 3), (4, 4), (9, 4)] {
        let run = model.run_with_cache(&golden.ids("B")[..tokens])?;
        let published = qk_as_published(&run, 1)?;
        let (q, k) = (run.q(1)?, run.k(1)?);
        for a in 0..4 {
            for b in 0..4 {
                let mut sum = 0f64;
                for position in 0..tokens {
                    for d in 0..model.dims().d_head {
                        sum +=
                            f64::from(q.value(&[position, a, d])?) * f64::from(k.value(&[position, b, d])?);
                    }
                }
                let found = f64::from(published.heads().value(&[a, b])?);
                assert!((found - sum / tokens as f64).abs() < 1e-4, "{a}, {b}: {found}");
                if a < drawn && b < drawn {
                    assert_eq!(f64::from(published.as_drawn().value(&[a, b])?), found);
                }
            }
        }
        assert_eq!(published.as_drawn().shape(), [drawn, drawn]);
        assert_eq!(published.heads().axes()[0].label(3), "L1H3");
        let labels = &run.tokens()[0].labels()[..drawn];
        assert_eq!(published.as_drawn().axes()[1].labels(), Some(labels));
    }
    Ok(())
}

#[test]
fn results_say_and_show_themselves() -> Result<()> {
    let model = Model::open("built-in")?;
    let ov = ov_circuit(&model, head(1, 0))?;
    assert!(format!("{ov:?}").starts_with("OV circuit of L1H0 [160, 160]: singular values"), "{ov:?}");
    let run = model.run_with_cache("the cat sat on the mat")?;
    let figures = [
        ov.figure()?.to_text(),
        ov.top_pairs(3)?.figure()?.to_text(),
        ov.directions(2)?.figure()?.to_text(),
        composition_scores(&model, Composition::K)?.figure()?.to_text(),
        qk_as_published(&run, 1)?.figure()?.to_text(),
        qk_circuit(&model, head(0, 0))?.positions(12)?.figure()?.to_text(),
        ov.between_tokens([" cat", " sat"])?.figure()?.to_text(),
        ov.eigenvalues()?.figure()?.to_text(),
    ];
    for (text, said) in figures.iter().zip([
        "singular values",
        "output",
        "source",
        "random heads",
        "as published",
        "positions",
        "cat",
        "eigenvalue",
    ]) {
        assert!(text.contains(said), "`{said}` is not in: {text}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_asked() -> Result<()> {
    fn none<T>(found: Result<T>) -> Result<()> {
        found.map(|_| ())
    }
    let golden = Golden::open(MODELS[0]);
    let model = Model::open(&golden.folder)?;
    let built_in = Model::open("built-in")?;
    let (qk, ov) = (qk_circuit(&model, head(1, 1))?, ov_circuit(&model, head(1, 1))?);
    let words = ov_circuit(&built_in, head(0, 0))?;
    let run = model.run_with_cache(golden.ids("A"))?;
    let two = model.run_with_cache(vec![vec![1, 2], vec![3, 4]])?;
    let others = built_in.run_with_cache("the cat sat")?;
    let few = model.run_with_options(golden.ids("A"), &RunOptions::only([Site::Pattern]))?;
    let scores = composition_scores(&model, Composition::V)?;
    use ErrorKind::{Address, Input};
    #[rustfmt::skip]
    let cases: Vec<(&str, Result<()>, ErrorKind, &[&str])> = vec![
        ("a head that is not", none(qk_circuit(&model, head(1, 4))), Address, &["L1H4", "L0H0 to L1H3"]),
        ("a layer that is not", none(ov_circuit(&model, head(2, 0))), Address, &["L2H0"]),
        ("copying by one that is not", none(copying_accuracy(&model, &[head(0, 9)], 1)), Address, &["L0H9"]),
        ("copying by none", none(copying_accuracy(&model, &[], 1)), Input, &["0 heads", "at least one"]),
        ("copying among none", none(copying_accuracy(&model, &[head(0, 0)], 0)), Input, &["0 tokens"]),
        ("copying by one twice", none(copying_accuracy(&model, &[head(0, 0), head(0, 0)], 1)), Input, &["L0H0 is named twice"]),
        ("no pairs", none(ov.top_pairs(0)), Input, &["0 pairs", "at least one"]),
        ("no directions", none(ov.directions(0)), Input, &["0 directions of the OV circuit of L1H1", "1 to 16"]),
        ("more directions than there are", none(ov.directions(17)), Input, &["17 directions", "1 to 16"]),
        ("no corner", none(ov.submatrix(0)), Input, &["size 0", "1 to 64"]),
        ("a corner too large", none(qk.submatrix(65)), Input, &["size 65", "1 to 64"]),
        ("no tokens", none(ov.between_tokens(Vec::<u32>::new())), Input, &["0 tokens"]),
        ("an unknown token", none(ov.between_tokens([3, 160])), Input, &["160", "0 to 159"]),
        ("a text of several tokens", none(words.between_tokens(["the cat sat"])), Input, &["the cat sat", "not one"]),
        ("text without a tokenizer", none(ov.between_tokens([" cat"])), ErrorKind::Tokenizer, &["help"]),
        ("scores of OV", none(ov.scores(&run)), Input, &["OV circuit of L1H1 says nothing of attention scores", "qk_circuit(&model, head(1, 1))"]),
        ("positions through OV", none(ov.positions(3)), Input, &["OV circuit", "between positions"]),
        ("mass of OV", none(ov.previous_token_mass()), Input, &["OV circuit"]),
        ("no positions", none(qk.positions(0)), Input, &["0 positions", "1 to 128"]),
        ("more positions than there are", none(qk.positions(129)), Input, &["129", "1 to 128"]),
        ("another model's run", none(qk.scores(&others)), Input, &["160 wide", "64", "of the model"]),
        ("a run of two inputs", none(qk.pattern(&two)), Input, &["2 inputs", "item(0)"]),
        ("a run that kept little", none(qk.scores(&few)), Address, &["blocks.1.ln1.hook_normalized", "run again"]),
        ("composing backwards", none(scores.score(head(1, 0), head(0, 0))), Address, &["L0H0 reads nothing that L1H0"]),
        ("composing within a layer", none(scores.score(head(1, 0), head(1, 1))), Address, &["earlier layer first"]),
        ("composing with none", none(scores.score(head(0, 0), head(1, 7))), Address, &["L1H7"]),
        ("the published of two inputs", none(qk_as_published(&two, 0)), Input, &["2 inputs", "item(0)"]),
        ("the published of no layer", none(qk_as_published(&run, 2)), Address, &["blocks.2.attn.hook_q"]),
        ("the published of what was not kept", none(qk_as_published(&few, 0)), Address, &["blocks.0.attn.hook_q"]),
    ];
    refused(cases);
    Ok(())
}

/// A model that cannot tell tokens apart attends as the circuit says of positions alone.
#[test]
fn position_patterns_are_those_of_equal_tokens() -> Result<()> {
    let model = Model::open("built-in")?;
    let mean = model.weight("W_E")?.tensor().mean(0)?;
    let alike = model.edit("hook_embed", "every token the mean of all", move |x| {
        Ok(mean.reshape((1, 1, x.dim(2)?))?.broadcast_as(x.shape())?.contiguous()?)
    })?;
    let run = alike.run_with_cache("the quick brown fox jumps over the lazy dog")?;
    for index in 0..model.dims().n_heads {
        let expected = run.pattern(0)?.select("head", index)?;
        let found = qk_circuit(&model, head(0, index))?.position_pattern(expected.shape()[0])?;
        assert!(found.max_abs_diff(&expected)? < 1e-6);
    }
    Ok(())
}
