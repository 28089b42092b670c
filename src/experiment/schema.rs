//! The JSON Schema of experiment files, for editors. Looser than the checks of loading: a file may be a part of another.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Map, Value, json};

use super::limits::{self, LimitsTable};
use super::points::WHEN;
use super::tables::ExperimentTable;
use ablate_core::stage::{Kind, Registry};

/// What a string is that takes a variable, or takes a key of the file below away.
const VARIABLE: &str = r"\$\{|^remove$";

const ABOUT: &str = "An experiment of ablate, or a part that others extend: no key is demanded here, since another \
                     file may give it. `ablate check` says what is missing.";

/// The schema (draft 2020-12) of files whose stages are of the registry's kinds.
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let limits = generator.subschema_for::<LimitsTable>().to_value();
    let kinds: Vec<(&Kind, Map<String, Value>)> = registry
        .iter()
        .map(|kind| (*kind, (kind.schema)(&mut generator)))
        .map(|(kind, schema)| (kind, of_kind(kind, schema, &limits)))
        .collect();
    let mut root = generator.into_root_schema_for::<ExperimentTable>();
    root.insert("title".to_string(), json!("ablate experiment"));
    root.insert("description".to_string(), json!(ABOUT));
    if let Some(stages) = root.pointer_mut("/properties/stage") {
        *stages = json!({
            "description": "What is done, step by step.",
            "type": "object",
            "additionalProperties": { "$ref": "#/$defs/stage" },
        });
    }
    if let Some(parts) = root.get_mut("$defs").and_then(Value::as_object_mut) {
        parts.insert("stage".to_string(), any_stage(&kinds));
        for (kind, schema) in kinds {
            parts.insert(part(kind), Value::Object(schema));
        }
    }
    Loosened { way: false }.transform(&mut root);
    root.to_value()
}

fn part(kind: &Kind) -> String {
    format!("stage.{}", kind.name)
}

/// The table of a kind, with the keys that every stage may have.
fn of_kind(kind: &Kind, mut schema: Schema, limits: &Value) -> Map<String, Value> {
    let table = schema.ensure_object();
    table.insert("description".to_string(), json!(kind.about));
    let keys = table.entry("properties").or_insert_with(|| json!({}));
    if let Some(keys) = keys.as_object_mut() {
        for key in kind.fan_out {
            if let Some(single) = keys.get_mut(*key) {
                let about = single.as_object_mut().and_then(|single| single.remove("description"));
                let list = json!({ "description": "One instance each.", "type": "array", "items": single });
                let mut either = json!({ "anyOf": [single, list] });
                if let Some(about) = about {
                    either["description"] = about;
                }
                *single = either;
            }
        }
        keys.insert("kind".to_string(), json!({ "const": kind.name }));
        keys.insert(limits::KEY.to_string(), limits.clone());
        let condition = json!({ "type": "string" });
        keys.insert(
            WHEN.to_string(),
            json!({
                "description": "The points at which the stage exists: `axis=value,other=value`, or several.",
                "anyOf": [condition, { "type": "array", "items": condition }],
            }),
        );
    }
    table.clone()
}

/// A stage: the table of its kind, or, where another file says the kind, keys of any kind.
fn any_stage(kinds: &[(&Kind, Map<String, Value>)]) -> Value {
    let mut keys = Map::new();
    for (_, schema) in kinds {
        for key in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            keys.insert(key.clone(), json!(true));
        }
    }
    let names = kinds.iter().map(|(kind, _)| json!({ "const": kind.name, "description": kind.about }));
    let names: Vec<Value> = names.collect();
    keys.insert("kind".to_string(), json!({ "description": "What the stage does.", "oneOf": names }));
    let by_kind = kinds.iter().map(|(kind, _)| {
        json!({
            "if": { "properties": { "kind": { "const": kind.name } }, "required": ["kind"] },
            "then": { "$ref": format!("#/$defs/{}", part(kind)) },
        })
    });
    json!({
        "type": "object",
        "properties": keys,
        "additionalProperties": false,
        "allOf": by_kind.collect::<Vec<_>>(),
    })
}

/// Takes from a schema what a part of an experiment need not keep to: keys that must be there, and types where a
/// variable stands. Keywords such as `properties` and `minimum` say nothing about strings, so that a second type and a
/// pattern are all it takes.
struct Loosened {
    /// Whether the schema is one way of several, beside which the variable is another.
    way: bool,
}

impl Transform for Loosened {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(table) = schema.as_object_mut() else { return };
        // Conditions are about what is there, and are not loosened.
        if table.contains_key("if") {
            return;
        }
        table.remove("required");
        table.remove("format");
        without_null(table);
        let ways = table.remove("anyOf").or_else(|| table.remove("oneOf"));
        transform_subschemas(&mut Loosened { way: false }, schema);
        let Some(table) = schema.as_object_mut() else { return };
        if let Some(Value::Array(ways)) = ways {
            let mut ways: Vec<Schema> = ways.into_iter().filter_map(|way| way.try_into().ok()).collect();
            for way in &mut ways {
                Loosened { way: true }.transform(way);
            }
            let mut ways: Vec<Value> = ways.into_iter().map(Schema::to_value).collect();
            if !self.way && !ways.iter().any(takes_variables) {
                ways.push(variable());
            }
            table.insert("anyOf".to_string(), Value::Array(ways));
        } else if !self.way {
            widen(table);
        }
    }
}

fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// Whether it takes any string, or is a part that takes variables itself.
fn takes_variables(way: &Value) -> bool {
    way.get("$ref").is_some() || (way["type"] == "string" && way.get("const").is_none() && way.get("enum").is_none())
}

/// TOML has no null: what may be left out is as if it had to be there.
fn without_null(table: &mut Map<String, Value>) {
    if table.get("default").is_some_and(Value::is_null) {
        table.remove("default");
    }
    if let Some(Value::Array(types)) = table.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            table.insert("type".to_string(), one);
        }
    }
    if let Some(Value::Array(ways)) = table.get_mut("anyOf") {
        ways.retain(|way| way["type"] != "null");
        if let [Value::Object(one)] = ways.as_slice() {
            let one = one.clone();
            table.remove("anyOf");
            table.extend(one);
        }
    }
}

/// Lets a variable stand for a value that is not a string, or only some strings.
fn widen(table: &mut Map<String, Value>) {
    if let Some(known) = table.remove("enum") {
        table.remove("type");
        table.insert("anyOf".to_string(), json!([{ "enum": known }, variable()]));
        return;
    }
    match table.get("type") {
        Some(Value::String(name)) if name != "string" => {
            let either = json!([name, "string"]);
            table.insert("type".to_string(), either);
            table.insert("pattern".to_string(), json!(VARIABLE));
        }
        // It takes some word already.
        Some(Value::Array(_)) => {
            if let Some(Value::String(pattern)) = table.get_mut("pattern") {
                *pattern = format!("{pattern}|{VARIABLE}");
            }
        }
        _ => {}
    }
}
