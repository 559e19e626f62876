//! Positions by sines and cosines: Vaswani et al. 2017, "Attention Is All You Need", section 3.5.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// What is added at each position `[n_ctx, d_model]`: the sines of all wavelengths, then their cosines, as tensor2tensor and
/// Marian have them. The paper's formula lets them alternate.
pub(crate) fn sinusoids(n_ctx: usize, d_model: usize, device: &Device) -> Result<Tensor> {
    let sines = d_model.div_ceil(2);
    let value = |position: usize, dim: usize| {
        let (pair, is_sine) = if dim < sines { (dim, true) } else { (dim - sines, false) };
        let angle = position as f64 / 10_000f64.powf(2.0 * pair as f64 / d_model as f64);
        (if is_sine { angle.sin() } else { angle.cos() }) as f32
    };
    let values = (0..n_ctx).flat_map(|position| (0..d_model).map(move |dim| value(position, dim)));
    Ok(Tensor::from_vec(values.collect(), (n_ctx, d_model), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of width 4 the wavelengths are 2 pi and 200 pi; an odd width has a sine more.
    #[test]
    fn wavelengths_grow() -> Result<()> {
        let near = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7);
        let rows = sinusoids(3, 4, &Device::Cpu)?.to_vec2::<f32>()?;
        assert_eq!(rows[0], [0.0, 0.0, 1.0, 1.0]);
        assert!(near(&rows[2], &[0.909_297_426_8, 0.019_998_666_7, -0.416_146_836_5, 0.999_800_006_7]));
        let rows = sinusoids(2, 3, &Device::Cpu)?.to_vec2::<f32>()?;
        // 10,000 to the two thirds is 464.158883.
        assert!(near(&rows[1], &[0.841_470_984_8, 0.002_154_433_0, 0.540_302_305_9]), "{rows:?}");
        Ok(())
    }
}
