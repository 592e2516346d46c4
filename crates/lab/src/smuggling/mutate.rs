//! Requests with something wrong in them: cases, changed where it matters to who frames messages.

use super::cases::Case;
use super::cases2::{Case2, Expect2, Message};

/// A stream of mutations that only its seed decides.
#[derive(Debug)]
pub(super) struct Mutations {
    state: u64,
}

/// What readers of HTTP have disagreed about.
const SNIPPETS: [&[u8]; 46] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\0",
    b"\t",
    b" ",
    b"\x0b",
    b"\x0c",
    b"\x85",
    b"\xa0",
    b"\xff",
    b":",
    b";",
    b",",
    b"=",
    b"+",
    b"-",
    b"0",
    b"0x",
    b"00000000000000000000",
    b"18446744073709551616",
    b"ffffffffffffffff",
    b"1e1",
    b"chunked",
    b"CHUNKED",
    b"identity",
    b"gzip, ",
    b", chunked",
    b"x",
    b"\"",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"content_length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Connection: content-length\r\n",
    b"Connection: transfer-encoding\r\n",
    b"TE: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: other\r\n",
    b"0\r\n\r\n",
    b"GET /q9999999z HTTP/1.1\r\nHost: x\r\n\r\n",
];

impl Mutations {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A case; mostly one that gets through, since of the others little is left to be misread. None that
    /// may become a tunnel: what is said in a tunnel is nobody's request.
    pub(super) fn pick<'c>(&mut self, cases: &'c [Case]) -> &'c Case {
        let cases: Vec<&Case> = cases.iter().filter(|case| !case.is_tunnel()).collect();
        let good: Vec<&Case> = cases
            .iter()
            .copied()
            .filter(|case| case.is_taken())
            .collect();
        match self.below(4) {
            0 => cases[self.below(cases.len())],
            _ => good[self.below(good.len())],
        }
    }

    /// One or two changes, seldom more.
    pub(super) fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(5) / 2 {
            self.change(&mut bytes);
        }
        bytes
    }

    /// As [`Mutations::pick`], of what is said in HTTP/2.
    pub(super) fn pick2<'c>(&mut self, cases: &'c [Case2]) -> &'c Case2 {
        let good: Vec<&Case2> = cases
            .iter()
            .filter(|case| case.expect == Expect2::Taken)
            .collect();
        match self.below(4) {
            0 => &cases[self.below(cases.len())],
            _ => good[self.below(good.len())],
        }
    }

    /// As [`Mutations::mutate`]. Mostly a name, a value or the data is changed, seldom the fields' order.
    pub(super) fn mutate2(&mut self, mut message: Message) -> Message {
        for _ in 0..=self.below(5) / 2 {
            let count = message.fields.len();
            match (self.below(8), count) {
                (0, 1..) => {
                    let field = message.fields[self.below(count)].clone();
                    message.fields.insert(self.below(count), field);
                }
                (1, 1..) => {
                    let field = message.fields.remove(self.below(count));
                    message.fields.insert(self.below(count), field);
                }
                _ => {
                    let mut pieces = message.pieces();
                    let at = self.below(pieces.len());
                    if let Some(piece) = pieces.get_mut(at) {
                        self.change(piece);
                    }
                }
            }
        }
        message
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let snippet = SNIPPETS[self.below(SNIPPETS.len())];
        match self.below(10) {
            0 | 1 => drop(bytes.splice(at..at, snippet.iter().copied())),
            2 => {
                let end = (at + 1 + self.below(4)).min(bytes.len());
                bytes.splice(at..end, snippet.iter().copied());
            }
            3 => {
                let end = (at + 1 + self.below(6)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (self.state.to_le_bytes()[5] % 8);
                }
            }
            // Where a line ends or begins is where framing is decided.
            5 | 6 => {
                let at = self.line(bytes).0;
                bytes.splice(at..at, snippet.iter().copied());
            }
            7 => {
                let (start, end) = self.line(bytes);
                let line = bytes[start..end].to_vec();
                bytes.splice(start..start, line);
            }
            8 => {
                let (start, end) = self.line(bytes);
                let line: Vec<u8> = bytes.drain(start..end).collect();
                let at = self.line(bytes).0;
                bytes.splice(at..at, line);
            }
            _ => {
                let (start, end) = self.line(bytes);
                bytes[start..end].make_ascii_uppercase();
            }
        }
    }

    /// A line with its end.
    fn line(&mut self, bytes: &[u8]) -> (usize, usize) {
        let lines: Vec<usize> = std::iter::once(0)
            .chain((1..=bytes.len()).filter(|&at| bytes[at - 1] == b'\n'))
            .collect();
        let index = self.below(lines.len());
        let end = lines.get(index + 1).copied().unwrap_or(bytes.len());
        (lines[index], end)
    }

    /// splitmix64.
    fn below(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = usize::try_from((mixed ^ (mixed >> 31)) & 0xffff_ffff);
        mixed.unwrap_or_default() % count.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_most_bytes_stay() {
        let mutants = |seed| -> Vec<Vec<u8>> {
            let mut mutations = Mutations::new(seed);
            (0..200)
                .map(|_| mutations.mutate(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()))
                .collect()
        };
        assert_eq!(mutants(7), mutants(7));
        let mut distinct = mutants(7);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 150, "{} of 200", distinct.len());
        let hold = |mutant: &&Vec<u8>| crate::http::find(mutant, b"HTTP/1.1").is_some();
        assert!(distinct.iter().filter(hold).count() > 100);
    }

    #[test]
    fn nothing_can_be_mutated_too() {
        let mut mutations = Mutations::new(1);
        for _ in 0..1000 {
            mutations.mutate(Vec::new());
        }
    }
}
