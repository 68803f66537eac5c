//! How fast: `200 Mbit/s`.

/// Units, in bits per second.
const UNITS: [(&str, u64); 4] =
    [("bit/s", 1), ("kbit/s", 1_000), ("mbit/s", 1_000_000), ("gbit/s", 1_000_000_000)];

/// The least that is worth a limit: below it, a packet takes a second.
const LEAST: u64 = 16_000;

/// Reads a rate in bits per second, such as `200 Mbit/s` or `1.5 Gbit/s`. The prefixes are decimal, as is usual for
/// lines. Upper and lower case make no difference, a space before the unit neither.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let example = "write a rate such as \"200 Mbit/s\"";
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    if unit.is_empty() {
        return Err(format!("`{text}` has no unit: {example}"));
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let hint = if unit.contains("byte") || text.trim_end().ends_with("B/s") {
            "rates are in bits, eight to a byte"
        } else {
            "the units are bit/s, kbit/s, Mbit/s and Gbit/s"
        };
        return Err(format!("`{text}` is not a rate: {hint}; {example}"));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let wrong = || format!("`{text}` is not a rate: {example}");
    // A billion is the greatest factor, so that nine places are exact and further ones are nothing.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let billionths: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let rate = u128::from(whole) * u128::from(*factor)
        + u128::from(billionths) * u128::from(*factor) / 1_000_000_000;
    match u64::try_from(rate) {
        Ok(rate) if (LEAST..=1_000_000_000_000).contains(&rate) => Ok(rate),
        _ => {
            Err(format!("`{text}` is out of range: from 16 kbit/s to 1000 Gbit/s; leave it out for no limit"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [
            ("200 Mbit/s", 200_000_000),
            ("200mbit/s", 200_000_000),
            ("1.5 Gbit/s", 1_500_000_000),
            ("16000 bit/s", 16_000),
            ("64.5 kbit/s", 64_500),
            ("1000 Gbit/s", 1_000_000_000_000),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_told_why() {
        for (text, reason) in [
            ("200", "no unit"),
            ("", "no unit"),
            ("25 MB/s", "eight to a byte"),
            ("25 MByte/s", "eight to a byte"),
            ("200 Mbps", "units are"),
            ("fast", "units are"),
            ("-1 Mbit/s", "units are"),
            (". Mbit/s", "not a rate"),
            ("1. Mbit/s", "not a rate"),
            ("1.2.3 Mbit/s", "not a rate"),
            ("99999999999999999999 bit/s", "not a rate"),
            ("0 Mbit/s", "out of range"),
            ("1 bit/s", "out of range"),
            ("1001 Gbit/s", "out of range"),
        ] {
            let error = parse_rate(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
