//! Draws that follow from a seed and a count alone.

/// SplitMix64.
pub(crate) fn random(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) fn uniform(seed: u64, count: u64) -> f64 {
    unit(random(random(seed, 1), count))
}

pub(crate) fn below(draw: u64, count: usize) -> usize {
    usize::try_from(draw % count as u64).expect("small")
}

/// With a mean of 1 and a coefficient of variation of 0.5.
pub(crate) fn lognormal(seed: u64, count: u64) -> f64 {
    let sigma = 1.25_f64.ln().sqrt();
    let (a, b) = (uniform(seed, 2 * count), uniform(seed, 2 * count + 1));
    let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}
