// SPDX-License-Identifier: MIT OR Apache-2.0

//! Printing a result: text for people or JSON for programs, never a mixture.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{exit, ExitCode, ExitStatus};

use serde::{Serialize, Serializer};
use stopwatch::{ClockId, Description, Laps, Name, Nanoseconds, Reading, Share};

/// The exit status of a command that was run, or what a shell makes of a signal.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints `value` as JSON or `text`, and a newline.
    pub(crate) fn print(self, value: &impl Serialize, text: impl Display) -> anyhow::Result<()> {
        match self.write(&mut io::stdout().lock(), value, text) {
            // `stopwatch list | head` has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
            other => Ok(other?),
        }
    }

    /// Writes what [`Output::print`] prints.
    pub(crate) fn write(
        self,
        out: &mut impl Write,
        value: &impl Serialize,
        text: impl Display,
    ) -> io::Result<()> {
        if self.json {
            writeln!(out, "{}", serde_json::to_string(value)?)?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()
    }
}

/// A stopwatch as it is shown everywhere: what it is, and what it shows.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) description: Description,
    pub(crate) reading: Reading,
}

impl Shown {
    /// Whether there is something to tell of it: it was created, or is not as a
    /// reset leaves it.
    pub(crate) fn is_in_use(&self) -> bool {
        !self.description.is_numbered() || self.description.is_armed() || !self.reading.is_idle()
    }

    /// When the armed timeout expires.
    fn timeout(&self) -> Option<String> {
        let Description {
            target_ns,
            interval_ns,
            ..
        } = self.description;
        if !self.description.is_armed() {
            return None;
        }
        let mut text = match (target_ns, self.description.timeout_in(&self.reading)) {
            (Some(target), _) => format!("at {}", Nanoseconds(target)),
            (None, Some(left)) => format!("in {left}"),
            // By a clock of which this side does not know the time.
            (None, None) => "armed".into(),
        };
        if let Some(interval) = interval_ns {
            text += &format!(", every {}", Nanoseconds(interval));
        }
        Some(text)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            watch: u32,
            name: Option<Name>,
            #[serde(flatten)]
            reading: &'a Reading,
            clock: Option<ClockId>,
            skip_paused: bool,
            uid: Option<u32>,
            share: Share,
            target_ns: Option<u64>,
            interval_ns: Option<u64>,
        }
        let of = &self.description;
        Flat {
            watch: of.watch,
            name: of.name,
            reading: &self.reading,
            clock: of.clock,
            skip_paused: of.skip_paused,
            uid: of.uid,
            share: of.share,
            target_ns: of.target_ns,
            interval_ns: of.interval_ns,
        }
        .serialize(serializer)
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Title::of(&self.description), self.reading)?;
        match self.timeout() {
            Some(timeout) => write!(f, ", timeout {timeout}"),
            None => Ok(()),
        }
    }
}

/// How a stopwatch is called: `stopwatch 3`, `stopwatch 70 "boot"`.
#[derive(Clone, Debug)]
pub(crate) struct Title {
    watch: u32,
    name: Option<Name>,
}

impl Title {
    pub(crate) fn of(description: &Description) -> Self {
        Self {
            watch: description.watch,
            name: description.name,
        }
    }
}

impl Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopwatch {}", self.watch)?;
        match &self.name {
            Some(name) => write!(f, " \"{name}\""),
            None => Ok(()),
        }
    }
}

pub(crate) const WATCH_HEADINGS: [&str; 10] = [
    "STOPWATCH",
    "<NAME",
    "<OWNER",
    "<SHARED",
    "<CLOCK",
    "<STATE",
    "ELAPSED",
    "LAPS",
    "TIMEOUTS",
    "<TIMEOUT",
];

/// A row under [`WATCH_HEADINGS`].
pub(crate) fn watch_row(shown: &Shown) -> [String; 10] {
    let Shown {
        description: of,
        reading,
    } = shown;
    let or_dash = |text: Option<String>| text.unwrap_or("-".into());
    let clock = of.clock.map_or("unknown".into(), |clock| clock.to_string());
    let clock = match of.skip_paused {
        true => format!("{clock} less pauses"),
        false => clock,
    };
    [
        of.watch.to_string(),
        or_dash(of.name.as_ref().map(Name::to_string)),
        or_dash(of.uid.map(|uid| uid.to_string())),
        match of.uid {
            Some(_) => of.share.to_string(),
            None => "-".into(),
        },
        clock,
        if reading.running {
            "running"
        } else {
            "stopped"
        }
        .into(),
        Nanoseconds(reading.elapsed_ns).to_string(),
        reading.laps.to_string(),
        reading.timeouts.to_string(),
        or_dash(shown.timeout()),
    ]
}

/// Stopwatches as a table.
pub(crate) fn watch_table(watches: &[Shown]) -> impl Display {
    let mut table = Table::new(WATCH_HEADINGS);
    for shown in watches {
        table.row(watch_row(shown));
    }
    table
}

/// `1 lap`, `2 laps`.
pub(crate) fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The laps of a stopwatch.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShownLaps {
    watch: u32,
    name: Option<Name>,
    #[serde(flatten)]
    laps: Laps,
}

impl ShownLaps {
    pub(crate) fn new(description: Description, laps: Laps) -> Self {
        Self {
            watch: description.watch,
            name: description.name,
            laps,
        }
    }
}

