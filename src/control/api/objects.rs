//! Parameters that stand in objects of JSON, and nowhere else.

use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Reads the parameters of a method.
pub(super) fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Object<T>>(body).map(|of| of.0)
}

/// What stands in an object of JSON. serde would fill a struct from an array as well, by the order of its members, which
/// nobody who writes one can mean.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// An object; `null` is none.
pub(super) fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|of| of.0))
}

/// An object; `null` is the zero value.
pub(super) fn object_or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(optional(deserializer)?.unwrap_or_default())
}

/// A list of objects; `null` is an empty one.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects = Option::<Vec<Object<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(objects.into_iter().map(|of| of.0).collect())
}

#[cfg(test)]
mod tests {
    use super::super::params::{
        BatchParams, ChannelParams, DisconnectParams, HistoryParams, NoParams, PublishParams, SubscribeParams,
    };
    use super::*;

    /// Not by position: not at the top, and not at any place where an object is meant.
    #[test]
    fn arrays_are_no_objects() {
        fn reads<'b, T: Deserialize<'b>>(body: &'b str) -> bool {
            parse::<T>(body.as_bytes()).is_ok()
        }
        assert!(!reads::<PublishParams<'_>>(r#"["arr",[],{"x":1}]"#) && !reads::<NoParams>("[]"));
        assert!(!reads::<ChannelParams>(r#"["c"]"#) && !reads::<ChannelParams>("null"));
        for body in [
            r#"{"since":[1,"e"]}"#,
            r#"{"recover_since":[1,"e"]}"#,
            r#"{"override":[]}"#,
            r#"{"override":{"presence":[true]}}"#,
            r#"{"disconnect":[3000,"x"]}"#,
        ] {
            let reads_as = [
                reads::<HistoryParams>(body),
                reads::<SubscribeParams<'_>>(body),
                reads::<DisconnectParams>(body),
            ];
            assert_eq!(
                reads_as.iter().filter(|reads| !**reads).count(),
                1,
                "{body}: by whom it means something"
            );
        }
        for command in [
            "[]",
            r#"{"publish":["c",[],1]}"#,
            r#"{"info":[]}"#,
            r#"{"map_publish":[]}"#,
            r#"{"mailbox_info":["u"]}"#,
        ] {
            assert!(!reads::<BatchParams<'_>>(&format!(r#"{{"commands":[{command}]}}"#)), "{command}");
        }
        let good = r#"{"commands":[{"publish":{"channel":"c","data":[1]}},{"info":{}},{"map_publish":{}},{"history":null}]}"#;
        let commands = parse::<BatchParams<'_>>(good.as_bytes()).unwrap().commands;
        assert!(
            commands[0].publish.is_some() && commands[1].info.is_some() && commands[2].not_offered.is_some()
        );
    }
}
