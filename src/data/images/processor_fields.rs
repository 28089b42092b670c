//! Typed access to the settings of an image processor.

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use super::resize::Filter;

/// A size of `size` or `crop_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeField {
    /// The shorter side gets this length; the aspect ratio is kept.
    Shortest(u32),
    Exact {
        height: u32,
        width: u32,
    },
}

/// Maximum side of an image or tile in pixels.
pub(super) const MAX_SIDE: u64 = 4096;

/// A side's length in pixels, from 1 to [`MAX_SIDE`].
pub(super) fn side(value: &Value) -> Option<u32> {
    value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side)).map(|side| side as u32)
}

/// Typed access to the settings.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A value that is not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// As in transformers, null is false, whatever the default.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.0.get(name) else { return Ok(default) };
        if value.is_null() {
            return Ok(false);
        }
        value.as_bool().ok_or_else(|| anyhow!("`{name}` is {value}, not true or false"))
    }

    /// Refuses what steps would do that a class does not have: the files of some versions of transformers name them all, with the
    /// value false or null.
    pub(super) fn refuse_steps(&self, flags: &[&str], others: &[&str]) -> Result<()> {
        for name in flags {
            if self.flag(name, false)? {
                bail!("`{name}` is true, which is not supported");
            }
        }
        for name in others {
            if let Some(value) = self.get(name) {
                bail!("`{name}` is {value}, which is not supported");
            }
        }
        Ok(())
    }

    /// Refuses null for what a step needs, which would not be its default in transformers.
    pub(super) fn refuse_null(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| self.0.get(**name).is_some_and(Value::is_null)) {
            Some(name) => bail!("`{name}` is null: write its value, or remove it for the default"),
            None => Ok(()),
        }
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

    /// A whole number from 1 to `most`.
    pub(super) fn count(&self, name: &str, default: u32, most: u32) -> Result<u32> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let count = value.as_u64().filter(|count| (1..=u64::from(most)).contains(count));
        count.map(|count| count as u32).ok_or_else(|| anyhow!("`{name}` is {value}, not from 1 to {most}"))
    }

    /// A size with equal height and width.
    pub(super) fn square(&self, name: &str, default: u32) -> Result<u32> {
        match self.size(name)? {
            None => Ok(default),
            Some(SizeField::Exact { height, width }) if height == width => Ok(height),
            Some(_) => bail!("`{name}` is not an equal height and width"),
        }
    }

    /// A number, a list of height and width, or an object with `shortest_edge` or with `height` and `width`.
    pub(super) fn size(&self, name: &str) -> Result<Option<SizeField>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let length = |value: &Value| {
            side(value).ok_or_else(|| anyhow!("`{name}` holds {value}, not a length from 1 to {MAX_SIDE}"))
        };
        let exact = |height, width| Ok(SizeField::Exact { height: length(height)?, width: length(width)? });
        let size: Result<SizeField> = match value {
            Value::Number(_) => Ok(SizeField::Shortest(length(value)?)),
            Value::Array(list) if list.len() == 2 => exact(&list[0], &list[1]),
            Value::Object(map) => {
                let keys: Vec<&str> = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| &**key).collect();
                match keys.as_slice() {
                    ["shortest_edge"] => Ok(SizeField::Shortest(length(&map["shortest_edge"])?)),
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

    /// The filter of `resample`, a number of Pillow.
    pub(super) fn filter(&self, default: Filter) -> Result<Filter> {
        let Some(value) = self.get("resample") else { return Ok(default) };
        match value.as_u64() {
            Some(0) => Ok(Filter::Nearest),
            Some(1) => Ok(Filter::Lanczos),
            Some(2) => Ok(Filter::Bilinear),
            Some(3) => Ok(Filter::Bicubic),
            Some(4) => bail!("`resample` is 4 (box), which is not supported"),
            Some(5) => bail!("`resample` is 5 (Hamming), which is not supported"),
            _ => bail!("`resample` is {value}, not a Pillow filter number from 0 to 5"),
        }
    }
}
