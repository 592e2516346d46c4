//! Header and trailer fields: an ordered list that can be written to any wire as it stands.

use bytes::Bytes;

use crate::syntax;

/// Fields of a head or of trailers (RFC 9110 section 5), in the order and letter case they were
/// sent in. Names are found whatever their case.
///
/// Invariant: every name is a token and no value holds CR, LF, NUL or another control character,
/// so a list of fields can never break the framing of what it is written into.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    list: Vec<(Bytes, Bytes)>,
    /// The [`mark`] of every name that is in the list, or was: most names that are asked for are in no
    /// list, and need not be looked for.
    marks: u64,
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Fields {}

/// One bit, the same for every spelling of a name. Different names may have the same.
const fn mark(name: &[u8]) -> u64 {
    let (Some(first), Some(last)) = (name.first(), name.last()) else {
        return 1;
    };
    // Takes the letter case away.
    let (first, last) = (*first | 0x20, *last | 0x20);
    1 << ((first as usize * 5 + last as usize * 3 + name.len()) & 63)
}

/// The marks of all `names`.
pub(crate) const fn marks(names: &[&str]) -> u64 {
    let (mut all, mut index) = (0, 0);
    while index < names.len() {
        all |= mark(names[index].as_bytes());
        index += 1;
    }
    all
}

/// Why a name and a value are not a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadField {
    #[error("a field name may hold only token characters (RFC 9110 section 5.6.2)")]
    Name,
    #[error("a field value may not hold control characters (RFC 9110 section 5.5)")]
    Value,
}

impl Fields {
    pub fn new() -> Self {
        Self::default()
    }

    /// With room for so many.
    pub fn with_capacity(count: usize) -> Self {
        Self {
            list: Vec::with_capacity(count),
            marks: 0,
        }
    }

    /// Appends a field. Errors: the name or the value holds what it may not.
    pub fn push(
        &mut self,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), BadField> {
        let (name, value) = (name.into(), value.into());
        check(&name, &value)?;
        self.push_checked(name, value);
        Ok(())
    }

    /// Appends what a parser that is as strict has found.
    pub(crate) fn push_checked(&mut self, name: Bytes, value: Bytes) {
        debug_assert_eq!(check(&name, &value), Ok(()));
        self.marks |= mark(&name);
        self.list.push((name, value));
    }

    /// Removes every field of this name and appends one. Errors: as [`Fields::push`], and then
    /// nothing was removed.
    pub fn set(&mut self, name: &'static str, value: impl Into<Bytes>) -> Result<(), BadField> {
        let value = value.into();
        check(name.as_bytes(), &value)?;
        self.remove(name);
        self.push_checked(name.into(), value);
        Ok(())
    }

    /// As [`Fields::set`], before all others.
    pub fn lead(&mut self, name: &'static str, value: impl Into<Bytes>) -> Result<(), BadField> {
        let value = value.into();
        check(name.as_bytes(), &value)?;
        self.remove(name);
        self.marks |= mark(name.as_bytes());
        self.list.insert(0, (name.into(), value));
        Ok(())
    }

    /// The value of the first field of this name.
    pub fn find(&self, name: &str) -> Option<&Bytes> {
        if !self.may_have(mark(name.as_bytes())) {
            return None;
        }
        self.list
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The values of all fields of this name, in order.
    pub fn find_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        let list = if self.may_have(mark(name.as_bytes())) {
            &self.list[..]
        } else {
            &[]
        };
        list.iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The members of a comma-separated list field (RFC 9110 section 5.6.1), over all fields of
    /// this name, without the white space around them; empty members are skipped.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.find_all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Removes every field of this name; true when there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        if !self.may_have(mark(name.as_bytes())) {
            return false;
        }
        let before = self.list.len();
        self.list
            .retain(|(found, _)| !found.eq_ignore_ascii_case(name.as_bytes()));
        self.list.len() != before
    }

    /// False: no name with any of these marks is here.
    pub(crate) fn may_have(&self, marks: u64) -> bool {
        self.marks & marks != 0
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        self.list.retain(|(name, value)| keep(name, value));
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.list.iter().map(|(name, value)| (name, value))
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

fn check(name: &[u8], value: &[u8]) -> Result<(), BadField> {
    if !syntax::is_token(name) {
        Err(BadField::Name)
    } else if !syntax::is_field_value(value) {
        Err(BadField::Value)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_ignores_case_and_keeps_order() {
        let mut fields = Fields::new();
        for (name, value) in [("Accept", "a, b"), ("X-Id", "1"), ("accept", "c,,")] {
            fields.push(name, value).unwrap();
        }
        assert_eq!(fields.find("ACCEPT").unwrap(), "a, b");
        let members: Vec<_> = fields.members("accept").collect();
        assert_eq!(members, [b"a", b"b", b"c"]);
        fields.lead("accept", "d").unwrap();
        assert_eq!(fields.iter().next().unwrap().1, "d");
        assert_eq!(fields.find_all("accept").count(), 1);
        fields.set("x-id", "2").unwrap();
        assert_eq!(fields.find_all("x-id").collect::<Vec<_>>(), ["2"]);
        assert!(fields.remove("Accept"));
        assert!(!fields.contains("accept"));
        assert_eq!(fields.len(), 1);
    }

    #[test]
    fn a_name_has_one_mark_however_it_is_spelt() {
        for name in ["Content-Length", "x", "X-9_~", "!#$%&'*+-.^_`|~"] {
            let spellings = [name.to_ascii_lowercase(), name.to_ascii_uppercase()];
            let mut fields = Fields::new();
            fields
                .push(Bytes::copy_from_slice(name.as_bytes()), "")
                .unwrap();
            for spelling in spellings {
                assert_eq!(
                    mark(spelling.as_bytes()),
                    mark(name.as_bytes()),
                    "{spelling}"
                );
                assert!(fields.contains(&spelling));
            }
        }
        assert!(!Fields::new().contains("host"));
        assert!(marks(&["te", "host"]) == mark(b"te") | mark(b"host"));
    }

    #[test]
    fn what_breaks_framing_is_no_field() {
        let mut fields = Fields::new();
        for name in ["", "a b", "a:", "a\r\n", "é"] {
            assert_eq!(fields.push(name, "x"), Err(BadField::Name), "{name:?}");
        }
        for value in ["a\r\nb: c", "\0", "a\nb", "a\rb", "\x7f"] {
            assert_eq!(fields.push("x", value), Err(BadField::Value), "{value:?}");
        }
        assert!(fields.is_empty());
        assert_eq!(fields.push("x", "tab\tand é"), Ok(()));
    }
}
