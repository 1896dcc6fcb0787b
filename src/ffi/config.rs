//! Configuration: options by name, and routes with their handlers.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::backplane::KeptBackplane;
use super::error::{Failure, fdx_error};
use super::event::{fdx_drop_fn, fdx_event_fn};
use super::status::*;
use super::{c_text, guard, guard_or, string_out, struct_in, text};
use crate::config::{Config, OPTIONS};
use crate::engine::routes::{Route, Routes, Wants};

/// Options and routes of a server to be. [setup] Used by one thread at a time.
pub struct fdx_config {
    pub(super) config: Config,
    pub(super) routes: Routes,
    pub(super) handlers: Vec<Arc<RouteHandlers>>,
    pub(super) backplane: Option<Arc<KeptBackplane>>,
}

/// One route's handlers; released when no config and no server has them any more.
pub(super) struct RouteHandlers {
    pub handlers: fdx_handlers,
    pattern: String,
    number: u32,
}

// SAFETY: the embedder promised that its functions can be called from any thread.
unsafe impl Send for RouteHandlers {}
// SAFETY: as above.
unsafe impl Sync for RouteHandlers {}

impl fdx_config {
    /// The routes of a server that calls nobody: their flags say what they want.
    pub(super) fn polled_routes(&self) -> Result<Routes, Failure> {
        let mut routes = Routes::polled();
        for RouteHandlers { handlers, pattern, number } in self.handlers.iter().map(AsRef::as_ref) {
            if handlers.wants() != Wants::default() {
                let what = format!(
                    "the route \"{pattern}\" has callbacks, which dispatch = queue never calls: leave them NULL, \
                     set flags, and call fdx_poll"
                );
                return Err(Failure::new(FDX_E_CONFIG, what));
            }
            let has = |flag| handlers.flags & flag != 0;
            let wants = Wants {
                upgrade: has(FDX_ROUTE_UPGRADE),
                open: true,
                message: true,
                close: true,
                drain: true,
                topic: has(FDX_ROUTE_TOPIC),
                other: has(FDX_ROUTE_OTHER) || has(FDX_ROUTE_HTTP),
            };
            routes
                .add(pattern, handlers.route(*number, wants))
                .map_err(|what| Failure::new(FDX_E_CONFIG, what))?;
        }
        Ok(routes)
    }
}

impl fdx_handlers {
    fn route(&self, number: u32, wants: Wants) -> Route {
        let has = |flag| self.flags & flag != 0;
        Route { number, wants, http: has(FDX_ROUTE_HTTP), streams: has(FDX_ROUTE_STREAM) }
    }

    fn wants(&self) -> Wants {
        Wants {
            upgrade: self.on_upgrade.is_some(),
            open: self.on_open.is_some(),
            message: self.on_message.is_some(),
            close: self.on_close.is_some(),
            drain: self.on_drain.is_some(),
            topic: self.on_other.is_some() && self.flags & FDX_ROUTE_TOPIC != 0,
            other: self.on_other.is_some(),
        }
    }
}

impl Drop for RouteHandlers {
    fn drop(&mut self) {
        if let Some(drop) = self.handlers.drop {
            // SAFETY: this is the last use of `user_data`, as promised.
            unsafe { drop(self.handlers.user_data) };
        }
    }
}

/// A new config with every option at its default and no route. [any] NULL if there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn fdx_config_new() -> *mut fdx_config {
    guard_or(std::ptr::null_mut(), || {
        let (config, routes, handlers) = (Config::new(), Routes::default(), Vec::new());
        let config = fdx_config { config, routes, handlers, backplane: None };
        Box::into_raw(Box::new(config))
    })
}

/// Frees a config. Servers made of it go on. NULL is accepted.
///
/// # Safety
/// `config` is null or live, and not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_config_free(config: *mut fdx_config) {
    guard_or((), || {
        if !config.is_null() {
            // SAFETY: `fdx_config_new` made it, and the caller gives it back.
            drop(unsafe { Box::from_raw(config) });
        }
    });
}

