//! The JSON Schema of experiment files, for editors. It is less strict than loading: no key is required, because
//! another file may contain it.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Map, Value, json};

use super::constraints::WHEN;
use super::limits::{self, LimitsTable};
use super::tables::ExperimentTable;
use ablate_core::stage::{Kind, Registry};

/// The pattern of strings that are allowed for every key: a variable, or the value that removes a key.
const VARIABLE: &str = r"\$\{|^remove$";

const ABOUT: &str = "An experiment of ablate, or a file that other files extend. No key is required here, because \
                     another file may contain it. `ablate check` reports missing keys.";

/// The schema (draft 2020-12) of files whose stages are of the registry's kinds.
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let limits = generator.subschema_for::<LimitsTable>().to_value();
    let kinds: Vec<(&Kind, Map<String, Value>)> = registry
        .iter()
        .map(|kind| (*kind, (kind.schema)(&mut generator)))
        .map(|(kind, schema)| (kind, stage_schema(kind, schema, &limits)))
        .collect();
    let mut root = generator.into_root_schema_for::<ExperimentTable>();
    root.insert("title".to_string(), json!("ablate experiment"));
    root.insert("description".to_string(), json!(ABOUT));
    if let Some(stages) = root.pointer_mut("/properties/stage") {
        *stages = json!({
            "description": "The stages by name.",
            "type": "object",
            "additionalProperties": { "$ref": "#/$defs/stage" },
        });
    }
    if let Some(definitions) = root.get_mut("$defs").and_then(Value::as_object_mut) {
        definitions.insert("stage".to_string(), any_stage(&kinds));
        for (kind, schema) in kinds {
            definitions.insert(definition_name(kind), Value::Object(schema));
        }
    }
    Loosen { is_alternative: false }.transform(&mut root);
    root.to_value()
}

fn definition_name(kind: &Kind) -> String {
    format!("stage.{}", kind.name)
}

/// The schema of a kind's table, with the keys that every stage may have.
fn stage_schema(kind: &Kind, mut schema: Schema, limits: &Value) -> Map<String, Value> {
    let table = schema.ensure_object();
    table.insert("description".to_string(), json!(kind.about));
    let keys = table.entry("properties").or_insert_with(|| json!({}));
    if let Some(keys) = keys.as_object_mut() {
        for key in kind.fan_out {
            if let Some(single) = keys.get_mut(*key) {
                let about = single.as_object_mut().and_then(|single| single.remove("description"));
                let list = json!({ "description": "One instance per element.", "type": "array", "items": single });
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
                "description": "The points at which the stage exists: `axis=value,other=value`, or a list of them.",
                "anyOf": [condition, { "type": "array", "items": condition }],
            }),
        );
    }
    table.clone()
}

/// The schema of a stage: that of its kind. Without `kind`, which another file may contain, the keys of every kind are
/// allowed.
fn any_stage(kinds: &[(&Kind, Map<String, Value>)]) -> Value {
    let mut keys = Map::new();
    for (_, schema) in kinds {
        for key in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            keys.insert(key.clone(), json!(true));
        }
    }
    let names = kinds.iter().map(|(kind, _)| json!({ "const": kind.name, "description": kind.about }));
    let names: Vec<Value> = names.collect();
    keys.insert("kind".to_string(), json!({ "description": "The kind of the stage.", "oneOf": names }));
    let by_kind = kinds.iter().map(|(kind, _)| {
        json!({
            "if": { "properties": { "kind": { "const": kind.name } }, "required": ["kind"] },
            "then": { "$ref": format!("#/$defs/{}", definition_name(kind)) },
        })
    });
    json!({
        "type": "object",
        "properties": keys,
        "additionalProperties": false,
        "allOf": by_kind.collect::<Vec<_>>(),
    })
}

/// Makes a schema less strict: no key is required, and every value may be a variable. Keywords such as `properties` and
/// `minimum` do not apply to strings, so it is enough to add the type `string` and a pattern.
struct Loosen {
    /// Whether the schema is one alternative of an `anyOf`, which gets the variable as a further alternative.
    is_alternative: bool,
}

impl Transform for Loosen {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(table) = schema.as_object_mut() else { return };
        // The conditions of `if` must stay exact.
        if table.contains_key("if") {
            return;
        }
        table.remove("required");
        table.remove("format");
        remove_null(table);
        let alternatives = table.remove("anyOf").or_else(|| table.remove("oneOf"));
        transform_subschemas(&mut Loosen { is_alternative: false }, schema);
        let Some(table) = schema.as_object_mut() else { return };
        if let Some(Value::Array(alternatives)) = alternatives {
            let mut alternatives: Vec<Schema> =
                alternatives.into_iter().filter_map(|schema| schema.try_into().ok()).collect();
            for schema in &mut alternatives {
                Loosen { is_alternative: true }.transform(schema);
            }
            let mut alternatives: Vec<Value> = alternatives.into_iter().map(Schema::to_value).collect();
            if !self.is_alternative && !alternatives.iter().any(allows_variables) {
                alternatives.push(variable());
            }
            table.insert("anyOf".to_string(), Value::Array(alternatives));
        } else if !self.is_alternative {
            widen(table);
        }
    }
}

fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// Whether the alternative allows any string, or is a reference to a definition that allows variables.
fn allows_variables(alternative: &Value) -> bool {
    alternative.get("$ref").is_some()
        || (alternative["type"] == "string" && alternative.get("const").is_none() && alternative.get("enum").is_none())
}

/// Removes `null` from the types: TOML has no null, and an optional key is omitted instead.
fn remove_null(table: &mut Map<String, Value>) {
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

/// Allows a variable where the schema allows no strings or only certain strings.
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
        // It already allows some strings.
        Some(Value::Array(_)) => {
            if let Some(Value::String(pattern)) = table.get_mut("pattern") {
                *pattern = format!("{pattern}|{VARIABLE}");
            }
        }
        _ => {}
    }
}
