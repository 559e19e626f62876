//! Training of networks of any kind: losses and gradients are what is written out, what is learned is learned, stopped, saved and gone
//! on with.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{ErrorKind, Result};
use crate::hook::{Site, Stack};
use crate::network::dims::Dims;
use crate::network::network::{Network, StackNetwork};
use crate::network::parts::block::BlockKind;
use crate::network::parts::linear::Linear;
use crate::network::readout::ReadoutLayer;
use crate::network::record::Record;
use crate::network::spec::Sees;
use crate::network::start::Batch;
use crate::network::tap::not_reached;
use crate::network::weights::file::Weights;
use crate::progress::request_stop;
use crate::tests::naive::{Rows, forward};
use crate::tests::toys;
use crate::training::loss::{MaskedSequence, Pair, contrastive, masked_token, next_token_of_pairs};
use crate::training::trainer;
use crate::training::trainer::{SavedTraining, Schedule, Trainer};

/// Builds a network of weights that are asked for by name.
type Build = fn(toys::Source) -> Result<Network>;

fn translator(get: toys::Source) -> Result<Network> {
    toys::translator_of([toys::DIMS, toys::OF_DECODER], BlockKind::Serial, get)
}

fn post_norm_translator(get: toys::Source) -> Result<Network> {
    toys::translator_of([toys::DIMS, toys::OF_DECODER], BlockKind::PostNorm, get)
}

fn encoder(get: toys::Source) -> Result<Network> {
    toys::encoder_of(toys::DIMS, get)
}

/// Pairs of several lengths.
fn pairs() -> Vec<Pair> {
    vec![
        (vec![3, 1, 4, 1, 5], vec![2, 7, 1, 8]),
        (vec![9, 2, 6], vec![2, 8, 1, 8, 2, 8]),
        (vec![5, 3, 5, 8], vec![4, 5]),
    ]
}

fn masked() -> Vec<MaskedSequence> {
    vec![
        MaskedSequence { ids: vec![3, 1, 4, 1, 5, 9], hidden: vec![(1, 7), (5, 9)] },
        MaskedSequence { ids: vec![2, 6, 5], hidden: vec![(0, 16)] },
        MaskedSequence { ids: vec![3, 5, 8, 9], hidden: vec![] },
    ]
}

/// The sum of the losses of tokens that are predicted at positions of logits.
fn sum_of_losses(logits: &Rows, predicted: impl IntoIterator<Item = (usize, u32)>) -> f64 {
    let loss = |(position, token): (usize, u32)| {
        logits[position].iter().map(|x| x.exp()).sum::<f64>().ln() - logits[position][token as usize]
    };
    predicted.into_iter().map(loss).sum()
}

/// The loss of pairs, each run by itself, in f64.
fn written_out_for_pairs(network: &Network) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for (source, target) in pairs() {
        let read = &target[..target.len() - 1];
        let (_, logits) = forward(network, &[&source, read])?;
        sum += sum_of_losses(&logits, target.iter().skip(1).copied().enumerate());
        count += read.len();
    }
    Ok(sum / f64::from(count as u32))
}

fn written_out_for_masked(network: &Network) -> Result<f64> {
    let mut sum = 0.0;
    for MaskedSequence { ids, hidden } in masked() {
        sum += sum_of_losses(&forward(network, &[&ids])?.1, hidden);
    }
    Ok(sum / 3.0)
}

