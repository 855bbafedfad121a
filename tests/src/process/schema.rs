//! The schemas of `--json`, as `ccd-pages` writes them, and what real output is by them. Used by `process/json.rs`.

use super::programs::{Finished, program};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// One schema for each verb; and which verbs were checked.
#[derive(Debug)]
pub struct Schemas {
    /// By file name without its end: `ccdadm-sync-command-show`.
    schemas: BTreeMap<String, Value>,
    checked: BTreeSet<String>,
}

impl Schemas {
    /// # Panics
    /// If ccd-pages does not write them.
    pub fn written() -> Self {
        let share = tempfile::tempdir().expect("a folder");
        let status = Command::new(program("ccd-pages")).arg(share.path()).status();
        assert!(status.expect("ccd-pages runs").success());
        let entries = std::fs::read_dir(share.path().join("ccd/schemas")).expect("the schemas");
        let schemas = entries.map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("it is text");
            (name, serde_json::from_str(&text).expect("a schema is JSON"))
        });
        Self {
            schemas: schemas.collect(),
            checked: BTreeSet::new(),
        }
    }

    /// Every document that a verb printed is as its schema says.
    ///
    /// # Panics
    /// If one is not, or there is none.
    #[track_caller]
    pub fn check(&mut self, verb: &str, finished: &Finished) {
        let name = verb.replace(' ', "-");
        let documents = serde_json::Deserializer::from_str(&finished.out).into_iter::<Value>();
        let documents: Vec<Value> = documents
            .map(|document| {
                document.unwrap_or_else(|error| panic!("$ {}\n{}{error}", finished.line, finished.out))
            })
            .collect();
        assert!(
            !documents.is_empty(),
            "$ {}\n{}printed nothing",
            finished.line,
            finished.err
        );
        for document in documents {
            let names = [name.clone(), format!("{name}-2")];
            let known = names
                .iter()
                .filter_map(|name| Some((name, self.schemas.get(name)?)));
            let faults: Vec<(String, Result<(), String>)> = known
                .map(|(name, schema)| (name.clone(), matches(schema, &document, "$")))
                .collect();
            assert!(!faults.is_empty(), "docs/json.md says nothing of {verb}");
            match faults.iter().find(|(_, outcome)| outcome.is_ok()) {
                Some((name, _)) => self.checked.insert(name.clone()),
                None => panic!("$ {}\n{document}\n{faults:?}", finished.line),
            };
        }
    }

    /// The verbs that nothing was checked of.
    pub fn unchecked(&self) -> Vec<&str> {
        let names = self.schemas.keys().filter(|name| !self.checked.contains(*name));
        names.map(String::as_str).collect()
    }
}

/// Whether a document is as a schema says; and it holds nothing that the schema does not name, for that would be a change
/// that nobody wrote down.
fn matches(schema: &Value, document: &Value, path: &str) -> Result<(), String> {
    if let Some(values) = schema["enum"].as_array() {
        return if values.contains(document) {
            Ok(())
        } else {
            Err(format!("{path}: {document} is none of {values:?}"))
        };
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let is = |name: &str| match name {
        "string" => document.is_string(),
        "integer" => document.is_u64() || document.is_i64(),
        "number" => document.is_number(),
        "boolean" => document.is_boolean(),
        "null" => document.is_null(),
        "object" => document.is_object(),
        "array" => document.is_array(),
        _ => false,
    };
    if !types.iter().filter_map(Value::as_str).any(is) {
        return Err(format!("{path}: {document} is no {types:?}"));
    }
    if let Some(items) = document.as_array() {
        for (index, item) in items.iter().enumerate() {
            if !schema["items"].is_null() {
                matches(&schema["items"], item, &format!("{path}[{index}]"))?;
            }
        }
    }
    let Some(fields) = document.as_object() else {
        return Ok(());
    };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            return Err(format!("{path}.{name} is missing"));
        }
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let known = &schema["properties"][name];
        let schema = if known.is_null() {
            &schema["additionalProperties"]
        } else {
            known
        };
        if schema.is_null() {
            return Err(format!("{path} is not in docs/json.md"));
        }
        matches(schema, value, &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_has_what_its_schema_names_and_nothing_else() {
        let schema = json!({
            "type": "object",
            "required": ["state"],
            "properties": {
                "state": { "enum": ["on", "off"] },
                "nodes": { "type": ["array", "null"], "items": { "type": "integer" } },
                "of": { "type": "object", "additionalProperties": { "type": "boolean" } },
            },
        });
        let table = [
            (json!({ "state": "on" }), true),
            (
                json!({ "state": "on", "nodes": [1, 2], "of": { "any": true } }),
                true,
            ),
            (json!({ "state": "on", "nodes": null }), true),
            (json!({ "nodes": [] }), false),
            (json!({ "state": "up" }), false),
            (json!({ "state": "on", "nodes": ["1"] }), false),
            (json!({ "state": "on", "more": 1 }), false),
            (json!({ "state": "on", "of": { "any": 1 } }), false),
            (json!([]), false),
        ];
        for (document, expected) in table {
            let found = matches(&schema, &document, "$");
            assert_eq!(found.is_ok(), expected, "{document}: {found:?}");
        }
    }
}
