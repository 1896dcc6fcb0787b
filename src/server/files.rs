//! Files of a directory, as answers to plain HTTP requests (RFC 9110).
//!
//! The path is decoded once and taken apart here, and only names that can mean nothing but a
//! file or folder pass. What then lies where, symbolic links included, the kernel resolves
//! beneath an open directory in the same step that opens the file (cap-std); its type, length
//! and time are asked of the open file. So there is nothing to change between check and use.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_fs_ext::{OpenOptionsMaybeDirExt, OpenOptionsSyncExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};
use log::warn;
use percent_encoding::percent_decode_str;

use crate::engine::plain::{Reply, ReplyBody};
use crate::protocol::http::Request;

/// A directory whose files are served under a prefix of the path. `/` at the end stands for
/// `index.html`; folders are not listed; names that begin with a dot are not served.
pub struct Files {
    prefix: String,
    directory: Dir,
}

impl Files {
    /// `prefix` begins and ends with a slash, as `StaticFiles` checks. The directory stays the
    /// same one when it is renamed or another gets its name.
    pub fn open(prefix: &str, directory: &Path) -> io::Result<Self> {
        let directory = Dir::open_ambient_dir(directory, ambient_authority()).map_err(|error| {
            let text = format!("can't serve files of \"{}\": {error}", directory.display());
            io::Error::new(error.kind(), text)
        })?;
        Ok(Self { prefix: prefix.to_string(), directory })
    }

    /// The answer, if the path is under the prefix.
    pub fn answer(&self, request: &Request) -> Option<Reply> {
        let path = request.path();
        let is_prefix_unslashed = self.prefix.strip_suffix('/') == Some(path);
        let rest = if is_prefix_unslashed { "" } else { path.strip_prefix(&self.prefix)? };
        let is_head = request.method() == b"HEAD";
        let mut reply = if request.method() != b"GET" && !is_head {
            text(405, "Allow: GET, HEAD\r\n", "here are files: only GET and HEAD")
        } else if is_prefix_unslashed {
            add_slash(request)
        } else {
            self.find(rest)
                .and_then(|found| match found {
                    Found::File(file) => file.answer(request),
                    Found::Folder => Ok(add_slash(request)),
                })
                .unwrap_or_else(|error| for_error(&error, path))
        };
        if is_head {
            reply.body = ReplyBody::None;
        }
        Some(reply)
    }

