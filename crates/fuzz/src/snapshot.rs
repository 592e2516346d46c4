//! What a proxy keeps on disk: the sealed form, and what is read once it has been opened.
//!
//! The two steps are those of the proxy's own store: [`open`] with the node key, then the message.
//! Nothing that was not sealed opens, so the bytes of the second step are tried sealed and opened.

use isthmus_identity::{open, seal};
use isthmus_wire::proto::{StoredIdentity, StoredView};
use isthmus_wire::{Body, Topic};
use prost::Message;

use crate::word;

const KEY: [u8; 32] = [7; 32];
const CONTEXT: &[u8] = b"isthmus proxy view of somebody";

/// The first byte says which step: `s` a sealed file, `v` a view, `i` an identity.
pub(crate) fn snapshot(data: &[u8]) -> String {
    let (step, rest) = data.split_first().unwrap_or((&0, &[]));
    match step {
        b's' => sealed(rest),
        b'v' => view(&travelled(rest)),
        b'i' => match StoredIdentity::decode(travelled(rest).as_slice()) {
            Ok(identity) if identity.certificates.is_some() => "identity".to_owned(),
            Ok(_) => "identity-without-certificates".to_owned(),
            Err(_) => "identity-damaged".to_owned(),
        },
        _ => "nothing".to_owned(),
    }
}

fn sealed(file: &[u8]) -> String {
    match open(&KEY, CONTEXT, file) {
        Ok(plain) => panic!("nobody has sealed this, and it opened: {plain:?}"),
        Err(error) => format!("sealed-{}", word(&error)),
    }
}

/// What comes back of `plain`, sealed and opened.
fn travelled(plain: &[u8]) -> Vec<u8> {
    let sealed = seal(&KEY, CONTEXT, plain).expect("the library seals");
    let opened = open(&KEY, CONTEXT, &sealed).expect("what was sealed opens");
    assert_eq!(opened, plain);
    opened
}

/// A view as the proxy starts from it: topics by name, resources that are usable or not.
fn view(plain: &[u8]) -> String {
    let Ok(view) = StoredView::decode(plain) else {
        return "view-damaged".to_owned();
    };
    let again = StoredView::decode(view.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(&view), "what is kept is read back");
    let known = view.topics.iter().filter(|stored| {
        let topic = stored.topic.parse::<Topic>();
        topic.is_ok_and(|topic| topic.to_string() == stored.topic)
    });
    let resources: Vec<_> = known.flat_map(|stored| &stored.resources).collect();
    let usable = resources
        .iter()
        .any(|kept| Body::decode(&kept.body).is_ok());
    match (view.topics.is_empty(), resources.is_empty(), usable) {
        (true, _, _) => "view-empty",
        (_, true, _) => "view-without-resources",
        (_, _, false) => "view-of-unusable-resources",
        (_, _, true) => "view",
    }
    .to_owned()
}
