//! Frames become messages: RFC 6455, 5.4 to 5.6, the same for HyBi-07 and -08.
//!
//! A message that lies whole in what was just read is unmasked where it lies and lent on. Only
//! one that is split, over reads or over fragments, gets memory of its own, and an idle
//! connection has none. Text is checked as its bytes arrive.

use std::sync::Arc;

use super::close::{CloseFrame, Violation};
use super::deflate::{Agreement, Inflater, Inflation, Step, Windows};
use super::frame::{CONTROL_BYTES_MAX, FrameHead, HEAD_BYTES_MAX, Opcode};
use super::mask::unmask;
use super::{Context, Control, Flow, Incoming, Kind, Payload};
use crate::buffer::Buffer;

/// The receiving side of one conversation.
#[derive(Default)]
pub struct Frames {
    /// What is half there. `None` between two messages, so that waiting costs a word.
    partial: Option<Box<Partial>>,
}

struct Partial {
    head: [u8; HEAD_BYTES_MAX],
    head_len: usize,
    frame: Option<FrameInArrival>,
    control: [u8; CONTROL_BYTES_MAX],
    message: Option<Assembly>,
    /// Of a connection that remembers its messages. Also when nothing is half there.
    windows: Option<Box<Windows>>,
}

/// A frame whose head is there and whose payload is not, or not whole.
#[derive(Clone, Copy)]
struct FrameInArrival {
    head: FrameHead,
    arrived: u64,
}

impl FrameInArrival {
    fn missing(&self) -> usize {
        usize::try_from(self.head.len - self.arrived).unwrap_or(usize::MAX)
    }
}

/// A message that came in more than one piece.
struct Assembly {
    kind: Kind,
    buffer: Buffer,
    utf8: Utf8Stream,
    fragments: usize,
    is_compressed: bool,
    /// Of a compressed message that has any payload yet.
    inflater: Option<Box<Inflater>>,
}

impl Frames {
    /// Where a connection that was promised to keeps what it remembers.
    pub fn windows(&mut self) -> &mut Option<Box<Windows>> {
        &mut self.partial().windows
    }

