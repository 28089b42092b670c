//! Typed looks at the settings of an image processor. Knows no kind and no default; errors name the field.

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use super::processor::Target;

/// No side of a picture or tile may be longer.
pub(super) const MAX_SIDE: u64 = 4096;

/// A side's length in pixels, from 1 to [`MAX_SIDE`].
pub(super) fn side(value: &Value) -> Option<u32> {
    value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side)).map(|side| side as u32)
}

/// Typed looks at the settings. What is null is not there.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| anyhow!("`{name}` is {value}, not true or false"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| anyhow!("`{name}` is {value}, not a number"))
    }

    pub(super) fn colour(&self, name: &str) -> Result<Option<[f64; 3]>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
        let fits = three.filter(|three| three.iter().all(|&value| (value as f32).is_finite()));
        fits.map(Some).ok_or_else(|| anyhow!("`{name}` is not three numbers, for red, green and blue"))
    }

    /// A number, a list of height and width, or an object with `shortest_edge` or with `height` and `width`.
    pub(super) fn size(&self, name: &str) -> Result<Option<Target>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let length = |value: &Value| {
            side(value).ok_or_else(|| anyhow!("`{name}` holds {value}, not a length from 1 to {MAX_SIDE}"))
        };
        let exact = |height, width| Ok(Target::Exact { height: length(height)?, width: length(width)? });
        let size: Result<Target> = match value {
            Value::Number(_) => Ok(Target::Shortest(length(value)?)),
            Value::Array(list) if list.len() == 2 => exact(&list[0], &list[1]),
            Value::Object(map) => {
                let keys: Vec<&str> = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| &**key).collect();
                match keys.as_slice() {
                    ["shortest_edge"] => Ok(Target::Shortest(length(&map["shortest_edge"])?)),
                    ["height", "width"] | ["width", "height"] => exact(&map["height"], &map["width"]),
                    _ => bail!(
                        "`{name}` has the keys {keys:?}: only `shortest_edge`, or `height` and `width`, are supported"
                    ),
                }
            }
            _ => bail!("`{name}` is neither a number nor an object"),
        };
        size.map(Some)
    }
}
