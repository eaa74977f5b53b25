// SPDX-License-Identifier: MIT OR Apache-2.0

//! One page with the timeline drawn, that needs nothing from anywhere.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::lanes::lanes;
use super::table::share;
use crate::model::{Event, Kind, Moment, Process, Side, Timeline};
use crate::steps::Phase;
use crate::{duration, shown};

const PAGE: &str = include_str!("page.html");

/// What all pages look like.
pub(super) const STYLE: &str = include_str!("page.css");

/// Writes a timeline as a page of HTML.
///
/// # Errors
///
/// Those of `to`.
pub fn html(timeline: &Timeline, mut to: impl Write) -> io::Result<()> {
    let title = match timeline.vm.is_empty() {
        true => "A VM's start".into(),
        false => format!("The start of {}", shown(&timeline.vm)),
    };
    let parts = [
        ("@STYLE@", STYLE.into()),
        ("@TITLE@", escape(&title)),
        ("@SUMMARY@", summary(timeline)),
        ("@TABLES@", tables(timeline)),
        ("@DATA@", data(timeline)?),
    ];
    fill(PAGE, &parts, &mut to)?;
    to.flush()
}

/// Writes a page with its parts in their places. One place after the other, so that nothing
/// in a part is taken for a place.
pub(super) fn fill(page: &str, parts: &[(&str, String)], to: &mut impl Write) -> io::Result<()> {
    let mut rest = page;
    while let Some(at) = rest.find('@') {
        let part = parts.iter().find(|(name, _)| rest[at..].starts_with(name));
        match part {
            Some((name, text)) => {
                to.write_all(rest[..at].as_bytes())?;
                to.write_all(text.as_bytes())?;
                rest = &rest[at + name.len()..];
            }
            None => {
                to.write_all(rest[..=at].as_bytes())?;
                rest = &rest[at + 1..];
            }
        }
    }
    to.write_all(rest.as_bytes())
}

/// Text that is text in HTML, in an element and in a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// The variable of the page's style that has the phase's colour.
pub(super) fn color(phase: Phase) -> &'static str {
    let name = phase.name();
    if name.starts_with("vmm") {
        "vmm"
    } else {
        name
    }
}

/// A name on a page.
fn named(name: &str) -> String {
    escape(&shown(name))
}

fn summary(timeline: &Timeline) -> String {
    let total = timeline.total();
    let outcome = match timeline.is_ready() {
        true => "Ready after",
        false => "Not ready after",
    };
    let unaccounted = timeline
        .phases()
        .iter()
        .find(|(phase, _)| *phase == Phase::Unaccounted)
        .map_or(0.0, |(_, length)| share(length.ns, total.ns));
    let mut text = format!(
        "{outcome} <b>{}</b> ± {}; {unaccounted:.1} % unaccounted",
        duration(total.ns),
        duration(total.error())
    );
    if timeline.attempts.len() > 1 {
        let _ = write!(text, "; <b>{} attempts</b>", timeline.attempts.len());
    }
    let dropped: u64 = timeline.dropped.iter().map(|one| one.count).sum();
    if dropped > 0 {
        let _ = write!(text, "; <b>{dropped} entries dropped</b>");
    }
    let _ = write!(text, "; by {}", escape(timeline.clock.name()));
    text
}

