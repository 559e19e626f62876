//! headlight's side of the comparison. `serve MODEL` answers one JSON line for each that it reads: it does a piece of
//! work, and says how long it took; asked to check, it also writes what it found, and says how much memory it took.
//! `figure MODEL LAYER IDS PAGE [ARRAYS]` is a whole program: from the start to the first figure.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use headlight::prelude::*;
use serde_json::{Value, json};

type Fallible<T> = Result<T, Box<dyn Error>>;
type Arrays = Vec<(String, Tensor)>;
/// What a piece of work found. It is made into arrays only where they are compared.
type Found = Box<dyn FnOnce() -> Fallible<Arrays>>;

/// Of longer arrays only some numbers are compared, evenly taken; `theirs.py` takes the same.
const MOST_COMPARED: usize = 1 << 20;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", model] => serve(model),
        ["figure", model, layer, ids, page] => first_figure(model, layer, ids, page, None),
        ["figure", model, layer, ids, page, arrays] => first_figure(model, layer, ids, page, Some(arrays)),
        _ => Err("usage: compare serve MODEL, or compare figure MODEL LAYER IDS PAGE [ARRAYS]".into()),
    }
}

fn first_figure(model: &str, layer: &str, ids: &str, page: &str, arrays: Option<&str>) -> Fallible<()> {
    let run = Model::open(model)?.run_with_cache(Input::parse_ids(ids)?)?;
    let pattern = run.pattern(layer.parse()?)?;
    pattern.figure()?.save(page)?;
    match arrays {
        Some(path) => write(path, vec![named("pattern", &pattern)]),
        None => Ok(()),
    }
}

fn serve(name: &str) -> Fallible<()> {
    let mut floors = Floors::new();
    let model = Model::open(name)?;
    // The files are unmapped beside what comes next.
    std::thread::sleep(Duration::from_millis(500));
    trim();
    let loaded = memory("VmRSS:")?;
    reply(&json!({ "loaded": loaded, "layers": model.dims().n_layers, "vocabulary": model.dims().d_vocab }))?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        reply(&match answer(name, &model, &request, loaded, &mut floors) {
            Ok(answer) => answer,
            Err(error) => json!({ "error": error.to_string() }),
        })?;
    }
    Ok(())
}

fn reply(answer: &Value) -> Fallible<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn answer(name: &str, model: &Model, request: &Value, loaded: u64, floors: &mut Floors) -> Fallible<Value> {
    match text(request, "work")? {
        "floor" => return floor(model, request, floors),
        "repeated_ids" => return Ok(json!({ "ids": repeated(request)?.ids(model)? })),
        "limit" => return limit(model, request),
        "tidy" => return Ok(json!({})),
        _ => {}
    }
    let checked = request.get("arrays").and_then(Value::as_str);
    if checked.is_some() {
        // They are no part of what the work takes.
        floors.clear();
        trim();
        std::fs::write("/proc/self/clear_refs", "5")?;
    }
    let start = Instant::now();
    let found = work(name, model, request)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut answer = json!({ "seconds": seconds });
    if let Some(path) = checked {
        answer["peak"] = memory("VmHWM:")?.saturating_sub(loaded).into();
        write(path, found()?)?;
    }
    Ok(answer)
}

