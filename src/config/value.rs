//! What the text of an option can be: sizes, times, rates, lists, addresses, directories.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAddress {
    /// As the embedder wrote it.
    pub text: String,
    pub place: ListenPlace,
    /// Connections begin with a TLS handshake.
    pub secure: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenPlace {
    Internet {
        address: SocketAddr,
        /// IPv4 as well, through the same IPv6 socket: an address without a host.
        dual_stack: bool,
    },
    /// A file, or with a NUL first a name of Linux's own.
    Unix { path: PathBuf, mode: Option<u32> },
    /// A socket that the process was given, by its number.
    Descriptor(i32),
    /// The sockets that systemd has passed: all, or those of one name.
    Systemd { name: Option<String> },
}

/// So many in a time, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    count: u64,
    interval_ns: u64,
    pub burst: u64,
}

/// A directory whose files are served under a prefix of the path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticFiles {
    /// Begins and ends with a slash.
    pub prefix: String,
    pub directory: PathBuf,
}

impl Rate {
    /// How long the rate takes for so many.
    pub fn nanos(self, count: u64) -> u64 {
        let nanos = (u128::from(count) * u128::from(self.interval_ns)).div_ceil(u128::from(self.count));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

pub(super) fn list(value: &str) -> Vec<String> {
    value.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
}

pub(super) fn paths(value: &str) -> Vec<PathBuf> {
    list(value).into_iter().map(PathBuf::from).collect()
}

/// A path of a URL, or nothing.
pub(super) fn path(value: &str) -> Result<String, String> {
    let is_path = value.starts_with('/') && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?');
    if value.is_empty() || is_path {
        Ok(value.to_string())
    } else {
        Err("expected a path like /healthz".to_string())
    }
}

/// `65536`, `64k`, `16m`, `1g`.
pub(super) fn size(value: &str) -> Result<usize, String> {
    let wrong = || "expected a size like 65536, 64k, 16m or 1g".to_string();
    let (digits, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let unit = match unit.trim() {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// `0`, `500us`, `250ms`, `10s`, `5m`, `1h`.
pub(super) fn time(value: &str) -> Result<Duration, String> {
    let wrong = || "expected a time like 500us, 250ms, 10s, 5m or 1h".to_string();
    let (digits, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let micros = match unit.trim() {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "" if value == "0" => 0,
        _ => return Err(wrong()),
    };
    let number =
        digits.parse::<u64>().ok().and_then(|number| number.checked_mul(micros)).ok_or_else(wrong)?;
    Ok(Duration::from_micros(number))
}

/// `100/s`, `100/s burst 200`; without a burst it is what one interval gives. `0`: no limit.
pub(super) fn rate(value: &str) -> Result<Option<Rate>, String> {
    if value == "0" { Ok(None) } else { value.parse().map(Some) }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a rate like 100/s, 100/s burst 200 or 5/m".to_string();
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate.trim(), Some(size(burst.trim()).map_err(|_| wrong())? as u64)),
            None => (text, None),
        };
        let (count, unit) = rate.split_once('/').ok_or_else(wrong)?;
        let count = size(count.trim()).map_err(|_| wrong())? as u64;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let burst = burst.unwrap_or(count);
        if count == 0 || burst == 0 {
            return Err(wrong());
        }
        Ok(Self { count, interval_ns: seconds * 1_000_000_000, burst })
    }
}

pub(super) fn not_zero(time: Duration) -> Option<Duration> {
    Some(time).filter(|time| !time.is_zero())
}

pub(super) fn more_than_zero(time: Duration) -> Result<Duration, String> {
    not_zero(time).ok_or_else(|| "must be more than 0".to_string())
}

pub(super) fn at_least(bytes_min: usize, bytes: usize) -> Result<usize, String> {
    if bytes < bytes_min { Err(format!("must be at least {bytes_min}")) } else { Ok(bytes) }
}

pub(super) fn at_most(time_max: Duration, time: Duration) -> Result<Duration, String> {
    if time > time_max { Err(format!("must be at most {time_max:?}")) } else { Ok(time) }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut secure) = (None, false);
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("mode", digits)) if place.starts_with("unix:") => {
                    let bits = u32::from_str_radix(digits, 8).ok().filter(|&bits| bits <= 0o777);
                    mode = Some(bits.ok_or("expected a mode like 660")?);
                }
                Some(("tls", "0")) => secure = false,
                Some(("tls", "1")) => secure = true,
                Some(("tls", _)) => return Err("expected tls=1 or tls=0".to_string()),
                _ => return Err(format!("unknown parameter \"{parameter}\"")),
            }
        }
        Ok(Self { text: text.to_string(), place: ListenPlace::parse(place, mode)?, secure })
    }
}

