//! What the engine does, whatever the kernel is: each test runs on every driver.

mod callbacks;
mod closing;
mod deflate;
mod handshakes;
mod limits;
mod messages;
mod plain;
mod proxies;
mod shards;
mod stopping;
mod streaming;
mod timeouts;

/// Makes of each function a test on the simulated kernel and one on the real.
macro_rules! on_every_driver {
    ($($(#[$attribute:meta])* fn $name:ident<W: World>() $body:block)*) => {
        $($(#[$attribute])* fn $name<W: World>() $body)*

        mod on_sim {
            $(#[test] fn $name() { super::$name::<crate::world::SimWorld>(); })*
        }

        mod on_mio {
            $(#[test] fn $name() { super::$name::<crate::world::MioWorld>(); })*
        }
    };
}
pub(crate) use on_every_driver;
