// SPDX-License-Identifier: MIT OR Apache-2.0

//! Instructions of one operation: all of them, and in which functions they are.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use crate::guest::rows;
use crate::host::{GUEST_SYMBOLS, HOST_SYMBOLS};
use crate::marks::{Log, Occurrence, Place, Span};
use crate::results::{Addresses, Function, Instructions, Part, Side};
use crate::symbols::Symbols;

/// Where each tick of a kernel comes in.
const TICK: &str = "asm_sysvec_apic_timer_interrupt";

/// Who executes a function.
pub(super) const GUEST_PROGRAM: &str = "guest program";
pub(super) const GUEST_KERNEL: &str = "guest kernel";
pub(super) const HOST_KERNEL: &str = "host kernel";
pub(super) const HOST_PROGRAMS: &str = "host programs";

/// Fills in the instructions of each row of a part that was counted in `directory`.
///
/// # Errors
///
/// A file is missing there or broken, or a row whose instructions are known did
/// not come out right.
pub fn count_instructions(part: &mut Part, directory: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let log = Log::read(&read("instructions.log")?).context("instructions.log")?;
    let code = Code::new(
        &read(HOST_SYMBOLS)?,
        &read(GUEST_SYMBOLS)?,
        part.guest.addresses,
    )?;

    let empty = code.usual(log.occurrences(Span::EMPTY)?);
    let mut all = BTreeMap::new();
    for timing in &part.guest.timings {
        let index = rows::NAMES.iter().position(|&row| row == timing.row);
        let index = index.with_context(|| format!("there is no row {}", timing.row))?;
        let batch = code.usual(log.occurrences(Span::row(index))?);
        let counted = match timing.side {
            // The driver's marks are around the operations alone.
            Side::GuestKernel => batch,
            _ => batch.less(&empty),
        };
        all.insert(
            timing.row.clone(),
            code.instructions(counted, f64::from(timing.batch)),
        );
    }
    let empty = code.usual(log.occurrences(Span::kick(0))?);
    for scale in &part.scale {
        let kick = code.usual(log.occurrences(Span::kick(scale.vms))?);
        all.insert(
            scale.kick.row.clone(),
            code.instructions(kick.less(&empty), 1.0),
        );
    }
    part.instructions = all;
    calibrated(part)
}

/// Makes sure that what is known came out.
fn calibrated(part: &Part) -> Result<()> {
    let count = |row: &str| {
        part.instructions
            .get(row)
            .map(|instructions| instructions.all)
            .with_context(|| format!("the row \"{row}\" was not counted"))
    };
    let nothing = count(rows::NOTHING)?;
    ensure!(
        nothing.abs() <= 3.0,
        "doing nothing took {nothing} instructions, expected 0 to 3: nothing counted here can be \
         trusted"
    );
    let counted = count(rows::LOOP)?;
    let expected = rows::LOOP_INSNS as f64;
    ensure!(
        (expected..=expected + 6.0).contains(&counted),
        "{expected} instructions and a few around them were counted as {counted}: nothing counted here can be \
         trusted"
    );
    Ok(())
}

/// What one occurrence executed, and what the others make of it.
struct Usual {
    counts: HashMap<Place, i64>,
    all: i64,
    quartiles: (i64, i64),
    occurrences: (u64, u64),
}

impl Usual {
    fn less(mut self, other: &Self) -> Self {
        for (place, count) in &other.counts {
            *self.counts.entry(*place).or_default() -= count;
        }
        self.all -= other.all;
        self.quartiles.0 -= other.all;
        self.quartiles.1 -= other.all;
        self
    }
}

/// Which code is where.
struct Code {
    host: Symbols,
    guest: Symbols,
    program: Symbols,
    vdso: (u64, u64),
    tick: u64,
}

impl Code {
    fn new(host: &str, guest_modules: &str, addresses: Addresses) -> Result<Self> {
        let kernel: String = host
            .lines()
            .filter(|line| !line.ends_with(']'))
            .flat_map(|line| [line, "\n"])
            .collect();
        let host = Symbols::parse(host, 0);
        let program = std::env::current_exe().context("the path of this program")?;
        Ok(Self {
            tick: host
                .address(TICK)
                .with_context(|| format!("the kernel has no {TICK}"))?,
            host,
            guest: Symbols::parse(&(kernel + guest_modules), 0),
            program: Symbols::of_program(&program, addresses.program)?,
            vdso: addresses.vdso,
        })
    }

