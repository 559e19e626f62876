//! What training makes smaller: losses as tensors of one number, with a gradient.
//!
//! Shapes at the end of lines: B batch, T positions, N predictions, D width of an embedding, M width of the residual stream, V
//! vocabulary.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::memory;
use crate::network::cpu::cross_entropy;
use crate::network::dims::check_ids;
use crate::network::network::Network;
use crate::network::readout::{ReadoutLayer, unit};
use crate::network::record::Record;
use crate::network::spec::StackSpec;
use crate::network::start::{Batch, Start};

/// What fills up shorter sequences, which nothing sees.
const FILLING: u32 = 0;

/// The mean loss in nats of each token of sequences, all of one length, predicted from those before it.
pub(crate) fn next_token(network: &Network, sequences: &[Vec<u32>]) -> Result<Tensor> {
    let len = sequences.first().map_or(0, Vec::len).saturating_sub(1);
    has_room(network, sequences.len(), &[len], len)?;
    Ok(next_token_losses(network, sequences)?.mean_all()?)
}

/// The loss of each prediction `[sequence, position]`, in nats.
pub(crate) fn next_token_losses(network: &Network, sequences: &[Vec<u32>]) -> Result<Tensor> {
    let ids = Tensor::new(sequences.to_vec(), network.device())?;
    let last = ids.dim(1)?.saturating_sub(1);
    let mut logits = Record::logits();
    network.run(Start::tokens(ids.narrow(1, 0, last)?), None, &mut logits)?;
    let logits = logits.only()?; // (B, T, V)
    let next = ids.narrow(1, 1, last)?.flatten_all()?; // (BT)
    let (rows, len, vocab) = logits.dims3()?;
    Ok(cross_entropy(&logits.reshape((rows * len, vocab))?, &next)?.reshape((rows, len))?)
}

/// A source, and the target that is made of it: all but the last token of a target are read, all but the first predicted.
pub(crate) type Pair = (Vec<u32>, Vec<u32>);

/// The mean loss in nats of each token of the targets, predicted from those before it and its source (Vaswani et al. 2017), by a
/// network of two stacks. Lengths may differ.
pub(crate) fn next_token_of_pairs(network: &Network, pairs: &[Pair]) -> Result<Tensor> {
    let [of_source, of_target] = network.spec().stacks() else {
        return Err(Error::new(ErrorKind::Model, "pairs are learned by a network of two stacks")
            .help("give sequences to a network of one"));
    };
    let sources: Vec<&[u32]> = pairs.iter().map(|(source, _)| &source[..]).collect();
    let read: Vec<&[u32]> =
        pairs.iter().map(|(_, target)| &target[..target.len().saturating_sub(1)]).collect();
    let (source_len, len) = (check(of_source, &sources)?, check(of_target, &read)?);
    let batch = Batch::default()
        .with_filled(network.spec(), of_source.stack, &sources, FILLING, network.device())?
        .with_filled(network.spec(), of_target.stack, &read, FILLING, network.device())?;
    let predicted = pairs.iter().enumerate().flat_map(|(row, (_, target))| {
        target.iter().skip(1).enumerate().map(move |(position, &token)| ([row, position], token))
    });
    mean_loss(network, batch, &[source_len, len], predicted.collect())
}

/// A sequence of which some tokens were replaced, and what stood there: positions, with the token of each.
#[derive(Clone, Debug)]
#[allow(dead_code)] // No model that predicts what is masked is trained yet.
pub(crate) struct MaskedSequence {
    pub(crate) ids: Vec<u32>,
    pub(crate) hidden: Vec<(usize, u32)>,
}

/// The mean loss in nats of what was replaced, predicted from the rest (Devlin et al. 2019, "BERT", 3.1). Lengths may differ.
#[allow(dead_code)] // No model that predicts what is masked is trained yet.
pub(crate) fn masked_token(network: &Network, sequences: &[MaskedSequence]) -> Result<Tensor> {
    let spec = network.spec().only_stack("predicting what is masked")?;
    let ids: Vec<&[u32]> = sequences.iter().map(|sequence| &sequence.ids[..]).collect();
    let len = check(spec, &ids)?;
    let outside =
        sequences.iter().flat_map(|own| own.hidden.iter().map(|(position, _)| (*position, own.ids.len())));
    if let Some((position, len)) = outside.into_iter().find(|(position, len)| position >= len) {
        return Err(Error::new(
            ErrorKind::Input,
            format!("position {position} is to be predicted, of a sequence of {len} tokens"),
        )
        .help("positions are counted from 0"));
    }
    let batch = Batch::default().with_filled(network.spec(), spec.stack, &ids, FILLING, network.device())?;
    let predicted = sequences.iter().enumerate().flat_map(|(row, sequence)| {
        sequence.hidden.iter().map(move |&(position, token)| ([row, position], token))
    });
    mean_loss(network, batch, &[len], predicted.collect())
}

