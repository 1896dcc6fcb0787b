//! A call from inside a callback finds the turn it is in.
//!
//! During a callback the shard's thread remembers the turn; a call on that thread borrows it
//! for as long as it lasts. Everything else goes through mailboxes.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use super::log::{self, Line};
use super::server::fdx_server;
use crate::engine::turn::Turn;
use crate::id::ConnId;

/// The turn of the callback that runs on this thread.
#[derive(Clone, Copy)]
struct Current {
    server: *const fdx_server,
    turn: NonNull<Turn<'static>>,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    /// Lines logged inside a call of the embedder's: said when its callback has returned.
    static UNSAID: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
}

/// Makes `turn` the current one while `callback` runs.
#[inline]
pub(super) fn during_callback(server: *const fdx_server, turn: &mut Turn<'_>, callback: impl FnOnce()) {
    let turn = NonNull::from(turn).cast::<Turn<'static>>();
    CURRENT.set(Some(Current { server, turn }));
    callback();
    CURRENT.set(None);
    if UNSAID.with_borrow(|lines| !lines.is_empty()) {
        for line in UNSAID.take() {
            log::say(&line);
        }
    }
}

/// Runs `call` with the turn of the connection's shard, if this is inside one of its callbacks.
#[inline]
pub(super) fn with_turn<R>(
    server: &fdx_server,
    conn: ConnId,
    call: impl FnOnce(Option<&mut Turn<'_>>) -> R,
) -> R {
    with_any_turn(server, |turn| call(turn.filter(|turn| usize::from(turn.shard()) == conn.shard())))
}

/// Runs `call` with the turn of whichever shard, if this is inside one of the server's callbacks.
#[inline]
pub(super) fn with_any_turn<R>(server: &fdx_server, call: impl FnOnce(Option<&mut Turn<'_>>) -> R) -> R {
    // Taken out for the time of the call, so that there is never a second way to the turn.
    let current = CURRENT.take();
    let Some(Current { server: current_server, turn }) = current else { return call(None) };
    let _back = Back(current);
    if !std::ptr::eq(current_server, server) {
        return call(None);
    }
    // SAFETY: `during_callback` set it from an exclusive reference that it holds until the
    // callback has returned, and this runs inside that callback, on the same thread. Nobody
    // else uses that reference meanwhile, and a nested call would find `CURRENT` empty.
    let turn = unsafe { &mut *turn.as_ptr() };
    IN_CALL.set(true);
    call(Some(turn))
}

/// Puts the current turn back, also when a panic passes.
struct Back(Option<Current>);

impl Drop for Back {
    fn drop(&mut self) {
        IN_CALL.set(false);
        CURRENT.set(self.0);
    }
}

/// Keeps a line for later if it was logged inside a call of the embedder's.
pub(super) fn keep_if_in_call(line: &Line) -> bool {
    let is_in_call = IN_CALL.get();
    if is_in_call {
        UNSAID.with_borrow_mut(|lines| lines.push(line.clone()));
    }
    is_in_call
}
