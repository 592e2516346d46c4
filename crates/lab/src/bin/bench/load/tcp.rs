//! Bytes through a way, and connections that bring little each.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use isthmus_lab::http::connect;
use isthmus_lab::trouble::{During, Result, ensure};

use super::Done;
use super::threads::side_by_side;
use crate::program::BODY;
use crate::stage::Way;

/// Asked for at once.
const PORTION: u64 = 16_000_000;
const MEGABYTE: u64 = 1_000_000;
const BUFFER: usize = 256 * 1024;

/// Reads as much as there is on connections that are kept. Counts megabytes.
pub(super) fn read(way: &Way, connections: usize, duration: Duration) -> Result<Done> {
    side_by_side(connections, duration, |until| {
        let mut socket = connect(way.address)?;
        let mut buffer = vec![0; BUFFER];
        let mut megabytes = 0;
        while Instant::now() < until {
            ask(&mut socket, PORTION, &mut buffer).during(|| way.address.to_string())?;
            megabytes += PORTION / MEGABYTE;
        }
        Ok(megabytes)
    })
}

/// Opens connection after connection and has 1 KiB on each. Counts connections.
pub(super) fn open(way: &Way, connections: usize, duration: Duration) -> Result<Done> {
    side_by_side(connections, duration, |until| {
        let mut buffer = vec![0; BODY.len()];
        let mut opened = 0;
        while Instant::now() < until {
            let mut socket = connect(way.address)?;
            let length = BODY.len() as u64;
            ask(&mut socket, length, &mut buffer).during(|| way.address.to_string())?;
            opened += 1;
        }
        Ok(opened)
    })
}

/// The same with a request of HTTP/1.1.
pub(super) fn request(way: &Way, connections: usize, duration: Duration) -> Result<Done> {
    let host = way.host;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    side_by_side(connections, duration, |until| {
        let during = || way.address.to_string();
        let mut opened = 0;
        while Instant::now() < until {
            let mut reply = Vec::with_capacity(4096);
            let mut socket = connect(way.address)?;
            socket.write_all(request.as_bytes()).during(during)?;
            socket.read_to_end(&mut reply).during(during)?;
            let is_good = reply.starts_with(b"HTTP/1.1 200 ") && reply.ends_with(&BODY);
            ensure(is_good, || {
                format!("an odd reply: {}", String::from_utf8_lossy(&reply))
            })?;
            opened += 1;
        }
        Ok(opened)
    })
}

/// Asks for so many bytes and takes them.
fn ask(socket: &mut TcpStream, length: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    socket.write_all(&length.to_be_bytes())?;
    let mut left = length;
    while left > 0 {
        let read = socket.read(buffer)? as u64;
        if read == 0 || read > left {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= read;
    }
    Ok(())
}
