// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host watch`: the VMs, live, and the stopwatches of one of them.

use std::collections::BTreeMap;

use ratatui::layout::{Constraint, Layout};
use ratatui::Frame;
use stopwatch::host::{Control, VmInfo};

use super::{vm_row, watches, VM_HEADINGS};
use crate::live::{table, Key, View};
use crate::output::{count, watch_row, Shown, WATCH_HEADINGS};

pub(super) struct Live<'a> {
    control: &'a Control,
    screen: Screen,
}

/// What is drawn.
#[derive(Default)]
struct Screen {
    vms: Vec<VmInfo>,
    /// The same at the look before, for the rates.
    before: BTreeMap<u64, VmInfo>,
    /// Index into `vms`.
    selected: usize,
    /// Those of the selected VM that are in use.
    watches: Vec<Shown>,
}

impl<'a> Live<'a> {
    pub(super) fn new(control: &'a Control) -> Self {
        Self {
            control,
            screen: Screen::default(),
        }
    }
}

impl View for Live<'_> {
    fn refresh(&mut self) -> anyhow::Result<()> {
        self.screen.update(self.control.vms()?);
        self.screen.watches = match self.screen.vms.get(self.screen.selected) {
            Some(vm) => watches(self.control, vm.vm, false)?,
            None => Vec::new(),
        };
        Ok(())
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        self.screen.draw(frame);
    }

    fn key(&mut self, key: Key) {
        self.screen.key(key);
    }
}

impl Screen {
    fn update(&mut self, vms: Vec<VmInfo>) {
        let selected = self.vms.get(self.selected).map(|vm| vm.vm);
        let before = std::mem::replace(&mut self.vms, vms);
        self.before = before.into_iter().map(|vm| (vm.vm, vm)).collect();
        // VMs come and go above the selected one.
        if let Some(selected) = selected {
            self.selected = self.vms.partition_point(|vm| vm.vm < selected);
        }
        self.selected = self.selected.min(self.vms.len().saturating_sub(1));
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows: Vec<_> = self
            .vms
            .iter()
            .map(|vm| vm_row(vm, self.before.get(&vm.vm)))
            .collect();
        // Frame and headings, and a row each; the stopwatches get half at least.
        let height = (rows.len() as u16 + 3).min(frame.area().height / 2);
        let [top, bottom] =
            Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(frame.area());
        // The selected row stays in view.
        let first = (self.selected + 1).saturating_sub(usize::from(height.saturating_sub(3)));
        frame.render_widget(
            table(
                format!(
                    " {}, rates since the last look ",
                    count(rows.len() as u64, "VM")
                ),
                VM_HEADINGS,
                &rows[first.min(rows.len())..],
                Some(self.selected - first.min(self.selected)),
            ),
            top,
        );
        let rows: Vec<_> = self.watches.iter().map(watch_row).collect();
        let title = match self.vms.get(self.selected) {
            Some(vm) => format!(" stopwatches of VM {} in use: {} ", vm.vm, rows.len()),
            None => " no VM has stopwatches, as far as you may see ".into(),
        };
        frame.render_widget(table(title, WATCH_HEADINGS, &rows, None), bottom);
    }

    fn key(&mut self, key: Key) {
        self.selected = match key {
            Key::Up => self.selected.saturating_sub(1),
            Key::Down => (self.selected + 1).min(self.vms.len().saturating_sub(1)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::vm;
    use super::*;
    use crate::live::screen;
    use crate::output::examples::named;

    impl View for Screen {
        fn refresh(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        fn draw(&self, frame: &mut Frame<'_>) {
            Screen::draw(self, frame);
        }

        fn key(&mut self, key: Key) {
            Screen::key(self, key);
        }
    }

    fn numbered(vm: u64) -> VmInfo {
        VmInfo {
            vm,
            ..super::super::examples::vm()
        }
    }

    #[test]
    fn vms_and_stopwatches_share_the_screen() {
        let mut live = Screen::default();
        let text = screen(&live, 130, 12);
        assert!(text.contains("no VM has stopwatches"), "{text}");
        live.update(vec![vm()]);
        live.watches = vec![named()];
        let text = screen(&live, 130, 12);
        for part in [
            "1 VM, rates",
            "3  build",
            "stopwatches of VM 3 in use: 1",
            "70  boot",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_selection_stays_with_its_vm() {
        let mut live = Screen::default();
        live.update(vec![numbered(3), numbered(5)]);
        live.key(Key::Down);
        live.key(Key::Down);
        assert_eq!(live.selected, 1);
        live.update(vec![numbered(5), numbered(6)]);
        assert_eq!(live.selected, 0);
        live.update(vec![]);
        assert_eq!(live.selected, 0);
        live.key(Key::Down);
        assert_eq!(live.selected, 0);
    }

    #[test]
    fn many_vms_leave_room_for_the_stopwatches() {
        let mut live = Screen::default();
        live.update((1..100).map(numbered).collect());
        live.selected = 98;
        let text = screen(&live, 130, 20);
        assert!(text.contains("99  build"), "{text}");
        assert!(text.contains("stopwatches of VM 99"), "{text}");
    }
}
