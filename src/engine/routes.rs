//! Which of the embedder's handlers a path belongs to.
//!
//! Patterns are `/chat`, `/room/:id` and `/files/*`; the most specific wins. matchit keeps
//! them; this says what C users write in the words matchit reads.

use std::sync::Arc;

use matchit::Router;

use crate::config::TEXT_BYTES_MAX;
use crate::protocol::http::percent_decoded;

/// All routes of a server. The same for every shard.
#[derive(Clone, Default)]
pub struct Routes {
    list: Vec<Route>,
    sockets: Paths,
    http: Paths,
    /// The server's own events are polled, whatever the routes listen to.
    is_polled: bool,
}

/// The patterns of one kind of request. A pattern without a star beats one with.
#[derive(Clone, Default)]
struct Paths {
    whole: Router<usize>,
    /// `/files/*` as `/files/{*rest}`…
    stars: Router<usize>,
    /// … and as `/files/`, which it takes, too.
    bases: Router<usize>,
}

#[derive(Clone, Debug)]
pub struct Route {
    /// The embedder's number for it.
    pub number: u32,
    pub wants: Wants,
    /// Plain HTTP requests, too.
    pub http: bool,
    /// Messages are told in pieces, as they come.
    pub streams: bool,
}

/// What the embedder listens to. The rest is not even made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wants {
    pub upgrade: bool,
    pub open: bool,
    pub message: bool,
    pub close: bool,
    pub drain: bool,
    pub topic: bool,
    pub other: bool,
}

impl Wants {
    /// Is there anything to tell of a WebSocket?
    fn sockets(&self) -> bool {
        self.upgrade || self.open || self.message || self.close || self.drain || self.topic
    }
}

/// Parameters found in a path, decoded.
pub type Parameters = Arc<[(String, String)]>;

impl Routes {
    /// No routes yet, of a server whose events are polled.
    pub fn polled() -> Self {
        Self { is_polled: true, ..Self::default() }
    }

    /// Adds a pattern; the error says what is wrong with it.
    pub fn add(&mut self, pattern: &str, route: Route) -> Result<(), String> {
        if pattern.len() > TEXT_BYTES_MAX {
            return Err(format!("a pattern has at most {TEXT_BYTES_MAX} bytes"));
        }
        let index = self.list.len();
        if index == ROUTES_MAX {
            return Err(format!("there are {ROUTES_MAX} routes already"));
        }
        let form = Form::parse(pattern)?;
        let clash = |_| format!("the pattern \"{pattern}\" is taken by another route already");
        let (for_sockets, for_http) = (route.wants.sockets() || !route.http, route.http);
        // Both or none: the second is tried on a copy.
        let mut sockets = self.sockets.clone();
        if for_sockets {
            sockets.add(&form, index).map_err(clash)?;
        }
        if for_http {
            self.http.add(&form, index).map_err(clash)?;
        }
        self.sockets = sockets;
        self.list.push(route);
        Ok(())
    }

    pub fn get(&self, index: usize) -> &Route {
        &self.list[index]
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The route that hears the server's own events: the first that listens to them.
    pub fn for_server(&self) -> Option<usize> {
        self.list.iter().position(|route| route.wants.other || self.is_polled)
    }

    /// Does anyone want to hear who joins a topic, and who leaves?
    pub fn want_topics(&self) -> bool {
        self.list.iter().any(|route| route.wants.topic)
    }

    pub fn find_socket(&self, path: &str) -> Option<(usize, Parameters)> {
        self.sockets.find(path)
    }

    pub fn find_http(&self, path: &str) -> Option<(usize, Parameters)> {
        self.http.find(path)
    }
}

impl Paths {
    /// All of a pattern or nothing.
    fn add(&mut self, form: &Form, index: usize) -> Result<(), matchit::InsertError> {
        match form {
            Form::Whole(path) => self.whole.insert(path, index),
            Form::Star(base) => {
                self.stars.insert(format!("{base}{{*{REST}}}"), index)?;
                self.bases.insert(base, index)
            }
        }
    }

    fn find(&self, path: &str) -> Option<(usize, Parameters)> {
        let routers = [&self.whole, &self.bases, &self.stars];
        let found = routers.into_iter().find_map(|router| router.at(path).ok())?;
        let parameters = found.params.iter().map(|(name, value)| {
            let name = if name == REST { "*" } else { name };
            (name.to_string(), percent_decoded(value))
        });
        Some((*found.value, parameters.collect()))
    }
}

/// A pattern in matchit's words.
enum Form {
    Whole(String),
    /// What stands before the star.
    Star(String),
}

impl Form {
    fn parse(pattern: &str) -> Result<Form, String> {
        if !pattern.starts_with('/') {
            return Err(format!("the pattern \"{pattern}\" must begin with /"));
        }
        let mut form = String::new();
        let mut segments = pattern[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            form.push('/');
            if segment == "*" {
                if segments.peek().is_some() {
                    return Err(format!("in the pattern \"{pattern}\" the * must be the last segment"));
                }
                return Ok(Form::Star(form));
            }
            if let Some(name) = segment.strip_prefix(':') {
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    return Err(format!(
                        "in the pattern \"{pattern}\" a parameter needs a name of letters and digits"
                    ));
                }
                form.push_str(&format!("{{{name}}}"));
            } else if segment.contains(['*', '{', '}', '?', '#']) {
                return Err(format!("in the pattern \"{pattern}\" only a whole segment can be * or :name"));
            } else {
                form.push_str(segment);
            }
        }
        Ok(Form::Whole(form))
    }
}

