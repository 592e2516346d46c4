//! One uniformly distributed `u64` per request, turned into as many independent numbers as needed.

/// SplitMix64's finaliser (Steele, Lea, Flood 2014) over draw and salt: different salts give
/// numbers that are independent for our purposes.
pub(crate) fn mix(draw: u64, salt: u64) -> u64 {
    let mut z = draw ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 0.0 inclusive to 1.0 exclusive.
#[expect(
    clippy::cast_precision_loss,
    reason = "the upper 53 bits fit a double exactly"
)]
pub(crate) fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}

/// 0 to `count - 1`; 0 when `count` is 0.
pub(crate) fn below(draw: u64, count: usize) -> usize {
    let scaled = (u128::from(draw) * count as u128) >> 64;
    usize::try_from(scaled).expect("less than count, which is a usize")
}

/// A salt from a name (FNV-1a), equal in every process.
pub(crate) fn salt(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_stay_in_their_ranges(draw in any::<u64>(), salt in any::<u64>(), n in 1usize..99) {
            prop_assert!((0.0..1.0).contains(&unit(mix(draw, salt))));
            prop_assert!(below(mix(draw, salt), n) < n);
        }
    }

    #[test]
    fn even_poor_draws_spread_evenly() {
        let mut seen = [0u32; 4];
        for draw in 0..4000 {
            seen[below(mix(draw, 1), 4)] += 1;
        }
        assert!(
            seen.iter().all(|count| (900..1100).contains(count)),
            "{seen:?}"
        );
        assert_eq!(below(u64::MAX, 0), 0);
    }
}