/// Losses of filled batches, with and without a gradient, and gradients are those of the pass that is written out in f64, input by
/// input: gradients by its central differences.
#[test]
fn losses_and_gradients_are_those_written_out() -> Result<()> {
    type Loss = fn(&Network) -> Result<Tensor>;
    type WrittenOut = fn(&Network) -> Result<f64>;
    let of_pairs: Loss = |network| next_token_of_pairs(network, &pairs());
    let of_masked: Loss = |network| masked_token(network, &masked());
    let on_pairs: WrittenOut = written_out_for_pairs;
    let kinds: [(Build, Loss, WrittenOut, &[&str]); 3] = [
        (
            translator,
            of_pairs,
            on_pairs,
            &[
                "encoder.embed.weight",
                "encoder.positions.weight",
                "encoder.1.attn.qkv.weight",
                "encoder.ln_final.bias",
                "decoder.0.cross_attn.qkv.weight",
                "decoder.1.cross_attn.qkv.bias",
                "decoder.1.cross_attn.out_proj.weight",
                "decoder.2.attn.qkv.weight",
                "decoder.2.ln2.weight",
                "decoder.0.ln3.weight",
                "decoder.embed.weight",
                "unembed.weight",
            ],
        ),
        (
            post_norm_translator,
            of_pairs,
            on_pairs,
            &["encoder.embed.weight", "decoder.0.cross_attn.qkv.weight", "decoder.1.ln3.weight"],
        ),
        (
            encoder,
            of_masked,
            written_out_for_masked,
            &["main.embed.weight", "main.0.attn.qkv.weight", "main.1.ln2.weight", "unembed.bias"],
        ),
    ];
    for (build, loss, written_out, names) in kinds {
        let mut weights = BTreeMap::new();
        let mut random = toys::random(7);
        build(&mut |name, shape| {
            let tensor = random(name, shape)?;
            weights.insert(name.to_string(), tensor.clone());
            Ok(tensor)
        })?;
        let of = |weights: &BTreeMap<String, Tensor>| build(&mut |name, _| Ok(weights[name].clone()));
        let wanted = written_out(&of(&weights)?)?;
        let fused = f64::from(loss(&of(&weights)?)?.to_scalar::<f32>()?);
        let variables = weights.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?)));
        let variables: BTreeMap<String, Var> = variables.collect::<Result<_>>()?;
        let tracked = loss(&build(&mut |name, _| Ok(variables[name].as_tensor().clone()))?)?;
        // Means of logarithms that are sums of a few dozen products in f32.
        assert!((fused - wanted).abs() < 5e-6, "{fused}, not {wanted}");
        assert!((f64::from(tracked.to_scalar::<f32>()?) - wanted).abs() < 5e-6);
        let gradients = tracked.backward()?;
        assert!(variables.values().all(|variable| gradients.get(variable.as_tensor()).is_some()));
        for name in names {
            let gradient = gradients.get(variables[*name].as_tensor()).expect("a gradient");
            let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            let values: Vec<f32> = weights[*name].flatten_all()?.to_vec1()?;
            let largest = gradient.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(largest > 1e-3, "{name}: nothing to be seen at {largest}");
            // Some entries of each, so that it takes a second.
            for i in (0..values.len()).step_by(values.len().div_ceil(24)) {
                let moved = |by: f32| -> Result<(f64, f64)> {
                    let mut values = values.clone();
                    values[i] += by;
                    let at = f64::from(values[i]);
                    let tensor = Tensor::from_vec(values, weights[*name].dims(), &Device::Cpu)?;
                    let mut weights = weights.clone();
                    weights.insert(name.to_string(), tensor);
                    Ok((at, written_out(&of(&weights)?)?))
                };
                let ((above, more), (below, less)) = (moved(1e-4)?, moved(-1e-4)?);
                let wanted = (more - less) / (above - below);
                // The pass is exact, so what is left is the gradient's own rounding.
                let apart = (f64::from(gradient[i]) - wanted).abs();
                assert!(apart < 1e-5, "{name}, entry {i}: {}, not {wanted}", gradient[i]);
            }
        }
    }
    Ok(())
}

/// Sizes of a stack that learns in seconds.
const SMALL: Dims = Dims {
    n_layers: 1,
    n_heads: 2,
    n_key_value_heads: 2,
    d_model: 32,
    d_head: 16,
    d_mlp: 64,
    d_vocab: 12,
    n_ctx: 8,
};

fn begin<N>(
    schedule: Schedule,
    build: impl Fn(toys::Source) -> Result<N> + Send + Sync + 'static,
) -> Result<Trainer<N>> {
    let initial = Weights::random(1, 0.15, 1, &Device::Cpu);
    Trainer::new(initial, schedule, move |weights| build(&mut |name, shape| weights.get(name, shape)))
}

fn small_translator() -> Result<Trainer<Network>> {
    let of_decoder = Dims { n_layers: 2, ..SMALL };
    let schedule = Schedule { learning_rate: 5e-3, warm_up: 20, steps: 400 };
    begin(schedule, move |get| toys::translator_of([SMALL, of_decoder], BlockKind::Serial, get))
}

/// Words, and the same from the last to the first between BOS and EOS.
fn reversed(step: usize) -> Vec<Pair> {
    const BOS: u32 = 0;
    const EOS: u32 = 1;
    let mut rng = ChaCha8Rng::seed_from_u64(step as u64);
    let pair = |_| {
        let len = rng.random_range(3..=6);
        let source: Vec<u32> = (0..len).map(|_| rng.random_range(2..12)).collect();
        let target = [BOS].into_iter().chain(source.iter().rev().copied()).chain([EOS]).collect();
        (source, target)
    };
    (0..32).map(pair).collect()
}