impl Display for ShownLaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Laps {
            total,
            oldest,
            first,
            ref laps_ns,
        } = self.laps;
        if laps_ns.is_empty() {
            return write!(f, "no laps from {first} on, of {total} in all");
        }
        let mut table = Table::new(["LAP", "ELAPSED", "SINCE THE LAP BEFORE"]);
        // What came before the first is only known of the very first.
        let mut before = (first == 0).then_some(0);
        for (number, &lap) in (first..).zip(laps_ns) {
            let since = before.map(|before| Nanoseconds(lap.saturating_sub(before)).to_string());
            table.row([
                number.to_string(),
                Nanoseconds(lap).to_string(),
                since.unwrap_or("-".into()),
            ]);
            before = Some(lap);
        }
        write!(f, "{table}")?;
        if oldest > 0 {
            write!(
                f,
                "\n{total} laps in all; the oldest that is kept is {oldest}"
            )?;
        }
        Ok(())
    }
}

/// A table: a heading, then rows, each column as wide as it has to be.
/// A column is aligned to the left if its heading begins with `<`.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    left: [bool; N],
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(|heading| heading.trim_start_matches('<').to_owned())],
            left: headings.map(|heading| heading.starts_with('<')),
        }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        });
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, width), left) in row.iter().zip(widths).zip(self.left) {
                line += &match left {
                    true => format!("{cell:<width$}  "),
                    false => format!("{cell:>width$}  "),
                };
            }
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Stopwatches to test with.
#[cfg(test)]
pub(crate) mod examples {
    use super::*;
    use stopwatch_uapi::{stopwatch_reading, STOPWATCH_RUNNING};

    pub(crate) fn reading() -> Reading {
        stopwatch_reading {
            state: STOPWATCH_RUNNING,
            elapsed_ns: 1_000_123_456,
            time_ns: 12_000_000_000,
            laps: 1,
            lap_ns: 500_000_000,
            timeouts: 2,
            error_ns: 40_000,
            ..Default::default()
        }
        .into()
    }

    pub(crate) fn numbered() -> Shown {
        Shown {
            description: Description {
                watch: 7,
                name: None,
                uid: None,
                share: Share::None,
                clock: Some(ClockId::Monotonic),
                skip_paused: false,
                running: true,
                laps: 1,
                timeouts: 2,
                target_ns: None,
                deadline_ns: None,
                interval_ns: None,
            },
            reading: reading(),
        }
    }

    pub(crate) fn named() -> Shown {
        let numbered = numbered();
        Shown {
            description: Description {
                watch: 70,
                name: Some("boot".parse().unwrap()),
                uid: Some(1000),
                share: Share::Read,
                clock: Some(ClockId::Boottime),
                skip_paused: true,
                target_ns: Some(90_000_000_000),
                interval_ns: Some(1_000_000_000),
                ..numbered.description
            },
            ..numbered
        }
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{named, numbered};
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["VM", "<NAME", "KICKS"]);
        table.row(["1".into(), "ä".into(), "10000".into()]);
        table.row(["12".into(), "build".into(), "7".into()]);
        assert_eq!(
            table.to_string(),
            "\
VM  NAME   KICKS
 1  ä      10000
12  build      7"
        );
    }

    #[test]
    fn a_stopwatch_is_one_flat_object() {
        assert_eq!(
            serde_json::to_string(&named()).unwrap(),
            r#"{"watch":70,"name":"boot","state":"running","elapsed_ns":1000123456,"time_ns":12000000000,"laps":1,"lap_ns":500000000,"deadline_ns":null,"timeouts":2,"error_ns":40000,"source":"call","clock":"boottime","skip_paused":true,"uid":1000,"share":"read","target_ns":90000000000,"interval_ns":1000000000}"#
        );
    }

    #[test]
    fn a_stopwatch_is_one_line() {
        assert_eq!(
            numbered().to_string(),
            "stopwatch 7: running, elapsed 1.000 123 456 s, 1 lap, last at 0.500 000 000 s, \
             2 timeouts expired"
        );
        assert_eq!(
            named().to_string(),
            "stopwatch 70 \"boot\": running, elapsed 1.000 123 456 s, 1 lap, last at \
             0.500 000 000 s, 2 timeouts expired, timeout at 90.000 000 000 s, every 1.000 000 000 s"
        );
    }

    #[test]
    fn stopwatches_are_listed_one_a_line() {
        let mut armed = numbered();
        armed.description.deadline_ns = Some(12_250_000_000);
        assert_eq!(
            watch_table(&[armed, named()]).to_string(),
            "\
STOPWATCH  NAME  OWNER  SHARED  CLOCK                 STATE            ELAPSED  LAPS  TIMEOUTS  TIMEOUT
        7  -     -      -       monotonic             running  1.000 123 456 s     1         2  in 0.250 000 000 s
       70  boot  1000   read    boottime less pauses  running  1.000 123 456 s     1         2  at 90.000 000 000 s, every 1.000 000 000 s"
        );
    }

    #[test]
    fn laps_are_shown_with_what_lies_between() {
        let laps = |first, oldest, total| {
            ShownLaps::new(
                named().description,
                Laps {
                    total,
                    oldest,
                    first,
                    laps_ns: vec![1_000, 3_000],
                },
            )
        };
        assert_eq!(
            laps(0, 0, 2).to_string(),
            "\
LAP          ELAPSED  SINCE THE LAP BEFORE
  0  0.000 001 000 s       0.000 001 000 s
  1  0.000 003 000 s       0.000 002 000 s"
        );
        let text = laps(44, 44, 300).to_string();
        assert!(
            text.contains(" 44  0.000 001 000 s                     -"),
            "{text}"
        );
        assert!(
            text.ends_with("300 laps in all; the oldest that is kept is 44"),
            "{text}"
        );
        assert_eq!(
            serde_json::to_string(&laps(0, 0, 2)).unwrap(),
            r#"{"watch":70,"name":"boot","total":2,"oldest":0,"first":0,"laps_ns":[1000,3000]}"#
        );
    }
}
