//! AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2), with the gradient's norm
//! limited to 1 (Pascanu et al. 2013).

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result};

const BETAS: (f64, f64) = (0.9, 0.98);
const EPSILON: f64 = 1e-8;
/// How much of the learning rate matrices decay by; biases and gains do not.
const DECAY: f64 = 0.02;
const LONGEST: f64 = 1.0;
/// Numbers that a thread takes at a time.
const CHUNK: usize = 8192;

/// Weights that are trained.
pub(super) struct AdamW {
    parameters: Vec<Parameter>,
    steps: usize,
}

/// One weight and Adam's two moments of its gradient.
struct Parameter {
    name: String,
    value: Var,
    first: Tensor,
    second: Tensor,
}

/// What a step makes of a parameter.
struct Moved {
    value: Tensor,
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    pub(super) fn new(weights: Vec<(String, Tensor)>) -> Result<AdamW> {
        let parameter = |(name, tensor): (String, Tensor)| -> Result<Parameter> {
            let (value, zeros) = (Var::from_tensor(&tensor)?, tensor.zeros_like()?);
            Ok(Parameter { name, value, first: zeros.clone(), second: zeros })
        };
        Ok(AdamW { parameters: weights.into_iter().map(parameter).collect::<Result<_>>()?, steps: 0 })
    }

    /// The steps that were made.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// The weights by name, as a loss must use them to have gradients.
    pub(super) fn weights(&self) -> HashMap<String, Tensor> {
        self.parameters.iter().map(|p| (p.name.clone(), p.value.as_tensor().clone())).collect()
    }

    /// The weights by name as they are now: later steps do not change them.
    pub(super) fn copies(&self) -> Result<HashMap<String, Tensor>> {
        self.parameters.iter().map(|p| Ok((p.name.clone(), p.value.as_tensor().copy()?.detach()))).collect()
    }

    /// Moves every weight against its gradient, or, where anything fails, none.
    pub(super) fn step(&mut self, gradients: &GradStore, rate: f64) -> Result<()> {
        let gradients: Vec<&Tensor> =
            self.parameters.iter().map(|p| p.gradient(gradients)).collect::<Result<_>>()?;
        let mut norm = 0f64;
        for gradient in &gradients {
            norm += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        if !norm.is_finite() {
            return Err(diverged("the gradient", self.steps + 1));
        }
        let scale = (LONGEST / norm.sqrt()).min(1.0);
        let step = self.steps + 1;
        let parameters = self.parameters.iter().zip(gradients);
        let moved: Vec<Moved> = parameters
            .map(|(parameter, gradient)| parameter.moved(gradient, scale, rate, step))
            .collect::<Result<_>>()?;
        for (parameter, moved) in self.parameters.iter_mut().zip(moved) {
            parameter.value.set(&moved.value)?;
            (parameter.first, parameter.second) = (moved.first, moved.second);
        }
        self.steps = step;
        Ok(())
    }

    /// All that a training goes on from.
    pub(super) fn state(&self) -> HashMap<String, Tensor> {
        let parts = |p: &Parameter| {
            let value = (p.name.clone(), p.value.as_tensor().clone());
            [
                value,
                (format!("{}.first", p.name), p.first.clone()),
                (format!("{}.second", p.name), p.second.clone()),
            ]
        };
        self.parameters.iter().flat_map(parts).collect()
    }

    /// Takes up a state, or, where anything of it is missing, nothing.
    pub(super) fn restore(
        &mut self,
        steps: usize,
        mut get: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<()> {
        let mut stored = |p: &Parameter| -> Result<Moved> {
            let mut part = |end: &str| get(&format!("{}{end}", p.name), p.value.dims());
            Ok(Moved { value: part("")?, first: part(".first")?, second: part(".second")? })
        };
        let all: Vec<Moved> = self.parameters.iter().map(&mut stored).collect::<Result<_>>()?;
        for (parameter, stored) in self.parameters.iter_mut().zip(all) {
            parameter.value.set(&stored.value)?;
            (parameter.first, parameter.second) = (stored.first, stored.second);
        }
        self.steps = steps;
        Ok(())
    }
}

impl Parameter {
    fn gradient<'a>(&self, gradients: &'a GradStore) -> Result<&'a Tensor> {
        gradients.get(self.value.as_tensor()).ok_or_else(|| {
            Error::new(ErrorKind::Backend, format!("the loss does not depend on `{}`", self.name))
                .help("a loss to train on must run the whole network")
        })
    }