    /// `rest` is what follows the prefix, as it came.
    fn find(&self, rest: &str) -> io::Result<Found> {
        let is_folder = rest.is_empty() || rest.ends_with('/');
        let encoded = if is_folder { Cow::Owned(format!("{rest}{INDEX}")) } else { Cow::Borrowed(rest) };
        let names: Option<Vec<_>> = encoded.split('/').map(decode_name).collect();
        let path = names.ok_or(io::ErrorKind::NotFound)?.join("/");
        let mut options = OpenOptions::new();
        // To open a pipe waits for its writer, unless told not to.
        options.read(true).nonblock(true).maybe_dir(true);
        let file = self.directory.open_with(&path, &options)?.into_std();
        let metadata = file.metadata()?;
        if metadata.is_file() {
            let (len, modified) = (metadata.len(), metadata.modified()?);
            Ok(Found::File(File { file, content_type: content_type(&path), len, modified }))
        } else if metadata.is_dir() && !is_folder {
            Ok(Found::Folder)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

enum Found {
    File(File),
    /// Its path lacks the slash at the end, without which relative links in its page go wrong.
    Folder,
}

/// An open file of the directory.
struct File {
    file: fs::File,
    content_type: String,
    len: u64,
    modified: SystemTime,
}

impl File {
    /// Conditions in the order of RFC 9110, 13.2.2.
    fn answer(self, request: &Request) -> io::Result<Reply> {
        let tag = entity_tag(self.modified, self.len);
        let last_modified = last_modified(self.modified);
        let mut validators = format!("ETag: {tag}\r\n");
        if let Some(date) = &last_modified {
            let _ = write!(validators, "Last-Modified: {date}\r\n");
        }
        if self.fails_precondition(request, &tag) {
            return Ok(text(412, &validators, "the file is another one now"));
        }
        if self.is_known(request, &tag) {
            return Ok(Reply { len: self.len, ..bare(304, &validators) });
        }
        let mut headers =
            format!("Content-Type: {}\r\nAccept-Ranges: bytes\r\n{validators}", self.content_type);
        // "If the validator does not match, the server … SHOULD ignore the Range header field"
        // (RFC 9110, 13.1.5). A weak tag never matches here: parts of two files would be joined.
        let is_range_valid = request.header("if-range").is_none_or(|validator| {
            validator == tag.as_bytes() || last_modified.is_some_and(|date| validator == date.as_bytes())
        });
        let len = self.len;
        let range = if is_range_valid { Range::parse(request, len) } else { Range::Whole };
        match range {
            Range::Whole => self.reply(200, &headers, 0, len),
            Range::Part { first, last } => {
                let _ = write!(headers, "Content-Range: bytes {first}-{last}/{len}\r\n");
                self.reply(206, &headers, first, last - first + 1)
            }
            Range::Outside => {
                let headers = format!("Content-Range: bytes */{len}\r\n");
                Ok(text(416, &headers, "the file is not that long"))
            }
        }
    }

    /// Does the request depend on a file that this is not?
    fn fails_precondition(&self, request: &Request, tag: &str) -> bool {
        if request.header("if-match").is_some() {
            !request.list("if-match").any(|known| known == b"*" || known == tag.as_bytes())
        } else {
            date(request, "if-unmodified-since").is_some_and(|date| !self.is_unmodified_since(date))
        }
    }

    /// Does the client have this very file?
    fn is_known(&self, request: &Request, tag: &str) -> bool {
        // "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match
        // header field" (RFC 9110, 13.1.3). Tags are compared weakly.
        if request.header("if-none-match").is_some() {
            request
                .list("if-none-match")
                .any(|known| known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes())
        } else {
            date(request, "if-modified-since").is_some_and(|date| self.is_unmodified_since(date))
        }
    }

    /// Dates of HTTP have no parts of a second.
    fn is_unmodified_since(&self, date: SystemTime) -> bool {
        self.modified < date + Duration::from_secs(1)
    }

    fn reply(mut self, status: u16, headers: &str, first: u64, len: u64) -> io::Result<Reply> {
        self.file.seek(SeekFrom::Start(first))?;
        let body = Piece { file: self.file, left: len };
        Ok(Reply { len, body: ReplyBody::Reader(Box::new(body)), ..bare(status, headers) })
    }
}

/// What a client wants of a file.
enum Range {
    Whole,
    Part { first: u64, last: u64 },
    Outside,
}

impl Range {
    fn parse(request: &Request, len: u64) -> Self {
        // "A server MUST ignore a Range header field received with a request method … for which
        // range handling is not defined … GET is the only method" (RFC 9110, 14.2); it "MAY
        // ignore" any, and what is malformed or wants several parts is ignored.
        let mut wanted = request.list("range");
        let (Some(wanted), None, b"GET") = (wanted.next(), wanted.next(), request.method()) else {
            return Self::Whole;
        };
        let Ok(wanted) = std::str::from_utf8(wanted) else { return Self::Whole };
        match parse_range_header(wanted).and_then(|range| range.validate(len)).as_deref() {
            Ok([part]) => Self::Part { first: *part.start(), last: *part.end() },
            Err(RangeUnsatisfiableError::Unsatisfiable) => Self::Outside,
            Ok(_) | Err(_) => Self::Whole,
        }
    }
}

/// What is still to be read of a file. A file that has grown gives no more than was promised;
/// one that has shrunk is an error, since the length was told already.
struct Piece {
    file: fs::File,
    left: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..len])?;
        if read == 0 && len > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn bare(status: u16, headers: &str) -> Reply {
    // "no-cache": kept, but asked for each time, which an entity tag makes cheap.
    let headers = format!(
        "Date: {}\r\nCache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n{headers}",
        httpdate::fmt_http_date(SystemTime::now())
    );
    Reply { status, headers, len: 0, body: ReplyBody::None }
}

fn text(status: u16, headers: &str, text: &str) -> Reply {
    let bare = bare(status, headers);
    Reply::text(status, &bare.headers, &format!("{text}\n"))
}

/// To the same path with a slash at its end. Relative and begun with `./`, the location can lead
/// to no other server, whatever the name, and is right behind a proxy that cuts the path.
fn add_slash(request: &Request) -> Reply {
    let name = request.path().rsplit('/').next().unwrap_or_default();
    let mut location = format!("./{name}/");
    if !request.query().is_empty() {
        let _ = write!(location, "?{}", String::from_utf8_lossy(request.query()));
    }
    text(301, &format!("Location: {location}\r\n"), "this is a folder: its path ends with a slash")
}

/// Whatever the directory does not have or must not give is alike to the client.
fn for_error(error: &io::Error, path: &str) -> Reply {
    if !is_trouble(error) {
        return text(404, "", "nothing is here");
    }
    warn!(target: "fullduplex::files", "can't read {path}: {error}");
    text(503, "Retry-After: 1\r\n", "the file can't be read now")
}

/// Is it the system that fails, and not the path?
fn is_trouble(error: &io::Error) -> bool {
    let codes = [libc::EIO, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    cfg!(unix) && error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// The name of one file or folder, if it can be only that.
fn decode_name(encoded: &str) -> Option<Cow<'_, str>> {
    let name = percent_decode_str(encoded).decode_utf8().ok()?;
    // A dot begins what is hidden, `.` and `..`.
    let is_hidden = name.is_empty() || name.starts_with('.');
    let is_path = name.contains(|c: char| c.is_control() || c == '/' || c == '\\');
    // There a colon begins a second stream or follows a drive, `GIT~1` can be another name of
    // `.git`, and dots and blanks at the end are dropped.
    let is_alias = cfg!(windows) && (name.contains([':', '~']) || name.ends_with(['.', ' ']));
    (!is_hidden && !is_path && !is_alias).then_some(name)
}

fn content_type(path: &str) -> String {
    let kind = mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream");
    if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.to_string() }
}

/// File systems count in nanoseconds, so that it is a strong one.
fn entity_tag(modified: SystemTime, len: u64) -> String {
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_else(|before| before.duration());
    format!("\"{:x}-{len:x}\"", since.as_nanos())
}

/// "An origin server with a clock … MUST NOT generate a Last-Modified date that is later than
/// the server's time of message origination" (RFC 9110, 8.8.2.1); times before 1970 have no form
/// in httpdate.
fn last_modified(modified: SystemTime) -> Option<String> {
    (UNIX_EPOCH <= modified && modified <= SystemTime::now()).then(|| httpdate::fmt_http_date(modified))
}

/// "A recipient MUST ignore the … header field if the received field value is not a valid
/// HTTP-date" (RFC 9110, 13.1.3).
fn date(request: &Request, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(request.header(name)?).ok()?).ok()
}

/// The page of a folder.
const INDEX: &str = "index.html";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;
    use crate::protocol::http::{RequestReader, check_header_lines};

