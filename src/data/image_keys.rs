//! The images of a record, and where they stand in its texts.

use serde::de::Error;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::image_placeholders::{self, PLACEHOLDER};

/// The keys of a record's images: `<first 16 hex digits of the pack's hash>/<member name>`. A file that is imported has
/// paths instead.
///
/// ```json
/// {"image": "3f2a81c0d94e7b65/7.png", "prompt": "How many bars?"}
/// {"images": ["3f2a81c0d94e7b65/7.png", "3f2a81c0d94e7b65/8.png"], "prompt": "<image> and <image>: which has more bars?"}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageKeys {
    #[default]
    None,
    /// `image`: one image, before the text of the first user's turn. `<image>` in a text is literal.
    Leading(String),
    /// `images`: the images stand where the user's turns have `<image>`, in order. The literal text is `\<image>`.
    Placed(Vec<String>),
}

impl ImageKeys {
    pub fn keys(&self) -> &[String] {
        match self {
            ImageKeys::None => &[],
            ImageKeys::Leading(key) => std::slice::from_ref(key),
            ImageKeys::Placed(keys) => keys,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    /// The same images under other keys.
    #[must_use]
    pub fn map(self, mut rename: impl FnMut(String) -> String) -> ImageKeys {
        match self {
            ImageKeys::None => ImageKeys::None,
            ImageKeys::Leading(key) => ImageKeys::Leading(rename(key)),
            ImageKeys::Placed(keys) => ImageKeys::Placed(keys.into_iter().map(rename).collect()),
        }
    }

    /// A literal text as a part of a user's turn of this record.
    pub fn escape(&self, text: &str) -> String {
        match self {
            ImageKeys::Placed(_) => image_placeholders::escape(text),
            _ => text.to_string(),
        }
    }

    /// Checks that the user's turns of the record have one placeholder for each image.
    pub fn check<'a>(&self, turns: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        let ImageKeys::Placed(keys) = self else { return Ok(()) };
        let found: usize = turns.into_iter().map(image_placeholders::count).sum();
        if found == keys.len() {
            return Ok(());
        }
        Err(format!(
            "`images` has {} image(s), but the text has {found} `{PLACEHOLDER}`: write one where each image stands \
             (`\\{PLACEHOLDER}` is the literal text)",
            keys.len()
        ))
    }
}

impl Serialize for ImageKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            ImageKeys::None => {}
            ImageKeys::Leading(key) => map.serialize_entry("image", key)?,
            ImageKeys::Placed(keys) => map.serialize_entry("images", keys)?,
        }
        map.end()
    }
}

/// The fields of [`ImageKeys`], of which a record has at most one.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only describes the fields")]
struct ImageFields {
    /// The key of one image, before the text.
    image: Option<String>,
    /// The keys of several images, which stand where the text has `<image>`.
    images: Option<Vec<String>>,
}

impl schemars::JsonSchema for ImageKeys {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        ImageFields::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ImageFields::json_schema(generator)
    }
}

/// The keys of media in a record. Keys that other programs use are read too, so that they cause an error; otherwise the
/// record would silently lose its media.
#[derive(Deserialize)]
struct MediaKeys {
    image: Option<Value>,
    images: Option<Value>,
    video: Option<Value>,
    videos: Option<Value>,
    audio: Option<Value>,
    audios: Option<Value>,
}