/// The mean loss in nats of the classes of sequences, told by a network of one stack (Devlin et al. 2019, "BERT", 4.1). Lengths may differ.
pub(crate) fn classes_of_sequences(network: &Network, sequences: &[(Vec<u32>, u32)]) -> Result<Tensor> {
    let spec = network.spec().only_stack("telling classes")?;
    if !matches!(network.readout, ReadoutLayer::Classes { .. }) {
        return Err(Error::new(ErrorKind::Model, "the network tells no classes")
            .help("say so in config.json: \"architectures\": [\"BertForSequenceClassification\"]"));
    }
    let ids: Vec<&[u32]> = sequences.iter().map(|(ids, _)| &ids[..]).collect();
    let len = check(spec, &ids)?;
    has_room(network, ids.len(), &[len], 1)?;
    let batch = Batch::default().with_filled(network.spec(), spec.stack, &ids, FILLING, network.device())?;
    let mut logits = Record::new([Site::ClassLogits.into()]);
    network.run(batch.into(), None, &mut logits)?;
    let wanted: Vec<u32> = sequences.iter().map(|(_, class)| *class).collect();
    classes(&logits.only()?, &wanted)
}

/// The mean loss in nats of classes, one for each row of logits `[batch, class]`.
pub(crate) fn classes(logits: &Tensor, classes: &[u32]) -> Result<Tensor> {
    let (rows, known) = logits.dims2()?;
    let outside = classes.iter().find(|class| **class as usize >= known);
    if rows != classes.len() || rows == 0 || outside.is_some() {
        let what = match outside {
            Some(class) => format!("class {class} is none of {known}"),
            None => format!("{} classes are given for {rows} inputs", classes.len()),
        };
        return Err(Error::new(ErrorKind::Input, what).help("give one for each input, counted from 0"));
    }
    Ok(cross_entropy(logits, &Tensor::new(classes, logits.device())?)?.mean_all()?)
}

/// The mean loss in nats of matching each embedding `[batch, d]` to the one of the same row of the other kind, among all of the
/// batch, and the other way round: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
/// figure 3. `log_scale` is its t, of which the exponential multiplies cosines: one number.
#[allow(dead_code)] // No pair of towers is trained yet.
pub(crate) fn contrastive(a: &Tensor, b: &Tensor, log_scale: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() || a.rank() != 2 || log_scale.elem_count() != 1 {
        let what =
            format!("embeddings {:?} and {:?}, and a scale of {:?}", a.dims(), b.dims(), log_scale.dims());
        return Err(
            Error::new(ErrorKind::Input, what).help("pairs are rows of the same shape, and t is one number")
        );
    }
    let cosines = unit(a)?.matmul(&unit(b)?.t()?)?; // (B, B)
    let logits = cosines.broadcast_mul(&log_scale.reshape((1, 1))?.exp()?)?; // (B, B)
    let own = Tensor::arange(0, a.dim(0)? as u32, a.device())?; // (B)
    let of_a = cross_entropy(&logits, &own)?.mean_all()?;
    let of_b = cross_entropy(&logits.t()?, &own)?.mean_all()?;
    Ok(((of_a + of_b)? * 0.5)?)
}

/// The mean loss in nats of tokens, each predicted at a position of an input: logits are made of those positions alone.
fn mean_loss(
    network: &Network,
    batch: Batch,
    lens: &[usize],
    predicted: Vec<([usize; 2], u32)>,
) -> Result<Tensor> {
    let ReadoutLayer::Vocabulary { of, unembed, .. } = &network.readout else {
        return Err(Error::new(ErrorKind::Model, "the network predicts no tokens")
            .help("train it by what it makes: classes, or pairs that belong together"));
    };
    if predicted.is_empty() {
        return Err(Error::new(ErrorKind::Input, "no token is to be predicted").help("give at least one"));
    }
    check_ids(predicted.iter().map(|(_, token)| token), unembed.weight.dims2()?.1)?;
    let (inputs, len) = batch.reads(*of)?.dims2()?;
    has_room(network, inputs, lens, predicted.len().div_ceil(inputs))?;
    let rows: Vec<u32> = predicted.iter().map(|([row, position], _)| (row * len + position) as u32).collect();
    let tokens: Vec<u32> = predicted.into_iter().map(|(_, token)| token).collect();
    let (rows, tokens) = (Tensor::new(rows, network.device())?, Tensor::new(tokens, network.device())?); // (N)
    let mut stream = Record::new([Site::UnembedIn.into()]);
    network.run(batch.into(), None, &mut stream)?;
    let read = stream.only()?.flatten(0, 1)?.index_select(&rows, 0)?; // (N, M)
    Ok(cross_entropy(&unembed.forward(&read)?, &tokens)?.mean_all()?) // of (N, V)
}

/// The length of the longest of what a stack is to read. Fails if it cannot.
fn check(spec: &StackSpec, sequences: &[&[u32]]) -> Result<usize> {
    let (shortest, longest) = sequences
        .iter()
        .fold((usize::MAX, 0), |(least, most), ids| (least.min(ids.len()), most.max(ids.len())));
    let (stack, n_ctx) = (spec.stack, spec.dims.n_ctx);
    if sequences.is_empty() || shortest == 0 || longest > n_ctx {
        let len = if shortest == 0 { 0 } else { longest };
        let what = format!("the {stack} is to read {} sequences, one of {len} tokens", sequences.len());
        return Err(Error::new(ErrorKind::Input, what)
            .help(format!("give at least one, of 1 to {n_ctx} tokens that are read")));
    }
    check_ids(sequences.iter().copied().flatten(), spec.dims.d_vocab)?;
    Ok(longest)
}

