//! Files of a directory. An input is a request for one: its head, with or without CR before LF.
//!
//! Whatever is asked for and however it is spelled: what comes is a file of the directory, whole
//! or the part that the answer says, and nothing that lies outside or is hidden; every file can
//! be had; the answer's head is well formed.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use fullduplex::engine::plain::{Reply, ReplyBody};
use fullduplex::protocol::http::{self, Request, RequestReader, check_header_lines};
use fullduplex::server::files::Files;
use fullduplex_fuzz::response::Response;
use fullduplex_fuzz::splits;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some(request) = request(input) else { return };
    for (prefix, files) in &SITE.files {
        let path = request.path();
        let rest = path.strip_prefix(prefix).or((path == prefix.trim_end_matches('/')).then_some(""));
        let reply = files.answer(&request);
        assert_eq!(reply.is_some(), rest.is_some(), "{path} is under {prefix}, or not");
        if let (Some(reply), Some(rest)) = (reply, rest) {
            check(&request, rest, path.starts_with(prefix), reply);
        }
    }
});

fn request(input: &[u8]) -> Option<Request> {
    let text: String = input.iter().map(|&byte| char::from(byte)).collect();
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    let head: Vec<u8> = text.trim_end_matches("\r\n").chars().map(|char| char as u8).collect();
    let head = [&head, &b"\r\n\r\n"[..]].concat();
    RequestReader::default().receive(&head, 16 * 1024).ok()?.map(|(request, _)| request)
}

/// `rest` is what follows the prefix.
fn check(request: &Request, rest: &str, has_slash: bool, reply: Reply) {
    check_header_lines(&reply.headers, &["Content-Length", "Connection"]).expect("lines for an answer");
    let head =
        http::response_head(reply.status, &reply.headers, "close", reply.len).expect("there is memory");
    let response = Response::read(&head).expect("a head is whole");
    assert_eq!((response.head_len, response.status), (head.len(), reply.status));
    let (status, len) = (reply.status, reply.len);
    let body = body(reply);
    if let Some(body) = &body {
        assert_eq!(body.len() as u64, len, "a body is as long as it says");
        assert!(!contains(body, SECRET), "what lies outside");
    }
    assert!(!contains(&head, SECRET));
    let is_head = request.method() == b"HEAD";
    if request.method() != b"GET" && !is_head {
        assert_eq!((status, response.header("allow")), (405, Some(&b"GET, HEAD"[..])));
        return;
    }
    assert_eq!(body.is_none(), is_head || status == 304);
    let folder = names(rest).is_some_and(|names| SITE.folders.contains(&names));
    if status == 301 {
        assert!(!has_slash || folder && !rest.ends_with('/'), "{rest} is no folder");
        // Beneath the folder of what was asked for, and so on this server.
        let location =
            std::str::from_utf8(response.header("location").expect("it says where")).expect("text");
        let target = location.split('?').next().unwrap_or_default();
        let name = target.strip_prefix("./").and_then(|rest| rest.strip_suffix('/'));
        assert!(name.is_some_and(|name| !name.contains('/') && request.path().ends_with(name)), "{location}");
        return;
    }
    assert!(has_slash && !folder, "{rest} gets its slash");
    let page = if rest.is_empty() || rest.ends_with('/') { format!("{rest}index.html") } else { rest.into() };
    let content = names(&page).and_then(|names| SITE.contents.get(&names));
    let Some(content) = content else {
        assert_eq!(status, 404, "{rest} is nothing that is served");
        return;
    };
    let content = content.as_bytes();
    let range = response.header("content-range").map(|range| std::str::from_utf8(range).expect("ASCII"));
    match status {
        200 if is_head => assert_eq!(len, content.len() as u64),
        200 => assert!(body.is_some_and(|body| body == content), "{rest} is another file"),
        206 => {
            let (part, whole) = range.expect("it says which").split_once('/').expect("a range of the whole");
            let (first, last) = part.strip_prefix("bytes ").expect("bytes").split_once('-').expect("a range");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            assert_eq!(number(whole), content.len());
            assert!(!is_head && request.header("range").is_some());
            assert_eq!(body.as_deref(), Some(&content[number(first)..=number(last)]), "{part} of {rest}");
        }
        304 => {
            assert_eq!(len, content.len() as u64);
            assert!(request.header("if-none-match").or(request.header("if-modified-since")).is_some());
        }
        412 => assert!(request.header("if-match").or(request.header("if-unmodified-since")).is_some()),
        416 => {
            assert_eq!(range, Some(format!("bytes */{}", content.len()).as_str()));
            assert!(!is_head && request.header("range").is_some());
        }
        _ => panic!("{status} for {rest}"),
    }
    if matches!(status, 200 | 206 | 304 | 412) {
        let tag = format!("\"{:x}-{:x}\"", MODIFIED.as_nanos(), content.len());
        assert_eq!(response.header("etag"), Some(tag.as_bytes()));
    }
    assert_eq!(range.is_some(), matches!(status, 206 | 416));
}

