//! What the engine does, whatever the kernel is: each test runs on every driver.

mod callbacks;
mod closing;
mod deflate;
mod handshakes;
mod limits;
mod messages;
mod plain;
mod proxies;
mod secure;
mod shards;
mod stopping;
mod streaming;
mod timeouts;
mod topics;
mod unread;

/// Makes of each function a test on the simulated kernel, two on the real, one of them with io_uring, and
/// one with TLS.
macro_rules! on_every_driver {
    ($($(#[$attribute:meta])* fn $name:ident<W: World>() $body:block)*) => {
        $($(#[$attribute])* fn $name<W: World>() $body)*

        mod on_sim {
            $(#[test] fn $name() { super::$name::<crate::world::SimWorld>(); })*
        }

        mod on_mio {
            $(#[test] fn $name() { super::$name::<crate::world::MioWorld>(); })*
        }

        mod on_ring {
            $(#[test] fn $name() { super::$name::<crate::world::RingWorld>(); })*
        }

        mod on_tls {
            $(#[test] fn $name() { super::$name::<crate::secure::Secure<crate::world::SimWorld>>(); })*
        }
    };
}
pub(crate) use on_every_driver;

/// The same for what does not hold, or is something else, over TLS.
macro_rules! on_every_plain_driver {
    ($($(#[$attribute:meta])* fn $name:ident<W: World>() $body:block)*) => {
        $($(#[$attribute])* fn $name<W: World>() $body)*

        mod plainly_on_sim {
            $(#[test] fn $name() { super::$name::<crate::world::SimWorld>(); })*
        }

        mod plainly_on_mio {
            $(#[test] fn $name() { super::$name::<crate::world::MioWorld>(); })*
        }

        mod plainly_on_ring {
            $(#[test] fn $name() { super::$name::<crate::world::RingWorld>(); })*
        }
    };
}
pub(crate) use on_every_plain_driver;