fn step_on_pairs(trainer: &mut Trainer<Network>) -> Result<f32> {
    let batch = reversed(trainer.steps() + 1);
    trainer.step(|network| next_token_of_pairs(network, &batch))
}

/// Nothing but the source says what comes next, at a place that moves with its length.
#[test]
fn an_encoder_and_a_decoder_learn_to_turn_words_around() -> Result<()> {
    let mut trainer = small_translator()?;
    let before = step_on_pairs(&mut trainer)?;
    assert!((before - 12f32.ln()).abs() < 0.8, "{before}");
    while trainer.steps() < 400 {
        step_on_pairs(&mut trainer)?;
    }
    // Of pairs that it has not seen; by chance it is 2.1.
    let after = next_token_of_pairs(&trainer.network()?, &reversed(1_000_000))?.to_scalar::<f32>()?;
    assert!(after < 0.2, "{before} to {after}");
    Ok(())
}

/// Tokens that count on from any first one, some hidden: what stands there follows from either side.
fn counting(step: usize) -> Vec<MaskedSequence> {
    const MASK: u32 = 11;
    let mut rng = ChaCha8Rng::seed_from_u64(step as u64);
    let sequence = |_| {
        let (first, len) = (rng.random_range(0..11), rng.random_range(4..=8));
        let mut ids: Vec<u32> = (0..len).map(|i| (first + i) % 11).collect();
        let at = rng.random_range(0..len as usize);
        let hidden = vec![(at, ids[at])];
        ids[at] = MASK;
        MaskedSequence { ids, hidden }
    };
    (0..32).map(sequence).collect()
}

#[test]
fn an_encoder_learns_what_is_masked() -> Result<()> {
    let schedule = Schedule { learning_rate: 5e-3, warm_up: 20, steps: 200 };
    let mut trainer = begin(schedule, |get| toys::encoder_of(SMALL, get))?;
    for step in 1..=200 {
        trainer.step(|network| masked_token(network, &counting(step)))?;
    }
    let after = masked_token(&trainer.network()?, &counting(1_000_000))?.to_scalar::<f32>()?;
    // By chance it is 2.4.
    assert!(after < 0.2, "{after}");
    Ok(())
}

/// Two towers, what each is read out by, and the scale of their cosines.
struct Towers {
    network: Network,
    project: [Linear; 2],
    log_scale: Tensor,
}

impl Towers {
    fn of(dims: [Dims; 2], get: toys::Source) -> Result<Towers> {
        let towers = [Stack::Vision, Stack::Text].into_iter().zip(dims);
        let stacks: Vec<StackNetwork> = towers
            .map(|(stack, dims)| toys::stack(get, stack, dims, Sees::All, None, BlockKind::Serial))
            .collect::<Result<_>>()?;
        let mut project = |name| toys::linear(get, name, dims[0].d_model, 16);
        let project = [project("vision.project")?, project("text.project")?];
        let network = Network::new(stacks, ReadoutLayer::Nothing, false);
        Ok(Towers { network, project, log_scale: get("log_scale", &[1])? })
    }

    fn loss(&self, both: [&[Vec<u32>]; 2]) -> Result<Tensor> {
        let mut batch = Batch::default();
        for (own, ids) in self.network.stacks.iter().zip(both) {
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            batch = batch.with_filled(self.network.spec(), own.stack, &ids, 0, &Device::Cpu)?;
        }
        let last = |own: &StackNetwork| Site::ResidPost.at(own.dims.n_layers - 1).of(own.stack);
        let mut streams = Record::new(self.network.stacks.iter().map(last));
        self.network.run(batch.into(), None, &mut streams)?;
        let embed = |(own, project): (&StackNetwork, &Linear)| {
            let stream = streams.get(last(own)).ok_or_else(not_reached)?; // (B, T, M)
            let first = stream.narrow(1, 0, 1)?.squeeze(1)?; // (B, M)
            project.forward(&own.ln_final.forward_untapped(first)?) // (B, D)
        };
        let embeddings: Vec<Tensor> =
            self.network.stacks.iter().zip(&self.project).map(embed).collect::<Result<_>>()?;
        contrastive(&embeddings[0], &embeddings[1], &self.log_scale)
    }
}

/// Two tokens, and how one tower and how the other says them.
fn said_twice(step: usize) -> [Vec<Vec<u32>>; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(step as u64);
    let mut all: Vec<(u32, u32)> = (1..6).flat_map(|a| (1..6).map(move |b| (a, b))).collect();
    for i in 0..16 {
        let other = rng.random_range(i..all.len());
        all.swap(i, other);
    }
    let both = &all[..16];
    [
        both.iter().map(|&(a, b)| vec![0, a, b]).collect(),
        both.iter()
            .map(|&(a, b)| if a > 3 { vec![0, b + 5, 11 - a] } else { vec![0, b + 5, a, a] })
            .collect(),
    ]
}

