//! Listening sockets: bound before any thread starts, so that all of them exist or none.

use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::{fd::OwnedFd, unix::net::UnixListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{ListenAddress, ListenPlace};

/// A socket that listens.
#[derive(Debug)]
pub enum ListenSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// A socket that listens, and what is to be tidied up after it.
#[derive(Debug)]
pub struct Bound {
    pub socket: ListenSocket,
    #[cfg(unix)]
    path: Option<SocketPath>,
}

/// Makes a descriptor of its own from the number of one that the process was given: the one
/// thing that safe code can't do.
#[cfg(unix)]
pub type Inherit = fn(i32) -> io::Result<OwnedFd>;
#[cfg(not(unix))]
pub type Inherit = ();

/// Opens the sockets of one address: one, or as many as systemd has passed.
pub fn bind(listen: &ListenAddress, inherit: Inherit) -> io::Result<Vec<Bound>> {
    #[cfg(not(unix))]
    let () = inherit;
    match &listen.place {
        ListenPlace::Internet { address, dual_stack } => {
            let socket = open(*address, *dual_stack).or_else(|error| {
                // A host without IPv6 still has every interface.
                let is_v6_missing =
                    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL));
                if *dual_stack && is_v6_missing { open(v4(*address), false) } else { Err(error) }
            })?;
            Ok(vec![Bound::new(ListenSocket::Tcp(socket))])
        }
        #[cfg(unix)]
        ListenPlace::Unix { path, mode } => Ok(vec![unix::bind(path, *mode)?]),
        #[cfg(unix)]
        ListenPlace::Descriptor(number) => Ok(vec![Bound::new(inherited(inherit(*number)?)?)]),
        #[cfg(unix)]
        ListenPlace::Systemd { name } => unix::passed_by_systemd(name.as_deref())?
            .into_iter()
            .map(|number| Ok(Bound::new(inherited(inherit(number)?)?)))
            .collect(),
        #[cfg(not(unix))]
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "only addresses and ports are to be had here")),
    }
}

impl Bound {
    fn new(socket: ListenSocket) -> Self {
        Self {
            socket,
            #[cfg(unix)]
            path: None,
        }
    }

    /// Another process takes over: its clients need the path.
    pub fn keep_path(&mut self) {
        #[cfg(unix)]
        if let Some(path) = self.path.take() {
            path.keep();
        }
    }
}

impl ListenSocket {
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            #[cfg(unix)]
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }

    /// 0 for a Unix socket.
    pub fn port(&self) -> io::Result<u16> {
        match self {
            Self::Tcp(socket) => Ok(socket.local_addr()?.port()),
            #[cfg(unix)]
            Self::Unix(_) => Ok(0),
        }
    }
}

impl From<TcpListener> for ListenSocket {
    fn from(socket: TcpListener) -> Self {
        Self::Tcp(socket)
    }
}

fn open(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // A restarted server gets its port although connections of the last one are in TIME_WAIT.
    // (On Windows the option means something else: that two servers share a port.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it on Linux, which saves a call for each.
    let _ = socket.set_tcp_nodelay(true);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn v4(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port())
}

