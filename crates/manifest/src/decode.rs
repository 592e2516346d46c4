//! JSON values to typed ones, with everything that does not fit.
//!
//! serde stops at the first thing that does not fit and is silent about fields that a type does not
//! have. This deserializer knows the path of every value and the fields of every struct, so it
//! reports unknown fields with a suggestion; and after an error it starts again without the value
//! that caused it, until all errors are known. It never guesses a value: what stands in for a missing
//! field, to learn which others are missing, goes into nothing that is returned.

mod missing;

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use self::missing::missing_too;
use crate::path::Step;
use crate::problem::{About, Problems, did_you_mean, quoted};
use crate::{FieldPath, Problem};

/// Errors of one object after which reading it again would cost more than it tells.
const MOST_ERRORS: usize = 32;

/// What could be read, and what had to be left out for it.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) value: T,
    pub(crate) dropped: Dropped,
}

/// The values that did not fit.
#[derive(Debug, Default)]
pub(crate) struct Dropped(Vec<FieldPath>);

/// Reads `json`, which stands at `path`, as a `T`. `None` when too little of it fits.
pub(crate) fn decode<T: DeserializeOwned>(
    json: &Value,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<Decoded<T>> {
    let mut dropped = Dropped::default();
    loop {
        let (result, unknown) = attempt::<T>(json, path, &dropped.0, &[]);
        let error = match result {
            Ok(value) => {
                problems.extend(unknown);
                return Some(Decoded { value, dropped });
            }
            Err(error) => error,
        };
        let at = error.path.clone().unwrap_or_else(|| path.clone());
        // A field that was left out because it did not fit is not missing as well.
        let consequence = match &error.cause {
            Cause::Missing(field) => dropped.0.contains(&at.field(field)),
            Cause::Incomplete => true,
            Cause::Unfit { .. } => false,
        };
        if let Cause::Missing(field) = error.cause {
            let also = missing_too::<T>(json, path, &dropped.0, (&at, field));
            for field in also.filter(|field| !dropped.0.contains(&at.field(field))) {
                let missing: Unfit = de::Error::missing_field(field);
                problems.push(missing.into_problem(&at));
            }
        }
        if !consequence {
            problems.push(error.into_problem(&at));
        }
        if at == *path || dropped.0.len() >= MOST_ERRORS {
            problems.extend(unknown);
            return None;
        }
        dropped.0.push(at);
    }
}

/// Reads once, without what was dropped and with what stands in for missing fields. Also returns
/// the unknown fields.
fn attempt<T: DeserializeOwned>(
    json: &Value,
    path: &FieldPath,
    dropped: &[FieldPath],
    stand_ins: &[(FieldPath, &'static Value)],
) -> (Result<T, Unfit>, Vec<Problem>) {
    let session = Session {
        dropped,
        stand_ins,
        unknown: RefCell::default(),
    };
    let result = T::deserialize(Decoder {
        json,
        path: path.clone(),
        session: &session,
    });
    (result, session.unknown.into_inner())
}

impl Dropped {
    /// Gives problems that were found in the decoded value the paths they have in what was
    /// written, and leaves out those that only follow from what was dropped.
    pub(crate) fn report(&self, found: Problems, problems: &mut Problems) {
        for problem in found.into_vec() {
            let path = original(&problem.path, &self.0);
            let follows = |gone: &FieldPath| gone.holds(&path) || path.holds(gone);
            if !self.0.iter().any(follows) {
                problems.push(Problem { path, ..problem });
            }
        }
    }
}

/// Counts the dropped items of lists back in.
fn original(path: &FieldPath, dropped: &[FieldPath]) -> FieldPath {
    let mut original = FieldPath::root();
    for step in path.steps() {
        original = match step {
            Step::Field(name) => original.field(name),
            Step::Index(index) => (0..)
                .map(|candidate| original.index(candidate))
                .filter(|candidate| !dropped.contains(candidate))
                .nth(*index)
                .unwrap_or_else(|| original.index(*index)),
        };
    }
    original
}

struct Session<'s> {
    dropped: &'s [FieldPath],
    stand_ins: &'s [(FieldPath, &'static Value)],
    unknown: RefCell<Vec<Problem>>,
}

#[derive(Clone)]
struct Decoder<'s, 'a> {
    json: &'s Value,
    path: FieldPath,
    session: &'a Session<'a>,
}

/// Why a value does not fit its type.
#[derive(Debug)]
struct Unfit {
    /// `None` until the error has left the visitor that made it.
    path: Option<FieldPath>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Missing(&'static str),
    /// A part of it was dropped, and it is nothing without.
    Incomplete,
    Unfit {
        message: String,
        hint: Option<String>,
        about: About,
    },
}

impl Unfit {
    fn at(self, path: &FieldPath) -> Self {
        Self {
            path: self.path.or_else(|| Some(path.clone())),
            ..self
        }
    }

