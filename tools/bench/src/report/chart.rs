// SPDX-License-Identifier: MIT OR Apache-2.0

//! The chart: a bar for each row, instructions where they were counted, else
//! wall time, on a logarithmic axis.

use anyhow::{anyhow, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::{Results, Row, Side};

const WIDTH: u32 = 960;
const LINE: i32 = 26;
const LEFT: i32 = 310;
const RIGHT: i32 = 90;
const TOP: i32 = 60;
const BOTTOM: i32 = 40;

/// Draws it, as the text of an SVG.
pub(super) fn draw(results: &Results) -> Result<String> {
    let counted = results.rows.iter().any(|row| row.insns.is_some());
    let value = |row: &Row| {
        if counted {
            row.insns.map(|insns| insns as f64)
        } else {
            Some(row.wall_ns_p50)
        }
    };
    let mut bars: Vec<(&Row, f64)> = results
        .rows
        .iter()
        .filter(|row| row.side != Side::Host)
        .filter_map(|row| Some((row, value(row)?.max(1.0))))
        .collect();
    bars.sort_by(|one, other| one.1.total_cmp(&other.1));

    let most = bars.last().map_or(10.0, |bar| bar.1);
    let decades = most.log10().ceil();
    let height = TOP + LINE * bars.len() as i32 + BOTTOM;
    let x = |value: f64| {
        let width = f64::from(WIDTH as i32 - LEFT - RIGHT);
        LEFT + (value.log10() / decades * width) as i32
    };

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("draw the chart: {error}");
        area.fill(&WHITE).map_err(failed)?;
        let text = |size: i32, horizontal: HPos| {
            ("sans-serif", size)
                .into_font()
                .into_text_style(&area)
                .pos(Pos::new(horizontal, VPos::Center))
        };
        let title = if counted {
            "Instructions of one operation, guest, host and QEMU together"
        } else {
            "Time of one operation in ns, median"
        };
        area.draw_text(title, &text(18, HPos::Left), (20, 24))
            .map_err(failed)?;
        for decade in 0..=decades as i32 {
            let value = 10f64.powi(decade);
            let line = vec![(x(value), TOP - 10), (x(value), height - BOTTOM)];
            area.draw(&PathElement::new(line, RGBColor(220, 220, 220)))
                .map_err(failed)?;
            let label = format!("{value}");
            area.draw_text(
                &label,
                &text(12, HPos::Center),
                (x(value), height - BOTTOM + 14),
            )
            .map_err(failed)?;
        }
        for (index, (row, value)) in (0..).zip(bars) {
            let top = TOP + LINE * index;
            let middle = top + LINE / 2;
            // This device stands out from the others.
            let color = if row.row.starts_with("tier") {
                RGBColor(208, 74, 20)
            } else {
                RGBColor(70, 110, 160)
            };
            let bar = [(LEFT, top + 4), (x(value).max(LEFT + 2), top + LINE - 4)];
            area.draw(&Rectangle::new(bar, color.filled()))
                .map_err(failed)?;
            area.draw_text(&row.row, &text(13, HPos::Right), (LEFT - 8, middle))
                .map_err(failed)?;
            let label = format!("{value:.0}");
            area.draw_text(&label, &text(12, HPos::Left), (x(value) + 6, middle))
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}
