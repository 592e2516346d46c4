//! The two decoders: a byte stream in, messages out, one after the other.

use bytes::{Bytes, BytesMut};

use super::body::BodyDecoder;
use super::head::{Asked, HeadScan, MAX_FIELDS, MAX_REQUEST_LINE, parse_request, parse_response};
use super::{Body, Item, Malformed, RequestHead, ResponseHead};
use crate::pieces::take_off;

/// What a decoder holds a peer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, and of a trailer section.
    pub head: usize,
    /// Fields of a request's head; never more than [`MAX_FIELDS`].
    pub fields: usize,
    /// Bytes of a request line with its end.
    pub request_line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            fields: MAX_FIELDS,
            request_line: MAX_REQUEST_LINE,
        }
    }
}

/// Reads requests.
#[derive(Debug)]
pub struct RequestDecoder {
    machine: Machine,
}

/// Reads responses. It must be told of each request before its response comes.
#[derive(Debug)]
pub struct ResponseDecoder {
    machine: Machine,
    asked: Option<Asked>,
    interim: bool,
}

/// What both have in common: a head, then a body, then the next head.
#[derive(Debug)]
struct Machine {
    limits: Limits,
    /// Most bytes of the first line, if it is a request's.
    first_line: Option<usize>,
    state: State,
}

#[derive(Debug)]
enum State {
    Head {
        scan: HeadScan,
        skipped_line: bool,
    },
    Body(BodyDecoder),
    /// The last message turned the connection into a tunnel as soon as its `End` is out.
    Ending,
    Tunnel,
    Failed(Malformed),
}

impl RequestDecoder {
    pub fn new(limits: Limits) -> Self {
        Self {
            machine: Machine::new(limits, Some(limits.request_line)),
        }
    }

    /// What was wrong, once something was.
    pub fn failure(&self) -> Option<Malformed> {
        match self.machine.state {
            State::Failed(malformed) => Some(malformed),
            _ => None,
        }
    }

    /// The next piece of the request at the front of `input`, or `None` when more bytes are
    /// needed. Bytes behind a request stay in `input`; nobody else may take bytes out of it.
    /// After a CONNECT request the bytes are the tunnel's, and it returns `None` for ever.
    ///
    /// Errors are final: the end of what was malformed is not known.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Item<RequestHead>>, Malformed> {
        let limit = self.machine.limits.fields;
        self.machine.decode(input, |head| {
            if head.len() == 2 {
                return Ok(Read::EmptyLine);
            }
            let head = parse_request(head)?;
            if head.fields.len() > limit {
                return Err(Malformed::TooManyFields { limit });
            }
            let body = Body::of_request(&head)?;
            let tunnel = head.method == "CONNECT";
            Ok(Read::Head { head, body, tunnel })
        })
    }

    /// The peer sends no more. `Ok` between requests. Errors: the input ended inside a request.
    pub fn finish(&mut self) -> Result<(), Malformed> {
        self.machine.finish::<RequestHead>().map(|_| ())
    }
}

impl ResponseDecoder {
    pub fn new(limits: Limits) -> Self {
        Self {
            machine: Machine::new(limits, None),
            asked: None,
            interim: false,
        }
    }

    /// A request with this method was sent: one final response is due.
    pub fn expect(&mut self, method: &[u8]) {
        self.asked = Some(Asked::by(method));
    }

    /// A request was sent that asks for another protocol: the final response may be 101, and the
    /// bytes behind it are a tunnel's.
    pub fn expect_upgrade(&mut self) {
        self.asked = Some(Asked::Upgrade);
    }