fn tables(timeline: &Timeline) -> String {
    let total = timeline.total().ns;
    let mut out = String::from(
        "<h2>Phases</h2>\n<div class=\"card\"><table>\n<tr><th>phase<th class=\"n\">length\
         <th class=\"n\">error<th class=\"n\">share<th>from<th>to</tr>\n",
    );
    let several = timeline.attempts.len() > 1;
    for one in timeline.stretches() {
        let phase = one.phase.name();
        let class = if phase == "unaccounted" {
            "c unaccounted"
        } else {
            "c"
        };
        let color = color(one.phase);
        let attempt = match several {
            true => format!(" <span class=\"soft\">attempt {}</span>", one.attempt + 1),
            false => String::new(),
        };
        let _ =
            writeln!(
            out,
            "<tr><td><i class=\"{class}\" style=\"background:var(--{color})\"></i>{phase}{attempt}\
             <td class=\"n\">{}<td class=\"n\">± {}<td class=\"n\">{:.1} %<td>{}<td>{}</tr>",
            duration(one.length.ns),
            duration(one.length.error()),
            share(one.length.ns, total),
            named(&one.from),
            one.to.as_deref().map_or("<span class=\"soft\">(cut short)</span>".into(), named),
        );
    }
    out.push_str("</table></div>\n");

    let origin = timeline.extent().0;
    let mut steps: Vec<&Event> = timeline.by_time();
    steps.retain(|event| event.step.is_some());
    if !steps.is_empty() {
        out.push_str(
            "<h2>Steps</h2>\n<div class=\"card\"><table>\n<tr><th class=\"n\">at<th class=\"n\">error\
             <th>side<th>step<th>event<th>source</tr>\n",
        );
        for event in steps {
            let _ = writeln!(
                out,
                "<tr><td class=\"n\">{}<td class=\"n\">± {}<td>{}<td>{}<td>{}<td>{}</tr>",
                duration(event.at.ns - origin),
                duration(event.at.error()),
                event.side.name(),
                event.step.map_or("", |step| step.name()),
                named(&event.name),
                named(&event.source),
            );
        }
        out.push_str("</table></div>\n");
    }

    let off = (0..)
        .zip(&timeline.attempts)
        .flat_map(|(attempt, _)| timeline.off_chain(attempt))
        .map(|event| {
            format!(
                "\"{}\" contradicts the order of a start, so no phase begins with it",
                shown(&event.name)
            )
        });
    let dropped = timeline
        .dropped
        .iter()
        .map(|one| format!("dropped: {} of {}", one.count, shown(&one.what)));
    let notes = timeline.notes.iter().map(|note| shown(note));
    let lines: Vec<_> = off.chain(dropped).chain(notes).collect();
    if !lines.is_empty() {
        out.push_str("<h2>Notes</h2>\n<div class=\"card\"><ul>\n");
        for line in lines {
            let _ = writeln!(out, "<li>{}</li>", escape(&line));
        }
        out.push_str("</ul></div>\n");
    }
    out
}

/// What the page draws. Times count from the earliest, so that they are exact in the
/// browser's numbers.
fn data(timeline: &Timeline) -> serde_json::Result<String> {
    let (origin, last) = timeline.extent();
    let at = |ns: i64| ns.saturating_sub(origin);
    let phases: Vec<_> = timeline
        .stretches()
        .iter()
        .map(|one| {
            json!({
                "p": one.phase.name(), "b": at(one.begin.ns), "e": at(one.end.ns),
                "err": one.length.error(), "z": one.paused_ns, "f": shown(&one.from),
                "t": one.to.as_deref().map_or("the end of the recording".into(), shown),
            })
        })
        .collect();
    let gaps: Vec<_> = timeline
        .gaps
        .iter()
        .map(|gap| {
            let end = gap.end.unwrap_or(timeline.end);
            json!({
                "k": gap.kind.name(), "b": at(gap.begin.ns), "e": at(end.ns), "s": shown(&gap.source),
            })
        })
        .collect();
    let attempts: Vec<_> = timeline
        .attempts
        .iter()
        .map(|one| json!({ "b": at(one.begin.ns), "w": shown(&one.why) }))
        .collect();
    let mut events: Vec<_> = timeline.by_time();
    events.sort_by_key(|event| event.at.ns);
    let events: Vec<_> = events
        .into_iter()
        .map(|event| {
            let row = match (event.kind, event.side) {
                (Kind::Mark, _) => 2,
                (Kind::Event, Side::Guest) => 1,
                (Kind::Event, Side::Host) => 0,
            };
            let mut more: Vec<_> = process(event.process.as_ref()).into_iter().collect();
            more.extend(event.detail.iter().map(|(k, v)| format!("{k}={v}")));
            let label = event.step.is_some() || event.kind == Kind::Mark;
            (
                at(event.at.ns),
                event.at.error(),
                row,
                shown(&event.name),
                shown(&event.source),
                shown(&more.join(" ")),
                u8::from(label),
            )
        })
        .collect();

    let end = |span: &crate::Span| span.end.as_ref().map_or(timeline.end, |end| end.at);
    let intervals: Vec<_> = timeline
        .spans
        .iter()
        .map(|span| (at(span.begin.at.ns), at(end(span).ns.max(span.begin.at.ns))))
        .collect();
    let rows = lanes(&intervals);
    let mut spans: Vec<_> = timeline
        .spans
        .iter()
        .zip(&rows)
        .map(|(span, &row)| {
            let length: Moment = span.begin.at.until(end(span));
            let guest = u8::from(span.begin.side == Side::Guest);
            let mut more: Vec<_> = process(span.begin.process.as_ref()).into_iter().collect();
            match &span.end {
                None => more.push("not closed".into()),
                Some(end) if end.side != span.begin.side => {
                    more.push(format!("closed by the {}", end.side.name()));
                }
                Some(_) => {}
            }
            (
                at(span.begin.at.ns),
                at(end(span).ns.max(span.begin.at.ns)),
                row,
                guest,
                shown(&span.name),
                length.error(),
                shown(&span.source),
                shown(&more.join(", ")),
            )
        })
        .collect();
    spans.sort_by_key(|span| (span.2, span.0));

    #[derive(Serialize)]
    struct Data<P, G, A, E, S> {
        length: i64,
        lanes: usize,
        phases: P,
        gaps: G,
        attempts: A,
        events: E,
        spans: S,
    }
    let json = serde_json::to_string(&Data {
        length: at(last),
        lanes: rows.iter().max().map_or(0, |most| most + 1),
        phases,
        gaps,
        attempts,
        events,
        spans,
    })?;
    Ok(in_script(&json))
}

