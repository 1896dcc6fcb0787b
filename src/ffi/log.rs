//! The log: lines for people, given to one function of the embedder's.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use log::kv::Key;
use log::{LevelFilter, Metadata, Record};
use once_cell::sync::OnceCell;

use super::event::{fdx_conn, fdx_drop_fn};
use super::{guard_or, reentry};

/// Receives one line. `level` is 1 error, 2 warning, 3 info, 4 debug, 5 trace; `conn` is 0 for
/// lines about no connection; `target` names the part ("fullduplex::handshake") and ends with
/// NUL, `text` has `len` bytes and no NUL. Called on any thread of the library, on several at
/// once. It must return, and must not be slow: a shard waits for it.
pub type fdx_log_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        level: i32,
        conn: fdx_conn,
        target: *const c_char,
        text: *const c_char,
        len: usize,
    ),
>;

/// Sets where the library logs to, for all servers of the process, up to `max_level` (0 off, 1
/// error … 5 trace). [any] NULL switches it off. `drop` is called with `user_data` when the last
/// line was given to it: at once, or when a thread that is inside `log` returns from it.
///
/// # Safety
/// `log` and `drop` can be called with `user_data` from any thread, until `drop` was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_set_log(
    max_level: i32,
    log: fdx_log_fn,
    user_data: *mut c_void,
    drop: fdx_drop_fn,
) {
    guard_or((), || {
        static INSTALLED: OnceCell<()> = OnceCell::new();
        INSTALLED.get_or_init(|| {
            // Fails only where a logger is set already: this is a library of its own.
            let _ = log::set_logger(&Logger);
        });
        let level = match max_level {
            i32::MIN..=0 => LevelFilter::Off,
            1 => LevelFilter::Error,
            2 => LevelFilter::Warn,
            3 => LevelFilter::Info,
            4 => LevelFilter::Debug,
            5.. => LevelFilter::Trace,
        };
        let level = if log.is_some() { level } else { LevelFilter::Off };
        let old = SINK.swap(Some(Arc::new(Sink { log, user_data, drop, level })));
        // Of two threads the same one shall have the last word in both.
        loop {
            let level = current_level();
            log::set_max_level(level);
            if current_level() == level {
                break;
            }
        }
        // At last: the destructor may call us.
        std::mem::drop(old);
    });
}

/// One line on its way.
#[derive(Clone)]
pub(super) struct Line {
    level: i32,
    conn: fdx_conn,
    target: String,
    text: String,
}

struct Logger;

struct Sink {
    log: fdx_log_fn,
    user_data: *mut c_void,
    drop: fdx_drop_fn,
    level: LevelFilter,
}

// SAFETY: the embedder promised that its functions can be called from any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            // SAFETY: this is the last use of `user_data`, as promised.
            unsafe { drop(self.user_data) };
        }
    }
}

/// Without a lock, which a child forked at the wrong moment would find held for ever.
static SINK: ArcSwapOption<Sink> = ArcSwapOption::const_empty();

fn current_level() -> LevelFilter {
    SINK.load().as_ref().map_or(LevelFilter::Off, |sink| sink.level)
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Not what the libraries below us say of their own insides.
        metadata.target().starts_with("fullduplex")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let conn = record.key_values().get(Key::from("conn")).and_then(|value| value.to_u64());
        let line = Line {
            level: record.level() as i32,
            conn: conn.unwrap_or(0),
            target: format!("{}\0", record.target()),
            text: record.args().to_string(),
        };
        // A callback on the stack of a call would break a rule of the ABI.
        if !reentry::keep_if_in_call(&line) {
            say(&line);
        }
    }

    fn flush(&self) {}
}

pub(super) fn say(line: &Line) {
    let sink = SINK.load_full();
    if let Some(sink) = sink {
        if let Some(log) = sink.log {
            let Line { level, conn, target, text } = line;
            // SAFETY: the embedder gave this function for these arguments; `target` ends with
            // NUL, and both live until it returns.
            unsafe {
                log(sink.user_data, *level, *conn, target.as_ptr().cast(), text.as_ptr().cast(), text.len());
            }
        }
    }
}