    /// What chatter is made of: messages in one frame with the shortest head, not compressed. Takes
    /// those that stand whole at the front, and gives back what comes behind them, for `receive`.
    #[inline]
    pub fn receive_short<'a>(
        &self,
        mut bytes: &'a mut [u8],
        messages: &mut impl FnMut(Kind, &'a [u8]),
    ) -> Result<&'a mut [u8], Violation> {
        if self.partial.is_some() {
            return Ok(bytes);
        }
        while let Some(&[first, second, key @ ..]) = bytes.first_chunk::<SHORT_HEAD_BYTES>() {
            let kind = match first {
                0x81 => Kind::Text,
                0x82 => Kind::Binary,
                _ => break,
            };
            // Without its highest bit, which must be there, a longer form is longer than a short one.
            let len = usize::from(second ^ 0x80);
            if len > SHORT_BYTES_MAX || len > bytes.len() - SHORT_HEAD_BYTES {
                break;
            }
            let (frame, rest) = std::mem::take(&mut bytes).split_at_mut(SHORT_HEAD_BYTES + len);
            bytes = rest;
            let payload = &mut frame[SHORT_HEAD_BYTES..];
            unmask(payload, key, 0);
            if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() {
                return Err(Violation::InvalidUtf8);
            }
            messages(kind, payload);
        }
        Ok(bytes)
    }

    /// Takes what was read and gives what it means. After `Flow::Closed` the rest is ignored.
    pub fn receive<'a>(
        &mut self,
        mut bytes: &'a mut [u8],
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<Flow, Violation> {
        let may_be_compressed = context.inflation.agreement.is_some();
        while !bytes.is_empty() {
            if may_be_compressed && context.inflation.is_used_up() {
                return Ok(Flow::Full { left: bytes.len() });
            }
            if self.partial.as_ref().is_some_and(|partial| partial.frame.is_some()) {
                let (flow, rest) = self.progress(bytes, context, events)?;
                if let Flow::Closed = flow {
                    return Ok(flow);
                }
                bytes = rest;
                continue;
            }
            let (head, rest) = match &mut self.partial {
                Some(partial) if partial.head_len > 0 => {
                    match partial.complete_head(bytes, may_be_compressed)? {
                        Some((head, taken)) => (head, &mut bytes[taken..]),
                        None => return Ok(Flow::Open),
                    }
                }
                _ => match FrameHead::parse(bytes, may_be_compressed)? {
                    Some((head, head_len)) => (head, &mut bytes[head_len..]),
                    None => {
                        self.partial().keep_head(bytes);
                        return Ok(Flow::Open);
                    }
                },
            };
            self.check(&head, context)?;
            let chunk_bytes_max = self.chunk_bytes_max(&head, context);
            if head.len <= rest.len().min(chunk_bytes_max) as u64 {
                let (payload, rest) = rest.split_at_mut(head.len as usize);
                bytes = rest;
                if let Flow::Closed = self.whole_frame(head, payload, context, events)? {
                    return Ok(Flow::Closed);
                }
            } else {
                bytes = rest;
                self.partial().frame = Some(FrameInArrival { head, arrived: 0 });
            }
        }
        Ok(Flow::Open)
    }

    /// The memory that the rest of a long frame can be read into without a copy, and how many
    /// bytes of it: the caller fills some of them and gives them to [`Frames::receive_lent`].
    pub fn lend(&mut self) -> Option<(Buffer, usize)> {
        let partial = self.partial.as_mut()?;
        let missing = partial.frame.filter(|frame| !frame.head.opcode.is_control())?.missing();
        // What must be inflated goes elsewhere.
        let message = partial.message.as_mut().filter(|message| !message.is_compressed)?;
        let here = message.buffer.len();
        // What an announced length may set aside is bounded by what has come already.
        let len = missing.min(LENT_BYTES_MAX).min(here.max(message.buffer.capacity() - here));
        if len < LENT_BYTES_MIN {
            return None;
        }
        let expected = (here + missing).min(2 * here);
        // Without memory the ordinary way meets the same want, and says so to the peer.
        message.buffer.room(len, expected).ok()?;
        Some((std::mem::take(&mut message.buffer), len))
    }

    /// Takes back what [`Frames::lend`] gave, with `len` more bytes in it.
    pub fn receive_lent<'a>(
        &mut self,
        mut buffer: Buffer,
        len: usize,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<(), Violation> {
        let partial = self.partial.as_mut().expect("a buffer is lent only while a frame arrives");
        let frame = partial.frame.as_mut().expect("a buffer is lent only while a frame arrives");
        let message = partial.message.as_mut().expect("the buffer came from this message");
        buffer.fill(len);
        let (chunk, phase) = (buffer.tail_mut(len), frame.arrived as usize % 4);
        unmask_checked(chunk, frame.head.mask, phase, message.kind, &mut message.utf8)?;
        frame.arrived += len as u64;
        message.buffer = buffer;
        if frame.missing() == 0 {
            let fin = frame.head.fin;
            partial.frame = None;
            if fin {
                self.finish_message(events)?;
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn holds_memory(&self) -> bool {
        self.partial.is_some()
    }

    #[cfg(test)]
    pub fn assembled_capacity(&self) -> usize {
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        message.map_or(0, |message| message.buffer.capacity())
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_with(|| {
            Box::new(Partial {
                head: [0; HEAD_BYTES_MAX],
                head_len: 0,
                frame: None,
                control: [0; CONTROL_BYTES_MAX],
                message: None,
                windows: None,
            })
        })
    }

    fn message(&mut self) -> Option<&mut Assembly> {
        self.partial.as_mut()?.message.as_mut()
    }

    /// What a frame's head must fulfil in the midst of those before it.
    #[inline]
    fn check(&mut self, head: &FrameHead, context: &Context<'_>) -> Result<(), Violation> {
        if head.opcode.is_control() {
            return Ok(());
        }
        let (so_far, is_compressed) = match (head.opcode, self.message()) {
            (Opcode::Continuation, None) => return Err(Violation::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::InterleavedMessage),
            (_, None) => (0, head.is_compressed),
            (_, Some(message)) => {
                // What is given on at once takes no memory, however much it is.
                if context.streams {
                    return Ok(());
                }
                message.fragments += 1;
                let fragments_max = context.fragments_max;
                if message.fragments > fragments_max {
                    return Err(Violation::TooManyFragments { fragments_max });
                }
                (message.buffer.len(), message.is_compressed)
            }
        };
        let bytes_max = context.message_bytes_max;
        // What is compressed is counted as it is inflated.
        if !context.streams && !is_compressed && head.len > bytes_max.saturating_sub(so_far) as u64 {
            return Err(Violation::MessageTooBig { bytes_max });
        }
        Ok(())
    }

    #[inline]
    fn whole_frame<'a>(
        &mut self,
        head: FrameHead,
        payload: &'a mut [u8],
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<Flow, Violation> {
        let kind = match head.opcode {
            Opcode::Text if head.fin => Kind::Text,
            Opcode::Binary if head.fin => Kind::Binary,
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                let len = payload.len();
                self.data(&head, payload, 0, len, context, events)?;
                return Ok(Flow::Open);
            }
            control => {
                unmask(payload, head.mask, 0);
                self.forget_if_empty();
                return control_frame(control, payload, events);
            }
        };
        if head.is_compressed {
            unmask(payload, head.mask, 0);
            self.forget_if_empty();
            self.whole_compressed(&head, kind, payload, context, events)?;
            return Ok(Flow::Open);
        }
        if kind == Kind::Text && payload.len() > BLOCK_BYTES {
            let mut utf8 = Utf8Stream::default();
            unmask_checked(payload, head.mask, 0, kind, &mut utf8)?;
            if !utf8.is_complete() {
                return Err(Violation::InvalidUtf8);
            }
        } else {
            unmask(payload, head.mask, 0);
            if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() {
                return Err(Violation::InvalidUtf8);
            }
        }
        self.forget_if_empty();
        events(Incoming::Message { kind, payload: Payload::Borrowed(payload) });
        Ok(Flow::Open)
    }

    /// More payload of a frame that did not arrive whole.
    fn progress<'a>(
        &mut self,
        bytes: &'a mut [u8],
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<(Flow, &'a mut [u8]), Violation> {
        let frame = self.partial.as_ref().and_then(|partial| partial.frame).expect("a frame is in arrival");
        let len_max = self.chunk_bytes_max(&frame.head, context);
        let partial = self.partial.as_mut().expect("a frame is in arrival");
        let frame = partial.frame.as_mut().expect("a frame is in arrival");
        let before = *frame;
        let (chunk, rest) = bytes.split_at_mut(before.missing().min(bytes.len()).min(len_max));
        let phase = before.arrived as usize % 4;
        frame.arrived += chunk.len() as u64;
        let is_whole = frame.missing() == 0;
        if is_whole {
            partial.frame = None;
        }
        if before.head.opcode.is_control() {
            unmask(chunk, before.head.mask, phase);
            let end = before.arrived as usize + chunk.len();
            partial.control[before.arrived as usize..end].copy_from_slice(chunk);
            if is_whole {
                let control = Control::new(&partial.control[..end]);
                self.forget_if_empty();
                return Ok((control_frame(before.head.opcode, control.as_slice(), events)?, rest));
            }
        } else {
            self.data(&before.head, chunk, phase, before.missing(), context, events)?;
        }
        Ok((Flow::Open, rest))
    }

    /// Payload for the message under assembly, still masked, with the key at `phase`; `missing` is
    /// what its frame still announces, this chunk included.
    fn data<'a>(
        &mut self,
        head: &FrameHead,
        chunk: &'a mut [u8],
        phase: usize,
        missing: usize,
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<(), Violation> {
        let is_last = head.fin && chunk.len() == missing;
        let is_compressed = head.is_compressed || self.message().is_some_and(|message| message.is_compressed);
        if is_compressed {
            unmask(chunk, head.mask, phase);
            return self.compressed_data(head, chunk, is_last, context, events);
        }
        let message = self.partial().message.get_or_insert_with(|| Assembly {
            kind: kind_of(head),
            // Large memory is lent only to those of whom much is there already.
            buffer: if chunk.len() >= LENT_BYTES_MIN && !context.streams {
                context.pool.take(missing)
            } else {
                Buffer::default()
            },
            utf8: Utf8Stream::default(),
            fragments: 1,
            is_compressed: false,
            inflater: None,
        });
        unmask_checked(chunk, head.mask, phase, message.kind, &mut message.utf8)?;
        if context.streams {
            let kind = message.kind;
            if is_last {
                self.end_message()?;
            }
            if is_last || !chunk.is_empty() {
                let payload = Payload::Borrowed(chunk);
                events(Incoming::Fragment { kind, payload, fin: is_last });
            }
            return Ok(());
        }
        // Of a message in many fragments nobody knows the length: it grows by doubling.
        let expected = if head.fin { message.buffer.len() + missing } else { context.message_bytes_max };
        message.buffer.append(chunk, expected).map_err(|_| Violation::OutOfMemory)?;
        if is_last { self.finish_message(events) } else { Ok(()) }
    }

    /// What is given on as it is inflated is inflated in small steps, between which the turn's
    /// share of work can end.
    fn chunk_bytes_max(&mut self, head: &FrameHead, context: &Context<'_>) -> usize {
        let is_bounded = context.inflation.agreement.is_some()
            && context.streams
            && (head.is_compressed || self.message().is_some_and(|message| message.is_compressed));
        if is_bounded { STREAMED_BYTES_MAX } else { usize::MAX }
    }

    /// A compressed message that lies whole in what was read: most often it is inflated into the
    /// turn's memory, and nothing is allocated for it.
    fn whole_compressed<'a>(
        &mut self,
        head: &FrameHead,
        kind: Kind,
        payload: &'a [u8],
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<(), Violation> {
        let memory = Arc::get_mut(&mut context.inflation.memory).is_some();
        if context.streams || payload.is_empty() || !memory {
            return self.compressed_data(head, payload, true, context, events);
        }
        let mut inflater = self.inflater(context.inflation)?;
        let memory =
            Arc::get_mut(&mut context.inflation.memory).expect("nobody else holds it, as was just seen");
        let (start, len_max) = (memory.len(), context.message_bytes_max.min(INFLATED_BYTES_MAX));
        let mut utf8 = Utf8Stream::default();
        let mut rest = payload;
        loop {
            let len = memory.len() - start;
            if len == len_max {
                // It goes on in memory of its own.
                let mut buffer = context.pool.take(2 * len);
                let so_far = &memory.as_slice()[start..];
                buffer.append(so_far, context.message_bytes_max).map_err(|_| Violation::OutOfMemory)?;
                memory.truncate(start);
                let message = Assembly {
                    kind,
                    buffer,
                    utf8,
                    fragments: 1,
                    is_compressed: true,
                    inflater: Some(inflater),
                };
                self.partial().message = Some(message);
                return self.compressed_data(head, rest, true, context, events);
            }
            let guess = (4 * rest.len()).max(INFLATED_BYTES_MIN).min(len_max - len);
            let room = memory.room(guess, INFLATED_MEMORY_BYTES).map_err(|_| Violation::OutOfMemory)?;
            let room_len = room.len().min(len_max - len);
            let room = &mut room[..room_len];
            let step = inflater.step(rest, room)?;
            utf8.check(kind, &room[..step.given])?;
            memory.fill(step.given);
            rest = &rest[step.taken..];
            if rest.is_empty() && step.given < room_len {
                break;
            }
        }
        let len = memory.len() - start;
        self.finish_inflater(inflater, context.inflation)?;
        if !utf8.is_complete() {
            return Err(Violation::InvalidUtf8);
        }
        events(Incoming::Message { kind, payload: Payload::Inflated { start, len } });
        Ok(())
    }

    /// Compressed payload for the message under assembly.
    fn compressed_data<'a>(
        &mut self,
        head: &FrameHead,
        chunk: &[u8],
        is_last: bool,
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<(), Violation> {
        let so_far = self.partial.as_mut().and_then(|partial| partial.message.take());
        let mut message = so_far.unwrap_or_else(|| Assembly {
            kind: kind_of(head),
            buffer: Buffer::default(),
            utf8: Utf8Stream::default(),
            fragments: 1,
            is_compressed: true,
            inflater: None,
        });
        // "c1 80" is what some clients make of an empty message: no stream has a part in it.
        let mut piece = None;
        // A stream that has begun may have more to give, if nothing to take.
        if !chunk.is_empty() || message.inflater.is_some() {
            let mut inflater = match message.inflater.take() {
                Some(inflater) => inflater,
                None => self.inflater(context.inflation)?,
            };
            match context.streams {
                false => message.inflate(&mut inflater, chunk, context)?,
                true => piece = message.inflate_pieces(&mut inflater, chunk, context, events)?,
            }
            context.inflation.charge(&mut inflater);
            message.inflater = Some(inflater);
        }
        let kind = message.kind;
        if is_last {
            if let Some(inflater) = message.inflater.take() {
                self.finish_inflater(inflater, context.inflation)?;
            }
            if !message.utf8.is_complete() {
                return Err(Violation::InvalidUtf8);
            }
            self.forget_if_empty();
        }
        match (context.streams, is_last) {
            (true, true) => {
                let payload = piece.unwrap_or(Payload::Borrowed(&[]));
                events(Incoming::Fragment { kind, payload, fin: true });
            }
            (true, false) => {
                if let Some(payload) = piece {
                    events(Incoming::Fragment { kind, payload, fin: false });
                }
            }
            (false, true) => {
                events(Incoming::Message { kind, payload: Payload::Owned(message.buffer) });
                return Ok(());
            }
            (false, false) => {}
        }
        if !is_last {
            self.partial().message = Some(message);
        }
        Ok(())
    }

    /// What this connection remembers, or what the shard lends.
    fn inflater(&mut self, inflation: &mut Inflation) -> Result<Box<Inflater>, Violation> {
        if !inflation.agreement.is_some_and(Agreement::keeps_theirs) {
            return inflation.take();
        }
        match self.windows().get_or_insert_default().inflater.take() {
            Some(inflater) => Ok(inflater),
            None => Inflater::new().map_err(|_| Violation::OutOfMemory),
        }
    }

    /// The message ends here.
    fn finish_inflater(
        &mut self,
        mut inflater: Box<Inflater>,
        inflation: &mut Inflation,
    ) -> Result<(), Violation> {
        let keeps_context = inflation.agreement.is_some_and(Agreement::keeps_theirs);
        inflater.finish(keeps_context)?;
        inflation.charge(&mut inflater);
        match keeps_context {
            true => self.windows().get_or_insert_default().inflater = Some(inflater),
            false => inflation.give_back(inflater),
        }
        Ok(())
    }

    fn finish_message<'a>(&mut self, events: &mut impl FnMut(Incoming<'a>)) -> Result<(), Violation> {
        let message = self.end_message()?;
        events(Incoming::Message { kind: message.kind, payload: Payload::Owned(message.buffer) });
        Ok(())
    }

    fn end_message(&mut self) -> Result<Assembly, Violation> {
        let message = self.partial().message.take().expect("a last fragment ends a message");
        self.forget_if_empty();
        if message.utf8.is_complete() { Ok(message) } else { Err(Violation::InvalidUtf8) }
    }

    #[inline]
    fn forget_if_empty(&mut self) {
        if let Some(partial) = &self.partial {
            if partial.frame.is_none() && partial.message.is_none() && partial.windows.is_none() {
                self.partial = None;
            }
        }
    }
}