fn work(name: &str, model: &Model, request: &Value) -> Fallible<Found> {
    Ok(match text(request, "work")? {
        "load" => {
            let mut model = Model::open(name)?;
            if request["folded"] == true {
                model = model.folded()?;
            }
            let ids = sequences(request, "ids")?;
            Box::new(move || loaded_arrays(&model, ids))
        }
        "forward" => {
            let logits = model.logits(sequences(request, "ids")?)?;
            Box::new(move || Ok(vec![named("logits", &logits)]))
        }
        "run_with_cache" => {
            let options = match text(request, "keep")? {
                "everything" => RunOptions::new(),
                "before the logits" => RunOptions::new().stop_after(model.dims().n_layers - 1),
                "patterns" => RunOptions::only([Site::Pattern]),
                other => return Err(format!("nothing is known of keeping {other}").into()),
            };
            let run = model.run_with_options(sequences(request, "ids")?, &options)?;
            Box::new(move || run_arrays(&run))
        }
        "induction_scores" => {
            let mut scores = head_scores(model, &[HeadKind::Induction], &repeated(request)?)?;
            let scores = scores.remove(0);
            Box::new(move || Ok(vec![named("scores", scores.values())]))
        }
        "many_prompts" => {
            let mut found = Vec::new();
            for batch in request["batches"].as_array().ok_or("no batches")? {
                let run = model.run_with_options(ids(batch)?, &RunOptions::only([Site::Pattern]))?;
                for index in 0..run.tokens().len() {
                    found.push(run.item(index)?.induction_scores()?);
                }
            }
            Box::new(move || {
                let tensors: Vec<&Tensor> = found.iter().map(|scores| scores.values().tensor()).collect();
                Ok(vec![("scores".to_string(), Tensor::stack(&tensors, 0)?)])
            })
        }
        "ablation" => {
            let input = sequences(request, "ids")?;
            let effects = ablation_effects(model, input, Ablation::Zero, &metric(request)?)?;
            Box::new(move || {
                let clean = Tensor::new(&[effects.clean() as f32], &Device::Cpu)?;
                Ok(vec![
                    ("clean".to_string(), clean),
                    named("heads", effects.heads().values()),
                    named("layers", effects.layers()),
                ])
            })
        }
        "classify" => {
            let classes = model.classify(sequences(request, "ids")?)?;
            Box::new(move || Ok(vec![named("probabilities", classes.values())]))
        }
        "integrated_gradients" => {
            let baseline = Some(u32::try_from(size(request, "baseline")?)?);
            let method = AttributionMethod::IntegratedGradients { steps: size(request, "steps")?, baseline };
            let found = token_attribution(model, sequences(request, "ids")?, &metric(request)?, method)?;
            Box::new(move || {
                let value = Tensor::new(&[found.value() as f32], &Device::Cpu)?;
                Ok(vec![("value".to_string(), value), named("scores", found.scores())])
            })
        }
        "patching" => {
            let (clean, corrupted) = (sequences(request, "clean")?, sequences(request, "ids")?);
            let patched = activation_patching(model, clean, corrupted, Site::ResidPre, &metric(request)?)?;
            Box::new(move || Ok(vec![named("patched", &patched)]))
        }
        "composition" => {
            let scores = composition_scores(model, Composition::K)?;
            Box::new(move || {
                // Where the second head is not later there is no score; TransformerLens says 0.
                let values = scores.values().to_vec()?;
                let values: Vec<f32> = values.iter().map(|x| if x.is_nan() { 0.0 } else { *x }).collect();
                let tensor = Tensor::from_vec(values, scores.values().shape(), &Device::Cpu)?;
                Ok(vec![("scores".to_string(), tensor)])
            })
        }
        "singular_values" => {
            let values: Vec<NamedTensor> = model
                .heads()
                .map(|head| ov_circuit(model, head)?.singular_values())
                .collect::<headlight::Result<_>>()?;
            Box::new(move || {
                let tensors: Vec<&Tensor> = values.iter().map(NamedTensor::tensor).collect();
                Ok(vec![("values".to_string(), Tensor::stack(&tensors, 0)?)])
            })
        }
        "copying" => {
            let layer = model.dims().n_layers - 1;
            let heads = [head(layer, 0), head(layer, 1)];
            let first = copying_accuracy(model, &heads, 1)?;
            let model = model.clone();
            Box::new(move || {
                let tenth = copying_accuracy(&model, &heads, model.dims().d_vocab / 10)?;
                let share = |name: &str, share: f64| -> Fallible<(String, Tensor)> {
                    Ok((name.to_string(), Tensor::new(&[share as f32], &Device::Cpu)?))
                };
                Ok(vec![share("among the first", first)?, share("among the first tenth", tenth)?])
            })
        }
        "generate" => {
            let sampling = Sampling { max_new_tokens: size(request, "new")?, ..Sampling::default() };
            let prompt = sequences(request, "ids")?.remove(0);
            let generated = model.generate(prompt, &sampling)?;
            Box::new(move || {
                let ids: Vec<f32> = generated.new_ids().iter().map(|&id| id as f32).collect();
                Ok(vec![("ids".to_string(), Tensor::new(ids, &Device::Cpu)?)])
            })
        }
        other => return Err(format!("nothing is known of the work {other}").into()),
    })
}

