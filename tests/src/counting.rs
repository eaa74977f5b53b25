// SPDX-License-Identifier: MIT OR Apache-2.0

//! Talks to `tools/bench/sections.c`, the plugin of the QEMU that emulates level 1: it
//! counts the instructions of a kernel module's sections with interrupts off.

use std::arch::asm;
use std::fs;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use stopwatch_bench::symbols::Symbols;

const RANGE: u64 = 0xb0d6_e700;
const ENTRY: u64 = RANGE + 1;
const COLLECT: u64 = RANGE + 2;
const BEGIN: u64 = RANGE + 3;
const END: u64 = RANGE + 4;

#[inline(always)]
fn mark(number: u64, first: u64, second: u64) {
    // SAFETY: an instruction without effect. It has seven bytes, and the last four,
    // which the assembler is not to shorten, are "STOP".
    unsafe {
        asm!(
            ".byte 0x0f, 0x1f, 0x80, 0x53, 0x54, 0x4f, 0x50",
            in("rax") number,
            in("rcx") first,
            in("rdx") second,
            options(nostack, preserves_flags)
        );
    }
}

/// Counts what `act` executes, and all that interrupts it, as a span.
#[inline(always)]
pub fn span<T>(act: impl FnOnce() -> T) -> T {
    mark(BEGIN, 0, 0);
    let result = act();
    mark(END, 0, 0);
    result
}

/// Whose code a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Level 1's.
    Host,
    /// Level 2's.
    Guest,
}

/// Sections that began at the same place, or calls of the same entry.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whose.
    pub world: World,
    /// The function in which they began.
    pub function: String,
    /// Instructions of the longest: up to the last of the module.
    pub own: u64,
    /// Up to where interrupts were on again; 0 of an entry.
    pub whole: u64,
}

/// What was counted since the last time.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Of the host and of the guest.
    pub sections: Vec<Place>,
    /// Calls of functions that the kernel calls with interrupts off.
    pub entries: Vec<Place>,
    /// Sections that ended within a span.
    pub within: Vec<Place>,
    /// Spans.
    pub spans: u64,
    /// Instructions of the longest span.
    pub longest_span: u64,
    /// Instructions of all spans.
    pub all_spans: u64,
}

/// The plugin's file, and where the functions of a module are.
pub struct Counter {
    file: PathBuf,
    host: Symbols,
    guest: Symbols,
    number: u64,
}

/// Functions that the kernel calls with interrupts off, by parts of their names.
const ENTRIES: [&[&str]; 3] = [
    &["EventFdListener", "::wake"],
    &["DeadlineTimer", "::run"],
    &["handle_irq_callback"],
];

/// The guest's driver.
pub const GUEST_MODULE: &str = "stopwatch";

fn symbols(kallsyms: &str, module: &str) -> Symbols {
    let tag = format!("[{module}]");
    let lines: Vec<&str> = kallsyms
        .lines()
        .filter(|line| line.ends_with(&tag) && !line.contains("__pfx_"))
        .collect();
    Symbols::parse(&lines.join("\n"), 0)
}

/// Tells the plugin of the module of that name, whose functions are in the text of a
/// `/proc/kallsyms`.
///
/// # Errors
///
/// It is not loaded.
pub fn watch(kallsyms: &str, module: &str) -> Result<Symbols> {
    let symbols = symbols(kallsyms, module);
    let (first, last) = symbols
        .range()
        .with_context(|| format!("no function of {module} is in /proc/kallsyms"))?;
    // The last function has an end in its page, or in the next one.
    mark(RANGE, first & !4095, (last | 4095) + 4097);
    let mut entries = 0;
    for (address, name) in symbols.iter() {
        let is = |parts: &&[&str]| parts.iter().all(|part| name.contains(part));
        if ENTRIES.iter().any(is) {
            mark(ENTRY, address, 0);
            entries += 1;
        }
    }
    ensure!(
        entries > 0,
        "{module} has none of the functions that the kernel calls with interrupts off; \
         expected names with {ENTRIES:?}"
    );
    Ok(symbols)
}

impl Counter {
    /// Knows the guest's driver as well, by the text of its `/proc/kallsyms`. That the
    /// plugin watches it is for a program in the guest to say, by [`watch`].
    pub fn know_guest(&mut self, kallsyms: &str) {
        self.guest = symbols(kallsyms, GUEST_MODULE);
    }

    /// Watches the host module.
    ///
    /// # Errors
    ///
    /// It is not loaded.
    pub fn new() -> Result<Self> {
        let kallsyms = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
        let mut counter = Self {
            file: "/stopwatch/build/budget/sections.log".into(),
            host: watch(&kallsyms, "vhost_stopwatch")?,
            guest: Symbols::default(),
            number: 0,
        };
        counter
            .collect()
            .context("no plugin counts: run this by `lab/lab budget`")?;
        Ok(counter)
    }

    /// What was counted since the last time.
    ///
    /// # Errors
    ///
    /// The plugin's file is not there, or not of this moment.
    pub fn collect(&mut self) -> Result<Counted> {
        self.number += 1;
        mark(COLLECT, self.number, 0);
        let text =
            fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        ensure!(
            text.starts_with(&format!("collected {}\n", self.number)) && text.ends_with("end\n"),
            "{} is not of collection {}",
            self.file.display(),
            self.number
        );
        let mut counted = Counted::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| -> Result<u64> {
                let word: &str = words.get(index).context("a line is too short")?;
                word.parse().with_context(|| line.to_owned())
            };
            match words[0] {
                "spans" => {
                    counted.spans = number(1)?;
                    counted.longest_span = number(2)?;
                    counted.all_spans = number(3)?;
                }
                "within" => counted.within.push(self.place(&words)?),
                "section" => counted.sections.push(self.place(&words)?),
                "entry" => counted.entries.push(self.place(&words)?),
                _ => {}
            }
        }
        Ok(counted)
    }

    fn place(&self, words: &[&str]) -> Result<Place> {
        let word = |index: usize| words.get(index).copied().context("a line is too short");
        let address = u64::from_str_radix(word(2)?, 16).context("no address")?;
        let (world, symbols) = match word(1)? {
            "host" => (World::Host, &self.host),
            _ => (World::Guest, &self.guest),
        };
        Ok(Place {
            world,
            function: symbols.find(address).unwrap_or("?").to_owned(),
            own: word(4)?.parse().context("no number")?,
            whole: words
                .get(5)
                .map_or(Ok(0), |word| word.parse())
                .context("no number")?,
        })
    }
}