    /// In one pass over memory, where tensor operations take fifteen.
    fn moved(&self, gradient: &Tensor, scale: f64, rate: f64, step: usize) -> Result<Moved> {
        let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let (gradient, mut value) = (numbers(gradient)?, numbers(self.value.as_tensor())?);
        let (mut first, mut second) = (numbers(&self.first)?, numbers(&self.second)?);
        let decay = if self.value.rank() > 1 { DECAY } else { 0.0 };
        let unbiased = |beta: f64| (1.0 / (1.0 - beta.powi(step as i32))) as f32;
        let of_betas = |of: fn(f64) -> f64| [of(BETAS.0) as f32, of(BETAS.1) as f32];
        let ([old_first, old_second], [new_first, new_second]) =
            (of_betas(|beta| beta), of_betas(|beta| 1.0 - beta));
        let (unbiased_first, unbiased_second) = (unbiased(BETAS.0), unbiased(BETAS.1));
        let (scale, rate, kept, epsilon) =
            (scale as f32, rate as f32, (1.0 - rate * decay) as f32, EPSILON as f32);
        let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
        let all = value.par_chunks_mut(CHUNK).zip(moments).zip(gradient.par_chunks(CHUNK));
        all.for_each(|((value, (first, second)), gradient)| {
            for (((value, first), second), gradient) in value.iter_mut().zip(first).zip(second).zip(gradient)
            {
                let gradient = gradient * scale;
                *first = *first * old_first + gradient * new_first;
                *second = *second * old_second + gradient * gradient * new_second;
                let change = *first * unbiased_first / ((*second * unbiased_second).sqrt() + epsilon);
                *value = *value * kept - change * rate;
            }
        });
        let tensor = |numbers: Vec<f32>| Tensor::from_vec(numbers, self.value.shape(), self.value.device());
        Ok(Moved { value: tensor(value)?, first: tensor(first)?, second: tensor(second)? })
    }
}

pub(super) fn diverged(what: &str, step: usize) -> Error {
    Error::new(
        ErrorKind::Weights,
        format!("{what} is no finite number at step {step}: the training diverged"),
    )
    .help("train anew with a lower learning_rate, or a longer warm_up")
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn values(adam: &AdamW, name: &str) -> Vec<f32> {
        adam.weights()[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn near(found: &[f32], wanted: &[f64]) {
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found}, not {wanted}");
        }
        assert_eq!(found.len(), wanted.len());
    }

    /// Two steps by hand. The loss is w . a + b . c, so that gradients are a and c; (3, 4) with (0, 12) has norm 13.
    #[test]
    fn steps_are_those_worked_out_by_hand() -> Result<()> {
        let row = |values: &[f32], rank: usize| {
            let shape = if rank == 2 { vec![1, values.len()] } else { vec![values.len()] };
            Tensor::from_vec(values.to_vec(), shape, &Device::Cpu)
        };
        let weights = vec![("w".to_string(), row(&[1.0, -2.0], 2)?), ("b".to_string(), row(&[0.5, 0.5], 1)?)];
        let mut adam = AdamW::new(weights)?;
        let mut step = |a: [f32; 2], c: [f32; 2], rate: f64| -> Result<(Vec<f32>, Vec<f32>)> {
            let weights = adam.weights();
            let loss =
                ((&weights["w"] * row(&a, 2)?)?.sum_all()? + (&weights["b"] * row(&c, 1)?)?.sum_all()?)?;
            adam.step(&loss.backward()?, rate)?;
            Ok((values(&adam, "w"), values(&adam, "b")))
        };
        // Both moments begin with the gradient's share, so the first change is its sign. Only the matrix decays.
        let (w, b) = step([3.0, -4.0], [0.0, 12.0], 0.1)?;
        near(&w, &[1.0 * 0.998 - 0.1, -2.0 * 0.998 + 0.1]);
        near(&b, &[0.5, 0.4]);
        // Then a gradient of norm 1/2, which is not limited: g1 = 3/13 and g2 = 0.3 for the first entry.
        let (w, b) = step([0.3, 0.0], [0.4, 0.0], 0.1)?;
        let change = |g1: f64, g2: f64| {
            let first = (0.9 * 0.1 * g1 + 0.1 * g2) / (1.0 - 0.81);
            let second = (0.98 * 0.02 * g1 * g1 + 0.02 * g2 * g2) / (1.0 - 0.9604);
            first / (second.sqrt() + 1e-8)
        };
        near(
            &w,
            &[0.898 * 0.998 - 0.1 * change(3.0 / 13.0, 0.3), -1.896 * 0.998 - 0.1 * change(-4.0 / 13.0, 0.0)],
        );
        near(&b, &[0.5 - 0.1 * change(0.0, 0.4), 0.4 - 0.1 * change(12.0 / 13.0, 0.0)]);
        assert_eq!(adam.steps(), 2);
        Ok(())
    }

    #[test]
    fn a_gradient_that_is_no_number_changes_nothing() -> Result<()> {
        let mut adam = AdamW::new(vec![("w".to_string(), Tensor::new(&[1f32, 0.0], &Device::Cpu)?)])?;
        let loss = adam.weights()["w"].log()?.sum_all()?;
        let error = adam.step(&loss.backward()?, 0.1).unwrap_err();
        assert!(error.to_string().contains("lower learning_rate"), "{error}");
        assert_eq!((values(&adam, "w"), adam.steps()), (vec![1.0, 0.0], 0));
        Ok(())
    }
}
