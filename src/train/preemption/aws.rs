//! AWS: the interruption notice of a spot instance, behind a token that is asked for first (IMDSv2).

use super::metadata::Metadata;
use serde_json::Value;

const TOKEN: &str = "/latest/api/token";
const ACTION: &str = "/latest/meta-data/spot/instance-action";

/// Seconds that a token lives: the longest that the service gives.
const LIFE: &str = "21600";

/// `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`, or 404 where none is planned.
pub(super) fn look(
    metadata: &Metadata,
    token: &mut Option<String>,
) -> Result<Option<String>, String> {
    let is_old = token.is_some();
    let held = match token.take() {
        Some(held) => held,
        None => fetch(metadata)?,
    };
    let (status, text) = metadata.get(ACTION, ("x-aws-ec2-metadata-token", &held))?;
    match status {
        // The token has expired: the next one is asked for at once.
        401 if is_old => look(metadata, token),
        404 | 200 => {
            *token = Some(held);
            if status == 404 { Ok(None) } else { notice(&text).map(Some) }
        }
        _ => Err(format!("{ACTION} answers {status}")),
    }
}

fn fetch(metadata: &Metadata) -> Result<String, String> {
    let (status, text) = metadata.put(TOKEN, ("x-aws-ec2-metadata-token-ttl-seconds", LIFE))?;
    let token = text.trim();
    if status != 200 {
        return Err(format!("{TOKEN} answers {status}"));
    }
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{TOKEN} answers no token"));
    }
    Ok(token.to_owned())
}

fn notice(text: &str) -> Result<String, String> {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let action = json.get("action").and_then(Value::as_str);
    let action = action.ok_or_else(|| format!("{ACTION} answers no action"))?;
    let time = json.get("time").and_then(Value::as_str);
    Ok(format!("AWS: {action}{}", time.map_or_else(String::new, |t| format!(" at {t}"))))
}
