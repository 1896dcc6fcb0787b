//! Whose connection it is, when proxies stand before the server.

use std::cell::RefCell;
use std::rc::Rc;

use fullduplex::driver::Endpoint;
use fullduplex::engine::Command;
use fullduplex::engine::event::EventKind;
use fullduplex::protocol::Dialect;

use super::{on_every_driver, on_every_plain_driver};
use crate::peer::{self, Heard};
use crate::scene::{Client, Scene, Setup, seconds};
use crate::world::World;

/// The clients of both worlds come from here.
const TRUST_ALL: (&str, &str) = ("proxy.trusted", "198.18.0.0/15, 127.0.0.1");
const LINE: &str = "PROXY TCP4 192.0.2.7 203.0.113.1 4711 80\r\n";

fn request(headers: &str) -> Vec<u8> {
    let head = String::from_utf8(peer::request(Dialect::Rfc6455, "/")).unwrap();
    head.replacen("\r\n", &format!("\r\n{headers}"), 1).into_bytes()
}

fn connects<W: World>(scene: &mut Scene<W>, before: &[u8], headers: &str) -> Client {
    let bytes = [before, &request(headers)].concat();
    scene.connect_saying(Dialect::Rfc6455, &bytes)
}

/// Who this client is said to be; `None`: the socket's other end.
fn remote<W: World>(scene: &Scene<W>, client: Client) -> Option<String> {
    scene.tables[0].remote(scene.id(client)).map(|remote| Endpoint::Internet(remote).to_string())
}