    const SECRET: &str = "what lies outside";

    /// A directory to serve, with a secret beside it.
    struct Site {
        parent: TempDir,
        prefix: &'static str,
    }

    impl Site {
        fn new(prefix: &'static str) -> Self {
            let parent = TempDir::new().unwrap();
            fs::create_dir(parent.path().join("site")).unwrap();
            fs::write(parent.path().join("secret"), SECRET).unwrap();
            Self { parent, prefix }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.parent.path().join("site").join(name)
        }

        fn with(self, name: &str, content: &str) -> Self {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            self
        }

        fn set_modified(&self, name: &str, time: SystemTime) {
            fs::File::options().write(true).open(self.path(name)).unwrap().set_modified(time).unwrap();
        }

        fn files(&self) -> Files {
            Files::open(self.prefix, &self.parent.path().join("site")).unwrap()
        }

        fn reply(&self, method: &str, target: &str, headers: &str) -> Option<Reply> {
            self.files().answer(&request(method, target, headers))
        }

        fn get(&self, target: &str) -> Seen {
            self.get_with(target, "")
        }

        /// `headers` are lines ended by CR LF.
        fn get_with(&self, target: &str, headers: &str) -> Seen {
            self.reply("GET", target, headers).expect("under the prefix").into()
        }
    }

    fn request(method: &str, target: &str, headers: &str) -> Request {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        RequestReader::default().receive(head.as_bytes(), 16 * 1024).unwrap().expect("whole").0
    }

    /// A reply as a client sees it.
    #[derive(Debug)]
    struct Seen {
        status: u16,
        headers: BTreeMap<String, String>,
        len: u64,
        body: Option<String>,
    }