/// Fails if there is no memory for a step on so many inputs, of so many positions in each stack, of which some are predicted from.
pub(crate) fn has_room(network: &Network, batch: usize, lens: &[usize], read: usize) -> Result<()> {
    let gradients = network.footprint_of_gradients(batch, lens, read, &[]);
    // What a step makes of a weight: its new value and moments, and on the way to them as many more.
    let weights = network.bytes_of_weights()?.saturating_mul(4);
    memory::check(network.device(), gradients.saturating_add(weights), || {
        let len = lens.iter().max().copied().unwrap_or(0);
        (
            format!("a training step on {batch} sequences of {len} tokens"),
            "train on fewer sequences at once (`batch`), or shorter ones",
        )
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Numbers that look random.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    fn softmax_losses(rows: &[Vec<f64>], wanted: impl Fn(usize) -> usize) -> f64 {
        let loss =
            |(row, x): (usize, &Vec<f64>)| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[wanted(row)];
        rows.iter().enumerate().map(loss).sum::<f64>() / rows.len() as f64
    }

    fn rows(values: &[f64], width: usize) -> Vec<Vec<f64>> {
        values.chunks(width).map(<[f64]>::to_vec).collect()
    }

    /// Figure 3, line by line.
    fn contrastive_of(values: &[f64]) -> f64 {
        let unit = |row: Vec<f64>| {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.into_iter().map(|x| x / length).collect::<Vec<f64>>()
        };
        let (both, t) = values.split_at(values.len() - 1);
        let (a, b) = both.split_at(both.len() / 2);
        let a: Vec<Vec<f64>> = rows(a, 5).into_iter().map(unit).collect();
        let b: Vec<Vec<f64>> = rows(b, 5).into_iter().map(unit).collect();
        let logit =
            |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() * t[0].exp();
        let logits: Vec<Vec<f64>> = a.iter().map(|a| b.iter().map(|b| logit(a, b)).collect()).collect();
        let turned: Vec<Vec<f64>> = b.iter().map(|b| a.iter().map(|a| logit(a, b)).collect()).collect();
        (softmax_losses(&logits, |i| i) + softmax_losses(&turned, |i| i)) / 2.0
    }

    /// Value and gradient against what is written out in f64 and its central differences.
    fn agrees(
        values: &[f32],
        loss: impl Fn(&Tensor) -> Result<Tensor>,
        formula: impl Fn(&[f64]) -> f64,
    ) -> Result<()> {
        let x = Var::from_tensor(&Tensor::new(values, &Device::Cpu)?)?;
        let found = loss(&x)?;
        let exact: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        // Sums of a few numbers in f32.
        assert!((f64::from(found.to_scalar::<f32>()?) - formula(&exact)).abs() < 1e-6);
        let gradients = found.backward()?;
        let gradient = gradients.get(x.as_tensor()).map(Tensor::to_vec1::<f32>).transpose()?.expect("one");
        for (i, found) in gradient.into_iter().enumerate() {
            let at = |h: f64| {
                let mut moved = exact.clone();
                moved[i] += h;
                formula(&moved)
            };
            let wanted = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((f64::from(found) - wanted).abs() < 2e-6, "entry {i}: {found}, not {wanted}");
        }
        Ok(())
    }

    #[test]
    fn embeddings_are_matched_as_in_figure_3() -> Result<()> {
        let loss = |x: &Tensor| {
            let part = |i: usize| x.narrow(0, 20 * i, 20)?.reshape((4, 5));
            contrastive(&part(0)?, &part(1)?, &x.narrow(0, 40, 1)?)
        };
        let mut values = numbers(40, 3);
        values.push(1.3);
        agrees(&values, loss, contrastive_of)
    }

    #[test]
    fn classes_are_told_by_their_logits() -> Result<()> {
        let wanted = [2u32, 0, 1, 2];
        let loss = |x: &Tensor| classes(&x.reshape((4, 3))?, &wanted);
        agrees(&numbers(12, 5), loss, |x| softmax_losses(&rows(x, 3), |i| wanted[i] as usize))
    }

    #[test]
    fn what_cannot_be_matched_says_why() -> Result<()> {
        let of = |shape: [usize; 2]| Tensor::ones(&shape, candle_core::DType::F32, &Device::Cpu);
        let (logits, t) = (of([4, 3])?, of([1, 1])?);
        for (outcome, fragment) in [
            (classes(&logits, &[0, 1, 2, 3]), "class 3 is none of 3"),
            (classes(&logits, &[0, 1]), "2 classes are given for 4"),
            (contrastive(&logits, &of([4, 2])?, &t), "[4, 2]"),
            (contrastive(&logits, &logits, &logits), "one number"),
        ] {
            let error = outcome.expect_err("nothing to be matched").to_string();
            assert!(error.contains(fragment), "{error}");
        }
        Ok(())
    }
}
