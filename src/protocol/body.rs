//! The body of a plain request: by its length, or in chunks (RFC 9112, 6 and 7.1).
//!
//! Strict, as the head is: what two readers of one stream could read differently is refused.

use super::http::Refusal;
use crate::buffer::Buffer;

/// How a request says where its body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    None,
    Bytes(u64),
    Chunked,
}

/// A body on its way in.
pub struct BodyReader {
    next: Next,
    body: Buffer,
    bytes_max: usize,
}

/// What comes next.
enum Next {
    /// So many bytes of a body that said its length; with them it ends.
    Bytes(u64),
    /// The line with a chunk's size, as far as it is here.
    ChunkSize(Vec<u8>),
    /// So many bytes of a chunk…
    Chunk(u64),
    /// … and CR LF, of which so many bytes are here.
    ChunkEnd(usize),
    /// Header lines that nobody wants, up to an empty one: bytes so far, and of this line.
    Trailer { bytes: usize, line_len: usize, after_cr: bool },
}

impl BodyReader {
    /// `length` is not [`BodyLength::None`]. Nothing is set aside for what is only announced.
    pub fn new(length: BodyLength, bytes_max: usize) -> Result<Self, Refusal> {
        let next = match length {
            BodyLength::Bytes(bytes) if bytes > bytes_max as u64 => return Err(Refusal::BodyTooBig),
            BodyLength::Bytes(bytes) => Next::Bytes(bytes),
            BodyLength::None | BodyLength::Chunked => Next::ChunkSize(Vec::new()),
        };
        Ok(Self { next, body: Buffer::default(), bytes_max })
    }

    /// Takes bytes up to the end of the body: the body and how many bytes that were, or `None`
    /// when all were taken and more must come.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<(Buffer, usize)>, Refusal> {
        let mut rest = bytes;
        loop {
            match &mut self.next {
                Next::Bytes(left) => {
                    let (taken, after) = split(rest, *left);
                    *left -= taken.len() as u64;
                    let (is_whole, expected) = (*left == 0, self.body.len() + taken.len() + *left as usize);
                    self.append(taken, expected)?;
                    rest = after;
                    if is_whole {
                        break;
                    }
                }
                Next::ChunkSize(line) => {
                    let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
                    let (part, after) = rest.split_at(end);
                    if line.len() + part.len() > CHUNK_LINE_BYTES_MAX {
                        return Err(Refusal::Malformed("the line of a chunk is too long"));
                    }
                    line.extend_from_slice(part);
                    rest = after;
                    if line.last() == Some(&b'\n') {
                        self.next = match self.chunk_size()? {
                            0 => Next::Trailer { bytes: 0, line_len: 0, after_cr: false },
                            size => Next::Chunk(size),
                        };
                    }
                }
                Next::Chunk(left) => {
                    let (taken, after) = split(rest, *left);
                    *left -= taken.len() as u64;
                    if *left == 0 {
                        self.next = Next::ChunkEnd(0);
                    }
                    self.append(taken, self.bytes_max)?;
                    rest = after;
                }
                Next::ChunkEnd(seen) => {
                    let Some((&byte, after)) = rest.split_first() else { return Ok(None) };
                    if byte != b"\r\n"[*seen] {
                        return Err(Refusal::Malformed("a chunk is longer than it said"));
                    }
                    *seen += 1;
                    if *seen == 2 {
                        self.next = Next::ChunkSize(Vec::new());
                    }
                    rest = after;
                }
                Next::Trailer { bytes, line_len, after_cr } => {
                    let Some((&byte, after)) = rest.split_first() else { return Ok(None) };
                    rest = after;
                    *bytes += 1;
                    if *bytes > TRAILER_BYTES_MAX {
                        return Err(Refusal::HeadTooBig);
                    }
                    if *after_cr != (byte == b'\n') {
                        return Err(Refusal::Malformed("lines must end with CR LF"));
                    }
                    *after_cr = byte == b'\r';
                    match byte {
                        b'\n' if *line_len == 0 => break,
                        b'\n' => *line_len = 0,
                        b'\r' => {}
                        _ => *line_len += 1,
                    }
                }
            }
            if rest.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some((std::mem::take(&mut self.body), bytes.len() - rest.len())))
    }

    /// The size that the line in arrival says, now that it is whole.
    fn chunk_size(&self) -> Result<u64, Refusal> {
        let Next::ChunkSize(line) = &self.next else { return Ok(0) };
        let wrong = Refusal::Malformed("the size of a chunk is no number");
        let text = line.strip_suffix(b"\r\n").ok_or(Refusal::Malformed("lines must end with CR LF"))?;
        let is_clean = !text.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control());
        // To httparse no digit at all is a zero.
        if !is_clean || !text.first().is_some_and(u8::is_ascii_hexdigit) {
            return Err(wrong);
        }
        match httparse::parse_chunk_size(line) {
            Ok(httparse::Status::Complete((_, size))) if size > (self.bytes_max - self.body.len()) as u64 => {
                Err(Refusal::BodyTooBig)
            }
            Ok(httparse::Status::Complete((_, size))) => Ok(size),
            _ => Err(wrong),
        }
    }

    fn append(&mut self, bytes: &[u8], expected: usize) -> Result<(), Refusal> {
        self.body.append(bytes, expected).map_err(|_| Refusal::NoMemory)
    }
}

