//! The C functions, called as a program would call them: from callbacks and between them, with
//! connections that are there, gone, another server's, or nobody's, while clients come, talk and
//! go. The server runs on a simulated kernel; all else is what a C program gets.
//!
//! Every call answers what its comment promises: a number that is no connection's (any more) is
//! `FDX_E_NO_CONN` in all of them, what a state forbids is refused by its name, nothing is ever
//! `FDX_E_PANIC`; no callback runs on the stack of a call; each pointer is given back once.
//!
//! The first three numbers choose the kernel, the options, and whether the program is asked.
//! Small letters are orders to clients (see `clients.rs`). A capital is a call, with a number
//! that says whose connection it is about; after `!` it is made in the next callback instead.
#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::time::Duration;

use fullduplex::driver::sim::Kernel;
use fullduplex::ffi::config::*;
use fullduplex::ffi::conn::*;
use fullduplex::ffi::event::*;
use fullduplex::ffi::handshake::*;
use fullduplex::ffi::log::fdx_set_log;
use fullduplex::ffi::send::*;
use fullduplex::ffi::server::*;
use fullduplex::ffi::stats::*;
use fullduplex::ffi::status::*;
use fullduplex::ffi::topic::*;
use fullduplex_fuzz::clients::{Asked, Clients, faults};
use fullduplex_fuzz::peer::is_hixie;
use fullduplex_fuzz::script::Script;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(prepare);
    run(Script::new(&script[..script.len().min(SCRIPT_BYTES_MAX)]));
});

fn run(mut script: Script<'_>) {
    let kernel = Kernel::new(1, faults(script.number()));
    let options = script.pick(&OPTIONS);
    let is_asked = script.pick(&[false, true]);
    let program = Program {
        kernel: kernel.clone(),
        server: Cell::new(null_mut()),
        other: Cell::new(null_mut()),
        is_asked,
        model: RefCell::default(),
        clients: RefCell::new(Clients::new(kernel.clone())),
        is_in_callback: Cell::new(false),
        drops: Cell::new(0),
    };
    // SAFETY: every pointer below lives until the server is gone, at the end of this function,
    // and all of it happens on this thread.
    unsafe {
        program.server.set(program.new_server(options));
        program.other.set(program.new_server(&[]));
        let driver = kernel.driver(true);
        let shards = start_on(program.server.get(), vec![driver]);
        let mut shard = shards.ok().and_then(|mut shards| shards.pop()).expect("it starts once");
        let mut turn = |pause: Duration| {
            kernel.pass(pause);
            program.clients.borrow_mut().pump();
            shard.turn();
            program.clients.borrow_mut().pump();
            program.check_sums();
        };
        while let Some(order) = script.order() {
            let asked = program.clients.borrow_mut().obey(order, &mut script);
            match (asked, order) {
                (Asked::Done, _) => program.model.borrow_mut().look(&program.clients.borrow()),
                (Asked::Turn, _) => turn(Duration::ZERO),
                (Asked::Pass(time), _) => {
                    program.model.borrow_mut().forget_what_lasts();
                    turn(time);
                }
                (Asked::Unknown, b'!') => {
                    let call = Call::read(&mut script);
                    program.model.borrow_mut().in_callbacks.push_back(call);
                }
                (Asked::Unknown, _) => {
                    let call = Call::begun_by(order, &mut script);
                    program.call(&call, 0);
                }
            }
        }
        turn(Duration::ZERO);
        program.model.borrow_mut().forget_what_lasts();
        let stopped = call_in(|| fdx_server_stop(program.server.get(), 1001, c"bye".as_ptr(), NTS, 0, 100));
        assert!(matches!(stopped, FDX_OK | FDX_ALREADY), "{stopped}");
        program.model.borrow_mut().stop_has_begun = true;
        kernel.set_nap_max(Duration::MAX);
        for _ in 0..STOP_TURNS_MAX {
            if shard.engine().is_finished() {
                break;
            }
            kernel.pass(Duration::from_millis(1));
            program.clients.borrow_mut().pump();
            shard.turn();
        }
        assert!(shard.engine().is_finished(), "connections that never end");
        shard.run(|| true);
        program.check_the_end();
        fdx_server_unref(program.server.get());
        fdx_server_unref(program.other.get());
    }
    // The route's own of both servers, besides those of connections.
    let pointers = program.model.borrow().pointers;
    assert_eq!(program.drops.get(), pointers + 2, "each pointer is given back once");
    assert_eq!((kernel.open_sockets(), kernel.lent_buffers()), (0, 0));
}

