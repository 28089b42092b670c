//! The names of class labels in the metadata that `datasets` writes into a schema.

use std::collections::BTreeMap;

use serde_json::Value;

/// The class labels inside a column, in the shape of its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ClassLabels {
    #[default]
    None,
    /// The names of the classes 0, 1, ...
    Names(Vec<String>),
    List(Box<ClassLabels>),
    Struct(BTreeMap<String, ClassLabels>),
}

impl ClassLabels {
    /// The class labels of every column. `text` is the entry `huggingface` of the schema's metadata.
    pub(super) fn of_columns(text: &str) -> BTreeMap<String, ClassLabels> {
        let features = serde_json::from_str::<Value>(text).ok();
        let features = features.as_ref().and_then(|value| value.pointer("/info/features")).and_then(Value::as_object);
        features.into_iter().flatten().map(|(name, feature)| (name.clone(), ClassLabels::of_feature(feature))).collect()
    }

    fn of_feature(feature: &Value) -> ClassLabels {
        match feature {
            Value::Array(inner) => {
                ClassLabels::List(Box::new(inner.first().map(ClassLabels::of_feature).unwrap_or_default()))
            }
            Value::Object(fields) => match fields.get("_type").and_then(Value::as_str) {
                Some("ClassLabel") => {
                    let names = fields.get("names").and_then(Value::as_array);
                    let names = names.into_iter().flatten().filter_map(Value::as_str).map(str::to_string);
                    ClassLabels::Names(names.collect())
                }
                Some(_) => match fields.get("feature") {
                    Some(inner) => ClassLabels::List(Box::new(ClassLabels::of_feature(inner))),
                    None => ClassLabels::None,
                },
                None => ClassLabels::Struct(
                    fields.iter().map(|(name, field)| (name.clone(), ClassLabels::of_feature(field))).collect(),
                ),
            },
            _ => ClassLabels::None,
        }
    }

    /// The labels of a list's elements.
    pub(super) fn element(&self) -> &ClassLabels {
        match self {
            ClassLabels::List(inner) => inner,
            _ => &ClassLabels::None,
        }
    }

    /// The labels of a field. A list of structs may be stored as a struct of lists.
    pub(super) fn field(&self, name: &str) -> ClassLabels {
        match self {
            ClassLabels::Struct(fields) => fields.get(name).cloned().unwrap_or_default(),
            ClassLabels::List(inner) => match inner.field(name) {
                ClassLabels::None => ClassLabels::None,
                labels => ClassLabels::List(Box::new(labels)),
            },
            _ => ClassLabels::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_follow_the_features() {
        let label = json!({ "names": ["no", "yes"], "_type": "ClassLabel" });
        let text = json!({ "dtype": "string", "_type": "Value" });
        let features = json!({
            "plain": label, "list": { "feature": label, "_type": "List" }, "old": [label],
            "structs": { "feature": { "of": label, "text": text }, "_type": "Sequence" }, "text": text,
        });
        let metadata = json!({ "info": { "features": features } }).to_string();
        let labels = ClassLabels::of_columns(&metadata);
        let names = ClassLabels::Names(vec!["no".to_string(), "yes".to_string()]);
        assert_eq!(labels["plain"], names);
        assert_eq!((labels["list"].element(), labels["old"].element()), (&names, &names));
        assert_eq!(labels["structs"].field("of").element(), &names);
        assert_eq!((labels["structs"].field("text"), &labels["text"]), (ClassLabels::None, &ClassLabels::None));
        assert!(ClassLabels::of_columns("{").is_empty());
    }
}
