//! Requests and plain answers: the HTTP/1.1 around a handshake (RFC 9112).
//!
//! httparse reads the head; what it lets pass and a WebSocket server must not (bare line
//! feeds, folded lines, two `Host`) is refused here, while the bytes arrive.

use std::borrow::Cow;
use std::collections::TryReserveError;
use std::fmt;
use std::ops::Range;

use percent_encoding::percent_decode;

use super::body::BodyLength;

/// A request head on its way in.
#[derive(Default)]
pub struct RequestReader {
    head: Vec<u8>,
    /// Bytes of the line in arrival, without its end.
    line_len: usize,
    lines: usize,
    after_cr: bool,
}

impl RequestReader {
    /// Takes bytes up to the end of the head: the request and how many bytes it took, or
    /// `None` when all were taken and more must come.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        head_bytes_max: usize,
    ) -> Result<Option<(Request, usize)>, Refusal> {
        let room_len = head_bytes_max.saturating_sub(self.head.len()).min(bytes.len());
        let mut rest = &bytes[..room_len];
        while !rest.is_empty() {
            rest = self.skip_text(rest)?;
            let Some((&byte, behind)) = rest.split_first() else { break };
            rest = behind;
            if self.takes_last(byte)? {
                let len = room_len - rest.len();
                self.keep(&bytes[..len])?;
                return Ok(Some((Request::parse(std::mem::take(&mut self.head))?, len)));
            }
        }
        if room_len < bytes.len() {
            return Err(Refusal::HeadTooBig);
        }
        self.keep(bytes)?;
        Ok(None)
    }

    /// Goes through what a line has between its first byte and its end; gives back the rest.
    fn skip_text<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        if self.line_len == 0 || self.after_cr {
            return Ok(bytes);
        }
        let len = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
        let (text, rest) = bytes.split_at(len);
        // Looks at all of them: so the compiler makes vectors of it.
        if text.iter().fold(false, |found, &byte| found | is_control(byte)) {
            return Err(CONTROL_CHARACTER);
        }
        self.line_len += len;
        Ok(rest)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.head.try_reserve(bytes.len()).map_err(|_| Refusal::NoMemory)?;
        self.head.extend_from_slice(bytes);
        Ok(())
    }

    /// Is this byte the last of the head?
    fn takes_last(&mut self, byte: u8) -> Result<bool, Refusal> {
        if self.after_cr != (byte == b'\n') {
            return Err(Refusal::Malformed("lines must end with CR LF"));
        }
        match byte {
            b'\r' => self.after_cr = true,
            b'\n' => {
                self.after_cr = false;
                if self.line_len == 0 && self.lines > 0 {
                    return Ok(true);
                }
                // "a server … SHOULD ignore at least one empty line (CRLF) received prior to
                // the request-line" (RFC 9112, 2.2): an empty line does not count.
                self.lines += usize::from(self.line_len > 0);
                self.line_len = 0;
            }
            b' ' | b'\t' if self.line_len == 0 => return Err(Refusal::Malformed("folded header line")),
            byte if is_control(byte) => return Err(CONTROL_CHARACTER),
            first if self.line_len == 0 && self.lines == 0 && !first.is_ascii_alphabetic() => {
                return Err(Refusal::Malformed("not an HTTP request"));
            }
            _ => self.line_len += 1,
        }
        Ok(false)
    }
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

const CONTROL_CHARACTER: Refusal = Refusal::Malformed("control character in the head");

/// A request, with its head kept as it came: old dialects answer with its own bytes.
pub struct Request {
    head: Vec<u8>,
    method: Range<usize>,
    target: Range<usize>,
    path: Range<usize>,
    query: Range<usize>,
    headers: Vec<HeaderLine>,
    is_http_1_0: bool,
    body: BodyLength,
}

struct HeaderLine {
    name: Range<usize>,
    value: Range<usize>,
}

