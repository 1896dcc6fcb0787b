//! Listening sockets: bound before any thread starts, so that all of them exist or none.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::ListenAddress;

/// Binds one address for `shards` shards: each gets a socket of its own where the kernel
/// spreads connections over them (Linux), else only the first.
pub fn bind(listen: &ListenAddress, shards: usize) -> io::Result<Vec<TcpListener>> {
    // With SO_REUSEPORT a port in use by another server of the same user would look free. So
    // one socket without it must get the port first.
    let first = open(listen.address, listen.dual_stack, false).or_else(|error| {
        // A host without IPv6 still has every interface.
        let is_v6_missing = matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL));
        if listen.dual_stack && is_v6_missing { open(v4(listen.address), false, false) } else { Err(error) }
    })?;
    if shards == 1 || !SPREADS {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..shards).map(|_| open(address, listen.dual_stack && address.is_ipv6(), true)).collect()
}

/// Does the kernel spread connections over the sockets of one port?
pub const SPREADS: bool = cfg!(any(target_os = "linux", target_os = "android"));

fn open(address: SocketAddr, dual_stack: bool, spread: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // A restarted server gets its port although connections of the last one are in TIME_WAIT.
    // (On Windows the option means something else: that two servers share a port.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_reuse_port(spread)?;
    let _ = spread;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn v4(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port())
}

/// Connections that the kernel keeps until they are accepted; it may cap this.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_shards_share_one_port() {
        let listeners = bind(&"127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert_ne!(ports[0], 0);
        assert!(ports.iter().all(|&port| port == ports[0]));
    }

    #[test]
    fn a_port_in_use_is_refused_even_when_it_could_be_shared() {
        let taken = bind(&"127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = taken[0].local_addr().unwrap().to_string();
        for shards in [1, 2] {
            let error = bind(&address.parse().unwrap(), shards).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
