//! How long a caller still waits, as fields say it: of a call of gRPC `grpc-timeout`, of any request
//! `x-isthmus-timeout`, written the same way.
//!
//! A program that asks others in the course of a request hands the field on, as it does with a trace:
//! so nobody works any more for a caller that has given up. Each proxy on the way tells the next program
//! what is left.
//!
//! Source of the syntax: "gRPC over HTTP2", doc/PROTOCOL-HTTP2.md of grpc/grpc.

use std::time::Duration;

use isthmus_codec::Fields;

use super::grpc::is_grpc;

const OF_CALL: &str = "grpc-timeout";
const OF_REQUEST: &str = "x-isthmus-timeout";

/// How long the caller waits; `None` if it has not said so in a way that can be read.
pub(crate) fn timeout(fields: &Fields) -> Option<Duration> {
    let of_call = is_grpc(fields).then(|| read(fields, OF_CALL)).flatten();
    of_call.into_iter().chain(read(fields, OF_REQUEST)).min()
}

/// Tells the program what is left of the caller's time, if the caller has said anything.
pub(crate) fn set_timeout(fields: &mut Fields, remaining: Duration) {
    for name in [OF_CALL, OF_REQUEST] {
        if fields.contains(name) {
            // Digits and a letter are a value.
            let _ = fields.set(name, written(remaining));
        }
    }
}

fn read(fields: &Fields, name: &str) -> Option<Duration> {
    let (unit, digits) = fields.find(name)?.split_last()?;
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let amount: u64 = std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_number)?
        .parse()
        .ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// In the finest unit for which eight digits are enough.
fn written(remaining: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let units = [
        (remaining.as_micros(), 'u'),
        (remaining.as_millis(), 'm'),
        (u128::from(remaining.as_secs()), 'S'),
    ];
    let fits = units.into_iter().find(|(amount, _)| *amount <= MOST);
    let (amount, unit) = fits.unwrap_or((u128::from(remaining.as_secs() / 3600).min(MOST), 'H'));
    format!("{amount}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: &'static str, value: &'static str) -> Fields {
        let mut fields = Fields::new();
        fields.push(name, value).unwrap();
        fields
    }

    #[test]
    fn a_call_may_say_it_twice_and_no_other_request_in_the_words_of_calls() {
        let mut both = fields(OF_CALL, "2S");
        assert_eq!(timeout(&both), None);
        both.push("content-type", "application/grpc").unwrap();
        assert_eq!(timeout(&both), Some(Duration::from_secs(2)));
        both.push(OF_REQUEST, "1S").unwrap();
        assert_eq!(timeout(&both), Some(Duration::from_secs(1)));
        set_timeout(&mut both, Duration::from_micros(7));
        for name in [OF_CALL, OF_REQUEST] {
            assert_eq!(both.find(name).unwrap(), "7u");
        }
    }

    #[test]
    fn deadlines() {
        let millis = Duration::from_millis;
        for (text, expect) in [
            ("1S", Some(millis(1000))),
            ("100m", Some(millis(100))),
            ("2M", Some(millis(120_000))),
            ("1H", Some(millis(3_600_000))),
            ("250000u", Some(millis(250))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(timeout(&fields(OF_REQUEST, text)), expect, "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_is_never_longer() {
        for micros in [
            0,
            1,
            99_999_999,
            100_000_000,
            99_999_999_000,
            1 << 40,
            1 << 50,
        ] {
            let remaining = Duration::from_micros(micros);
            let mut told = fields(OF_REQUEST, "1S");
            set_timeout(&mut told, remaining);
            let read = timeout(&told).unwrap();
            assert!(read <= remaining, "{read:?} of {remaining:?}");
            assert!(
                read.as_secs() / 3600 == remaining.as_secs() / 3600,
                "{read:?}"
            );
        }
        let mut silent = Fields::new();
        set_timeout(&mut silent, Duration::ZERO);
        assert!(silent.is_empty(), "who said nothing is told nothing");
    }
}