impl Assembly {
    /// Inflates to the end of the buffer, up to the limit of a message.
    fn inflate(
        &mut self,
        inflater: &mut Inflater,
        mut chunk: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Violation> {
        let bytes_max = context.message_bytes_max;
        loop {
            let len = self.buffer.len();
            if len == bytes_max {
                // What is still to come must be nothing.
                let step = inflater.step(chunk, &mut [0])?;
                if step.given > 0 {
                    return Err(Violation::MessageTooBig { bytes_max });
                }
                chunk = &chunk[step.taken..];
                if chunk.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let guess =
                (4 * chunk.len()).clamp(INFLATED_BYTES_MIN, INFLATED_STEP_BYTES_MAX).min(bytes_max - len);
            if len == 0 && self.buffer.capacity() == 0 {
                self.buffer = context.pool.take(guess);
            }
            let room = self.buffer.room(guess, bytes_max).map_err(|_| Violation::OutOfMemory)?;
            let room_len = room.len().min(bytes_max - len).min(INFLATED_STEP_BYTES_MAX);
            let room = &mut room[..room_len];
            let step = inflater.step(chunk, room)?;
            self.utf8.check(self.kind, &room[..step.given])?;
            self.buffer.fill(step.given);
            chunk = &chunk[step.taken..];
            if chunk.is_empty() && step.given < room_len {
                return Ok(());
            }
        }
    }

    /// Inflates into pieces and gives on all but the last, of which nobody knows yet whether
    /// it ends the message.
    fn inflate_pieces<'a>(
        &mut self,
        inflater: &mut Inflater,
        mut chunk: &[u8],
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<Option<Payload<'a>>, Violation> {
        let mut last = None;
        loop {
            let mut own = Buffer::default();
            let memory = match Arc::get_mut(&mut context.inflation.memory) {
                Some(memory) => &mut *memory,
                None => &mut own,
            };
            let start = memory.len();
            let room = memory.room(PIECE_BYTES, INFLATED_MEMORY_BYTES).map_err(|_| Violation::OutOfMemory)?;
            let room = &mut room[..PIECE_BYTES];
            let Step { taken, given } = inflater.step(chunk, room)?;
            self.utf8.check(self.kind, &room[..given])?;
            memory.fill(given);
            chunk = &chunk[taken..];
            if given > 0 {
                let payload = match own.is_empty() {
                    true => Payload::Inflated { start, len: given },
                    false => Payload::Owned(own),
                };
                if let Some(payload) = last.replace(payload) {
                    events(Incoming::Fragment { kind: self.kind, payload, fin: false });
                }
            }
            if chunk.is_empty() && given < PIECE_BYTES {
                return Ok(last);
            }
        }
    }
}

impl Partial {
    fn keep_head(&mut self, bytes: &[u8]) {
        self.head[..bytes.len()].copy_from_slice(bytes);
        self.head_len = bytes.len();
    }