    impl From<Reply> for Seen {
        fn from(reply: Reply) -> Self {
            check_header_lines(&reply.headers, &["Content-Length", "Connection"]).unwrap();
            let lines: Vec<_> = reply.headers.lines().map(|line| line.split_once(": ").unwrap()).collect();
            let headers: BTreeMap<_, _> =
                lines.iter().map(|(name, value)| (name.to_lowercase(), value.to_string())).collect();
            assert_eq!(headers.len(), lines.len(), "no header twice: {headers:?}");
            for name in ["date", "cache-control", "x-content-type-options"] {
                assert!(headers.contains_key(name), "{name} in {headers:?}");
            }
            let text = match reply.body {
                ReplyBody::None => None,
                ReplyBody::Bytes(bytes) => Some(String::from_utf8(bytes.as_slice().to_vec()).unwrap()),
                ReplyBody::Reader(mut reader) => {
                    let mut text = String::new();
                    reader.read_to_string(&mut text).unwrap();
                    Some(text)
                }
            };
            let body = text.inspect(|text| {
                assert_eq!(text.len() as u64, reply.len, "a body is as long as it says");
            });
            Self { status: reply.status, headers, len: reply.len, body }
        }
    }

    impl Seen {
        fn header(&self, name: &str) -> Option<&str> {
            self.headers.get(name).map(String::as_str)
        }

        fn etag(&self) -> &str {
            self.header("etag").expect("a file has a tag")
        }

        fn text(&self) -> &str {
            self.body.as_deref().unwrap_or_default()
        }
    }