fn repeated(request: &Value) -> Fallible<RepeatedTokens> {
    let (length, batch) = (size(request, "length")?, size(request, "batch")?);
    Ok(RepeatedTokens { length, batch, seed: 0 })
}

fn metric(request: &Value) -> Fallible<Metric> {
    Ok(match text(request, "metric")? {
        "loss" => Metric::Loss,
        "class_diff" => {
            Metric::Class { class: size(request, "class")?, instead: Some(size(request, "instead")?) }
        }
        _ => Metric::LogitDiff {
            correct: u32::try_from(size(request, "correct")?)?,
            incorrect: u32::try_from(size(request, "incorrect")?)?,
            position: None,
        },
    })
}

/// The logits of a model that was loaded, and some of its weights.
fn loaded_arrays(model: &Model, ids: Vec<Vec<u32>>) -> Fallible<Arrays> {
    let mut arrays = vec![named("logits", &model.logits(ids)?)];
    let last = model.dims().n_layers - 1;
    let of_layers = ["attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "mlp.W_in", "mlp.W_out"];
    let names = [0, last].into_iter().flat_map(|l| of_layers.map(|name| format!("blocks.{l}.{name}")));
    for name in names.chain(["W_E".to_string(), "W_U".to_string()]) {
        arrays.push(named(&name, &model.weight(&name)?));
    }
    Ok(arrays)
}

fn run_arrays(run: &Run) -> Fallible<Arrays> {
    let mut arrays = Vec::new();
    for hook in run.hooks() {
        arrays.push(named(&hook.to_string(), &run.get(hook)?));
    }
    Ok(arrays)
}

fn named(name: &str, found: &NamedTensor) -> (String, Tensor) {
    (name.to_string(), found.tensor().clone())
}

fn write(path: &str, arrays: Arrays) -> Fallible<()> {
    let mut thinned = HashMap::new();
    for (name, tensor) in arrays {
        let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        // An odd step meets every place of axes whose lengths are even.
        let step = values.len().div_ceil(MOST_COMPARED) | 1;
        let values: Vec<f32> = values.into_iter().step_by(step).collect();
        thinned.insert(name, Tensor::new(values, &Device::Cpu)?);
    }
    Ok(candle_core::safetensors::save(&thinned, path)?)
}

/// The forward pass beside the multiplications that it consists of, in turn, in this one process.
fn limit(model: &Model, request: &Value) -> Fallible<Value> {
    let input = sequences(request, "ids")?;
    let len = input.first().ok_or("no ids")?.len();
    let products = Products::new(model, Sizes { batch: 1, len, seen: len, until: Until::Logits })?;
    let (mut forward, mut multiplied) = (Vec::new(), Vec::new());
    for round in 0..=size(request, "rounds")? {
        let start = Instant::now();
        black_box(model.logits(input.clone())?);
        let one = start.elapsed().as_secs_f64();
        let start = Instant::now();
        products.multiply()?;
        let other = start.elapsed().as_secs_f64();
        // The first is for warming up.
        if round > 0 {
            forward.push(one);
            multiplied.push(other);
        }
    }
    Ok(json!({ "multiply_adds": products.count, "forward": forward, "multiplied": multiplied }))
}

/// The multiplications of the works whose floor was asked for.
type Floors = HashMap<String, Products>;

/// How long the multiplications alone take that a work cannot do without: of attention, what is not masked.
fn floor(model: &Model, request: &Value, floors: &mut Floors) -> Fallible<Value> {
    let until = match text(request, "until")? {
        "logits" => Until::Logits,
        "blocks" => Until::Blocks,
        "patterns" => Until::Patterns,
        other => return Err(format!("nothing is known of a run until {other}").into()),
    };
    let (batch, len) = (size(request, "batch")?, size(request, "length")?);
    let key = format!("{until:?} {batch} {len}");
    if !floors.contains_key(&key) {
        floors.clear();
        let sizes = Sizes { batch, len, seen: len.div_ceil(2), until };
        let products = Products::new(model, sizes)?;
        products.multiply()?; // to warm up
        floors.insert(key.clone(), products);
    }
    let products = floors.get(&key).ok_or("they were just made")?;
    let start = Instant::now();
    products.multiply()?;
    Ok(json!({ "seconds": start.elapsed().as_secs_f64() }))
}

/// What a run makes last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Until {
    Logits,
    Blocks,
    /// The last layer's pattern.
    Patterns,
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    len: usize,
    /// Keys that a query sees, of all queries' mean.
    seen: usize,
    until: Until,
}