    /// Joins the kept start of a head with what came now: the head, and how much of `bytes`
    /// belongs to it.
    fn complete_head(
        &mut self,
        bytes: &[u8],
        may_be_compressed: bool,
    ) -> Result<Option<(FrameHead, usize)>, Violation> {
        let kept = self.head_len;
        let end = HEAD_BYTES_MAX.min(kept + bytes.len());
        self.head[kept..end].copy_from_slice(&bytes[..end - kept]);
        match FrameHead::parse(&self.head[..end], may_be_compressed)? {
            Some((head, head_len)) => {
                self.head_len = 0;
                Ok(Some((head, head_len - kept)))
            }
            None => {
                self.head_len = end;
                Ok(None)
            }
        }
    }
}

fn kind_of(head: &FrameHead) -> Kind {
    if head.opcode == Opcode::Text { Kind::Text } else { Kind::Binary }
}

fn control_frame<'a>(
    opcode: Opcode,
    payload: &[u8],
    events: &mut impl FnMut(Incoming<'a>),
) -> Result<Flow, Violation> {
    match opcode {
        Opcode::Ping => events(Incoming::Ping(Control::new(payload))),
        Opcode::Pong => events(Incoming::Pong(Control::new(payload))),
        _ => {
            events(Incoming::Close(CloseFrame::parse(payload)?));
            return Ok(Flow::Closed);
        }
    }
    Ok(Flow::Open)
}

/// Unmasks bytes of a message and checks them if they are text, a block at a time: what is checked
/// is still in the nearest cache. `phase` is as with [`unmask`].
#[inline]
pub fn unmask_checked(
    bytes: &mut [u8],
    key: [u8; 4],
    phase: usize,
    kind: Kind,
    utf8: &mut Utf8Stream,
) -> Result<(), Violation> {
    if kind == Kind::Binary {
        unmask(bytes, key, phase);
        return Ok(());
    }
    // A block leaves the key's phase as it is.
    for block in bytes.chunks_mut(BLOCK_BYTES) {
        unmask(block, key, phase);
        utf8.check(kind, block)?;
    }
    Ok(())
}

/// UTF-8 that arrives in pieces. A piece may end inside a character, but what can't become a
/// character any more is refused at its first bad byte, not when the message ends.
#[derive(Default)]
pub struct Utf8Stream {
    /// The start of a character that the next piece must complete.
    tail: [u8; 3],
    tail_len: u8,
}

impl Utf8Stream {
    pub fn check(&mut self, kind: Kind, mut piece: &[u8]) -> Result<(), Violation> {
        if kind == Kind::Binary {
            return Ok(());
        }
        while self.tail_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            let kept = usize::from(self.tail_len);
            let mut character = [0; 4];
            character[..kept].copy_from_slice(&self.tail[..kept]);
            character[kept] = byte;
            match std::str::from_utf8(&character[..=kept]) {
                Ok(_) => self.tail_len = 0,
                Err(error) if error.error_len().is_none() => {
                    self.tail[kept] = byte;
                    self.tail_len += 1;
                }
                Err(_) => return Err(Violation::InvalidUtf8),
            }
        }
        let (whole, tail) = piece.split_at(piece.len() - begun_character_len(piece));
        if simdutf8::basic::from_utf8(whole).is_err() {
            return Err(Violation::InvalidUtf8);
        }
        if std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_some()) {
            return Err(Violation::InvalidUtf8);
        }
        self.tail[..tail.len()].copy_from_slice(tail);
        self.tail_len = tail.len() as u8;
        Ok(())
    }

    pub fn is_complete(&self) -> bool {
        self.tail_len == 0
    }

    /// The whole state in 26 bits.
    pub fn to_bits(&self) -> u32 {
        let [a, b, c] = self.tail;
        u32::from_be_bytes([self.tail_len, a, b, c])
    }

    pub fn from_bits(bits: u32) -> Self {
        let [tail_len, tail @ ..] = bits.to_be_bytes();
        Self { tail, tail_len: tail_len & 3 }
    }
}