impl ListenPlace {
    fn parse(text: &str, mode: Option<u32>) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(
                    "expected a path, like unix:/run/name.sock, or a name, like unix:@name".to_string()
                );
            }
            if path.starts_with('@') && mode.is_some() {
                return Err("an abstract name has no mode".to_string());
            }
            let path = path.strip_prefix('@').map_or(path.into(), |name| format!("\0{name}").into());
            return Ok(Self::Unix { path, mode });
        }
        if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse::<i32>().ok().filter(|&number| number >= 0);
            return Ok(Self::Descriptor(number.ok_or("expected a descriptor like fd:3")?));
        }
        if text == "systemd" {
            return Ok(Self::Systemd { name: None });
        }
        if let Some(name) = text.strip_prefix("systemd:").filter(|name| !name.is_empty()) {
            return Ok(Self::Systemd { name: Some(name.to_string()) });
        }
        if let Some(port) = text.strip_prefix(':') {
            let port = port.parse().map_err(|_| "expected a port after the colon".to_string())?;
            let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
            return Ok(Self::Internet { address, dual_stack: true });
        }
        let address = text
            .to_socket_addrs()
            .map_err(|_| "expected an address like :8080, 127.0.0.1:8080 or [::1]:8080".to_string())?
            .next()
            .ok_or_else(|| "this name has no address".to_string())?;
        Ok(Self::Internet { address, dual_stack: false })
    }
}

impl FromStr for StaticFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, directory) = text
            .split_once('=')
            .ok_or("expected a path and a directory, like /=public or /assets/=/srv/www")?;
        let (prefix, directory) = (path(prefix.trim())?, directory.trim());
        if !prefix.starts_with('/') || !prefix.ends_with('/') {
            return Err("the path must begin and end with a slash, like / or /assets/".to_string());
        }
        if prefix.contains("//") || prefix.contains(['\\', '#']) {
            return Err("the path must not hold //, # or a backslash".to_string());
        }
        if directory.is_empty() {
            return Err(format!("expected a directory after {prefix}="));
        }
        Ok(Self { prefix, directory: directory.into() })
    }
}

