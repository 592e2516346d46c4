//! A program that says what only this release carries: a hint before each answer, that it wants a body,
//! and a change of protocols.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::spawn;

use isthmus_lab::trouble::{During, Result};

/// What it changes to.
pub(crate) const PROTOCOL: &str = "greeting";
/// All that is said there.
pub(crate) const GREETING: &[u8] = b"welcome";

/// Serves until it is killed. Errors: it cannot listen.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let during = || format!("listening on {address}");
    let listener = TcpListener::bind(address).during(during)?;
    loop {
        let (stream, _) = listener.accept().during(during)?;
        // What goes wrong on a connection ends it, which its client notices.
        spawn(move || converse(stream));
    }
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(fields) = head(&mut reader)? {
        if fields.contains_key("upgrade") {
            let agreed = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
            );
            stream.write_all(agreed.as_bytes())?;
            return stream.write_all(GREETING);
        }
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")?;
        if fields.contains_key("expect") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = fields.get("content-length");
        let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
        stream.write_all(&body)?;
    }
    Ok(())
}

/// The fields of a request, names in lower case. `None`: the connection has ended.
fn head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<BTreeMap<String, String>>> {
    let mut lines = reader.by_ref().lines();
    if lines.next().transpose()?.is_none() {
        return Ok(None);
    }
    let mut fields = BTreeMap::new();
    for line in lines {
        match line?.split_once(':') {
            Some((name, value)) => {
                fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => return Ok(Some(fields)),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