/// At most `len` of the bytes, and the rest.
fn split(bytes: &[u8], len: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len()))
}

/// A size with extensions, which nobody uses.
const CHUNK_LINE_BYTES_MAX: usize = 1024;
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    /// The body and what was left over, the same however the bytes are split.
    fn read(length: BodyLength, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
        let whole = read_in(length, bytes, bytes.len().max(1));
        for step in [1, 2, 3, 7] {
            assert_eq!(read_in(length, bytes, step), whole, "in steps of {step}");
        }
        whole
    }

    fn read_in(length: BodyLength, bytes: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
        let mut reader = BodyReader::new(length, LIMIT)?;
        for (index, piece) in bytes.chunks(step).enumerate() {
            if let Some((body, taken)) = reader.receive(piece)? {
                return Ok(Some((body.as_slice().to_vec(), index * step + taken)));
            }
            assert!(reader.receive(b"")?.is_none(), "nothing says nothing");
        }
        Ok(None)
    }

    fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
        read(BodyLength::Chunked, bytes)
    }

    #[test]
    fn a_body_with_a_length_ends_there_and_takes_nothing_of_the_next_request() {
        assert_eq!(read(BodyLength::Bytes(5), b"helloGET /"), Ok(Some((b"hello".to_vec(), 5))));
        assert_eq!(read(BodyLength::Bytes(5), b"hell"), Ok(None));
        assert_eq!(read(BodyLength::Bytes(1001), b""), Err(Refusal::BodyTooBig));
    }

    #[test]
    fn chunks_are_joined_and_extensions_and_trailers_are_dropped() {
        let body =
            b"4\r\nWiki\r\n6;name=\"x\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\nZ: 1\r\n\r\nGET";
        let expected = b"Wikipedia in \r\n\r\nchunks.".to_vec();
        assert_eq!(chunked(body), Ok(Some((expected, body.len() - 3))));
        assert_eq!(chunked(b"0\r\n\r\n"), Ok(Some((Vec::new(), 5))));
        assert_eq!(chunked(b"0\r\n\r"), Ok(None));
        assert_eq!(chunked(b"2;a=\tb\r\nhi\r\n0\r\n\r\n"), Ok(Some((b"hi".to_vec(), 17))));
    }

    #[test]
    fn chunks_that_two_readers_could_read_differently_are_refused() {
        for bad in [
            &b"4\nWiki"[..],
            b"4\r\nWikiX\r\n",
            b"4\r\nWiki\n",
            b"-1\r\n",
            b"0x4\r\n",
            b" \r\n",
            b"\r\n",
            b"4 4\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
            b"4;a=\0\r\n",
            b"0\r\nX: y\n\r\n",
        ] {
            let refusal = chunked(bad).unwrap_err();
            assert_eq!(refusal.status(), 400, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_limit_holds_for_all_chunks_together_and_for_what_surrounds_them() {
        let half = [b"1F4\r\n".to_vec(), vec![b'x'; 500], b"\r\n".to_vec()].concat();
        let full = [half.clone(), half.clone(), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(chunked(&full).unwrap().unwrap().0.len(), 1000);
        let over = [half.clone(), half, b"1\r\nx\r\n".to_vec()].concat();
        assert_eq!(chunked(&over), Err(Refusal::BodyTooBig));
        let line = [b"1;".to_vec(), vec![b'x'; 2000]].concat();
        assert_eq!(chunked(&line).unwrap_err().status(), 400);
        let trailer = [b"0\r\nX: ".to_vec(), vec![b'x'; 9000]].concat();
        assert_eq!(chunked(&trailer), Err(Refusal::HeadTooBig));
    }

    #[test]
    fn an_announced_length_sets_no_memory_aside() {
        let mut reader = BodyReader::new(BodyLength::Bytes(1 << 30), 1 << 30).unwrap();
        assert!(reader.receive(b"x").unwrap().is_none());
        assert!(reader.body.capacity() <= 2);
    }
}