impl<'de> Deserialize<'de> for ImageKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ImageKeys, D::Error> {
        let MediaKeys { image, images, video, videos, audio, audios } = MediaKeys::deserialize(deserializer)?;
        for (key, value) in [("video", video), ("videos", videos), ("audio", audio), ("audios", audios)] {
            if value.is_some_and(|value| !matches!(&value, Value::Array(list) if list.is_empty())) {
                return Err(D::Error::custom(format!("`{key}` is not supported: a record has text and images only")));
            }
        }
        let image = match image {
            None => None,
            Some(Value::String(key)) => Some(key),
            Some(Value::Array(keys)) if keys.is_empty() => None,
            Some(_) => return Err(D::Error::custom("`image` is one image, a string; several are a list in `images`")),
        };
        let keys = match images {
            None => Vec::new(),
            Some(Value::Array(keys)) => {
                let text = |key| if let Value::String(key) = key { Some(key) } else { None };
                let keys: Option<Vec<String>> = keys.into_iter().map(text).collect();
                keys.ok_or_else(|| D::Error::custom("`images` is a list of strings"))?
            }
            Some(_) => return Err(D::Error::custom("`images` is a list of strings; one image is a string in `image`")),
        };
        match (image, keys.is_empty()) {
            (Some(_), false) => Err(D::Error::custom("`image` and `images` are both given: write one of them")),
            (Some(key), true) => Ok(ImageKeys::Leading(key)),
            (None, true) => Ok(ImageKeys::None),
            (None, false) => Ok(ImageKeys::Placed(keys)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Row;

    fn read(keys: &str) -> Result<ImageKeys, String> {
        let text = format!(r#"{{"id": "1", "dataset": "d", {keys} "prompt": "?", "response": "4"}}"#);
        serde_json::from_str::<Row>(&text).map(|row| row.images).map_err(|error| error.to_string())
    }

    fn placed(keys: &[&str]) -> ImageKeys {
        ImageKeys::Placed(keys.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_record_has_one_image_or_a_list() {
        for none in ["", r#""image": null,"#, r#""images": [],"#, r#""image": [],"#, r#""video": [],"#] {
            assert_eq!(read(none), Ok(ImageKeys::None), "{none}");
        }
        assert_eq!(read(r#""image": "a/b.png","#), Ok(ImageKeys::Leading("a/b.png".to_string())));
        assert_eq!(read(r#""image": "a/b.png", "images": [],"#), Ok(ImageKeys::Leading("a/b.png".to_string())));
        assert_eq!(read(r#""images": ["a/b.png"],"#), Ok(placed(&["a/b.png"])));
        assert_eq!(read(r#""images": ["a", "b", "a"],"#), Ok(placed(&["a", "b", "a"])));
    }

    #[test]
    fn other_media_are_errors() {
        let error = |keys: &str| read(keys).unwrap_err().split(" at line").next().unwrap_or_default().to_string();
        let one = "`image` is one image, a string; several are a list in `images`";
        assert_eq!((error(r#""image": ["a"],"#), error(r#""image": 3,"#)), (one.to_string(), one.to_string()));
        assert_eq!(error(r#""images": ["a", 3],"#), "`images` is a list of strings");
        assert_eq!(error(r#""images": "a","#), "`images` is a list of strings; one image is a string in `image`");
        let both = "`image` and `images` are both given: write one of them";
        assert_eq!(error(r#""image": "a", "images": ["b"],"#), both);
        assert_eq!(error(r#""image": "a", "image": "b","#), "duplicate field `image`");
        assert_eq!(error(r#""video": "a.mp4","#), "`video` is not supported: a record has text and images only");
        assert_eq!(error(r#""audios": ["a"],"#), "`audios` is not supported: a record has text and images only");
    }

    #[test]
    fn records_are_written_with_one_of_the_keys() {
        let row = |images| Row {
            images,
            ..serde_json::from_str(r#"{"id": "1", "dataset": "d", "prompt": "?", "response": "4"}"#).unwrap()
        };
        let text = |images| serde_json::to_string(&row(images)).unwrap();
        assert_eq!(text(ImageKeys::None), r#"{"id":"1","dataset":"d","prompt":"?","response":"4"}"#);
        let leading = r#"{"id":"1","dataset":"d","image":"a","prompt":"?","response":"4"}"#;
        assert_eq!(text(ImageKeys::Leading("a".into())), leading);
        let several = r#"{"id":"1","dataset":"d","images":["a","b"],"prompt":"?","response":"4"}"#;
        assert_eq!(text(placed(&["a", "b"])), several);
    }

    #[test]
    fn images_and_placeholders_have_equal_numbers() {
        let two = placed(&["a", "b"]);
        assert_eq!(two.check(["<image>", "\\<image> or <image>?"]), Ok(()));
        let message = "`images` has 2 image(s), but the text has 1 `<image>`: write one where each image stands \
                       (`\\<image>` is the literal text)";
        assert_eq!(two.check(["\\<image> or <image>?"]), Err(message.to_string()));
        assert_eq!(ImageKeys::Leading("a".into()).check(["<image><image>"]), Ok(()));
        assert_eq!(ImageKeys::None.check(["<image>"]), Ok(()));
    }
}
