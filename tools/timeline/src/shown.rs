// SPDX-License-Identifier: MIT OR Apache-2.0

//! How names and durations are shown to people.

use std::fmt::{self, Write};

/// A name as it is shown wherever bytes could do something: what is not printable
/// (controls, escapes of terminals, marks that turn the direction of text, characters
/// that nobody sees) is written as its number, and a backslash is doubled, so that
/// two names never look the same by that.
pub fn shown(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' | '\'' => text.push(c),
            // Printable by Unicode, yet without a glyph.
            '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}' => {
                let _ = write!(text, "{}", c.escape_unicode());
            }
            _ => text.extend(c.escape_debug()),
        }
    }
    text
}

/// `12.3 ms`: three digits, for a table. Whole numbers of ns are in the file.
pub fn duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let size = ns.unsigned_abs();
    let (unit, scale) = match size {
        0..1_000 => return format!("{sign}{size} ns"),
        1_000..1_000_000 => ("us", 1e3),
        1_000_000..1_000_000_000 => ("ms", 1e6),
        _ => ("s", 1e9),
    };
    let value = size as f64 / scale;
    // 999.96 us is 1000 us, which is still right.
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{sign}{value:.digits$} {unit}")
}

/// `1 start`, `2 starts`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Writes rows as columns; those of `right` end in a line, the others begin in one.
pub(crate) fn columns<const N: usize, const R: usize>(
    to: &mut impl Write,
    rows: &[[String; N]],
    right: [usize; R],
) -> fmt::Result {
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let widths = rows.iter().map(|row| row[column].chars().count());
            let width = widths.max().unwrap_or(0);
            match right.contains(&column) {
                true => write!(line, "{cell:>width$}  ")?,
                false => write!(line, "{cell:<width$}  ")?,
            }
        }
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for (name, text) in [
            ("nginx.service", "nginx.service"),
            ("Größe 大", "Größe 大"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\\u{1b}", "\\\\u{1b}"),
            ("\u{3164}\u{2066}\u{e0041}", "\\u{3164}\\u{2066}\\u{e0041}"),
            ("it's \"x\"", "it's \"x\""),
        ] {
            assert_eq!(shown(name), text);
        }
        let all: String = ('\0'..=char::MAX).collect();
        assert!(!shown(&all).chars().any(char::is_control));
    }

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_234, "1.23 us"),
            (12_345_678, "12.3 ms"),
            (123_456_789, "123 ms"),
            (61_500_000_000, "61.5 s"),
            (-2_500_000, "-2.50 ms"),
            (i64::MIN, "-9223372037 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }
}