impl Request {
    fn parse(head: Vec<u8>) -> Result<Request, Refusal> {
        let mut lines = [httparse::EMPTY_HEADER; HEADER_LINES_MAX];
        let mut parsed = httparse::Request::new(&mut lines);
        match parsed.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooBig),
            // A blank in the target looks to httparse like a version it doesn't know.
            Err(httparse::Error::Version)
                if memchr::memmem::find(&head, b" HTTP/")
                    .is_some_and(|at| head[..at].iter().filter(|&&byte| byte == b' ').count() == 1) =>
            {
                return Err(Refusal::HttpVersion);
            }
            Ok(httparse::Status::Partial) | Err(_) => return Err(Refusal::Malformed("not an HTTP request")),
        }
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - head.as_ptr() as usize;
            start..start + part.len()
        };
        let method = place(parsed.method.unwrap_or_default().as_bytes());
        let target = place(parsed.path.unwrap_or_default().as_bytes());
        let headers = parsed
            .headers
            .iter()
            .map(|line| HeaderLine { name: place(line.name.as_bytes()), value: place(line.value) })
            .collect();
        let is_http_1_0 = parsed.version == Some(0);
        let (path, query) = split_target(&head, target.clone())?;
        let body = BodyLength::None;
        let mut request = Request { method, target, path, query, headers, head, is_http_1_0, body };
        request.body = request.check_framing()?;
        Ok(request)
    }

    /// What could make two readers of one stream see two different requests.
    fn check_framing(&self) -> Result<BodyLength, Refusal> {
        if self.sole("host")?.is_none() && !self.is_http_1_0 {
            return Err(Refusal::Malformed("Host missing"));
        }
        let length = self.sole("content-length")?.map(|index| self.value(index));
        let length = match length {
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
                let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
                Some(number.ok_or(Refusal::Malformed("Content-Length is no number"))?)
            }
            Some(_) => return Err(Refusal::Malformed("Content-Length is no number")),
            None => None,
        };
        if self.header("transfer-encoding").is_none() {
            return Ok(match length {
                None | Some(0) => BodyLength::None,
                Some(bytes) => BodyLength::Bytes(bytes),
            });
        }
        if length.is_some() {
            return Err(Refusal::Malformed("Content-Length beside Transfer-Encoding"));
        }
        if self.is_upgrade() {
            return Err(Refusal::Malformed("Transfer-Encoding in a handshake"));
        }
        if self.is_http_1_0 {
            return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let mut codings = self.list("transfer-encoding");
        match (codings.next(), codings.next()) {
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
            _ => Err(Refusal::TransferCoding),
        }
    }

    /// Where its body ends.
    pub fn body(&self) -> BodyLength {
        self.body
    }

    pub fn is_http_1_0(&self) -> bool {
        self.is_http_1_0
    }

    /// Does the client want to ask again on the same connection?
    pub fn keeps_alive(&self) -> bool {
        !self.is_http_1_0 && !self.has_token("connection", "close")
    }

    pub fn method(&self) -> &[u8] {
        &self.head[self.method.clone()]
    }

    /// The request target as it came, with its query.
    pub fn target(&self) -> &[u8] {
        &self.head[self.target.clone()]
    }

    /// The target without the scheme and authority that it may have.
    pub fn path_and_query(&self) -> &[u8] {
        &self.head[self.path.start..self.target.end]
    }

    /// The path as it came (still percent-encoded).
    pub fn path(&self) -> &str {
        std::str::from_utf8(&self.head[self.path.clone()]).unwrap_or("/")
    }

    pub fn query(&self) -> &[u8] {
        &self.head[self.query.clone()]
    }

    /// Does it ask for a WebSocket, of whatever dialect?
    pub fn is_upgrade(&self) -> bool {
        self.has_token("upgrade", "websocket")
    }

    /// The first header line of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.indexes(name).next().map(|index| self.value(index))
    }

    /// The only header line of that name; two are refused.
    pub fn sole(&self, name: &'static str) -> Result<Option<usize>, Refusal> {
        let mut indexes = self.indexes(name);
        let index = indexes.next();
        if indexes.next().is_some() { Err(Refusal::Repeated(name)) } else { Ok(index) }
    }

    pub fn value(&self, index: usize) -> &[u8] {
        &self.head[self.headers[index].value.clone()]
    }

    /// The values of all header lines of that name.
    pub fn values<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
        self.indexes(name).map(|index| self.value(index))
    }

    /// A value with all blanks but the one after the colon: in a draft-76 key they count.
    pub fn raw_value(&self, index: usize) -> &[u8] {
        let line = &self.head[self.headers[index].name.end + 1..];
        let end = memchr::memchr(b'\r', line).unwrap_or(line.len());
        let value = &line[..end];
        value.strip_prefix(b" ").unwrap_or(value)
    }

    /// The elements of a comma-separated list, over all lines of that name.
    pub fn list<'r>(&'r self, name: &'r str) -> impl DoubleEndedIterator<Item = &'r [u8]> {
        self.indexes(name)
            .flat_map(|index| self.value(index).split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// All header lines as `Name: value`, each ended by CR LF.
    pub fn header_lines(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for line in &self.headers {
            lines.extend_from_slice(&self.head[line.name.clone()]);
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(&self.head[line.value.clone()]);
            lines.extend_from_slice(b"\r\n");
        }
        lines
    }

    /// A part of the request by name: `:method`, `:path`, `:query`, `:version`, `?key` of the
    /// query, `;name` of a cookie, or a header (several lines joined with a comma).
    pub fn get(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name.as_bytes() {
            b":method" => Some(Cow::Borrowed(self.method())),
            b":path" => Some(Cow::Borrowed(self.path().as_bytes())),
            b":query" => Some(Cow::Borrowed(self.query())),
            b":version" => Some(Cow::Borrowed(if self.is_http_1_0 { b"HTTP/1.0" } else { b"HTTP/1.1" })),
            [b'?', key @ ..] => form_urlencoded::parse(self.query())
                .find(|(found, _)| found.as_bytes() == key)
                .map(|(_, value)| Cow::Owned(value.into_owned().into_bytes())),
            [b';', cookie @ ..] => self
                .indexes("cookie")
                .flat_map(|index| self.value(index).split(|&byte| byte == b';'))
                .filter_map(|pair| {
                    let equals = memchr::memchr(b'=', pair)?;
                    Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
                })
                .find(|(found, _)| *found == cookie)
                .map(|(_, value)| Cow::Borrowed(value)),
            _ => {
                let mut values = self.indexes(name).map(|index| self.value(index));
                let first = values.next()?;
                Some(values.fold(Cow::Borrowed(first), |joined, value| {
                    Cow::Owned([&joined[..], b", ", value].concat())
                }))
            }
        }
    }

    /// The header lines of that name, in order.
    pub(super) fn indexes<'r>(&'r self, name: &'r str) -> impl DoubleEndedIterator<Item = usize> + 'r {
        (0..self.headers.len()).filter(move |&index| {
            self.head[self.headers[index].name.clone()].eq_ignore_ascii_case(name.as_bytes())
        })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", String::from_utf8_lossy(self.method()), String::from_utf8_lossy(self.target()))
    }
}

/// Path and query of a target: `/path?query`, or with scheme and authority before it, which
/// "a server MUST accept" (RFC 9112, 3.2.2).
fn split_target(head: &[u8], target: Range<usize>) -> Result<(Range<usize>, Range<usize>), Refusal> {
    let bytes = &head[target.clone()];
    let path_start = if bytes.first() == Some(&b'/') {
        target.start
    } else {
        let scheme_len = memchr::memmem::find(bytes, b"://").ok_or(Refusal::Malformed("no path"))?;
        let (scheme, authority) = (&bytes[..scheme_len], scheme_len + 3);
        // What lies behind a `?` is no path, however it looks; and "a recipient that processes
        // such a URI reference", one with an empty host, "MUST reject it" (RFC 9110, 4.2.1).
        let len = bytes[authority..].iter().position(|byte| b"/?#".contains(byte)).unwrap_or_default();
        if !is_scheme(scheme) || len == 0 || bytes[authority + len] != b'/' {
            return Err(Refusal::Malformed("no path"));
        }
        target.start + authority + len
    };
    if !head[target.clone()].is_ascii() {
        return Err(Refusal::Malformed("path is not ASCII"));
    }
    Ok(match memchr::memchr(b'?', &head[path_start..target.end]) {
        Some(mark) => (path_start..path_start + mark, path_start + mark + 1..target.end),
        None => (path_start..target.end, target.end..target.end),
    })
}

/// "scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )" (RFC 3986, 3.1)
fn is_scheme(bytes: &[u8]) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.iter().all(is_inner)
}

