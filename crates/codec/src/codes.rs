//! Numbers on the wire that have a meaning here, and those that a newer peer may send.

/// An enum of known codes with `Unknown` for the rest, so that decoding a code never fails.
macro_rules! codes {
    (
        $(#[$doc:meta])*
        pub enum $type:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $code:literal => $text:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
            /// A code of a newer peer.
            Unknown(u16),
        }

        impl From<u16> for $type {
            fn from(code: u16) -> Self {
                match code {
                    $($code => Self::$variant,)+
                    code => Self::Unknown(code),
                }
            }
        }

        impl From<$type> for u16 {
            fn from(code: $type) -> Self {
                match code {
                    $($type::$variant => $code,)+
                    $type::Unknown(code) => code,
                }
            }
        }

        impl std::fmt::Display for $type {
            /// The word for logs, metrics and refusals.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.pad($text),)+
                    Self::Unknown(code) => write!(f, "unknown-{code}"),
                }
            }
        }
    };
}

pub(crate) use codes;