/// The program that calls the library.
struct Program {
    kernel: Kernel,
    server: Cell<*mut fdx_server>,
    /// Whose connections the first server must not know.
    other: Cell<*mut fdx_server>,
    is_asked: bool,
    model: RefCell<Model>,
    clients: RefCell<Clients>,
    is_in_callback: Cell<bool>,
    drops: Cell<usize>,
}

/// What must be so, as far as the program can know.
#[derive(Default)]
struct Model {
    connections: BTreeMap<fdx_conn, Known>,
    /// In the order in which they were told.
    ids: Vec<fdx_conn>,
    in_callbacks: VecDeque<Call>,
    /// Given to the library with connections.
    pointers: usize,
    stop_has_begun: bool,
    options_have_changed: bool,
}

struct Known {
    stage: Stage,
    is_hixie: bool,
    /// Its decision was given.
    is_decided: bool,
    /// Its close was begun by us, or it was aborted.
    is_ended: bool,
    /// Nothing has happened that could end it.
    lasts: bool,
    client: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Asked,
    Http,
    Open,
    /// In the callback of its CLOSE.
    Closing,
    Closed,
    /// It never was.
    Nobody,
}

/// A call that a script has ordered.
#[derive(Clone)]
struct Call {
    order: u8,
    whose: usize,
    words: Vec<u8>,
    number: usize,
}

impl Call {
    fn read(script: &mut Script<'_>) -> Self {
        let order = script.order().unwrap_or(b'S');
        Self::begun_by(order, script)
    }

    fn begun_by(order: u8, script: &mut Script<'_>) -> Self {
        let whose = script.number();
        let number =
            if matches!(order, b'C' | b'V' | b'Q' | b'X' | b'I' | b'J') { script.number() } else { 0 };
        let has_words = b"SBFMPYNHGTUK".contains(&order);
        let words = if has_words { script.words().to_vec() } else { Vec::new() };
        Self { order, whose, words, number }
    }
}

impl Model {
    fn of(&self, conn: fdx_conn) -> (Stage, bool, bool, bool, bool) {
        match self.connections.get(&conn) {
            Some(known) => (known.stage, known.is_hixie, known.is_decided, known.is_ended, known.lasts),
            None => (Stage::Nobody, false, false, false, false),
        }
    }

    /// A client that is not good any more may end at any time.
    fn look(&mut self, clients: &Clients) {
        for known in self.connections.values_mut() {
            known.lasts &= known.client.is_some_and(|client| clients.list[client].is_good);
        }
    }

    fn forget_what_lasts(&mut self) {
        self.connections.values_mut().for_each(|known| known.lasts = false);
    }

    fn ends(&mut self, conn: fdx_conn) {
        if let Some(known) = self.connections.get_mut(&conn) {
            (known.is_ended, known.lasts) = (true, false);
        }
    }

    fn all_end(&mut self) {
        for known in self.connections.values_mut() {
            (known.is_ended, known.lasts) = (true, false);
        }
    }
}

impl Program {
    unsafe fn new_server(&self, options: &[(&str, &str)]) -> *mut fdx_server {
        let handlers = fdx_handlers {
            struct_size: size_of::<fdx_handlers>() as u32,
            flags: FDX_ROUTE_HTTP | FDX_ROUTE_TOPIC,
            user_data: std::ptr::from_ref(self).cast_mut().cast(),
            drop: Some(on_drop_of_program),
            on_upgrade: self.is_asked.then_some(on_event as unsafe extern "C-unwind" fn(_, _, _)),
            on_open: Some(on_event),
            on_message: Some(on_event),
            on_close: Some(on_event),
            on_drain: Some(on_event),
            on_other: Some(on_event),
        };
        // SAFETY: all pointers are good for the time of the calls, `self` until the server is gone.
        unsafe {
            let config = fdx_config_new();
            for (key, value) in options {
                let (key, value) = (c_string(key.as_bytes()), c_string(value.as_bytes()));
                assert_eq!(fdx_config_set(config, key.as_ptr(), value.as_ptr(), null_mut()), FDX_OK);
            }
            let routed = fdx_config_route(config, c"/*".as_ptr(), 5, &handlers, null_mut());
            assert_eq!(routed, FDX_OK);
            let mut server = null_mut();
            assert_eq!(fdx_server_new(config, &mut server, null_mut()), FDX_OK);
            fdx_config_free(config);
            server
        }
    }