    fn into_problem(self, at: &FieldPath) -> Problem {
        match self.cause {
            Cause::Missing(field) => {
                Problem::new(at.clone(), format!("the field `{field}` is missing"))
            }
            Cause::Incomplete => Problem::new(at.clone(), "a part of it is missing"),
            Cause::Unfit {
                message,
                hint,
                about,
            } => Problem {
                about,
                ..Problem::new(at.clone(), message).maybe_hint(hint)
            },
        }
    }

    /// Says what to do, unless it is said.
    fn hint(mut self, advice: Option<String>) -> Self {
        if let Cause::Unfit { hint, .. } = &mut self.cause {
            *hint = hint.take().or(advice);
        }
        self
    }

    fn of_key(mut self) -> Self {
        if let Cause::Unfit { about, .. } = &mut self.cause {
            *about = About::Key;
        }
        self
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Missing(field) => write!(f, "the field `{field}` is missing"),
            Cause::Incomplete => f.write_str("a part of it is missing"),
            Cause::Unfit { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Unfit {}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: None,
            cause: Cause::Unfit {
                message: message.to_string(),
                hint: None,
                about: About::Value,
            },
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            path: None,
            cause: Cause::Missing(field),
        }
    }
}

fn describe(json: &Value) -> String {
    match json {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

impl<'s> Decoder<'s, '_> {
    fn child(&self, json: &'s Value, step: &Step) -> Self {
        let path = match step {
            Step::Field(name) => self.path.field(name),
            Step::Index(index) => self.path.index(*index),
        };
        Self {
            json,
            path,
            session: self.session,
        }
    }

    fn unfit(&self, expected: &str) -> Unfit {
        let found = describe(self.json);
        de::Error::custom(format!("expected {expected}, found {found}"))
    }

    fn failed<T>(&self, expected: &str) -> Result<T, Unfit> {
        Err(self.unfit(expected).at(&self.path))
    }

    fn is_dropped(&self) -> bool {
        self.session.dropped.contains(&self.path)
    }

    /// The values of an object or a list that were not dropped.
    fn children(&self) -> Vec<(Step, Self)> {
        let steps: Vec<(Step, &'s Value)> = match self.json {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (Step::Index(index), item))
                .collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| (Step::Field(name.clone()), value))
                .collect(),
            _ => Vec::new(),
        };
        steps
            .into_iter()
            .map(|(step, json)| (step.clone(), self.child(json, &step)))
            .filter(|(_, child)| !child.is_dropped())
            .collect()
    }

    fn report_unknown(&self, name: &str, known: &'static [&'static str]) {
        let hint = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| match known {
            [] => "there are no fields here".to_owned(),
            _ => format!("the fields here are {}", known.join(", ")),
        });
        let problem = Problem::new(self.path.clone(), "unknown field").of_key();
        self.session.unknown.borrow_mut().push(problem.hint(hint));
    }

    fn integer<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        range: std::ops::RangeInclusive<i128>,
        expected: &str,
    ) -> Result<V::Value, Unfit> {
        let number = self
            .json
            .as_i64()
            .map(i128::from)
            .or_else(|| self.json.as_u64().map(i128::from))
            .filter(|number| range.contains(number));
        let Some(number) = number else {
            return self.failed(expected);
        };
        let result = match (i64::try_from(number), u64::try_from(number)) {
            (_, Ok(number)) => visitor.visit_u64(number),
            (Ok(number), _) => visitor.visit_i64(number),
            (Err(_), Err(_)) => return self.failed(expected),
        };
        result.map_err(|error: Unfit| error.at(&self.path))
    }

    fn text(&self) -> Result<&'s str, Unfit> {
        match self.json {
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Bool(_) => Err(self
                .unfit("text")
                .hint(Some("put it in quotes".to_owned()))
                .at(&self.path)),
            _ => self.failed("text"),
        }
    }
}

/// An integer type of Rust, and what to call its values.
macro_rules! integers {
    ($($method:ident: $type:ty, $expected:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            self.integer(visitor, i128::from(<$type>::MIN)..=i128::from(<$type>::MAX), $expected)
        }
    )*};
}

