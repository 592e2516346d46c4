//! The words by which errors are counted.

use std::collections::BTreeSet;

use isthmus_codec::http1::Malformed as M;

#[test]
fn every_error_has_a_word_of_its_own_for_counters() {
    let all = [
        M::RequestLine,
        M::StatusLine,
        M::Version,
        M::Target,
        M::Scheme,
        M::HostMissing,
        M::Host,
        M::FieldName,
        M::SpaceBeforeColon,
        M::FieldValue,
        M::Folded,
        M::BareCr,
        M::BareLf,
        M::Tls,
        M::Nul,
        M::RequestLineTooLong { limit: 1 },
        M::HeadTooLarge { limit: 1 },
        M::TooManyFields { limit: 1 },
        M::ContentLength,
        M::ContentLengthsDiffer,
        M::LengthAndTransferCoding,
        M::TransferCoding,
        M::TransferCodingIn10,
        M::BodyOnConnect,
        M::ChunkSize,
        M::ChunkSizeOverflow,
        M::ChunkExtension,
        M::ChunkLineTooLong,
        M::ChunkEnd,
        M::Truncated,
        M::Unasked,
        M::SwitchedProtocols,
    ];
    let words: BTreeSet<&str> = all.iter().map(|error| error.code()).collect();
    assert_eq!(words.len(), all.len(), "{words:?}");
    for word in words {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(!word.is_empty() && word.chars().all(fits), "{word}");
    }
}
