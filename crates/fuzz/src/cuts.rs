//! An input in pieces, as a network may bring it.

/// The same bytes as one piece, byte by byte, and cut at places that follow from the bytes.
pub(crate) fn ways(input: &[u8]) -> [Vec<&[u8]>; 3] {
    [vec![input], input.chunks(1).collect(), scattered(input)]
}

/// Pieces of 1 to 64 bytes.
fn scattered(mut input: &[u8]) -> Vec<&[u8]> {
    let mut state = Mixer::of(input);
    let mut pieces = Vec::new();
    while !input.is_empty() {
        let count = 1 + usize::from(state.byte() % 64);
        let (piece, rest) = input.split_at(count.min(input.len()));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// A stream of bytes that only its seed decides (splitmix64 of an FNV-1a hash).
pub(crate) struct Mixer(u64);

impl Mixer {
    pub(crate) fn of(seed: &[u8]) -> Self {
        let hash = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        Self(seed.iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 56) as u8
    }
}
