// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which function an address is in.

use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use rustc_demangle::demangle;

/// The functions of a kernel or a program.
#[derive(Debug, Default)]
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Those in one or more texts in the manner of `/proc/kallsyms`, or of nm.
    pub fn parse(text: &str, base: u64) -> Self {
        let mut symbols: Vec<_> = text.lines().filter_map(|line| symbol(line, base)).collect();
        // The first of those with the same address.
        symbols.sort_by_key(|(address, _)| *address);
        symbols.dedup_by_key(|(address, _)| *address);
        Self(symbols)
    }

    /// Those of a program that was loaded at `base`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or there is no nm.
    pub fn of_program(program: &Path, base: u64) -> Result<Self> {
        let output = Command::new("nm")
            .arg("--defined-only")
            .arg(program)
            .output()
            .context("run nm")?;
        ensure!(
            output.status.success(),
            "nm {}: {}",
            program.display(),
            output.status
        );
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout), base))
    }

    /// The function that an address is in.
    pub fn find(&self, address: u64) -> Option<&str> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        let (_, name) = self.0.get(after.checked_sub(1)?)?;
        Some(name)
    }

    /// Each function and where it begins, in the order of addresses.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.0
            .iter()
            .map(|(address, name)| (*address, name.as_str()))
    }

    /// Where the first and the last one begin; `None` if there is none.
    pub fn range(&self) -> Option<(u64, u64)> {
        let ((first, _), (last, _)) = (self.0.first()?, self.0.last()?);
        Some((*first, *last))
    }

    /// Where a function begins.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0
            .iter()
            .find_map(|(address, other)| (other == name).then_some(*address))
    }
}

/// `ffffffff81000000 T name`, maybe with the module in brackets behind it.
fn symbol(line: &str, base: u64) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    if !matches!(words.next()?, "t" | "T" | "w" | "W") {
        return None;
    }
    let name = format!("{:#}", demangle(words.next()?));
    let name = match words.next() {
        Some(module) => format!("{name} {module}"),
        None => name,
    };
    Some((base + address, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_function_before_it() {
        let text = "ffffffff81000010 T second\nffffffff81000000 t first\n\
                    ffffffff81000018 d data\nffffffffc0000000 t third\t[module]\n";
        let symbols = Symbols::parse(text, 0);
        assert_eq!(symbols.find(0xffff_ffff_80ff_ffff), None);
        assert_eq!(symbols.find(0xffff_ffff_8100_000f), Some("first"));
        assert_eq!(symbols.find(0xffff_ffff_8100_0020), Some("second"));
        assert_eq!(symbols.find(u64::MAX), Some("third [module]"));
        assert_eq!(symbols.address("second"), Some(0xffff_ffff_8100_0010));
        assert_eq!(
            Symbols::parse("10 T main\n", 0x40_0000).find(0x40_0010),
            Some("main")
        );
    }
}
