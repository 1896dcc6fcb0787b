//! A backplane of the embedder's own: its functions out, what it brings in.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::config::fdx_config;
use super::error::{Failure, fdx_error};
use super::event::{FDX_BP_DOWN, FDX_BP_GAP, FDX_BP_UP, fdx_drop_fn};
use super::server::fdx_server;
use super::status::*;
use super::{NTS, bytes, guard, handle, struct_in};
use crate::backplane::{Carrier, Condition, Undelivered};

/// Hands an envelope to whoever carries it to the other servers. Called on a thread of the library's
/// own, one call at a time, as the two below: they may take their time, and may call any
/// function. `channel` is the option "backplane.prefix" with the topic, any bytes; it and `envelope`
/// are valid until the function returns.
pub type fdx_backplane_publish_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        server: *mut fdx_server,
        channel: *const c_char,
        len: usize,
        envelope: *const c_void,
        envelope_len: usize,
    ),
>;

/// From now on, or no longer, this server wants what is published on a channel.
pub type fdx_backplane_channel_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        server: *mut fdx_server,
        channel: *const c_char,
        len: usize,
    ),
>;

/// What carries published messages to other servers and theirs to this one, instead of the option
/// "backplane": NATS, a database, anything with channels. Set `struct_size` to
/// `sizeof(fdx_backplane)`. None of the three functions may be NULL.
///
/// An envelope must arrive at every server that wants its channel, in the order in which one server
/// published on it. It may come twice, and back to the server that published it: those are dropped.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fdx_backplane {
    pub struct_size: u32,
    pub reserved: u32,
    /// Given to every function.
    pub user_data: *mut c_void,
    /// Called once with `user_data` when no config and no server uses the backplane any more.
    pub drop: fdx_drop_fn,
    pub publish: fdx_backplane_publish_fn,
    pub subscribe: fdx_backplane_channel_fn,
    pub unsubscribe: fdx_backplane_channel_fn,
}

/// A backplane's functions; released when no config and no server has them any more.
pub(super) struct KeptBackplane(fdx_backplane);

// SAFETY: the embedder promised that its functions can be called from any thread.
unsafe impl Send for KeptBackplane {}
// SAFETY: as above.
unsafe impl Sync for KeptBackplane {}

impl Drop for KeptBackplane {
    fn drop(&mut self) {
        if let Some(drop) = self.0.drop {
            // SAFETY: this is the last use of `user_data`, as promised.
            unsafe { drop(self.0.user_data) };
        }
    }
}

/// The functions, and the server they are called for, which lives as long as its threads.
pub(super) struct Calls {
    pub functions: Arc<KeptBackplane>,
    pub owner: Arc<fdx_server>,
}

impl Calls {
    fn server(&self) -> *mut fdx_server {
        Arc::as_ptr(&self.owner).cast_mut()
    }
}

impl Carrier for Calls {
    fn publish(&self, channel: &[u8], envelope: &[u8]) {
        let functions = &self.functions.0;
        if let Some(publish) = functions.publish {
            let (envelope, envelope_len) = (envelope.as_ptr().cast(), envelope.len());
            let (channel, len) = (channel.as_ptr().cast(), channel.len());
            // SAFETY: the embedder gave this function for these arguments; both pointers live until
            // it returns, and so does the server.
            unsafe { publish(functions.user_data, self.server(), channel, len, envelope, envelope_len) };
        }
    }

    fn subscribe(&self, channel: &[u8]) {
        let functions = &self.functions.0;
        if let Some(subscribe) = functions.subscribe {
            let (channel, len) = (channel.as_ptr().cast(), channel.len());
            // SAFETY: as above.
            unsafe { subscribe(functions.user_data, self.server(), channel, len) };
        }
    }

    fn unsubscribe(&self, channel: &[u8]) {
        let functions = &self.functions.0;
        if let Some(unsubscribe) = functions.unsubscribe {
            let (channel, len) = (channel.as_ptr().cast(), channel.len());
            // SAFETY: as above.
            unsafe { unsubscribe(functions.user_data, self.server(), channel, len) };
        }
    }
}

