// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! The layouts and ioctl numbers that Rust sees, against those that the C
//! compiler sees (`$CC`, else `cc`; bindgen sees clang's).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs, mem};

use stopwatch_uapi::*;

/// What is compared: a C expression and the value that Rust has for it.
type Values = BTreeMap<String, u64>;

fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    mem::size_of::<F>()
}

macro_rules! structs {
    ($($name:ident { $($field:ident)* })*) => {
        fn structs() -> Vec<&'static str> {
            vec![$(stringify!($name)),*]
        }

        fn rust_values() -> Values {
            let mut values = Values::new();
            $(
                let name = concat!("struct ", stringify!($name));
                let mut end = 0;
                $(
                    // bindgen's name for a field that is a keyword of Rust.
                    let field = stringify!($field).trim_end_matches('_');
                    let offset = mem::offset_of!($name, $field);
                    let size = size_of_field(|it: &$name| &it.$field);
                    values.insert(format!("offsetof({name}, {field})"), offset as u64);
                    values.insert(format!("sizeof((({name} *)0)->{field})"), size as u64);
                    assert_eq!(offset, end, "{name} has a hole before {field}, or it is not listed here");
                    end = offset + size;
                )*
                assert_eq!(mem::size_of::<$name>(), end, "{name} has more at its end");
                values.insert(format!("sizeof({name})"), end as u64);
                values.insert(format!("_Alignof({name})"), mem::align_of::<$name>() as u64);
            )*
            values
        }
    };
}

structs! {
    stopwatch_info {
        magic version features region_size state_offset state_size rings_offset rings_size
        record_offset record_size stopwatches event_slots ring_offset ring_stride ring_slots rings
        calls lap_offset post_offset post_rings info_size reserved
    }
    stopwatch_vmm { status reset_generation }
    stopwatch_state {
        events events_lost vmm_status reset_generation paused_ns paused_since_ns epoch_ns pauses
        reserved
    }
    stopwatch_record {
        seq flags elapsed_ns base_ns lap_ns deadline_ns laps timeouts name uid mode target_ns
        interval_ns generation reserved reserved1
    }
    stopwatch_ivshmem { size backend flags }
    stopwatch_post_ring { taken bound reserved posts }
    stopwatch_request {
        owner op watch flags status arg interval stamp_ns generation reserved reserved1
    }
    stopwatch_create { owner op watch flags status name uid mode clock reserved }
    stopwatch_reply {
        owner op watch flags status elapsed_ns time_ns lap_ns deadline_ns state laps timeouts
        generation
    }
    stopwatch_event {
        owner type_ watch sequence deadline_ns time_ns timeouts count generation reserved reserved1
    }
    stopwatch_reading {
        elapsed_ns time_ns lap_ns deadline_ns state laps timeouts reserved error_ns
    }
    stopwatch_command { size op watch flags arg interval reading }
    stopwatch_creation { size flags clock mode name watch reserved }
    stopwatch_binding { size flags watch reserved }
    stopwatch_find { size flags name watch reserved }
    stopwatch_description {
        size flags watch clock record_flags uid mode state name laps timeouts target_ns deadline_ns
        interval_ns
    }
    stopwatch_laps { size flags watch first count total oldest reserved laps }
    stopwatch_device_info {
        size flags features interrupts events events_lost version stopwatches rings ring_slots
        state_size record_offset lap_offset record_size epoch_ns
    }
    stopwatch_clock_page {
        seq reserved counter_base valid_ticks time_ns mult error_ns drift pauses paused_ns
        samples
    }
    stopwatch_doorbell { set reserved }
    stopwatch_event_record {
        type_ watch sequence deadline_ns time_ns timeouts count dropped reserved
    }
    vhost_stopwatch_features { size flags features }
    vhost_stopwatch_geometry {
        size flags stopwatches rings ring_slots event_slots region_size reserved
    }
    vhost_stopwatch_fd { size flags index fd }
    vhost_stopwatch_name { size flags name }
    vhost_stopwatch_policy { size flags min_interval_ns }
    vhost_stopwatch_vm {
        size flags vm name uid pid status vmm_status stopwatches rings ring_slots event_slots
        features time_ns resets kicks requests bad_requests over_budget events events_lost paused_ns
        timed_kicks service_ns
    }
    vhost_stopwatch_command { size flags vm op watch clock mode name reading }
    vhost_stopwatch_description { size reserved vm description }
    vhost_stopwatch_laps { size reserved vm laps }
}

