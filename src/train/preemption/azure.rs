//! Azure: Scheduled Events. All machines of a scale set hear of each other's events, so an event has to name this one.

use super::metadata::Metadata;
use serde::Deserialize;

const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const NAME: &str = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
const METADATA: (&str, &str) = ("metadata", "true");

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Events")]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "EventType")]
    kind: String,
    #[serde(rename = "Resources", default)]
    machines: Vec<String>,
    #[serde(rename = "NotBefore", default)]
    not_before: String,
}

/// `{"Events": [{"EventType": "Preempt", "Resources": ["vm-1"], "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT", …}], …}`
pub(super) fn look(metadata: &Metadata) -> Result<Option<String>, String> {
    let (status, text) = metadata.get(EVENTS, METADATA)?;
    if status != 200 {
        return Err(format!("{EVENTS} answers {status}"));
    }
    let document: Document =
        serde_json::from_str(&text).map_err(|_| format!("{EVENTS} answers no list of events"))?;
    let ends = |e: &&Event| matches!(e.kind.as_str(), "Preempt" | "Terminate");
    let mut ending = document.events.iter().filter(ends).peekable();
    if ending.peek().is_none() {
        return Ok(None);
    }
    // Without a name every machine may be this one: a checkpoint too many harms nobody.
    let name = metadata.get(NAME, METADATA).ok().filter(|(status, _)| *status == 200);
    let concerns = |e: &&Event| match &name {
        Some((_, name)) if !e.machines.is_empty() => {
            e.machines.iter().any(|m| m.eq_ignore_ascii_case(name.trim()))
        }
        _ => true,
    };
    Ok(ending.find(concerns).map(|e| match e.not_before.as_str() {
        "" => format!("Azure: {}", e.kind),
        time => format!("Azure: {} not before {time}", e.kind),
    }))
}
