//! An established session of TLS 1.3: what is sealed, what is opened, and how it ends (RFC 8446).
//!
//! The handshake is rustls's, and so are the secrets that follow from it; the cryptography is aws-lc's. What
//! is here is the record layer (section 5), key updates (4.6.3) and alerts (6), so that records are
//! opened where they were read to and sealed where they are written from.

mod protection;
mod records;

use std::ops::Range;

use bytes::BytesMut;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use crate::Sink;

use self::protection::{Opening, Sealing, TAG};
use self::records::Records;

/// Data of one record at most (section 5.1).
pub const MAX_DATA: usize = 1 << 14;
/// Of a record: type, version, length.
const HEADER: usize = 5;
/// What a record is longer than its data, when we write it.
const OVERHEAD: usize = HEADER + 1 + TAG;
/// What follows the header at most (section 5.2).
const MAX_SEALED: usize = MAX_DATA + 256;
/// Bytes that the longest record takes.
pub const MAX_RECORD: usize = HEADER + MAX_SEALED;

/// Records without data in a row: who sends more keeps us busy for nothing.
const MOST_IDLE: u8 = 64;

/// What a record holds (section 5.1).
mod kind {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const DATA: u8 = 23;
}

/// Handshake messages that may follow the handshake (section 4.6).
mod message {
    pub(super) const TICKET: u8 = 4;
    pub(super) const KEY_UPDATE: u8 = 24;
}

/// Bytes of a ticket, with what belongs to it. Ours are a tenth of that.
const MOST_OF_TICKET: usize = 1024;
/// Tickets of one session: one is asked for.
const MOST_TICKETS: u8 = 8;

/// Why a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("a record is not what its peer sealed")]
    Forged,
    #[error("a record of TLS is too long")]
    TooLong,
    #[error("a record of TLS is of a kind that may not come here")]
    Unexpected,
    #[error("a message of TLS cannot be read")]
    Undecodable,
    #[error("a message of TLS says what it may not")]
    Illegal,
    #[error("the peer has ended the session: alert {0} of TLS")]
    Alerted(u8),
    #[error("the session is over")]
    Over,
    #[error("the session's keys are used up")]
    KeysUsedUp,
}

impl Broken {
    /// What the peer is told (section 6.2).
    fn alert(self) -> Option<u8> {
        match self {
            Self::Forged => Some(20),
            Self::TooLong => Some(22),
            Self::Unexpected => Some(10),
            Self::Undecodable => Some(50),
            Self::Illegal => Some(47),
            Self::KeysUsedUp => Some(80),
            Self::Alerted(_) | Self::Over => None,
        }
    }
}