    /// Makes a call and looks at its answer. `own` is the connection of the event, in a callback.
    unsafe fn call(&self, call: &Call, own: fdx_conn) {
        let conn = self.whose(call.whose, own);
        let server = self.server.get();
        let (stage, is_hixie, is_decided, is_ended, lasts) = self.model.borrow().of(conn);
        let (words, len) = (call.words.as_ptr().cast::<c_void>(), call.words.len());
        let is_text = std::str::from_utf8(&call.words).is_ok();
        let lasts = lasts && !self.model.borrow().stop_has_begun && !self.model.borrow().options_have_changed;
        let gone = [FDX_E_NO_CONN];
        // What a call about an open connection may find instead, if something has ended it.
        let ending: &[fdx_status] = match (is_ended, lasts) {
            (false, true) => &[],
            _ => &[FDX_E_CLOSING, FDX_E_NO_CONN],
        };
        let before_open = [FDX_E_STATE, FDX_E_NO_CONN];
        let is = |status: fdx_status, allowed: &[&[fdx_status]]| {
            if allowed.iter().any(|allowed| allowed.contains(&status)) {
                return;
            }
            self.kernel.take_trace().iter().for_each(|step| eprintln!("{step}"));
            let order = char::from(call.order);
            panic!("{order} in {stage:?} (lasts: {lasts}, ended: {is_ended}) answers {status}");
        };
        // SAFETY: the server is live; all pointers are good for the time of the call.
        let status = unsafe {
            call_in(|| match call.order {
                b'S' => fdx_send(server, conn, FDX_TEXT, words, len, 0),
                b'B' => fdx_send(server, conn, FDX_BINARY, words, len, 0),
                b'F' => fdx_send(server, conn, FDX_TEXT, words, len, FDX_F_MORE),
                b'M' => {
                    let msg = fdx_msg_new(FDX_TEXT, words, len);
                    assert_eq!(msg.is_null(), !is_text);
                    let conns = [conn, self.whose(call.whose + 1, own)];
                    let mut results = [i32::MIN; 2];
                    let worst = fdx_send_msg(server, conns.as_ptr(), 2, msg, 0, results.as_mut_ptr());
                    fdx_msg_unref(msg);
                    match is_text {
                        true => assert_eq!(worst, worst_of(results)),
                        false => assert_eq!(worst, FDX_E_INVALID_ARG),
                    }
                    if results[1] == FDX_E_FULL {
                        self.model.borrow_mut().ends(conns[1]);
                    }
                    if is_text { results[0] } else { FDX_E_UTF8 }
                }
                b'T' => fdx_subscribe(server, conn, words.cast(), len),
                b'U' => fdx_unsubscribe(server, conn, words.cast(), len),
                b'K' => self.publish(call, conn),
                b'P' => fdx_ping(server, conn, words, len),
                b'C' => {
                    let code = CODES[call.number % CODES.len()];
                    fdx_close(server, conn, code, c"reason".as_ptr(), if code == 0 { 0 } else { NTS })
                }
                b'A' => fdx_abort(server, conn),
                b'Z' => fdx_pause(server, conn),
                b'R' => fdx_resume(server, conn),
                b'D' => {
                    let data = std::ptr::from_ref(self).cast_mut().cast();
                    fdx_conn_set_data(server, conn, data, Some(on_drop))
                }
                b'Y' => fdx_accept(server, conn, null(), words.cast(), len),
                b'N' => fdx_reject(server, conn, 403, words.cast(), len, c"no".as_ptr().cast(), NTS),
                b'H' => fdx_http_reply(server, conn, 200, null(), 0, words, len),
                b'G' => {
                    let (name, mut buf, mut needed) = (c_string(&call.words), [0x7F; 20], usize::MAX);
                    let status =
                        fdx_request_get(server, conn, name.as_ptr(), buf.as_mut_ptr(), 16, &mut needed);
                    assert!(buf[16..].iter().all(|&byte| byte == 0x7F), "it writes past the buffer");
                    assert_eq!(status == FDX_E_BUFFER, needed != usize::MAX && needed > 16);
                    status
                }
                b'I' => {
                    let mut info: fdx_conn_info = std::mem::zeroed();
                    info.struct_size = size_of::<fdx_conn_info>() as u32 - 40 * (call.number as u32 % 4);
                    let status = fdx_conn_get_info(server, conn, &mut info);
                    if status == FDX_OK {
                        assert_eq!(info.route, 5);
                    }
                    status
                }
                b'J' => {
                    let (mut conns, mut needed) = ([0; 4], 0);
                    let status = fdx_conns(server, 5, conns.as_mut_ptr(), call.number % 5, &mut needed);
                    assert_eq!(status, if needed <= call.number % 5 { FDX_OK } else { FDX_E_BUFFER });
                    let model = self.model.borrow();
                    for conn in &conns[..needed.min(call.number % 5)] {
                        let known = model.connections.get(conn);
                        assert!(known.is_none_or(|known| known.stage == Stage::Open), "{conn} is not open");
                    }
                    status
                }
                b'V' => {
                    let (key, value) = LIVE[call.number % LIVE.len()];
                    let (key, value) = (c_string(key.as_bytes()), c_string(value.as_bytes()));
                    fdx_server_set(server, key.as_ptr(), value.as_ptr(), null_mut())
                }
                b'X' => fdx_server_stop(server, 1001, null(), 0, 1000 * call.number as u32, 2000),
                b'Q' => bad_call(server, conn, call.number),
                _ => FDX_OK,
            })
        };
        self.kernel.note(|| format!("{} about {conn}: {status}", char::from(call.order)));
        assert!(
            status != FDX_E_PANIC && status != FDX_E_NOMEM,
            "{} answers {status}",
            char::from(call.order)
        );
        match (call.order, stage) {
            (b'J' | b'K', _) => return,
            (b'V', _) => {
                self.model.borrow_mut().options_have_changed = true;
                return is(status, &[&[FDX_OK, FDX_E_CONFIG, FDX_E_STATE]]);
            }
            (b'X', _) => {
                let mut model = self.model.borrow_mut();
                let expected = if model.stop_has_begun { FDX_ALREADY } else { FDX_OK };
                model.stop_has_begun = true;
                return assert_eq!(status, expected);
            }
            (b'Q', _) => {
                let refused = [FDX_E_INVALID_ARG, FDX_E_TOO_BIG, FDX_E_UTF8, FDX_E_CONFIG];
                // Whether the connection is looked at first is not promised.
                let is_there = lasts && stage != Stage::Closed;
                return is(status, &[&refused, if is_there { &[] } else { &gone }]);
            }
            (b'S' | b'B' | b'F' | b'M' | b'P' | b'C' | b'A' | b'Z' | b'R' | b'D' | b'I', _) => {}
            (b'T' | b'U' | b'Y' | b'N' | b'H' | b'G', _) => {}
            _ => return,
        }
        // Arguments are looked at before the connection, or after: both are promised.
        let wrong: &[fdx_status] = match call.order {
            b'S' | b'F' | b'M' if !is_text => &[FDX_E_UTF8],
            // A fragment may end, and begin, inside a character.
            b'S' | b'F' if stage == Stage::Open => &[FDX_E_UTF8],
            b'T' | b'U' if !(1..=255).contains(&len) => &[FDX_E_INVALID_ARG],
            b'P' if len > 125 => &[FDX_E_TOO_BIG],
            b'Y' | b'N' | b'G' if !is_text => &[FDX_E_UTF8],
            b'Y' | b'N' if len > 0 => &[FDX_E_INVALID_ARG],
            _ => &[],
        };
        match (stage, call.order) {
            (Stage::Nobody | Stage::Closed, _) => is(status, &[&gone, wrong]),
            (Stage::Closing, b'I') => is(status, &[&[FDX_OK]]),
            (Stage::Closing, b'G') => is(status, &[&[FDX_E_STATE], wrong]),
            (Stage::Closing, _) => is(status, &[&gone, wrong]),
            (Stage::Asked | Stage::Http, b'U') => is(status, &[&[FDX_ALREADY], &gone, wrong]),
            (Stage::Open, b'T' | b'U') => {
                let answer: &[fdx_status] = match (wrong.is_empty(), call.order) {
                    (false, _) => wrong,
                    (true, b'T') => &[FDX_OK, FDX_ALREADY, FDX_E_LIMIT],
                    (true, _) => &[FDX_OK, FDX_ALREADY],
                };
                is(status, &[answer, ending]);
            }
            (_, b'I') => is(status, &[&[FDX_OK], if lasts { &[] } else { &gone }]),
            (_, b'D') => {
                is(status, &[&[FDX_OK], if lasts { &[] } else { &gone }]);
            }
            (_, b'A') => {
                is(status, &[&[FDX_OK], if lasts { &[] } else { &gone }]);
                self.model.borrow_mut().ends(conn);
            }
            (Stage::Open, b'S' | b'B' | b'F' | b'M') => {
                let unsupported: &[fdx_status] =
                    if is_hixie && call.order == b'B' { &[FDX_E_UNSUPPORTED] } else { &[] };
                let taken: &[fdx_status] = match call.order {
                    b'B' if is_hixie => &[],
                    // Another kind of message may have been begun.
                    _ => &[FDX_OK, FDX_HIGH_WATER, FDX_E_STATE],
                };
                is(status, &[taken, &[FDX_E_FULL, FDX_E_TOO_BIG], unsupported, wrong, ending]);
                if status == FDX_E_FULL {
                    // `send.full` may close it.
                    self.model.borrow_mut().ends(conn);
                }
            }
            (Stage::Open, b'P') => {
                let answer: &[fdx_status] =
                    if is_hixie { &[FDX_E_UNSUPPORTED] } else { &[FDX_OK, FDX_E_FULL] };
                is(status, &[if wrong.is_empty() { answer } else { wrong }, ending]);
            }
            (Stage::Open, b'C') => {
                let answer: &[fdx_status] =
                    if is_ended || !lasts { &[FDX_OK, FDX_ALREADY] } else { &[FDX_OK] };
                is(status, &[answer, ending]);
                self.model.borrow_mut().ends(conn);
            }
            (Stage::Open, b'Z' | b'R') => is(status, &[&[FDX_OK], ending]),
            (Stage::Open, b'Y' | b'N' | b'H') => is(status, &[&before_open, wrong]),
            (Stage::Open, b'G') => {
                // In the callback of OPEN the request is there.
                let still: &[fdx_status] = match own == conn {
                    true => &[FDX_OK, FDX_E_NOT_FOUND, FDX_E_BUFFER],
                    false => &[],
                };
                is(status, &[&before_open, still, wrong]);
            }
            (Stage::Asked | Stage::Http, b'G') => {
                is(status, &[&[FDX_OK, FDX_E_NOT_FOUND, FDX_E_BUFFER], &before_open, wrong]);
            }
            (Stage::Asked, b'Y' | b'N') | (Stage::Http, b'H') => {
                let answer: &[fdx_status] = if is_decided { &[] } else { &[FDX_OK] };
                is(status, &[answer, &before_open, wrong]);
                if status == FDX_OK {
                    let mut model = self.model.borrow_mut();
                    model.connections.get_mut(&conn).expect("it was asked").is_decided = true;
                }
            }
            (Stage::Asked | Stage::Http, _) => is(status, &[&before_open, wrong]),
            (Stage::Open, _) => unreachable!("all orders stand above"),
        }
        if call.order == b'D' && status == FDX_OK {
            self.model.borrow_mut().pointers += 1;
        }
    }

