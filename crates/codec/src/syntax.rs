//! Which bytes may stand where: the small grammars that everything else checks against.

/// A token (RFC 9110 section 5.6.2): methods and field names.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A field value (RFC 9110 section 5.5): visible, space, tab or above ASCII; never CR, LF or NUL.
pub(crate) fn is_field_value(text: &[u8]) -> bool {
    text.iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
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
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
    (1..=1024).contains(&text.len()) && text.iter().all(|&byte| allowed(byte))
}
