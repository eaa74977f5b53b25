// SPDX-License-Identifier: MIT OR Apache-2.0

//! What arguments can be, and what is said if they are not.

use std::ffi::OsString;
use std::str::FromStr;

use clap::builder::{
    OsStringValueParser, PossibleValuesParser, RangedI64ValueParser, TypedValueParser,
};
use stopwatch::{ClockId, Name, NameError, Nanoseconds, Share, Which};
use stopwatch_uapi as uapi;

/// A stopwatch: digits are its number, anything else is its name.
pub(super) fn which() -> impl TypedValueParser<Value = Which> {
    text()
}

/// The name of a stopwatch.
pub(super) fn name() -> impl TypedValueParser<Value = Name> {
    text()
}

/// Bytes of the command line that have to be text first.
fn text<T>() -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    OsStringValueParser::new().try_map(|argument: OsString| {
        let text = argument
            .to_str()
            .ok_or_else(|| NameError::NotUtf8.to_string())?;
        text.parse().map_err(|error: T::Err| error.to_string())
    })
}

pub(super) fn clock() -> impl TypedValueParser<Value = ClockId> {
    PossibleValuesParser::new(ClockId::NAMES).try_map(|name| name.parse::<ClockId>())
}

pub(super) fn share() -> impl TypedValueParser<Value = Share> {
    PossibleValuesParser::new(Share::NAMES).try_map(|name| name.parse::<Share>())
}

pub(super) fn range(min: u32, max: u32) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(min)..=i64::from(max))
}

pub(super) fn slots(text: &str) -> Result<u32, String> {
    let (min, max) = (uapi::STOPWATCH_MIN_SLOTS, uapi::STOPWATCH_MAX_SLOTS);
    text.parse()
        .ok()
        .filter(|slots: &u32| slots.is_power_of_two() && (min..=max).contains(slots))
        .ok_or_else(|| format!("expected a power of two from {min} to {max}"))
}

/// Permissions of a file.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected an octal number up to 777".into())
}

pub(super) fn even(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count: &usize| (2..=10_000_000).contains(count) && count % 2 == 0)
        .ok_or_else(|| "expected an even number from 2 to 10000000".into())
}

/// A duration, or what disarms.
pub(super) fn timeout(text: &str) -> Result<Nanoseconds, String> {
    match text {
        "off" | "0" => Ok(Nanoseconds(0)),
        _ => text
            .parse()
            .map_err(|error: stopwatch::ParseError| error.to_string()),
    }
}

/// A duration that is not zero.
pub(super) fn interval(text: &str) -> Result<Nanoseconds, String> {
    match text.parse() {
        Ok(Nanoseconds(0)) => Err("expected a duration above 0".into()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

/// A part of something, such as `10%`.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    text.strip_suffix('%')
        .unwrap_or(text)
        .trim()
        .parse()
        .ok()
        .filter(|percent: &f64| percent.is_finite() && *percent >= 0.0)
        .ok_or_else(|| "expected a percentage such as 10%".into())
}