/// What a session knows of its handshake.
pub trait Secrets {
    /// The keys after the next key update.
    ///
    /// Errors: there are none.
    fn next_sealing(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
    /// As [`Secrets::next_sealing`], of the peer.
    fn next_opening(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
    /// The peer has given us a ticket (RFC 8446 section 4.6.1, without the message's header).
    ///
    /// Errors: it is none, or the peer may give none.
    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Broken>;
}

impl<S: Side> Secrets for KernelConnection<S> {
    fn next_sealing(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.update_tx_secret().map(|(_, secrets)| secrets)
    }

    fn next_opening(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.update_rx_secret().map(|(_, secrets)| secrets)
    }

    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Broken> {
        S::keep_ticket(self, ticket)
    }
}

/// Which end of a session it is, as rustls says it.
pub trait Side: Sized {
    /// As [`Secrets::keep_ticket`].
    fn keep_ticket(secrets: &mut KernelConnection<Self>, ticket: &[u8]) -> Result<(), Broken>;
}

impl Side for ClientConnectionData {
    fn keep_ticket(secrets: &mut KernelConnection<Self>, ticket: &[u8]) -> Result<(), Broken> {
        let kept = secrets.handle_new_session_ticket(ticket);
        kept.map_err(|_| Broken::Undecodable)
    }
}

impl Side for ServerConnectionData {
    fn keep_ticket(_: &mut KernelConnection<Self>, _: &[u8]) -> Result<(), Broken> {
        Err(Broken::Unexpected)
    }
}

/// One end of a session whose handshake is over.
pub struct Session {
    sealing: Sealing,
    opening: Opening,
    secrets: Box<dyn Secrets>,
    /// Records that may be sealed by one key.
    limit: u64,
    /// The peer has asked for new keys of ours.
    owes_update: bool,
    /// Of a handshake message of which more is to come.
    message: Vec<u8>,
    tickets: u8,
    /// Records without data since there was some.
    idle: u8,
    /// We have said that we send nothing more.
    closed: bool,
}

/// What was in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Data, in this part of the record; it may be none.
    Data(Range<usize>),
    /// Something between the two ends.
    Nothing,
    /// The peer sends nothing more.
    Closed,
}

impl Session {
    /// `keys`: the first ones; `limit`: how many records one key may seal (section 5.5).
    ///
    /// Errors: the keys are of a cipher that is none of TLS 1.3.
    pub fn new(
        keys: &ExtractedSecrets,
        secrets: Box<dyn Secrets>,
        limit: u64,
    ) -> Result<Self, Broken> {
        let ((sealed, sealing), (opened, opening)) = (&keys.tx, &keys.rx);
        Ok(Self {
            sealing: Sealing::new(sealing, *sealed)?,
            opening: Opening::new(opening, *opened)?,
            secrets,
            limit,
            owes_update: false,
            message: Vec::new(),
            tickets: 0,
            idle: 0,
            closed: false,
        })
    }

    /// Bytes that `data` bytes take at most when they are sealed in records of `piece`, if no key has to be updated.
    pub fn sealed_length(data: usize, piece: usize) -> usize {
        data + data.div_ceil(piece) * OVERHEAD
    }

    /// Appends to `out` what `put` says, in records of `piece` bytes, which are [`MAX_DATA`] at most and one at least. It is
    /// sealed where it was written.
    ///
    /// Errors: [`Session::close`] was called; there are no more keys. What was not sealed by then is lost.
    pub fn seal(
        &mut self,
        piece: usize,
        out: &mut BytesMut,
        put: impl FnOnce(&mut dyn Sink),
    ) -> Result<(), Broken> {
        let mut records = Records::new(self, piece, out);
        put(&mut records);
        records.end()
    }

    /// Sees to it that the next record may be sealed: with new keys, if these are used up or the peer wants others.
    fn ready(&mut self, out: &mut BytesMut) -> Result<(), Broken> {
        if self.owes_update || self.sealing.used() + 1 >= self.limit {
            self.update(out)?;
        }
        Ok(())
    }

    /// Appends the word that nothing more follows, once.
    pub fn close(&mut self, out: &mut BytesMut) {
        self.alert(0, out);
    }

    /// Appends the word why the session ends, if the peer is not the one who has ended it.
    pub fn break_off(&mut self, why: Broken, out: &mut BytesMut) {
        if let Some(alert) = why.alert() {
            self.alert(alert, out);
        }
    }

    fn alert(&mut self, description: u8, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.closed, true) {
            let level = if description == 0 { 1 } else { 2 };
            self.sealing.seal(kind::ALERT, &[level, description], out);
        }
    }

    /// New keys of ours, and the message that says so.
    fn update(&mut self, out: &mut BytesMut) -> Result<(), Broken> {
        let next = self.secrets.next_sealing();
        let next = next.map_err(|_| Broken::KeysUsedUp)?;
        let update = [message::KEY_UPDATE, 0, 0, 1, 0];
        self.sealing.seal(kind::HANDSHAKE, &update, out);
        self.sealing = Sealing::new(&next, 0)?;
        self.owes_update = false;
        Ok(())
    }

    /// How long the record is that `wire` begins with, its header included; `None`: not all of it is there.
    ///
    /// Errors: it is none that a peer may send.
    pub fn first(wire: &[u8]) -> Result<Option<usize>, Broken> {
        match wire.first() {
            None | Some(&kind::DATA) => first_of_any(wire),
            Some(_) => Err(Broken::Unexpected),
        }
    }

