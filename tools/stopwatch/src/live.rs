// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the live views of guest and host have in common: the terminal, the
//! keys, a table.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::bail;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Alignment, Constraint};
use ratatui::style::{Style, Stylize};
use ratatui::text::Text;
use ratatui::widgets::{Block, Cell, Row, Table};
use ratatui::Frame;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Up,
    Down,
}

/// A view that is drawn again and again.
pub(crate) trait View {
    /// Looks at the stopwatches.
    fn refresh(&mut self) -> anyhow::Result<()>;
    fn draw(&self, frame: &mut Frame<'_>);
    fn key(&mut self, key: Key);
}

/// Shows `view` until the user leaves it.
pub(crate) fn show(mut view: impl View, interval: Duration) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        bail!("watch needs a terminal to draw on; for a script there is `list --json`");
    }
    // Before the screen changes: most errors are those of the first look.
    view.refresh()?;
    let mut terminal = ratatui::init();
    let result = run(&mut view, interval, |view| {
        terminal.draw(|frame| view.draw(frame))?;
        Ok(())
    });
    ratatui::restore();
    result
}

fn run<V: View>(
    view: &mut V,
    interval: Duration,
    mut draw: impl FnMut(&V) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        draw(view)?;
        let next = Instant::now() + interval;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            let Event::Key(key) = event::read()? else {
                break;
            };
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok(())
                }
                KeyCode::Up | KeyCode::Char('k') => view.key(Key::Up),
                KeyCode::Down | KeyCode::Char('j') => view.key(Key::Down),
                _ => continue,
            }
            break;
        }
        view.refresh()?;
    }
}

/// A table in a frame; headings as [`crate::output::Table`] has them.
pub(crate) fn table<const N: usize>(
    title: String,
    headings: [&str; N],
    rows: &[[String; N]],
    selected: Option<usize>,
) -> Table<'static> {
    let left = headings.map(|heading| heading.starts_with('<'));
    let headings = headings.map(|heading| heading.trim_start_matches('<').to_owned());
    let widths: [_; N] = std::array::from_fn(|column| {
        let cells = rows.iter().chain([&headings]);
        let width = cells.map(|row| row[column].chars().count()).max();
        Constraint::Length(width.unwrap_or(0) as u16)
    });
    let row = |cells: &[String; N]| {
        Row::new(cells.iter().zip(left).map(|(cell, left)| {
            Cell::new(Text::from(cell.clone()).alignment(match left {
                true => Alignment::Left,
                false => Alignment::Right,
            }))
        }))
    };
    let styled = rows.iter().enumerate().map(|(index, cells)| {
        row(cells).style(match selected == Some(index) {
            true => Style::new().reversed(),
            false => Style::new(),
        })
    });
    Table::new(styled, widths)
        .header(row(&headings).style(Style::new().bold()))
        .column_spacing(2)
        .block(Block::bordered().title(title).title_bottom(" q: quit "))
}

/// What a view looks like, as text.
#[cfg(test)]
pub(crate) fn screen(view: &impl View, width: u16, height: u16) -> String {
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    terminal.backend().to_string()
}