fn process(process: Option<&Process>) -> Option<String> {
    process.map(|process| match process.pid {
        0 => process.name.clone(),
        pid => format!("{} ({pid})", process.name),
    })
}

/// JSON in which nothing ends a script: these characters are only in its strings.
fn in_script(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{nasty, start, NASTY};

    fn page(timeline: &Timeline) -> String {
        let mut bytes = Vec::new();
        html(timeline, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn data_of(page: &str) -> serde_json::Value {
        let data = page.split("id=\"data\">").nth(1).unwrap();
        serde_json::from_str(data.split("</script>").next().unwrap()).unwrap()
    }

    #[test]
    fn a_page_needs_nothing_from_anywhere() {
        let page = page(&start());
        // The one address is the name of SVG.
        assert_eq!(page.matches("://").count(), 1, "{page}");
        for part in ["src=", "<link", "@import", "href="] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("default-src 'none'"));
        assert!(page.contains("Ready after <b>4.20 s</b>"), "{page}");
    }

    #[test]
    fn a_page_has_every_phase_and_event() {
        let data = data_of(&page(&start()));
        assert_eq!(data["phases"].as_array().unwrap().len(), 10);
        assert_eq!(data["events"].as_array().unwrap().len(), 13);
        assert_eq!(data["spans"].as_array().unwrap().len(), 3);
        assert_eq!(data["phases"][0]["e"], 62_000_000);
        assert_eq!(data["length"], 4_300_000_000_u64);
    }

    #[test]
    fn names_are_text_wherever_they_stand() {
        let good = page(&start());
        let page = page(&nasty());
        let tags = |page: &str, tag: &str| page.matches(tag).count();
        for tag in ["<script", "</script", "<img", "<!", "<svg", "<b>"] {
            let more = usize::from(tag == "<b>"); // that entries were dropped
            assert_eq!(tags(&page, tag), tags(&good, tag) + more, "{tag}");
        }
        let before_data = page.split("id=\"data\">").next().unwrap();
        assert!(!before_data.contains("\" onmouseover=\""));
        assert!(!before_data.contains("' onmouseover='"));
        assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
        // Places of the page are not filled by what is in a name.
        assert!(page.contains("@DATA@ @TABLES@"));
        let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}' || c == '\u{2028}';
        assert!(!page.contains(bad));
        let events = data_of(&page)["events"].as_array().unwrap().clone();
        for name in NASTY {
            let shown = shown(name);
            assert!(
                events.iter().any(|event| event[3] == shown.as_str()),
                "{name:?}"
            );
        }
    }

    /// What a browser makes of a page: its document after the scripts ran.
    fn browse(page: &str, name: &str) -> Option<String> {
        use std::process::Command;
        let directory =
            std::env::temp_dir().join(format!("stopwatch-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("page.html");
        std::fs::write(&file, page).unwrap();
        let browser = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--window-size=1280,900",
            ])
            .arg(format!(
                "--user-data-dir={}",
                directory.join("profile").display()
            ))
            .args(["--virtual-time-budget=5000", "--dump-dom"])
            .arg(format!("file://{}", file.display()))
            .output();
        std::fs::remove_dir_all(&directory).unwrap();
        match browser {
            Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(error) => {
                println!("skipped: there is no chromium to look at the page with ({error})");
                None
            }
        }
    }

    #[test]
    fn a_browser_draws_it() {
        let Some(drawn) = browse(&page(&start()), "start") else {
            return;
        };
        assert_eq!(
            drawn.matches("fill:url(#hatch)").count(),
            0,
            "nothing is unaccounted"
        );
        for part in [
            ">initramfs</text>",
            ">kernel</text>",
            ">cache warm</text>",
            ">4.00 s</text>",
        ] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        // Ten phases, three spans.
        assert_eq!(drawn.matches("class=\"part\"").count(), 13);
        let nasty = browse(&page(&nasty()), "nasty").unwrap();
        assert_eq!(nasty.matches("class=\"part\"").count(), 13 + NASTY.len());
        assert!(!nasty.contains("<img"));
        // In the text of an element anything may stand; in a tag nothing of a guest's does.
        for tag in nasty.split('<').filter_map(|part| part.split('>').next()) {
            assert!(!tag.contains("onmouseover"), "{tag}");
        }
    }
}
