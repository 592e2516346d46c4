//! Single fields of a message: checked on the way in, and refused under their own name.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_model::{LabelKey, Labels, Origin, ServiceName};

use crate::body::BodyError;

pub(crate) type Parsed<T> = Result<T, BodyError>;

/// Checked labels of a report or a body.
///
/// Errors: a key that is not a label key; names `field`.
pub(crate) fn labels_in(field: &'static str, labels: BTreeMap<String, String>) -> Parsed<Labels> {
    let label = |(key, value): (String, String)| {
        Ok((parse::<LabelKey>(field, &key)?, value.as_str().into()))
    };
    labels.into_iter().map(label).collect()
}

pub(crate) fn labels_out(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

pub(crate) fn parse<T>(field: &'static str, text: &str) -> Parsed<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| BodyError::field(field, format!("{text:?}: {error}")))
}

pub(crate) fn optional<T>(field: &'static str, text: &str) -> Parsed<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    (!text.is_empty()).then(|| parse(field, text)).transpose()
}

/// The name of the cluster that it belongs to; empty: it is of the mesh.
pub(crate) fn origin_out(origin: &Origin) -> String {
    origin
        .cluster()
        .map(ToString::to_string)
        .unwrap_or_default()
}

pub(crate) fn parse_all<T>(field: &'static str, texts: &[String]) -> Parsed<Vec<T>>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    texts.iter().map(|text| parse(field, text)).collect()
}

pub(crate) fn all<W, T: TryFrom<W, Error = BodyError>>(wire: Vec<W>) -> Parsed<Vec<T>> {
    wire.into_iter().map(T::try_from).collect()
}

pub(crate) fn service_name(
    field: &'static str,
    namespace: &str,
    name: &str,
) -> Parsed<ServiceName> {
    ServiceName::new(namespace, name)
        .map_err(|error| BodyError::field(field, format!("{namespace:?}/{name:?}: {error}")))
}

pub(crate) fn port_number(field: &'static str, number: u32) -> Parsed<u16> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(BodyError::field(
            field,
            format!("{number} is not a port number"),
        )),
    }
}

pub(crate) fn optional_port(field: &'static str, number: u32) -> Parsed<Option<u16>> {
    if number == 0 {
        Ok(None)
    } else {
        port_number(field, number).map(Some)
    }
}

pub(crate) fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(crate) fn strings<'a, T: ToString + 'a>(
    values: impl IntoIterator<Item = &'a T>,
) -> Vec<String> {
    values.into_iter().map(ToString::to_string).collect()
}

/// Saturates after half a million years.
pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
