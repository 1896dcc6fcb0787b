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

/// What a thread knows of the callback it is in. Together, since every way to a thread's own costs a call.
struct Here {
    current: Cell<Option<Current>>,
    is_in_call: Cell<bool>,
    has_unsaid: Cell<bool>,
}

thread_local! {
    static HERE: Here = const {
        Here { current: Cell::new(None), is_in_call: Cell::new(false), has_unsaid: Cell::new(false) }
    };
    /// Lines logged inside a call of the embedder's: said when its callback has returned.
    static UNSAID: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Makes `turn` the current one while `callback` runs.
#[inline(always)]
pub(super) fn during_callback(server: *const fdx_server, turn: &mut Turn<'_>, callback: impl FnOnce()) {
    let turn = NonNull::from(turn).cast::<Turn<'static>>();
    let has_unsaid = HERE.with(|here| {
        here.current.set(Some(Current { server, turn }));
        callback();
        here.current.set(None);
        here.has_unsaid.replace(false)
    });
    if has_unsaid {
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
    HERE.with(|here| {
        // Taken out for the time of the call, so that there is never a second way to the turn.
        let current = here.current.take();
        let Some(Current { server: current_server, turn }) = current else { return call(None) };
        let _back = Back { here, current };
        if !std::ptr::eq(current_server, server) {
            return call(None);
        }
        // SAFETY: `during_callback` set it from an exclusive reference that it holds until the
        // callback has returned, and this runs inside that callback, on the same thread. Nobody
        // else uses that reference meanwhile, and a nested call would find nothing.
        let turn = unsafe { &mut *turn.as_ptr() };
        here.is_in_call.set(true);
        call(Some(turn))
    })
}

/// Puts the current turn back, also when a panic passes.
struct Back<'h> {
    here: &'h Here,
    current: Option<Current>,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.here.is_in_call.set(false);
        self.here.current.set(self.current);
    }
}

/// Keeps a line for later if it was logged inside a call of the embedder's.
pub(super) fn keep_if_in_call(line: &Line) -> bool {
    HERE.with(|here| {
        let is_in_call = here.is_in_call.get();
        if is_in_call {
            here.has_unsaid.set(true);
            UNSAID.with_borrow_mut(|lines| lines.push(line.clone()));
        }
        is_in_call
    })
}
