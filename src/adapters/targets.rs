//! Which linear layers are adapted, by PEFT's rules (`tuners/tuners_utils.py::check_target_module_exists`).

use crate::error::{Problem, Result};
use fancy_regex::Regex;

/// The output head: no target of `all-linear`.
const HEAD: &str = "lm_head";

/// What selects the modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Names: a module matches if its path is the name or ends in `.name`.
    Names(Vec<String>),
    /// A regular expression that must match the whole path.
    Regex(String),
    /// Every linear layer but the head.
    AllLinear,
}

impl Targets {
    /// The paths among `modules` that are adapted.
    ///
    /// # Errors
    /// When nothing matches, a name matches nothing, or the expression is broken.
    pub fn select(&self, modules: &[String]) -> Result<Vec<String>> {
        let chosen: Vec<String> = match self {
            Self::AllLinear => modules.iter().filter(|m| *m != HEAD).cloned().collect(),
            Self::Names(names) => {
                let useless = names.iter().find(|n| !modules.iter().any(|m| ends_in(m, n)));
                if let Some(name) = useless {
                    let message =
                        format!("`lora_target_modules`: no linear layer is called `{name}`");
                    return Err(Problem::new(message).hint(leaves(modules)).into());
                }
                let wanted = |m: &&String| names.iter().any(|n| ends_in(m, n));
                modules.iter().filter(wanted).cloned().collect()
            }
            Self::Regex(pattern) => {
                let broken = |e| Problem::new(format!("`lora_target_modules`: {e}"));
                let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(broken)?;
                let mut chosen = Vec::new();
                for module in modules {
                    if regex.is_match(module).map_err(broken)? {
                        chosen.push(module.clone());
                    }
                }
                chosen
            }
        };
        if chosen.is_empty() {
            let message = "`lora_target_modules` matches no linear layer of this model";
            return Err(Problem::new(message).hint(leaves(modules)).into());
        }
        Ok(chosen)
    }
}

fn ends_in(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|m| m.ends_with('.'))
}

fn leaves(modules: &[String]) -> String {
    let mut leaves: Vec<&str> = modules.iter().filter_map(|m| m.rsplit('.').next()).collect();
    leaves.sort_unstable();
    leaves.dedup();
    format!(
        "this model has {}; a regular expression must match a whole path such as `{}`",
        leaves.join(", "),
        modules[0]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Vec<String> {
        ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head"]
            .map(String::from)
            .into()
    }

    fn select(targets: Targets) -> Result<Vec<String>> {
        targets.select(&modules())
    }

    #[test]
    fn all_linear_leaves_the_head_out() {
        assert_eq!(select(Targets::AllLinear).unwrap(), modules()[..2]);
    }

    #[test]
    fn a_name_must_end_a_path_at_a_dot() {
        assert!(select(Targets::Names(vec!["proj".into()])).is_err());
    }

    #[test]
    fn a_regex_must_match_the_whole_path() {
        assert!(select(Targets::Regex("q_proj".into())).is_err());
    }

    #[test]
    fn a_regex_selects_layers() {
        let paths = select(Targets::Regex(r".*\.0\..*_proj".into())).unwrap();
        assert_eq!(paths.len(), 2);
    }

    #[test]
    fn a_name_that_matches_nothing_is_named() {
        let names = vec!["q_proj".into(), "wq".into()];
        assert!(select(Targets::Names(names)).unwrap_err().to_string().contains("`wq`"));
    }
}
