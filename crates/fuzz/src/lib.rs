//! Every decoder under bytes from anywhere.
//!
//! A [`Target`] is a function from bytes to a word for what they turned out to be. It panics when
//! something is wrong: a property of the decoder does not hold, or the decoder itself panics. The
//! inputs under `corpus/<target>/` are named by that word, so a decoder that changes its mind about
//! one of them is noticed as well; they are replayed by `cargo test`. `make fuzz` looks for new ones.
//!
//! Nothing here draws chance or does I/O: the same bytes do the same everywhere. How an input is cut
//! into pieces follows from its bytes.

mod cuts;
mod http1;
mod message;
mod mux;
mod proxy_protocol;
mod snapshot;
mod wire;

/// One decoder, or one conversation of decoders.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// What the bytes turned out to be, in lower-case words with hyphens. Panics: a finding.
    pub run: fn(&[u8]) -> String,
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target {
        name: "http1-request",
        run: http1::request,
    },
    Target {
        name: "http1-response",
        run: http1::response,
    },
    Target {
        name: "http1-target",
        run: http1::target,
    },
    Target {
        name: "mux-bytes",
        run: mux::bytes,
    },
    Target {
        name: "mux-pair",
        run: mux::pair,
    },
    Target {
        name: "message-open",
        run: message::open,
    },
    Target {
        name: "message-reply",
        run: message::reply,
    },
    Target {
        name: "message-interim",
        run: message::interim,
    },
    Target {
        name: "proxy-protocol",
        run: proxy_protocol::header,
    },
    Target {
        name: "wire-body",
        run: wire::body,
    },
    Target {
        name: "wire-proxy",
        run: wire::proxy,
    },
    Target {
        name: "wire-peer",
        run: wire::peer,
    },
    Target {
        name: "snapshot",
        run: snapshot::snapshot,
    },
];

/// The target of this name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// The name of an enum's variant as a word: `CreditExceeded { … }` is `credit-exceeded`.
fn word(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let name = text.split(|c: char| !c.is_alphanumeric()).next();
    let mut word = String::new();
    for letter in name.unwrap_or_default().chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

/// Text as one word of letters, digits and hyphens.
fn hyphened(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}