    /// The median of the occurrences that no tick of a kernel disturbed; of all, if
    /// hardly one was: then those few are not like the others.
    fn usual(&self, occurrences: &[Occurrence]) -> Usual {
        let is_disturbed = |occurrence: &&Occurrence| {
            [false, true].into_iter().any(|guest| {
                occurrence.contains_key(&Place {
                    guest,
                    address: self.tick,
                })
            })
        };
        let sum = |occurrence: &&Occurrence| occurrence.values().sum::<u64>();
        let mut chosen: Vec<_> = occurrences
            .iter()
            .filter(|occurrence| !is_disturbed(occurrence))
            .collect();
        let undisturbed = chosen.len() as u64;
        if chosen.len() * 20 <= occurrences.len() {
            chosen = occurrences.iter().collect();
        }
        chosen.sort_by_key(sum);
        let at = |quarter: usize| chosen[chosen.len() * quarter / 4];
        Usual {
            counts: at(2)
                .iter()
                .map(|(place, count)| (*place, *count as i64))
                .collect(),
            all: sum(&at(2)) as i64,
            quartiles: (sum(&at(1)) as i64, sum(&at(3)) as i64),
            occurrences: (occurrences.len() as u64, undisturbed),
        }
    }

    /// Who executes what is there, and in which function.
    fn find(&self, place: Place) -> (Who, &str) {
        let Place { guest, address } = place;
        let (vdso_from, vdso_to) = self.vdso;
        match (guest, address >> 63 != 0) {
            (true, true) => (Who::GuestKernel, self.guest.find(address).unwrap_or("?")),
            (true, false) if (vdso_from..vdso_to).contains(&address) => (Who::GuestUser, "[vdso]"),
            (true, false) => (Who::GuestUser, self.program.find(address).unwrap_or("?")),
            (false, true) => (Who::HostKernel, self.host.find(address).unwrap_or("?")),
            (false, false) => (Who::HostUser, "(all)"),
        }
    }

    fn instructions(&self, usual: Usual, operations: f64) -> Instructions {
        let one = |count: i64| count as f64 / operations;
        let mut functions: BTreeMap<(Who, &str), i64> = BTreeMap::new();
        for (place, count) in &usual.counts {
            *functions.entry(self.find(*place)).or_default() += count;
        }
        let of = |wanted: Who| {
            let counts = functions.iter().filter(|((who, _), _)| *who == wanted);
            one(counts.map(|(_, count)| count).sum())
        };
        let mut instructions = Instructions {
            all: one(usual.all),
            quartiles: (one(usual.quartiles.0), one(usual.quartiles.1)),
            occurrences: usual.occurrences,
            guest_user: of(Who::GuestUser),
            guest_kernel: of(Who::GuestKernel),
            host_kernel: of(Who::HostKernel),
            host_user: of(Who::HostUser),
            functions: Vec::new(),
        };
        instructions.functions = functions
            .into_iter()
            .filter(|(_, count)| *count != 0)
            .map(|((who, name), count)| Function {
                place: who.name().to_owned(),
                name: name.to_owned(),
                instructions: one(count),
            })
            .collect();
        let most =
            |one: &Function, other: &Function| other.instructions.total_cmp(&one.instructions);
        instructions.functions.sort_by(most);
        instructions
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    GuestUser,
    GuestKernel,
    HostKernel,
    HostUser,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::GuestUser => GUEST_PROGRAM,
            Self::GuestKernel => GUEST_KERNEL,
            Self::HostKernel => HOST_KERNEL,
            Self::HostUser => HOST_PROGRAMS,
        }
    }
}

/// The functions of each row, in Markdown.
pub fn profile(part: &Part) -> String {
    let mut out = String::new();
    let names = part.guest.timings.iter().map(|timing| &timing.row);
    let kicks = part.scale.iter().map(|scale| &scale.kick.row);
    for row in names.chain(kicks) {
        let Some(counted) = part.instructions.get(row) else {
            continue;
        };
        let (low, high) = counted.quartiles;
        let (all, undisturbed) = counted.occurrences;
        let _ = write!(
            out,
            "## {row}\n\n{:.1} instructions ({low:.1} to {high:.1}; {undisturbed} of {all} \
             occurrences without a tick): {:.1} in the guest's program, {:.1} in its kernel, {:.1} \
             in the host's kernel, {:.1} in the host's programs.\n\n\
             | where | function | instructions |\n| --- | --- | ---: |\n",
            counted.all,
            counted.guest_user,
            counted.guest_kernel,
            counted.host_kernel,
            counted.host_user,
        );
        for function in &counted.functions {
            if function.instructions.abs() < 0.5 {
                continue;
            }
            let _ = writeln!(
                out,
                "| {} | `{}` | {:.1} |",
                function.place, function.name, function.instructions
            );
        }
        out.push('\n');
    }
    out
}
