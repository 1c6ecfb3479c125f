//! The report as a tree: the VM, its devices, their capabilities, and the vectors.
//!
//! The drawing is generic, so that no field is omitted. Scalars go on the line of their owner, objects are branches,
//! and lists of objects are tables.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The prefixes of a branch, and of the last one.
const BRANCH: [&str; 2] = ["├─ ", "│  "];
const LAST: [&str; 2] = ["└─ ", "   "];

/// Draws an object.
pub(super) fn draw(title: &str, value: &Value) -> String {
    let mut text = String::new();
    branch(&mut text, "", "", title, value);
    text
}

fn branch(text: &mut String, first: &str, rest: &str, title: &str, value: &Value) {
    let Some(fields) = value.as_object() else {
        return line(text, first, title, &plain(title, value));
    };
    let simple = fields.iter().filter(|(name, value)| is_simple(value) && name.as_str() != NAME);
    let simple: Vec<_> = simple.map(|(name, value)| format!("{name} {}", plain(name, value))).collect();
    line(text, first, title, &simple.join(", "));
    let children = children(fields);
    let last = children.len().saturating_sub(1);
    for (index, (name, child)) in children.into_iter().enumerate() {
        let [own, below] = if index == last { LAST } else { BRANCH };
        let (first, below) = (format!("{rest}{own}"), format!("{rest}{below}"));
        match child {
            Child::Object(value) => branch(text, &first, &below, &name, value),
            Child::Table(rows) => {
                line(text, &first, &name, if rows.is_empty() { "none" } else { "" });
                table(text, &below, rows);
            }
        }
    }
}

/// The field that names an object in a list.
const NAME: &str = "place";

enum Child<'a> {
    Object(&'a Value),
    Table(&'a [Value]),
}

/// The children: objects, the named objects of a list, and lists as tables.
fn children(fields: &Map<String, Value>) -> Vec<(String, Child<'_>)> {
    let mut children = Vec::new();
    for (name, value) in fields.iter().filter(|(_, value)| !is_simple(value)) {
        match value {
            Value::Array(list) if list.iter().any(|item| item.get(NAME).is_some()) => {
                let called = |item: &Value| item.get(NAME).and_then(Value::as_str).unwrap_or(name).to_owned();
                children.extend(list.iter().map(|item| (called(item), Child::Object(item))));
            }
            Value::Array(list) => children.push((name.clone(), Child::Table(list))),
            object => children.push((name.clone(), Child::Object(object))),
        }
    }
    children
}

/// A table with a row for each object and a column for each field.
fn table(text: &mut String, indent: &str, rows: &[Value]) {
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return;
    }
    let cell = |row: &Value, name: &String| row.get(name).map_or(String::new(), |value| plain(name, value));
    let columns = names.into_iter().map(|name| {
        let cells: Vec<String> = rows.iter().map(|row| cell(row, name)).collect();
        let width = cells.iter().map(String::len).chain([name.len()]).max().unwrap_or_default();
        (name, cells, width)
    });
    let columns: Vec<_> = columns.collect();
    let titles = columns.iter().map(|(name, _, width)| format!("{name:<width$}", width = *width));
    line(text, indent, &titles.collect::<Vec<_>>().join("  "), "");
    for row in 0..rows.len() {
        let cells = columns.iter().map(|(_, cells, width)| {
            format!("{:<width$}", cells.get(row).map_or("", String::as_str), width = *width)
        });
        line(text, indent, &cells.collect::<Vec<_>>().join("  "), "");
    }
}

/// Whether a value is a scalar.
fn is_simple(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

/// A scalar as text. Addresses and data are hexadecimal.
fn plain(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if ["address", "data"].contains(&name) => {
            number.as_u64().map_or_else(|| number.to_string(), |number| format!("{number:#x}"))
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| plain(name, value)).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn line(text: &mut String, first: &str, title: &str, rest: &str) {
    let gap = if rest.is_empty() { "" } else { "  " };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", format!("{first}{title}{gap}{rest}").trim_end());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vm_is_drawn_down_to_its_vectors() {
        let report = json!({
            "devices": [
                {
                    "place": "00:01.0",
                    "host_address": "0000:01:00.0",
                    "msix": {
                        "vectors": 64,
                        "domain": { "live": 1, "vectors": [
                            { "vector": 0, "state": "Live", "message": { "address": 0xfee0_1000u32, "data": 0x41 }, "gsi": 24 },
                            { "vector": 13, "state": "Held", "message": null, "gsi": null },
                        ] },
                    },
                },
                { "place": "00:02.0", "msix": { "domain": { "live": 0, "vectors": [] } } },
            ],
            "routes": { "capacity": 4056, "commits": 1 },
        });
        let drawn = [
            "vm",
            "├─ 00:01.0  host_address 0000:01:00.0",
            "│  └─ msix  vectors 64",
            "│     └─ domain  live 1",
            "│        └─ vectors",
            "│           gsi  message          state  vector",
            "│           24   0xfee01000 0x41  Live   0",
            "│           -    -                Held   13",
            "├─ 00:02.0",
            "│  └─ msix",
            "│     └─ domain  live 0",
            "│        └─ vectors  none",
            "└─ routes  capacity 4056, commits 1",
            "",
        ];
        assert_eq!(draw("vm", &report), drawn.join("\n"));
    }

    #[test]
    fn nothing_of_any_value_is_left_out_or_stops_it() {
        for value in
            [json!(null), json!(3), json!([]), json!({}), json!([[1], 2]), json!({ "list": [1, { "a": 2 }] })]
        {
            assert!(draw("vm", &value).starts_with("vm"), "{value}");
        }
    }
}
