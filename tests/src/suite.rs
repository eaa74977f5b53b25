// SPDX-License-Identifier: MIT OR Apache-2.0

//! Running named tests, a line for each and counts at the end.

use std::any::Any;
use std::env;
use std::fmt::Display;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::kmsg;
use crate::module::Module;

/// A test and its name.
pub type Test = (&'static str, fn());

/// The tests of a module, named after it and themselves.
#[macro_export]
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        /// The tests in this file.
        pub(crate) fn tests() -> Vec<$crate::suite::Test> {
            let module = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$((
                Box::leak(format!("{module}::{}", stringify!($test)).into_boxed_str()),
                $test as fn(),
            )),*]
        }
    };
}

/// The value of an environment variable that the lab sets.
pub fn environment(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: this runs in the lab, by `make test` or `lab/lab level1`")
    })
}

/// The host module.
pub fn host_module() -> Module {
    Module::new(Path::new(&environment("STOPWATCH_MODULES")).join("vhost_stopwatch.ko"))
}

/// Trials of tests that each find the host module freshly loaded; after each,
/// the module must unload and the kernel log be clean.
pub fn with_module(tests: Vec<Test>) -> Vec<Trial> {
    tests
        .into_iter()
        .map(|(name, test)| Trial::test(name, move || load_and_run(test)))
        .collect()
}

/// Runs trials one after the other, as the command line says, and prints their
/// figures at the end.
pub fn run(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    print_figures();
    code
}

static FIGURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a figure is printed with.
pub const FIGURE: &str = "figure: ";

/// Notes what was measured, to be printed after the tests.
pub fn figure(text: impl Display) {
    let mut figures = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
    figures.push(text.to_string());
}

/// Notes the figures that another program printed.
pub fn figures_of(output: &str) {
    output
        .lines()
        .filter_map(|line| line.strip_prefix(FIGURE))
        .for_each(figure);
}

/// Prints what was noted.
pub fn print_figures() {
    let mut figures = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
    for text in figures.drain(..) {
        println!("{FIGURE}{text}");
    }
}

/// A trial of a test during which the kernel log has to stay clean.
pub fn watched(name: &str, test: fn()) -> Trial {
    watched_with(name.to_owned(), test)
}

/// The same for a test that knows more than its name.
pub fn watched_with(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let mut log = kmsg::Cursor::now();
        let result = catch_unwind(AssertUnwindSafe(test)).map_err(|panic| message(&*panic));
        finish([result, log.check()])
    })
}

fn load_and_run(test: fn()) -> Result<(), Failed> {
    let mut log = kmsg::Cursor::now();
    let module = host_module();
    module.load()?;

    let result = catch_unwind(AssertUnwindSafe(test)).map_err(|panic| message(&*panic));
    let unloaded = unload(&module);
    finish([result, unloaded, log.check()])
}

/// All that failed, or success.
fn finish<const N: usize>(results: [Result<(), String>; N]) -> Result<(), Failed> {
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(failures.join("\n").into())
}

/// Closing a file may end a moment later, in a task that has a reference of it
/// for a system call that is under way.
fn unload(module: &Module) -> Result<(), String> {
    if !module.is_loaded() {
        return Ok(());
    }
    let mut last = None;
    let gone = eventually(Duration::from_secs(5), || {
        last = module.unload().err();
        last.is_none()
    });
    match last {
        Some(errno) if !gone => Err(format!(
            "the module does not unload after the test: {errno}, in use {} times",
            module.uses()
        )),
        _ => Ok(()),
    }
}

/// What a panic said.
pub fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the test panicked".to_owned())
}

/// How many times longer than elsewhere to wait for what comes at last: the debug
/// kernel is slow, and so is a level 1 whose instructions are counted.
pub fn patience() -> u32 {
    let is = |name: &str, what: &str| env::var(name).is_ok_and(|value| value == what);
    if is("STOPWATCH_KERNEL", "debug")
        || is("STOPWATCH_KERNEL2", "debug")
        || is("STOPWATCH_ACCEL", "sections")
    {
        5
    } else {
        1
    }
}

/// Asks again and again until it is true or `limit` is over, or a multiple of it where
/// that takes [`patience`].
pub fn eventually(limit: Duration, mut is: impl FnMut() -> bool) -> bool {
    let limit = limit * patience();
    let begin = Instant::now();
    loop {
        if is() {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `act`, and meanwhile `again`, again and again, in another thread: until `act` ends, also
/// by a panic.
pub fn beside<R>(mut again: impl FnMut() + Send, act: impl FnOnce() -> R) -> R {
    struct End<'a>(&'a AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                again();
            }
        });
        let _end = End(&ended);
        act()
    })
}
