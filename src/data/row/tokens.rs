//! Rows that are tokens already: `input_ids` and `labels`.

use super::Row;
use super::columns::Fields;
use serde_json::Value;

pub(super) fn read(fields: &Fields<'_>) -> Result<Row, String> {
    let numbers = |key: &str| -> Result<Vec<i64>, String> {
        let Some(Value::Array(list)) = fields.get(key) else {
            return Err(format!("`{key}` is missing or no list"));
        };
        let number = |v: &Value| {
            v.as_i64().ok_or_else(|| format!("`{key}` holds {v}, which is no whole number"))
        };
        list.iter().map(number).collect()
    };
    let (ids, labels) = (numbers("input_ids")?, numbers("labels")?);
    if ids.len() != labels.len() {
        return Err(format!("`input_ids` has {} items, `labels` {}", ids.len(), labels.len()));
    }
    let id = |n: &i64| {
        u32::try_from(*n).map_err(|_| format!("`input_ids` holds {n}, which is no token id"))
    };
    let label = |n: &i64| match i32::try_from(*n) {
        Ok(l) if l == -100 || l >= 0 => Ok(l),
        _ => Err(format!("`labels` holds {n}; labels are token ids or -100")),
    };
    Ok(Row::Tokens {
        ids: ids.iter().map(id).collect::<Result<_, _>>()?,
        labels: labels.iter().map(label).collect::<Result<_, _>>()?,
    })
}