/// A socket that somebody else has made to listen.
#[cfg(unix)]
fn inherited(descriptor: OwnedFd) -> io::Result<ListenSocket> {
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, "this descriptor is no listening socket");
    let socket = Socket::from(descriptor);
    let listens = socket.is_listener().map_err(wrong)? && socket.r#type().map_err(wrong)? == Type::STREAM;
    let domain = socket.local_addr().map_err(wrong)?.domain();
    if !listens || !matches!(domain, Domain::IPV4 | Domain::IPV6 | Domain::UNIX) {
        return Err(wrong(io::ErrorKind::InvalidInput.into()));
    }
    // Not before: the host shares this with us, and one that is refused stays as it was.
    socket.set_nonblocking(true)?;
    Ok(if domain == Domain::UNIX {
        ListenSocket::Unix(socket.into())
    } else {
        ListenSocket::Tcp(socket.into())
    })
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};
    use std::{env, fs, process};

    use socket2::SockAddr;

    use super::*;

    /// The file of a Unix socket, removed with the listener if it is still the listener's.
    #[derive(Debug)]
    pub struct SocketPath {
        path: PathBuf,
        device_and_inode: (u64, u64),
    }

    impl SocketPath {
        pub fn keep(mut self) {
            self.path = PathBuf::new();
        }
    }

    impl Drop for SocketPath {
        fn drop(&mut self) {
            let is_ours = |found: &fs::Metadata| (found.dev(), found.ino()) == self.device_and_inode;
            if fs::symlink_metadata(&self.path).is_ok_and(|found| is_ours(&found)) {
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    pub fn bind(path: &Path, mode: Option<u32>) -> io::Result<Bound> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if is_abstract(path) {
            socket.bind(&address)?;
            socket.listen(BACKLOG)?;
            return Ok(Bound::new(ListenSocket::Unix(socket.into())));
        }
        remove_if_stale(path, &address)?;
        socket.bind(&address)?;
        let found = fs::symlink_metadata(path)?;
        let file = SocketPath { path: path.to_path_buf(), device_and_inode: (found.dev(), found.ino()) };
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        // Last: until now nobody could connect, whatever the mode was.
        socket.listen(BACKLOG)?;
        Ok(Bound { socket: ListenSocket::Unix(socket.into()), path: Some(file) })
    }

    /// A name that Linux keeps apart from all files.
    fn is_abstract(path: &Path) -> bool {
        path.as_os_str().as_encoded_bytes().first() == Some(&0)
    }

    /// A server that was killed leaves its file behind: nobody answers there.
    fn remove_if_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file of this name and it is no socket",
                ));
            }
            Ok(_) => {}
        }
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        match probe.connect(address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            // Also when its backlog is full.
            _ => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// The descriptors that systemd has opened for us (sd_listen_fds(3)): all, or those with a
    /// `FileDescriptorName`.
    pub fn passed_by_systemd(name: Option<&str>) -> io::Result<Vec<i32>> {
        let variable = |key| env::var(key).unwrap_or_default();
        passed(
            &variable("LISTEN_PID"),
            &variable("LISTEN_FDS"),
            &variable("LISTEN_FDNAMES"),
            process::id(),
            name,
        )
    }

    fn passed(pid: &str, count: &str, names: &str, own_pid: u32, name: Option<&str>) -> io::Result<Vec<i32>> {
        let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_string());
        if pid.parse() != Ok(own_pid) {
            return Err(missing("systemd has passed no sockets to this process (LISTEN_PID, LISTEN_FDS)"));
        }
        let count: u16 = count.parse().map_err(|_| missing("LISTEN_FDS is no number"))?;
        let names: Vec<&str> = names.split(':').collect();
        let first = 3;
        let is_wanted = |index: &u16| name.is_none_or(|name| names.get(usize::from(*index)) == Some(&name));
        let numbers: Vec<i32> = (0..count).filter(is_wanted).map(|index| first + i32::from(index)).collect();
        if numbers.is_empty() {
            return Err(missing("systemd has passed no socket of this name (LISTEN_FDNAMES)"));
        }
        Ok(numbers)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn systemd_passes_sockets_by_number_and_name_to_one_process_alone() {
            assert_eq!(passed("7", "3", "", 7, None).unwrap(), [3, 4, 5]);
            assert_eq!(passed("7", "3", "web:admin:web", 7, Some("web")).unwrap(), [3, 5]);
            assert!(passed("7", "3", "web:admin:web", 7, Some("other")).is_err());
            assert!(passed("8", "3", "", 7, None).is_err());
            assert!(passed("", "", "", 7, None).is_err());
            assert!(passed("7", "0", "", 7, None).is_err());
        }
    }
}
#[cfg(unix)]
use unix::SocketPath;

/// Connections that the kernel keeps until they are accepted; it may cap this.
const BACKLOG: i32 = 4096;

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::{env, fs, process};

    use super::*;

    fn bind_one(address: &str) -> io::Result<Bound> {
        let none = |_| Err(io::ErrorKind::Unsupported.into());
        Ok(bind(&address.parse().unwrap(), none)?.pop().expect("an address is one socket"))
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let taken = bind_one("127.0.0.1:0").unwrap();
        let port = taken.socket.port().unwrap();
        let error = bind_one(&format!("127.0.0.1:{port}")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_its_file_goes_with_it_unless_it_is_handed_over() {
        let path = env::temp_dir().join(format!("fullduplex-mode-{}", process::id()));
        let address = format!("unix:{}?mode=620", path.display());
        let bound = bind_one(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(bind_one(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
        let mut bound = bind_one(&address).unwrap();
        bound.keep_path();
        drop(bound);
        assert!(path.exists());
        // Nobody listens there any more: stale.
        drop(bind_one(&address).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let path = env::temp_dir().join(format!("fullduplex-file-{}", process::id()));
        fs::write(&path, "precious").unwrap();
        let error = bind_one(&format!("unix:{}", path.display())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_listener_does_not_remove_the_file_of_another() {
        let path = env::temp_dir().join(format!("fullduplex-other-{}", process::id()));
        let bound = bind_one(&format!("unix:{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        let other = bind_one(&format!("unix:{}", path.display())).unwrap();
        drop(bound);
        assert!(UnixStream::connect(&path).is_ok());
        drop(other);
    }
}
