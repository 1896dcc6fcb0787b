//! How threads reach a shard: a list of commands, and one wake for many of them.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::listen::ListenSocket;
use crate::driver::{Accepted, Wake};
use crate::engine::Command;

/// One shard's mailbox. `S` is the driver's socket: connections are handed over here, too.
pub struct Mailbox<S> {
    mail: Mutex<Mail<S>>,
    /// Something was put in since the shard last looked: it was, or is being, woken.
    is_full: AtomicBool,
    waker: Arc<dyn Wake>,
}

/// A mailbox as other threads see it, whatever its shard's driver.
pub trait Letterbox: Send + Sync {
    /// Gives the command back if the shard is gone.
    fn post(&self, command: Command) -> Result<(), Command>;

    /// Changes where the shard listens. If it is gone the socket closes.
    fn change_listening(&self, change: Listening);

    /// Gives the shard a turn.
    fn wake(&self);
}

/// What lies in a mailbox.
pub struct Mail<S> {
    pub commands: Vec<Command>,
    pub sockets: Vec<Accepted<S>>,
    pub listening: Vec<Listening>,
    is_closed: bool,
}

/// A change of where a shard listens.
pub enum Listening {
    Begin { id: u32, socket: ListenSocket, secure: bool },
    End { id: u32 },
}

impl<S> Default for Mail<S> {
    fn default() -> Self {
        Self { commands: Vec::new(), sockets: Vec::new(), listening: Vec::new(), is_closed: false }
    }
}

impl<S> Mailbox<S> {
    pub fn new(waker: Arc<dyn Wake>) -> Self {
        Self { mail: Mutex::default(), is_full: AtomicBool::new(false), waker }
    }

    /// Gives the command back if the shard is gone.
    pub fn post(&self, command: Command) -> Result<(), Command> {
        let mut mail = self.lock();
        if mail.is_closed {
            return Err(command);
        }
        mail.commands.push(command);
        drop(mail);
        self.ring();
        Ok(())
    }

    /// Hands a connection over. Gives it back if the shard is gone.
    pub fn hand_over(&self, accepted: Accepted<S>) -> Result<(), Accepted<S>> {
        let mut mail = self.lock();
        if mail.is_closed {
            return Err(accepted);
        }
        mail.sockets.push(accepted);
        drop(mail);
        self.ring();
        Ok(())
    }

    /// Takes everything out, into `mail`, whose lists are empty and give their memory back.
    pub fn take(&self, mail: &mut Mail<S>) {
        // Lowered before looking: what comes after the look rings again.
        if self.is_full.load(SeqCst) {
            self.is_full.store(false, SeqCst);
            let mut full = self.lock();
            std::mem::swap(&mut full.commands, &mut mail.commands);
            std::mem::swap(&mut full.sockets, &mut mail.sockets);
            std::mem::swap(&mut full.listening, &mut mail.listening);
        }
    }

    /// Nothing more can be put in; gives back what is there. `None`: a connection is, and who was
    /// accepted is served.
    pub fn close(&self) -> Option<Mail<S>> {
        let mut mail = self.lock();
        let is_nobody_there = mail.sockets.is_empty();
        is_nobody_there.then(|| std::mem::replace(&mut *mail, Mail { is_closed: true, ..Mail::default() }))
    }

    fn ring(&self) {
        if !self.is_full.swap(true, SeqCst) {
            self.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mail<S>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Send> Letterbox for Mailbox<S> {
    fn post(&self, command: Command) -> Result<(), Command> {
        Mailbox::post(self, command)
    }

    fn change_listening(&self, change: Listening) {
        let mut mail = self.lock();
        if !mail.is_closed {
            mail.listening.push(change);
            drop(mail);
            self.ring();
        }
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Endpoint;
    use crate::engine::event::ClosedBy;
    use crate::id::ConnId;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::{Duration, Instant};

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(&self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn command() -> Command {
        Command::Abort { conn: ConnId::NONE, by: ClosedBy::Host }
    }

    #[test]
    fn many_commands_ring_once_until_they_are_taken() {
        let bell = Arc::new(Bell::default());
        let mailbox = Mailbox::<()>::new(bell.clone());
        let mut mail = Mail::default();
        for round in 1..4 {
            for _ in 0..100 {
                assert!(mailbox.post(command()).is_ok());
            }
            assert_eq!(bell.0.load(SeqCst), round);
            mailbox.take(&mut mail);
            assert_eq!(mail.commands.drain(..).count(), 100);
        }
    }

    #[test]
    fn mail_that_comes_while_the_shard_looks_rings_again() {
        let mailbox = Mailbox::<()>::new(Arc::new(Bell::default()));
        assert!(mailbox.post(command()).is_ok());
        thread::scope(|scope| {
            // Somebody is at the mailbox when the shard comes. What is put in behind the shard's
            // look must find the flag lowered, so that comes first.
            let mail = mailbox.lock();
            let shard = scope.spawn(|| mailbox.take(&mut Mail::default()));
            let begun = Instant::now();
            while mailbox.is_full.load(SeqCst) && begun.elapsed() < Duration::from_secs(10) {
                thread::yield_now();
            }
            let is_lowered = !mailbox.is_full.load(SeqCst);
            drop(mail);
            shard.join().unwrap();
            assert!(is_lowered);
        });
    }

    #[test]
    fn a_closed_mailbox_gives_commands_back() {
        let mailbox = Mailbox::<()>::new(Arc::new(Bell::default()));
        assert!(mailbox.post(command()).is_ok());
        assert_eq!(mailbox.close().expect("no connection is there").commands.len(), 1);
        assert!(mailbox.post(command()).is_err());
    }

    #[test]
    fn a_socket_that_comes_too_late_to_listen_is_closed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bell = Arc::new(Bell::default());
        let mailbox = Mailbox::<()>::new(bell.clone());
        assert!(mailbox.close().is_some());
        mailbox.change_listening(Listening::Begin { id: 0, socket: listener.into(), secure: false });
        assert!(std::net::TcpStream::connect(address).is_err());
        assert_eq!(bell.0.load(SeqCst), 0);
    }

    #[test]
    fn a_mailbox_closes_when_its_connections_are_taken_and_gives_later_ones_back() {
        let accepted = || Accepted { socket: (), peer: Endpoint::Unix, local: Endpoint::Unix, secure: false };
        let mailbox = Mailbox::new(Arc::new(Bell::default()));
        assert!(mailbox.hand_over(accepted()).is_ok());
        assert!(mailbox.close().is_none());
        mailbox.take(&mut Mail::default());
        assert!(mailbox.close().is_some());
        assert!(mailbox.hand_over(accepted()).is_err());
    }
}