on_every_driver! {
    fn a_trusted_proxy_says_whose_connection_it_is<W: World>() {
        let v2 = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C"[..],
            &[192, 0, 2, 7, 203, 0, 113, 1, 0x12, 0x67, 0, 80],
        ].concat();
        for (versions, header) in [("v1", LINE.as_bytes()), ("v2", &v2), ("any", LINE.as_bytes()), ("any", &v2)] {
            let mut scene = Setup::new(&[TRUST_ALL, ("proxy.protocol", versions)]).scene::<W>();
            let whole = connects(&mut scene, header, "");
            scene.opens(whole);
            assert_eq!(remote(&scene, whole).as_deref(), Some("192.0.2.7"));
            let in_pieces = scene.connect_saying(Dialect::Rfc6455, b"");
            for byte in [header, &request("")].concat() {
                scene.says(in_pieces, &[byte]);
                scene.turn();
            }
            scene.opens(in_pieces);
            assert_eq!(remote(&scene, in_pieces).as_deref(), Some("192.0.2.7"));
        }
    }

    fn a_trusted_proxy_that_does_not_say_it_is_cut<W: World>() {
        let mut scene = Setup::new(&[TRUST_ALL, ("proxy.protocol", "v2")]).scene::<W>();
        for header in ["", LINE] {
            let client = connects(&mut scene, header.as_bytes(), "");
            scene.loses(client);
        }
        let silent = scene.connect_saying(Dialect::Rfc6455, b"\r\n\r\n");
        scene.passes(seconds(10));
        scene.loses(silent);
        scene.empties();
    }

    fn nobody_else_is_believed<W: World>() {
        let nobody = [("proxy.protocol", "v1"), ("forwarded.headers", "x-forwarded-for")];
        let others = [nobody[0], nobody[1], ("proxy.trusted", "192.0.2.0/24, unix")];
        for options in [&nobody[..], &others] {
            let mut scene = Setup::new(options).scene::<W>();
            let line = connects(&mut scene, LINE.as_bytes(), "");
            scene.hears(line, &[Heard::Http(400), Heard::Fin]);
            let header = connects(&mut scene, b"", "X-Forwarded-For: 192.0.2.7\r\n");
            scene.opens(header);
            assert_eq!(remote(&scene, header), None);
        }
    }

    fn a_trusted_proxy_names_the_client_in_a_header_and_what_the_client_wrote_does_not_count<W: World>() {
        for (option, header, client_header) in [
            ("x-forwarded-for", "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 127.0.0.1\r\n", "Forwarded: for=6.6.6.6\r\n"),
            ("forwarded", "Forwarded: for=6.6.6.6, for=192.0.2.7;proto=http\r\n", "X-Forwarded-For: 6.6.6.6\r\n"),
        ] {
            let mut scene = Setup::new(&[TRUST_ALL, ("forwarded.headers", option)]).scene::<W>();
            let client = connects(&mut scene, b"", &format!("{client_header}{header}"));
            scene.opens(client);
            assert_eq!(remote(&scene, client).as_deref(), Some("192.0.2.7"));
        }
    }

    fn what_a_proxy_announced_holds_for_every_request_of_the_connection<W: World>() {
        let mut scene = Setup::new(&[TRUST_ALL, ("proxy.protocol", "v1")]).wants_http().scene::<W>();
        let asked = Rc::new(RefCell::new(Vec::new()));
        let noted = asked.clone();
        scene.on(move |_, event| {
            if event.kind == EventKind::Http {
                noted.borrow_mut().push(event.conn);
            }
        });
        let requests = "GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3);
        let client = scene.connect_saying(Dialect::Rfc6455, format!("{LINE}{requests}").as_bytes());
        for number in 0..3 {
            scene.until("it is asked", |_| asked.borrow().len() > number);
            let conn = asked.borrow()[number];
            let remote = scene.tables[0].remote(conn).expect("the proxy has told");
            assert_eq!(remote.to_string(), "192.0.2.7:4711", "request {number}");
            scene.post(Command::Answer { conn, status: 200, headers: String::new(), body: Vec::new() });
            scene.hears(client, &[Heard::Http(200)]);
        }
    }

    fn requests_of_several_clients_on_one_connection_are_told_apart<W: World>() {
        let options = [TRUST_ALL, ("forwarded.headers", "x-forwarded-for"), ("max.connections_per_ip", "1")];
        let mut scene = Setup::new(&options).wants_http().scene::<W>();
        let asked = Rc::new(RefCell::new(Vec::new()));
        let noted = asked.clone();
        scene.on(move |_, event| {
            if event.kind == EventKind::Http {
                noted.borrow_mut().push(event.conn);
            }
        });
        let bytes: String = ["192.0.2.7", "192.0.2.8", "192.0.2.7"]
            .map(|ip| format!("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {ip}\r\n\r\n"))
            .concat();
        scene.connect_saying(Dialect::Rfc6455, bytes.as_bytes());
        for (index, expected) in ["192.0.2.7", "192.0.2.8", "192.0.2.7"].into_iter().enumerate() {
            scene.until("it is asked", |_| asked.borrow().len() == index + 1);
            let conn = asked.borrow()[index];
            let remote = scene.tables[0].remote(conn).unwrap();
            assert_eq!(remote.ip().to_string(), expected);
            let answer = fullduplex::engine::Command::Answer {
                conn, status: 200, headers: String::new(), body: Vec::new(),
            };
            scene.post(answer);
        }
    }

    fn the_health_checks_of_a_proxy_come_and_go<W: World>() {
        let mut scene = Setup::new(&[TRUST_ALL, ("proxy.protocol", "v2")]).scene::<W>();
        let probe = scene.connect_saying(Dialect::Rfc6455, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
        scene.settles();
        scene.finishes(probe);
        scene.empties();
        let local = connects(&mut scene, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", "");
        scene.opens(local);
        assert_eq!(remote(&scene, local), None);
    }
}

// Over TLS there are no words yet for whom the PROXY protocol names and the gate refuses: it is cut,
// see `secure`.
on_every_plain_driver! {
    fn clients_behind_a_proxy_are_limited_each_by_its_own_address<W: World>() {
        let limit = ("max.connections_per_ip", "1");
        for (option, say) in [
            (("proxy.protocol", "v1"), (|ip| (format!("PROXY TCP4 {ip} 203.0.113.1 4711 80\r\n"), String::new()))
                as fn(&str) -> (String, String)),
            (("forwarded.headers", "x-forwarded-for"), |ip| (String::new(), format!("X-Forwarded-For: {ip}\r\n"))),
        ] {
            let mut scene = Setup::new(&[TRUST_ALL, option, limit]).scene::<W>();
            let connects_from = |scene: &mut Scene<W>, ip| {
                let (before, headers) = say(ip);
                connects(scene, before.as_bytes(), &headers)
            };
            let first = connects_from(&mut scene, "192.0.2.7");
            scene.opens(first);
            let second = connects_from(&mut scene, "192.0.2.7");
            scene.hears(second, &[Heard::Http(429), Heard::Fin]);
            let other = connects_from(&mut scene, "192.0.2.8");
            scene.opens(other);
            scene.resets(first);
            scene.until("the first is gone", |scene| scene.tables[0].counters.connections.get() == 1);
            let again = connects_from(&mut scene, "192.0.2.7");
            scene.opens(again);
        }
    }

    fn the_addresses_of_an_ipv6_network_count_as_one<W: World>() {
        let options = [TRUST_ALL, ("proxy.protocol", "v1"), ("max.connections_per_ip", "1")];
        let mut scene = Setup::new(&options).scene::<W>();
        let line = |ip: &str| format!("PROXY TCP6 {ip} 2001:db8::1 4711 80\r\n");
        let first = connects(&mut scene, line("2001:db8:1:2::7").as_bytes(), "");
        scene.opens(first);
        let neighbour = connects(&mut scene, line("2001:db8:1:2:ffff::8").as_bytes(), "");
        scene.hears(neighbour, &[Heard::Http(429), Heard::Fin]);
        let other = connects(&mut scene, line("2001:db8:1:3::7").as_bytes(), "");
        scene.opens(other);
    }
}