    #[test]
    fn a_file_is_served_under_the_prefix_and_nowhere_else() {
        let site = Site::new("/assets/").with("a/b.txt", "hello");
        let seen = site.get("/assets/a/b.txt?v=3");
        assert_eq!((seen.status, seen.len, seen.text()), (200, 5, "hello"));
        assert_eq!(seen.header("accept-ranges"), Some("bytes"));
        assert_eq!(site.get("http://h/assets/a/b.txt").text(), "hello", "an absolute target");
        for other in ["/a/b.txt", "/", "/assetsa/b.txt", "/x/assets/a/b.txt", "//assets/a/b.txt"] {
            assert!(site.reply("GET", other, "").is_none(), "{other}");
        }
        assert_eq!(site.get("/assets/none").status, 404);
        assert_eq!(site.get("/assets/a//b.txt").status, 404, "no second path to one file");
        assert_eq!(site.get("/assets/a/b.txt/").status, 404, "a file is no folder");
        assert_eq!(site.get("/assets/a/b.txt/c").status, 404);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_when_it_is_opened() {
        let site = Site::new("/").with("file", "");
        for name in ["none", "file"] {
            let error = Files::open("/", &site.path(name)).err().expect("no directory").to_string();
            assert!(error.contains(site.path(name).to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn head_is_answered_like_get_without_the_body() {
        let site = Site::new("/").with("a.txt", "hello");
        for target in ["/a.txt", "/none"] {
            let (get, head) = (site.get(target), Seen::from(site.reply("HEAD", target, "").unwrap()));
            assert_eq!(
                (head.status, head.len, head.body.as_deref()),
                (get.status, get.len, None),
                "{target}"
            );
            assert_eq!(head.header("etag"), get.header("etag"));
        }
    }

    #[test]
    fn other_methods_are_told_which_are_allowed() {
        let site = Site::new("/").with("a.txt", "hello");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            let seen = Seen::from(site.reply(method, "/a.txt", "").unwrap());
            assert_eq!((seen.status, seen.header("allow")), (405, Some("GET, HEAD")), "{method}");
        }
    }

    #[test]
    fn a_file_has_the_type_of_its_ending_and_text_is_utf_8() {
        for (name, content_type) in [
            ("a.html", "text/html; charset=utf-8"),
            ("a.JS", "text/javascript; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.wasm", "application/wasm"),
            ("a.svg", "image/svg+xml"),
            ("a.tar.gz", "application/gzip"),
            ("a", "application/octet-stream"),
            ("a.unknown", "application/octet-stream"),
        ] {
            let site = Site::new("/").with(name, "x");
            let seen = site.get(&format!("/{name}"));
            assert_eq!(seen.header("content-type"), Some(content_type), "{name}");
            assert_eq!(seen.header("x-content-type-options"), Some("nosniff"));
        }
    }

    #[test]
    fn a_folder_is_its_index_page() {
        let site = Site::new("/").with("index.html", "root").with("a/index.html", "a").with("b/page", "b");
        assert_eq!(site.get("/").text(), "root");
        assert_eq!(site.get("/").header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(site.get("/a/").text(), "a");
        assert_eq!(site.get("/b/").status, 404, "folders are not listed");
        fs::create_dir(site.path("b/index.html")).unwrap();
        assert_eq!(site.get("/b/").status, 404, "an index that is a folder");
    }

    #[test]
    fn a_folder_without_its_slash_is_redirected_with_its_query() {
        let site = Site::new("/x/").with("a/b c/index.html", "").with("c:d/index.html", "");
        for (target, location) in [
            ("/x/a", "./a/"),
            ("/x/a?q=1&r=%2F", "./a/?q=1&r=%2F"),
            ("/x/a/b%20c", "./b%20c/"),
            ("http://h/x/a", "./a/"),
            ("/x/c:d", "./c:d/"),
            ("/x", "./x/"),
            ("/x?q", "./x/?q"),
        ] {
            let seen = site.get(target);
            assert_eq!((seen.status, seen.header("location")), (301, Some(location)), "{target}");
        }
    }

    #[test]
    fn a_redirect_never_leads_to_another_server() {
        let site = Site::new("/").with("evil.example/index.html", "");
        for start in ["//", "///", "/\\", "/%2f", "/%5c", "/.//", "/%2e//", "/x/..//"] {
            let seen = site.get(&format!("{start}evil.example"));
            assert_eq!((seen.status, seen.header("location")), (404, None), "{start}");
        }
        assert_eq!(site.get("http://h//evil.example").status, 404);
        assert_eq!(site.get("/evil.example").header("location"), Some("./evil.example/"));
    }

    #[test]
    fn names_that_begin_with_a_dot_are_not_served() {
        let site = Site::new("/").with(".env", SECRET).with(".git/config", SECRET).with("a/.b/c", SECRET);
        for target in ["/.env", "/%2eenv", "/.git/config", "/.git", "/.git/", "/a/.b/c", "/a/%2Eb/c"] {
            assert_eq!(site.get(target).status, 404, "{target}");
        }
    }

    #[test]
    fn a_prefix_may_have_a_dot_where_its_directory_has_none() {
        let site = Site::new("/.well-known/").with("security.txt", "x");
        assert_eq!(site.get("/.well-known/security.txt").status, 200);
    }

    #[test]
    fn a_name_is_decoded_once() {
        let site = Site::new("/").with("a b", "blank").with("ä%20%zz", "percent").with("a+b", "plus");
        assert_eq!(site.get("/a%20b").text(), "blank");
        assert_eq!(site.get("/%61%20%62").text(), "blank");
        assert_eq!(site.get("/%C3%a4%2520%25zz").text(), "percent");
        assert_eq!(site.get("/%C3%a4%2520%zz").text(), "percent", "no code, no decoding");
        assert_eq!(site.get("/a+b").text(), "plus");
        assert_eq!(site.get("/a%2520b").status, 404);
        for no_text in ["/%ff", "/a%C3", "/%ed%a0%80", "/%c0%ae%c0%ae/secret"] {
            assert_eq!(site.get(no_text).status, 404, "{no_text}");
        }
    }

    #[test]
    fn no_spelling_of_a_path_leads_out_of_the_directory() {
        let site = Site::new("/").with("a/page", "page");
        let absolute = site.parent.path().join("secret");
        let absolute = absolute.to_str().unwrap();
        for target in [
            format!("/{absolute}"),
            absolute.to_string(),
            format!("/{}", absolute.replace('/', "%2f")),
            "/a/page%00/../../../secret".to_string(),
            "/..%c0%af..%c0%afsecret".to_string(),
            "/%252e%252e%252fsecret".to_string(),
            "/%2e%2e%5csecret".to_string(),
            "/..;/secret".to_string(),
        ] {
            assert_eq!(site.get(&target).status, 404, "{target}");
        }
        // Every path of up to four of these parts.
        let files = site.files();
        let parts = ["", "/", "a", "..", ".", "%2e", "%2f", "\\", "%5C", "%00", "secret", "site"];
        for number in 0..parts.len().pow(4) {
            let pick = |place: u32| parts[number / parts.len().pow(place) % parts.len()];
            let target = format!("/{}{}{}{}", pick(3), pick(2), pick(1), pick(0));
            let reply = files.answer(&request("GET", &target, "")).expect("under the prefix");
            assert_eq!(reply.status, if target == "/a" { 301 } else { 404 }, "{target}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_followed_inside_and_never_out() {
        use std::os::unix::fs::symlink;

        let site = Site::new("/").with("v2/app.js", "new").with("a/b/c", "");
        symlink("v2", site.path("current")).unwrap();
        symlink("../v2/app.js", site.path("a/app.js")).unwrap();
        symlink("../secret", site.path("out")).unwrap();
        symlink("..", site.path("up")).unwrap();
        symlink("../../site/v2/app.js", site.path("a/out-and-in")).unwrap();
        symlink(site.parent.path().join("secret"), site.path("absolute")).unwrap();
        symlink("/proc/self/root", site.path("magic")).unwrap();
        symlink("loop", site.path("loop")).unwrap();
        symlink("none", site.path("dangling")).unwrap();
        assert_eq!(site.get("/current/app.js").text(), "new");
        assert_eq!(site.get("/a/app.js").text(), "new");
        for target in [
            "/out",
            "/up",
            "/up/secret",
            "/up/site/v2/app.js",
            "/a/out-and-in",
            "/absolute",
            "/magic",
            "/magic/etc/passwd",
            "/loop",
            "/dangling",
        ] {
            assert_eq!(site.get(target).status, 404, "{target}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_sockets_are_not_served_and_hold_nobody() {
        use std::sync::mpsc;
        use std::thread;

        let site = Site::new("/").with("folder/page", "");
        for pipe in ["pipe", "folder/index.html"] {
            let made = std::process::Command::new("mkfifo").arg(site.path(pipe)).status().unwrap();
            assert!(made.success());
        }
        let _socket = std::os::unix::net::UnixListener::bind(site.path("socket")).unwrap();
        let files = site.files();
        let (sender, replies) = mpsc::channel();
        let answering = thread::Builder::new().spawn(move || {
            for target in ["/pipe", "/folder/", "/socket"] {
                let status = files.answer(&request("GET", target, "")).map(|reply| reply.status);
                sender.send((target, status)).unwrap();
            }
        });
        let seen: Vec<_> =
            (0..3).map(|_| replies.recv_timeout(Duration::from_secs(30)).expect("no one waits")).collect();
        assert_eq!(seen, [("/pipe", Some(404)), ("/folder/", Some(404)), ("/socket", Some(404))]);
        answering.unwrap().join().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_are_not_served() {
        let devices = Files::open("/", Path::new("/dev")).unwrap();
        for target in ["/null", "/zero", "/tty"] {
            assert_eq!(devices.answer(&request("GET", target, "")).unwrap().status, 404, "{target}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_system_that_fails_asks_to_come_again_and_a_wrong_path_does_not() {
        for (code, status) in [
            (libc::EMFILE, 503),
            (libc::ENFILE, 503),
            (libc::ENOMEM, 503),
            (libc::EIO, 503),
            (libc::EACCES, 404),
            (libc::ELOOP, 404),
            (libc::ENXIO, 404),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(for_error(&error, "/").status, status, "{error}");
        }
        let long = Site::new("/").get(&format!("/{}", "a".repeat(5000)));
        assert_eq!(long.status, 404);
    }

    #[test]
    fn a_tag_changes_with_the_time_and_with_the_length() {
        let site = Site::new("/").with("a", "one");
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        site.set_modified("a", time);
        let first = site.get("/a").etag().to_string();
        assert_eq!(site.get("/a").etag(), first);
        assert!(first.starts_with('"') && first.ends_with('"'), "a strong tag: {first}");
        site.set_modified("a", time + Duration::from_micros(1));
        assert_ne!(site.get("/a").etag(), first);
        fs::write(site.path("a"), "four").unwrap();
        site.set_modified("a", time);
        assert_ne!(site.get("/a").etag(), first);
        assert_eq!(site.get("/a").header("last-modified"), Some("Sun, 09 Sep 2001 01:46:40 GMT"));
    }

    #[test]
    fn a_client_that_has_the_file_gets_304() {
        let site = Site::new("/").with("a", "hello");
        let tag = site.get("/a").etag().to_string();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_string()] {
            let seen = site.get_with("/a", &format!("If-None-Match: {known}\r\n"));
            assert_eq!((seen.status, seen.len, seen.body.as_deref()), (304, 5, None), "{known}");
            assert_eq!(seen.etag(), tag);
            assert!(seen.header("content-type").is_none());
        }
        let head = site.reply("HEAD", "/a", &format!("If-None-Match: {tag}\r\n")).unwrap();
        assert_eq!(head.status, 304);
        for other in ["\"x\"", "", "x", tag.trim_matches('"')] {
            assert_eq!(site.get_with("/a", &format!("If-None-Match: {other}\r\n")).status, 200, "{other}");
        }
        assert_eq!(site.get_with("/none", "If-None-Match: *\r\n").status, 404);
    }

    #[test]
    fn a_date_is_compared_in_seconds_and_only_without_a_tag() {
        let site = Site::new("/").with("a", "hello");
        // Sun, 09 Sep 2001 01:46:40 GMT and a half.
        site.set_modified("a", UNIX_EPOCH + Duration::from_millis(1_000_000_000_500));
        let since = |date: &str| site.get_with("/a", &format!("If-Modified-Since: {date}\r\n")).status;
        assert_eq!(since("Sun, 09 Sep 2001 01:46:40 GMT"), 304);
        assert_eq!(since("Sunday, 09-Sep-01 01:46:41 GMT"), 304, "an old form of dates");
        assert_eq!(since("Sun, 09 Sep 2001 01:46:39 GMT"), 200);
        assert_eq!(since("yesterday"), 200);
        assert_eq!(since("Sun, 09 Sep 2001 01:46:40 GMT\r\nIf-None-Match: \"x\""), 200);
    }

    #[test]
    fn a_time_that_no_http_date_can_say_is_left_out() {
        let site = Site::new("/").with("a", "hello");
        let day = Duration::from_secs(86400);
        for time in [UNIX_EPOCH - day, SystemTime::now() + day] {
            site.set_modified("a", time);
            let seen = site.get("/a");
            assert_eq!((seen.status, seen.header("last-modified")), (200, None), "{time:?}");
            let again = site.get_with("/a", &format!("If-None-Match: {}\r\n", seen.etag()));
            assert_eq!(again.status, 304);
        }
    }

    #[test]
    fn a_request_that_depends_on_another_file_gets_412() {
        let site = Site::new("/").with("a", "hello");
        site.set_modified("a", UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        let tag = site.get("/a").etag().to_string();
        for (condition, status) in [
            (format!("If-Match: {tag}"), 200),
            (format!("If-Match: \"x\", {tag}"), 200),
            ("If-Match: *".to_string(), 200),
            (format!("If-Match: W/{tag}"), 412),
            ("If-Match: \"x\"".to_string(), 412),
            (format!("If-Match: \"x\"\r\nIf-None-Match: {tag}"), 412),
            ("If-Unmodified-Since: Sun, 09 Sep 2001 01:46:40 GMT".to_string(), 200),
            ("If-Unmodified-Since: Sun, 09 Sep 2001 01:46:39 GMT".to_string(), 412),
            (format!("If-Match: {tag}\r\nIf-Unmodified-Since: Sun, 09 Sep 2001 01:46:39 GMT"), 200),
        ] {
            assert_eq!(site.get_with("/a", &format!("{condition}\r\n")).status, status, "{condition}");
        }
    }

    #[test]
    fn one_range_brings_that_part() {
        let site = Site::new("/").with("a", "0123456789");
        for (range, body, content_range) in [
            ("bytes=0-0", "0", "bytes 0-0/10"),
            ("bytes=2-4", "234", "bytes 2-4/10"),
            ("bytes=8-", "89", "bytes 8-9/10"),
            ("bytes=-3", "789", "bytes 7-9/10"),
            ("bytes=5-99999999999999999999999", "56789", "bytes 5-9/10"),
            ("bytes=-11", "0123456789", "bytes 0-9/10"),
            ("BYTES=9-9", "9", "bytes 9-9/10"),
        ] {
            let seen = site.get_with("/a", &format!("Range: {range}\r\n"));
            assert_eq!((seen.status, seen.text()), (206, body), "{range}");
            assert_eq!(seen.header("content-range"), Some(content_range), "{range}");
            assert!(seen.header("etag").is_some() && seen.header("content-type").is_some());
        }
    }

    #[test]
    fn a_range_behind_the_end_gets_416_and_the_length() {
        let site = Site::new("/").with("a", "0123456789").with("empty", "");
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=18446744073709551616-"] {
            let seen = site.get_with("/a", &format!("Range: {range}\r\n"));
            assert_eq!((seen.status, seen.header("content-range")), (416, Some("bytes */10")), "{range}");
        }
        assert_eq!(site.get_with("/empty", "Range: bytes=0-\r\n").status, 416);
        let suffix = site.get_with("/empty", "Range: bytes=-5\r\n");
        assert_eq!((suffix.status, suffix.text()), (200, ""));
    }

    #[test]
    fn several_ranges_and_what_is_no_range_bring_the_whole_file() {
        let site = Site::new("/").with("a", "0123456789");
        for range in [
            "bytes=0-1,4-5",
            "bytes=0-1\r\nRange: bytes=4-5",
            "bytes=5-2",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1",
            "bytes",
            "",
            "lines=0-1",
            "bytes=\u{e9}",
        ] {
            let seen = site.get_with("/a", &format!("Range: {range}\r\n"));
            assert_eq!((seen.status, seen.text()), (200, "0123456789"), "{range:?}");
        }
        let no_text = b"GET /a HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\xff\r\n\r\n";
        let no_text = RequestReader::default().receive(no_text, 16 * 1024).unwrap().expect("whole").0;
        assert_eq!(site.files().answer(&no_text).expect("under the prefix").status, 200);
        let head = site.reply("HEAD", "/a", "Range: bytes=0-1\r\n").unwrap();
        assert_eq!((head.status, head.len), (200, 10), "ranges are for GET");
    }

    #[test]
    fn a_range_of_a_file_that_has_changed_brings_the_new_one_whole() {
        let site = Site::new("/").with("a", "0123456789");
        site.set_modified("a", UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        let tag = site.get("/a").etag().to_string();
        for (validator, status) in [
            (tag.as_str(), 206),
            ("Sun, 09 Sep 2001 01:46:40 GMT", 206),
            ("Sun, 09 Sep 2001 01:46:41 GMT", 200),
            ("\"x\"", 200),
            (&format!("W/{tag}"), 200),
            ("*", 200),
            ("", 200),
        ] {
            let headers = format!("Range: bytes=10-12\r\nIf-Range: {validator}\r\n");
            let outside = site.get_with("/a", &headers).status;
            let inside = site.get_with("/a", &headers.replace("10-", "1-")).status;
            let expected = if status == 206 { (206, 416) } else { (200, 200) };
            assert_eq!((inside, outside), expected, "{validator:?}");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let site = Site::new("/").with("a", "0123456789");
        let Some(Reply { body: ReplyBody::Reader(mut body), .. }) = site.reply("GET", "/a", "") else {
            panic!("a file is read as it is sent");
        };
        body.read_exact(&mut [0; 4]).unwrap();
        fs::File::options().write(true).open(site.path("a")).unwrap().set_len(6).unwrap();
        let mut rest = Vec::new();
        let error = body.read_to_end(&mut rest).unwrap_err();
        assert_eq!((error.kind(), &rest[..]), (io::ErrorKind::UnexpectedEof, &b"45"[..]));
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_ends_where_it_was_told_to() {
        let site = Site::new("/").with("a", "0123456789");
        for (headers, expected) in [("", "0123456789"), ("Range: bytes=8-\r\n", "89")] {
            fs::write(site.path("a"), "0123456789").unwrap();
            let reply = site.reply("GET", "/a", headers).unwrap();
            let mut file = fs::File::options().append(true).open(site.path("a")).unwrap();
            file.write_all(b"and more").unwrap();
            assert_eq!(Seen::from(reply).text(), expected);
        }
    }

    #[test]
    fn a_file_replaced_while_it_is_read_is_read_as_it_was() {
        let site = Site::new("/").with("a", "old").with("b", "newer");
        let reply = site.reply("GET", "/a", "").unwrap();
        fs::rename(site.path("b"), site.path("a")).unwrap();
        assert_eq!(Seen::from(reply).text(), "old");
        assert_eq!(site.get("/a").text(), "newer");
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_paths_elsewhere_are_served_nowhere() {
        let site = Site::new("/").with("a\\b", SECRET).with("a\nb", SECRET);
        for target in ["/a\\b", "/a%5Cb", "/a%0ab"] {
            assert_eq!(site.get(target).status, 404, "{target}");
        }
    }

    #[test]
    fn a_name_is_safe_on_windows_too() {
        for name in ["a:b", "a~1", "a.", "a "] {
            assert_eq!(decode_name(name).is_some(), !cfg!(windows), "{name:?}");
        }
    }
}
