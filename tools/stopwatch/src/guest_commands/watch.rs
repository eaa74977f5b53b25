// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch watch`: the stopwatches, live. It reads without a call where it
//! can, so that to look costs the VM next to nothing.

use ratatui::Frame;
use stopwatch::guest::{Device, Reader};
use stopwatch::Source;

use super::watches;
use crate::live::{table, Key, View};
use crate::output::{watch_row, Shown, WATCH_HEADINGS};

pub(super) struct Live<'a> {
    device: &'a Device,
    reader: Reader<'a>,
    all: bool,
    list: List,
}

/// What is drawn.
#[derive(Default)]
struct List {
    watches: Vec<Shown>,
    /// The first one shown.
    top: usize,
}

impl<'a> Live<'a> {
    pub(super) fn new(device: &'a Device, all: bool) -> anyhow::Result<Self> {
        Ok(Self {
            device,
            reader: device.reader()?,
            all,
            list: List::default(),
        })
    }
}

impl View for Live<'_> {
    fn refresh(&mut self) -> anyhow::Result<()> {
        self.list.watches = watches(self.device, self.all, |watch| self.reader.read(watch))?;
        self.device.let_go();
        Ok(())
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        self.list.draw(frame);
    }

    fn key(&mut self, key: Key) {
        self.list.key(key);
    }
}

impl List {
    fn draw(&self, frame: &mut Frame<'_>) {
        let by_call = self
            .watches
            .iter()
            .filter(|shown| shown.reading.source == Source::Call)
            .count();
        let how = match by_call {
            0 => "read without an exit".into(),
            _ => format!("{by_call} read by a call"),
        };
        let title = format!(" stopwatches: {}, {how} ", self.watches.len());
        let top = self.top.min(self.watches.len().saturating_sub(1));
        let rows: Vec<_> = self.watches.iter().skip(top).map(watch_row).collect();
        frame.render_widget(table(title, WATCH_HEADINGS, &rows, None), frame.area());
    }

    fn key(&mut self, key: Key) {
        self.top = match key {
            Key::Up => self.top.saturating_sub(1),
            Key::Down => (self.top + 1).min(self.watches.len().saturating_sub(1)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::screen;
    use crate::output::examples::{named, numbered};

    impl View for List {
        fn refresh(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        fn draw(&self, frame: &mut Frame<'_>) {
            List::draw(self, frame);
        }

        fn key(&mut self, key: Key) {
            List::key(self, key);
        }
    }

    #[test]
    fn the_stopwatches_are_on_the_screen() {
        let mut list = List {
            watches: vec![numbered(), named()],
            top: 0,
        };
        let text = screen(&list, 130, 6);
        assert!(text.contains("stopwatches: 2, 2 read by a call"), "{text}");
        assert!(text.contains("70  boot  1000"), "{text}");
        list.key(Key::Down);
        list.key(Key::Down);
        let text = screen(&list, 130, 6);
        assert!(!text.contains("  7  -"), "{text}");
        assert!(text.contains("boot"), "{text}");
    }
}