/// Decodes `%41` and the like; what is no UTF-8 then is replaced.
pub fn percent_decoded(text: &str) -> String {
    percent_decode(text.as_bytes()).decode_utf8_lossy().into_owned()
}

/// The request can't become a WebSocket. Each knows its HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Malformed(&'static str),
    HttpVersion,
    HeadTooBig,
    Repeated(&'static str),
    /// A WebSocket handshake "MUST be a GET" (RFC 6455, 4.1)
    NotGet,
    /// No handshake and nothing to answer it: the client is told what would be.
    NotUpgrade,
    /// `Connection` without the token `Upgrade`.
    ConnectionHeader,
    Key,
    HixieKey,
    UnknownVersion,
    Origin,
    NotFound,
    TimedOut,
    TooManyConnections,
    TooManyFromAddress,
    TooFast,
    TooManyRequests,
    BodyTooBig,
    TransferCoding,
    Expectation,
    /// Plain HTTP where TLS is spoken.
    NotTls,
    NoMemory,
}

impl Refusal {
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_)
            | Self::Repeated(_)
            | Self::ConnectionHeader
            | Self::Key
            | Self::HixieKey
            | Self::NotTls => 400,
            Self::Origin => 403,
            Self::NotFound => 404,
            Self::NotGet => 405,
            Self::TimedOut => 408,
            Self::BodyTooBig => 413,
            Self::Expectation => 417,
            Self::NotUpgrade | Self::UnknownVersion => 426,
            Self::TooManyFromAddress | Self::TooFast | Self::TooManyRequests => 429,
            Self::HeadTooBig => 431,
            Self::TransferCoding => 501,
            Self::TooManyConnections | Self::NoMemory => 503,
            Self::HttpVersion => 505,
        }
    }

    /// The whole answer; HEAD gets its head alone. `versions` is the list for
    /// `Sec-WebSocket-Version`.
    pub fn response(&self, versions: &str, with_body: bool) -> Result<Vec<u8>, TryReserveError> {
        let extra = match self {
            Self::NotGet => "Allow: GET\r\n".to_string(),
            // "include a |Sec-WebSocket-Version| header field indicating the versions the
            // server is willing to use" (RFC 6455, 4.2.2); 426 "MUST send an Upgrade header"
            // (RFC 9110, 15.5.22).
            Self::NotUpgrade | Self::UnknownVersion => {
                format!("Upgrade: websocket\r\nSec-WebSocket-Version: {versions}\r\n")
            }
            Self::TooFast | Self::TooManyRequests | Self::TooManyConnections => {
                "Retry-After: 1\r\n".to_string()
            }
            _ => String::new(),
        };
        let headers = format!("{extra}Content-Type: text/plain; charset=utf-8\r\n");
        let connection = if extra.starts_with("Upgrade") { "Upgrade, close" } else { "close" };
        let body = format!("{self}\n");
        let mut response = response_head(self.status(), &headers, connection, body.len() as u64)?;
        if with_body {
            response.extend_from_slice(body.as_bytes());
        }
        Ok(response)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            Self::HttpVersion => f.write_str("HTTP/1.1 is needed"),
            Self::HeadTooBig => f.write_str("the request head is too big"),
            Self::Repeated(name) => write!(f, "more than one {name}"),
            Self::NotGet => f.write_str("a WebSocket handshake must be a GET"),
            Self::NotUpgrade => f.write_str("this is a WebSocket server"),
            Self::ConnectionHeader => f.write_str("Connection must contain Upgrade"),
            Self::Key => f.write_str("Sec-WebSocket-Key must be 16 bytes in base64"),
            Self::HixieKey => f.write_str("Sec-WebSocket-Key1 or -Key2 is missing or wrong"),
            Self::UnknownVersion => f.write_str("this version of the protocol is not served"),
            Self::Origin => f.write_str("this origin is not allowed"),
            Self::NotFound => f.write_str("nothing is here"),
            Self::TimedOut => f.write_str("the handshake took too long"),
            Self::TooManyConnections => f.write_str("the server is full"),
            Self::TooManyFromAddress => f.write_str("too many connections from this address"),
            Self::TooFast => f.write_str("too many new connections from this address"),
            Self::TooManyRequests => f.write_str("too many requests on this connection"),
            Self::BodyTooBig => f.write_str("the body is too big"),
            Self::TransferCoding => f.write_str("of the transfer codings only chunked is served"),
            Self::Expectation => f.write_str("only 100-continue can be expected"),
            Self::NotTls => f.write_str("this port speaks TLS: use https:// or wss://"),
            Self::NoMemory => f.write_str("the server is out of memory"),
        }
    }
}

