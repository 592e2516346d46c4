//! Draws of chance: jitter, sampling, choosing between two. Never for keys or tokens.

/// A source of draws.
pub trait Chance {
    /// 64 evenly distributed bits.
    fn draw(&mut self) -> u64;

    /// A whole number in `0..limit`, or 0 when `limit` is 0.
    fn below(&mut self, limit: u64) -> u64 {
        // Multiply and shift (Lemire 2019); the bias is below 2^-32 for every limit used here.
        let wide = u128::from(self.draw()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

/// The system's random source could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct ChanceError(getrandom::Error);

/// Chance of a process: a generator that starts from the system's random source.
#[derive(Debug, Clone)]
pub struct RealChance(SeededChance);

impl RealChance {
    /// Errors: the system's random source cannot be read.
    pub fn new() -> Result<Self, ChanceError> {
        getrandom::u64()
            .map(|seed| Self(SeededChance::new(seed)))
            .map_err(ChanceError)
    }
}

impl Chance for RealChance {
    fn draw(&mut self) -> u64 {
        self.0.draw()
    }
}

/// The same draws for the same seed, everywhere and for ever: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct SeededChance(u64);

impl SeededChance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Chance for SeededChance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_draws() {
        // First outputs of the reference implementation for seed 1234567.
        let mut chance = SeededChance::new(1_234_567);
        let drawn = [chance.draw(), chance.draw(), chance.draw()];
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut chance = SeededChance::new(1);
        assert_eq!(chance.below(0), 0);
        let mut seen = [0; 5];
        for _ in 0..500 {
            seen[usize::try_from(chance.below(5)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    #[test]
    fn two_real_sources_differ() {
        let (mut a, mut b) = (RealChance::new().unwrap(), RealChance::new().unwrap());
        assert_ne!(a.draw(), b.draw());
    }
}