    /// Publishes to the topic that the first byte names, all words that there are.
    unsafe fn publish(&self, call: &Call, sender: fdx_conn) -> fdx_status {
        let (server, topic) = (self.server.get(), &call.words[..call.words.len().min(1)]);
        let kind = if call.number % 2 == 0 { FDX_TEXT } else { FDX_BINARY };
        let flags = if call.number % 3 == 0 { FDX_F_SKIP_SENDER } else { 0 };
        // SAFETY: the server is live; all pointers are good for the time of the calls.
        unsafe {
            let mut subscribers = 0;
            let counted = fdx_topic_count(server, topic.as_ptr().cast(), topic.len(), &mut subscribers);
            let msg = fdx_msg_new(kind, call.words.as_ptr().cast(), call.words.len());
            let mut result: fdx_publish_result = std::mem::zeroed();
            result.struct_size = size_of::<fdx_publish_result>() as u32;
            let (name, len) = (topic.as_ptr().cast(), topic.len());
            let status = fdx_publish(server, name, len, msg, flags, sender, &mut result);
            fdx_msg_unref(msg);
            let is_good = !topic.is_empty() && !msg.is_null();
            assert_eq!(counted, if topic.is_empty() { FDX_E_INVALID_ARG } else { FDX_OK });
            match status {
                FDX_OK => assert!(is_good),
                FDX_E_TOO_BIG => assert!(is_good && call.words.len() > 1000),
                status => assert_eq!((status, is_good), (FDX_E_INVALID_ARG, false)),
            }
            assert!(result.queued + result.high_water + result.dropped <= subscribers);
            if result.dropped > 0 {
                // `send.full` may close any of them.
                self.model.borrow_mut().all_end();
            }
            status
        }
    }

