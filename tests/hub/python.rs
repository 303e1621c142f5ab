//! What `scripts/check_hub_cache.py` runs.

use crate::home::GO;
use std::fs;
use vft::hub::remote::Hub;

#[test]
#[ignore = "run by scripts/check_hub_cache.py, which serves the Hub and looks at the cache"]
fn a_model_and_a_dataset_with_the_environment() {
    let hub = Hub::from_env(None).unwrap();
    let dir = hub.model("org/tiny", None, &(), &GO).unwrap();
    assert_eq!(fs::read(dir.join("model-00001-of-00002.safetensors")).unwrap(), vec![1; 1000]);
    assert_eq!(fs::read(dir.join("model-00002-of-00002.safetensors")).unwrap(), vec![2; 1000]);
    let files = hub.dataset_files("org/rows", None, &(), &GO).unwrap();
    assert_eq!(files.names, ["README.md", "data/train.jsonl"]);
    let wanted = ["data/train.jsonl".to_owned()];
    let paths = hub.dataset("org/rows", Some(&files.commit), &wanted, &(), &GO).unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), b"{}\n");
}
