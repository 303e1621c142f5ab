//! Scalars as LitGPT reads them: YAML 1.1 with floats that need no dot, coerced to the type that a key wants.

/// Whether a plain scalar means "none".
pub(super) fn is_null(text: &str, quoted: bool) -> bool {
    !quoted && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A truth value: YAML 1.1's words, quoted or not.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

/// A whole number: `1_000` and `0x10` too.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => digits.parse::<i64>(),
    };
    match parsed {
        Ok(n) if digits.starts_with(|c: char| c.is_ascii_digit()) => Ok(sign * n),
        _ => Err(match number(text) {
            Ok(x) if x.fract() == 0.0 && x.abs() < 1e15 => {
                format!("`{text}` is no whole number; write `{}`", x as i64)
            }
            _ => format!("`{text}` is no whole number"),
        }),
    }
}

/// A finite number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    let plain = text.replace('_', "");
    let starts =
        plain.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match plain.parse::<f64>() {
        Ok(x) if starts && x.is_finite() => Ok(x),
        _ if matches!(
            plain.trim_start_matches(['+', '-']),
            ".inf" | ".nan" | ".NaN" | "inf" | "nan"
        ) =>
        {
            Err(format!("`{text}` is not finite"))
        }
        _ => Err(format!("`{text}` is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_need_no_dot() {
        for (text, want) in [
            ("1e-4", 1e-4),
            ("1E-4", 1e-4),
            ("6.0e-05", 6e-5),
            (".5", 0.5),
            ("1.", 1.0),
            ("+1e-4", 1e-4),
            ("-0", -0.0),
        ] {
            assert_eq!(number(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn infinity_is_refused() {
        assert_eq!(number(".inf"), Err("`.inf` is not finite".into()));
    }

    #[test]
    fn integers_may_have_underscores_and_hex() {
        assert_eq!((integer("1_000"), integer("0x10"), integer("-3")), (Ok(1000), Ok(16), Ok(-3)));
    }

    #[test]
    fn a_float_for_an_integer_names_the_integer() {
        assert_eq!(integer("5.0"), Err("`5.0` is no whole number; write `5`".into()));
    }

    #[test]
    fn yaml_1_1_truth_values() {
        for (text, want) in
            [("yes", true), ("No", false), ("on", true), ("off", false), ("True", true)]
        {
            assert_eq!(boolean(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn a_quoted_null_is_text() {
        assert!(!is_null("null", true));
    }
}