#[test]
fn two_towers_learn_what_belongs_together() -> Result<()> {
    let schedule = Schedule { learning_rate: 5e-3, warm_up: 20, steps: 300 };
    let mut trainer = begin(schedule, |get| Towers::of([SMALL, SMALL], get))?;
    let mut loss = |step| {
        let [a, b] = said_twice(step);
        trainer.step(|towers| towers.loss([&a, &b]))
    };
    let before = loss(1)?;
    assert!((before - 16f32.ln()).abs() < 1.0, "{before}");
    for step in 2..=300 {
        loss(step)?;
    }
    let [a, b] = said_twice(1_000_000);
    let after = trainer.network()?.loss([&a, &b])?.to_scalar::<f32>()?;
    assert!(after < 0.2, "{before} to {after}");
    Ok(())
}

/// The weights by name, as numbers.
fn numbers(trainer: &Trainer<Network>) -> Result<BTreeMap<String, Vec<f32>>> {
    let weights = trainer.weights()?.into_iter();
    weights.map(|(name, tensor)| Ok((name, tensor.flatten_all()?.to_vec1()?))).collect()
}

#[test]
fn what_is_saved_goes_on_as_if_nothing_had_been() -> Result<()> {
    let path = std::env::temp_dir().join(format!("headlight-trainer-{}.safetensors", std::process::id()));
    let (mut whole, mut resumed) = (small_translator()?, small_translator()?);
    (0..3).try_for_each(|_| step_on_pairs(&mut whole).map(drop))?;
    whole.save(&path, &[("note", "of one's own".to_string())])?;
    let saved = SavedTraining::open(&path)?;
    assert_eq!(saved.note("note")?, "of one's own");
    assert!(saved.note("another").is_err_and(|error| error.kind() == ErrorKind::File));
    resumed.resume(&saved)?;
    let _ = std::fs::remove_file(&path);
    assert_eq!(resumed.steps(), 3);
    for trainer in [&mut whole, &mut resumed] {
        (0..3).try_for_each(|_| step_on_pairs(trainer).map(drop))?;
    }
    assert_eq!(numbers(&whole)?, numbers(&resumed)?);

    let mut other = begin(Schedule { learning_rate: 5e-3, warm_up: 20, steps: 9 }, encoder)?;
    let before = numbers(&other)?;
    assert_eq!(other.resume(&saved).err().map(|error| error.kind()), Some(ErrorKind::Weights));
    assert_eq!((other.steps(), numbers(&other)?), (0, before));
    Ok(())
}

/// Whatever was asked to stop in this process would stop, so it is asked in one of its own.
#[test]
fn a_stopped_step_is_not_made() {
    let mut alone = Command::new(std::env::current_exe().expect("this program"));
    alone.args(["--exact", "--ignored", "tests::training::stopped_in_a_process_of_its_own"]);
    let outcome = alone.output().expect("a process");
    let said = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "another test runs it"]
fn stopped_in_a_process_of_its_own() -> Result<()> {
    let (mut whole, mut stopped) = (small_translator()?, small_translator()?);
    (0..4).try_for_each(|_| step_on_pairs(&mut whole).map(drop))?;
    let made = Trainer::steps;
    let mut asked = false;
    let error = trainer::run(&mut stopped, 4, made, |trainer| {
        let batch = reversed(trainer.steps() + 1);
        let third = trainer.steps() == 2;
        let step = trainer.step(|network| {
            let loss = next_token_of_pairs(network, &batch)?;
            if third {
                request_stop();
                asked = true;
            }
            Ok(loss)
        });
        step.map(drop)
    });
    let error = error.expect_err("a stop");
    assert!(asked && error.kind() == ErrorKind::Stopped, "{error}");
    assert!(error.to_string().contains("after step 2"), "{error}");
    let mut two = small_translator()?;
    (0..2).try_for_each(|_| step_on_pairs(&mut two).map(drop))?;
    assert_eq!(numbers(&stopped)?, numbers(&two)?);
    trainer::run(&mut stopped, 2, made, |trainer| step_on_pairs(trainer).map(drop))?;
    assert_eq!(numbers(&stopped)?, numbers(&whole)?);
    Ok(())
}

