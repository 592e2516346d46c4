//! Which bytes may stand where: the small grammars that everything else checks against.

/// Looked up for every byte of every head.
type Class = [bool; 256];

const TOKEN: Class = alphanumeric_and(b"!#$%&'*+-.^_`|~");
const AUTHORITY: Class = alphanumeric_and(b"-._~%!$&'()*+,;=:[]");

const fn alphanumeric_and(others: &[u8]) -> Class {
    let mut class = [false; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        byte -= 1;
        class[byte as usize] = byte.is_ascii_alphanumeric();
    }
    let mut at = 0;
    while at < others.len() {
        class[others[at] as usize] = true;
        at += 1;
    }
    class
}

fn is_all(text: &[u8], class: &Class) -> bool {
    text.iter().all(|&byte| class[usize::from(byte)])
}

/// Bytes that are looked at together.
const WORD: usize = 8;

const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; WORD])
}

/// Sets the high bit of the first byte that is a control character. Behind it, bits mean nothing.
fn controls(word: [u8; WORD]) -> u64 {
    let word = u64::from_le_bytes(word);
    let without_del = word ^ each(0x7f);
    let low = word.wrapping_sub(each(b' ')) & !word;
    let del = without_del.wrapping_sub(each(1)) & !without_del;
    (low | del) & each(0x80)
}

/// How many bytes come before the first control character, or before one of the last few, which the
/// caller looks at alone.
pub(crate) fn plain_words(text: &[u8]) -> usize {
    let words = text.as_chunks().0;
    let mut plain = 0;
    for word in words {
        let controls = controls(*word);
        if controls != 0 {
            return plain + controls.trailing_zeros() as usize / 8;
        }
        plain += WORD;
    }
    plain
}

/// A token (RFC 9110 section 5.6.2): methods and field names.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && is_all(text, &TOKEN)
}

/// A field value (RFC 9110 section 5.5): visible, space, tab or above ASCII; never CR, LF or NUL.
pub(crate) fn is_field_value(text: &[u8]) -> bool {
    let allowed = |&byte: &u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    let (words, rest) = text.as_chunks();
    let mut words = words.iter();
    words.all(|word| controls(*word) == 0 || word.iter().all(allowed)) && rest.iter().all(allowed)
}

/// A path with its query in origin-form (RFC 9112 section 3.2.1), or the asterisk.
pub(crate) fn is_path(text: &[u8]) -> bool {
    text == b"*"
        || (text.first() == Some(&b'/')
            && text
                .iter()
                .all(|&byte| byte > b' ' && byte != 0x7f && byte != b'#'))
}

/// `host[:port]` (RFC 3986 section 3.2), at most 1024 bytes, without user information, which RFC 9110 section 4.2.4
/// tells receivers to distrust.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    (1..=1024).contains(&text.len()) && is_all(text, &AUTHORITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_the_same_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let control = byte < b' ' || byte == 0x7f;
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            for (length, at) in (1..40).flat_map(|length| (0..length).map(move |at| (length, at))) {
                let mut text = vec![b'a'; length];
                text[at] = byte;
                assert_eq!(is_token(&text), token, "{byte:#x} at {at}");
                assert_eq!(
                    is_field_value(&text),
                    !control || byte == b'\t',
                    "{byte:#x} at {at}"
                );
                let plain = length / WORD * WORD;
                let expect = if control { plain.min(at) } else { plain };
                assert_eq!(plain_words(&text), expect, "{byte:#x} at {at}");
                // What is behind a control character, or so high that it might be taken for one.
                text[length - 1] = 0xff;
                if at + 1 < length {
                    assert_eq!(plain_words(&text), expect, "{byte:#x} at {at}");
                }
            }
        }
    }
}
