//! Times to live, as in `?ttl=`: whole seconds, or numbers with units such as `1h30m`.
//!
//! Each unit may occur once, in any order. Zero is refused (a key that expires at once is a typing
//! mistake), and so is more than a hundred years, so that no sum of times can overflow elsewhere.

use std::time::Duration;

/// Maximum time to live: a hundred years of 365 days.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Units and their seconds.
const UNITS: [(u8, u64); 4] = [(b's', 1), (b'm', 60), (b'h', 3_600), (b'd', 86_400)];

/// Error of parsing a time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TtlError {
    /// The text is neither whole seconds nor numbers with units.
    #[error("ttl must be whole seconds, or numbers with units, as in 5s, 10m, 1h30m or 7d")]
    Syntax,
    /// The time is zero.
    #[error("ttl must be at least one second")]
    Zero,
    /// The time exceeds [`MAX_TTL`].
    #[error("ttl must be at most 100 years (36500d)")]
    TooLong,
}

/// Parses a time to live.
pub(crate) fn parse(text: &str) -> Result<Duration, TtlError> {
    let seconds = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        number(text.as_bytes())?
    } else {
        with_units(text.as_bytes())?
    };
    if seconds == 0 {
        return Err(TtlError::Zero);
    }
    let ttl = Duration::from_secs(seconds);
    if ttl > MAX_TTL {
        Err(TtlError::TooLong)
    } else {
        Ok(ttl)
    }
}

fn with_units(mut rest: &[u8]) -> Result<u64, TtlError> {
    let mut seen = [false; UNITS.len()];
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (count, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_first().ok_or(TtlError::Syntax)?;
        let index = UNITS
            .iter()
            .position(|(name, _)| name == unit)
            .ok_or(TtlError::Syntax)?;
        if std::mem::replace(&mut seen[index], true) {
            return Err(TtlError::Syntax);
        }
        let seconds = number(count)?
            .checked_mul(UNITS[index].1)
            .ok_or(TtlError::TooLong)?;
        total = total.checked_add(seconds).ok_or(TtlError::TooLong)?;
        rest = tail;
    }
    Ok(total)
}

fn number(digits: &[u8]) -> Result<u64, TtlError> {
    if digits.is_empty() {
        return Err(TtlError::Syntax);
    }
    digits
        .iter()
        .try_fold(0_u64, |sum, digit| {
            sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .ok_or(TtlError::TooLong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn seconds_and_units() {
        for (text, seconds) in [
            ("1", 1),
            ("007", 7),
            ("5s", 5),
            ("10m", 600),
            ("1h30m", 5_400),
            ("30m1h", 5_400),
            ("7d", 604_800),
            ("1d0h0m1s", 86_401),
            ("36500d", 3_153_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn invalid_ttls_are_refused() {
        for text in [
            "", "s", "1w", "-1", "+5", "1.5", "1m5", "5s5s", " 5s", "5 s", "5S", "1e3", "٣",
        ] {
            assert_eq!(parse(text), Err(TtlError::Syntax), "{text}");
        }
        for text in ["0", "0s", "0d0h", "000"] {
            assert_eq!(parse(text), Err(TtlError::Zero), "{text}");
        }
        for text in [
            "36501d",
            "3153600001",
            "99999999999999999999",
            "999999999999999999d",
        ] {
            assert_eq!(parse(text), Err(TtlError::TooLong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn formatted_ttls_are_parsed(
            d in 0_u64..36_499,
            h in 0_u64..24,
            m in 0_u64..60,
            s in 1_u64..60,
        ) {
            let seconds = Duration::from_secs(d * 86_400 + h * 3_600 + m * 60 + s);
            let with_units = format!("{d}d{h}h{m}m{s}s");
            prop_assert_eq!(parse(&with_units), Ok(seconds));
            prop_assert_eq!(parse(&seconds.as_secs().to_string()), Ok(seconds));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lookalikes(text in "[0-9smhd]{0,30}") {
            let _ = parse(&text);
        }
    }
}