/// How many bytes of a character stand at the end that want more to follow.
fn begun_character_len(piece: &[u8]) -> usize {
    let last = piece.iter().rev().take(3).position(|byte| !(0x80..0xC0).contains(byte));
    let Some(position) = last else { return 0 };
    let len = match piece[piece.len() - 1 - position] {
        0x00..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    };
    if len > position + 1 { position + 1 } else { 0 }
}

/// Half of the smallest first-level cache.
const BLOCK_BYTES: usize = 16 * 1024;
/// Shorter rests are copied from the shared read memory instead: a read of their own costs more.
const LENT_BYTES_MIN: usize = 16 * 1024;
const SHORT_HEAD_BYTES: usize = 6;
/// "if 0-125, that is the payload length" (5.2)
pub const SHORT_BYTES_MAX: usize = 125;
/// Inflated messages up to here lie in the turn's memory, which grows to this for all of them.
const INFLATED_BYTES_MAX: usize = 64 * 1024;
const INFLATED_MEMORY_BYTES: usize = 5 * 1024 * 1024;
const INFLATED_BYTES_MIN: usize = 1024;
/// Small enough to be checked while it is in the cache.
const INFLATED_STEP_BYTES_MAX: usize = 256 * 1024;
/// A piece of a compressed message that is given on as it comes, before and after inflating.
const STREAMED_BYTES_MAX: usize = 4 * 1024;
const PIECE_BYTES: usize = 32 * 1024;
/// One read. Fewer cost less than is won by unmasking and checking in the nearest cache.
const LENT_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_at(text: &[u8]) -> Option<usize> {
        let mut stream = Utf8Stream::default();
        text.iter().position(|&byte| stream.check(Kind::Text, &[byte]).is_err())
    }

    #[test]
    fn bad_text_is_refused_at_its_first_bad_byte() {
        assert_eq!(refused_at(b"ok \xC0\x80"), Some(3), "C0 never occurs");
        assert_eq!(refused_at(b"\xE0\x80\x80"), Some(1), "overlong");
        assert_eq!(refused_at(b"\xED\xA0\x80"), Some(1), "a surrogate");
        assert_eq!(refused_at(b"\xF4\x90\x80\x80"), Some(1), "above U+10FFFF");
        assert_eq!(refused_at(b"\xF0\x9F\x98A"), Some(3), "cut off by another character");
        assert_eq!(refused_at(b"\x80"), Some(0), "a continuation byte alone");
        assert_eq!(refused_at("aé€😀".as_bytes()), None);
    }

    #[test]
    fn text_is_the_same_text_however_it_is_split() {
        let text = "κόσμε – 世界 – 😀😀".as_bytes();
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut stream = Utf8Stream::default();
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    stream.check(Kind::Text, piece).unwrap();
                }
                assert!(stream.is_complete());
            }
        }
    }

    #[test]
    fn a_text_in_two_pieces_is_what_the_standard_library_takes_for_one() {
        // Of each kind of byte that there is at least one.
        let bytes =
            [b'a', 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xE0, 0xE1, 0xED, 0xF0, 0xF1, 0xF4, 0xF5];
        let count = bytes.len();
        for number in 0..count.pow(4) {
            let text: [u8; 4] = std::array::from_fn(|place| bytes[number / count.pow(place as u32) % count]);
            let expected = match std::str::from_utf8(&text) {
                Ok(_) => Some(true),
                Err(error) => error.error_len().is_none().then_some(false),
            };
            for split in 0..4 {
                let mut stream = Utf8Stream::default();
                let checked = [&text[..split], &text[split..]].map(|piece| stream.check(Kind::Text, piece));
                let is_refused = checked.iter().any(Result::is_err);
                assert_eq!(
                    (!is_refused).then(|| stream.is_complete()),
                    expected,
                    "{text:x?} split at {split}"
                );
            }
        }
    }

    #[test]
    fn a_long_text_is_judged_the_same_wherever_its_blocks_end() {
        const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let judged = |text: &[u8], phase: usize| {
            let (mut bytes, mut utf8) = (text.to_vec(), Utf8Stream::default());
            unmask(&mut bytes, KEY, phase);
            let checked = unmask_checked(&mut bytes, KEY, phase, Kind::Text, &mut utf8);
            assert!(checked.is_err() || bytes == text);
            checked.map(|()| utf8.is_complete())
        };
        for ahead in BLOCK_BYTES - 5..BLOCK_BYTES + 2 {
            let mut text = ["x".repeat(ahead), "😀".repeat(BLOCK_BYTES / 2)].concat().into_bytes();
            assert_eq!(judged(&text, ahead % 4), Ok(true));
            assert_eq!(judged(&text[..text.len() - 1], 0), Ok(false));
            text[ahead + 3] = b'x';
            assert_eq!(judged(&text, 0), Err(Violation::InvalidUtf8));
        }
    }

    #[test]
    fn text_that_stops_inside_a_character_is_not_complete() {
        let mut stream = Utf8Stream::default();
        stream.check(Kind::Text, &"€".as_bytes()[..2]).unwrap();
        assert!(!stream.is_complete());
    }
}