/// Sets an option from text. [setup] Sizes take k, m, g; times us, ms, s, m, h. "listen" adds an
/// address each time. See `fdx_option` for all of them.
///
/// `FDX_OK`; `FDX_E_CONFIG` for an unknown key (the message names the nearest) or a bad value;
/// `FDX_E_INVALID_ARG` for NULL; `FDX_E_UTF8`.
///
/// # Safety
/// `config` is live; `key` and `value` end with NUL; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_config_set(
    config: *mut fdx_config,
    key: *const c_char,
    value: *const c_char,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let set = || -> Result<(), Failure> {
            // SAFETY: promised by the caller.
            let (config, key, value) =
                unsafe { (config.as_mut().ok_or(FDX_E_INVALID_ARG)?, c_text(key)?, c_text(value)?) };
            Ok(config.config.set(key, value)?)
        };
        // SAFETY: promised by the caller.
        set().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// An option's value, as it was set, or its default. [setup] Several "listen" are joined with a
/// comma. At most `cap` bytes with the NUL go to `buf`; `*needed` is set always.
///
/// `FDX_OK`; `FDX_E_BUFFER`; `FDX_E_CONFIG` for an unknown key; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `config` is live; `key` ends with NUL; `buf` has room for `cap`; `needed` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_config_get(
    config: *const fdx_config,
    key: *const c_char,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (config, key) = unsafe { (config.as_ref().ok_or(FDX_E_INVALID_ARG)?, c_text(key)?) };
        let value = config.config.get(key).map_err(|_| FDX_E_CONFIG)?;
        // SAFETY: promised by the caller.
        unsafe { string_out(value.as_bytes(), buf, cap, needed) }
    })
}

/// Sets options from lines of "key = value"; a line that begins with # is a comment. [setup]
/// `len` may be `FDX_NTS`. Lines before a bad one stay set; the message names the bad one.
///
/// `FDX_OK`; `FDX_E_CONFIG`; `FDX_E_INVALID_ARG`; `FDX_E_UTF8`.
///
/// # Safety
/// `config` is live; `data` has `len` bytes; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_config_load(
    config: *mut fdx_config,
    data: *const c_char,
    len: usize,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let load = || -> Result<(), Failure> {
            if data.is_null() {
                return Err(FDX_E_INVALID_ARG.into());
            }
            // SAFETY: promised by the caller.
            let (config, lines) = unsafe { (config.as_mut().ok_or(FDX_E_INVALID_ARG)?, text(data, len)?) };
            Ok(config.config.load(lines)?)
        };
        // SAFETY: promised by the caller.
        load().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// `fdx_server_set` can change this option while the server runs.
pub const FDX_OPTION_LIVE: u32 = 0x1;

/// One row of the option table.
#[repr(C)]
pub struct fdx_option_info {
    pub struct_size: u32,
    /// `FDX_OPTION_*`
    pub flags: u32,
    pub name: *const c_char,
    pub r#type: *const c_char,
    pub default_value: *const c_char,
    pub help: *const c_char,
}

/// Row `index` of the option table, NULL past its end. [any] Static.
#[unsafe(no_mangle)]
pub extern "C" fn fdx_option(index: usize) -> *const fdx_option_info {
    guard_or(std::ptr::null(), || TABLE.0.get(index).map_or(std::ptr::null(), std::ptr::from_ref))
}

struct Table(Vec<fdx_option_info>);

// SAFETY: the strings are never freed and never written.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

static TABLE: Lazy<Table> = Lazy::new(|| {
    let keep = |text: &str| CString::new(text).expect("the table has no NUL").into_raw().cast_const();
    let row = |option: &crate::config::OptionSpec| fdx_option_info {
        struct_size: size_of::<fdx_option_info>() as u32,
        flags: if option.live { FDX_OPTION_LIVE } else { 0 },
        name: keep(option.name),
        r#type: keep(option.kind),
        default_value: keep(option.default),
        help: keep(option.help),
    };
    Table(OPTIONS.iter().map(row).collect())
});

