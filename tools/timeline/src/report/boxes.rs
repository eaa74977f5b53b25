// SPDX-License-Identifier: MIT OR Apache-2.0

//! One page with the phases of many starts drawn as boxes, that needs nothing from anywhere.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::html::{color, escape, fill, STYLE};
use crate::distribution::{Distribution, Spread};
use crate::{duration, shown};

const PAGE: &str = include_str!("boxes.html");

/// Of the picture, in its own units: names stand left of the plot, medians right of it.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 100.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 30.0;
const BOX: f64 = 16.0;

/// Writes a distribution as a page of HTML. `name` says what was started.
///
/// # Errors
///
/// Those of `to`.
pub fn distribution_html(of: &Distribution, name: &str, mut to: impl Write) -> io::Result<()> {
    let title = match name.is_empty() {
        true => "Starts of a VM".into(),
        false => format!("Starts of {}", shown(name)),
    };
    let mut summary = format!("<b>{}</b> starts", of.starts);
    if of.not_ready > 0 {
        let _ = write!(summary, "; <b>{} never ready</b>", of.not_ready);
    }
    let parts = [
        ("@STYLE@", STYLE.into()),
        ("@TITLE@", escape(&title)),
        ("@SUMMARY@", summary),
        ("@PICTURE@", picture(&of.rows)),
        ("@TABLE@", table(&of.rows)),
    ];
    fill(PAGE, &parts, &mut to)?;
    to.flush()
}

fn picture(rows: &[Spread]) -> String {
    let longest = rows.iter().map(|row| row.summary.max).max().unwrap_or(0);
    let scale = (WIDTH - LEFT - RIGHT) / longest.max(1) as f64;
    let x = |ns: i64| LEFT + ns as f64 * scale;
    let height = ROW * rows.len() as f64 + 26.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Phases of all starts; the table below has the same in words\">\n"
    );
    for at in (0..=longest).step_by(step(longest)) {
        let (x, bottom) = (x(at), height - 20.0);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            height - 6.0,
            duration(at),
        );
    }
    for (row, top) in rows.iter().zip((0..).map(|row| f64::from(row) * ROW)) {
        let (of, middle) = (&row.summary, top + ROW / 2.0);
        let (name, median) = (row.name(), duration(of.median));
        let fill = row.phase.map_or("host", color);
        let width = (x(of.upper_quartile) - x(of.lower_quartile)).max(1.0);
        let _ = writeln!(
            svg,
            "<g><title>{name}: median {median}, quartiles {} to {}, {} to {}, ± {}</title>\
             <rect x=\"0\" y=\"{top}\" width=\"{WIDTH}\" height=\"{ROW}\" fill=\"transparent\"/>\
             <text class=\"name\" x=\"0\" y=\"{:.1}\">{name}</text>\
             <line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <rect class=\"box\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{BOX}\" fill=\"var(--{fill})\"/>\
             <line class=\"median\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{median}</text></g>",
            duration(of.lower_quartile),
            duration(of.upper_quartile),
            duration(of.min),
            duration(of.max),
            duration(of.error),
            middle + 4.0,
            x(of.min),
            x(of.max),
            x(of.lower_quartile),
            middle - BOX / 2.0,
            x(of.median),
            x(of.median),
            middle - BOX / 2.0,
            middle + BOX / 2.0,
            x(of.max) + 8.0,
            middle + 4.0,
        );
    }
    svg.push_str("</svg>");
    svg
}

/// From one line of the grid to the next, in ns: 1, 2 or 5 of a power of ten, and at most ten
/// lines.
fn step(longest: i64) -> usize {
    let mut unit = 1_i64;
    loop {
        for step in [1, 2, 5].map(|times| unit.saturating_mul(times)) {
            if longest / step < 10 {
                return usize::try_from(step).unwrap_or(usize::MAX);
            }
        }
        unit = unit.saturating_mul(10);
    }
}

fn table(rows: &[Spread]) -> String {
    let mut out = String::from(
        "<table>\n<tr><th>phase<th class=\"n\">median<th class=\"n\">share<th class=\"n\">quartiles\
         <th class=\"n\">shortest<th class=\"n\">longest<th class=\"n\">error</tr>\n",
    );
    for row in rows {
        let of = &row.summary;
        let _ = writeln!(
            out,
            "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{:.1} %<td class=\"n\">{} to {}\
             <td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">± {}</tr>",
            row.name(),
            duration(of.median),
            row.share,
            duration(of.lower_quartile),
            duration(of.upper_quartile),
            duration(of.min),
            duration(of.max),
            duration(of.error),
        );
    }
    out.push_str("</table>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::distribution;
    use crate::report::examples::start;

    fn page(name: &str) -> String {
        let mut page = Vec::new();
        distribution_html(&distribution(&[start(), start()]), name, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn each_phase_is_drawn_and_listed() {
        let page = page("web1");
        for phase in ["vmm-start", "firmware", "boot-loader", "kernel", "whole"] {
            assert!(page.contains(&format!("<g><title>{phase}: ")), "{page}");
            assert!(page.contains(&format!("<tr><td>{phase}<")), "{page}");
        }
        assert!(page.contains("<b>2</b> starts"), "{page}");
        for place in ["@STYLE@", "@TITLE@", "@SUMMARY@", "@PICTURE@", "@TABLE@"] {
            assert!(!page.contains(place), "{place} has no part");
        }
        assert!(!page.contains("http://"), "it loads nothing: {page}");
    }

    #[test]
    fn names_are_escaped() {
        let page = page("<script>@TABLE@\u{1b}[2J");
        assert!(
            page.contains("Starts of &lt;script&gt;@TABLE@\\u{1b}[2J</h1>"),
            "{page}"
        );
    }

    #[test]
    fn the_grid_has_few_lines() {
        for longest in [0, 1, 9, 10, 4_200_000_000, i64::MAX] {
            assert!(longest / step(longest) as i64 <= 9, "{longest}");
        }
        assert_eq!(step(4_200_000_000), 500_000_000);
    }
}