    /// Whose connection a number of the script means.
    fn whose(&self, number: usize, own: fdx_conn) -> fdx_conn {
        let model = self.model.borrow();
        let known = |index: usize| model.ids.get(index % model.ids.len().max(1)).copied();
        match number % 16 {
            index @ 0..8 => known(index).unwrap_or(1),
            8 => 0,
            9 => u64::MAX,
            // As another server, another shard, another age would number it.
            10 => known(0).map_or(77, |conn| conn ^ 1 << 30),
            11 => known(0).map_or(77, |conn| conn | 1 << 45),
            12 => known(0).map_or(77, |conn| conn + 0x100),
            13 => 1 << 53 | known(0).unwrap_or(1),
            14 => model.ids.last().copied().unwrap_or(1),
            _ => own,
        }
    }

    /// What the server says of itself, between two turns.
    fn check_sums(&self) {
        let mut stats: fdx_stats = unsafe { std::mem::zeroed() };
        stats.struct_size = size_of::<fdx_stats>() as u32;
        // SAFETY: the server is live and `stats` has its size.
        assert_eq!(unsafe { call_in(|| fdx_get_stats(self.server.get(), &mut stats)) }, FDX_OK);
        let model = self.model.borrow();
        let open = model.connections.values().filter(|known| known.stage == Stage::Open).count() as u64;
        assert_eq!(stats.faults, 0, "a panic was contained");
        // OPEN may be queued and not told yet.
        assert!(stats.connections >= open, "{} of {open} are open", stats.connections);
        assert!(stats.peak_connections >= stats.connections && stats.accepted >= stats.connections);
    }