    /// Opens a whole record where it lies.
    ///
    /// Errors: the session is over; what to tell the peer is said by [`Session::break_off`].
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, Broken> {
        let opened = self.understand(record)?;
        let is_data = matches!(&opened, Opened::Data(part) if !part.is_empty());
        self.idle = if is_data {
            0
        } else {
            self.idle.saturating_add(1)
        };
        if self.idle > MOST_IDLE {
            return Err(Broken::Unexpected);
        }
        Ok(opened)
    }

    fn understand(&mut self, record: &mut [u8]) -> Result<Opened, Broken> {
        let (header, sealed) = record.split_at_mut_checked(HEADER).ok_or(Broken::TooLong)?;
        let inner = self.opening.open(header, sealed)?;
        // Zeros may follow the type (section 5.4).
        let end = inner.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(Broken::Unexpected)?;
        if end > MAX_DATA {
            return Err(Broken::TooLong);
        }
        let (content, kind) = (&inner[..end], inner[end]);
        if kind != kind::HANDSHAKE && !self.message.is_empty() {
            // The rest of a message comes before anything else (section 5.1).
            return Err(Broken::Unexpected);
        }
        match kind {
            kind::DATA => Ok(Opened::Data(HEADER..HEADER + end)),
            kind::ALERT => match content {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                [_, USER_CANCELED] => Ok(Opened::Nothing),
                [_, description] => Err(Broken::Alerted(*description)),
                _ => Err(Broken::Undecodable),
            },
            kind::HANDSHAKE if !content.is_empty() => {
                self.message.extend_from_slice(content);
                self.hear()?;
                Ok(Opened::Nothing)
            }
            _ => Err(Broken::Unexpected),
        }
    }

    /// Takes in what has come of handshake messages, as far as they are whole.
    fn hear(&mut self) -> Result<(), Broken> {
        while let Some(&kind) = self.message.first() {
            if !matches!(kind, message::TICKET | message::KEY_UPDATE) {
                return Err(Broken::Unexpected);
            }
            let Some((&[_, high, middle, low], body)) = self.message.split_first_chunk() else {
                return Ok(());
            };
            let length = usize::try_from(u32::from_be_bytes([0, high, middle, low]));
            let length = length.unwrap_or(usize::MAX);
            match kind {
                message::KEY_UPDATE if length != 1 => return Err(Broken::Undecodable),
                message::TICKET if length > MOST_OF_TICKET => return Err(Broken::Illegal),
                _ => {}
            }
            let Some((body, rest)) = body.split_at_checked(length) else {
                return Ok(());
            };
            if let (message::KEY_UPDATE, &[asks]) = (kind, body) {
                // What is sealed by the next key cannot have come with this (section 5.1).
                if !rest.is_empty() {
                    return Err(Broken::Unexpected);
                }
                self.owes_update |= match asks {
                    0 => false,
                    1 => true,
                    _ => return Err(Broken::Illegal),
                };
                let next = self.secrets.next_opening();
                let next = next.map_err(|_| Broken::KeysUsedUp)?;
                self.opening = Opening::new(&next, 0)?;
            } else {
                self.tickets += 1;
                if self.tickets > MOST_TICKETS {
                    return Err(Broken::Unexpected);
                }
                self.secrets.keep_ticket(body)?;
            }
            self.message = rest.to_vec();
        }
        Ok(())
    }
}

/// As [`Session::first`], of a record of any kind, such as come while hands are shaken.
pub fn first_of_any(wire: &[u8]) -> Result<Option<usize>, Broken> {
    let [_, _, _, high, low, rest @ ..] = wire else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_SEALED {
        return Err(Broken::TooLong);
    }
    Ok((rest.len() >= length).then_some(HEADER + length))
}

/// Alerts that end nothing in anger (section 6.1).
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
