//! A client of HTTP/1.1 that asks for a tunnel by CONNECT.

use std::rc::Rc;

use bytes::Bytes;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, Malformed, RequestHead, ResponseHead, Version};
use isthmus_model::AppProtocol;
use tokio::net::TcpStream;

use super::refuse::{self, refuse};
use super::tcp::Found;
use super::{outside, tcp};
use crate::http::ClientReply;
use crate::http::http1::{self, RequestReader, ResponseWriter};
use crate::names::Named;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The connection of a client that asked for a tunnel.
pub(super) struct Asked {
    pub(super) reader: RequestReader,
    pub(super) writer: ResponseWriter,
    pub(super) head: RequestHead,
}

/// A client asked for a tunnel, which is carried unread. One to a port that speaks HTTP, or may do so, stands
/// and is given back, with what has come in it.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    asked: Box<Asked>,
) -> Option<(TcpStream, Bytes, Found)> {
    let Asked {
        reader,
        mut writer,
        head,
    } = *asked;
    let mut journey = tcp::start(worker);
    journey.record.authority = Some(head.target.clone());
    let opened = async {
        let (service, port) = match worker.names.detect(&head.target)? {
            Named::Service(service, port) => (service, port),
            Named::Outside(host, port) => {
                // Nothing says which one is meant (RFC 9110 section 9.3.6).
                let port = port.ok_or_else(|| Refusal::malformed(Malformed::Target))?;
                let place = outside::permit(worker, &mut journey, host, Some(port))?;
                return Ok(Tunnel::Outside(outside::open(worker, &place).await?));
            }
        };
        let found = tcp::find(worker, &mut journey, service, port).await?;
        if found.protocol.is_http() || found.protocol == AppProtocol::Undeclared {
            return Ok(Tunnel::Read(found));
        }
        let opened = tcp::open(worker, found, &mut journey).await?;
        Ok(Tunnel::Tcp(opened))
    };
    match opened.await {
        // What comes in it is counted, not the tunnel.
        Ok(Tunnel::Read(found)) => {
            let (socket, early) = accept(reader, writer).await?;
            return Some((socket, early, found));
        }
        Ok(Tunnel::Tcp(opened)) => {
            if let Some((socket, early)) = accept(reader, writer).await {
                tcp::carry(&mut journey, socket, early, opened).await;
            }
        }
        Ok(Tunnel::Outside(opened)) => {
            if let Some((socket, early)) = accept(reader, writer).await {
                outside::carry(worker, &mut journey, socket, early, opened).await;
            }
        }
        Err(refusal) => {
            let mut reply = ClientReply::Http1(http1::Reply::new(&mut writer, head.version));
            // The client may be gone; it is counted all the same.
            let asked = refuse::Asked::default();
            let _ = refuse(worker, &mut journey, &mut reply, &refusal, asked).await;
        }
    }
    journey.finish(&worker.recorder);
    None
}

/// Where a tunnel leads.
enum Tunnel {
    /// To what is read here.
    Read(Found),
    Tcp(tcp::Opened),
    Outside(outside::Opened),
}

/// Tells the client that the tunnel stands. RFC 9110 section 9.3.6: a successful answer to CONNECT has
/// no body. `None`: it is gone.
async fn accept(reader: RequestReader, mut writer: ResponseWriter) -> Option<(TcpStream, Bytes)> {
    let ok = ResponseHead {
        status: 200,
        version: Version::Http11,
        fields: Fields::new(),
    };
    let mut reply = http1::Reply::new(&mut writer, Version::Http11);
    reply.head(&ok, Body::None).ok()?;
    reply.end(None).ok()?;
    reply.flush().await.ok()?;
    let (read, early) = reader.into_tunnel();
    Some((read.reunite(writer.into_tunnel()).ok()?, early))
}