/// Messages come in pieces, as `FDX_EV_FRAGMENT`, to `on_message`: nothing is assembled, and
/// neither `max.message` nor `max.fragments` counts. (A Hixie message is assembled all the same
/// and comes as one piece.)
pub const FDX_ROUTE_STREAM: u32 = 0x1;
/// Plain HTTP requests of any method under the path come as `FDX_EV_HTTP` to `on_other`. With no
/// other callback the route takes no WebSockets; a polled one takes both.
pub const FDX_ROUTE_HTTP: u32 = 0x2;
/// With "dispatch" = "queue": `FDX_EV_UPGRADE` comes, and waits for a decision. (Callbacks say that by
/// `on_upgrade`.)
pub const FDX_ROUTE_UPGRADE: u32 = 0x4;
/// With "dispatch" = "queue": `FDX_EV_PING` and `FDX_EV_PONG` come. (Callbacks say that by `on_other`.)
pub const FDX_ROUTE_OTHER: u32 = 0x8;
/// `FDX_EV_TOPIC` comes for the connections of the route, to `on_other` or to be polled.
pub const FDX_ROUTE_TOPIC: u32 = 0x10;
const ROUTE_FLAGS: u32 =
    FDX_ROUTE_STREAM | FDX_ROUTE_HTTP | FDX_ROUTE_UPGRADE | FDX_ROUTE_OTHER | FDX_ROUTE_TOPIC;

/// What is called for the connections of a route. A slot left NULL is not delivered and costs
/// nothing; without `on_upgrade` every handshake is accepted that the options allow. Set
/// `struct_size` to `sizeof(fdx_handlers)`.
///
/// With "dispatch" = "queue" every callback must be NULL, and what comes is said by `flags`: OPEN,
/// MESSAGE (or FRAGMENT), DRAIN and CLOSE always.
#[repr(C)]
pub struct fdx_handlers {
    pub struct_size: u32,
    /// `FDX_ROUTE_*`
    pub flags: u32,
    /// Given to every callback.
    pub user_data: *mut c_void,
    /// Called once with `user_data` when no config and no server uses the handlers any more.
    pub drop: fdx_drop_fn,
    pub on_upgrade: fdx_event_fn,
    pub on_open: fdx_event_fn,
    pub on_message: fdx_event_fn,
    pub on_close: fdx_event_fn,
    pub on_drain: fdx_event_fn,
    /// Everything else: `FDX_EV_PING`, `FDX_EV_PONG`, `FDX_EV_HTTP`, `FDX_EV_TOPIC`, and, on the
    /// first route that has it, the server's own events.
    pub on_other: fdx_event_fn,
}

/// Adds a route. [setup] Patterns are "/chat", "/room/:id" and "/files/" followed by "*"; the
/// most specific wins. `route` is a number of yours that its events carry. The handlers are
/// copied. A path without a route gets 404.
///
/// `FDX_OK`; `FDX_E_CONFIG` for a bad pattern, one that is taken, and beyond 65,536 routes;
/// `FDX_E_INVALID_ARG` for NULL or unknown flags. On an error `drop` is not called.
///
/// # Safety
/// `config` is live; `pattern` ends with NUL; `handlers` has its `struct_size` set, and its
/// functions can be called from any thread until its `drop` was; `error` is null or has its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_config_route(
    config: *mut fdx_config,
    pattern: *const c_char,
    route: u32,
    handlers: *const fdx_handlers,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let add = || -> Result<(), Failure> {
            // SAFETY: promised by the caller; null function pointers are `None`.
            let (config, pattern, handlers) = unsafe {
                (config.as_mut().ok_or(FDX_E_INVALID_ARG)?, c_text(pattern)?, struct_in(handlers)?)
            };
            if handlers.flags & !ROUTE_FLAGS != 0 {
                return Err(Failure::new(FDX_E_INVALID_ARG, "handlers.flags has an unknown bit"));
            }
            config
                .routes
                .add(pattern, handlers.route(route, handlers.wants()))
                .map_err(|what| Failure::new(FDX_E_CONFIG, what))?;
            let kept = RouteHandlers { handlers, pattern: pattern.to_string(), number: route };
            config.handlers.push(Arc::new(kept));
            Ok(())
        };
        // SAFETY: promised by the caller.
        add().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}
