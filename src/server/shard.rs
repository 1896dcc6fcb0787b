//! One thread that owns everything its connections need, and lives in turns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use log::{error, warn};

use super::mailbox::{Listening, Mail, Mailbox};
use crate::driver::{Accepted, Batch, Driver};
use crate::engine::event::{Event, EventKind};
use crate::engine::turn::Handler;
use crate::engine::{Command, Engine};

pub struct Shard<D: Driver, H: Handler> {
    driver: D,
    engine: Engine,
    mailbox: Arc<Mailbox<D::Socket>>,
    /// All shards' mailboxes, when this one listens for all.
    spread_over: Vec<Arc<Mailbox<D::Socket>>>,
    spread_next: usize,
    handler: H,
    batch: Batch<D::Socket>,
    mail: Mail<D::Socket>,
    listens: bool,
    accepts: bool,
}

impl<D: Driver, H: Handler> Shard<D, H> {
    pub fn new(
        driver: D,
        engine: Engine,
        mailbox: Arc<Mailbox<D::Socket>>,
        handler: H,
        arena_bytes: usize,
    ) -> Self {
        Self {
            driver,
            engine,
            mailbox,
            spread_over: Vec::new(),
            spread_next: 0,
            handler,
            batch: Batch::new(arena_bytes),
            mail: Mail::default(),
            listens: true,
            accepts: true,
        }
    }

    /// New connections go round all these shards, this one included.
    pub fn spread_over(&mut self, mailboxes: Vec<Arc<Mailbox<D::Socket>>>) {
        self.spread_over = mailboxes;
    }

    /// What the shard's thread has to do before it may be said that the server has started.
    pub fn begin(&mut self) {
        self.driver.begin();
    }

    /// The whole life of the shard's thread, up to its last event.
    pub fn run(mut self, is_last: impl FnOnce() -> bool) {
        self.tell(EventKind::ThreadStart);
        self.engine.warn_of_settings();
        let left = loop {
            while !self.engine.is_finished() {
                self.turn();
            }
            match self.mailbox.close() {
                Some(left) => break left,
                None => self.turn(),
            }
        };
        for command in left.commands {
            self.engine.obey(command);
        }
        if is_last() {
            self.tell(EventKind::Stopped);
        }
        self.tell(EventKind::ThreadStop);
    }

    /// wait, receive, deliver, distribute, flush.
    pub fn turn(&mut self) {
        if let Err(error) = self.driver.wait(self.engine.next_deadline(), &mut self.batch) {
            error!(target: "fullduplex::driver", "waiting failed: {error}");
            self.driver.pause(PAUSE_AFTER_ERROR);
        }
        self.engine.begin_turn(self.driver.now());
        self.go_through(Part::Arrivals);
        if self.accepts == self.handler.is_crowded() {
            self.accepts = !self.accepts;
            self.driver.set_accepting(self.accepts);
        }
        if self.listens && self.engine.is_stopping() {
            self.listens = false;
            self.driver.stop_listening();
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn mailbox(&self) -> &Arc<Mailbox<D::Socket>> {
        &self.mailbox
    }

    /// The parts of the turn from this one on. One that panics is gone through again, until it ends
    /// without; each panic costs the connection that was worked on.
    fn go_through(&mut self, mut part: Part) {
        // Every part takes its work out of a list before doing it, so what is left after a
        // panic is what was not begun.
        while catch_unwind(AssertUnwindSafe(|| self.go_on(&mut part))).is_err() {
            self.engine.contain_panic();
        }
    }

    /// `part` tells how far this has come.
    #[inline]
    fn go_on(&mut self, part: &mut Part) {
        if *part == Part::Arrivals {
            self.take_new_connections();
            *part = Part::Receive;
        }
        if *part == Part::Receive {
            self.engine.receive(&mut self.batch.completions, &mut self.batch.arena);
            *part = Part::Mail;
        }
        if *part == Part::Mail {
            self.take_mail();
            *part = Part::Timeouts;
        }
        if *part == Part::Timeouts {
            self.engine.handle_timeouts();
            *part = Part::Deliver;
        }
        if *part == Part::Deliver {
            self.engine.deliver(&self.batch.arena, &mut self.handler);
            *part = Part::Distribute;
        }
        if *part == Part::Distribute {
            self.engine.distribute();
            *part = Part::Flush;
        }
        if *part == Part::Flush {
            self.engine.flush(&mut self.driver, &self.batch.arena);
        }
    }

    fn take_new_connections(&mut self) {
        if let Some(error) = self.batch.listener_trouble.take() {
            let text = format!("can't accept: {error}; trying again shortly");
            warn!(target: "fullduplex::listen", "{text}");
            self.engine.obey(Command::Tell(Event::of_server(EventKind::Listener, &text)));
        }
        while let Some(accepted) = self.batch.accepted.pop() {
            if self.spread_over.is_empty() {
                self.adopt(accepted);
            } else {
                let next = self.spread_next % self.spread_over.len();
                self.spread_next = next + 1;
                // A shard that has stopped already is gone; this one, which listens, is not.
                if let Err(accepted) = self.spread_over[next].hand_over(accepted) {
                    self.adopt(accepted);
                }
            }
        }
    }

    fn adopt(&mut self, accepted: Accepted<D::Socket>) {
        let Some(slot) = self.engine.admit(&accepted) else { return };
        if let Err(error) = self.driver.adopt(slot, accepted.socket) {
            warn!(target: "fullduplex::driver", "can't take a connection: {error}");
            self.engine.forget_unadopted(slot);
        }
    }

    fn take_mail(&mut self) {
        // After a panic the rest is still there.
        self.engine.obey_submitted();
        if self.mail.commands.is_empty() && self.mail.sockets.is_empty() && self.mail.listening.is_empty() {
            self.mailbox.take(&mut self.mail);
            self.mail.commands.reverse();
        }
        while let Some(command) = self.mail.commands.pop() {
            self.engine.obey(command);
        }
        while let Some(accepted) = self.mail.sockets.pop() {
            self.adopt(accepted);
        }
        for change in self.mail.listening.drain(..) {
            match change {
                Listening::Begin { id, socket, secure } => {
                    if let Err(error) = self.driver.listen(id, socket, secure) {
                        warn!(target: "fullduplex::listen", "can't listen: {error}");
                    }
                }
                Listening::End { id } => self.driver.unlisten(id),
            }
        }
    }

    /// Delivers an event of the server itself, at once.
    fn tell(&mut self, kind: EventKind) {
        self.engine.obey(Command::Tell(Event::of_server(kind, "")));
        while catch_unwind(AssertUnwindSafe(|| self.engine.deliver(&self.batch.arena, &mut self.handler)))
            .is_err()
        {
            self.engine.contain_panic();
        }
    }
}

/// A part of a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Arrivals,
    Receive,
    Mail,
    Timeouts,
    Deliver,
    Distribute,
    Flush,
}

const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