    /// As [`RequestDecoder::decode`]. Interim responses (1xx) come as a `Head` and an `End` of
    /// their own before the final one.
    pub fn decode(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Option<Item<ResponseHead>>, Malformed> {
        let Some(asked) = self.asked else {
            return self.decode_unasked(input);
        };
        let item = self.machine.decode(input, |head| {
            if head.len() == 2 {
                return Err(Malformed::StatusLine);
            }
            let head = parse_response(head)?;
            let switches = head.status == 101;
            if switches && asked != Asked::Upgrade {
                return Err(Malformed::SwitchedProtocols);
            }
            let body = Body::of_response(&head, asked)?;
            let connects = asked == Asked::Connect && matches!(head.status, 200..=299);
            let tunnel = switches || connects;
            Ok(Read::Head { head, body, tunnel })
        })?;
        self.note(item.as_ref());
        Ok(item)
    }

    /// The peer sends no more: `End` when that ends a body, `None` between responses.
    /// Errors: the input ended inside a response, or before one that is due.
    pub fn finish(&mut self) -> Result<Option<Item<ResponseHead>>, Malformed> {
        if self.asked.is_some() && self.machine.is_between() {
            return Err(self.machine.fail(Malformed::Truncated));
        }
        let item = self.machine.finish()?;
        self.note(item.as_ref());
        Ok(item)
    }

    fn decode_unasked(
        &mut self,
        input: &BytesMut,
    ) -> Result<Option<Item<ResponseHead>>, Malformed> {
        match self.machine.state {
            State::Failed(error) => Err(error),
            State::Head { .. } if !input.is_empty() => Err(self.machine.fail(Malformed::Unasked)),
            _ => Ok(None),
        }
    }

    /// Only the end of a final response answers the request.
    fn note(&mut self, item: Option<&Item<ResponseHead>>) {
        match item {
            Some(Item::Head(head, _)) => self.interim = head.status < 200 && head.status != 101,
            Some(Item::End) if !self.interim => self.asked = None,
            _ => {}
        }
    }
}

/// What a complete head turned out to be.
enum Read<H> {
    Head { head: H, body: Body, tunnel: bool },
    EmptyLine,
}

impl Machine {
    fn new(limits: Limits, first_line: Option<usize>) -> Self {
        Self {
            limits,
            first_line,
            state: State::between(),
        }
    }

    fn is_between(&self) -> bool {
        matches!(&self.state, State::Head { scan, .. } if !scan.has_begun())
    }

    fn fail(&mut self, error: Malformed) -> Malformed {
        self.state = State::Failed(error);
        error
    }

    fn decode<H>(
        &mut self,
        input: &mut BytesMut,
        read: impl Fn(&Bytes) -> Result<Read<H>, Malformed>,
    ) -> Result<Option<Item<H>>, Malformed> {
        self.step(input, read).map_err(|error| self.fail(error))
    }

    fn step<H>(
        &mut self,
        input: &mut BytesMut,
        read: impl Fn(&Bytes) -> Result<Read<H>, Malformed>,
    ) -> Result<Option<Item<H>>, Malformed> {
        match &mut self.state {
            State::Failed(error) => Err(*error),
            State::Tunnel => Ok(None),
            State::Ending => {
                self.state = State::Tunnel;
                Ok(Some(Item::End))
            }
            State::Body(body) => {
                let item = body.decode(input, self.limits.head)?;
                if matches!(item, Some(Item::End)) {
                    self.state = State::between();
                }
                Ok(item)
            }
            State::Head { scan, skipped_line } => {
                let Some(end) = scan.find_end(input, self.limits.head, self.first_line)? else {
                    return Ok(None);
                };
                match read(&take_off(input, end))? {
                    // RFC 9112 section 2.2: one empty line before a request is forgiven.
                    Read::EmptyLine if *skipped_line => Err(Malformed::RequestLine),
                    Read::EmptyLine => {
                        self.state = State::Head {
                            scan: HeadScan::default(),
                            skipped_line: true,
                        };
                        self.step(input, read)
                    }
                    Read::Head { head, body, tunnel } => {
                        self.state = if tunnel {
                            State::Ending
                        } else {
                            State::Body(BodyDecoder::new(body))
                        };
                        Ok(Some(Item::Head(head, body)))
                    }
                }
            }
        }
    }

    fn finish<H>(&mut self) -> Result<Option<Item<H>>, Malformed> {
        match &self.state {
            State::Failed(error) => Err(*error),
            State::Tunnel => Ok(None),
            State::Head { scan, .. } if !scan.has_begun() => Ok(None),
            State::Body(BodyDecoder::UntilClose) => {
                self.state = State::between();
                Ok(Some(Item::End))
            }
            _ => Err(self.fail(Malformed::Truncated)),
        }
    }
}

impl State {
    fn between() -> Self {
        Self::Head {
            scan: HeadScan::default(),
            skipped_line: false,
        }
    }
}