impl StaticFiles {
    /// Several, between commas. The longest prefix comes first: it is the most specific.
    pub fn parse_list(value: &str) -> Result<Vec<Self>, String> {
        let mut all: Vec<Self> = list(value).iter().map(|one| one.parse()).collect::<Result<_, _>>()?;
        all.sort_by(|a, b| b.prefix.len().cmp(&a.prefix.len()).then_with(|| a.prefix.cmp(&b.prefix)));
        match all.windows(2).find(|pair| pair[0].prefix == pair[1].prefix) {
            Some(pair) => Err(format!("{} has two directories", pair[0].prefix)),
            None => Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_take_units_and_nothing_else() {
        assert_eq!(size("64k"), Ok(65536));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(time("0"), Ok(Duration::ZERO));
        for bad in ["", "k", "-1", "1.5m", "1kb", "99999999999999999999", "18014398509481984k"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "10", "s", "1d", "-1s", "18446744073709551615h"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_have_a_count_an_interval_and_perhaps_a_burst() {
        let second = 1_000_000_000;
        assert_eq!(rate("100/s burst 200"), Ok(Some(Rate { count: 100, interval_ns: second, burst: 200 })));
        assert_eq!(rate("5/m"), Ok(Some(Rate { count: 5, interval_ns: 60 * second, burst: 5 })));
        assert_eq!(rate("1m/s"), Ok(Some(Rate { count: 1 << 20, interval_ns: second, burst: 1 << 20 })));
        assert_eq!(rate("0"), Ok(None));
        for bad in ["", "100", "100/d", "/s", "0/s", "10/s burst", "10/s burst 0", "10/s bursts 2", "-1/s"] {
            assert!(rate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_place_to_listen_is_an_address_a_path_or_a_socket_that_was_passed() {
        let place = |text: &str| text.parse::<ListenAddress>().map(|listen| listen.place);
        assert!(matches!(place("[::1]:80"), Ok(ListenPlace::Internet { dual_stack: false, .. })));
        assert!(matches!(place(":80"), Ok(ListenPlace::Internet { dual_stack: true, .. })));
        let unix = |path: &str, mode| Ok(ListenPlace::Unix { path: path.into(), mode });
        assert_eq!(place("unix:/run/x"), unix("/run/x", None));
        assert_eq!(place("unix:x.sock?mode=660"), unix("x.sock", Some(0o660)));
        assert_eq!(place("unix:@name"), unix("\0name", None));
        assert_eq!(place("fd:3"), Ok(ListenPlace::Descriptor(3)));
        assert_eq!(place("systemd:web"), Ok(ListenPlace::Systemd { name: Some("web".to_string()) }));
        let secure = |text: &str| text.parse::<ListenAddress>().map(|listen| listen.secure);
        assert_eq!(secure("[::]:443?tls=1"), Ok(true));
        assert_eq!(secure("unix:/x?mode=660&tls=1"), Ok(true));
        assert_eq!(secure("fd:3?tls=0"), Ok(false));
        assert_eq!(secure(":80"), Ok(false));
        for bad in [
            "9990",
            "1.2.3.4",
            "[::1]",
            ":port",
            "127.0.0.1:70000",
            "127.0.0.1:1?tls=yes",
            "127.0.0.1:1?mode=660",
            "unix:",
            "unix:/x?mode=1777",
            "unix:/x?mode=rw",
            "unix:@x?mode=660",
            "unix:/x?mode",
            "unix:/x?tls",
            "fd:",
            "fd:-1",
            "fd:x",
            "fd:3?mode=660",
            "systemd:",
        ] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn directories_have_a_prefix_and_the_longest_is_looked_at_first() {
        let parsed = StaticFiles::parse_list("/=public, /assets/ = /srv/a=b").unwrap();
        let files = |prefix: &str, directory: &str| StaticFiles {
            prefix: prefix.to_string(),
            directory: directory.into(),
        };
        assert_eq!(parsed, [files("/assets/", "/srv/a=b"), files("/", "public")]);
        assert_eq!(StaticFiles::parse_list(""), Ok(Vec::new()));
    }

    #[test]
    fn a_wrong_directory_or_prefix_is_told_what_was_expected() {
        for (bad, hint) in [
            ("public", "like /=public"),
            ("/=a,b", "like /=public"),
            ("=public", "begin and end with a slash"),
            ("/assets=public", "begin and end with a slash"),
            ("assets/=public", "expected a path"),
            ("/a?b/=public", "expected a path"),
            ("/a b/=public", "expected a path"),
            ("//evil.example/=public", "must not hold //"),
            ("/a\\/=public", "backslash"),
            ("/=", "a directory after /="),
            ("/a/=b, /=c, /a/=d", "/a/ has two directories"),
        ] {
            let why = StaticFiles::parse_list(bad).unwrap_err();
            assert!(why.contains(hint), "{bad:?}: {why}");
        }
    }
}