    fn check_the_end(&self) {
        self.check_sums();
        let model = self.model.borrow();
        for (conn, known) in &model.connections {
            assert!(known.stage != Stage::Open, "{conn} was opened and never closed");
            // SAFETY: the server is live.
            let sent = unsafe { fdx_send(self.server.get(), *conn, FDX_TEXT, null(), 0, 0) };
            assert_eq!(sent, FDX_E_NO_CONN);
        }
        // SAFETY: the server is live.
        let stopped = unsafe { fdx_server_stop(self.server.get(), 0, null(), 0, 0, 0) };
        assert_eq!(stopped, FDX_ALREADY);
    }

    /// Can this be told, and what is so from now on?
    fn note(&self, event: &fdx_event) {
        let mut model = self.model.borrow_mut();
        let before = model.connections.get(&event.conn).map(|known| known.stage);
        let asked = if self.is_asked { Some(Stage::Asked) } else { None };
        let (is_allowed, after) = match u32::from(event.r#type) {
            FDX_EV_UPGRADE => (before.is_none() && self.is_asked, Stage::Asked),
            FDX_EV_HTTP => (before.is_none(), Stage::Http),
            FDX_EV_OPEN => (before == asked, Stage::Open),
            FDX_EV_CLOSE => (before == Some(Stage::Open), Stage::Closing),
            _ => (before == Some(Stage::Open), Stage::Open),
        };
        assert!(is_allowed, "event {} when it is {before:?}", event.r#type);
        if before.is_none() {
            model.ids.push(event.conn);
        }
        let known = model.connections.entry(event.conn).or_insert(Known {
            stage: after,
            is_hixie: false,
            is_decided: false,
            is_ended: false,
            lasts: false,
            client: None,
        });
        known.stage = after;
        if u32::from(event.r#type) == FDX_EV_TOPIC && event.code == FDX_TOPIC_LEFT {
            // Perhaps because it is over.
            (known.is_ended, known.lasts) = (true, false);
        }
        if u32::from(event.r#type) == FDX_EV_OPEN {
            known.client = self.client_of(event.conn);
            if let Some(client) = known.client {
                let client = &self.clients.borrow().list[client];
                known.is_hixie = is_hixie(client.dialect);
                known.lasts = client.is_good && !known.is_ended;
            } else {
                known.is_hixie = self.speaks_hixie(event.conn);
            }
        }
    }

    fn client_of(&self, conn: fdx_conn) -> Option<usize> {
        let (mut path, mut needed) = ([0; 100], 0);
        // SAFETY: the server is live; the buffer has the room.
        let status = unsafe {
            let (path, cap): (*mut c_char, _) = (path.as_mut_ptr(), path.len());
            call_in(|| fdx_request_get(self.server.get(), conn, c":path".as_ptr(), path, cap, &mut needed))
        };
        if status != FDX_OK {
            // A path longer than any that a good client asks for.
            assert_eq!(status, FDX_E_BUFFER, "the request is kept until OPEN is told");
            return None;
        }
        let path: Vec<u8> = path[..needed - 1].iter().map(|&char| char as u8).collect();
        Clients::by_path(&path)
    }

    fn speaks_hixie(&self, conn: fdx_conn) -> bool {
        // SAFETY: the server is live and `info` has its size.
        let info = unsafe {
            let mut info: fdx_conn_info = std::mem::zeroed();
            info.struct_size = size_of::<fdx_conn_info>() as u32;
            assert_eq!(call_in(|| fdx_conn_get_info(self.server.get(), conn, &mut info)), FDX_OK);
            info
        };
        info.version > 70
    }
}

unsafe extern "C-unwind" fn on_event(program: *mut c_void, server: *mut fdx_server, event: *const fdx_event) {
    // SAFETY: given to the route above; it lives as long as the server.
    let (program, event) = unsafe { (&*program.cast::<Program>(), &*event) };
    assert!(!IN_CALL.get(), "a callback on the stack of a call");
    assert_eq!(server, program.server.get());
    assert_ne!(u32::from(event.r#type), FDX_EV_FAULT, "a panic was contained");
    if event.conn == 0 {
        return;
    }
    assert!(!program.is_in_callback.replace(true), "a callback inside another");
    assert!(event.conn < 1 << 53 && event.route == 5);
    assert!(event.conn_data.is_null() || event.conn_data == std::ptr::from_ref(program).cast_mut().cast());
    program.kernel.note(|| format!("event {} of {}, {} bytes", event.r#type, event.conn, event.len));
    program.note(event);
    let data = match event.len {
        0 => &[][..],
        // SAFETY: the event's bytes live until the callback returns.
        len => unsafe { std::slice::from_raw_parts(event.data, len) },
    };
    let is_text = event.flags & FDX_EVF_BINARY == 0;
    if u32::from(event.r#type) == FDX_EV_MESSAGE && is_text {
        assert!(std::str::from_utf8(data).is_ok(), "a text is UTF-8");
    }
    loop {
        let Some(call) = program.model.borrow_mut().in_callbacks.pop_front() else { break };
        // SAFETY: the server is live in its callback.
        unsafe { program.call(&call, event.conn) };
        if program.model.borrow().in_callbacks.len() % 3 == 0 {
            break;
        }
    }
    if u32::from(event.r#type) == FDX_EV_MESSAGE {
        let kind = if is_text { FDX_TEXT } else { FDX_BINARY };
        // The event's own bytes, which may be passed on without a copy.
        // SAFETY: as above.
        let sent = unsafe {
            call_in(|| fdx_send(program.server.get(), event.conn, kind, event.data.cast(), event.len, 0))
        };
        assert_ne!(sent, FDX_E_PANIC);
        if sent == FDX_E_FULL {
            program.model.borrow_mut().ends(event.conn);
        }
    }
    if u32::from(event.r#type) == FDX_EV_CLOSE {
        let mut model = program.model.borrow_mut();
        model.connections.get_mut(&event.conn).expect("it was noted").stage = Stage::Closed;
    }
    program.is_in_callback.set(false);
}

unsafe extern "C-unwind" fn on_drop(program: *mut c_void) {
    assert!(!IN_CALL.get(), "a connection's destructor on the stack of a call");
    // SAFETY: it lives as long as the server.
    let program = unsafe { &*program.cast::<Program>() };
    program.drops.set(program.drops.get() + 1);
}

unsafe extern "C-unwind" fn on_drop_of_program(program: *mut c_void) {
    // SAFETY: it lives as long as the server.
    let program = unsafe { &*program.cast::<Program>() };
    program.drops.set(program.drops.get() + 1);
}

unsafe extern "C-unwind" fn on_log(
    _: *mut c_void,
    level: i32,
    _: fdx_conn,
    target: *const c_char,
    text: *const c_char,
    len: usize,
) {
    assert!(!IN_CALL.get(), "a line of the log on the stack of a call");
    // SAFETY: `target` ends with NUL and `text` has `len` bytes.
    let (target, text) =
        unsafe { (std::ffi::CStr::from_ptr(target), std::slice::from_raw_parts(text.cast::<u8>(), len)) };
    assert!(target.to_bytes().starts_with(b"fullduplex") && std::str::from_utf8(text).is_ok());
    assert!((1..=5).contains(&level));
}

/// Calls that no program should make.
unsafe fn bad_call(server: *mut fdx_server, conn: fdx_conn, number: usize) -> fdx_status {
    let byte = b"x".as_ptr().cast::<c_void>();
    let long = [b'x' as c_char; 124];
    // SAFETY: where a pointer is wrong it is null, which is allowed.
    unsafe {
        match number {
            0 => fdx_send(null_mut(), conn, FDX_TEXT, byte, 1, 0),
            1 => fdx_send(server, conn, FDX_TEXT, null(), 1, 0),
            2 => fdx_send(server, conn, 3, byte, 1, 0),
            3 => fdx_send(server, conn, FDX_TEXT, byte, 1, 0x80),
            4 => fdx_close(server, conn, 1005, null(), 0),
            5 => fdx_close(server, conn, 1000, long.as_ptr(), long.len()),
            6 => fdx_close(server, conn, 1000, c"\xFF".as_ptr(), NTS),
            7 => fdx_send(server, conn, FDX_TEXT, byte, usize::MAX - 1, 0),
            8 => fdx_reject(server, conn, 200, null(), 0, null(), 0),
            9 => fdx_http_reply(server, conn, 600, null(), 0, null(), 0),
            10 => fdx_conn_get_info(server, conn, null_mut()),
            11 => fdx_request_get(server, conn, null(), null_mut(), 0, null_mut()),
            12 => fdx_server_set(server, c"max.mesage".as_ptr(), c"1".as_ptr(), null_mut()),
            13 => fdx_send_msg(server, null(), 1, null_mut(), 0, null_mut()),
            14 => fdx_conns(server, 0, null_mut(), 1, null_mut()),
            _ => fdx_server_stop(server, 1006, null(), 0, 0, 0),
        }
    }
}

/// Nothing of ours may be called while this runs.
fn call_in<R>(call: impl FnOnce() -> R) -> R {
    IN_CALL.set(true);
    let result = call();
    IN_CALL.set(false);
    result
}

/// As `fdx_send_msg` says: the lowest if any is negative, else the highest.
fn worst_of(results: [fdx_status; 2]) -> fdx_status {
    let [low, high] = [results[0].min(results[1]), results[0].max(results[1])];
    if low < 0 { low } else { high }
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes.iter().copied().filter(|&byte| byte != 0).collect::<Vec<u8>>()).expect("without NUL")
}

/// Servers silence panics, whose words a fuzzer needs; and the log is on.
fn prepare() {
    let hook = std::panic::take_hook();
    // SAFETY: the config and the server are used here alone.
    unsafe {
        let config = fdx_config_new();
        let handlers = fdx_handlers { struct_size: size_of::<fdx_handlers>() as u32, ..std::mem::zeroed() };
        fdx_config_route(config, c"/".as_ptr(), 0, &handlers, null_mut());
        let mut server = null_mut();
        assert_eq!(fdx_server_new(config, &mut server, null_mut()), FDX_OK);
        fdx_config_free(config);
        fdx_server_unref(server);
        fdx_set_log(5, Some(on_log), null_mut(), None);
    }
    std::panic::set_hook(hook);
}

thread_local! {
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
}

const OPTIONS: [&[(&str, &str)]; 5] = [
    &[],
    &[("max.message", "100"), ("send.high_water", "1"), ("send.low_water", "0")],
    &[("send.limit", "1k"), ("send.full", "drop"), ("send.high_water", "500")],
    &[("send.limit", "2k"), ("send.full", "close")],
    &[("timeout.handshake", "100ms"), ("timeout.close", "100ms"), ("ping.interval", "100ms")],
];
/// Options that are changed while the server runs; some can't be.
const LIVE: [(&str, &str); 6] = [
    ("max.message", "1k"),
    ("send.limit", "1k"),
    ("ping.interval", "50ms"),
    ("threads", "2"),
    ("max.connections", "lots"),
    ("timeout.idle", "1s"),
];
const CODES: [u16; 5] = [1000, 0, 1001, 3000, 4999];
const NTS: usize = usize::MAX;
const SCRIPT_BYTES_MAX: usize = 2000;
const STOP_TURNS_MAX: usize = 5000;
