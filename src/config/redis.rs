//! Where Redis is, and as whom to speak to it: the option `backplane`.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// One or several URLs between commas. A further server may be given as `host:port` alone: it
/// is spoken to as the first one is.
pub(super) fn redis_servers(value: &str) -> Result<Vec<ConnectionInfo>, String> {
    let mut servers = Vec::new();
    let mut first: Option<&str> = None;
    for place in value.split(',').map(str::trim).filter(|place| !place.is_empty()) {
        let url = match first {
            Some(first) if !place.contains("://") => like(first, place)?,
            _ => place.to_string(),
        };
        servers.push(redis_server(&url)?);
        first.get_or_insert(place);
        if servers.len() > SERVERS_MAX {
            return Err(format!("at most {SERVERS_MAX} servers"));
        }
    }
    Ok(servers)
}

/// The URL with another host and port.
fn like(url: &str, place: &str) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").ok_or(EXPECTED)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let user = authority.rfind('@').map_or("", |at| &authority[..=at]);
    Ok(format!("{scheme}://{user}{place}{path}"))
}

/// No word of an error repeats the URL: there may be a password in it.
fn redis_server(url: &str) -> Result<ConnectionInfo, String> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix")) {
        return Err(EXPECTED.to_string());
    }
    if url.contains("#insecure") {
        let why = "without a look at its certificate anybody could be the server: name who signed it in \
                   backplane.ca instead of #insecure";
        return Err(why.to_string());
    }
    let is_local = scheme.is_some_and(|scheme| scheme.ends_with("unix"));
    let server = url.into_connection_info().map_err(|error| {
        // The crate says what is wrong in words of its own, to which it adds a detail only for the
        // parameter "protocol".
        let what = error.to_string();
        let what = what.split(" - ").next().unwrap_or_default();
        let hint = if is_local { EXPECTED_PATH } else { EXPECTED };
        format!("{what}; {hint}")
    })?;
    if server.redis_settings().username().is_some() && server.redis_settings().password().is_none() {
        return Err("a user needs a password: redis://user:password@host".to_string());
    }
    if server.redis_settings().db() < 0 {
        return Err("a database has a number from 0 on".to_string());
    }
    if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = server.addr() {
        if host.is_empty() || *port == 0 {
            return Err(EXPECTED.to_string());
        }
    }
    Ok(server)
}

const EXPECTED: &str = "expected redis://host, rediss://user:password@host:6379/0 or the like (in a name or \
                        password write @ as %40, : as %3A, / as %2F, comma as %2C), several with commas";
const EXPECTED_PATH: &str = "expected redis+unix:///run/redis.sock?user=name&pass=word&db=0";
const SERVERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Vec<String> {
        redis_servers(value).unwrap().iter().map(|server| server.addr().to_string()).collect()
    }

    #[test]
    fn a_url_says_where_redis_is_and_as_whom_to_speak_to_it() {
        let servers = redis_servers("rediss://ann:p%40ss%2C@cache.example:7000/3").unwrap();
        let redis = servers[0].redis_settings();
        assert_eq!((redis.username(), redis.password(), redis.db()), (Some("ann"), Some("p@ss,"), 3));
        assert!(matches!(servers[0].addr(), ConnectionAddr::TcpTls { port: 7000, .. }));
        let servers = redis_servers("redis://:secret@10.0.0.1").unwrap();
        assert_eq!(servers[0].redis_settings().username(), None);
        assert_eq!(shown("redis://10.0.0.1"), ["10.0.0.1:6379"]);
        assert_eq!(shown("redis://[::1]:7000"), ["::1:7000"]);
        assert_eq!(shown(""), [""; 0]);
        #[cfg(unix)]
        assert_eq!(shown("redis+unix:///run/redis.sock?pass=x"), ["/run/redis.sock"]);
    }

    #[test]
    fn further_servers_are_spoken_to_as_the_first_or_as_they_say() {
        assert_eq!(shown("redis://a:1, b:2 ,c"), ["a:1", "b:2", "c:6379"]);
        let servers = redis_servers("rediss://u:p@a:1/2,b:2,redis://c").unwrap();
        assert_eq!(servers[1].redis_settings().password(), Some("p"));
        assert_eq!(servers[1].redis_settings().db(), 2);
        assert!(matches!(servers[1].addr(), ConnectionAddr::TcpTls { .. }));
        assert!(matches!(servers[2].addr(), ConnectionAddr::Tcp(..)));
        assert_eq!(servers[2].redis_settings().password(), None);
    }

    #[test]
    fn what_is_no_url_is_told_what_was_expected_and_no_password_is_repeated() {
        for bad in [
            "hunter2",
            "http://u:hunter2@host",
            "redis://u:hunter2@",
            "redis://u:hunter2@host:port",
            "redis://u:hunter2@host/db",
            "redis://u:hunter2@host:0",
            "redis://u:hunter2@host/-1",
            "redis://u:hunter2@host/?protocol=hunter2",
            "rediss://u:hunter2@host/#insecure",
            "rediss://u:hunter2@host/#hunter2",
            "redis://0.0.0.0",
            "redis://user@host",
            "a:1,redis://host",
            "redis://u:hunter,2@host",
        ] {
            let why = redis_servers(bad).unwrap_err();
            assert!(!why.contains("hunter"), "{bad}: {why}");
            assert!(
                why.contains("expected")
                    || why.contains("instead")
                    || why.contains("number")
                    || why.contains("needs a password"),
                "{bad}: {why}"
            );
            assert!(why.len() < 230, "{why}");
        }
    }

    #[test]
    fn a_list_of_servers_has_an_end() {
        let many = vec!["redis://host"; SERVERS_MAX + 1].join(",");
        assert!(redis_servers(&many).unwrap_err().contains("at most"));
    }
}
