//! Answers of the server as a strict client reads them.

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of the head, with its empty line.
    pub head_len: usize,
}

impl Response {
    /// Reads the head of an answer; `None` while it is not whole.
    ///
    /// # Panics
    /// If it is no answer, or could be read as another by somebody else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = &bytes[..head_len];
        for line in head[..head_len - 4].split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_plain = line.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control());
            assert!(is_plain, "a control character in {:?}", String::from_utf8_lossy(head));
        }
        let mut lines = [httparse::EMPTY_HEADER; 4096];
        let mut parsed = httparse::Response::new(&mut lines);
        let status = parsed.parse(head);
        assert_eq!(status, Ok(httparse::Status::Complete(head_len)), "{}", String::from_utf8_lossy(head));
        assert_eq!(parsed.version, Some(1));
        let headers =
            parsed.headers.iter().map(|line| (line.name.to_string(), line.value.to_vec())).collect();
        Some(Self { status: parsed.code.expect("it is complete"), headers, head_len })
    }

    /// The one header of this name, or none.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| &value[..]);
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value
    }

    /// The length of the body, as announced.
    pub fn body_len(&self) -> usize {
        let value = self.header("content-length").unwrap_or(b"0");
        std::str::from_utf8(value).expect("digits").parse().expect("a length is a number")
    }
}
