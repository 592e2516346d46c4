//! How a process came into the mesh.

use std::fmt;
use std::str::FromStr;

/// One use of a join token: the process that joined by it, with every certificate that it was given since.
/// What is revoked is an admission; the same account may have others, which go on.
///
/// It has the id of its token, and is written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Admission(pub [u8; 8]);

/// The text is not an admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an admission is 16 hexadecimal digits: the id of the join token that was used")]
pub struct NotAdmission;

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({self})")
    }
}

impl FromStr for Admission {
    type Err = NotAdmission;

    fn from_str(text: &str) -> Result<Self, NotAdmission> {
        if text.len() != 16 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotAdmission);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| NotAdmission)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admissions_round_trip_and_nothing_else_parses() {
        let admission = Admission([0, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(admission.to_string(), "00010203040506ff");
        assert_eq!("00010203040506fF".parse(), Ok(admission));
        for text in [
            "",
            "00010203040506f",
            "+0010203040506ff",
            "00010203040506fg",
            "00010203040506ff0",
        ] {
            assert_eq!(text.parse::<Admission>(), Err(NotAdmission), "{text}");
        }
    }
}
