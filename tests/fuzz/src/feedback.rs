// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a fuzzer of the kernel learns from a run: which edges of the modules' code the
//! kernel ran for this thread, where it notes that (KCOV); and in any kernel which
//! calls ended with which errors. Both go into counters that libFuzzer looks at as at
//! those of instrumented code.

use std::collections::HashSet;
use std::fs::File;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{mmap, MapFlags, ProtFlags};
use stopwatch::raw;

/// A power of two. That many for edges, and as many for errors.
const COUNTERS: usize = 1 << 14;

// SAFETY: libFuzzer takes all of this section for counters of 8 bits, which is what
// it is. It reads and clears them between runs.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static EXTRA: [AtomicU8; 2 * COUNTERS] = [const { AtomicU8::new(0) }; 2 * COUNTERS];

fn count(index: usize) {
    let counter = &EXTRA[index];
    let now = counter.load(Ordering::Relaxed);
    counter.store(now.saturating_add(1), Ordering::Relaxed);
}

fn hash(value: u64) -> usize {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % COUNTERS
}

/// Of <linux/kcov.h>.
const KCOV_INIT_TRACE: u32 = 0x8008_6301;
const KCOV_ENABLE: u32 = 0x6364;
const KCOV_TRACE_PC: usize = 0;
/// Words of the kernel's buffer: a count, and the addresses.
const KCOV_WORDS: usize = 1 << 17;

struct Kcov {
    _file: File,
    words: NonNull<AtomicU64>,
}

impl Kcov {
    /// From now on, for the thread that calls; `None` if the kernel has none.
    fn enable() -> Option<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true);
        let file = file.open("/sys/kernel/debug/kcov").ok()?;
        // SAFETY: the argument is a number.
        unsafe { raw::ioctl(&file, KCOV_INIT_TRACE, KCOV_WORDS) }.expect("KCOV_INIT_TRACE");
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let size = KCOV_WORDS * size_of::<u64>();
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let words = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        // SAFETY: the argument is a number.
        unsafe { raw::ioctl(&file, KCOV_ENABLE, KCOV_TRACE_PC) }.expect("KCOV_ENABLE");
        let words = NonNull::new(words.expect("its buffer can be mapped").cast());
        Some(Self {
            _file: file,
            words: words.expect("not at address zero"),
        })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many words, and is never unmapped.
        unsafe { slice::from_raw_parts(self.words.as_ptr(), KCOV_WORDS) }
    }

    /// Takes what was noted since it was last asked.
    fn take(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.words();
        let noted = (words[0].load(Ordering::Relaxed) as usize).min(KCOV_WORDS - 1);
        words[1..=noted]
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
    }

    fn clear(&self) {
        self.words()[0].store(0, Ordering::Relaxed);
    }
}

/// What all runs have taught.
pub(crate) struct Feedback {
    kcov: Option<Kcov>,
    /// Addresses of code that was run.
    places: HashSet<u64>,
    /// Calls, and how they ended.
    answers: HashSet<(u32, i32)>,
    executions: u64,
    slowest: (Duration, u32),
    begin: Instant,
    told: Instant,
}

// SAFETY: only the thread that made it uses the kernel's buffer.
unsafe impl Send for Feedback {}

static FEEDBACK: Mutex<Option<Feedback>> = Mutex::new(None);

/// A call that takes so long is a find.
const LIMIT: Duration = Duration::from_secs(10);

impl Feedback {
    fn new() -> Self {
        let kcov = Kcov::enable();
        if kcov.is_none() {
            eprintln!("no KCOV in this kernel: led by the errors of calls alone");
        }
        let now = Instant::now();
        Self {
            kcov,
            places: HashSet::new(),
            answers: HashSet::new(),
            executions: 0,
            slowest: (Duration::ZERO, 0),
            begin: now,
            told: now,
        }
    }

    fn collect(&mut self) {
        self.executions += 1;
        if let Some(kcov) = &self.kcov {
            let mut before = 0;
            for place in kcov.take() {
                count(hash(place ^ before));
                self.places.insert(place);
                before = place >> 1;
            }
            kcov.clear();
        }
        if self.told.elapsed() > Duration::from_secs(5) {
            self.told = Instant::now();
            self.tell();
        }
    }

    fn tell(&self) {
        let coverage = match &self.kcov {
            Some(_) => format!("{} places of the module by KCOV", self.places.len()),
            None => "blind (no KCOV)".to_owned(),
        };
        eprintln!(
            "so far: {} s, {} executions, {coverage}, {} kinds of answers, slowest call {} ms \
             (number {:#x})",
            self.begin.elapsed().as_secs(),
            self.executions,
            self.answers.len(),
            self.slowest.0.as_millis(),
            self.slowest.1,
        );
    }
}

fn with<T>(act: impl FnOnce(&mut Feedback) -> T) -> T {
    let mut feedback = FEEDBACK.lock().expect("nobody panics with it");
    act(feedback.get_or_insert_with(Feedback::new))
}

/// A run begins: what the kernel noted until now is not of it.
pub(crate) fn begin() {
    with(|feedback| feedback.kcov.iter().for_each(Kcov::clear));
}

/// A run is over.
pub(crate) fn end() {
    with(Feedback::collect);
}

/// Says what was learned, at the end.
pub(crate) fn tell() {
    with(|feedback| feedback.tell());
}

/// Makes a call that `number` names, and notes how it ended.
pub(crate) fn call<T>(number: u32, act: impl FnOnce() -> Result<T, Errno>) -> Option<T> {
    let begin = Instant::now();
    let result = act();
    let took = begin.elapsed();
    assert!(took < LIMIT, "call {number:#x} took {} s", took.as_secs());
    let error = result
        .as_ref()
        .err()
        .map_or(0, |errno| errno.raw_os_error());
    count(COUNTERS + hash(u64::from(number) << 16 | error as u64));
    with(|feedback| {
        feedback.answers.insert((number, error));
        feedback.slowest = feedback.slowest.max((took, number));
    });
    result.ok()
}
