//! What frames mean, said once more: slowly, from the specifications, over all the bytes at
//! once, and without a line of the code that it is to judge.

use crate::hearing::{Limits, Seen};

/// RFC 6455, 5.2 to 5.6 and 7.4; HyBi-07 and -08 are the same on the wire.
pub fn hybi(mut wire: &[u8], limits: Limits) -> Vec<Seen> {
    let mut seen = Vec::new();
    // Kind of the message in arrival, its bytes, and in how many frames they came.
    let mut message: Option<(bool, Vec<u8>, usize)> = None;
    let violated = |mut seen: Vec<Seen>, code| {
        seen.push(Seen::Violated(code));
        seen
    };
    while let [first, rest @ ..] = wire {
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
        let is_control = opcode >= 8;
        if first & 0x70 != 0 || !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10) || is_control && !fin {
            return violated(seen, 1002);
        }
        let [second, rest @ ..] = rest else { break };
        let short = u64::from(second & 0x7F);
        if second & 0x80 == 0 || is_control && short > 125 {
            return violated(seen, 1002);
        }
        let (len_bytes, least) = match short {
            126 => (2, 126),
            127 => (8, 65_536),
            _ => (0, 0),
        };
        if rest.len() < len_bytes {
            break;
        }
        let (len, rest) = rest.split_at(len_bytes);
        let len = len.iter().fold(0, |len, &byte| len << 8 | u64::from(byte));
        let len = if len_bytes == 0 { short } else { len };
        if len < least || len > i64::MAX as u64 {
            return violated(seen, 1002);
        }
        let Some((mask, rest)) = rest.split_at_checked(4) else { break };
        if !is_control {
            if (opcode == 0) != message.is_some() {
                return violated(seen, 1002);
            }
            let (_, so_far, frames) = message.get_or_insert((opcode == 1, Vec::new(), 0));
            *frames += 1;
            let is_too_big = so_far.len() as u64 + len > limits.message_bytes_max as u64;
            if is_too_big || *frames > limits.fragments_max {
                return violated(seen, 1009);
            }
        }
        let here = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        let is_whole = here as u64 == len;
        let payload: Vec<u8> = rest[..here].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
        wire = &rest[here..];
        if is_control {
            if !is_whole {
                break;
            }
            match opcode {
                9 => seen.push(Seen::Ping(payload)),
                10 => seen.push(Seen::Pong(payload)),
                _ => {
                    seen.push(close(&payload));
                    return seen;
                }
            }
            continue;
        }
        let (is_text, so_far, _) = message.as_mut().expect("made above");
        so_far.extend(payload);
        let is_last = is_whole && fin;
        if *is_text {
            // What can't become UTF-8 any more, or is not when it ends.
            if let Err(error) = std::str::from_utf8(so_far) {
                if is_last || error.error_len().is_some() {
                    return violated(seen, 1007);
                }
            }
        }
        if is_last {
            let (is_text, bytes, _) = message.take().expect("made above");
            seen.push(if is_text {
                Seen::Text(String::from_utf8(bytes).expect("checked above"))
            } else {
                Seen::Binary(bytes)
            });
        }
    }
    seen
}

fn close(payload: &[u8]) -> Seen {
    let (code, reason) = match payload {
        [] => return Seen::Close(1005, String::new()),
        [_] => return Seen::Violated(1002),
        [high, low, reason @ ..] => (u16::from(*high) << 8 | u16::from(*low), reason),
    };
    match (code, std::str::from_utf8(reason)) {
        (1000..=1003 | 1007..=1014 | 3000..=4999, Ok(reason)) => Seen::Close(code, reason.to_string()),
        (1000..=1003 | 1007..=1014 | 3000..=4999, Err(_)) => Seen::Violated(1007),
        _ => Seen::Violated(1002),
    }
}

/// draft-hixie-thewebsocketprotocol-76, 5.3; in draft 75 `FF 00` means nothing.
pub fn hixie(wire: &[u8], has_close: bool, limits: Limits) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut bytes = wire.iter().copied();
    while let Some(frame_type) = bytes.next() {
        if frame_type & 0x80 == 0 {
            let mut text = Vec::new();
            let mut has_ended = false;
            for byte in bytes.by_ref() {
                has_ended = byte == 0xFF;
                if has_ended {
                    break;
                }
                text.push(byte);
            }
            if frame_type != 0x00 {
                continue;
            }
            let repaired = String::from_utf8_lossy(&text).into_owned();
            if text.len() > limits.message_bytes_max || has_ended && repaired.len() > limits.message_bytes_max
            {
                seen.push(Seen::Violated(1009));
                return seen;
            }
            if has_ended {
                seen.push(Seen::Text(repaired));
            }
            continue;
        }
        let mut len: u64 = 0;
        let mut groups = 0;
        let mut has_len = false;
        for byte in bytes.by_ref() {
            groups += 1;
            if groups > 9 {
                seen.push(Seen::Violated(1002));
                return seen;
            }
            len = len * 128 + u64::from(byte % 128);
            if byte < 128 {
                has_len = true;
                break;
            }
        }
        if has_len && frame_type == 0xFF && len == 0 && has_close {
            seen.push(Seen::Close(1005, String::new()));
            return seen;
        }
        for _ in 0..len {
            if bytes.next().is_none() {
                break;
            }
        }
    }
    seen
}
