//! Many messages of another thread in one command.

use std::collections::{TryReserveError, VecDeque};
use std::sync::Arc;

use super::Engine;
use super::writing::{Outgoing, SHARED_BYTES_MIN};
use crate::buffer::{Buffer, copied};
use crate::id::ConnId;
use crate::protocol::Kind;
use crate::protocol::deflate::Wish;

/// Messages that a thread sends together, in their order. Short ones lie in one block.
#[derive(Default)]
pub struct Submitted {
    parts: VecDeque<Part>,
    block: Arc<Vec<u8>>,
}

struct Part {
    conn: ConnId,
    kind: Kind,
    last: bool,
    wish: Wish,
    payload: PartPayload,
}

enum PartPayload {
    InBlock { start: usize, len: usize },
    Own(Arc<Buffer>),
}

impl Submitted {
    pub fn push(
        &mut self,
        conn: ConnId,
        kind: Kind,
        data: &[u8],
        last: bool,
        wish: Wish,
    ) -> Result<(), TryReserveError> {
        self.parts.try_reserve(1)?;
        let payload = if data.len() < SHARED_BYTES_MIN {
            let block = Arc::get_mut(&mut self.block).expect("it is shared only when it is obeyed");
            block.try_reserve(data.len())?;
            let start = block.len();
            block.extend_from_slice(data);
            PartPayload::InBlock { start, len: data.len() }
        } else {
            // It goes to the kernel from there.
            PartPayload::Own(Arc::new(copied(data)?.into()))
        };
        self.parts.push_back(Part { conn, kind, last, wish, payload });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl Engine {
    /// Also what a panic has left of it.
    #[inline]
    pub fn obey_submitted(&mut self) {
        if self.submitted.is_some() {
            self.obey_parts();
        }
    }

    fn obey_parts(&mut self) {
        let Some(Submitted { block, .. }) = &self.submitted else { return };
        let block = block.clone();
        let next = |submitted: &mut Submitted| submitted.parts.pop_front();
        while let Some(part) = self.submitted.as_mut().and_then(next) {
            let Part { conn, kind, last, wish, payload } = part;
            let outgoing = match payload {
                PartPayload::InBlock { start, len } => Outgoing::Copied(&block[start..start + len]),
                PartPayload::Own(buffer) => Outgoing::Shared(buffer),
            };
            self.obey_send(conn, kind, &outgoing, last, wish);
        }
        self.submitted = None;
    }
}