impl<'de> Deserializer<'de> for Decoder<'_, '_> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let path = self.path.clone();
        let result = match self.json {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (_, _, Some(number)) => visitor.visit_f64(number),
                (None, None, None) => return self.failed("a number"),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(_) => return self.deserialize_seq(visitor),
            Value::Object(_) => return self.deserialize_map(visitor),
        };
        result.map_err(|error: Unfit| error.at(&path))
    }

    integers! {
        deserialize_i8: i8, "a whole number";
        deserialize_i16: i16, "a whole number";
        deserialize_i32: i32, "a whole number";
        deserialize_i64: i64, "a whole number";
        deserialize_u8: u8, "a whole number from 0 to 255";
        deserialize_u16: u16, "a whole number from 0 to 65535";
        deserialize_u32: u32, "a whole number from 0 to 4294967295";
        deserialize_u64: u64, "a whole number, 0 or more";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.json.as_f64() {
            Some(number) => visitor.visit_f64(number),
            None => self.failed("a number"),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.json {
            Value::Bool(value) => visitor.visit_bool(*value),
            _ => self.failed("true or false"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let text = self.text()?;
        let example = example(&expectation(&visitor));
        visitor
            .visit_str(text)
            .map_err(|error: Unfit| error.hint(example).at(&self.path))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.json {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if !self.json.is_array() {
            return self.failed("a list");
        }
        let children = Children::new(self.children());
        visitor
            .visit_seq(children)
            .map_err(|error| error.at(&self.path))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if !self.json.is_object() {
            return self.failed("an object");
        }
        let children = Children::new(self.children());
        visitor
            .visit_map(children)
            .map_err(|error| error.at(&self.path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        if !self.json.is_object() {
            return self.failed("an object");
        }
        let mut children = self.children();
        // As in Kubernetes, null is the same as leaving the field out.
        children.retain(|(step, child)| match step {
            Step::Field(name) if !fields.contains(&name.as_str()) => {
                child.report_unknown(name, fields);
                false
            }
            _ => !child.json.is_null(),
        });
        for field in fields {
            let path = self.path.field(field);
            let stand_in = self.session.stand_ins.iter().find(|(at, _)| *at == path);
            if let Some((_, json)) = stand_in {
                let step = Step::Field((*field).to_owned());
                children.push((step.clone(), self.child(json, &step)));
            }
        }
        visitor
            .visit_map(Children::new(children))
            .map_err(|error| error.at(&self.path))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        let text = self.text()?;
        if !variants.contains(&text) {
            let message = format!("{} is none of {}", quoted(text), variants.join(", "));
            let unfit: Unfit = de::Error::custom(message);
            let hint = did_you_mean(text, variants.iter().copied());
            return Err(unfit.hint(hint).at(&self.path));
        }
        let variant: StrDeserializer<'_, Unfit> = text.into_deserializer();
        visitor
            .visit_enum(variant)
            .map_err(|error| error.at(&self.path))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        if self.json.as_array().map(Vec::len) != Some(length) {
            return self.failed(&format!("a list of {length}"));
        }
        if self.children().len() < length {
            let cause = Cause::Incomplete;
            let path = Some(self.path);
            return Err(Unfit { path, cause });
        }
        self.deserialize_seq(visitor)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

/// What a visitor says that it takes.
fn expectation<'de>(visitor: &impl Visitor<'de>) -> String {
    let expected: &dyn de::Expected = visitor;
    expected.to_string()
}

/// How values are written whose types only say what they are.
fn example(expected: &str) -> Option<String> {
    let example = match expected {
        "IP address" => "127.0.0.1",
        "socket address" => "127.0.0.1:8080",
        _ => return None,
    };
    Some(format!("write it like {example}"))
}

/// The items of a list or the fields of an object.
struct Children<'s, 'a> {
    rest: std::vec::IntoIter<(Step, Decoder<'s, 'a>)>,
    value: Option<Decoder<'s, 'a>>,
}

impl<'s, 'a> Children<'s, 'a> {
    fn new(children: Vec<(Step, Decoder<'s, 'a>)>) -> Self {
        Self {
            rest: children.into_iter(),
            value: None,
        }
    }
}

fn seeded<'de, S: DeserializeSeed<'de>>(
    seed: S,
    decoder: Decoder<'_, '_>,
) -> Result<S::Value, Unfit> {
    let path = decoder.path.clone();
    seed.deserialize(decoder).map_err(|error| error.at(&path))
}

impl<'de> SeqAccess<'de> for Children<'_, '_> {
    type Error = Unfit;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Unfit> {
        let next = self.rest.next();
        next.map(|(_, decoder)| seeded(seed, decoder)).transpose()
    }
}

impl<'de> MapAccess<'de> for Children<'_, '_> {
    type Error = Unfit;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Unfit> {
        let Some((Step::Field(name), decoder)) = self.rest.next() else {
            return Ok(None);
        };
        let path = decoder.path.clone();
        self.value = Some(decoder);
        let name: StrDeserializer<'_, Unfit> = name.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|error| error.of_key().at(&path))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unfit> {
        match self.value.take() {
            Some(decoder) => seeded(seed, decoder),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}
