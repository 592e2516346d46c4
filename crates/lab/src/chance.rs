//! Draws that follow from a seed and a number alone, so that a run can be made again.

/// 64 bits of the draw with this number (the finaliser of splitmix64).
pub fn bits(seed: u64, number: u64) -> u64 {
    let mut z =
        seed.wrapping_mul(0xd134_2543_de82_ef95) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From 0 to 1, 1 excluded.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
pub fn uniform(seed: u64, number: u64) -> f64 {
    (bits(seed, number) >> 11) as f64 / (1u64 << 53) as f64
}

/// With a mean of 1 and a coefficient of variation of 0.5: how unequal pieces of work are.
pub fn lognormal(seed: u64, number: u64) -> f64 {
    let sigma = 1.25_f64.ln().sqrt();
    let (a, b) = (
        uniform(seed, number.wrapping_mul(2)),
        uniform(seed, number.wrapping_mul(2) | 1),
    );
    let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}

/// With a mean of 1: the time between two that arrive by chance.
pub fn exponential(seed: u64, number: u64) -> f64 {
    -(1.0 - uniform(seed, number)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_mean_that_they_should_have() {
        let mean = |draw: fn(u64, u64) -> f64| {
            (0..20_000u32).map(|n| draw(3, n.into())).sum::<f64>() / 20_000.0
        };
        for (draw, expect) in [
            (uniform as fn(u64, u64) -> f64, 0.5),
            (lognormal, 1.0),
            (exponential, 1.0),
        ] {
            let mean = mean(draw);
            assert!((mean - expect).abs() < 0.03, "{mean} instead of {expect}");
        }
        assert_ne!(bits(1, 2), bits(2, 1));
    }
}