/// Sets a backplane of your own for the servers made of this config. [setup] It is copied; a later
/// one takes its place. It begins UP: say with `fdx_backplane_state` when it is not.
///
/// `FDX_OK`; `FDX_E_INVALID_ARG` for NULL, also of one of the three functions. On an error `drop` is
/// not called.
///
/// # Safety
/// `config` is live; `backplane` has its `struct_size` set, and its functions can be called from any
/// thread until its `drop` was; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_config_backplane(
    config: *mut fdx_config,
    backplane: *const fdx_backplane,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let set = || -> Result<(), Failure> {
            // SAFETY: promised by the caller; null function pointers are `None`.
            let (config, backplane) =
                unsafe { (config.as_mut().ok_or(FDX_E_INVALID_ARG)?, struct_in(backplane)?) };
            let fdx_backplane { publish, subscribe, unsubscribe, .. } = backplane;
            if publish.is_none() || subscribe.is_none() || unsubscribe.is_none() {
                let what = "a backplane needs all of publish, subscribe and unsubscribe";
                return Err(Failure::new(FDX_E_INVALID_ARG, what));
            }
            config.backplane = Some(Arc::new(KeptBackplane(backplane)));
            Ok(())
        };
        // SAFETY: promised by the caller.
        set().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// Brings an envelope that came on a channel, for the server's subscribers of the topic. [any] What
/// this server has published itself, and what came before, is dropped. `len` may be `FDX_NTS`. In
/// which order you bring them is the order in which they go out.
///
/// `FDX_OK`; `FDX_E_BACKPLANE` for what is no envelope, or one of another version, or on a channel
/// without "backplane.prefix"; `FDX_E_STATE` without `fdx_config_backplane`, and before the start;
/// `FDX_E_STOPPED`; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `channel` has `len` bytes and `envelope` `envelope_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_backplane_deliver(
    server: *mut fdx_server,
    channel: *const c_char,
    len: usize,
    envelope: *const c_void,
    envelope_len: usize,
) -> fdx_status {
    guard(|| {
        // Bytes that hold zeroes have no end to look for.
        if channel.is_null() || envelope.is_null() || envelope_len == NTS {
            return Err(FDX_E_INVALID_ARG);
        }
        // SAFETY: promised by the caller.
        let (handle, channel, envelope) =
            unsafe { (handle(server)?, bytes(channel.cast(), len)?, bytes(envelope, envelope_len)?) };
        handle.server.deliver_from(channel, envelope).map(|()| FDX_OK).map_err(undelivered)
    })
}

/// Says how your backplane is: `FDX_BP_UP`, `FDX_BP_DOWN`, or `FDX_BP_GAP` when messages may have been
/// lost on it. [any] While it is DOWN publishes wait, up to "backplane.limit". At an UP after a DOWN
/// all channels are subscribed anew, then what waits is published; and FDX_EV_BACKPLANE tells of UP and
/// GAP.
///
/// `FDX_OK`; `FDX_ALREADY`; `FDX_E_STATE` without `fdx_config_backplane`; `FDX_E_STOPPED`;
/// `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_backplane_state(server: *mut fdx_server, code: i32) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        let condition = match code {
            FDX_BP_UP => Condition::Up,
            FDX_BP_DOWN => Condition::Down,
            FDX_BP_GAP => Condition::Gap,
            _ => return Err(FDX_E_INVALID_ARG),
        };
        match handle.server.set_backplane_condition(condition) {
            Ok(true) => Ok(FDX_OK),
            Ok(false) => Ok(FDX_ALREADY),
            Err(why) => Err(undelivered(why)),
        }
    })
}

fn undelivered(why: Undelivered) -> fdx_status {
    match why {
        Undelivered::Unreadable(_) | Undelivered::OtherPrefix => FDX_E_BACKPLANE,
        Undelivered::NotCustom | Undelivered::NotStarted => FDX_E_STATE,
        Undelivered::Stopped => FDX_E_STOPPED,
    }
}
