// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest program that uses the library: a stopwatch of its own name, a timeout,
//! and laps and reading without a system call.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use stopwatch::guest::{Device, Error, DEVICE};
use stopwatch::{Act, Command, Creation, Name, Nanoseconds, Source, Timeout};

fn main() -> anyhow::Result<()> {
    let device = Device::open(DEVICE)?;
    let name: Name = "sample-rust".parse()?;
    let watch = match device.create(Some(&name), Creation::default()) {
        // By an earlier run that did not end.
        Err(Error::NameTaken {
            watch: Some(watch), ..
        }) => watch,
        created => created?,
    };
    device.command(watch, Act::Reset)?;
    device.command(watch, Act::Start)?;

    // These cost neither a system call nor an exit.
    let mut poster = device.poster(watch)?;
    for _ in 0..3 {
        sleep(Duration::from_millis(10));
        poster.post(Act::Lap)?;
    }
    let laps = device.laps(watch)?;
    for (number, &lap) in (laps.first..).zip(&laps.laps_ns) {
        println!("lap {number:<5} {}", Nanoseconds(lap));
    }

    device.command(
        watch,
        Timeout {
            ns: 50_000_000,
            ..Default::default()
        },
    )?;
    let event = loop {
        let event = device
            .next_event(Some(Duration::from_secs(10)))?
            .context("no event within 10 s")?;
        // Events of others come, too.
        if event.watch == watch {
            break event;
        }
    };
    println!("timeout   {} late", Nanoseconds(event.late_ns()));

    let reading = device.reader()?.read(watch)?;
    let how = match reading.source {
        Source::ExitFree => "exit-free",
        Source::Call => "by call",
    };
    println!(
        "{how:<9} {}, to {}",
        Nanoseconds(reading.elapsed_ns),
        Nanoseconds(reading.error_ns)
    );

    let paused = device.command(watch, Act::Pause)?;
    println!("paused    {}", Nanoseconds(paused.elapsed_ns));
    device.command(watch, Command::Delete)?;
    Ok(())
}