/// Each connection knows its route's place in two bytes.
const ROUTES_MAX: usize = 1 << 16;
/// The name of what `*` took, in matchit's words; no parameter of an embedder can have it.
const REST: &str = "rest-of-the-path";

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(patterns: &[(&str, bool)]) -> Routes {
        let mut routes = Routes::default();
        for (number, &(pattern, http)) in patterns.iter().enumerate() {
            routes
                .add(pattern, Route { number: number as u32, wants: Wants::default(), http, streams: false })
                .unwrap();
        }
        routes
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let routes =
            routes(&[("/*", false), ("/room/:id", false), ("/room/lobby", false), ("/files/*", false)]);
        let number = |path| routes.find_socket(path).map(|(index, _)| index);
        assert_eq!(number("/"), Some(0));
        assert_eq!(number("/x/y"), Some(0));
        assert_eq!(number("/room/lobby"), Some(2));
        assert_eq!(number("/room/7"), Some(1));
        assert_eq!(number("/files/"), Some(3));
        assert_eq!(number("/files/a/b"), Some(3));
    }

    #[test]
    fn a_page_at_the_root_stands_beside_a_star_for_everything() {
        let routes = routes(&[("/*", false), ("/", true), ("/room/:id", false), ("/room/*", false)]);
        let number = |path| routes.find_socket(path).map(|(index, _)| index);
        assert_eq!(routes.find_http("/").map(|(index, _)| index), Some(1));
        assert_eq!((number("/"), number("/x")), (Some(0), Some(0)));
        assert_eq!((number("/room/1"), number("/room/"), number("/room/1/2")), (Some(2), Some(3), Some(3)));
    }

    /// A connection has two bytes for its place.
    #[test]
    fn a_route_too_many_is_refused_and_those_before_it_stay() {
        let mut routes = routes(&[("/chat", false)]);
        let another = Route { number: 1, wants: Wants::default(), http: false, streams: false };
        routes.list.resize(ROUTES_MAX - 1, another.clone());
        routes.add("/last", another.clone()).unwrap();
        assert_eq!(routes.add("/more", another), Err("there are 65536 routes already".into()));
        assert_eq!(routes.find_socket("/last").map(|(index, _)| index), Some(usize::from(u16::MAX)));
        assert_eq!(routes.find_socket("/chat").map(|(index, _)| index), Some(0));
        assert!(routes.find_socket("/more").is_none());
    }

    #[test]
    fn parameters_are_decoded() {
        let routes = routes(&[("/room/:id/:who", false), ("/files/*", false)]);
        let (_, parameters) = routes.find_socket("/room/a%20b/c").unwrap();
        assert_eq!(&*parameters, [("id".into(), "a b".into()), ("who".into(), "c".into())]);
        assert_eq!(&*routes.find_socket("/files/x/y").unwrap().1, [("*".into(), "x/y".into())]);
        assert!(routes.find_socket("/room/1").is_none());
    }

    #[test]
    fn a_plain_request_finds_only_routes_that_answer_them_and_a_socket_only_the_others() {
        let mut routes = routes(&[("/*", false), ("/page", true)]);
        assert!(routes.find_http("/page").is_some());
        assert!(routes.find_http("/").is_none());
        assert_eq!(routes.find_socket("/page").map(|(index, _)| index), Some(0));
        let wants = Wants { message: true, ..Wants::default() };
        routes.add("/both", Route { number: 2, wants, http: true, streams: false }).unwrap();
        assert_eq!(routes.find_http("/both").map(|(index, _)| index), Some(2));
        assert_eq!(routes.find_socket("/both").map(|(index, _)| index), Some(2));
    }

    #[test]
    fn a_bad_pattern_is_refused_with_the_reason() {
        for bad in ["chat", "/a/*/b", "/a*", "/:", "/:a-b", "/{a}", "/a?b", ""] {
            assert!(Form::parse(bad).is_err(), "{bad:?}");
        }
        let mut routes = routes(&[("/a/:b", false)]);
        let again = Route { number: 1, wants: Wants::default(), http: false, streams: false };
        assert!(routes.add("/a/:c", again.clone()).unwrap_err().contains("taken"));
        routes.add("/b/*", again.clone()).unwrap();
        assert!(routes.add("/b/*", again).is_err());
        assert_eq!(routes.find_socket("/b/").map(|(index, _)| index), Some(1));
    }

    #[test]
    fn a_pattern_may_have_exactly_the_bytes_of_the_limit() {
        let mut routes = Routes::default();
        let pattern = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        let route = Route { number: 0, wants: Wants::default(), http: false, streams: false };
        assert!(routes.add(&pattern(TEXT_BYTES_MAX + 1), route.clone()).unwrap_err().contains("at most"));
        assert!(routes.add(&pattern(TEXT_BYTES_MAX), route).is_ok());
    }
}
