//! YAML and command line to a checked run configuration.
