//! Client that checks whether a running router is ready: for health checks of containers, whose
//! images have no other program for that.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Time to connect, to send and to receive, each.
const IO_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of bytes of a response that are read: enough for the status and the reasons.
const MAX_RESPONSE_BYTES: u64 = 4096;

/// Calls the admin port at `admin`, or on the loopback interface if that is all interfaces. Returns
/// an error if the router can't be reached, or isn't ready.
pub fn check_ready(mut admin: SocketAddr) -> io::Result<()> {
    match admin.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => admin.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => admin.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    let mut stream = TcpStream::connect_timeout(&admin, IO_TIMEOUT)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    let response = String::from_utf8_lossy(&response);
    if response.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head.lines().next().unwrap_or("no response");
    Err(io::Error::other(format!(
        "the router is not ready: {status} {body}"
    )))
}