/// The head of an answer with a body of `len` bytes. `headers` are lines ended by CR LF,
/// checked by [`check_header_lines`] when they are the embedder's.
pub fn response_head(
    status: u16,
    headers: &str,
    connection: &str,
    len: u64,
) -> Result<Vec<u8>, TryReserveError> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)).into_bytes();
    head.try_reserve_exact(headers.len() + OWN_LINES_BYTES)?;
    head.extend_from_slice(headers.as_bytes());
    if !connection.is_empty() {
        head.extend_from_slice(format!("Connection: {connection}\r\n").as_bytes());
    }
    // "A server MUST NOT send a Content-Length header field in any response with a status
    // code of 1xx (Informational) or 204 (No Content)." (RFC 9110, 8.6)
    if status != 204 {
        head.extend_from_slice(format!("Content-Length: {len}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// Can an answer of this status have a body at all?
pub fn has_body(status: u16) -> bool {
    status != 204 && status != 304
}

/// Are these whole lines of `Name: value`, with nothing that could start another answer, and
/// nothing that is ours to say?
pub fn check_header_lines(lines: &str, ours: &[&str]) -> Result<(), &'static str> {
    let mut rest = lines;
    while !rest.is_empty() {
        let (line, after) = rest.split_once("\r\n").ok_or("each header line must end with CR LF")?;
        rest = after;
        let (name, value) = line.split_once(':').ok_or("each header line must be \"Name: value\"")?;
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err("a header name may only hold letters, digits and !#$%&'*+-.^_`|~");
        }
        if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
            return Err("a header value must not hold control characters");
        }
        if ours.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err("this header is set by the server itself");
        }
    }
    Ok(())
}

