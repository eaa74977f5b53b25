// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch timeline` and `stopwatch compare`: what is made of recorded starts. This
//! needs neither a device nor a VM.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{bail, Context};
use stopwatch_timeline::report::{self, Traces};
use stopwatch_timeline::{self as timeline, ClockRelation, Timeline};

use crate::cli::{Compare, Export, TimelineCommand, Trace};
use crate::output::Output;

/// Something moved.
const MOVED: u8 = 4;

pub(crate) fn run(command: TimelineCommand, output: Output) -> anyhow::Result<()> {
    match command {
        TimelineCommand::Record(_) => unreachable!("done in main(), for its exit status is QEMU's"),
        TimelineCommand::Show { file, all } => {
            let timeline = read(&file.file)?;
            output.print(
                &report::Computed::of(&timeline),
                report::table(&timeline, all),
            )
        }
        TimelineCommand::Html(of) => export(of, |timeline, to| report::html(timeline, to)),
        TimelineCommand::Perfetto(of) => {
            if of.output.is_none() && io::stdout().is_terminal() {
                bail!("a Perfetto trace is no text; expected `--output FILE`");
            }
            export(of, |timeline, to| report::perfetto(timeline, to))
        }
        TimelineCommand::Csv(of) => export(of, |timeline, to| report::csv(timeline, to)),
        TimelineCommand::Trace(of) => trace(&of, output),
        TimelineCommand::Otlp(of) => export(of, |timeline, to| report::otlp(timeline, to)),
        TimelineCommand::Merge {
            host,
            guest,
            output: file,
        } => {
            let merged = timeline::merge(read(&host)?, read(&guest)?)?;
            put(file.as_deref(), |to| timeline::write(&merged, to))
        }
    }
}

pub(crate) fn compare(arguments: Compare, output: Output) -> anyhow::Result<ExitCode> {
    let Compare {
        files,
        baseline,
        threshold,
    } = arguments;
    if baseline == 0 || baseline >= files.len() {
        bail!(
            "--baseline {baseline} of {} files leaves nothing to compare; expected 1 to {}",
            files.len(),
            files.len() - 1
        );
    }
    let starts = files
        .iter()
        .map(|file| read(file))
        .collect::<Result<Vec<_>, _>>()?;
    let (base, other) = starts.split_at(baseline);
    let comparison = timeline::compare(base, other, threshold);
    output.print(&comparison, &comparison)?;
    Ok(match comparison.has_moved() {
        true => ExitCode::from(MOVED),
        false => ExitCode::SUCCESS,
    })
}

fn trace(of: &Trace, output: Output) -> anyhow::Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let relation = ClockRelation::read(open(&of.relation)?)
        .with_context(|| of.relation.display().to_string())?;
    let timeline = read(&of.timeline)?;
    let mut traces = Traces::new(&timeline, &relation, open(&of.host)?, open(&of.guest)?)?;
    put(Some(&of.output), |to| traces.write(to))?;
    let summary = traces.summary();
    output.print(summary, summary)
}

/// The timeline in a file, or on standard input.
pub(crate) fn read(path: &Path) -> anyhow::Result<Timeline> {
    let read = || {
        if path == Path::new("-") {
            return timeline::read(io::stdin().lock());
        }
        timeline::read(File::open(path)?)
    };
    read().with_context(|| path.display().to_string())
}

fn export(
    of: Export,
    report: impl FnOnce(&Timeline, &mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let timeline = read(&of.file.file)?;
    put(of.output.as_deref(), |to| report(&timeline, to))
}

/// Writes to a file, or to standard output.
pub(crate) fn put(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let Some(path) = path else {
        return match write(&mut BufWriter::new(io::stdout().lock())) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        };
    };
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        write(&mut file)?;
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A start that took so long in the VMM, as a file.
    fn file(name: &str, vmm_ms: i64) -> PathBuf {
        use stopwatch_timeline::{Clock, Event, Moment, Side, Step};
        let at = |ms: i64| Moment::around(ms * 1_000_000, 1000);
        let mut start = Timeline::new(Clock::HostMonotonic, "web1", at(10), "test");
        for (name, ms, step) in [
            ("exec", 10, Step::Exec),
            ("first entry", 10 + vmm_ms, Step::GuestEntry),
            ("hand-over", 200 + vmm_ms, Step::BootLoader),
        ] {
            let event = Event::new(name, at(ms), "test", Side::Host);
            start.events.push(event.step(step));
        }
        start.end = at(300 + vmm_ms);
        let path = std::env::temp_dir().join(format!("stopwatch-{}-{name}", std::process::id()));
        put(Some(&path), |to| timeline::write(&start, to)).unwrap();
        path
    }

    fn against(files: &[&PathBuf], baseline: usize) -> anyhow::Result<ExitCode> {
        let arguments = Compare {
            files: files.iter().map(|&file| file.clone()).collect(),
            baseline,
            threshold: 10.0,
        };
        compare(arguments, Output { json: true })
    }

    #[test]
    fn the_exit_code_says_whether_anything_moved() {
        let (fast, slow) = (file("fast", 100), file("slow", 150));
        let code =
            |files: &[&PathBuf], baseline| format!("{:?}", against(files, baseline).unwrap());
        let moved = format!("{:?}", ExitCode::from(MOVED));
        assert_eq!(code(&[&fast, &slow], 1), moved);
        assert_eq!(code(&[&slow, &fast], 1), moved);
        assert_ne!(code(&[&fast, &fast], 1), moved);
        assert_ne!(
            code(&[&fast, &slow, &slow], 2),
            moved,
            "within the baseline's spread"
        );
        let error = against(&[&fast, &slow], 2).unwrap_err().to_string();
        assert!(error.contains("expected 1 to 1"), "{error}");
        for file in [fast, slow] {
            fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn a_bad_file_is_named() {
        let error = read(Path::new("/dev/null")).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.starts_with("/dev/null: it is no timeline: it is empty"),
            "{text}"
        );
        let text = format!("{:#}", read(Path::new("/no/such/file")).unwrap_err());
        assert!(
            text.starts_with("/no/such/file: it cannot be read: "),
            "{text}"
        );
        let text = format!(
            "{:#}",
            put(Some(Path::new("/no/such/file")), |_| Ok(())).unwrap_err()
        );
        assert!(text.starts_with("cannot write /no/such/file: "), "{text}");
    }
}