macro_rules! constants {
    ($($name:ident)*) => {
        fn rust_constants() -> Values {
            Values::from([$((stringify!($name).to_string(), u64::from($name))),*])
        }
    };
}

// Those that clang had to evaluate, and one of each other form.
constants! {
    STOPWATCH_IOC_COMMAND STOPWATCH_IOC_CREATE STOPWATCH_IOC_FIND STOPWATCH_IOC_DESCRIBE
    STOPWATCH_IOC_LAPS STOPWATCH_IOC_INFO STOPWATCH_IOC_BIND STOPWATCH_IOC_DOORBELL
    VHOST_STOPWATCH_GET_FEATURES VHOST_STOPWATCH_SET_FEATURES
    VHOST_STOPWATCH_SET_GEOMETRY VHOST_STOPWATCH_SET_REGION VHOST_STOPWATCH_SET_KICK
    VHOST_STOPWATCH_SET_CALL VHOST_STOPWATCH_SET_NAME VHOST_STOPWATCH_SET_POLICY
    VHOST_STOPWATCH_START VHOST_STOPWATCH_STOP VHOST_STOPWATCH_GET_VM VHOST_STOPWATCH_COMMAND
    VHOST_STOPWATCH_DESCRIBE VHOST_STOPWATCH_LAPS
    STOPWATCH_IVSHMEM_PCI_DEVICE_ID STOPWATCH_IVSHMEM_REG_DOORBELL STOPWATCH_IVSHMEM_PAUSES
    STOPWATCH_MAGIC STOPWATCH_F_TIMEOUT STOPWATCH_OWNER_DONE STOPWATCH_MAX_TIMEOUT_NS
}

const HEADERS: [&str; 4] = [
    "stopwatch_device.h",
    "stopwatch_ivshmem.h",
    "stopwatch.h",
    "vhost_stopwatch.h",
];

fn include() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../include/uapi"))
}

/// Has a C program print the values of the expressions.
fn c_values<'a>(expressions: impl Iterator<Item = &'a String>) -> Values {
    let mut source = String::from("#include <stddef.h>\n#include <stdio.h>\n");
    for header in HEADERS {
        writeln!(source, "#include <linux/{header}>").unwrap();
    }
    source += "#define P(x) printf(\"%s\\t%llu\\n\", #x, (unsigned long long)(x))\n";
    source += "int main(void)\n{\n";
    for expression in expressions {
        writeln!(source, "\tP({expression});").unwrap();
    }
    source += "\treturn 0;\n}\n";

    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (c, program) = (dir.join("layout.c"), dir.join("layout"));
    fs::write(&c, source).unwrap();
    let cc = env::var("CC").unwrap_or_else(|_| "cc".into());
    let compiled = Command::new(&cc)
        .args(["-Wall", "-Werror", "-I"])
        .arg(include())
        .args([&c, Path::new("-o"), &program])
        .status()
        .unwrap_or_else(|error| panic!("cannot run the C compiler {cc}: {error}; set CC"));
    assert!(compiled.success(), "{cc} does not compile {}", c.display());
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (expression, value) = line.split_once('\t').unwrap();
            (expression.to_string(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn c_and_rust_agree() {
    let mut rust = rust_values();
    rust.append(&mut rust_constants());
    let c = c_values(rust.keys());
    assert_eq!(c, rust);
}

#[test]
fn no_struct_and_no_ioctl_is_forgotten() {
    let (structs, constants) = (structs(), rust_constants());
    for header in HEADERS {
        let text = fs::read_to_string(include().join("linux").join(header)).unwrap();
        for line in text.lines() {
            if let Some(name) = line
                .strip_prefix("struct ")
                .and_then(|rest| rest.strip_suffix(" {"))
            {
                assert!(
                    structs.contains(&name),
                    "{header}: struct {name} is not listed"
                );
            }
            let mut words = line.split_whitespace();
            if let (Some("#define"), Some(name), Some(value)) =
                (words.next(), words.next(), words.next())
            {
                let ioctl = value.starts_with("_IO(");
                assert!(
                    !ioctl || constants.contains_key(name),
                    "{header}: {name} is not listed"
                );
            }
        }
    }
}