/// `tchar` of RFC 9110, 5.6.2.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // "a client MUST … treat an unrecognized status code as being equivalent to the x00
        // status code of that class", and the phrase may be empty (RFC 9110, 15).
        _ => "",
    }
}

/// Room for the lines that every answer has.
const OWN_LINES_BYTES: usize = 128;
/// More lines than any browser sends, with room for proxies.
const HEADER_LINES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], step: usize) -> Result<Option<(Request, usize)>, Refusal> {
        let mut reader = RequestReader::default();
        let mut taken = 0;
        for piece in bytes.chunks(step) {
            if let Some((request, len)) = reader.receive(piece, 16 * 1024)? {
                return Ok(Some((request, taken + len)));
            }
            taken += piece.len();
        }
        Ok(None)
    }

    fn request(lines: &str) -> Result<Request, Refusal> {
        let head = format!("{lines}\r\n\r\n");
        let whole = read(head.as_bytes(), head.len()).map(|found| found.expect("whole").0);
        let split = read(head.as_bytes(), 1).map(|found| found.expect("whole").0);
        assert_eq!(whole.as_ref().err(), split.as_ref().err(), "one byte at a time");
        whole
    }

    #[test]
    fn a_head_ends_where_it_ends_and_the_rest_is_left() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n^n:ds[4U";
        for step in 1..bytes.len() {
            let (_, taken) = read(bytes, step).unwrap().expect("whole");
            assert_eq!(taken, bytes.len() - 8);
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        for lines in [
            "GET / HTTP/1.1\nHost: a",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc",
            "GET / HTTP/1.1\r\nHost : a",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            "GET / HTTP/1.1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
            "GET nowhere HTTP/1.1\r\nHost: a",
            "GET /a b HTTP/1.1\r\nHost: a",
            "GET / HTTPS/1.1\r\nHost: a",
            "\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(request(lines).map(|_| ()).map_err(|refusal| refusal.status()), Err(400), "{lines:?}");
        }
    }

    #[test]
    fn http_1_0_has_plain_requests_and_no_others() {
        let old = request("GET / HTTP/1.0").unwrap();
        assert!(old.is_http_1_0() && !old.keeps_alive());
        assert_eq!(old.get(":version").as_deref(), Some(&b"HTTP/1.0"[..]));
        let chunked = request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked");
        assert_eq!(chunked.unwrap_err().status(), 400);
        assert_eq!(request("GET / HTTP/2.0\r\nHost: a").unwrap_err(), Refusal::HttpVersion);
    }

    #[test]
    fn a_head_over_the_limit_is_refused_at_the_limit() {
        let mut reader = RequestReader::default();
        assert!(reader.receive(b"GET / HTTP/1.1\r\nX: ", 100).unwrap().is_none());
        assert_eq!(reader.receive(&[b'x'; 100], 100).unwrap_err(), Refusal::HeadTooBig);
        let lines: String = (0..HEADER_LINES_MAX + 1).map(|i| format!("\r\nX{i}: y")).collect();
        assert_eq!(request(&format!("GET / HTTP/1.1{lines}")).unwrap_err(), Refusal::HeadTooBig);
    }

    #[test]
    fn parts_of_a_request_are_found_by_name() {
        let request = request(
            "GET /a%20b?token=x%26y&empty= HTTP/1.1\r\nHost: h\r\nCookie: a=1; b=2\r\nX-Y: 1\r\nx-y: 2",
        )
        .unwrap();
        let get = |name| request.get(name).map(|value| String::from_utf8(value.into_owned()).unwrap());
        assert_eq!(get(":method").as_deref(), Some("GET"));
        assert_eq!(get(":path").as_deref(), Some("/a%20b"));
        assert_eq!(get(":query").as_deref(), Some("token=x%26y&empty="));
        assert_eq!(get("?token").as_deref(), Some("x&y"));
        assert_eq!(get("?empty").as_deref(), Some(""));
        assert_eq!(get("?none"), None);
        assert_eq!(get(";b").as_deref(), Some("2"));
        assert_eq!(get("X-Y").as_deref(), Some("1, 2"));
        assert_eq!(get("host").as_deref(), Some("h"));
    }

    #[test]
    fn an_absolute_target_is_read_like_its_path() {
        let request = request("GET http://h/chat?x=1 HTTP/1.1\r\nHost: h").unwrap();
        assert_eq!((request.path(), request.query()), ("/chat", &b"x=1"[..]));
    }

    #[test]
    fn what_only_looks_like_an_absolute_target_has_no_path() {
        for target in [
            "http://h?/chat",
            "http://h#/chat",
            "http:///chat",
            "http://h",
            "x?a=://h/chat",
            "a/b://h/chat",
            "://h/chat",
            "1http://h/chat",
        ] {
            let refusal = request(&format!("GET {target} HTTP/1.1\r\nHost: h")).map(|_| ()).unwrap_err();
            assert_eq!(refusal, Refusal::Malformed("no path"), "{target}");
        }
    }

    #[test]
    fn a_raw_value_keeps_its_blanks() {
        let request = request("GET / HTTP/1.1\r\nHost: h\r\nK:  1 2 \r\nL:3").unwrap();
        let raw = |name| request.raw_value(request.sole(name).unwrap().unwrap());
        assert_eq!((raw("k"), raw("l")), (&b" 1 2 "[..], &b"3"[..]));
    }

    #[test]
    fn header_lines_that_would_start_another_answer_are_refused() {
        assert!(check_header_lines("A: b\r\nC: d\r\n", &[]).is_ok());
        assert!(check_header_lines("", &[]).is_ok());
        assert!(check_header_lines("A: b\tc\r\n", &[]).is_ok());
        for lines in
            ["A: b", "A b\r\n", ": b\r\n", "A: b\nC: d\r\n", "A: b\r\n\r\nHTTP/1.1 200", "A b: c\r\n"]
        {
            assert!(check_header_lines(lines, &[]).is_err(), "{lines:?}");
        }
        assert!(check_header_lines("upgrade: x\r\n", &["Upgrade"]).is_err());
    }

    #[test]
    fn a_body_in_any_coding_but_chunks_is_refused() {
        for codings in ["gzip", "gzip, chunked", "chunked, chunked", "chunked, gzip", ""] {
            let refusal = request(&format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {codings}"));
            assert_eq!(refusal.map(|_| ()).unwrap_err(), Refusal::TransferCoding, "{codings:?}");
        }
        let chunked = request("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked").unwrap();
        assert_eq!(chunked.body(), BodyLength::Chunked);
    }

    /// As the registry at IANA has them.
    #[test]
    fn an_answer_names_its_status_as_the_registry_does_or_not_at_all() {
        for named in [
            "200 OK",
            "201 Created",
            "202 Accepted",
            "204 No Content",
            "206 Partial Content",
            "301 Moved Permanently",
            "302 Found",
            "303 See Other",
            "304 Not Modified",
            "307 Temporary Redirect",
            "308 Permanent Redirect",
            "400 Bad Request",
            "401 Unauthorized",
            "402 Payment Required",
            "403 Forbidden",
            "404 Not Found",
            "405 Method Not Allowed",
            "406 Not Acceptable",
            "408 Request Timeout",
            "409 Conflict",
            "410 Gone",
            "412 Precondition Failed",
            "413 Content Too Large",
            "415 Unsupported Media Type",
            "416 Range Not Satisfiable",
            "417 Expectation Failed",
            "422 Unprocessable Content",
            "426 Upgrade Required",
            "428 Precondition Required",
            "429 Too Many Requests",
            "431 Request Header Fields Too Large",
            "451 Unavailable For Legal Reasons",
            "500 Internal Server Error",
            "501 Not Implemented",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "504 Gateway Timeout",
            "505 HTTP Version Not Supported",
            "299 ",
            "599 ",
        ] {
            let status = named[..3].parse().unwrap();
            let head = String::from_utf8(response_head(status, "", "", 0).unwrap()).unwrap();
            assert_eq!(head.lines().next(), Some(&format!("HTTP/1.1 {named}")[..]));
        }
    }

    #[test]
    fn a_refusal_says_what_would_be_served() {
        let answer = String::from_utf8(Refusal::UnknownVersion.response("13, 8, 7", true).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(answer.contains("\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13, 8, 7\r\n"));
    }
}
