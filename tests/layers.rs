//! The arrows of ARCHITECTURE.md: who may use whom, what the pure layers must not touch, and
//! where `unsafe` may stand. Read from the sources, so that no arrow turns unnoticed.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with those it may use besides itself, bottom-up.
const LAYERS: [(&str, &[&str]); 10] = [
    ("id", &[]),
    ("buffer", &[]),
    ("protocol", &["id", "buffer"]),
    ("tls", &[]),
    ("config", &["id", "protocol", "tls"]),
    ("backplane", &["buffer", "protocol", "config"]),
    ("driver", &["id", "buffer", "config"]),
    ("engine", &["id", "buffer", "protocol", "tls", "config", "driver"]),
    ("server", &["id", "buffer", "protocol", "tls", "config", "backplane", "driver", "engine"]),
    ("ffi", &["id", "buffer", "protocol", "tls", "config", "backplane", "driver", "engine", "server"]),
];

/// What the engine knows of drivers: the contract, and the outbox whose slices it hands them.
const DRIVER_CONTRACT: [&str; 8] =
    ["Accepted", "Completion", "Driver", "Endpoint", "SENDS_MAX", "Sends", "Sent", "outbox"];

#[test]
fn no_layer_uses_one_above_it() {
    for source in sources() {
        let Some(layer) = source.layer() else { continue };
        let (_, allowed) = LAYERS.iter().find(|(name, _)| *name == layer).unwrap_or_else(|| {
            panic!("where does the layer {layer:?} stand? Give it its place in this test")
        });
        for used in source.uses() {
            let other = used.split("::").next().expect("a path has a first part");
            let is_allowed = other == layer || allowed.contains(&other);
            assert!(is_allowed, "{source:?} uses crate::{used}, and {layer} must not know {other}");
        }
        assert!(!source.code.contains("super::super::"), "{source:?} leaves its layer by super::super");
    }
}

#[test]
fn the_engine_knows_drivers_only_by_their_contract() {
    for source in sources().iter().filter(|source| source.layer().as_deref() == Some("engine")) {
        for used in source.uses().iter().filter_map(|used| used.strip_prefix("driver::")) {
            let word = used.split("::").next().expect("a path has a first part");
            assert!(DRIVER_CONTRACT.contains(&word), "{source:?} uses crate::driver::{used}");
        }
    }
}

#[test]
fn the_pure_layers_have_no_socket_no_clock_and_no_thread() {
    for source in sources() {
        if !matches!(source.layer().as_deref(), Some("protocol" | "tls" | "engine")) {
            continue;
        }
        for impure in [
            "std::thread",
            "std::fs",
            "std::env",
            "std::process",
            "Instant",
            "SystemTime",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "ToSocketAddrs",
            "socket2::",
            "mio::",
            "libc::",
        ] {
            assert!(!source.code.contains(impure), "{source:?} uses {impure}");
        }
    }
}

#[test]
fn unsafe_code_stays_inside_its_fences() {
    for source in sources() {
        let is_fenced =
            source.layer().as_deref() == Some("ffi") || source.path == Path::new("driver/uring.rs");
        let words = source.code.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(
            is_fenced || !words.into_iter().any(|word| word == "unsafe"),
            "{source:?} is outside of src/ffi and src/driver/uring.rs"
        );
    }
    let all = sources();
    let openings = |path: &str| {
        let source = all.iter().find(|source| source.path == Path::new(path)).expect("it is there");
        source.code.matches("allow(unsafe_code)").count()
    };
    assert!(
        all.iter().any(|source| source.layer().is_none() && source.code.contains("#![deny(unsafe_code)]"))
    );
    assert_eq!((openings("lib.rs"), openings("driver/mod.rs")), (1, 1), "one for ffi, one for uring");
    assert_eq!(all.iter().map(|source| source.code.matches("allow(unsafe_code)").count()).sum::<usize>(), 2);
}

#[test]
fn every_file_begins_by_saying_what_it_owns() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{source:?} has no file doc");
    }
}

/// A file under src/.
struct Source {
    /// From src/ on.
    path: PathBuf,
    text: String,
    /// The text without comments.
    code: String,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "src/{}", self.path.display())
    }
}

impl Source {
    /// `None` for the root, which knows all of them.
    fn layer(&self) -> Option<String> {
        let first = self.path.iter().next()?.to_str()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (name != "lib").then(|| name.to_string())
    }

    /// Every path that begins with `crate::`, without it; a group in braces is taken apart.
    fn uses(&self) -> Vec<String> {
        let mut found = Vec::new();
        for after in self.code.split("crate::").skip(1) {
            let end =
                after.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(after.len());
            let (path, rest) = after.split_at(end);
            match rest.strip_prefix('{').and_then(|group| group.split_once('}')) {
                // One level tells the layer and its module, and that is all that is asked.
                Some((group, _)) if path.is_empty() || path.ends_with("::") => {
                    found.extend(group.split(',').map(|item| format!("{path}{}", item.trim())));
                }
                _ => found.push(path.to_string()),
            }
        }
        found.retain(|path| !path.ends_with("::"));
        found
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source is text");
                let code = text
                    .lines()
                    .map(|line| line.split("//").next().unwrap_or(""))
                    .collect::<Vec<_>>()
                    .join("\n");
                let path = path.strip_prefix(root()).expect("it lies there").to_path_buf();
                sources.push(Source { path, text, code });
            }
        }
    }
    assert!(sources.len() > 30, "the sources are found");
    sources
}
