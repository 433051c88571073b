//! The data of an event as the tree that a schema is compared with.

use std::io::Cursor;

use serde::Deserialize as _;
use serde_json::Value;

use super::MAX_DEPTH;

/// The ways to write data that a schema can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    MsgPack,
}

impl Form {
    /// By the media type; nothing said means JSON, as in CloudEvents.
    fn of(content_type: &str) -> Option<Form> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let subtype = media_type.split_once('/').map_or("", |(_, subtype)| subtype);
        match subtype {
            "" if media_type.is_empty() => Some(Form::Json),
            "json" => Some(Form::Json),
            "msgpack" | "x-msgpack" | "vnd.msgpack" => Some(Form::MsgPack),
            _ if subtype.ends_with("+json") => Some(Form::Json),
            _ if subtype.ends_with("+msgpack") => Some(Form::MsgPack),
            _ => None,
        }
    }
}

/// Reads data of this media type; what is wrong with it, in words.
pub(super) fn parse(content_type: &str, data: &[u8]) -> Result<Value, String> {
    match Form::of(content_type) {
        Some(Form::Json) => serde_json::from_slice(data).map_err(|error| format!("the data is not JSON: {error}")),
        Some(Form::MsgPack) => msgpack(data),
        None => {
            let content_type: String = content_type.chars().take(100).collect();
            Err(format!("the data is {content_type:?}; a schema can only check JSON and MsgPack"))
        }
    }
}

fn msgpack(data: &[u8]) -> Result<Value, String> {
    let mut reader = rmp_serde::Deserializer::new(Cursor::new(data));
    reader.set_max_depth(MAX_DEPTH);
    let value = Value::deserialize(&mut reader).map_err(|error| {
        format!("the data is not MsgPack, or more than JSON can say (bytes, keys that are no text): {error}")
    })?;
    match data.len() as u64 - reader.position() {
        0 => Ok(value),
        rest => Err(format!("the data is not MsgPack: {rest} bytes follow the value")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_media_type_says_how_to_read() {
        for json in ["", "application/json", "Application/JSON; charset=utf-8", "text/json", "application/x+json"] {
            assert_eq!(Form::of(json), Some(Form::Json), "{json}");
        }
        for msgpack in ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack", "a/b+msgpack"] {
            assert_eq!(Form::of(msgpack), Some(Form::MsgPack), "{msgpack}");
        }
        for other in ["json", "text/plain", "application/xml", "/"] {
            assert_eq!(Form::of(other), None, "{other}");
        }
    }

    #[test]
    fn what_json_cannot_say_and_what_follows_is_refused() {
        assert_eq!(parse("application/msgpack", b"\x81\xa1n\x07"), Ok(json!({"n": 7})));
        for bad in [&b""[..], b"\x81\xa1n", b"\x81\xa1n\x07\x00", b"\xc4\x01x", b"\x81\x01\x02", b"\xc1"] {
            assert!(parse("application/msgpack", bad).is_err(), "{bad:?}");
        }
        for bad in [&b""[..], b"{", b"{}x", b"\xff"] {
            assert!(parse("", bad).is_err(), "{bad:?}");
        }
        assert!(parse("application/xml", b"<a/>").unwrap_err().contains("application/xml"));
    }

    #[test]
    fn depth_is_bounded() {
        let json = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        let msgpack = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert!(parse("", &json(MAX_DEPTH - 1)).is_ok() && parse("", &json(MAX_DEPTH + 1)).is_err());
        let media_type = "application/msgpack";
        assert!(parse(media_type, &msgpack(MAX_DEPTH - 2)).is_ok());
        assert!(parse(media_type, &msgpack(MAX_DEPTH + 1)).is_err() && parse(media_type, &msgpack(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in any::<Vec<u8>>(), content_type in "(application/(json|msgpack)|.{0,8})") {
            let _ = parse(&content_type, &data);
        }
    }
}