/// The multiplications of a GPT-2's forward pass, on random matrices, a set of its own for each layer, as weights are.
struct Products {
    pairs: Vec<(Tensor, Tensor)>,
    count: usize,
}

impl Products {
    fn new(model: &Model, sizes: Sizes) -> Fallible<Products> {
        let dims = *model.dims();
        let (width, heads, head, neurons) = (dims.d_model, dims.n_heads, dims.d_head, dims.d_mlp);
        let Sizes { batch, len, seen, until } = sizes;
        let (rows, each) = (batch * len, [batch * heads]);
        let random = |shape: &[usize]| Tensor::rand(-1f32, 1f32, shape, &Device::Cpu);
        let mut products = Products { pairs: Vec::new(), count: 0 };
        let mut add = |batch: &[usize], rows: usize, inner: usize, columns: usize| -> Fallible<()> {
            let shape = |a, b| batch.iter().copied().chain([a, b]).collect::<Vec<_>>();
            products.pairs.push((random(&shape(rows, inner))?, random(&shape(inner, columns))?));
            products.count += batch.iter().product::<usize>() * rows * inner * columns;
            Ok(())
        };
        for layer in 0..dims.n_layers {
            if until == Until::Patterns && layer + 1 == dims.n_layers {
                add(&[], rows, width, 2 * heads * head)?;
                add(&each, len, head, seen)?;
                continue;
            }
            add(&[], rows, width, 3 * heads * head)?;
            add(&each, len, head, seen)?;
            add(&each, len, seen, head)?;
            add(&[], rows, heads * head, width)?;
            add(&[], rows, width, neurons)?;
            add(&[], rows, neurons, width)?;
        }
        if until == Until::Logits {
            add(&[], rows, width, dims.d_vocab)?;
        }
        Ok(products)
    }

    fn multiply(&self) -> Fallible<()> {
        for (left, right) in &self.pairs {
            black_box(left.matmul(right)?);
        }
        Ok(())
    }
}

fn text<'a>(request: &'a Value, key: &str) -> Fallible<&'a str> {
    request[key].as_str().ok_or_else(|| format!("the request says no {key}").into())
}

fn size(request: &Value, key: &str) -> Fallible<usize> {
    let number = request[key].as_u64().ok_or_else(|| format!("the request says no {key}"))?;
    Ok(usize::try_from(number)?)
}

fn sequences(request: &Value, key: &str) -> Fallible<Vec<Vec<u32>>> {
    ids(&request[key])
}

fn ids(value: &Value) -> Fallible<Vec<Vec<u32>>> {
    Ok(serde_json::from_value(value.clone())?)
}

/// Bytes, by a line of what the system says of this process.
fn memory(line: &str) -> Fallible<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)).ok_or("no such line")?;
    Ok(found.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Hands back what the allocator keeps of earlier work, so that it counts for none.
fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's function takes any number, and changes nothing that is in use.
        unsafe { malloc_trim(0) };
    }
}