/// What is no batch is refused with its reason, and nothing changes.
#[test]
fn what_cannot_be_learned_says_why() -> Result<()> {
    let mut trainer = small_translator()?;
    let cases: [(Vec<Pair>, &str); 7] = [
        (vec![], "at least one"),
        (vec![(vec![], vec![0, 1])], "the encoder is to read 1 sequences, one of 0 tokens"),
        (vec![(vec![2], vec![])], "the decoder is to read 1 sequences, one of 0 tokens"),
        (vec![(vec![2], vec![0])], "the decoder is to read"),
        (vec![(vec![2; 9], vec![0, 1])], "1 to 8 tokens"),
        (vec![(vec![12], vec![0, 1])], "0 to 11"),
        (vec![(vec![2], vec![0, 12])], "0 to 11"),
    ];
    for (batch, fragment) in cases {
        let error = trainer.step(|network| next_token_of_pairs(network, &batch)).expect_err("no batch");
        assert!(error.to_string().contains(fragment), "{error}");
    }
    assert!(trainer.step(|network| masked_token(network, &masked())).is_err());
    let half = trainer
        .step(|network| Ok(network.stacks[0].embedding.weight().tensor()?.sum_all()?))
        .expect_err("half a loss");
    assert!(half.to_string().contains("does not depend on"), "{half}");
    let none =
        trainer.step(|network| Ok((network.stacks[0].embedding.weight().tensor()?.sum_all()? * f64::NAN)?));
    assert!(none.is_err_and(|error| error.to_string().contains("diverged")));
    assert_eq!(trainer.steps(), 0);

    let network = toys::encoder()?.network;
    for (sequence, fragment) in [
        (MaskedSequence { ids: vec![1, 2], hidden: vec![] }, "no token is to be predicted"),
        (MaskedSequence { ids: vec![1, 2], hidden: vec![(2, 1)] }, "position 2"),
        (MaskedSequence { ids: vec![1, 2], hidden: vec![(1, 17)] }, "0 to 16"),
    ] {
        let error = masked_token(&network, &[sequence]).expect_err("no batch").to_string();
        assert!(error.contains(fragment), "{error}");
    }
    assert!(next_token_of_pairs(&network, &pairs()).is_err());
    Ok(())
}

/// How fast a machine trains: `cargo test --release --lib tests::training::pace -- --ignored --nocapture`. Where others are at
/// work too, with `CANDLE_NUM_THREADS=1`: candle's threads wait for each other at each operation, and so for the others' work.
#[test]
#[ignore = "it measures, and takes a minute"]
fn pace() -> Result<()> {
    let dims = Dims {
        n_layers: 3,
        n_heads: 4,
        n_key_value_heads: 4,
        d_model: 128,
        d_head: 32,
        d_mlp: 512,
        d_vocab: 2000,
        n_ctx: 32,
    };
    let schedule = Schedule { learning_rate: 1e-3, warm_up: 20, steps: 100 };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut ids = |len: usize| -> Vec<u32> { (0..len).map(|_| rng.random_range(0..2000)).collect() };
    let said = |what: &str, batch: usize, step: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        step()?;
        let mut times = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            step()?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        println!(
            "{what}, batches of {batch}: {:.2} steps a second, {:.0} inputs a second (fastest {:.0})",
            1.0 / median,
            batch as f64 / median,
            batch as f64 / times[0]
        );
        Ok(())
    };
    let mut pairs = begin(schedule, move |get| toys::translator_of([dims, dims], BlockKind::Serial, get))?;
    let encoder = Dims { n_layers: 4, ..dims };
    let mut masked = begin(schedule, move |get| toys::encoder_of(encoder, get))?;
    let mut towers = begin(schedule, move |get| Towers::of([dims, dims], get))?;
    for batch in [32, 64] {
        let of_pairs: Vec<Pair> = (0..batch).map(|i| (ids(10 + i % 5), ids(11 + i % 5))).collect();
        said("an encoder and a decoder", batch, &mut || {
            pairs.step(|network| next_token_of_pairs(network, &of_pairs)).map(drop)
        })?;
        let of_masked: Vec<MaskedSequence> =
            (0..batch).map(|_| MaskedSequence { ids: ids(16), hidden: vec![(3, 5), (9, 7)] }).collect();
        said("an encoder", batch, &mut || {
            masked.step(|network| masked_token(network, &of_masked)).map(drop)
        })?;
        let both: [Vec<Vec<u32>>; 2] = [16, 12].map(|len| (0..batch).map(|_| ids(len)).collect());
        said("two towers", batch, &mut || towers.step(|towers| towers.loss([&both[0], &both[1]])).map(drop))?;
    }
    Ok(())
}