fn body(reply: Reply) -> Option<Vec<u8>> {
    match reply.body {
        ReplyBody::None => None,
        ReplyBody::Bytes(bytes) => Some(bytes.as_slice().to_vec()),
        ReplyBody::Reader(mut reader) => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).expect("the file is as it was");
            Some(bytes)
        }
    }
}

/// The names that a path is made of, if each is text: `%41` is A, what is no code is itself.
fn names(path: &str) -> Option<Vec<String>> {
    let decode = |encoded: &str| {
        let mut bytes = Vec::new();
        let mut rest = encoded.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let digit = |place: usize| after.get(place).and_then(|&digit| char::from(digit).to_digit(16));
            let (byte, after) = match (first, digit(0), digit(1)) {
                (b'%', Some(high), Some(low)) => ((high * 16 + low) as u8, &after[2..]),
                _ => (first, after),
            };
            bytes.push(byte);
            rest = after;
        }
        String::from_utf8(bytes).ok()
    };
    path.split('/').map(decode).collect()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

static SITE: LazyLock<Site> = LazyLock::new(Site::new);

struct Site {
    files: Vec<(&'static str, Files)>,
    /// By the names that lead there, links included.
    contents: BTreeMap<Vec<String>, &'static str>,
    folders: Vec<Vec<String>>,
}

impl Site {
    fn new() -> Self {
        let names = |path: &str| path.split('/').map(str::to_string).collect::<Vec<_>>();
        let directory = made_once();
        let open = |prefix| (prefix, Files::open(prefix, &directory).expect("it was made"));
        let linked = FILES.iter().filter_map(|(path, content)| {
            Some((names(&format!("linked/{}", path.strip_prefix("folder/")?)), *content))
        });
        let contents = FILES.iter().map(|(path, content)| (names(path), *content));
        let back = ["folder/back", "linked/back"].map(|path| (names(path), FILES[0].1));
        Self {
            files: vec![open("/"), open("/files/")],
            contents: contents.chain(linked).chain(back).collect(),
            folders: ["folder", "folder/deep", "linked", "linked/deep", "bare"].map(names).to_vec(),
        }
    }
}

/// Beside the program, and the same for all that run at once.
fn made_once() -> PathBuf {
    let program = std::env::current_exe().expect("it runs");
    let kept = program.with_file_name(format!("served-{:x}", splits::hash(SOURCE)));
    if !kept.exists() {
        let fresh = kept.with_extension(std::process::id().to_string());
        make(&fresh);
        // Whoever comes second has made the same.
        if fs::rename(&fresh, &kept).is_err() {
            fs::remove_dir_all(&fresh).expect("it is ours");
        }
    }
    kept.join("site")
}

fn make(parent: &Path) {
    let site = parent.join("site");
    let write = |path: &Path, content: &str| {
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("there is room");
        fs::write(path, content).expect("there is room");
        let file = fs::File::options().write(true).open(path).expect("it was written");
        file.set_modified(UNIX_EPOCH + MODIFIED).expect("its time can be set");
    };
    for (path, content) in FILES {
        write(&site.join(path), content);
    }
    write(&parent.join("secret"), SECRET);
    // With such names nothing is served.
    for path in [".hidden", "folder/.hidden", ".git/config", "back\\slash", "line\nbreak", "bare/.index.html"]
    {
        write(&site.join(path), SECRET);
    }
    // The first two stay inside.
    for (target, path) in [
        ("folder", "linked"),
        ("../index.html", "folder/back"),
        ("../secret", "out"),
        ("..", "up"),
        ("../..", "folder/up"),
        ("../site/index.html", "out-and-in"),
        ("/proc/self/root", "root"),
        ("/proc/self/cwd", "here"),
        ("round", "round"),
        ("none", "dangling"),
    ] {
        symlink(target, site.join(path)).expect("links can be made");
    }
}

const SECRET: &str = "what lies outside";
const SOURCE: &[u8] = include_bytes!("files.rs");
/// Sun, 09 Sep 2001 01:46:40 GMT
const MODIFIED: Duration = Duration::from_secs(1_000_000_000);

const FILES: [(&str, &str); 8] = [
    ("index.html", "<!doctype html>"),
    ("digits", "0123456789"),
    ("empty", ""),
    ("a b", "blank"),
    ("a+b%", "signs"),
    ("ä", "a letter of two bytes"),
    ("folder/index.html", "the page of a folder"),
    ("folder/deep/x.js", "let x;"),
];
