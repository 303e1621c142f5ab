//! Notices that the machine is taken away, looked for beside a run: off unless `train.preemption` names where they appear.
//!
//! | source | what is looked at | a notice is |
//! |---|---|---|
//! | `file:PATH` | the file system | that the file is there |
//! | `aws` | `PUT /latest/api/token`, `GET /latest/meta-data/spot/instance-action` | 200 with an action; 404 is none |
//! | `gcp` | `GET /computeMetadata/v1/instance/preempted` | `TRUE` |
//! | `azure` | `GET /metadata/scheduledevents` | an event `Preempt` or `Terminate` of this machine |
//!
//! Notices come 2 minutes (AWS) and 30 s (GCP, Azure) ahead. GCP's `maintenance-event` is none of them: it stays for up to an hour, in which
//! a run that is taken up would end at once again.
//!
//! AWS EC2 user guide, "Spot Instance interruption notices" and IMDSv2 · Google Compute Engine, "Handle preemption" · Azure, "Scheduled
//! Events", api-version 2020-07-01

mod aws;
mod azure;
mod gcp;
mod metadata;

use crate::config::Preemption;
use anyhow::{Context, Result};
use metadata::Metadata;
use std::time::Duration;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Another address of the metadata service than the clouds' own.
const ADDRESS: &str = "VFT_METADATA_URL";

/// Characters of a notice that are shown.
const SHOWN: usize = 120;

/// Where notices appear.
pub struct Source {
    asked: Preemption,
    metadata: Metadata,
    /// AWS' token, asked for first (IMDSv2).
    token: Option<String>,
}

impl Source {
    /// What the config asks for, at the cloud's own address or the one in `VFT_METADATA_URL`.
    pub fn from_env(asked: &Preemption) -> Self {
        Self::at(asked, std::env::var(ADDRESS).ok().filter(|url| !url.is_empty()).as_deref())
    }

    /// What the config asks for, at another address than the cloud's own if one is given.
    pub fn at(asked: &Preemption, address: Option<&str>) -> Self {
        Self { asked: asked.clone(), metadata: Metadata::new(address), token: None }
    }

    /// Looks once: the notice in words, if there is one.
    ///
    /// # Errors
    /// When there is no telling, in words.
    pub fn look(&mut self) -> Result<Option<String>, String> {
        let found = match &self.asked {
            Preemption::File(path) => {
                let there = path.try_exists().map_err(|e| format!("{}: {e}", path.display()))?;
                there.then(|| format!("{} is there", path.display()))
            }
            Preemption::Aws => aws::look(&self.metadata, &mut self.token)?,
            Preemption::Gcp => gcp::look(&self.metadata)?,
            Preemption::Azure => azure::look(&self.metadata)?,
        };
        Ok(found.map(|text| shown(&text)))
    }
}

/// Looks every 2 s from now on, beside everything else, until there is a notice. `tell` hears of the first look that failed, and of no other:
/// a run does not end because nobody answers.
///
/// # Errors
/// When the system has no more threads.
pub fn watch(
    mut source: Source,
    tell: impl Fn(String) + Send + 'static,
    notice: impl FnOnce(String) + Send + 'static,
) -> Result<()> {
    let look = move || {
        let mut told = false;
        loop {
            match source.look() {
                Ok(Some(text)) => return notice(text),
                Ok(None) => {}
                Err(why) if !told => {
                    told = true;
                    let seconds = PAUSE.as_secs();
                    let why = shown(&why);
                    tell(format!(
                        "note: train.preemption: no word of this machine ({why}); asks on every {seconds} s"
                    ));
                }
                Err(_) => {}
            }
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new()
        .name("preemption".into())
        .spawn(look)
        .context("cannot look for preemption notices")?;
    Ok(())
}

/// What others sent, for a terminal: one line of printable characters.
fn shown(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(SHOWN).map(harmless).collect()
}
