//! JSON Schemas (draft 2020-12) of what `--json` prints, from the tables of `docs/json.md`, which is the contract.

use serde_json::{Map, Value, json};

/// The document that people read.
const CONTRACT: &str = include_str!("../../../docs/json.md");

/// A verb, `ccdadm sync-command show`, and the schema of one of its documents.
#[derive(Clone, Debug)]
pub struct Schema {
    pub verb: String,
    pub schema: Value,
}

impl Schema {
    /// `ccdadm-sync-command-show.json`; a second table of a verb is `ccdadm-purify-2.json`.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.verb.replace(' ', "-"))
    }
}

/// All of them, in the order of the document.
///
/// # Panics
/// If a table of the document cannot be understood; a test reads them all.
pub fn all() -> Vec<Schema> {
    let mut schemas: Vec<Schema> = Vec::new();
    for section in CONTRACT.split("\n## ").skip(1) {
        let (heading, body) = section.split_once('\n').expect("a section has a body");
        let (program, verbs) = heading.split_once(' ').expect("a program and its verbs");
        let mut root = Node::default();
        for row in body.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            assert_eq!(cells.len(), 3, "{heading}: {row}");
            let path = cells[0].trim_start_matches("| ").trim_matches('`');
            root.at(path)
                .describe(cells[1], cells[2].trim_end_matches('|').trim());
        }
        for verb in verbs.split(", ") {
            let verb = format!("{program} {}", verb.trim_start_matches(&format!("{program} ")));
            let before = schemas.iter().filter(|schema| schema.verb == verb).count();
            let verb = if before == 0 {
                verb
            } else {
                format!("{verb} {}", before + 1)
            };
            let mut schema = root.schema();
            schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
            schema["title"] = json!(format!("{verb} --json"));
            schemas.push(Schema { verb, schema });
        }
    }
    schemas
}

/// A field, and what is below it.
#[derive(Debug, Default)]
struct Node {
    /// Types and values, as the table has them; empty if it has no row of its own.
    kinds: Vec<String>,
    about: String,
    fields: Vec<(String, Node)>,
    items: Option<Box<Node>>,
    /// The values of an object with names of its own.
    any: Option<Box<Node>>,
}

impl Node {
    /// The node at `a.b[].c{}`, made if it is not there.
    fn at(&mut self, path: &str) -> &mut Self {
        if let Some(rest) = path.strip_prefix("[]") {
            return self
                .items
                .get_or_insert_default()
                .at(rest.trim_start_matches('.'));
        }
        if let Some(rest) = path.strip_prefix("{}") {
            return self.any.get_or_insert_default().at(rest.trim_start_matches('.'));
        }
        if path.is_empty() {
            return self;
        }
        let end = path.find(['.', '[', '{']).unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        let index = match self.fields.iter().position(|(known, _)| known == name) {
            Some(index) => index,
            None => {
                self.fields.push((name.to_owned(), Self::default()));
                self.fields.len() - 1
            }
        };
        self.fields[index].1.at(rest.trim_start_matches('.'))
    }

    fn describe(&mut self, kinds: &str, about: &str) {
        self.kinds = kinds.split(", ").map(str::to_owned).collect();
        about.clone_into(&mut self.about);
    }

    fn may_be_missing(&self) -> bool {
        self.kinds.iter().any(|kind| kind == "missing")
    }

    fn schema(&self) -> Value {
        let mut types: Vec<&str> = Vec::new();
        let mut values = Vec::new();
        for kind in &self.kinds {
            match kind.as_str() {
                "string" | "integer" | "number" | "boolean" | "null" | "object" => types.push(kind),
                "list" => types.push("array"),
                "missing" => {}
                word => {
                    let value = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
                    values.push(json!(value.unwrap_or_else(|| panic!("{word:?} is no type"))));
                }
            }
        }
        if !values.is_empty() {
            if types.contains(&"null") {
                values.push(Value::Null);
            }
            return with_about(json!({ "enum": values }), &self.about);
        }
        if self.items.is_some() && !types.contains(&"array") && self.any.is_none() {
            types.push("array");
        }
        if (self.any.is_some() || !self.fields.is_empty()) && !types.contains(&"object") {
            types.push("object");
        }
        let mut schema = match types[..] {
            [one] => json!({ "type": one }),
            _ => json!({ "type": types }),
        };
        if let Some(items) = &self.items {
            schema["items"] = items.schema();
        }
        if let Some(any) = &self.any {
            schema["additionalProperties"] = any.schema();
        }
        if !self.fields.is_empty() {
            let properties = self
                .fields
                .iter()
                .map(|(name, field)| (name.clone(), field.schema()));
            let required = self.fields.iter().filter(|(_, field)| !field.may_be_missing());
            schema["properties"] = Value::Object(properties.collect::<Map<_, _>>());
            schema["required"] = json!(required.map(|(name, _)| name).collect::<Vec<_>>());
        }
        with_about(schema, &self.about)
    }
}

fn with_about(mut schema: Value, about: &str) -> Value {
    if !about.is_empty() {
        schema["description"] = json!(about);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_into_lists_and_names() {
        let mut root = Node::default();
        root.at("a.b[].c").describe("string, null", "what");
        root.at("a.d{}").describe("boolean, missing", "");
        let schema = root.schema();
        let a = &schema["properties"]["a"];
        let c = json!({ "type": ["string", "null"], "description": "what" });
        assert_eq!(a["properties"]["b"]["items"]["properties"]["c"], c);
        assert_eq!(
            a["properties"]["d"]["additionalProperties"],
            json!({ "type": "boolean" })
        );
        assert_eq!(a["required"], json!(["b", "d"]));
    }

    #[test]
    fn every_table_of_the_document_is_understood() {
        let all = all();
        assert!(all.len() > 50, "{}", all.len());
        let state = |schema: &Schema| schema.schema["properties"]["cluster"]["properties"]["state"].clone();
        let status = all.iter().find(|schema| schema.verb == "ccdadm status");
        let words = state(status.expect("it is there"))["enum"].clone();
        assert!(
            words
                .as_array()
                .is_some_and(|words| words.contains(&json!("serving"))),
            "{words}"
        );
    }
}
